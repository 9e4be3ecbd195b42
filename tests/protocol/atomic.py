#!/usr/bin/env python3
"""
COMPARE AND WRITE over the wire: data in every shape that a session may send it, the offset of a
difference, and two sessions that never both win. And the other status that is no failure: CONDITION
MET.
"""

import pdu as P
from common import case, main
from iscsi import ISID, login, pattern

BLOCK = 512
CONDITION_MET = 4
MISCOMPARE = 0xE


def session(server, isid=ISID, **keys):
    s = login(server.portals[0], server.iqn(), keys=keys, isid=isid)
    s.settle()
    return s


def caw(lba, blocks):
    return bytes([0x89, 0]) + lba.to_bytes(8, "big") + bytes(3) + bytes([blocks, 0, 0])


def prefetch(lba, blocks, immed=False):
    return (bytes([0x34, 2 if immed else 0]) + lba.to_bytes(4, "big") + b"\0"
            + blocks.to_bytes(2, "big") + b"\0")


def offset_of(r):
    """Where the difference is: INFORMATION, which must be valid."""
    assert r.status == 2 and r.sense_key == MISCOMPARE and r.asc == (0x1D, 0), repr(r)
    assert r.sense[0] == 0xF0, r.sense.hex()
    return int.from_bytes(r.sense[3:7], "big")


@case
def data_in_all_shapes(server):
    """Immediate, unasked, asked for in bursts of all lengths."""
    for keys in ({}, {"ImmediateData": "No"}, {"InitialR2T": "No"},
                 {"InitialR2T": "No", "ImmediateData": "No", "FirstBurstLength": 4096},
                 {"ImmediateData": "No", "MaxBurstLength": 512},
                 {"MaxBurstLength": 8192, "FirstBurstLength": 1024}):
        with session(server, **keys) as s:
            for blocks in (1, 2, 7, 255):
                old, new = pattern(blocks * BLOCK, blocks), pattern(blocks * BLOCK, blocks + 1)
                s.write(9, old)
                r = s.good(s.command(caw(9, blocks), write=old + new))
                assert r.residual == 0 and not r.flags & (P.UNDERFLOW | P.OVERFLOW), repr(r)
                assert s.read(9, blocks) == new, (keys, blocks)


@case
def where_it_differs(server):
    with session(server) as s:
        old, new = pattern(255 * BLOCK, 1), pattern(255 * BLOCK, 2)
        s.write(0, old)
        for at in (0, 1, 511, 512, 70000, 255 * BLOCK - 1):
            other = bytearray(old)
            other[at] ^= 0x40
            r = s.command(caw(0, 255), write=bytes(other) + new)
            assert offset_of(r) == at, (at, offset_of(r))
            assert r.residual == 0, repr(r)
            assert s.read(0, 255) == old, "written in spite of a difference"


@case
def data_of_another_length(server):
    """Refused with all of it unused, and the session goes on."""
    for keys in ({}, {"ImmediateData": "No"}, {"InitialR2T": "No"}):
        with session(server, **keys) as s:
            old = pattern(16 * BLOCK, 3)
            s.write(0, old)
            for blocks, length in ((1, BLOCK), (1, 4 * BLOCK), (3, 4 * BLOCK), (2, 1000), (2, 0)):
                r = s.command(caw(0, blocks), write=bytes(length))
                assert r.status == 2 and r.sense_key == 5 and r.asc == (0x0E, 0x03), repr(r)
                s.ping()
            # One that has 256 blocks, of which the CDB keeps none.
            r = s.command(caw(0, 0), write=bytes(512 * BLOCK))
            assert r.status == 2 and r.sense_key == 5 and r.asc == (0x24, 0), repr(r)
            s.good(s.command(caw(0, 0)))
            assert s.read(0, 16) == old


@case
def only_one_wins(server):
    """Two sessions step a counter at the same time: each step is won by one of them."""
    with session(server, ISID + 1) as first, session(server, ISID + 2) as second:
        lba, wins = 33, [0, 0]
        first.write(lba, bytes(BLOCK))
        for step in range(200):
            now, then = (n.to_bytes(8, "big") * 64 for n in (step, step + 1))
            tasks = [s.start(caw(lba, 1), 0, now + then) for s in (first, second)]
            results = [s.finish(t, 0, now + then) for s, t in zip((first, second), tasks)]
            good = [r.status == 0 for r in results]
            assert sum(good) == 1, f"step {step}: {results!r}"
            wins[good.index(True)] += 1
            assert offset_of(results[good.index(False)]) == 7
        assert first.read(lba, 1) == (200).to_bytes(8, "big") * 64
        print(f"     won: {wins}")


@case
def condition_met(server):
    """A status of success that is not GOOD, with the residual of what was expected."""
    with session(server) as s:
        for immed in (False, True):
            r = s.command(prefetch(0, 600, immed))
            assert r.status == CONDITION_MET and not r.sense, repr(r)
            assert r.residual == 0 and not r.flags & (P.UNDERFLOW | P.OVERFLOW), repr(r)
        r = s.command(prefetch(0, 8), read=512)
        assert r.status == CONDITION_MET and not r.data, repr(r)
        assert r.flags & P.UNDERFLOW and r.residual == 512, repr(r)
        r = s.command(prefetch(0, 8), write=bytes(100000))
        assert r.status == CONDITION_MET, repr(r)
        assert r.flags & P.UNDERFLOW and r.residual == 100000, repr(r)
        s.ping()


if __name__ == "__main__":
    main()
