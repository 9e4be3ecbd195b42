#!/usr/bin/env python3
"""
Valid sessions gone wrong: an initiator logs in, and what it then sends is changed, left out, sent twice, in
another order or torn, or it leaves in the middle of it. Meanwhile a session of another disk reads, writes and compares.
The server lives, the other session sees nothing of it, every login that is right is served, and in
the end the attacked disk works as ever.

A minute, fifteen with SPINDLE_SOAK. SPINDLE_SEED=N begins with that seed: each round prints none, but a failure
names the seed of its round, and SPINDLE_SEED=N SPINDLE_ROUNDS=1 runs that round alone.
"""

import os
import random
import socket
import struct
import threading
import time

import pdu as P
from common import case, main
from iscsi import login, pattern, read10, write10
from pdu import Pdu

SECONDS = 900 if os.environ.get("SPINDLE_SOAK") else 60
PATIENCE_S = 10  # one command of the session that behaves: sanitizers and machines are slow, hangs are longer
REGION = 4096  # blocks that the session that behaves works on

LOGINS = ({}, {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}, {"ImmediateData": "No"}, {"InitialR2T": "No"},
          {"MaxBurstLength": 4096, "FirstBurstLength": 1024}, {"HeaderDigest": "CRC32C"},
          {"MaxRecvDataSegmentLength": 512}, {"MaxOutstandingR2T": 8})
NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x1FF, 0x200, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, P.NONE)
CDBS = (bytes(6), bytes([0x12, 0, 0, 0, 96, 0]), bytes([0x12, 1, 0x83, 1, 0, 0]), bytes([0x03, 0, 0, 0, 252, 0]),
        bytes([0x1A, 0, 0x3F, 0, 255, 0]), bytes([0xA0] + [0] * 8 + [64, 0, 0]), bytes([0x25] + [0] * 9),
        bytes([0x9E, 0x10] + [0] * 11 + [32, 0, 0]), bytes([0x4D, 0, 0x40, 0, 0, 0, 0, 1, 0, 0]),
        bytes([0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0]), bytes([0x35] + [0] * 9))


