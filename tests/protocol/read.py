#!/usr/bin/env python3
"""Reads: Data-In under many negotiated sizes, every byte compared (RFC 7143 11.7)."""

import pdu as P
from common import case, main
from iscsi import add, inquiry, login, pattern, read10, serial_lt, test_unit_ready

KIB = 1024
TOTAL = 2048 * KIB


def fill(server):
    data = pattern(TOTAL, 5)
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        for at in range(0, TOTAL, 512 * KIB):
            s.write(at // 512, data[at:at + 512 * KIB])
    return data


SIZES = (512, 1024, 3584, 4096, 8192, 8704, 65536, 131072, 262144, 262656, 1000 * 512, 1024 * KIB)


@case
def combinations(server):
    data = fill(server)
    for dsl in (512, 4096, 8192, 65536, 262144, 16777215):
        for burst in (512, 8192, 65536, 262144, 1048576):
            if dsl == 512 and burst == 1048576:
                continue  # the same as with 262144, and many small PDUs
            keys = {"MaxRecvDataSegmentLength": dsl, "MaxBurstLength": burst}
            with login(server.portals[0], server.iqn(), keys=keys) as s:
                s.settle()
                for size in SIZES if dsl > 512 else SIZES[:8]:
                    at = (size * 3) % (TOTAL - size) // 512 * 512
                    got = s.read(at // 512, size // 512)
                    assert got == data[at:at + size], f"{keys} {size} bytes at {at} differ"


@case
def pieces_of_whole_words(server):
    """Only the last PDU of a sequence may need padding (RFC 7143 11.7.7), whatever was declared."""
    data = fill(server)
    for dsl, burst in ((1021, 65536), (513, 4095), (8191, 1021)):
        keys = {"MaxRecvDataSegmentLength": dsl, "MaxBurstLength": burst}
        with login(server.portals[0], server.iqn(), keys=keys) as s:
            s.settle()
            r = s.good(s.command(read10(0, 128), read=65536))
            assert r.data == data[:65536], keys
            for p in r.data_in:
                assert p.final or len(p.data) % 4 == 0, p


@case
def status_comes_with_the_last_data(server):
    """A read that ends well needs no response of its own (the S bit)."""
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        r = s.good(s.command(read10(0, 8), read=4096))
        assert r.response.opcode == P.DATA_IN, r.response
        assert len(r.data_in) == 1, r.data_in


@case
def sequences_end_at_max_burst(server):
    """F ends each sequence; none is longer than MaxBurstLength, none without need shorter."""
    keys = {"MaxRecvDataSegmentLength": 4096, "MaxBurstLength": 16384}
    with login(server.portals[0], server.iqn(), keys=keys) as s:
        s.settle()
        r = s.good(s.command(read10(0, 128), read=65536))
        finals = [p.offset + len(p.data) for p in r.data_in if p.final]
        assert finals == [16384, 32768, 49152, 65536], finals


@case
def reads_in_flight(server):
    """Many at once: each gets its own bytes."""
    data = fill(server)
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        sent = []
        for i in range(300):
            while serial_lt(s.maxcmdsn, s.cmdsn):
                check_one(s, data, *sent.pop(0))
            blocks = 1 + i * 7 % 64
            lba = i * 37 % (TOTAL // 512 - blocks)
            p = s.scsi_pdu(read10(lba, blocks), edtl=blocks * 512, read=True)
            s.send(p)
            sent.append((p, lba, blocks))
        for one in sent:
            check_one(s, data, *one)


def check_one(s, data, p, lba, blocks):
    r = s.good(s.finish(p, read=blocks * 512))
    assert r.data == data[lba * 512:(lba + blocks) * 512], f"{blocks} blocks at {lba} differ"


@case
def control_traffic_between_large_reads(server):
    """A ping behind a megabyte is answered, and nothing is torn apart."""
    data = fill(server)
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        sent = [s.start(read10(0, 2048), read=1024 * KIB) for _ in range(3)]
        ping = s.nop(b"between")
        s.check(s.recv_for(ping.itt), P.NOP_IN)
        for p in sent:
            r = s.good(s.finish(p, read=1024 * KIB))
            assert r.data == data[:1024 * KIB]


@case
def nothing_to_read(server):
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        r = s.good(s.command(read10(0, 0)))
        assert not r.data and r.flags & (P.UNDERFLOW | P.OVERFLOW) == 0, r
        assert s.command(test_unit_ready()).status == 0


@case
def beyond_the_end(server):
    """CHECK CONDITION, 05/21/00, no data, and everything expected is missing."""
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        for lba, blocks in ((0xFFFFFFFF, 1), (131072, 1), (131071, 2)):
            r = s.command(read10(lba, blocks), read=blocks * 512)
            assert r.status == 2 and r.sense_key == 5 and r.asc == (0x21, 0), r
            assert not r.data and r.flags & P.UNDERFLOW and r.residual == blocks * 512, r
        s.read(131071, 1)


@case
def data_from_parameters(server):
    with login(server.portals[0], server.iqn(), keys={"MaxRecvDataSegmentLength": 512}) as s:
        s.settle()
        r = s.good(s.command(inquiry(96), read=96))
        assert r.data[0] == 0 and len(r.data) >= 36, r


@case
def unknown_lun(server):
    """INQUIRY answers with no device there, others with LOGICAL UNIT NOT SUPPORTED."""
    with login(server.portals[0], server.iqn()) as s:
        r = s.good(s.command(inquiry(36), read=36, lun=9))
        assert r.data[0] == 0x7F, r
        r = s.command(test_unit_ready(), lun=9)
        assert r.status == 2 and r.sense_key == 5 and r.asc == (0x25, 0), r


@case
def statsn_of_reads_counts_statuses_only(server):
    with login(server.portals[0], server.iqn(), keys={"MaxRecvDataSegmentLength": 512}) as s:
        s.settle()
        before = s.expstatsn
        s.read(0, 64)
        s.read(0, 64)
        assert s.expstatsn == add(before, 2)


if __name__ == "__main__":
    main()
