#!/usr/bin/env python3
"""InitialR2T=No: first bursts that come unasked (RFC 7143 4.2.5.2, 13.10, 13.14)."""

import pdu as P
from common import case, main
from iscsi import Closed, login, pattern, test_unit_ready, write10

KIB = 1024


def session(server, **keys):
    keys.setdefault("InitialR2T", "No")
    s = login(server.portals[0], server.iqn(), keys=keys)
    s.settle()
    return s


@case
def only_where_both_want_it(server):
    with session(server) as s:
        assert s.answer("InitialR2T") == ["No"], s.answers
    with session(server, InitialR2T="Yes") as s:
        assert s.answer("InitialR2T") == ["Yes"], s.answers
    with login(server.portals[0], server.iqn()) as s:  # not a word about it: Yes
        s.settle()
        assert s.write(0, pattern(262144)).r2ts, "unsolicited data without agreement"


@case
def first_burst_relevant_without_immediate_data(server):
    with session(server, ImmediateData="No", FirstBurstLength=4096) as s:
        assert s.answer("FirstBurstLength") == ["4096"], s.answers


@case
def whole_write_in_the_first_burst(server):
    """Nothing is asked for what comes by itself."""
    for immediate in ("Yes", "No"):
        with session(server, ImmediateData=immediate, FirstBurstLength=65536) as s:
            for size in (512, 4096, 65024, 65536):
                data = pattern(size, size)
                assert not s.write(100, data).r2ts
                assert s.read(100, size // 512) == data


@case
def rest_is_asked_for(server):
    for immediate in ("Yes", "No"):
        for first in (512, 8192, 65536, 262144):
            with session(server, ImmediateData=immediate, FirstBurstLength=first) as s:
                data = pattern(512 * KIB, first)
                r = s.write(0, data)
                assert r.r2ts and r.r2ts[0].offset == first, r.r2ts
                assert s.read(0, 1024) == data


@case
def immediate_and_unsolicited_data_together(server):
    """A part in the command, the rest of the burst in PDUs of all sizes."""
    with session(server, FirstBurstLength=65536) as s:
        data = pattern(65536, 5)
        for now in (0, 4, 512, 4096, 65532):
            for segment in (516, 8192, 65536):
                p = s.scsi_pdu(write10(200, 128), edtl=65536, write=True, final=False,
                               data=data[:now])
                s.send(p)
                s.send_burst(p, P.NONE, data, now, 65536 - now, segment)
                r = s.good(s.finish(p, write=data))
                assert not r.r2ts
                assert s.read(200, 128) == data, (now, segment)
                s.write(200, pattern(65536, 6))


@case
def burst_that_ends_early(server):
    """F before FirstBurstLength is full: the rest is asked for from there."""
    with session(server, FirstBurstLength=65536, ImmediateData="No") as s:
        data = pattern(65536, 7)
        for n in (512, 4096, 60000):
            p = s.scsi_pdu(write10(300, 128), edtl=65536, write=True, final=False)
            s.send(p)
            s.send_burst(p, P.NONE, data, 0, n)
            asked = n
            while True:
                a = s.recv_for(p.itt)
                if a.opcode != P.R2T:
                    break
                assert a.offset == asked, a
                s.send_burst(p, a.ttt, data, a.offset, a.length)
                asked += a.length
            s.check(a, P.SCSI_RESPONSE, status=0)
            assert s.read(300, 128) == data
            s.write(300, pattern(65536, 8))


@case
def none_at_all_although_allowed(server):
    """F in the command: nothing comes by itself."""
    with session(server) as s:
        data = pattern(8192, 9)
        p = s.scsi_pdu(write10(0, 16), edtl=8192, write=True)
        s.send(p)
        assert s.good(s.finish(p, write=data)).r2ts
        assert s.read(0, 16) == data


@case
def bursts_of_several_commands_interleave(server):
    with session(server, ImmediateData="No", FirstBurstLength=16384) as s:
        payloads = [pattern(16384, 20 + i) for i in range(6)]
        sent = [s.scsi_pdu(write10(i * 32, 32), edtl=16384, write=True, final=False)
                for i in range(6)]
        for p in sent:
            s.send(p)
        for n, at in enumerate(range(0, 16384, 1024)):
            for p, d in zip(sent, payloads):
                s.send(s.data_out(p, P.NONE, n, at, d[at:at + 1024], at + 1024 == 16384))
        for p in sent:
            assert not s.good(s.finish(p)).r2ts
        for i, d in enumerate(payloads):
            assert s.read(i * 32, 32) == d


@case
def other_commands_do_not_wait(server):
    """A burst that stays away holds up its own command only."""
    with session(server) as s:
        stuck = s.scsi_pdu(write10(0, 16), edtl=8192, write=True, final=False)
        s.send(stuck)
        s.write(100, pattern(4096, 1))
        assert s.read(100, 8) == pattern(4096, 1)
        s.ping()
        s.send_burst(stuck, P.NONE, pattern(8192, 2), 0, 8192)
        s.good(s.finish(stuck))
        assert s.read(0, 16) == pattern(8192, 2)


@case
def refused_write_swallows_its_burst(server):
    """The error comes when the burst has come and been thrown away; then all goes on."""
    with session(server, ImmediateData="No") as s:
        data = pattern(65536, 3)
        r = s.command(write10(0xFFFFFF00, 128), write=data)
        assert r.status == 2 and r.asc == (0x21, 0) and not r.r2ts, r
        s.write(0, data)
        assert s.read(0, 128) == data


def descriptor_sense(s, on):
    current = s.good(s.command(bytes([0x1A, 8, 0x0A, 0, 64, 0]), read=64)).data[4:16]
    page = bytes([0x0A, 10, current[2] & ~4 | (4 if on else 0)]) + bytes(current[3:])
    s.good(s.command(bytes([0x15, 0x10, 0, 0, 16, 0]), write=bytes(4) + page))


@case
def refusal_looks_like_all_else_of_the_disk(server):
    """D_SENSE of its own disk rules, not of that of the command before."""
    with session(server, ImmediateData="No") as s:
        descriptor_sense(s, True)
        for _ in range(100):  # whatever else was in use here has had such a command last
            r = s.command(test_unit_ready(), lun=9)
            assert r.status == 2 and r.sense[0] == 0x70 and r.asc == (0x25, 0), r
        s.send(p := s.scsi_pdu(write10(0, 1), edtl=512, write=True, data=bytes(512)))
        r = s.finish(p)
        assert r.status == 2 and r.sense[:4] == b"\x72\x0b\x0c\x0c", r
        descriptor_sense(s, False)
        s.send(p := s.scsi_pdu(write10(0, 1), edtl=512, write=True, data=bytes(512)))
        r = s.finish(p)
        assert r.status == 2 and r.sense[0] == 0x70 and r.asc == (0x0C, 0x0C), r


def against_the_rules(server, misbehave):
    """Not GOOD, and the disk keeps what it had."""
    ground = pattern(16384, 90)
    with session(server) as s:
        s.write(5000, ground)
    with session(server, ImmediateData="No", FirstBurstLength=4096) as s:
        p = s.scsi_pdu(write10(5000, 16), edtl=8192, write=True, final=False)
        s.send(p)
        try:
            misbehave(s, p, pattern(8192, 91))
            while True:
                a = s.recv(5)
                assert a.opcode != P.SCSI_RESPONSE or a.status == 2, a
                if a.opcode in (P.SCSI_RESPONSE, P.REJECT):
                    break
        except (Closed, OSError):
            pass
    with session(server) as s:
        assert s.read(5000, 32) == ground


@case
def burst_too_long(server):
    against_the_rules(server, lambda s, p, d: s.send(s.data_out(p, P.NONE, 0, 0, d, True)))


@case
def burst_at_another_offset(server):
    against_the_rules(server,
                      lambda s, p, d: s.send(s.data_out(p, P.NONE, 0, 512, d[:2048], True)))


@case
def burst_with_a_gap(server):
    def misbehave(s, p, data):
        s.send(s.data_out(p, P.NONE, 0, 0, data[:1024], False))
        s.send(s.data_out(p, P.NONE, 2, 1024, data[1024:4096], True))

    against_the_rules(server, misbehave)


@case
def burst_beyond_the_expected_length(server):
    def misbehave(s, p, data):
        s.send(s.data_out(p, P.NONE, 0, 0, data[:4096], False))
        s.send(s.data_out(p, P.NONE, 1, 4096, data[4096:], False))
        s.send(s.data_out(p, P.NONE, 2, 8192, data[:4096], True))

    against_the_rules(server, misbehave)


@case
def second_burst(server):
    """After F nothing may come unasked."""
    with session(server, ImmediateData="No", FirstBurstLength=4096) as s:
        data = pattern(8192, 95)
        p = s.scsi_pdu(write10(6000, 16), edtl=8192, write=True, final=False)
        s.send(p)
        s.send_burst(p, P.NONE, data, 0, 4096)
        r2t = s.expect(P.R2T, itt=p.itt, offset=4096)
        s.send(s.data_out(p, P.NONE, 0, 4096, data[4096:], True))
        try:
            s.send_burst(p, r2t.ttt, data, 4096, 4096)
            a = s.recv(5)
            assert a.opcode == P.REJECT or (a.opcode == P.SCSI_RESPONSE and a.status == 2), a
        except (Closed, OSError):
            pass
    with session(server) as s:
        s.ping()


if __name__ == "__main__":
    main(args=["--unsolicited"])
