"""
A disk that is served over iSCSI and ATA over Ethernet at once, to several clients that write and read back what the others
wrote: under load it is reserved, grows, is protected, loses clients, and its server is killed. And many disks on one
interface, a slow one among them, and floods of frames that nobody wants.

A minute, ten with SPINDLE_SOAK. SPINDLE_SEED=N makes the random numbers what they were in a run that printed it.
"""

import contextlib
import os
import random
import struct
import threading
import time

from harness import MIB, is_sanitized, main, wait_until

import aoe
import disks
import iscsi
from aoe import Counter, Frame, ata_frame, both, client, config_frame, pattern, serving
from disks import CAPACITY_CHANGED, MODE_CHANGED, PROTECTED, RELEASE6, RESERVE6, Switch, sense

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SOAK = bool(os.environ.get("SPINDLE_SOAK"))
SECONDS = 180 if SOAK else 5
KILLS = 150 if SOAK else 6
BLOCKS, PER_BLOCK, SECTOR = 200, 2, aoe.SECTOR
CONFLICT = 0x18


# ---- What was written --------------------------------------------------------------------------


def sector(lba, generation):
    return struct.pack(">QQ", lba, generation) * 32 if generation else bytes(SECTOR)


class Book:
    """Which generation of each block was acknowledged last, and which was sent; who works on a block has it alone."""

    def __init__(self):
        self.lock = threading.Lock()
        self.busy = set()
        self.acked, self.sent = [0] * BLOCKS, [0] * BLOCKS
        self.generation = 0

    @contextlib.contextmanager
    def one(self, dice):
        with self.lock:
            block = dice.choice([b for b in range(BLOCKS) if b not in self.busy])
            self.busy.add(block)
        try:
            yield block
        finally:
            with self.lock:
                self.busy.discard(block)

    def next(self, block):
        """What to write there."""
        with self.lock:
            self.generation += 1
            self.sent[block] = self.generation
        return b"".join(sector(block * PER_BLOCK + i, self.sent[block]) for i in range(PER_BLOCK))

    def judge(self, block, data):
        for i in range(PER_BLOCK):
            lba, got = block * PER_BLOCK + i, data[i * SECTOR:(i + 1) * SECTOR]
            assert got in (sector(lba, self.acked[block]), sector(lba, self.sent[block])), \
                f"SPINDLE_SEED={SEED}: sector {lba} has {got[:16].hex()}, " \
                f"not generation {self.acked[block]:#x} or {self.sent[block]:#x}"

    def judge_all(self, data):
        """Nobody is at work. What is there now stays so."""
        size = PER_BLOCK * SECTOR
        for block in range(BLOCKS):
            self.judge(block, data[block * size:(block + 1) * size])

    def settle(self, session):
        """Writes anew what was not acknowledged."""
        for block in range(BLOCKS):
            if self.sent[block] != self.acked[block]:
                session.write(block * PER_BLOCK, self.next(block))
                self.acked[block] = self.sent[block]


# ---- Who writes it -----------------------------------------------------------------------------


class Cut(Exception):
    """The server is gone, or it is time to end."""


class Worker(threading.Thread):
    """Writes and reads back, one after another. `refused`: how often it had to try again."""

    def __init__(self, book, number):
        super().__init__()
        self.book, self.dice = book, random.Random(SEED + number)
        self.quit, self.cut, self.error = threading.Event(), threading.Event(), None
        self.written = self.read = self.refused = 0

    def run(self):
        try:
            while not self.quit.is_set():
                with self.book.one(self.dice) as block:
                    self.turn(block)
        except Cut:
            pass
        except BaseException as e:  # the test's to raise
            if not self.cut.is_set():
                self.error = e
        finally:
            self.close()

    def turn(self, block):
        if self.dice.random() < 0.5:
            self.book.judge(block, self.load(block * PER_BLOCK))
            self.read += 1
            return
        self.store(block * PER_BLOCK, self.book.next(block))
        self.book.acked[block] = self.book.sent[block]
        self.written += 1

    def again(self):
        self.refused += 1
        time.sleep(0.005)
        if self.quit.is_set():
            raise Cut

    def end(self):
        self.quit.set()
        self.join(60)
        assert not self.is_alive(), "a worker hangs"
        if self.error is not None:
            raise self.error


