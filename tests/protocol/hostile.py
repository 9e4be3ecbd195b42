#!/usr/bin/env python3
"""What no initiator sends: strangers, torn PDUs, wrong opcodes, lengths that lie. The server goes on
serving, and forgets nothing and nobody."""

import random
import socket
import time

import pdu as P
from common import Spindle, case, main
from iscsi import Closed, Conn, login, pattern, read10, test_unit_ready, write10


def session(server, **more):
    s = login(server.portals[0], server.iqn(), **more)
    s.settle()
    return s


def alive(server):
    with session(server) as s:
        s.ping()


def rejected_or_closed(s, reasons):
    """True: rejected, and the connection lives."""
    try:
        p = s.recv()
    except Closed:
        return False
    s.check(p, P.REJECT)
    if p.reason not in reasons:
        s.fail(f"rejected with {p.reason:#x}")
    return True


@case
def http_on_the_port(server):
    for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, b"\xff" * 4096, bytes(4096),
                 b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(600), b"\x43" + b"\xff" * 600):
        with Conn(server.portals[0]) as c:
            c.send_raw(junk)
            assert c.is_closed(), f"{junk[:20]!r}... keeps its connection"
    alive(server)


@case
def closed_at_once(server):
    for _ in range(50):
        Conn(server.portals[0]).close()
    alive(server)


@case
def reset_at_any_byte(server):
    """A login, a command and data, cut off after each of many lengths."""
    c = Conn(server.portals[0])
    login_bytes = c.login_pdu({"InitiatorName": "iqn.a.b:c", "TargetName": server.iqn()},
                              nsg=P.FULL_FEATURE).pack()
    c.close()
    for n in list(range(0, 64, 5)) + [len(login_bytes) - 1, len(login_bytes)]:
        with Conn(server.portals[0]) as c:
            c.send_raw(login_bytes[:n])
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    write = bytes(P.Pdu(P.SCSI_COMMAND, pattern(4096), flags=P.FINAL | P.WRITE, edtl=4096, itt=9,
                        cmdsn=1, cdb=write10(600, 8)).pack())
    with session(server) as s:
        ground = pattern(4096, 31)
        s.write(600, ground)
    for n in (1, 47, 48, 49, 500, 4000, 4143):
        with login(server.portals[0], server.iqn()) as s:
            s.send_raw(write[:n])
    with session(server) as s:
        assert s.read(600, 8) == ground, "a torn write changed the disk"


@case
def large_payload_torn(server):
    """The connection ends amid a payload that is read straight to its place: the disk keeps what
    it had, and the place is not lost."""
    ground, data = pattern(262144, 32), pattern(262144, 33)
    with session(server) as s:
        s.write(3000, ground)
    for n in (20000, 65536, 131072, 262143):
        with session(server, keys={"FirstBurstLength": 262144}) as s:
            p = s.scsi_pdu(write10(3000, 512), edtl=262144, write=True, data=data)
            s.send_raw(p.pack()[:48 + n])
            time.sleep(0.01)
        with session(server, keys={"ImmediateData": "No"}) as s:
            p = s.scsi_pdu(write10(3000, 512), edtl=262144, write=True)
            s.send(p)
            r2t = s.expect(P.R2T, itt=p.itt)
            s.send_raw(s.data_out(p, r2t.ttt, 0, 0, data, True).pack()[:48 + n])
    with session(server) as s:
        assert s.read(3000, 512) == ground, "a torn payload is on the disk"


@case
def byte_by_byte(server):
    """The slowest initiator is served as well."""
    with Conn(server.portals[0]) as c:
        raw = c.login_pdu({"InitiatorName": "iqn.a.b:slow", "TargetName": server.iqn()},
                          nsg=P.FULL_FEATURE).pack()
        for i in range(len(raw)):
            c.send_raw(raw[i:i + 1])
        c.expect(P.LOGIN_RESPONSE, status=0)
        raw = P.Pdu(P.NOP_OUT, b"slow", immediate=True, flags=P.FINAL, itt=5, ttt=P.NONE, cmdsn=1,
                    expstatsn=c.expstatsn).pack()
        for i in range(len(raw)):
            c.send_raw(raw[i:i + 1])
        assert c.expect(P.NOP_IN, itt=5).data == b"slow"


