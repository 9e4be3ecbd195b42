#!/usr/bin/env python3
"""The command window: order, immediacy, what lies outside (RFC 7143 4.2.2.1)."""

import pdu as P
from common import case, main
from iscsi import add, login, pattern, read10, serial_lt, test_unit_ready


def session(server, **more):
    s = login(server.portals[0], server.iqn(), **more)
    s.settle()
    return s


def with_cmdsn(s, cmdsn, cdb=None, **more):
    p = s.scsi_pdu(cdb or test_unit_ready(), immediate=True, **more)
    p.bhs[0] &= 0x3F
    p.cmdsn = cmdsn
    return p


@case
def window_is_open(server):
    with session(server) as s:
        width = (s.maxcmdsn - s.expcmdsn + 1) & 0xFFFFFFFF
        assert 2 <= width <= 4096, width


@case
def out_of_order_runs_in_order(server):
    """Nothing is answered before the gap is filled; then all, in the order of CmdSN."""
    with session(server) as s:
        first = s.cmdsn
        held = [with_cmdsn(s, add(first, i)) for i in (3, 1, 2)]
        for p in held:
            s.send(p)
        s.expect_silence()
        gap = with_cmdsn(s, first)
        s.send(gap)
        answers = [s.expect(P.SCSI_RESPONSE, status=0) for _ in range(4)]
        order = [gap.itt, held[1].itt, held[2].itt, held[0].itt]
        assert [a.itt for a in answers] == order, answers
        assert s.expcmdsn == add(first, 4)
        s.cmdsn = add(first, 4)
        s.ping()
        s.settle()


@case
def immediate_passes_the_gap(server):
    with session(server) as s:
        first = s.cmdsn
        s.send(with_cmdsn(s, add(first, 1)))
        s.ping()
        p = s.scsi_pdu(test_unit_ready(), immediate=True)
        s.send(p)
        s.expect(P.SCSI_RESPONSE, itt=p.itt, expcmdsn=first)
        s.send(with_cmdsn(s, first))
        for _ in range(2):
            s.expect(P.SCSI_RESPONSE)


@case
def beyond_the_window_is_ignored(server):
    with session(server) as s:
        first = s.cmdsn
        for ahead in (1, 2, 1000, 0x7FFFFFFE):
            s.send(with_cmdsn(s, add(s.maxcmdsn, ahead)))
        s.expect_silence()
        s.ping()
        assert s.expcmdsn == first
        s.settle()


@case
def before_the_window_is_ignored(server):
    """A number that was there already, too."""
    with session(server) as s:
        first = s.cmdsn
        for behind in (1, 2, 1000):
            s.send(with_cmdsn(s, add(first, -behind)))
        s.expect_silence()
        s.settle()


@case
def twice_in_the_gap(server):
    """The second of two equal numbers that wait is ignored."""
    with session(server) as s:
        first = s.cmdsn
        one, two = with_cmdsn(s, add(first, 1)), with_cmdsn(s, add(first, 1))
        s.send(one)
        s.send(two)
        s.send(with_cmdsn(s, first))
        answers = [s.expect(P.SCSI_RESPONSE, status=0) for _ in range(2)]
        assert answers[1].itt == one.itt, answers
        s.expect_silence()
        s.cmdsn = add(first, 2)
        s.settle()


@case
def whole_window_at_once(server):
    with session(server) as s:
        for _ in range(5):
            sent = []
            while not serial_lt(s.maxcmdsn, s.cmdsn):
                p = s.scsi_pdu(read10(0, 8), edtl=4096, read=True)
                s.send(p)
                sent.append(p)
            for p in sent:
                s.good(s.finish(p, read=4096))
            assert s.expcmdsn == s.cmdsn


@case
def whole_window_backwards(server):
    with session(server) as s:
        first = s.cmdsn
        count = (s.maxcmdsn - first + 1) & 0xFFFFFFFF
        held = [with_cmdsn(s, add(first, i), read10(i, 1), edtl=512, read=True)
                for i in range(count - 1, -1, -1)]
        for p in held:
            s.send(p)
        for p in held:
            s.good(s.finish(p, read=512))
        assert s.expcmdsn == add(first, count)
        s.cmdsn = add(first, count)
        s.settle()


@case
def numbers_wrap(server):
    with session(server, cmdsn=0xFFFFFFF0) as s:
        data = pattern(4096, 9)
        for i in range(64):
            s.write(i * 8, data)
            assert s.read(i * 8, 8) == data
        assert s.cmdsn < 0x1000
        s.ping()


@case
def wrap_inside_a_full_window(server):
    with session(server, cmdsn=0xFFFFFFFA) as s:
        first = s.cmdsn
        count = (s.maxcmdsn - first + 1) & 0xFFFFFFFF
        held = [with_cmdsn(s, add(first, i)) for i in range(count - 1, -1, -1)]
        for p in held:
            s.send(p)
        for i in range(count):
            s.expect(P.SCSI_RESPONSE, itt=held[count - 1 - i].itt, status=0)


@case
def window_never_shrinks_below_what_was_granted(server):
    """Every number up to MaxCmdSN is taken, whatever load there is."""
    with session(server) as s:
        data = pattern(65536, 3)
        sent = []
        for i in range(200):
            while serial_lt(s.maxcmdsn, s.cmdsn):
                s.good(s.finish(sent.pop(0), write=data))
            sent.append(s.start(bytes([0x2A, 0, 0, 0]) + (i * 128 & 0xFFFF).to_bytes(2, "big")
                                + b"\0\0\x80\0", write=data))
        for p in sent:
            s.good(s.finish(p, write=data))


if __name__ == "__main__":
    main()