class OverEthernet(Worker):
    def __init__(self, book, number):
        super().__init__(book, number)
        self.client = aoe.Client(mac=bytes([2, 0, 0, 0, 1, number]), only_mine=True)
        self.client.new_tag = Counter().next

    def close(self):
        self.client.close()

    def ask(self, frame):
        while True:
            try:
                answer = self.client.ask(frame, timeout_s=1)
            except aoe.NoAnswer:
                if self.quit.is_set():
                    raise Cut from None
                continue
            if not answer.error and answer.status == aoe.GOOD:
                return answer
            assert answer.error == aoe.RESERVED or (answer.status, answer.ata_error) == (aoe.FAILED, aoe.ABRT), answer
            self.again()

    def load(self, lba):
        return self.ask(ata_frame(aoe.READ_EXT, lba, PER_BLOCK)).data

    def store(self, lba, data):
        self.ask(ata_frame(aoe.WRITE_EXT, lba, PER_BLOCK, data))


class OverTcp(Worker):
    """`heard`: the sense of what was not done at once."""

    def __init__(self, book, number, server):
        super().__init__(book, number)
        self.session = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + number)
        self.session.settle()
        self.heard = []

    def close(self):
        self.session.close()

    def command(self, cdb, **data):
        while True:
            r = self.session.command(cdb, **data)
            if r.status == 0:
                return r
            assert r.status in (2, CONFLICT), r
            if r.status == 2:
                self.heard.append(sense(r))
                assert self.heard[-1][0] in (6, 7), r
            self.again()

    def load(self, lba):
        return bytes(self.command(iscsi.read10(lba, PER_BLOCK), read=PER_BLOCK * SECTOR).data)

    def store(self, lba, data):
        # Durable when it is answered, as over Ethernet.
        self.command(iscsi.write10(lba, PER_BLOCK, fua=True), write=data)


class Crowd:
    """Three clients over Ethernet, two over iSCSI."""

    def __init__(self, server, book):
        self.book = book
        self.ethernet = [OverEthernet(book, i) for i in range(1, 4)]
        self.tcp = [OverTcp(book, i, server) for i in range(4, 6)]
        self.all = self.ethernet + self.tcp
        for w in self.all:
            w.start()

    def progress(self):
        return [w.written + w.read for w in self.all]

    def work(self, seconds=0.0, workers=None):
        """Each of them gets on meanwhile."""
        workers = workers or self.all
        before = {w: w.written for w in workers}
        time.sleep(seconds)
        wait_until(lambda: all(w.error or w.written > before[w] for w in workers), 30, "progress of everybody")
        for w in workers:
            if w.error:
                raise w.error

    def end(self):
        errors = []
        for w in self.all:
            w.quit.set()
        for w in self.all:
            try:
                w.end()
            except BaseException as e:
                errors.append(e)
        if errors:
            raise errors[0]


@contextlib.contextmanager
def crowded(store="disk.img", size=16 * MIB):
    """A server, an iSCSI session that stands beside, a quiet AoE client, and a crowd; at the end all is what it should be."""
    args = ["--size", str(size)] if store.endswith("disk.img") else []
    with serving(store, args=args) as s, client(only_mine=True) as c:
        c.ping()
        with iscsi.login(s.portals[0], s.iqn()) as session:
            session.settle()
            crowd = Crowd(s, Book())
            try:
                crowd.work()
                yield s, c, session, crowd
            finally:
                crowd.end()
            judge_both(c, session, crowd.book)
            assert all(w.written and w.read for w in crowd.all), crowd.progress()


