#!/usr/bin/env python3
"""NOP-Out and NOP-In (RFC 7143 11.18, 11.19)."""

import pdu as P
from common import case, main
from iscsi import add, login


@case
def brings_data_back(server):
    with login(server.portals[0], server.iqn()) as s:
        for n in (0, 1, 2, 3, 4, 5, 511, 4096, 8191, 65536, 262144):
            s.ping(bytes(i * 7 & 0xFF for i in range(n)))


@case
def within_what_the_initiator_takes(server):
    """No more comes back than the initiator declared; the rest is cut off."""
    with login(server.portals[0], server.iqn(), keys={"MaxRecvDataSegmentLength": 512}) as s:
        s.ping(b"x" * 512)
        p = s.nop(b"y" * 2000)
        a = s.expect(P.NOP_IN, itt=p.itt)
        assert a.data == b"y" * len(a.data) and len(a.data) <= 512, a


@case
def without_a_tag_no_answer(server):
    with login(server.portals[0], server.iqn()) as s:
        s.nop(b"nobody asks", itt=P.NONE)
        s.expect_silence()
        s.ping()


@case
def not_immediate_takes_a_number(server):
    with login(server.portals[0], server.iqn()) as s:
        before = s.expcmdsn
        for i in range(10):
            p = s.nop(b"n", immediate=False)
            s.expect(P.NOP_IN, itt=p.itt, expcmdsn=add(before, i + 1))
        s.ping()
        assert s.expcmdsn == add(before, 10)


@case
def many_in_flight(server):
    with login(server.portals[0], server.iqn()) as s:
        sent = [s.nop(f"number {i}".encode()) for i in range(200)]
        for p in sent:
            a = s.expect(P.NOP_IN, itt=p.itt, ttt=P.NONE)
            assert a.data == p.data


@case
def lun_comes_back_or_zero(server):
    """An answer to a ping has no LUN of its own; with a tag of the target it would need one."""
    with login(server.portals[0], server.iqn()) as s:
        p = s.nop(b"", lun=0)
        a = s.expect(P.NOP_IN, itt=p.itt)
        assert a.flags == P.FINAL and a.lun == 0, a


@case
def in_discovery(server):
    with login(server.portals[0], discovery=True) as s:
        s.ping(b"hello")


if __name__ == "__main__":
    main()
