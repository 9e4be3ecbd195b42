"""
Clients behind a proxy that cuts their connections at any byte, in either direction, or delays bytes: amid a login, right
behind it, amid a PDU. Each writes and reads a region of its own, and logs in again with the same ISID, which takes the
session's place, or with a new one. What was acknowledged is found; a block of a write that was not acknowledged is the
old one or the new one and nothing else, stays that, and is written again. Every connection agrees on something else:
digests, InitialR2T, immediate data, lengths. In memory, on a file, and on a disk where writes take their time, so
that they are under way when the connection goes.

Half a minute (it runs with io_uring and without), ten with SPINDLE_SOAK. SPINDLE_SEED=N runs a seed again.
"""

import multiprocessing
import os
import random
import select
import socket
import struct
import threading
import time

from harness import KIB, Spindle, binary, main, wait_until

import iscsi

DISKS = ("ram:4M", "disk.img", "fault:rule=write;delay=20ms:ram:4M", "ram:4M", "fault::ram:4M")
REGION, BLOCK, DEPTH = 256 * KIB, 512, 6
SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)


def seconds():
    if not os.environ.get("SPINDLE_SOAK"):
        return 30
    with open(binary(), "rb") as f:
        return 120 if b"__tsan_init" in f.read() else 600


class Proxy(threading.Thread):
    """One connection at a time, which lasts so many bytes, a number for each direction."""

    def __init__(self, server, rng):
        super().__init__(daemon=True)
        self.server, self.rng = server, rng
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.portal = self.listener.getsockname()
        self.cuts = 0

    def run(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(self.server)
                self.carry(client, server)
                self.end(server)
            except OSError:
                pass
            self.end(client)

    def lasts(self):
        """Ends in the login, soon after it, or after some commands; or not by us."""
        kind = self.rng.random()
        if kind < 0.15:
            return self.rng.randrange(1, 700)
        if kind < 0.5:
            return self.rng.randrange(700, 20000)
        return self.rng.randrange(20000, 500000) if kind < 0.9 else 1 << 40

    def carry(self, client, server):
        """Both ways, until one is at its end."""
        other = {client: server, server: client}
        left = {client: self.lasts(), server: self.lasts()}
        slow = self.rng.random() < 0.2
        for s in other:
            s.settimeout(10)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            for s in select.select(list(other), [], [])[0]:
                data = s.recv(self.rng.randrange(1, 3000) if slow else 65536)
                if not data:
                    return
                if slow and self.rng.random() < 0.3:
                    time.sleep(self.rng.random() * 0.004)
                other[s].sendall(data[:left[s]])
                left[s] -= len(data)
                if left[s] <= 0:
                    self.cuts += 1
                    return

    def end(self, s):
        """With a FIN, or a RST that throws away what is on its way."""
        if self.rng.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self.rng.random() < 0.2:
            time.sleep(self.rng.random() * 0.03)
        s.close()


class Session(iscsi.Session):
    """Ends amid a PDU are what this is about."""

    def _read(self, n, deadline, at_start=False):
        try:
            return super()._read(n, deadline, at_start)
        except iscsi.Mismatch as e:
            if "closed in the middle" in str(e):
                raise iscsi.Closed("torn") from e
            raise

    def send(self, p, header_digest=None, data_digest=None):
        try:
            super().send(p, header_digest, data_digest)
        except TimeoutError:
            self.fail("the server does not read")
        except OSError as e:
            raise iscsi.Closed("cut") from e


class Client:
    def __init__(self, portal, iqn, index):
        self.rng = random.Random(SEED * 100 + index)
        self.portal, self.iqn, self.index = portal, iqn, index
        self.proxy = Proxy(portal, random.Random(SEED * 100 + 50 + index))
        self.isids = 0
        self.isid = self.next_isid()
        self.may_be = [{bytes(BLOCK)} for _ in range(REGION // BLOCK)]
        self.doubts = {}  # blocks that a session may still write to, by its ISID
        self.again = []   # writes that were not acknowledged
        self.flights = []
        self.session = None
        self.counts = {"commands": 0, "logins": 0, "old": 0, "new": 0}

    def next_isid(self):
        self.isids += 1
        return 0x400000000000 + self.index * 0x100000 + self.isids

    # ---- sessions

    def keys(self):
        rng = self.rng
        digest = ("CRC32C", "None", "None")
        return {"HeaderDigest": rng.choice(digest), "DataDigest": rng.choice(digest),
                "InitialR2T": rng.choice(("Yes", "No")), "ImmediateData": rng.choice(("Yes", "No")),
                "MaxBurstLength": rng.choice((4096, 65536, 262144)), "FirstBurstLength": rng.choice((512, 4096, 65536)),
                "MaxRecvDataSegmentLength": rng.choice((1024, 8192, 262144)), "MaxOutstandingR2T": rng.choice((1, 4))}

    def log_in(self):
        while self.session is None:
            if self.rng.random() < 0.3:
                self.isid = self.next_isid()
            try:
                self.session = iscsi.login(self.proxy.portal, self.iqn, isid=self.isid, keys=self.keys(), cls=Session)
                self.doubts.pop(self.isid, None)  # the one before has gone, and all that it did
                self.counts["logins"] += 1
                self.session.settle()
            except (iscsi.Closed, OSError):
                self.lose()

    def lose(self):
        """All that was under way may have been done, or may be done yet."""
        if self.session is not None:
            self.session.close()
            self.session = None
        for _, at, n, data in self.flights:
            if data is None:
                continue
            for i in range(n):
                self.may_be[at + i].add(data[i * BLOCK:(i + 1) * BLOCK])
            self.doubts.setdefault(self.isid, set()).update(range(at, at + n))
            self.again.append((at, data))
        self.flights = []

    def fence(self):
        """Takes the place of sessions that were left behind, past the proxy."""
        for isid in [i for i in self.doubts if i != self.isid or self.session is None]:
            s = iscsi.login(self.portal, self.iqn, isid=isid)
            s.logout()
            s.close()
            del self.doubts[isid]

    # ---- commands

    def is_free(self, at, n):
        here = set(range(at, at + n))
        return not any(here & blocks for blocks in self.doubts.values()) and \
            not any(at < f[1] + f[2] and f[1] < at + n for f in self.flights)

    def choose(self):
        """(at, data or None, blocks)"""
        rng = self.rng
        for i, (at, data) in enumerate(self.again):
            if self.is_free(at, len(data) // BLOCK):
                del self.again[i]
                return at, data, len(data) // BLOCK
        n = rng.choice((1, 1, 2, 8, 33, 64, 128))
        at = rng.randrange(REGION // BLOCK - n + 1)
        if not self.is_free(at, n):
            return None
        return at, rng.randbytes(n * BLOCK) if rng.random() < 0.6 else None, n

    def issue(self):
        chosen = self.choose()
        if chosen is None:
            return False
        at, data, n = chosen
        self.flights.append([None, at, n, data])  # first: it may be sent and the rest of it not
        if data is None:
            self.flights[-1][0] = self.session.start(iscsi.read10(at, n), read=n * BLOCK)
        else:
            self.flights[-1][0] = self.session.start(iscsi.write10(at, n), write=data)
        return True

    def collect(self):
        p, at, n, data = self.flights[0]
        if data is None:
            r = self.session.good(self.session.finish(p, read=n * BLOCK))
            self.check(at, n, bytes(r.data))
        else:
            self.session.good(self.session.finish(p, write=data))
            for i in range(n):
                self.may_be[at + i] = {data[i * BLOCK:(i + 1) * BLOCK]}
        self.flights.pop(0)
        self.counts["commands"] += 1

    def check(self, at, n, got):
        assert len(got) == n * BLOCK, f"{len(got)} bytes of {n} blocks"
        for i in range(n):
            block = got[i * BLOCK:(i + 1) * BLOCK]
            may_be = self.may_be[at + i]
            if block not in may_be:
                raise AssertionError(f"block {at + i} is none of {len(may_be)} that it may be: {block[:32].hex()}..., "
                                     f"and not {[b[:32].hex() for b in may_be]}")
            if len(may_be) > 1:
                newest = any(block == d[(at + i - a) * BLOCK:(at + i - a + 1) * BLOCK] for a, d in self.again
                             if a <= at + i < a + len(d) // BLOCK)
                self.counts["new" if newest else "old"] += 1
                self.may_be[at + i] = {block}

    def look(self):
        """Straight after the cut: what became of writes that were not acknowledged?"""
        for at, data in self.again:
            n = len(data) // BLOCK
            if self.is_free(at, n):
                self.check(at, n, self.session.read(at, n))

    def work(self, until):
        self.log_in()
        try:
            if self.rng.random() < 0.5:
                self.look()
            commands = 0
            while time.monotonic() < until:
                if len(self.flights) >= DEPTH or not self.session.open_slots() or not self.issue():
                    if self.flights:
                        self.collect()
                    else:
                        self.fence()
                commands += 1
                if commands == 20:
                    self.fence()
            while self.flights:
                self.collect()
        except iscsi.Closed:
            self.lose()

    def run(self, length):
        self.proxy.start()
        until = time.monotonic() + length
        while time.monotonic() < until:
            self.work(until)
        self.lose()
        self.fence()
        with iscsi.login(self.portal, self.iqn, isid=self.isid) as s:
            s.settle()
            for at in range(0, REGION // BLOCK, 64):
                self.check(at, 64, s.read(at, 64))
            s.logout()
        return {**self.counts, "cuts": self.proxy.cuts}


def client_process(results, length, *args):
    try:
        results.put((Client(*args).run(length), None))
    except Exception as e:
        results.put(({}, f"client {args[-1]}: {e!r}"))


def descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def test_every_byte_behind_a_proxy_that_cuts():
    length = seconds()
    with Spindle(*DISKS, args=["--size", "4M", "--unsolicited", "--verbose"]) as server:
        before = descriptors(server)
        results = multiprocessing.Queue()
        clients = [multiprocessing.Process(target=client_process,
                                           args=(results, length, server.portals[0], server.iqn(i), i))
                   for i in range(len(DISKS))]
        for c in clients:
            c.start()
        ends = [results.get(timeout=length + 120) for _ in clients]
        for c in clients:
            c.join()
        errors = [e for _, e in ends if e]
        assert not errors, f"SPINDLE_SEED={SEED}: " + "\n".join(errors)
        total = {k: sum(counts[k] for counts, _ in ends) for k in ends[0][0]}
        print(f"SPINDLE_SEED={SEED}: {total}")
        assert total["cuts"] >= 20 and total["commands"] >= 100, total

        def all_gone():
            said = server.stderr()
            return said.count(" session-up ") == said.count(" session-down ") and descriptors(server) <= before

        wait_until(all_gone, 30, "sessions and descriptors are gone")


main(globals())