def read_all(session):
    return b"".join(session.read(lba, 100) for lba in range(0, BLOCKS * PER_BLOCK, 100))


def judge_both(c, session, book):
    data = read_all(session)
    book.judge_all(data)
    assert data == b"".join(c.read(lba, PER_BLOCK) for lba in range(0, BLOCKS * PER_BLOCK, PER_BLOCK)), "two disks"


# ---- One disk, two transports ------------------------------------------------------------------


def test_a_write_that_comes_again():
    """It is one write, by whatever tags: what another client writes after the first answer stays."""
    frames = [ata_frame(aoe.WRITE_EXT, 0, 2, pattern(1, 0, 2)) for _ in range(3)]
    with both("fault:rule=write;delay=400ms;count=2:ram:1M") as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        tags = [c.send(frames[0])]
        time.sleep(0.1)
        tags += [c.send(frames[1]), c.send(frames[2])]
        answer = c.receive()
        assert answer.tag == tags[-1] and answer.status == aoe.GOOD, "the newest one first"
        assert {c.receive(0.1).tag for _ in tags[1:]} == set(tags[:-1])
        session.write(0, pattern(2, 0, 2))
        time.sleep(0.6)
        assert c.read(0, 2) == session.read(0, 2) == pattern(2, 0, 2)


def test_what_one_writes_the_other_reads():
    with crowded() as (_, _, session, crowd):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            crowd.work(5)
            session.ping()  # who says nothing for long is asked, and then gone


def test_reserved_under_load():
    with crowded() as (_, c, session, crowd):
        rest = crowd.all
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            session.good(session.command(RESERVE6))
            # Each has nothing under way any more but what is refused.
            refused = [w.refused for w in rest]
            wait_until(lambda: all(w.error or w.refused > n + 1 for w, n in zip(rest, refused)), 30, "everybody to be refused")
            c.expect_error(aoe.RESERVED, ata_frame(aoe.READ_EXT, 0, 2))
            written = [w.written for w in rest]
            before = read_all(session)
            time.sleep(0.1)
            assert read_all(session) == before, "somebody wrote into a reserved disk"
            assert [w.written for w in rest] == written, "somebody was told that it wrote"
            session.good(session.command(RELEASE6))
            crowd.work()


def test_it_grows_under_load():
    with crowded() as (s, c, session, crowd):
        size = 16 * MIB
        for _ in range(3 if SOAK else 2):
            c.settle()
            c.announcements.clear()
            size += 8 * MIB
            os.truncate(os.path.join(s.dir, "disk.img"), size)
            wait_until(lambda: c.receive(0.1) or c.announcements, disks.PATIENCE_S, "an announcement")
            assert c.identify().size == size // SECTOR
            assert set(disks.wait_tur(session, CAPACITY_CHANGED)) <= {None}
            assert disks.capacity(session) == size // SECTOR
            last = size // SECTOR - PER_BLOCK
            c.write(last, sector(last, 1) * PER_BLOCK)
            assert session.read(last, PER_BLOCK) == sector(last, 1) * PER_BLOCK
            crowd.work(0.2)
            wait_until(lambda: all(w.heard.count(CAPACITY_CHANGED) for w in crowd.tcp), 10, "sessions that hear of it")
        assert {h for w in crowd.tcp for h in w.heard} == {CAPACITY_CHANGED}