@case
def many_pdus_in_one_piece(server):
    with session(server) as s:
        raw, tags = b"", []
        for i in range(100):
            p = s.request(P.NOP_OUT, immediate=True, data=b"d" * i, ttt=P.NONE)
            raw += p.pack()
            tags.append(p.itt)
        s.send_raw(raw)
        for i, itt in enumerate(tags):
            assert len(s.expect(P.NOP_IN, itt=itt).data) == i


@case
def unknown_opcodes(server):
    for opcode in (0x07, 0x0F, 0x11, 0x1C, 0x1F, 0x3E):
        with session(server) as s:
            p = P.Pdu(opcode, immediate=True, flags=P.FINAL, itt=0x99)
            p.bhs[24:28] = s.cmdsn.to_bytes(4, "big")
            s.send(p)
            if rejected_or_closed(s, (4, 5)):
                s.ping()
    alive(server)


@case
def opcodes_of_targets(server):
    for opcode in (P.NOP_IN, P.SCSI_RESPONSE, P.LOGIN_RESPONSE, P.DATA_IN, P.R2T, P.REJECT):
        with session(server) as s:
            s.send(P.Pdu(opcode, flags=P.FINAL, itt=0x99))
            if rejected_or_closed(s, (4, 5)):
                s.ping()
    alive(server)


@case
def login_again(server):
    with session(server) as s:
        s.send(s.login_pdu({"InitiatorName": "iqn.a.b:c"}, nsg=P.FULL_FEATURE, tsih=s.tsih))
        rejected_or_closed(s, (4,))
    alive(server)


@case
def snack_without_recovery(server):
    with session(server) as s:
        s.send(P.Pdu(P.SNACK, flags=P.FINAL, itt=1, ttt=P.NONE, expstatsn=s.expstatsn))
        rejected_or_closed(s, (3, 4, 5))
    alive(server)


@case
def data_segment_longer_than_declared(server):
    for length, digest in ((262145, "None"), (0xFFFFFF, "None"), (262145, "CRC32C"),
                           (0xFFFFFF, "CRC32C")):
        with session(server, keys={"HeaderDigest": digest}) as s:
            p = P.Pdu(P.SCSI_COMMAND, flags=P.FINAL | P.WRITE, edtl=length, itt=1, cmdsn=s.cmdsn,
                      cdb=write10(0, 512))
            p.dsl = length
            s.send(p)
            rejected_or_closed(s, (4, 9))
            assert s.is_closed(), f"waits for {length} bytes"
    alive(server)


@case
def additional_headers(server):
    """AHS of a kind nobody knows, and one that reaches beyond itself."""
    for ahs in (b"\x00\x05\x3f" + bytes(5), b"\xff\xff\x01" + bytes(5), bytes(1020),
                b"\x00\x15\x01\x00" + bytes(20)):
        with session(server) as s:
            p = s.scsi_pdu(test_unit_ready(), ahs=ahs)
            s.send(p)
            try:
                a = s.recv()
            except Closed:
                continue
            assert a.opcode in (P.REJECT, P.SCSI_RESPONSE), a
            s.ping()
    alive(server)


