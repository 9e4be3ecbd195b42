#!/usr/bin/env python3
"""Residual counts: what was expected against what the command moves (RFC 7143 11.4.5)."""

import pdu as P
from common import case, main
from iscsi import inquiry, login, pattern, read10, test_unit_ready, write10


def session(server, **keys):
    s = login(server.portals[0], server.iqn(), keys=keys)
    s.settle()
    return s


def assert_residual(r, flag, count):
    got = r.flags & (P.UNDERFLOW | P.OVERFLOW)
    assert got == flag and r.residual == count, f"expected {flag:#x}/{count}: {r!r}"


@case
def read_expects_more(server):
    for dsl in (512, 8192, 262144):
        with session(server, MaxRecvDataSegmentLength=dsl) as s:
            for blocks in (0, 1, 8, 16, 600):
                want = blocks * 512
                for more in (1, 512, 10000):
                    r = s.good(s.command(read10(0, blocks), read=want + more))
                    assert len(r.data) == want
                    assert_residual(r, P.UNDERFLOW, more)


@case
def read_expects_less(server):
    """The initiator gets what it expects and learns how much was cut off."""
    data = pattern(600 * 512, 3)
    with session(server) as s:
        s.write(0, data)
    for dsl in (512, 8192, 262144):
        with session(server, MaxRecvDataSegmentLength=dsl) as s:
            for blocks, expect in ((1, 511), (1, 100), (8, 512), (8, 4095), (600, 262144),
                                   (600, 300001)):
                r = s.good(s.command(read10(0, blocks), read=expect))
                assert r.data == data[:expect], f"{blocks} blocks, {expect} expected"
                assert_residual(r, P.OVERFLOW, blocks * 512 - expect)


@case
def read_expects_nothing(server):
    with session(server) as s:
        p = s.scsi_pdu(read10(0, 8), edtl=0, read=True)
        s.send(p)
        r = s.good(s.finish(p))
        assert not r.data
        assert_residual(r, P.OVERFLOW, 4096)
        # Not even the R bit.
        r = s.good(s.command(read10(0, 8)))
        assert not r.data
        assert_residual(r, P.OVERFLOW, 4096)


@case
def write_expects_more(server):
    """Only what the CDB asks for is taken in; the next blocks stay."""
    for keys in ({}, {"ImmediateData": "No"}, {"MaxBurstLength": 512},
                 {"ImmediateData": "No", "MaxBurstLength": 1024}):
        with session(server, **keys) as s:
            ground = pattern(16384, 1)
            for blocks, more in ((1, 512), (8, 1), (8, 4096), (0, 512)):
                s.write(0, ground)
                data = pattern(blocks * 512 + more, 2)
                p = s.start(write10(0, blocks), write=data)
                r = s.good(s.finish(p, write=data))
                assert_residual(r, P.UNDERFLOW, more)
                got = s.read(0, 32)
                assert got == data[:blocks * 512] + ground[blocks * 512:], (keys, blocks, more)


@case
def write_expects_less(server):
    """The command has more to write than the initiator sends: what is there, in whole blocks at
    most, and an overflow."""
    for keys in ({}, {"ImmediateData": "No"}):
        with session(server, **keys) as s:
            ground = pattern(16384, 3)
            for blocks, expect in ((8, 512), (8, 2048), (32, 8192)):
                s.write(0, ground)
                data = pattern(expect, 4)
                r = s.command(write10(0, blocks), write=data)
                assert_residual(r, P.OVERFLOW, blocks * 512 - expect)
                got = s.read(0, 32)
                assert got[expect:] == ground[expect:], "blocks without data changed"
                if r.status == 0:
                    assert got[:expect] == data, "GOOD, but the data is not there"


@case
def write_expects_nothing(server):
    with session(server) as s:
        ground = pattern(4096, 5)
        s.write(0, ground)
        p = s.scsi_pdu(write10(0, 8), edtl=0, write=True)
        s.send(p)
        assert_residual(s.finish(p), P.OVERFLOW, 4096)
        assert s.read(0, 8) == ground


@case
def no_data_command_expects_some(server):
    with session(server) as s:
        r = s.good(s.command(test_unit_ready(), read=512))
        assert not r.data
        assert_residual(r, P.UNDERFLOW, 512)
        data = bytes(512)
        r = s.good(s.command(test_unit_ready(), write=data))
        assert_residual(r, P.UNDERFLOW, 512)


@case
def parameters(server):
    """The allocation length is the CDB's; the expected length the transport's."""
    with session(server) as s:
        whole = len(s.good(s.command(inquiry(255), read=255)).data)
        assert 36 <= whole < 255
        assert_residual(s.command(inquiry(255), read=255), P.UNDERFLOW, 255 - whole)
        assert_residual(s.command(inquiry(36), read=36), 0, 0)
        assert_residual(s.command(inquiry(36), read=255), P.UNDERFLOW, 255 - 36)
        r = s.good(s.command(inquiry(36), read=10))
        assert len(r.data) == 10
        assert_residual(r, P.OVERFLOW, 26)


@case
def check_condition_has_moved_nothing(server):
    with session(server) as s:
        r = s.command(read10(0xFFFFFFF0, 8), read=4096)
        assert r.status == 2
        assert_residual(r, P.UNDERFLOW, 4096)
        r = s.command(write10(0xFFFFFFF0, 8), write=bytes(4096))
        assert r.status == 2
        assert_residual(r, P.UNDERFLOW, 4096)


if __name__ == "__main__":
    main()
