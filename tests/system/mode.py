"""
Mode parameters over iSCSI: saved values survive kill -9, and with the write cache switched off every
write is durable before its status, whatever writes it: the server is killed over a store that
loses all that was not flushed, and nobody ever flushes. Nor does a stop leave anything behind.

SPINDLE_SOAK=1 kills a thousand times.
"""

import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time

from harness import MIB, Spindle, main, skip, without_attributes

import iscsi

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
KILLS = 1000 if os.environ.get("SPINDLE_SOAK") else 40
BLOCKS, SECTORS, SECTOR = 64, 8, 512
DEPTH = 8

WCE, D_SENSE, SWP = 0x04, 0x04, 0x08
CURRENT, SAVED = 0, 3


def mode_sense(session, page, control=CURRENT):
    r = session.command(bytes([0x1A, 0x08, control << 6 | page, 0, 255, 0]), read=255)
    return bytes(r.data[4:]) if r.status == 0 else None


def mode_select(session, page, save=False):
    """The page as MODE SENSE gave it."""
    data = bytes(4) + page
    return session.command(bytes([0x15, 0x11 if save else 0x10, 0, 0, len(data), 0]), write=data)


def set_cache(session, on, save=False):
    page = bytearray(mode_sense(session, 0x08))
    page[2] = (page[2] & ~WCE) | (WCE if on else 0)
    return mode_select(session, bytes(page), save)


def cache_is_on(session, control=CURRENT):
    return bool(mode_sense(session, 0x08, control)[2] & WCE)


def log_in(server):
    session = iscsi.login(server.portals[0], server.iqn())
    session.settle()
    return session


def skip_unless_saveable(session):
    if not mode_sense(session, 0x08)[0] & 0x80:
        skip("the file system keeps no user attributes")


def killed(server):
    os.kill(server.pid, signal.SIGKILL)
    server.kill()
    server.start()


def test_saved_values_survive_a_kill():
    saved_values_survive_a_kill()


def test_saved_values_survive_without_attributes():
    saved_values_survive_a_kill(wrap=without_attributes())


def saved_values_survive_a_kill(**how):
    server = Spindle("disk.img", args=["--size", "1M"], **how)
    try:
        server.start()
        with log_in(server) as session:
            skip_unless_saveable(session)
            assert cache_is_on(session)
            session.good(set_cache(session, False, save=True))
            assert not cache_is_on(session) and not cache_is_on(session, SAVED)
        killed(server)
        with log_in(server) as session:
            assert not cache_is_on(session) and not cache_is_on(session, SAVED)
            session.good(set_cache(session, True))
            assert cache_is_on(session) and not cache_is_on(session, SAVED)
        killed(server)
        with log_in(server) as session:
            assert not cache_is_on(session)
            control = bytearray(mode_sense(session, 0x0A))
            control[4] |= SWP
            session.good(mode_select(session, bytes(control), save=True))
        killed(server)
        with log_in(server) as session:
            r = session.command(iscsi.write10(0, 1), write=bytes(SECTOR))
            assert r.status == 2 and r.sense_key == 7 and r.asc == (0x27, 0x02), r
            control[4] &= ~SWP
            session.good(mode_select(session, bytes(control)))
            session.write(0, bytes(SECTOR))
        server.stop()
    finally:
        server.kill()
        server.cleanup()


def nothing_is_saved(server):
    with log_in(server) as session:
        assert not mode_sense(session, 0x08)[0] & 0x80
        assert mode_sense(session, 0x08, SAVED) is None
        r = mode_select(session, mode_sense(session, 0x0A), save=True)
        assert r.status == 2 and r.sense_key == 5 and r.asc == (0x24, 0x00), r
    assert not os.path.exists(os.path.join(server.dir, "state"))


def test_nothing_is_saved_in_memory():
    with Spindle("ram:1M") as server:
        nothing_is_saved(server)