def test_it_is_protected_under_load():
    with crowded("fault:rule=write+zero+discard;erofs;while=ro:disk.img") as (s, c, session, crowd):
        switch = Switch(s, "ro")
        for _ in range(3 if SOAK else 1):
            switch.on()
            c.expect_status(aoe.FAILED, aoe.ABRT, ata_frame(aoe.WRITE_EXT, 5000, 2, bytes(2 * SECTOR)))
            assert sense(session.command(iscsi.write10(5000, 2), write=bytes(1024))) == PROTECTED
            disks.wait_tur(session, MODE_CHANGED)
            refused = [w.refused for w in crowd.all]
            wait_until(lambda: all(w.error or w.refused > n + 1 for w, n in zip(crowd.all, refused)), 30, "everybody to be refused")
            before = read_all(session)
            time.sleep(0.1)
            assert read_all(session) == before == b"".join(c.read(lba, 2) for lba in range(0, BLOCKS * PER_BLOCK, 2))
            switch.off()
            crowd.work(0.2)
            disks.wait_tur(session, MODE_CHANGED)


def test_clients_that_die():
    """With requests under way, over and over: nobody else notices. What they wrote is whole, or not there."""
    at = 10000
    with crowded() as (s, c, session, crowd):
        end = time.monotonic() + SECONDS
        generation = 0
        while time.monotonic() < end:
            session.ping()
            generation += 1
            with aoe.Client(mac=bytes([2, 0, 0, 0, 2, generation % 256]), only_mine=True) as dying:
                for i in range(30):
                    lba = at + i * PER_BLOCK
                    dying.send(ata_frame(aoe.WRITE_EXT, lba, PER_BLOCK,
                                         b"".join(sector(lba + n, generation) for n in range(PER_BLOCK))))
            dying = iscsi.login(s.portals[0], s.iqn(), isid=iscsi.ISID + 50)
            dying.settle()
            for i in range(min(8, dying.open_slots())):
                lba = at + 1000 + i * 16
                dying.start(iscsi.write10(lba, 16), write=b"".join(sector(lba + n, generation) for n in range(16)))
            dying.close()
            crowd.work(0.05)
        for lba in [*range(at, at + 60), *range(at + 1000, at + 1000 + 8 * 16)]:
            got = c.read(lba)
            assert got == sector(lba, struct.unpack(">QQ", got[:16])[1]), f"sector {lba} is torn"


def test_the_server_is_killed():
    """What was acknowledged over either is there afterwards, though only what was flushed survives."""
    book = Book()
    written = [0, 0]
    with serving("fault:volatile=on:disk.img", args=["--size", "16M"]) as s, client(only_mine=True) as c:
        for i in range(KILLS):
            crowd = Crowd(s, book)
            crowd.work(random.Random(SEED + i).uniform(0.1, 1))
            for w in crowd.all:
                w.cut.set()
            s.kill()
            crowd.end()
            for n, who in enumerate((crowd.ethernet, crowd.tcp)):
                written[n] += sum(w.written for w in who)
            s.start()
            c.ping()
            c.settle()
            with iscsi.login(s.portals[0], s.iqn()) as session:
                session.settle()
                judge_both(c, session, book)
                book.settle(session)
                session.good(session.command(disks.SYNCHRONIZE_CACHE))
    print(f"{KILLS} kills, {written[0]} writes over Ethernet, {written[1]} over iSCSI")


# ---- Many disks, slow disks --------------------------------------------------------------------


def all_at_once(c, frames, window=128, rto_s=2):
    """Each is answered well; yields the number of a frame and its answer."""
    waiting, by_tag, flying = list(enumerate(frames))[::-1], {}, {}
    while waiting or flying:
        while waiting and len(flying) < window:
            i, frame = waiting.pop()
            flying[i] = frame
            by_tag[c.send(frame)] = i
        answer = c.receive(rto_s)
        if answer is None:
            waiting += flying.items()
            for frame in flying.values():
                frame.tag = None
            flying = {}
            continue
        i = by_tag[answer.tag]
        if flying.pop(i, None) is not None:
            assert not answer.error and answer.status == aoe.GOOD and answer.slot == frames[i].slot, answer
            yield i, answer


