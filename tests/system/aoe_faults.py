"""
ATA over Ethernet on a network that loses, doubles, delays and reorders one frame in twenty each, both ways: a client
that counts its frames as Linux does writes and reads at random, and every byte is what it was written last.

A minute, ten each with SPINDLE_SOAK. SPINDLE_SEED=N makes the random numbers what they were in a run that
printed it; what meets what still depends on the time it takes.
"""

import array
import collections
import contextlib
import os
import random
import struct
import subprocess
import time

from harness import MIB, Spindle, main, skip

import aoe
from aoe import Paths, ata_frame

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SECONDS = 600 if os.environ.get("SPINDLE_SOAK") else 5
SHARE = 50  # of a thousand
DELAY_MS = 2000
KEPT_S = 20  # how long an answer may be late
DISK, AREA, HOT = 16 * MIB, 20000, 300
NEVER = 0


# ---- The network -------------------------------------------------------------------------------


@contextlib.contextmanager
def wire(left, right, seed):
    program = os.environ.get("SPINDLE_WIRE") or skip("SPINDLE_WIRE does not name the bad cable")
    command = [program, left, right, str(seed), *[str(SHARE)] * 4, str(DELAY_MS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout.readline() == "ready\n", f"{command} has not begun"
            yield
        finally:
            said = p.communicate(timeout=20)[0]
            print(said.strip())
    assert p.returncode == 0 and " dropped 0 " not in said, said


@contextlib.contextmanager
def paths(n, mtu):
    """srv0 - wire - cli0, and so on."""
    with contextlib.ExitStack() as stack:
        for i in range(n):
            for server, client in ((f"srv{i}", f"left{i}"), (f"right{i}", f"cli{i}")):
                aoe.add_pair(server, client, mtu)
                stack.callback(aoe.ip, "link", "del", server)
            stack.enter_context(wire(f"left{i}", f"right{i}", SEED + i))
        yield


class FarClient(aoe.Client):
    """Whose frames are doubled on the way; of those that nobody waits for any more nothing is kept."""

    def __init__(self, i):
        super().__init__(interface=f"cli{i}", server=f"srv{i}", timeout_s=1)
        self.old = collections.deque()

    def send(self, frame, size=None, copies=1):
        tag = super().send(frame, size, copies)
        self.sent[tag].copies += 3
        frame.body = frame.body[:12]
        self.old.append((time.monotonic(), tag))
        while self.old[0][0] < time.monotonic() - KEPT_S:
            self.sent.pop(self.old.popleft()[1], None)
        return tag


# ---- What it does ------------------------------------------------------------------------------


def content(lba, generation):
    return struct.pack(">QQ", lba, generation) * 32 if generation != NEVER else bytes(aoe.SECTOR)


class Op:
    def __init__(self, lba, count, generation):
        """generation: NEVER for a read."""
        self.lba, self.count, self.generation = lba, count, generation
        self.deadline, self.tries, self.done = 0, 0, False

    def sectors(self):
        return range(self.lba, self.lba + self.count)

    def frame(self):
        if self.generation == NEVER:
            return ata_frame(aoe.READ_EXT, self.lba, self.count)
        return ata_frame(aoe.WRITE_EXT, self.lba, self.count,
                         b"".join(content(lba, self.generation) for lba in self.sectors()))


class Traffic:
    """
    Reads and writes of random sectors, half of them of a few that are written again and again; of no sector two at a time, as a
    page cache does it. What is not answered in time is sent again, as often as it takes.
    """

    def __init__(self, client, sectors, window, rto_s=0.15):
        self.client, self.sectors, self.window, self.rto_s = client, sectors, window, rto_s
        self.dice = random.Random(SEED)
        self.model = array.array("Q", [NEVER] * AREA)
        self.busy = bytearray(AREA)
        self.generation = NEVER
        self.flying, self.by_tag = collections.OrderedDict(), collections.OrderedDict()
        self.counts = collections.Counter()

    def fail(self, why):
        self.client.fail(f"SPINDLE_SEED={SEED}: {why}; {dict(self.counts)}")

    def pick(self, reads_only):
        """None: where it would like to go somebody is."""
        count = self.dice.randint(1, self.sectors)
        lba = self.dice.randrange((HOT if self.dice.random() < 0.5 else AREA) - count)
        if any(self.busy[lba:lba + count]):
            return None
        if reads_only or self.dice.random() < 0.5:
            return Op(lba, count, NEVER)
        self.generation += 1
        return Op(lba, count, self.generation)

    def start(self, op):
        self.busy[op.lba:op.lba + op.count] = b"\1" * op.count
        self.flying[id(op)] = op
        self.send(op)

    def send(self, op):
        op.tries += 1
        if op.tries > 40:
            self.fail(f"no answer for sector {op.lba} after {op.tries - 1} tries")
        self.counts["sent" if op.tries == 1 else "sent again"] += 1
        op.deadline = time.monotonic() + self.rto_s * 2 ** min(op.tries - 1, 4)
        self.by_tag[self.client.send(op.frame())] = op
        if len(self.by_tag) > 100000:
            self.by_tag.popitem(last=False)

    def take(self, answer):
        op = self.by_tag.get(answer.tag)
        if op is None or op.done:
            self.counts["late"] += 1
            return
        if answer.error or answer.status != aoe.GOOD or answer.count:
            self.fail(f"sector {op.lba}: {answer!r}")
        if op.generation == NEVER:
            self.judge(op, answer.data)
        else:
            for lba in op.sectors():
                self.model[lba] = op.generation
        op.done = True
        self.busy[op.lba:op.lba + op.count] = bytes(op.count)
        del self.flying[id(op)]
        self.counts["written" if op.generation != NEVER else "read"] += 1

    def judge(self, op, data):
        for i, lba in enumerate(op.sectors()):
            sector = data[i * aoe.SECTOR:(i + 1) * aoe.SECTOR]
            if sector != content(lba, self.model[lba]):
                self.fail(f"sector {lba} has {sector[:16].hex()}, should have {content(lba, self.model[lba])[:16].hex()}")

    def turn(self):
        """Takes an answer, or sends again what was not answered."""
        now = time.monotonic()
        answer = self.client.receive(max(0, min(op.deadline for op in self.flying.values()) - now))
        if answer is not None:
            self.take(answer)
            return
        for op in list(self.flying.values()):
            if op.deadline <= time.monotonic():
                self.send(op)

    def run(self, seconds, reads_only=False):
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.flying:
            if time.monotonic() < end:
                for _ in range(self.window - len(self.flying)):
                    op = self.pick(reads_only)
                    if op is not None:
                        self.start(op)
            if self.flying:
                self.turn()

    def read_all(self):
        lba = 0
        while lba < AREA or self.flying:
            while lba < AREA and len(self.flying) < self.window:
                self.start(Op(lba, min(self.sectors, AREA - lba), NEVER))
                lba += self.sectors
            self.turn()


def check_image(server, traffic):
    with open(os.path.join(server.dir, "disk.img"), "rb") as f:
        for lba in range(AREA):
            got = f.read(aoe.SECTOR)
            assert got == content(lba, traffic.model[lba]), \
                f"SPINDLE_SEED={SEED}: sector {lba} of the file has {got[:16].hex()}, generation {traffic.model[lba]} is the last one"


def suffer(n, mtu, window, counter=None):
    places = [arg for i in range(n) for arg in ("--aoe", f"srv{i}:1.0")]
    with paths(n, mtu), Spindle("disk.img", args=["--size", str(DISK), *places]) as s, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(FarClient(i)) for i in range(n)]
        group = Paths(clients, counter)
        for c in clients:
            c.ping()
        answer = clients[0].ping()
        assert answer.sectors == aoe.sectors_of(mtu), answer
        traffic = Traffic(group, answer.sectors, window)
        traffic.run(2.5, reads_only=True)  # until the server knows that it counts
        traffic.run(SECONDS)
        # What was delayed is there.
        time.sleep(DELAY_MS / 1000)
        traffic.read_all()
        print(f"{n} paths, MTU {mtu}: {dict(traffic.counts)}")
        for line in s.stderr().splitlines():
            print(line)
        s.stop()
        check_image(s, traffic)
        assert traffic.counts["written"] > 50 * SECONDS and traffic.counts["sent again"] and traffic.counts["late"], traffic.counts


def test_small_frames():
    suffer(1, 1500, 32)


def test_large_frames():
    suffer(1, 9000, 32)


def test_two_paths():
    suffer(2, 9000, 64, aoe.Counter(hz=1000))


def test_two_paths_of_small_frames():
    suffer(2, 1500, 64)


class Program(aoe.Counter):
    """Of a user: nobody can tell which of its frames is the older one."""

    def next(self):
        return 1 << 31 | super().next()


def test_the_network_is_as_bad_as_that():
    try:
        suffer(2, 1500, 64, Program())
    except aoe.Mismatch as e:
        assert "should have" in str(e), e
    else:
        raise AssertionError(f"SPINDLE_SEED={SEED}: nothing was lost, though nobody could tell what was late")


main(globals())