def test_nothing_is_saved_read_only():
    with Spindle("disk.img", wrap=without_attributes(), args=["--size", "1M"]) as server:
        server.args = ["--ro"]
        server.restart()
        nothing_is_saved(server)


def test_nothing_is_saved_of_a_device_without_a_number():
    """A loop device can be another disk after a restart, and no file tells which."""
    with tempfile.TemporaryDirectory() as d:
        image = os.path.join(d, "disk.img")
        with open(image, "wb") as f:
            f.truncate(MIB)
        done = subprocess.run(["losetup", "--find", "--show", image], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) \
            if os.geteuid() == 0 and shutil.which("losetup") else None
        if done is None or done.returncode != 0:
            print("not tried: no loop devices here")
            return
        device = done.stdout.strip()
        try:
            with Spindle(device, directory=d) as server:
                nothing_is_saved(server)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


def test_another_disk_in_its_place_has_its_defaults():
    with Spindle("disk.img", args=["--size", "1M"], wrap=without_attributes()) as server:
        path = os.path.join(server.dir, "disk.img")
        with log_in(server) as session:
            session.good(set_cache(session, False, save=True))
        server.stop()
        os.rename(path, path + ".other")
        server.start()
        with log_in(server) as session:
            assert cache_is_on(session) and cache_is_on(session, SAVED)
        server.stop()
        os.rename(path + ".other", path)
        server.start()
        with log_in(server) as session:
            assert not cache_is_on(session) and not cache_is_on(session, SAVED)


def test_what_cannot_be_saved_is_refused():
    with Spindle("disk.img", args=["--size", "1M"], wrap=without_attributes()) as server, \
         log_in(server) as session:
        state = os.path.join(server.dir, "state")
        with open(state, "wb"):
            pass
        assert mode_sense(session, 0x08)[0] & 0x80
        r = set_cache(session, False, save=True)
        assert r.status == 2 and r.sense_key == 3, r
        assert cache_is_on(session) and cache_is_on(session, SAVED)
        os.unlink(state)
        session.good(set_cache(session, False, save=True))
        assert not cache_is_on(session, SAVED)


def identifying(session, text=None):
    """REPORT or SET IDENTIFYING INFORMATION."""
    if text is None:
        r = session.command(bytes([0xA3, 5]) + bytes(4) + b"\0\0\1\0\0\0", read=256)
        return bytes(session.good(r).data[4:])
    return session.good(session.command(
        bytes([0xA4, 6]) + bytes(4) + len(text).to_bytes(4, "big") + bytes(2), write=text))


def test_identifying_information_survives_without_attributes():
    with Spindle("disk.img", args=["--size", "1M"], wrap=without_attributes()) as server:
        with log_in(server) as session:
            assert identifying(session) == b""
            identifying(session, b"rack 7")
        killed(server)
        with log_in(server) as session:
            assert identifying(session) == b"rack 7"


def test_the_others_hear_of_it():
    with Spindle("disk.img", args=["--size", "1M"]) as server:
        with log_in(server) as a, \
             iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 1) as b:
            b.settle()
            a.good(set_cache(a, False))
            a.good(a.command(iscsi.test_unit_ready()))
            r = b.command(iscsi.test_unit_ready())
            assert r.status == 2 and r.sense_key == 6 and r.asc == (0x2A, 0x01), r
            b.good(b.command(iscsi.test_unit_ready()))
            # The same once more changes nothing.
            a.good(set_cache(a, False))
            b.good(b.command(iscsi.test_unit_ready()))


def log_select_reset(session):
    return session.command(bytes([0x4C, 2, 0x40]) + bytes(7))


def log_sense(session, page):
    return session.command(bytes([0x4D, 0, 0x40 | page]) + bytes(4) + b"\2\0\0", read=512)