def test_many_disks():
    n, each = 64, 40
    dice = random.Random(SEED)
    with serving(*["ram:1M"] * n) as s, client(only_mine=True) as c:
        c.ping()
        c.settle()
        model = {}
        for generation in range(1, 20 if SOAK else 3):
            places = [(slot, 2 * lba) for slot in range(n) for lba in range(each)]
            dice.shuffle(places)
            data = [sector(slot << 32 | lba, generation) + sector(slot << 32 | lba + 1, generation) for slot, lba in places]
            model.update(zip(places, data))
            for _ in all_at_once(c, [ata_frame(aoe.WRITE_EXT, lba, 2, d, slot=slot) for (slot, lba), d in zip(places, data)]):
                pass
            dice.shuffle(places)
            for i, answer in all_at_once(c, [ata_frame(aoe.READ_EXT, lba, 2, slot=slot) for slot, lba in places]):
                assert answer.data == model[places[i]], f"SPINDLE_SEED={SEED}: disk and sector {places[i]}"
        assert s.running()


def how_long(c, n=40, slot=0):
    began = time.monotonic()
    for i in range(n):
        c.write(i % 8, bytes(SECTOR), slot=slot)
    return (time.monotonic() - began) / n


def test_a_slow_disk():
    """It has all it may have under way; a disk beside it is as quick as it was. So is it with one that hangs."""
    for rule in ("read+write;delay=400ms", "read+write;hang;while=stuck"):
        with serving("ram:1M", f"fault:rule={rule}:ram:1M") as s, \
             client(only_mine=True) as c, client(mac=bytes.fromhex("020000000003"), only_mine=True) as d:
            c.ping()
            for who in (c, d):
                who.settle()
            before = how_long(c)
            stuck = Switch(s, "stuck")
            stuck.on()
            end = time.monotonic() + 3
            rounds, after = 0, 0
            while time.monotonic() < end:
                for i in range(1200):
                    d.send(ata_frame(aoe.READ_EXT if i % 2 else aoe.WRITE_EXT, i, 1, bytes((i % 2 == 0) * SECTOR), slot=1))
                    if i % 100 == 99:
                        time.sleep(0.005)
                after += how_long(c)
                rounds += 1
            assert after / rounds < 10 * before + 0.02, f"{before * 1000:.1f} ms a write, {after / rounds * 1000:.1f} ms beside it"
            stuck.off()
            with contextlib.suppress(BlockingIOError):
                d.sock.setblocking(False)
                while True:
                    d.sock.recv(1 << 16)


def test_a_disk_that_is_full():
    """With all it may have under way it is still found, and may be fenced."""
    options = ",admin=" + aoe.mac_text(aoe.mac_of(aoe.CLIENT_SIDE))
    with serving("fault:rule=read;delay=1500ms:ram:1M", options=options) as s, \
         client(only_mine=True) as c, client(mac=bytes.fromhex("020000000003"), only_mine=True) as d:
        for who in (c, d):
            who.settle()
        for lba in range(1500):
            d.send(ata_frame(aoe.READ_EXT, lba, 1))
            if lba % 100 == 99:
                time.sleep(0.005)
        c.expect_silence(ata_frame(aoe.CHECK_POWER))
        assert c.ping().sectors == PER_BLOCK
        assert c.identify().size == MIB // SECTOR
        assert c.reserved([c.mac], aoe.RESERVE_FORCE) == [c.mac]
        assert s.running()


# ---- Floods ------------------------------------------------------------------------------------


