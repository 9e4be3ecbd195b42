"""
Frames that a network holds back: a write that comes after a newer one of its client undoes it, where the client
does not count as Linux does; where it does the old write is dropped, and nobody waits for long who sends a new one.

SPINDLE_SEED=N makes the random tests what they were in a run that printed it.
"""

import collections
import contextlib
import itertools
import os
import random
import time

from harness import main, wait_until

import aoe
from aoe import Counter, Paths, Window, ata_frame, client, pattern, serving

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECOND_MAC = bytes.fromhex("020000000055")
FORGET_S = 10
LBA = 1000


@contextlib.contextmanager
def both(*more, disk="ram:64M"):
    """A server and a client that counts from the beginning, as one that has just started does."""
    with serving(disk, args=more) as s, client() as c:
        c.new_tag = Counter(0).next
        c.ping()
        c.settle()
        yield s, c


def count(*clients):
    """Reads for as long as it takes to be known."""
    turns = itertools.cycle(clients)
    for _ in range(120):
        next(turns).read(0)
        time.sleep(0.01)


def hold_back(c, lba, data):
    """A write that is on its way, and nowhere yet."""
    frame = ata_frame(aoe.WRITE_EXT, lba, len(data) // aoe.SECTOR, data)
    c.send(frame, copies=0)
    return frame


def undone(c, d=None, lba=LBA):
    """Writes what is held back again, and something newer, by `d`. Does the first one, when it comes, undo that?"""
    old, new = pattern(SEED, lba, 2), pattern(SEED + 1, lba, 2)
    late = hold_back(c, lba, old)
    time.sleep(0.2)
    for data in (old, new):
        (d or c).write(lba, data)
    assert c.read(lba, 2) == new
    c.send(late)
    answer = c.receive(0.5)
    assert answer is None or answer.tag == late.tag and answer.status == aoe.GOOD, answer
    got = c.read(lba, 2)
    assert got == (new if answer is None else old), "neither done nor dropped"
    return answer is not None


def resends(w, most):
    """Of those that a Window sent, but for lost ones."""
    assert w.counts["sent again"] <= most, f"SPINDLE_SEED={SEED}: {w.counts}"


# ---- Whose writes are dropped ------------------------------------------------------------------


def test_who_does_not_count():
    """What the rule is for: the data is gone. A machine's programs set the highest bit, others count in another way."""
    numbers = itertools.count(1)
    for tag in (lambda: 1 << 31 | Counter.next(ticks), lambda: next(numbers), lambda: next(numbers) << 16,
                lambda: random.randrange(1, 1 << 31)):
        with both() as (s, c):
            ticks = Counter(0)
            c.new_tag = tag
            count(c)
            assert undone(c), "there is no danger?"
            assert "aoe-late-writes" not in s.stderr(), s.stderr()


def test_who_counts():
    for hz in (100, 250, 1000):
        with both() as (s, c):
            c.new_tag = Counter(0, hz=hz).next
            assert undone(c), "it cannot know yet"
            count(c)
            for i in range(3):
                assert not undone(c, lba=LBA + i), f"lost with {hz} Hz"
            assert s.stderr().count("aoe-late-writes") == 1, s.stderr()


def test_a_write_that_is_still_waited_for():
    """Two at a time, and the first one comes last: it is dropped, sent again, and done."""
    with both() as (_, c):
        count(c)
        late = hold_back(c, LBA, pattern(SEED, LBA, 2))
        c.write(LBA + 1, pattern(SEED + 1, LBA + 1, 2))
        c.expect_silence(late)
        c.write(LBA, pattern(SEED, LBA, 2))
        assert c.read(LBA, 2) + c.read(LBA + 2) == pattern(SEED, LBA, 2) + pattern(SEED + 1, LBA + 2)


def test_what_nothing_newer_overlaps():
    """It is done, however late it is."""
    with both() as (_, c):
        count(c)
        late = hold_back(c, LBA, pattern(SEED, LBA, 2))
        Window(c, 2).write(LBA + 2, 200, SEED)
        Window(c, 2).write(LBA - 200, 200, SEED)
        c.send(late)
        answer = c.receive()
        assert answer is not None and answer.tag == late.tag, answer
        Window(c, 2).read(LBA - 200, 402, SEED)


def test_a_frame_that_comes_twice():
    """As long as there is nothing newer each is answered, and changes nothing."""
    with both() as (_, c):
        count(c)
        late = hold_back(c, LBA, pattern(SEED, LBA, 2))
        for _ in range(2):
            c.send(late)
            assert c.receive().tag == late.tag
        c.write(LBA, pattern(SEED + 1, LBA, 2))
        c.expect_silence(late)
        assert c.read(LBA, 2) == pattern(SEED + 1, LBA, 2)


def test_two_addresses_of_one_machine():
    with both() as (_, c), client(mac=SECOND_MAC) as d:
        Paths([c, d])
        d.settle()
        count(c, d)
        for i in range(3):
            assert not undone(c, d, LBA + i) and not undone(d, c, LBA + 10 + i)


def test_two_interfaces():
    aoe.add_pair("aoe2", "aoe3")
    with both("--aoe", "aoe2:1.0") as (_, c), client(interface="aoe3", server="aoe2") as d:
        Paths([c, d])
        d.ping()
        d.settle()
        count(c, d)
        for i in range(3):
            assert not undone(c, d, LBA + i) and not undone(d, c, LBA + 10 + i)


# ---- Who must not wait -------------------------------------------------------------------------


def test_machines_that_share_a_disk():
    """One writes the same sectors right after the other, and none is older than the other."""
    with both() as (s, c), client(mac=SECOND_MAC) as d:
        d.new_tag = Counter(0, hz=1000).next
        d.settle()
        count(c)
        count(d)
        began = time.monotonic()
        for i in range(200):
            for who in (c, d):
                who.write(LBA, pattern(i, LBA, 2))
        assert time.monotonic() - began < 15, "they had to wait"
        assert "aoe-late-writes" not in s.stderr(), s.stderr()
        assert not undone(c) and not undone(d)


def test_a_machine_that_starts_anew():
    """Its counter and its clock are behind what they were."""
    with both() as (s, c):
        c.new_tag = Counter(20000, ticks=60000).next
        count(c)
        Window(c, 2).write(LBA, 200, 1)
        c.new_tag = Counter(0, ticks=40000).next
        c.identify()
        w = Window(c, 2, rto_s=5)
        w.write(LBA, 200, 2)
        resends(w, 0)
        assert "aoe-late-writes" not in s.stderr(), s.stderr()
        count(c)
        assert not undone(c)


def test_a_machine_that_starts_anew_unseen():
    """What it asked first was lost: its writes are old for a while, and it asks again."""
    with both() as (_, c):
        c.new_tag = Counter(20000, ticks=60000).next
        count(c)
        Window(c, 2).write(LBA, 20, 1)
        began = time.monotonic()
        c.new_tag = Counter(100, ticks=40000).next
        w = Window(c, 2, rto_s=0.5)
        w.write(LBA, 20, 2)
        assert time.monotonic() - began < 2 * FORGET_S, "it waited for too long"
        w.read(LBA, 20, 2)
        count(c)
        assert not undone(c)


def test_counters_that_come_round():
    """Both within a second; and the rule goes on."""
    with both() as (s, c):
        c.new_tag = Counter(32768 - 700, ticks=65536 - 600).next
        count(c)
        for generation in range(10):
            w = Window(c, 2, rto_s=5)
            w.write(LBA, 200, generation)
            w.read(LBA, 200, generation)
            resends(w, 0)
            time.sleep(0.2)
        assert "aoe-late-writes" not in s.stderr(), s.stderr()
        assert not undone(c)


def test_a_pause():
    """The client sleeps for longer than anything is remembered, and goes on."""
    with both() as (_, c):
        c.new_tag = Counter(0, hz=1000).next
        count(c)
        c.write(LBA, pattern(1, LBA, 2))
        time.sleep(FORGET_S + 2)
        c.write(LBA, pattern(2, LBA, 2))
        assert not undone(c)


class Shuffled:
    """Between a Window and its client: one frame in twenty goes some frames later than it should."""

    def __init__(self, client, seed, share=0.05):
        self.client, self.share, self.dice = client, share, random.Random(seed)
        self.held = collections.deque()
        self.counts = collections.Counter()

    def send(self, frame, size=None, copies=1):
        if copies and self.dice.random() < self.share:
            self.held.append([self.dice.randrange(1, 40), frame])
            self.counts["held"] += 1
            return self.client.send(frame, size, copies=0)
        tag = self.client.send(frame, size, copies)
        for h in self.held:
            h[0] -= 1
        self.release(lambda h: h[0] <= 0)
        return tag

    def release(self, due):
        for h in [h for h in self.held if due(h)]:
            self.held.remove(h)
            c = self.client
            # By the path it was given.
            next((p for p in getattr(c, "clients", [c]) if p.mac == h[1].src), c).send(h[1])

    def receive(self, timeout_s):
        answer = self.client.receive(min(timeout_s, 0.01) if self.held else timeout_s)
        if answer is None:
            self.release(lambda h: True)
        return answer

    def fail(self, why):
        self.client.fail(why)


def in_disorder(s, c, seconds):
    """Over and over the same sectors; what is overtaken is not overlapped, so nothing is dropped."""
    w = Window(c, 2, rto_s=10, limit_s=120)
    end = time.monotonic() + seconds
    generation = 0
    while time.monotonic() < end:
        generation += 1
        w.write(LBA, 400, generation)
        w.read(LBA, 400, generation)
    assert c.counts["held"] > 20, c.counts
    resends(w, 0)
    assert "aoe-late-writes" not in s.stderr(), f"SPINDLE_SEED={SEED}: {s.stderr()}"


def test_disorder():
    with both() as (s, c):
        count(c)
        in_disorder(s, Shuffled(c, SEED), 6)
        assert not undone(c)


def test_disorder_on_two_paths():
    with both() as (s, c), client(mac=SECOND_MAC) as d:
        d.settle()
        paths = Paths([c, d])
        count(c, d)
        in_disorder(s, Shuffled(paths, SEED), 6)
        for who in (c, d):
            who.settle()
        assert not undone(c, d) and not undone(d, c)


def test_a_path_that_is_slow():
    """Each frame of it comes behind a hundred of the other one's: none of them is dropped for that."""
    with both() as (s, c), client(mac=SECOND_MAC) as d:
        Paths([c, d])
        d.settle()
        count(c, d)
        queue = collections.deque()
        for i in range(3000):
            lba = LBA + 4 * (i % 500)
            c.send(ata_frame(aoe.WRITE_EXT, lba, 2, pattern(i, lba, 2)))
            queue.append(hold_back(d, lba + 2, pattern(i, lba + 2, 2)))
            if len(queue) == 100:
                d.send(queue.popleft())
            if i % 16 == 0:
                while c.receive(0.01) is not None:
                    pass
                while d.receive(0) is not None:
                    pass
        wait_until(lambda: c.receive(0.05) is None and d.receive(0.05) is None, 20, "the last answers")
        missing = [t for who in (c, d) for t, sent in who.sent.items() if sent.copies and not sent.answers]
        assert not missing, f"{len(missing)} of 6000 frames have no answer"
        assert "aoe-late-writes" not in s.stderr(), s.stderr()


main(globals())
