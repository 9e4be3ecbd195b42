"""
No acknowledged write is lost: the server is killed at random moments over a store whose write
cache is as volatile as a real one, and every byte that was flushed or written with FUA is there
afterwards. With a flush that lies the same test finds losses; it checks that, too.

SPINDLE_SOAK=1 kills a thousand times.
"""

import os
import random
import signal
import struct
import threading
import time

from harness import Spindle, main

import iscsi

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
KILLS = 1000 if os.environ.get("SPINDLE_SOAK") else 100
BLOCKS, SECTORS, SECTOR = 96, 8, 512
DEPTH = 12
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)


class Loss(AssertionError):
    """A write that was durable is not there."""


class Ledger:
    """By block: the newest write that was sent, was acknowledged, and is durable for sure."""

    def __init__(self):
        self.number = 0
        self.sent = [0] * BLOCKS
        self.acked = [0] * BLOCKS
        self.durable = [0] * BLOCKS

    def content(self, block):
        self.number += 1
        self.sent[block] = self.number
        return b"".join(struct.pack(">QQ", block * SECTORS + i, self.number) * (SECTOR // 16)
                        for i in range(SECTORS))

    def check(self, data):
        """All of the disk, after a power cut. What is there now is durable."""
        for block in range(BLOCKS):
            found = []
            for i in range(SECTORS):
                at = (block * SECTORS + i) * SECTOR
                found.append(self._check_sector(block, i, data[at:at + SECTOR]))
            self.durable[block] = self.acked[block] = min(found)
            self.sent[block] = max(found)

    def _check_sector(self, block, i, data):
        place, number = struct.unpack(">QQ", data[:16])
        if data != data[:16] * (SECTOR // 16):
            raise Loss(f"block {block} sector {i} is torn")
        if number and place != block * SECTORS + i:
            raise Loss(f"block {block} sector {i} holds sector {place}")
        if number < self.durable[block]:
            raise Loss(f"block {block} sector {i}: write {self.durable[block]} was durable, "
                       f"{number} is there")
        if number > self.sent[block]:
            raise Loss(f"block {block} sector {i}: {number} was never written")
        return number


class Writer:
    """Keeps commands under way until the server dies, and books what it said before."""

    def __init__(self, session, ledger, rng):
        self.session, self.ledger, self.rng = session, ledger, rng
        self.pending = {}
        self.busy = set()
        self.answers = 0

    def issue(self):
        kind = self.rng.random()
        if kind < 0.12:
            p = self.session.start(SYNCHRONIZE_CACHE)
            self.pending[p.itt] = ("flush", list(self.ledger.acked))
            return
        block = self.rng.randrange(BLOCKS)
        while block in self.busy:
            block = self.rng.randrange(BLOCKS)
        self.busy.add(block)
        data = self.ledger.content(block)
        fua = kind > 0.85
        # Booked before it leaves: it may be on the disk although sending fails.
        p = self.session.start(iscsi.write10(block * SECTORS, SECTORS, fua), write=data)
        self.pending[p.itt] = ("fua" if fua else "write", (block, self.ledger.sent[block]))

    def collect(self):
        answer = self.session.recv()
        assert answer.opcode == iscsi.P.SCSI_RESPONSE and answer.status == 0, answer
        self.answers += 1
        kind, what = self.pending.pop(answer.itt)
        if kind == "flush":
            for block, number in enumerate(what):
                self.ledger.durable[block] = max(self.ledger.durable[block], number)
            return
        block, number = what
        self.busy.discard(block)
        self.ledger.acked[block] = number
        if kind == "fua":
            self.ledger.durable[block] = number

    def run(self):
        depth = self.rng.randrange(1, DEPTH)
        while True:
            room = not iscsi.serial_lt(self.session.maxcmdsn, self.session.cmdsn)
            if len(self.pending) < depth and room:
                self.issue()
            else:
                self.collect()


def read_all(session):
    return b"".join(session.read(at * SECTORS, 16 * SECTORS) for at in range(0, BLOCKS, 16))


def cycle(server, ledger, rng):
    """Starts, verifies, writes, kills. Returns how many answers came."""
    server.start()
    session = iscsi.login(server.portals[0], server.iqn())
    session.settle()
    ledger.check(read_all(session))
    writer = Writer(session, ledger, rng)
    killed = threading.Event()

    def cut():
        # Before the kill: what fails afterwards is no surprise.
        killed.set()
        os.kill(server.pid, signal.SIGKILL)

    timer = threading.Timer(rng.uniform(0.001, 0.08), cut)
    timer.start()
    try:
        writer.run()
    except (iscsi.Closed, iscsi.Mismatch, OSError):
        if not killed.is_set():
            raise
    finally:
        timer.join()
        session.close()
        server.kill()
    return writer.answers


def cut_power(store, kills, **more):
    rng = random.Random(SEED)
    ledger = Ledger()
    server = Spindle(store, args=["--size", "1M"], **more)
    answers, started = 0, time.monotonic()
    try:
        for _ in range(kills):
            answers += cycle(server, ledger, rng)
        server.start()
        with iscsi.login(server.portals[0], server.iqn()) as session:
            session.settle()
            ledger.check(read_all(session))
        server.stop()
    finally:
        server.kill()
        server.cleanup()
    print(f"seed {SEED}: {kills} kills, {answers} answers, {time.monotonic() - started:.0f} s")
    return answers


def test_nothing_is_lost():
    assert cut_power("fault:volatile=on:disk.img", KILLS) > 10 * KILLS


def test_a_flush_that_lies_is_found_out():
    try:
        cut_power("fault:volatile=on,flush=off:disk.img", 50)
    except Loss as loss:
        print(f"found: {loss}")
        return
    raise AssertionError("50 power cuts with a flush that does nothing, and no loss was seen")


def test_the_ledger_sees_each_kind_of_loss():
    """An old write, a torn sector, a sector of another place, one out of nowhere."""
    ledger = Ledger()
    blank = bytearray(BLOCKS * SECTORS * SECTOR)
    old, new = ledger.content(3), ledger.content(3)
    at = 3 * SECTORS * SECTOR
    for durable, data, wrong in ((2, new, False), (1, new, False), (2, old, True),
                                 (0, new[:16] + old[16:], True), (0, new[512:] + new[:512], True),
                                 (0, new.replace(struct.pack(">Q", 2), struct.pack(">Q", 9)), True)):
        ledger.durable[3], ledger.acked[3], ledger.sent[3] = durable, 2, 2
        disk = bytearray(blank)
        disk[at:at + len(data)] = data
        try:
            ledger.check(bytes(disk))
        except Loss:
            assert wrong, "a loss where there is none"
        else:
            assert not wrong, "a loss was not seen"


main(globals())