FLOOD = 100000 if SOAK else 20000
NOBODY = bytes.fromhex("0200000000ee")
MANY = [bytes([2, 1, 1, 1, i // 256, i % 256]) for i in range(1000)]


def floods(dice, c):
    """Name, and raw frames to send in turn."""
    def raw(frame, size=None):
        frame.dst, frame.src = frame.dst or c.server_mac, frame.src or NOBODY
        frame.shelf = 1 if frame.shelf is None else frame.shelf
        frame.slot = 0 if frame.slot is None else frame.slot
        frame.tag = dice.randrange(1 << 31)
        return frame.pack(size)

    def head(dst, kind=aoe.ETHERTYPE):
        return dst + NOBODY + kind.to_bytes(2, "big")

    yield "noise", [head(c.server_mac) + dice.randbytes(dice.randrange(46, 1500)) for _ in range(500)]
    yield "broadcast noise", [head(aoe.BROADCAST) + dice.randbytes(dice.randrange(46, 1500)) for _ in range(500)]
    yield "cut off", [raw(config_frame(), size) for size in range(14, 24)]
    yield "answers", [raw(config_frame(flags=aoe.FLAG_R, dst=aoe.BROADCAST))]
    yield "for another disk", [raw(ata_frame(aoe.WRITE_EXT, 0, 2, bytes(1024), shelf=dice.randrange(2, 4000))) for _ in range(50)]
    yield "for another machine", [raw(ata_frame(aoe.WRITE_EXT, 0, 2, bytes(1024), dst=bytes.fromhex("020000000099")))]
    yield "broadcast queries for another", [raw(config_frame(dst=aoe.BROADCAST, slot=99))]
    yield "broadcast writes", [raw(ata_frame(aoe.WRITE_EXT, 0, 2, bytes(1024), dst=aoe.BROADCAST, shelf=aoe.ALL_SHELVES,
                                             slot=aoe.ALL_SLOTS))]
    yield "broadcast queries", [raw(config_frame(dst=aoe.BROADCAST, shelf=aoe.ALL_SHELVES, slot=aoe.ALL_SLOTS))]
    yield "wrong commands", [raw(Frame(dice.randrange(4, 256), dice.randbytes(100))) for _ in range(50)]
    yield "many addresses", [raw(ata_frame(aoe.READ_EXT, 0, 1, src=mac)) for mac in MANY]


def cpu_of(s, sock, frames, n=FLOOD):
    """Seconds of the server for a frame; it gets the time to take them all."""
    def pause():
        # What stands in its socket is gone when it does nothing more.
        used = -1.0
        while s.cpu_s() != used:
            used = s.cpu_s()
            time.sleep(0.05)
        return used
    before = pause()
    for i in range(n):
        sock.send(frames[i % len(frames)])
        if i % 64 == 63:
            time.sleep(0.001)
    return (pause() - before) / n


def test_floods():
    """A frame that nobody wants costs no more than one that is served, and takes no memory; clients are served meanwhile."""
    dice = random.Random(SEED)
    with serving("ram:1M") as s, client(timeout_s=2, only_mine=True) as c:
        c.ping()
        c.settle()
        c.write(0, sector(0, 1))
        # The same one again would share an answer.
        good = [ata_frame(aoe.READ_EXT, lba, 1, dst=c.server_mac, src=NOBODY, shelf=1, slot=0, tag=1 << 31 | lba).pack()
                for lba in range(1000)]
        with aoe.socket.socket(aoe.socket.AF_PACKET, aoe.socket.SOCK_RAW, 0) as noise:
            noise.bind((aoe.CLIENT_SIDE, 0))
            cpu_of(s, noise, good, 2000)
            served = cpu_of(s, noise, good)
            rss = s.rss_bytes()
            for name, frames in floods(dice, c):
                used = cpu_of(s, noise, frames)
                print(f"{name}: {used * 1e6:.1f} us a frame, a read {served * 1e6:.1f} us")
                assert used < 2 * served + 10e-6, f"SPINDLE_SEED={SEED}: {name}: {used * 1e6:.1f} us a frame, {served * 1e6:.1f} a read"
                assert c.ping().sectors == PER_BLOCK
                assert c.read(0) == sector(0, 1), "what was broadcast was written"
            assert is_sanitized() or s.rss_bytes() < rss + 32 * MIB, f"{rss} bytes, then {s.rss_bytes()}"


def test_queries_for_many_disks():
    """One small frame asks for all of them; however many come, those who have work for the disks are served."""
    with serving(*["ram:1M"] * 200) as s, client(timeout_s=2, only_mine=True) as c, \
         aoe.socket.socket(aoe.socket.AF_PACKET, aoe.socket.SOCK_RAW, 0) as noise:
        c.settle()
        noise.bind((aoe.CLIENT_SIDE, 0))
        query = config_frame(dst=aoe.BROADCAST, src=NOBODY, shelf=aoe.ALL_SHELVES, slot=aoe.ALL_SLOTS, tag=1 << 31).pack()
        used, began = s.cpu_s(), time.monotonic()
        while time.monotonic() < began + 3:
            for _ in range(20):
                noise.send(query)
            c.write(0, sector(0, 1))
            assert c.read(0) == sector(0, 1)
            time.sleep(0.015)
        used = (s.cpu_s() - used) / (time.monotonic() - began)
        print(f"{used:.0%} of a CPU")
        assert is_sanitized() or used < 0.3
        time.sleep(1.2)
        assert len({a.slot for a in c.discover()}) == 200, "found when that is over"


def test_queries_for_many_disks_and_none_of_them():
    """All of them are looked through all the same."""
    with serving(*["ram:1M"] * 200) as s, client(timeout_s=2) as c, \
         aoe.socket.socket(aoe.socket.AF_PACKET, aoe.socket.SOCK_RAW, 0) as noise:
        c.settle()
        noise.bind((aoe.CLIENT_SIDE, 0))
        query = config_frame(dst=aoe.BROADCAST, src=NOBODY, shelf=aoe.ALL_SHELVES, slot=250, tag=1 << 31).pack()
        began = time.monotonic()
        for i in range(FLOOD):
            noise.send(query)
            if i % 64 == 63:
                time.sleep(0.001)
        counts = aoe.counts(s)
        # 5,000 at once and 5,000 a second are taken as they come: a machine that sends them slowly sees no other ones.
        took_s = time.monotonic() - began
        left_out = counts["no_room"] + counts["lost"]
        assert left_out >= FLOOD - 5000 * (took_s + 2), (left_out, took_s)
        time.sleep(1.2)
        assert len({a.slot for a in c.discover()}) == 200, "found when that is over"


def test_a_client_in_a_flood():
    """20,000 and more frames of nonsense a second take time from who is served, but nobody waits for long."""
    dice = random.Random(SEED)
    with serving("ram:1M") as s, client(timeout_s=0.2, only_mine=True) as c:
        c.ping()
        c.settle()
        frames = [f for name, some in floods(dice, c) if name != "broadcast queries" for f in some]
        dice.shuffle(frames)
        quit_ = threading.Event()

        def flood():
            with aoe.socket.socket(aoe.socket.AF_PACKET, aoe.socket.SOCK_RAW, 0) as noise:
                noise.bind((aoe.CLIENT_SIDE, 0))
                while not quit_.is_set():
                    for i, frame in enumerate(frames):
                        noise.send(frame)
                        if i % 32 == 31:
                            time.sleep(0.001)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            worst = 0
            end = time.monotonic() + SECONDS
            generation = 0
            while time.monotonic() < end:
                generation += 1
                began = time.monotonic()
                frame = ata_frame(aoe.WRITE_EXT, 8, 2, sector(8, generation) + sector(9, generation))
                answer = c.ask(frame, tries=100)
                assert answer.status == aoe.GOOD and not answer.error, answer
                answer = c.ask(ata_frame(aoe.READ_EXT, 8, 2), tries=100)
                assert answer.data == sector(8, generation) + sector(9, generation)
                worst = max(worst, time.monotonic() - began)
        finally:
            quit_.set()
            thread.join()
        print(f"{generation} writes and reads, the slowest took {worst:.2f} s")
        assert generation > 5 and worst < 10, "it waits for too long"
        assert s.running()


main(globals())