@case
def same_task_tag_twice(server):
    """A tag that is in use: rejected (task in progress, protocol error), or run beside the other."""
    with session(server, keys={"ImmediateData": "No"}) as s:
        p = s.scsi_pdu(write10(0, 8), edtl=4096, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        again = s.scsi_pdu(write10(0, 8), edtl=4096, write=True, itt=p.itt)
        s.send(again)
        try:
            a = s.recv(1)
            assert a.opcode in (P.REJECT, P.R2T, P.SCSI_RESPONSE), a
            s.send(s.data_out(p, r2t.ttt, 0, 0, pattern(4096), True))
            s.recv()
        except (Closed, AssertionError, OSError):
            pass
    alive(server)


@case
def command_with_the_reserved_tag(server):
    with session(server) as s:
        s.send(s.scsi_pdu(test_unit_ready(), itt=P.NONE))
        try:
            a = s.recv(2)
            assert a.opcode in (P.REJECT, P.SCSI_RESPONSE), a
        except (Closed, AssertionError):
            pass
    alive(server)


@case
def never_reads_its_answers(server):
    """An initiator that sends reads and takes nothing does not hold up others."""
    with session(server) as deaf, session(server, isid=77) as s:
        for _ in range(32):
            deaf.send(deaf.scsi_pdu(read10(0, 2048), edtl=1 << 20, read=True))
        for i in range(4096, 4146):  # not where the other reads: that would be a race
            data = pattern(4096, i)
            s.write(i, data)
            assert s.read(i, 8) == data
        s.ping()
        assert server.rss_bytes() < 1 << 30
    alive(server)


@case
def never_sends_its_data(server):
    with session(server, keys={"ImmediateData": "No"}) as stuck, session(server, isid=78) as s:
        p = stuck.scsi_pdu(write10(2000, 8), edtl=4096, write=True)
        stuck.send(p)
        stuck.expect(P.R2T, itt=p.itt)
        data = pattern(4096, 5)
        s.write(2000, data)
        assert s.read(2000, 8) == data
        stuck.ping()


@case
def echoes_that_nobody_reads(server):
    """Pings with large data, and never a look at what comes back: the server stops reading, and
    holds a bounded amount."""
    with session(server) as deaf, session(server, isid=79) as s:
        before = server.rss_bytes()
        deaf.sock.settimeout(1)
        p = deaf.request(P.NOP_OUT, immediate=True, data=bytes(262144), ttt=P.NONE).pack()
        try:
            for _ in range(400):
                deaf.sock.sendall(p)
        except (TimeoutError, OSError):
            pass
        else:
            deaf.fail("100 MiB were taken in")
        s.ping()
        grown = server.rss_bytes() - before
        assert grown < 64 << 20, f"{grown >> 20} MiB more"
    alive(server)


@case
def texts_that_nobody_reads(_):
    """The same with answers to SendTargets, which are long where there are many targets: some 200
    of them are what the server holds, in 1.6 MB of requests and what fits the sockets."""
    with Spindle(*["ram:1M"] * 300) as server, login(server.portals[0], discovery=True) as deaf:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        deaf.sock.settimeout(1)
        p = deaf.request(P.TEXT_REQUEST, immediate=True, ttt=P.NONE,
                         data=b"SendTargets=All\0".ljust(8000, b"\0")).pack()
        taken = 0
        try:
            while taken < 64 << 20:
                taken += deaf.sock.send(p[taken % len(p):])
        except (TimeoutError, OSError):
            pass
        assert taken < 12 << 20, f"{taken >> 20} MiB of requests were taken in"
        with login(server.portals[0], server.iqn()) as s:
            s.ping()


@case
def statuses_never_acknowledged(server):
    """ExpStatSN stands still: nothing is kept for it without bound."""
    with session(server) as s:
        s.read(0, 8)
        before = server.rss_bytes()
        for _ in range(5000):
            p = s.scsi_pdu(test_unit_ready())
            p.expstatsn = 1
            s.send(p)
            s.expect(P.SCSI_RESPONSE, itt=p.itt)
        grown = server.rss_bytes() - before
        assert grown < 32 << 20, f"{grown >> 20} MiB more"
        s.ping()


@case
def statuses_acknowledged_before_they_came(server):
    with session(server) as s:
        for ahead in (1, 1000, 0x7FFFFFFF, 0x80000000):
            p = s.scsi_pdu(test_unit_ready())
            p.expstatsn = (p.expstatsn + ahead) & 0xFFFFFFFF
            s.send(p)
            try:
                s.expect(P.SCSI_RESPONSE, itt=p.itt)
            except Closed:
                break
    alive(server)


@case
def reads_and_writes_at_once(server):
    """R and W both set, without the additional header that says how much comes back."""
    with session(server) as s:
        ground = s.read(100, 8)
        for cdb in (read10(100, 8), write10(100, 8)):
            p = s.scsi_pdu(cdb, edtl=4096, read=True, write=True)
            s.send(p)
            try:
                while True:
                    a = s.recv(2)
                    if a.opcode == P.R2T:
                        s.send(s.data_out(p, a.ttt, 0, a.offset, ground[:a.length], True))
                    elif a.opcode != P.DATA_IN or a.flags & P.STATUS:
                        break
            except Closed:
                break
    with session(server) as s:
        assert s.read(100, 8) == ground


@case
def every_task_attribute(server):
    with session(server) as s:
        for attr in range(8):
            p = s.scsi_pdu(test_unit_ready(), attr=attr)
            s.send(p)
            try:
                a = s.recv()
            except Closed:
                break
            assert a.opcode in (P.SCSI_RESPONSE, P.REJECT), a
    alive(server)


@case
def many_connections(server):
    """Hundreds that say nothing do not keep one out that has something to say."""
    quiet = []
    try:
        for _ in range(600):
            quiet.append(Conn(server.portals[0]))
        alive(server)
    finally:
        for c in quiet:
            c.close()
    alive(server)


@case
def random_pdus(server):
    """Random headers in the full feature phase and before it, seeded."""
    rng = random.Random(7)
    for i in range(150):
        with Conn(server.portals[0]) if i % 3 == 0 else login(server.portals[0],
                                                              server.iqn()) as c:
            try:
                for _ in range(rng.randrange(1, 6)):
                    raw = bytearray(rng.randbytes(48))
                    if rng.random() < 0.8:
                        raw[0] = rng.choice((0, 1, 2, 3, 4, 5, 6, 0x10, 0x40, 0x41, 0x42, 0x43,
                                             0x44, 0x46))
                        raw[4:8] = bytes([0, 0, rng.randrange(2), rng.randrange(256)])
                        raw[24:28] = (c.cmdsn + rng.randrange(3)).to_bytes(4, "big")
                    raw += rng.randbytes(rng.randrange(0, 600))
                    c.sock.sendall(raw)
            except OSError:
                pass
    alive(server)


@case
def random_login_texts(server):
    rng = random.Random(8)
    keys = ["InitiatorName", "TargetName", "SessionType", "HeaderDigest", "MaxBurstLength",
            "FirstBurstLength", "AuthMethod", "X-y", "=", "", "SendTargets"]
    for _ in range(150):
        with Conn(server.portals[0]) as c:
            text = b""
            for _ in range(rng.randrange(8)):
                value = rng.choice((b"Yes", b"No", b"None", b"512", b"", server.iqn().encode(),
                                    rng.randbytes(5), b"x" * 300))
                text += rng.choice(keys).encode() + b"=" + value + rng.choice((b"\0", b"\0", b""))
            p = c.login_pdu(data=text, csg=rng.choice((0, 1, 1, 2, 3)),
                            nsg=rng.choice((None, 1, 3, 3)), cont=rng.random() < 0.2)
            c.send(p)
            try:
                a = c.recv()
                assert a.opcode in (P.LOGIN_RESPONSE, P.REJECT), a
            except Closed:
                pass
    alive(server)


@case
def half_open_is_let_go(server):
    """Who connects and says nothing, or stops halfway, is gone within the login's 15 s."""
    quiet, halfway, staying = (Conn(server.portals[0]) for _ in range(3))
    halfway.send_raw(b"\x43\x87" + bytes(20))
    staying.login_step({"InitiatorName": "iqn.a.b:c", "TargetName": server.iqn()})
    started = time.monotonic()
    for c in (quiet, halfway, staying):
        left = max(1, started + 25 - time.monotonic())
        assert c.is_closed(left), "a half-open connection is kept"
        assert time.monotonic() - started > 3, "given up too early"
        c.close()
    alive(server)


if __name__ == "__main__":
    main()
