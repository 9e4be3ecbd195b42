"""
Several clients write and verify regions of their own, deep in flight, with and without digests,
with blocks of 512 and 4096, in memory and on a file. SPINDLE_SOAK=1: a minute each.
"""

import multiprocessing
import os
import random
import time

from harness import KIB, Spindle, main

import iscsi

CLIENTS, DEPTH = 4, 8
SECONDS = 60 if os.environ.get("SPINDLE_SOAK") else 3
REGION = 512 * KIB
SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
BOTH = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}


class Client:
    """One session; a model of its region says what every read must bring."""

    def __init__(self, portal, iqn, index, block, keys):
        self.block, self.rng = block, random.Random(SEED + index)
        self.session = iscsi.login(portal, iqn, isid=iscsi.ISID + index, keys=keys)
        self.session.settle()
        self.base = index * REGION // block
        self.model = bytearray(REGION)
        self.flights = []
        self.done = 0

    def overlaps(self, at, n):
        return any(at < f[1] + f[2] and f[1] < at + n for f in self.flights)

    def issue(self):
        n = self.rng.choice((1, 1, 2, 8, 16)) * self.block
        at = self.rng.randrange(0, REGION - n + 1, self.block)
        if self.overlaps(at, n):
            return
        lba, blocks = self.base + at // self.block, n // self.block
        if self.rng.random() < 0.5:
            data = self.rng.randbytes(n)
            self.model[at:at + n] = data
            p = self.session.start(iscsi.write10(lba, blocks), write=data)
            self.flights.append((p, at, n, data))
        else:
            p = self.session.start(iscsi.read10(lba, blocks), read=n)
            self.flights.append((p, at, n, None))

    def collect(self):
        p, at, n, data = self.flights[0]
        if data is None:
            r = self.session.good(self.session.finish(p, read=n))
            if bytes(r.data) != self.model[at:at + n]:
                self.session.fail(f"{n} bytes at {at} differ from what was written")
        else:
            self.session.good(self.session.finish(p, write=data))
        self.flights.pop(0)
        self.done += 1

    def run(self, seconds):
        end = time.monotonic() + seconds
        # The disk is not new: start from what it holds.
        for at in range(0, REGION, 64 * KIB):
            self.model[at:at + 64 * KIB] = self.session.read(self.base + at // self.block,
                                                             64 * KIB // self.block, self.block)
        while time.monotonic() < end:
            if len(self.flights) < DEPTH:
                self.issue()
            else:
                self.collect()
        while self.flights:
            self.collect()
        self.session.logout()
        return self.done


def client_process(results, *args):
    try:
        results.put((Client(*args).run(SECONDS), None))
    except Exception as e:
        results.put((0, repr(e)))


def hammer(store, block, keys, *args, env=None):
    with Spindle(store, args=["--block-size", block, *args], env=env) as s:
        results = multiprocessing.Queue()
        clients = [multiprocessing.Process(target=client_process,
                                           args=(results, s.portals[0], s.iqn(), i, block, keys))
                   for i in range(CLIENTS)]
        for c in clients:
            c.start()
        done = [results.get(timeout=SECONDS + 60) for _ in clients]
        for c in clients:
            c.join()
        errors = [e for _, e in done if e]
        assert not errors, f"seed {SEED}: {errors}"
        print(f"{store} {block} {'digests' if keys else 'plain'}: {sum(n for n, _ in done)} "
              "commands")


def test_file_512_plain():
    hammer("disk.img", 512, {}, "--size", "16M")


def test_file_4096_digests():
    hammer("disk.img", 4096, BOTH, "--size", "16M")


def test_file_512_digests_without_uring():
    hammer("disk.img", 512, BOTH, "--size", "16M", env={"SPINDLE_NO_URING": "1"})


def test_ram_4096_plain():
    hammer("ram:16M", 4096, {})


def test_ram_512_digests():
    hammer("ram:16M", 512, BOTH)


def test_volatile_cache():
    hammer("fault:volatile=on:disk.img", 512, {}, "--size", "16M")


main(globals())
