#!/usr/bin/env python3
"""Header and data digests, right and wrong (RFC 7143 7.8, 13.1)."""

import itertools

import pdu as P
from common import case, main
from iscsi import login, pattern, read10, write10

WRONG = b"\xde\xad\xbe\xef"


def session(server, header="None", data="None", **more):
    keys = {"HeaderDigest": header, "DataDigest": data, **more}
    s = login(server.portals[0], server.iqn(), keys=keys)
    assert s.header_digest == (header == "CRC32C") and s.data_digest == (data == "CRC32C")
    s.settle()
    return s


@case
def all_pairs(server):
    """Every PDU that comes back is checked as it is read."""
    for header, data in itertools.product(("None", "CRC32C"), repeat=2):
        for immediate in ("Yes", "No"):
            with session(server, header, data, ImmediateData=immediate, MaxBurstLength=8192,
                         MaxRecvDataSegmentLength=4096) as s:
                for i, size in enumerate((512, 4096, 9216, 20480)):
                    block = pattern(size, i)
                    s.write(i * 100, block)
                    assert s.read(i * 100, size // 512) == block
                for n in (0, 1, 2, 3, 5):
                    s.ping(b"p" * n)
                assert s.text_whole({"X-k": "v"}) == [("X-k", "NotUnderstood")]
                s.logout()
                s.expect_close()


@case
def large_blocks(server):
    with session(server, "CRC32C", "CRC32C") as s:
        block = pattern(512 * 1024, 11)
        s.write(0, block)
        assert s.read(0, 1024) == block


@case
def wrong_header_digest_ends_the_connection(server):
    """Where the PDU ends is not known any more: nothing after it can be trusted."""
    for spoil in ("digest", "header"):
        with session(server, "CRC32C") as s:
            p = s.scsi_pdu(read10(0, 8), edtl=4096, read=True)
            if spoil == "digest":
                s.send(p, header_digest=WRONG)
            else:
                good = P.digest(bytes(p.bhs))
                p.bhs[35] ^= 1
                s.send(p, header_digest=good)
            assert s.is_closed(), "the connection stays open"


@case
def wrong_header_digest_writes_nothing(server):
    ground = pattern(4096, 21)
    with session(server) as s:
        s.write(700, ground)
    with session(server, "CRC32C") as s:
        p = s.scsi_pdu(write10(700, 8), edtl=4096, write=True, data=pattern(4096, 22))
        s.send(p, header_digest=WRONG)
        assert s.is_closed()
    with session(server) as s:
        assert s.read(700, 8) == ground


def wrong_data(server, send, **keys):
    """Bytes under a wrong digest never reach the disk and never end in GOOD. The session survives
    or its connection ends."""
    ground = pattern(8192, 23)
    with session(server) as s:
        s.write(800, ground)
    with session(server, "None", "CRC32C", **keys) as s:
        send(s, pattern(4096, 24))
    with session(server) as s:
        assert s.read(800, 16) == ground


def judge(s, p):
    """A Reject for the digest first. Where the command itself is lost its number is, too, and the connection ends;
    where some of its Data-Out is, it ends with CHECK CONDITION 0B/47/05, and the session goes on."""
    s.expect(P.REJECT, reason=2)
    if p.data:
        s.expect_close()
        return
    a = s.expect(P.SCSI_RESPONSE, itt=p.itt, status=2)
    assert a.data[4] & 0xF == 0xB and a.data[14:16] == b"\x47\x05", a
    s.ping()


@case
def wrong_data_digest_of_immediate_data(server):
    def send(s, data):
        p = s.scsi_pdu(write10(800, 8), edtl=4096, write=True, data=data)
        s.send(p, data_digest=WRONG)
        judge(s, p)

    wrong_data(server, send)


@case
def wrong_data_digest_of_data_out(server):
    def send(s, data):
        p = s.scsi_pdu(write10(800, 8), edtl=4096, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        s.send(s.data_out(p, r2t.ttt, 0, 0, data, True), data_digest=WRONG)
        judge(s, p)

    wrong_data(server, send, ImmediateData="No")


@case
def wrong_data_digest_in_the_last_of_many(server):
    """One bad piece spoils the write: GOOD must not come, blocks of that piece stay."""
    ground = pattern(4096, 25)
    with session(server) as s:
        s.write(900, ground)
    with session(server, "None", "CRC32C", ImmediateData="No") as s:
        data = pattern(4096, 26)
        p = s.scsi_pdu(write10(900, 8), edtl=4096, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        for i in range(8):
            out = s.data_out(p, r2t.ttt, i, i * 512, data[i * 512:(i + 1) * 512], i == 7)
            s.send(out, data_digest=WRONG if i == 7 else None)
        judge(s, p)
    with session(server) as s:
        assert s.read(907, 1) == ground[7 * 512:], "the bad piece is on the disk"


@case
def wrong_data_digest_of_large_pieces(server):
    """Large payloads may be read straight to where they go: not to the disk before their digest."""
    ground = pattern(262144, 27)
    for immediate in ("Yes", "No"):
        with session(server) as s:
            s.write(2000, ground)
        with session(server, "None", "CRC32C", ImmediateData=immediate, MaxBurstLength=1048576,
                     FirstBurstLength=262144) as s:
            data = pattern(262144, 28)
            if immediate == "Yes":
                p = s.scsi_pdu(write10(2000, 512), edtl=262144, write=True, data=data)
                s.send(p, data_digest=WRONG)
            else:
                p = s.scsi_pdu(write10(2000, 512), edtl=262144, write=True)
                s.send(p)
                r2t = s.expect(P.R2T, itt=p.itt)
                s.send(s.data_out(p, r2t.ttt, 0, 0, data[:131072], False))
                s.send(s.data_out(p, r2t.ttt, 1, 131072, data[131072:r2t.length], True),
                       data_digest=WRONG)
            judge(s, p)
        with session(server) as s:
            got = s.read(2000, 512)
            assert got[131072:] == ground[131072:], f"bad data on the disk, {immediate}"
            assert got[:131072] in (ground[:131072], pattern(262144, 28)[:131072])


@case
def wrong_padding_digest(server):
    """The digest covers the padding, too."""
    with session(server, "None", "CRC32C") as s:
        p = s.request(P.NOP_OUT, immediate=True, data=b"abcde", ttt=P.NONE)
        s.send(p, data_digest=P.digest(b"abcde"))
        s.expect_reject(2, p)


@case
def wrong_data_digest_of_a_ping(server):
    """Not an answer with bad data: a Reject, and the end."""
    with session(server, "None", "CRC32C") as s:
        p = s.nop(b"fine")
        s.expect(P.NOP_IN, itt=p.itt)
        p = s.request(P.NOP_OUT, immediate=True, data=b"spoilt", ttt=P.NONE)
        s.send(p, data_digest=WRONG)
        s.expect_reject(2, p)
        s.expect_close()


if __name__ == "__main__":
    main()
