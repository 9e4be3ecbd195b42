#!/usr/bin/env python3
"""Writes: immediate, unsolicited and solicited data under many negotiated sizes, every byte read
back (RFC 7143 11.3, 11.7, 11.8)."""

import itertools
import socket

import pdu as P
from common import case, main
from iscsi import Closed, login, pattern, read10, serial_lt, write10

KIB = 1024
SIZES = (512, 1024, 4096, 8704, 65536, 66048, 262144, 262656, 1024 * KIB)


def session(server, **keys):
    s = login(server.portals[0], server.iqn(), keys=keys)
    s.settle()
    return s


def negotiated(server):
    for immediate, first, burst, r2ts, initial in itertools.product(
            ("Yes", "No"), (512, 4096, 65536, 262144), (512, 8192, 65536, 1048576), (1, 4),
            ("Yes", "No")):
        if (r2ts, initial) == (4, "No") or (immediate == "No" and initial == "Yes" and first > 512):
            continue  # nothing new
        yield {"ImmediateData": immediate, "FirstBurstLength": first, "MaxBurstLength": burst,
               "MaxOutstandingR2T": r2ts, "InitialR2T": initial}


@case
def combinations(server):
    seed = 0
    for keys in negotiated(server):
        with session(server, **keys) as s:
            for size in SIZES if keys["MaxBurstLength"] > 512 else SIZES[:5]:
                seed += 1
                lba = seed * 331 % 60000
                data = pattern(size, seed)
                r = s.write(lba, data)
                expect = expected_r2ts(s, size)
                assert len(r.r2ts) >= expect, f"{keys} {size}: {len(r.r2ts)} R2Ts, {expect} needed"
                assert s.read(lba, size // 512) == data, f"{keys} {size} at {lba} differs"


def expected_r2ts(s, size):
    """At least so many, with what was sent unasked and none longer than a burst."""
    left = size - s.unsolicited(bytes(size))[1]
    return -(-left // s.params["MaxBurstLength"])


@case
def neighbours_stay(server):
    """A write changes its own blocks and no others."""
    with session(server) as s:
        ground = pattern(64 * KIB, 77)
        s.write(1000, ground)
        for size in (512, 4096, 8192 + 512):
            s.write(1000 + 16, pattern(size, 78))
            got = s.read(1000, 128)
            assert got == ground[:8192] + pattern(size, 78) + ground[8192 + size:]
            s.write(1000, ground)


@case
def small_data_out_pdus(server):
    """The initiator cuts a sequence as it likes."""
    with session(server, ImmediateData="No", MaxBurstLength=65536) as s:
        for segment in (4, 512, 516, 1000, 8192):
            data = pattern(16384, segment)
            p = s.start(write10(64, 32), write=data)
            s.good(s.finish(p, write=data, segment=segment))
            assert s.read(64, 32) == data, f"segments of {segment} bytes"


@case
def outstanding_r2ts_stay_within_the_limit(server):
    for limit in (1, 2, 4):
        keys = {"ImmediateData": "No", "MaxBurstLength": 4096, "MaxOutstandingR2T": limit}
        with session(server, **keys) as s:
            data = pattern(65536, limit)
            p = s.start(write10(0, 128), write=data)
            waiting = [s.expect(P.R2T, itt=p.itt)]
            while len(waiting) < limit + 2:
                s.sock.settimeout(0.3)
                try:
                    if not s.sock.recv(1, socket.MSG_PEEK):
                        s.fail("closed")
                except TimeoutError:
                    break
                waiting.append(s.expect(P.R2T, itt=p.itt))
            assert 1 <= len(waiting) <= limit, f"{len(waiting)} R2Ts, MaxOutstandingR2T={limit}"
            s.waiting[p.itt] = waiting
            s.good(s.finish(p, write=data))
            assert s.read(0, 128) == data


@case
def r2ts_of_several_writes_interleave(server):
    with session(server, ImmediateData="No", MaxBurstLength=16384) as s:
        payloads = [pattern(65536, i) for i in range(8)]
        sent = [s.start(write10(i * 128, 128), write=d) for i, d in enumerate(payloads)]
        for p, d in reversed(list(zip(sent, payloads))):
            s.good(s.finish(p, write=d))
        for i, d in enumerate(payloads):
            assert s.read(i * 128, 128) == d


@case
def data_of_two_commands_interleaves(server):
    """Data-Out PDUs of several commands take turns on the wire; each finds its own."""
    with session(server, ImmediateData="No", MaxBurstLength=65536) as s:
        payloads = [pattern(32768, 40 + i) for i in range(4)]
        sent = [s.start(write10(3000 + i * 64, 64), write=d) for i, d in enumerate(payloads)]
        tags = {}
        while len(tags) < 4:
            r2t = s.expect(P.R2T)
            assert (r2t.offset, r2t.length) == (0, 32768), r2t
            tags[r2t.itt] = r2t.ttt
        assert len(set(tags.values())) == 4, "two R2Ts of one tag"
        for i, at in enumerate(range(0, 32768, 2048)):
            for p, d in zip(sent, payloads):
                s.send(s.data_out(p, tags[p.itt], i, at, d[at:at + 2048], at + 2048 == 32768))
        for p in sent:
            s.good(s.finish(p))
        for i, d in enumerate(payloads):
            assert s.read(3000 + i * 64, 64) == d


@case
def writes_in_flight(server):
    with session(server) as s:
        sent, disk = [], bytearray(s.read(0, 2000))
        for i in range(300):
            while serial_lt(s.maxcmdsn, s.cmdsn):
                s.good(s.finish(sent.pop(0)[0], write=b""))
            blocks = 1 + i % 8
            lba = i * 6 % 1990
            while any(lba < l + n and l < lba + blocks for _, l, n in sent):
                s.good(s.finish(sent.pop(0)[0], write=b""))
            data = pattern(blocks * 512, i)
            sent.append((s.start(write10(lba, blocks), write=data), lba, blocks))
            disk[lba * 512:(lba + blocks) * 512] = data
        for p, _, _ in sent:
            s.good(s.finish(p, write=b""))
        assert s.read(0, 2000) == disk


@case
def beyond_the_end(server):
    with session(server) as s:
        last = pattern(512, 4)
        s.write(131071, last)
        for lba, blocks in ((131072, 1), (131071, 2), (0xFFFFFFFF, 8)):
            data = pattern(blocks * 512, 6)
            r = s.command(write10(lba, blocks), write=data)
            assert r.status == 2 and r.sense_key == 5 and r.asc == (0x21, 0), r
            assert not r.r2ts, "data was asked for in vain"
        assert s.read(131071, 1) == last
        s.ping()


@case
def write_of_nothing(server):
    with session(server) as s:
        r = s.good(s.command(write10(0, 0)))
        assert r.flags & (P.UNDERFLOW | P.OVERFLOW) == 0, r


@case
def with_fua(server):
    with session(server) as s:
        data = pattern(4096, 8)
        s.good(s.command(write10(8, 8, fua=True), write=data))
        r = s.good(s.command(read10(8, 8, fua=True), read=4096))
        assert r.data == data


UNSOLICITED, TOO_LITTLE, WRONG_PLACE = b"\x0c\x0c", b"\x0c\x0d", b"\x47\x05"


def refused(s, p, asc):
    """What breaks the rules of data ends the command with ABORTED COMMAND, and the session goes on."""
    a = s.expect(P.SCSI_RESPONSE, itt=p.itt, status=2)
    assert a.data[4] & 0xF == 0xB and a.data[14:16] == asc, a
    s.ping()


def bad_write(server, send, **keys):
    """`send` gets a session and what would be a fine write of 8 blocks at 5000."""
    ground = pattern(8192, 55)
    with session(server) as s:
        s.write(5000, ground)
    with session(server, **keys) as s:
        send(s, pattern(4096, 56))
    with session(server) as s:
        assert s.read(5000, 16) == ground, "a write against the rules changed the disk"


@case
def immediate_data_where_none_was_agreed(server):
    def send(s, data):
        p = s.scsi_pdu(write10(5000, 8), edtl=4096, write=True, data=data)
        s.send(p)
        refused(s, p, UNSOLICITED)

    bad_write(server, send, ImmediateData="No")


@case
def immediate_data_beyond_the_first_burst(server):
    def send(s, data):
        p = s.scsi_pdu(write10(5000, 8), edtl=4096, write=True, data=data)
        s.send(p)
        refused(s, p, UNSOLICITED)

    bad_write(server, send, FirstBurstLength=512)


@case
def immediate_data_beyond_the_expected_length(server):
    def send(s, data):
        p = s.scsi_pdu(write10(5000, 4), edtl=2048, write=True, data=data)
        s.send(p)
        refused(s, p, UNSOLICITED)

    bad_write(server, send)


@case
def unsolicited_data_where_none_was_agreed(server):
    """InitialR2T=Yes: after F=0 more unsolicited data would come."""
    def send(s, data):
        p = s.scsi_pdu(write10(5000, 8), edtl=4096, write=True, final=False, data=data[:512])
        s.send(p)
        s.send(s.data_out(p, P.NONE, 0, 512, data[512:], True))
        s.expect_reject(4, p)
        s.ping()

    bad_write(server, send)


def solicited(s, data):
    """A write whose data waits for an R2T, and the R2T."""
    p = s.scsi_pdu(write10(5000, 8), edtl=4096, write=True)
    s.send(p)
    return p, s.expect(P.R2T, itt=p.itt, offset=0, length=len(data))


@case
def data_out_with_another_tag(server):
    def send(s, data):
        p, r2t = solicited(s, data)
        bad = s.data_out(p, r2t.ttt ^ 0x55, 0, 0, data, True)
        s.send(bad)
        s.expect_reject(4, bad)
        s.expect_close()

    bad_write(server, send, ImmediateData="No")


@case
def data_out_at_another_offset(server):
    for offset in (512, 4096, 0xFFFFFE00):
        def send(s, data, offset=offset):
            p, r2t = solicited(s, data)
            s.send(s.data_out(p, r2t.ttt, 0, offset, data, True))
            refused(s, p, WRONG_PLACE)

        bad_write(server, send, ImmediateData="No")


@case
def data_out_beyond_what_was_asked(server):
    def send(s, data):
        p, r2t = solicited(s, data)
        s.send(s.data_out(p, r2t.ttt, 0, 0, data + data[:512], True))
        refused(s, p, WRONG_PLACE)

    bad_write(server, send, ImmediateData="No")


@case
def data_out_that_ends_early(server):
    def send(s, data):
        p, r2t = solicited(s, data)
        s.send(s.data_out(p, r2t.ttt, 0, 0, data[:2048], True))
        refused(s, p, TOO_LITTLE)

    # The first half may have reached the disk or not: blocks beyond it may not change.
    with session(server) as s:
        s.write(5004, pattern(2048, 57))
    with session(server, ImmediateData="No") as s:
        send(s, pattern(4096, 56))
    with session(server) as s:
        assert s.read(5004, 4) == pattern(2048, 57)


@case
def data_out_with_a_gap_in_datasn(server):
    def send(s, data):
        p, r2t = solicited(s, data)
        s.send(s.data_out(p, r2t.ttt, 1, 0, data, True))
        refused(s, p, WRONG_PLACE)

    bad_write(server, send, ImmediateData="No")


@case
def r2ts_answered_in_another_order(server):
    """DataSequenceInOrder=Yes: refused, or put where it belongs; never somewhere else."""
    with session(server, ImmediateData="No", MaxBurstLength=4096, MaxOutstandingR2T=4) as s:
        ground, data = pattern(16384, 59), pattern(16384, 60)
        s.write(7000, ground)
        p = s.start(write10(7000, 32), write=data)
        r2ts = [s.expect(P.R2T, itt=p.itt)]
        while len(r2ts) < 4:
            try:
                r2ts.append(s.expect(P.R2T, 1, itt=p.itt))
            except AssertionError:
                break
        try:
            for a in reversed(r2ts):
                s.send_burst(p, a.ttt, data, a.offset, a.length)
            while True:
                a = s.recv(2)
                if a.opcode == P.SCSI_RESPONSE:
                    break
        except (Closed, AssertionError, OSError):
            a = None
    with session(server) as s:
        got = s.read(7000, 32)
        if a is not None and a.status == 0:
            assert got == data
        for at in range(0, 16384, 512):
            here = got[at:at + 512]
            assert here in (data[at:at + 512], ground[at:at + 512]), f"other data at {at}"


@case
def data_out_for_nothing(server):
    """Without a command of that tag: rejected or swallowed, and never written."""
    with session(server) as s:
        p = s.scsi_pdu(write10(0, 8), edtl=4096, write=True)
        s.send(s.data_out(p, 0x1234, 0, 0, b"z" * 512, True))
        try:
            s.recv(1)
        except (Closed, AssertionError):
            pass
    with session(server) as s:
        s.ping()


if __name__ == "__main__":
    main()