class Behaves(threading.Thread):
    """Writes, reads, compares, and takes the time."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.session = login(server.portals[0], server.iqn(1), initiator="iqn.2026-11.org.example:behaves")
        self.session.settle()
        self.ends = threading.Event()
        self.error = None
        self.commands = 0
        self.slowest = 0.0

    def run(self):
        rng = random.Random(1)
        known = {}
        try:
            while not self.ends.is_set():
                lba, blocks = rng.randrange(0, REGION, 64), rng.randrange(1, 64)
                started = time.monotonic()
                if lba in known and rng.random() < 0.5:
                    want = known[lba]
                    got = bytes(self.session.read(lba, len(want) // 512))
                    assert got == want, f"other bytes than were written, block {lba}"
                else:
                    known[lba] = pattern(blocks * 512, rng.randrange(256))
                    self.session.write(lba, known[lba])
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.commands += 1
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def check(self):
        assert self.error is None, f"the session that behaves: {self.error!r}"
        assert self.slowest < PATIENCE_S, f"a command of the session that behaves took {self.slowest:.1f} s"

    def end(self):
        self.ends.set()
        self.join(60)
        assert not self.is_alive(), "the session that behaves hangs"
        self.check()
        self.session.logout()
        self.session.close()


class Attack:
    """One connection of an initiator that goes wrong."""

    def __init__(self, server, seed):
        self.rng = random.Random(seed)
        self.server = server
        self.s = login(server.portals[0], server.iqn(), keys=dict(self.rng.choice(LOGINS)),
                       initiator=f"iqn.2026-11.org.example:mutant{self.rng.randrange(3)}",
                       isid=0x400000000000 + self.rng.randrange(3))

    # ---- what is right

    def command(self):
        rng, s = self.rng, self.s
        kind = rng.random()
        lba, blocks = rng.randrange(2000), rng.choice((1, 1, 2, 8, 33, 128))
        if kind < 0.3:
            return [s.scsi_pdu(read10(lba, blocks), blocks * 512, read=True)]
        if kind < 0.7:
            return self.write(lba, blocks)
        cdb = rng.choice(CDBS)
        return [s.scsi_pdu(cdb, 512, read=rng.random() < 0.8)]

    def write(self, lba, blocks):
        rng, s = self.rng, self.s
        data = rng.randbytes(16) * (blocks * 32)
        first = min(len(data), s.target_dsl, 512 * rng.randrange(4))
        p = s.scsi_pdu(write10(lba, blocks), len(data), write=True, data=data[:first], final=rng.random() < 0.8)
        out, at, datasn = [p], first, 0
        # R2Ts count from 1 on; some of these guesses are right.
        ttt = P.NONE if not p.final else rng.randrange(1, 12)
        while at < len(data) and rng.random() < 0.9:
            piece = data[at:at + min(4096, s.target_dsl)]
            at += len(piece)
            out.append(s.data_out(p, ttt, datasn, at - len(piece), piece, at == len(data)))
            datasn += 1
        return out

    def other(self):
        rng, s = self.rng, self.s
        kind = rng.randrange(5)
        now = rng.random() < 0.5
        if kind == 0:
            return [s.request(P.NOP_OUT, now, ttt=P.NONE, data=rng.randbytes(rng.randrange(40)))]
        if kind == 1:
            return [s.request(P.TEXT_REQUEST, now, ttt=P.NONE, data=b"SendTargets=\0")]
        if kind == 2:
            return [s.request(P.TMF_REQUEST, True, flags=P.FINAL | rng.choice((1, 2, 3, 4, 5, 6, 7, 8)),
                              rtt=rng.choice((s.itt, s.itt - 1, P.NONE)), refcmdsn=s.cmdsn)]
        if kind == 3:
            return [Pdu(P.SNACK, immediate=True, flags=P.FINAL | rng.randrange(4), itt=s.itt, ttt=P.NONE)]
        return [s.request(P.LOGOUT_REQUEST, now, flags=P.FINAL | rng.randrange(3))] if rng.random() < 0.2 else []

    def talk(self):
        out = []
        for _ in range(self.rng.randrange(1, 14)):
            out += self.command() if self.rng.random() < 0.7 else self.other()
        return out

    # ---- and goes wrong

    def change_fields(self, p):
        rng = self.rng
        names = [n for n in list(P.SHARED) + list(P.LAYOUT.get(p.opcode, ("", {}))[1])
                 if n not in ("dsl", "ahslen")]
        name = rng.choice(names)
        width = p._field(name)[1]  # pylint: disable=protected-access
        value = rng.choice(NUMBERS) if rng.random() < 0.6 else getattr(p, name) + rng.choice((-1, 1, 2, 4))
        setattr(p, name, value % (1 << 8 * width))

    def mutate(self, pdus):
        """PDUs that say something else, or that come in another order, or not, or twice."""
        rng = self.rng
        for _ in range(rng.randrange(4)):
            if not pdus:
                return
            kind, at = rng.randrange(7), rng.randrange(len(pdus))
            if kind <= 2:
                self.change_fields(pdus[at])
            elif kind == 3:
                del pdus[at]
            elif kind == 4:
                pdus.insert(rng.randrange(len(pdus) + 1), pdus[at])
            elif kind == 5:
                other = rng.randrange(len(pdus))
                pdus[at], pdus[other] = pdus[other], pdus[at]
            else:
                pdus[at].bhs[rng.randrange(48)] ^= 1 << rng.randrange(8)

    def garble(self, raw):
        """Bytes of a PDU that are wrong on the wire: digests and lengths as well."""
        rng = self.rng
        out = bytearray(raw)
        for _ in range(rng.randrange(1, 4)):
            out[rng.randrange(len(out))] = rng.randrange(256)
        return bytes(out[:rng.randrange(1, len(out) + 1)] if rng.random() < 0.3 else out)

    def send(self, raw):
        """In one piece, or torn; false: the server has closed."""
        try:
            if self.rng.random() < 0.1:
                cut = self.rng.randrange(len(raw) + 1)
                self.s.sock.sendall(raw[:cut])
                time.sleep(0.002)
                raw = raw[cut:]
            self.s.sock.sendall(raw)
            return True
        except OSError:
            return False

    def hear(self):
        """Reads away what comes, so that the server gets on."""
        self.s.sock.settimeout(self.rng.choice((0, 0.001, 0.01, 0.03)))
        try:
            while self.s.sock.recv(1 << 18):
                pass
        except (OSError, ValueError):
            pass
        self.s.sock.settimeout(5)

    def run(self):
        rng, s = self.rng, self.s
        s.sock.settimeout(5)
        for _ in range(rng.randrange(1, 4)):
            pdus = self.talk()
            self.mutate(pdus)
            raw = b""
            for p in pdus:
                one = p.pack(s.header_digest, s.data_digest)
                raw += self.garble(one) if rng.random() < 0.02 else one
            if not self.send(raw):
                break
            self.hear()
        if rng.random() < 0.3:
            s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()


def works(server):
    """The attacked disk, for an initiator that does it right."""
    with login(server.portals[0], server.iqn(), isid=0x400000000099) as s:
        s.settle()
        data = pattern(65536, 77)
        s.write(5000, data)
        assert s.read(5000, 128) == data
        s.ping()


@case
def mutants(server):
    first = int(os.environ.get("SPINDLE_SEED") or random.SystemRandom().randrange(1 << 40))
    most = int(os.environ.get("SPINDLE_ROUNDS") or 0)
    print(f"SPINDLE_SEED={first}", flush=True)
    other = Behaves(server)
    other.start()
    ends = time.monotonic() + SECONDS
    seed = first
    try:
        while time.monotonic() < ends and (not most or seed < first + most):
            Attack(server, seed).run()
            seed += 1
            if seed % 100 == 0:
                assert server.running(), "the server is gone"
                other.check()
                works(server)
    except BaseException:
        print(f"round {seed - first}: SPINDLE_SEED={seed} SPINDLE_ROUNDS=1 runs it alone", flush=True)
        raise
    other.end()
    works(server)
    print(f"{seed - first} rounds, {other.commands} commands beside them, the slowest took {other.slowest:.2f} s")
    assert other.commands > 100 or most


if __name__ == "__main__":
    main("ram:64M", "ram:64M")
