"""
Frames over Ethernet that come together and whose sectors follow each other are one I/O: who reads or writes
does not see it, whatever goes wrong in between.

The server is stopped while they are sent, so that they come in one turn. SPINDLE_SEED=N makes the random tests what
they were in a run that printed it.
"""

import contextlib
import os
import random
import signal

from harness import main, wait_until

import aoe
import iscsi
import pdu as P
from aoe import ata_frame, both, pattern

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECTOR, EACH, RUN = aoe.SECTOR, 2, 32  # of a frame; frames of a run at most
LOGICAL_UNIT_RESET = 5
FAULT = aoe.FAILED | 0x20  # the device's


def stands_still(server):
    def state(task):
        with open(f"/proc/{server.pid}/task/{task}/stat", encoding="utf-8") as f:
            return f.read().rpartition(") ")[2][0]

    return all(state(task) == "T" for task in os.listdir(f"/proc/{server.pid}/task"))


@contextlib.contextmanager
def stopped(server):
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: stands_still(server), 10, "all threads to stand still")
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def burst(server, client, frames):
    """The answers, in the order of the frames."""
    with stopped(server):
        tags = [client.send(f) for f in frames]
    answers = {}
    while len(answers) < len(tags):
        answer = client.receive()
        assert answer is not None, f"{len(answers)} of {len(tags)} answers"
        answers[answer.tag] = answer
    return [answers[tag] for tag in tags]


def reads(first, n):
    return [ata_frame(aoe.READ_EXT, first + i * EACH, EACH) for i in range(n)]


def writes(first, n, seed):
    return [ata_frame(aoe.WRITE_EXT, lba, EACH, pattern(seed, lba, EACH))
            for lba in range(first, first + n * EACH, EACH)]


def test_they_are_one():
    """The store fails all I/O but the first."""
    with both("fault:rule=write;eio;after=1,rule=read;eio;after=1:ram:1M") as (s, c):
        assert [a.status for a in burst(s, c, writes(0, RUN, 1))] == [aoe.GOOD] * RUN
        answers = burst(s, c, reads(0, RUN))
        assert b"".join(a.data for a in answers) == pattern(1, 0, RUN * EACH)


def test_what_does_not_follow():
    """A gap, another direction, sectors that were there already: each begins another I/O, and all are right."""
    with both("ram:1M") as (s, c):
        burst(s, c, writes(0, 60, 1))
        frames = reads(0, 3) + reads(8, 3) + writes(100, 3, 2) + reads(40, 2) + reads(42, 2)
        got = [a.data for a in burst(s, c, frames)]
        assert b"".join(got[:3]) == pattern(1, 0, 6) and b"".join(got[3:6]) == pattern(1, 8, 6)
        assert b"".join(got[9:11]) == pattern(1, 40, 4) and b"".join(got[11:]) == pattern(1, 42, 4)
        assert c.read(100, 2) + c.read(102, 2) + c.read(104, 2) == pattern(2, 100, 6)


def test_one_of_them_fails():
    with both("fault:rule=read@8K-9K;eio,rule=write@32K-33K;eio:ram:1M") as (s, c):
        bad, bad_write = 8 * 1024 // SECTOR // EACH, 32 * 1024 // SECTOR // EACH
        good = [aoe.GOOD] * RUN
        assert [a.status for a in burst(s, c, writes(0, RUN, 1))] == good
        answers = burst(s, c, reads(0, RUN))
        assert [a.status for a in answers] == good[:bad] + [aoe.FAILED] + good[bad + 1:]
        assert answers[bad].ata_error == aoe.UNC
        assert all(a.data == pattern(1, i * EACH, EACH) for i, a in enumerate(answers) if i != bad)
        first = bad_write - 5
        answers = burst(s, c, writes(first * EACH, RUN, 2))
        assert [i for i, a in enumerate(answers) if a.status != aoe.GOOD] == [5]
        for i in range(RUN):
            if i != 5:
                lba = (first + i) * EACH
                assert c.read(lba, EACH) == pattern(2, lba, EACH)


def test_the_flush_fails():
    """That is told of all as it is of one: the disk has failed, and nothing is written by itself instead."""
    with both("fault:rule=flush;eio;count=1:ram:1M") as (s, c):
        answers = burst(s, c, writes(0, RUN, 1))
        assert {(a.status, a.ata_error) for a in answers} == {(FAULT, aoe.ABRT)}, answers[0]
        s.kill()  # it would say that it cannot flush


def test_past_the_end():
    with both("ram:64K") as (s, c):
        answers = burst(s, c, reads(120, 8))
        assert [a.status for a in answers] == [aoe.GOOD] * 4 + [aoe.FAILED] * 4
        assert {a.ata_error for a in answers[4:]} == {aoe.IDNF}


def test_a_reset():
    """All of a run is under way, and no more than that is written."""
    with both("fault:rule=write;delay=700ms;count=1:ram:1M") as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        with stopped(s):
            for frame in writes(0, RUN, 1) + writes(0, RUN, 2):
                c.send(frame)
        c.expect_silence(quiet_s=0.2)
        reset = session.request(P.TMF_REQUEST, True, flags=P.FINAL | LOGICAL_UNIT_RESET, rtt=P.NONE)
        session.send(reset)
        session.check(session.recv_for(reset.itt), P.TMF_RESPONSE, response=0)
        c.expect_silence(quiet_s=1)
        state = b"".join(c.read(i * EACH, EACH) for i in range(RUN))
        assert state != pattern(2, 0, RUN * EACH), "written behind the reset"
        burst(s, c, writes(0, RUN, 3))
        assert b"".join(c.read(i * EACH, EACH) for i in range(RUN)) == pattern(3, 0, RUN * EACH)


def test_writes_in_the_order_they_came():
    """Whatever of them is merged: the last one wins, sector by sector."""
    rng = random.Random(SEED)
    with both("fault:rule=write;delay=3ms;prob=0.3:ram:1M") as (s, c):
        want = {}
        for n in range(60):
            frames, lba = [], 0
            for _ in range(rng.randrange(2, 60)):
                lba = lba + EACH if rng.random() < 0.7 else rng.randrange(100)
                seed = rng.randrange(1 << 20)
                frames.append(ata_frame(aoe.WRITE_EXT, lba, EACH, pattern(seed, lba, EACH)))
                want.update({lba + i: pattern(seed, lba + i) for i in range(EACH)})
            assert {a.status for a in burst(s, c, frames)} == {aoe.GOOD}
            if n % 10 == 9:
                for lba, data in want.items():
                    assert c.read(lba, 1) == data, f"sector {lba}, seed {SEED}"


print(f"SPINDLE_SEED={SEED}")
main(globals())