def busy_session(server, number, deadline, out):
    """Changes, resets, reads and writes; a unit attention of the others is no failure."""
    rng = random.Random(SEED + number)
    with iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + number) as session:
        while time.monotonic() < deadline:
            kind = rng.randrange(6)
            if kind < 2:
                sensed = session.command(bytes([0x1A, 8, 8, 0, 24, 0]), read=24)
                if sensed.status == 0:
                    page = bytearray(sensed.data[4:])
                    page[2] ^= WCE
                    r = mode_select(session, bytes(page), rng.random() < 0.1)
                else:
                    r = sensed
            elif kind == 2:
                r = log_select_reset(session)
            elif kind == 3:
                r = log_sense(session, rng.choice([0x02, 0x03, 0x05, 0x19]))
            elif kind == 4:
                r = session.command(iscsi.write10(number * 8, 8), write=bytes([number]) * 4096)
            else:
                r = session.command(iscsi.read10(number * 8, 8), read=4096)
                if r.status == 0 and set(r.data) - {0, number}:
                    out.append(f"session {number} reads of another")
            told = r.status == 2 and r.sense_key == 6
            if r.status != 0 and not told:
                out.append(f"session {number}: {r!r}")
                return
            out[0] += r.status == 0


def test_many_at_once():
    with Spindle("disk.img", args=["--size", "1M"], threads=4) as server:
        deadline = time.monotonic() + 3
        out = [0]
        threads = [threading.Thread(target=busy_session, args=(server, i + 1, deadline, out))
                   for i in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(out) == 1, out
        assert out[0] > 50, out
        with log_in(server) as session:
            session.good(set_cache(session, False))
            assert not cache_is_on(session)


# ---- The cache is off: what was acknowledged is there ------------------------------------------


def write_same16(lba, blocks):
    return bytes([0x93, 0]) + struct.pack(">QI", lba, blocks) + bytes(2)


def write_and_verify10(lba, blocks):
    return bytes([0x2E, 0]) + struct.pack(">IxH", lba, blocks) + b"\0"


def compare_and_write(lba, blocks):
    return bytes([0x89, 0]) + struct.pack(">Q3xB", lba, blocks) + bytes(2)


class Writer:
    """Each block holds a number over and over: what was acknowledged, and what was sent last."""

    def __init__(self, rng):
        self.rng = rng
        self.number = 0
        self.sent = [0] * BLOCKS
        self.acked = [0] * BLOCKS
        self.answers = 0

    def issue(self, session, pending, busy):
        block = self.rng.randrange(BLOCKS)
        while block in busy:
            block = self.rng.randrange(BLOCKS)
        self.number += 1
        one = struct.pack(">Q", self.number) * (SECTOR // 8)
        old = struct.pack(">Q", self.acked[block]) * (SECTOR // 8) * SECTORS
        lba = block * SECTORS
        kinds = [(iscsi.write10(lba, SECTORS), one * SECTORS), (write_same16(lba, SECTORS), one),
                 (write_and_verify10(lba, SECTORS), one * SECTORS),
                 (compare_and_write(lba, SECTORS), old + one * SECTORS)]
        cdb, data = self.rng.choice(kinds)
        self.sent[block] = self.number
        busy.add(block)
        pending[session.start(cdb, write=data).itt] = (block, self.number)

    def run(self, session):
        pending, busy = {}, set()
        while True:
            room = not iscsi.serial_lt(session.maxcmdsn, session.cmdsn)
            if len(pending) < DEPTH and room:
                self.issue(session, pending, busy)
                continue
            answer = session.recv()
            if answer.opcode != iscsi.P.SCSI_RESPONSE or answer.status != 0:
                raise AssertionError(f"{answer!r} {answer.data.hex()}")
            self.answers += 1
            block, number = pending.pop(answer.itt)
            busy.discard(block)
            self.acked[block] = number

    def check(self, session):
        """What is there now is what a later write finds."""
        for block in range(BLOCKS):
            data = session.read(block * SECTORS, SECTORS)
            numbers = {n for n, in struct.iter_unpack(">Q", data)}
            low, high = min(numbers), max(numbers)
            assert self.acked[block] <= low and high <= self.sent[block], \
                f"block {block}: {numbers}, acknowledged {self.acked[block]}"
            # A write that was cut off may be torn: it is made whole, so that it can be compared.
            self.number += 1
            one = struct.pack(">Q", self.number) * (SECTOR // 8)
            self.sent[block] = self.number
            session.write(block * SECTORS, one * SECTORS)
            self.acked[block] = self.number


def cycle(server, writer, rng, switch_off):
    server.start()
    session = log_in(server)
    if switch_off:
        session.good(set_cache(session, False))
        assert not cache_is_on(session)
    writer.check(session)
    dead = threading.Event()

    def cut():
        dead.set()
        os.kill(server.pid, signal.SIGKILL)

    timer = threading.Timer(rng.uniform(0.001, 0.08), cut)
    timer.start()
    try:
        writer.run(session)
    except (iscsi.Closed, iscsi.Mismatch, OSError):
        if not dead.is_set():
            raise
    finally:
        timer.join()
        session.close()
        server.kill()


def kill_over_and_over(switch_off, kills):
    rng = random.Random(SEED)
    writer = Writer(rng)
    server = Spindle("fault:volatile=on:disk.img", args=["--size", "1M"])
    try:
        for _ in range(kills):
            cycle(server, writer, rng, switch_off)
        server.start()
        with log_in(server) as session:
            writer.check(session)
        server.stop()
    finally:
        server.kill()
        server.cleanup()
    print(f"seed {SEED}: {kills} kills, {writer.answers} answers")
    return writer.answers


def test_no_write_is_lost_without_a_cache():
    assert kill_over_and_over(True, KILLS) > KILLS


def test_with_a_cache_the_same_finds_losses():
    try:
        kill_over_and_over(False, 20)
    except AssertionError as e:
        print(f"found: {e}")
        return
    raise AssertionError("20 power cuts without a flush, and no loss was seen")


def test_what_was_cached_is_flushed_when_the_cache_goes_off():
    server = Spindle("fault:volatile=on:disk.img", args=["--size", "1M"])
    try:
        for i in range(5):
            server.start()
            with log_in(server) as session:
                if i > 0:
                    assert session.read(0, 64) == bytes([i]) * 64 * SECTOR
                session.good(set_cache(session, True))
                # Some are under way when the cache goes off; each is durable by its status.
                started = [session.start(iscsi.write10(lba, 8), write=bytes([i + 1]) * 8 * SECTOR)
                           for lba in range(0, 64, 8)]
                session.good(set_cache(session, False))
                for p in started:
                    session.good(session.finish(p))
                os.kill(server.pid, signal.SIGKILL)
            server.kill()
    finally:
        server.kill()
        server.cleanup()


def test_what_was_cached_is_flushed_by_a_stop():
    server = Spindle("fault:volatile=on,rule=write;delay=5ms;prob=0.5:disk.img",
                     args=["--size", "1M"])
    acked = []
    try:
        for i in range(5):
            server.start()
            with log_in(server) as session:
                for lba in acked:
                    assert session.read(lba, 8) == bytes([i]) * 8 * SECTOR, lba
                # Some are under way, and some refused; what ends GOOD is durable, for nobody could
                # flush it any more.
                started = [(lba, session.start(iscsi.write10(lba, 8),
                                               write=bytes([i + 1]) * 8 * SECTOR))
                           for lba in range(0, 256, 8)]
                session.good(session.command(bytes([0x1B, 0, 0, 0, 0, 0])))
                acked = [lba for lba, p in started if session.finish(p).status == 0]
                assert acked
                os.kill(server.pid, signal.SIGKILL)
            server.kill()
    finally:
        server.kill()
        server.cleanup()


main(globals())
