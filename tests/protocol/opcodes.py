#!/usr/bin/env python3
"""
Every opcode in every phase of a connection, every reason of a Reject, every kind of additional header. What there is
comes from src/iscsi/proto.h: a value that is added there and proven by no case here fails `nothing_is_missing`.
"""

import os
import re

import pdu as P
from common import HERE, case, main
from iscsi import INITIATOR, Conn, LoginRefused, Session, login, pattern, read10, test_unit_ready, write10

SOURCE = os.path.join(os.path.dirname(os.path.dirname(HERE)), "src", "iscsi")

DATA_DIGEST, SNACK, PROTOCOL_ERROR, NOT_SUPPORTED, IMMEDIATE, TASK_IN_PROGRESS = 2, 3, 4, 5, 6, 7
INVALID_FIELD = 9
INITIATOR_ERROR, INVALID_REQUEST = 0x0200, 0x020B

# RFC 7143 11.17.1: those that no request can bring about, and why.
NEVER = {
    0x08: "invalid data ack: Data ACK is a SNACK, and those end in 0x03 at recovery level 0",
    0x0A: "long operation: what takes long is a SCSI command, and SCSI tells of it",
    0x0B: "deprecated: it was for a negotiation that is begun anew, which is no error any more",
    0x0C: "waiting for logout: what comes behind the end of service is not answered at all",
}
REQUESTS = (P.NOP_OUT, P.SCSI_COMMAND, P.TMF_REQUEST, P.LOGIN_REQUEST, P.TEXT_REQUEST, P.DATA_OUT,
            P.LOGOUT_REQUEST, P.SNACK)
# Of a target: what the cases here see of each. Others name it in a script of theirs.
ANSWERS = (P.NOP_IN, P.SCSI_RESPONSE, P.TMF_RESPONSE, P.LOGIN_RESPONSE, P.TEXT_RESPONSE, P.DATA_IN,
           P.LOGOUT_RESPONSE, P.R2T, P.REJECT)
OTHERS = {P.ASYNC: "ASYNC"}

reasons_seen = set()
answers_seen = set()


class Watches:
    def recv(self, timeout_s=None):
        p = super().recv(timeout_s)
        answers_seen.add(p.opcode)
        if p.opcode == P.REJECT:
            reasons_seen.add(p.reason)
        return p


class Watched(Watches, Conn):
    pass


class WatchedSession(Watches, Session):
    pass


def session(server, **more):
    s = login(server.portals[0], server.iqn(), cls=WatchedSession, **more)
    s.settle()
    return s


def discovery(server):
    return login(server.portals[0], discovery=True, cls=WatchedSession)


def anything(c, opcode, immediate, data=b""):
    """A PDU of this opcode that is as right as one can be that is meant for every opcode."""
    p = P.Pdu(opcode, data, immediate=immediate, flags=P.FINAL, itt=c.next_itt())
    p.bhs[20:24] = b"\xff" * 4  # the target transfer tag, where there is one
    if opcode == P.LOGOUT_REQUEST:
        p.bhs[20:24] = bytes(4)
    if opcode == P.TMF_REQUEST:
        p.flags = P.FINAL | 2
    p.bhs[24:28] = c.cmdsn.to_bytes(4, "big")
    p.bhs[28:32] = (c.expstatsn or 0).to_bytes(4, "big")
    return p


def alive(server):
    with session(server) as s:
        s.ping()


# ---- before and in the login

@case
def before_the_login(server):
    """RFC 7143 6.3: nothing but a login request may come first, and there is nobody to answer to."""
    for opcode in range(64):
        if opcode == P.LOGIN_REQUEST:
            continue
        for immediate in (False, True):
            with Watched(server.portals[0]) as c:
                c.send(anything(c, opcode, immediate))
                c.expect_close()
    alive(server)


@case
def in_each_stage_of_the_login(server):
    names = {"InitiatorName": INITIATOR, "TargetName": server.iqn()}
    for stage in (P.SECURITY, P.OPERATIONAL):
        for opcode in range(64):
            if opcode == P.LOGIN_REQUEST:
                continue
            with Watched(server.portals[0]) as c:
                c.login_step(names, csg=stage)
                c.send(anything(c, opcode, opcode % 2 == 0))
                c.expect(P.LOGIN_RESPONSE, status=INVALID_REQUEST)
                c.expect_close()
    alive(server)


@case
def behind_the_last_login_request(server):
    """What comes in one piece with it, before its answer, is for the session."""
    names = {"InitiatorName": INITIATOR, "TargetName": server.iqn()}
    for opcode, answer in ((P.NOP_OUT, P.NOP_IN), (P.SCSI_COMMAND, P.SCSI_RESPONSE), (0x1F, P.REJECT)):
        with Watched(server.portals[0]) as c:
            ahead = anything(c, opcode, True)
            c.send_raw(c.login_pdu(names, nsg=P.FULL_FEATURE).pack() + ahead.pack())
            c.expect(P.LOGIN_RESPONSE, status=0)
            c.expect(answer)


# ---- the full feature phase

ANSWER_OF = {P.NOP_OUT: P.NOP_IN, P.SCSI_COMMAND: P.SCSI_RESPONSE, P.TMF_REQUEST: P.TMF_RESPONSE,
             P.TEXT_REQUEST: P.TEXT_RESPONSE, P.LOGOUT_REQUEST: P.LOGOUT_RESPONSE}
REASON_OF = {P.LOGIN_REQUEST: PROTOCOL_ERROR, P.SNACK: SNACK}
ENDS = (P.LOGIN_REQUEST, P.LOGOUT_REQUEST)


def one_in_full_feature(s, opcode, immediate, data=b""):
    """Numbered ones take their number; others must not."""
    p = anything(s, opcode, immediate, data)
    if opcode in ANSWER_OF and not immediate:
        s.cmdsn = (s.cmdsn + 1) & 0xFFFFFFFF
    s.send(p)
    if opcode == P.DATA_OUT:
        s.ping()  # of no task: it may be the rest of an aborted one, and is thrown away
        return
    if opcode in ANSWER_OF:
        a = s.expect(ANSWER_OF[opcode], itt=p.itt)
        assert a.expcmdsn == s.cmdsn, a
    else:
        s.expect_reject(REASON_OF.get(opcode, NOT_SUPPORTED), p)
    if opcode in ENDS:
        s.expect_close()
    else:
        s.ping()


@case
def in_the_full_feature_phase(server):
    s = session(server)
    for opcode in range(64):
        for immediate in (False, True):
            one_in_full_feature(s, opcode, immediate)
            if opcode in ENDS:
                s.close()
                s = session(server)
    s.close()


@case
def with_data_that_does_not_belong(server):
    """A data segment is taken off the stream whatever the opcode, rejected or not."""
    s = session(server, keys={"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"})
    for opcode in range(64):
        if opcode in (P.SCSI_COMMAND, P.TEXT_REQUEST):
            continue
        for data in (b"x", pattern(1021), pattern(40000)):
            one_in_full_feature(s, opcode, True, data)
            if opcode in ENDS:
                s.close()
                s = session(server, keys={"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"})
    p = s.scsi_pdu(test_unit_ready(), data=b"data of a command that writes nothing")
    s.send(p)
    s.expect_reject(PROTOCOL_ERROR, p)
    s.ping()
    s.close()


@case
def with_the_reserved_bit_of_the_opcode(server):
    with session(server) as s:
        p = s.request(P.NOP_OUT, immediate=True, data=b"ping", ttt=P.NONE)
        p.bhs[0] |= 0x80
        s.send(p)
        s.expect(P.NOP_IN, itt=p.itt)


@case
def in_a_discovery_session(server):
    for opcode in range(64):
        with discovery(server) as s:
            p = anything(s, opcode, opcode % 2 == 0)
            if opcode in ANSWER_OF and not p.immediate:
                s.cmdsn += 1
            s.send(p)
            if opcode in (P.NOP_OUT, P.TEXT_REQUEST, P.LOGOUT_REQUEST):
                s.expect(ANSWER_OF[opcode], itt=p.itt)
            elif opcode in (P.SCSI_COMMAND, P.TMF_REQUEST, P.SNACK, P.LOGIN_REQUEST):
                s.expect_reject(PROTOCOL_ERROR, p)
            else:
                s.expect_reject(NOT_SUPPORTED, p)
            if opcode in ENDS:
                s.expect_close()
            elif opcode not in (P.SCSI_COMMAND, P.TMF_REQUEST):  # a number that was rejected is missing
                s.ping()


@case
def after_the_logout(server):
    """In one piece with it: nothing that follows is looked at."""
    for opcode in range(64):
        with session(server) as s:
            out = s.request(P.LOGOUT_REQUEST, immediate=True, cid=0)
            s.send_raw(out.pack() + anything(s, opcode, opcode % 2 == 0).pack())
            s.expect(P.LOGOUT_RESPONSE, itt=out.itt, response=0)
            assert s.is_closed(), "the connection stays open"
    alive(server)


# ---- reasons of a Reject that no opcode brings about

@case
def data_digest_error(server):
    """What has a number leaves a hole in the numbering, so the connection ends; a Data-Out does not."""
    for opcode in (P.NOP_OUT, P.SCSI_COMMAND, P.TEXT_REQUEST):
        with session(server, keys={"DataDigest": "CRC32C"}) as s:
            p = s.scsi_pdu(write10(0, 1), 512, write=True, data=bytes(512)) if opcode == P.SCSI_COMMAND \
                else s.request(opcode, ttt=P.NONE, data=b"X-a=b\0")
            s.send(p, data_digest=b"\xde\xad\xbe\xef")
            s.expect_reject(DATA_DIGEST, p)
            s.expect_close()
    with session(server, keys={"DataDigest": "CRC32C", "ImmediateData": "No"}) as s:
        p = s.scsi_pdu(write10(0, 1), 512, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        out = s.data_out(p, r2t.ttt, 0, 0, bytes(512), True)
        s.send(out, data_digest=b"\xde\xad\xbe\xef")
        s.expect_reject(DATA_DIGEST, out)
        a = s.expect(P.SCSI_RESPONSE, itt=p.itt, status=2)
        assert a.data[4] & 0xF == 0xB and a.data[14:16] == b"\x47\x05", a
        s.ping()


@case
def too_many_immediate_commands(server):
    with session(server, keys={"ImmediateData": "No"}) as s:
        sent = []
        for _ in range(100):
            p = s.scsi_pdu(write10(0, 1), 512, write=True, immediate=True)
            s.send(p)
            a = s.recv()
            if a.opcode == P.REJECT:
                s.check(a, P.REJECT, reason=IMMEDIATE)
                break
            s.check(a, P.R2T, itt=p.itt)
            sent.append((p, a))
        else:
            s.fail("100 immediate commands at a time")
        assert len(sent) >= 8, len(sent)
        s.ping()
        for p, r2t in sent:
            s.send(s.data_out(p, r2t.ttt, 0, 0, bytes(512), True))
            s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        s.good(s.command(test_unit_ready(), immediate=True))


@case
def tag_in_use(server):
    with session(server, keys={"ImmediateData": "No"}) as s:
        p = s.scsi_pdu(write10(0, 1), 512, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        for immediate in (False, True):
            again = s.scsi_pdu(read10(0, 1), 512, read=True, immediate=immediate, itt=p.itt)
            s.send(again)
            s.expect_reject(TASK_IN_PROGRESS, again)
        s.send(s.data_out(p, r2t.ttt, 0, 0, bytes(512), True))
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        s.good(s.command(read10(0, 1), read=512))


@case
def fields_that_cannot_be(server):
    with session(server) as s:
        bad = [s.scsi_pdu(test_unit_ready(), itt=P.NONE)]
        bad += [s.scsi_pdu(test_unit_ready(), attr=attr) for attr in (5, 6, 7)]
        bad += [s.request(P.LOGOUT_REQUEST, flags=P.FINAL | reason) for reason in (3, 0x7F)]
        for p in bad:
            s.send(p)
            s.expect_reject(INVALID_FIELD, p)
        s.ping()


@case
def command_without_its_final_bit(server):
    """Nothing follows a command that writes nothing, and nothing may where R2Ts come first."""
    with session(server) as s:
        for p in (s.scsi_pdu(test_unit_ready(), final=False), s.scsi_pdu(read10(0, 1), 512, read=True, final=False),
                  s.scsi_pdu(write10(0, 1), 512, write=True, final=False)):
            s.send(p)
            s.expect_reject(PROTOCOL_ERROR, p)
        s.ping()


# ---- additional headers (RFC 7143 11.2.2)

def ahs(kind, content, length=None):
    """`content` from the byte behind the type on; the length may lie."""
    length = len(content) if length is None else length
    return P.pad(length.to_bytes(2, "big") + bytes([kind]) + content)


EXTENDED, BIDI = 1, 2
UNSOUND = {
    "of an unknown kind": ahs(0x3F, bytes(5)),
    "of the kind 0": bytes(1020),
    "all ones": b"\xff" * 1020,
    "longer than it says": ahs(EXTENDED, bytes(17), 5),
    "one that reaches beyond the rest": ahs(EXTENDED, bytes(17), 21),
    "the longest length": ahs(EXTENDED, bytes(17), 0xFFFF),
    "an extended CDB of nothing": ahs(EXTENDED, bytes(1)),
    "an AHS of nothing": ahs(EXTENDED, b""),
    "an extended CDB for more than there is": ahs(EXTENDED, bytes(18)),
    "the longest extended CDB": ahs(EXTENDED, bytes(245)),
    "two extended CDBs": ahs(EXTENDED, bytes(9)) * 2,
    "a bidirectional length that is too short": ahs(BIDI, bytes(4)),
    "one that is too long": ahs(BIDI, bytes(6)),
    "two bidirectional lengths": ahs(BIDI, bytes(5)) * 2,
    "a sound one and another": ahs(EXTENDED, bytes(17)) + ahs(0x3F, bytes(5)),
}


@case
def additional_headers_that_are_unsound(server):
    """Rejected, and the stream goes on behind them."""
    for digest in ("None", "CRC32C"):
        with session(server, keys={"HeaderDigest": digest}) as s:
            for what, header in UNSOUND.items():
                for cdb, more in ((test_unit_ready(), {}), (write10(0, 1), {"edtl": 512, "write": True,
                                                                            "data": bytes(512)})):
                    p = s.scsi_pdu(cdb, ahs=header, **more)
                    s.send(p)
                    a = s.recv()
                    if a.opcode != P.REJECT or a.reason != INVALID_FIELD:
                        s.fail(f"{what}: {a!r}")
                s.ping()


@case
def additional_headers_that_are_sound(server):
    """A CDB of 32 bytes of a command that is not there is SCSI's to refuse; what is longer than its command says
    nothing; a length for what comes back means something only where data goes both ways."""
    long_cdb = bytes([0x7F, 0, 0, 0, 0, 0, 0, 24, 0xFF, 0xFF]) + bytes(6)
    with session(server) as s:
        s.write(0, pattern(512))
        r = s.command(long_cdb, ahs=ahs(EXTENDED, bytes(17)))
        assert r.status == 2 and r.sense_key == 5 and r.asc[0] in (0x20, 0x24), r
        for header in (ahs(BIDI, bytes(5)), ahs(EXTENDED, bytes(17)), ahs(EXTENDED, bytes(2)),
                       ahs(BIDI, b"\0\xff\xff\xff\xff") + ahs(EXTENDED, bytes(17))):
            r = s.good(s.command(read10(0, 1), read=512, ahs=header))
            assert r.data == pattern(512), r
        p = s.scsi_pdu(read10(0, 1), 512, read=True, write=True, ahs=ahs(BIDI, b"\0\0\0\2\0"))
        s.send(p)
        while True:
            a = s.recv()
            if a.opcode == P.R2T:
                s.send(s.data_out(p, a.ttt, 0, a.offset, bytes(a.length), True))
            elif a.opcode == P.SCSI_RESPONSE or a.flags & P.STATUS:
                break
        s.ping()


@case
def additional_headers_of_other_opcodes(server):
    """They say nothing there; of a login request they are an error."""
    with session(server) as s:
        for opcode in (P.NOP_OUT, P.TEXT_REQUEST, P.TMF_REQUEST):
            p = anything(s, opcode, True)
            p.ahs, p.ahslen = bytes(1020), 255
            s.send(p)
            s.expect(ANSWER_OF[opcode], itt=p.itt)
        p = anything(s, 0x1F, True)
        p.ahs, p.ahslen = bytes(8), 2
        s.send(p)
        s.expect_reject(NOT_SUPPORTED, p)
        s.ping()
    with session(server, keys={"ImmediateData": "No"}) as s:
        data = pattern(4096, 9)
        p = s.scsi_pdu(write10(40, 8), 4096, write=True)
        s.send(p)
        r2t = s.expect(P.R2T, itt=p.itt)
        out = s.data_out(p, r2t.ttt, 0, 0, data, True)
        out.ahs, out.ahslen = bytes(16), 4
        s.send(out)
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        assert s.read(40, 8) == data
    with Conn(server.portals[0]) as c:
        p = c.login_pdu({"InitiatorName": INITIATOR, "TargetName": server.iqn()}, nsg=P.FULL_FEATURE, ahs=bytes(8))
        p.ahslen = 2
        c.send(p)
        c.expect(P.LOGIN_RESPONSE, status=INITIATOR_ERROR)
        c.expect_close()


# ---- lengths

@case
def data_segments_longer_than_we_take(server):
    """Nobody waits for what is announced and too long, whatever the opcode."""
    for opcode in (*REQUESTS, P.NOP_IN, 0x1F):
        for digest in ("None", "CRC32C"):
            with session(server, keys={"HeaderDigest": digest}) as s:
                p = anything(s, opcode, True)
                p.dsl = s.target_dsl + 1
                s.send(p)
                s.expect_reject(PROTOCOL_ERROR, p)
                s.expect_close()
    for stage in (P.SECURITY, P.OPERATIONAL):
        with Conn(server.portals[0]) as c:
            c.login_step({"InitiatorName": INITIATOR, "TargetName": server.iqn()}, csg=stage)
            p = c.login_pdu(csg=stage)
            p.dsl = 8193
            c.send(p)
            c.expect(P.LOGIN_RESPONSE, status=INITIATOR_ERROR)
            c.expect_close()
    alive(server)


@case
def cut_off_anywhere(server):
    """In a header, an additional header, a digest, a data segment, its padding."""
    with session(server) as s:
        s.write(80, pattern(512, 1))
    for end in (1, 47, 48, 50, 67, 68, 71, 72, 73, 500, 583, 584, 587):
        with session(server, keys={"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}) as s:
            p = s.scsi_pdu(write10(80, 1), 512, write=True, data=pattern(512, 2), ahs=ahs(EXTENDED, bytes(17)))
            raw = p.pack(True, True)
            assert len(raw) == 588, len(raw)
            s.send_raw(raw[:end])
            if end % 2 == 0:
                s.sock.shutdown(1)
                assert s.is_closed(), "a half PDU is waited for for ever"
    with session(server) as s:
        assert s.read(80, 1) == pattern(512, 1)


@case
def each_answer_of_a_target(server):
    """The rest of what we can say."""
    with session(server) as s:
        for opcode in ANSWER_OF:
            if opcode != P.LOGOUT_REQUEST:
                one_in_full_feature(s, opcode, True)
        s.good(s.command(read10(0, 8), read=4096))
    with Watched(server.portals[0]) as c:
        try:
            c.login_step({"InitiatorName": INITIATOR, "TargetName": "iqn.2026-11.org.example:none"},
                         nsg=P.FULL_FEATURE)
        except LoginRefused as e:
            assert e.status == 0x0203, hex(e.status)


# ---- the check that nothing is missing

def enum(text, name):
    """{constant: value}"""
    body = re.search(rf"enum {name} {{(.*?)}};", text, re.DOTALL).group(1)
    return {k: int(v, 0) for k, v in re.findall(r"(\w+) = (\w+)", body)}


def uses():
    """The text of all that speaks iSCSI, without the header that names the constants."""
    out = ""
    for name in sorted(os.listdir(SOURCE)):
        if name.endswith(".c") or name == "impl.h":
            with open(os.path.join(SOURCE, name), encoding="utf-8") as f:
                out += f.read()
    return out


def named_in_another_script(word):
    tests = os.path.dirname(HERE)
    for folder in ("protocol", "system"):
        for name in os.listdir(os.path.join(tests, folder)):
            if not name.endswith(".py") or name in ("opcodes.py", "pdu.py"):
                continue
            with open(os.path.join(tests, folder, name), encoding="utf-8") as f:
                if re.search(rf"\bP\.{word}\b", f.read()):
                    return True
    return False


@case
def nothing_is_missing(_):
    """Last: it looks at what the cases above have seen."""
    if not os.path.exists(os.path.join(SOURCE, "proto.h")):
        return
    with open(os.path.join(SOURCE, "proto.h"), encoding="utf-8") as f:
        proto = f.read()
    code = uses()
    opcodes, reasons = enum(proto, "iscsi_opcode"), enum(proto, "iscsi_reject_reason")
    known = {*REQUESTS, *ANSWERS, *OTHERS}
    assert set(opcodes.values()) == known, f"opcodes: {set(opcodes.values()) ^ known}"
    for name, value in opcodes.items():
        if value in OTHERS and re.search(rf"\b{name}\b", code):
            assert named_in_another_script(OTHERS[value]), f"{name} is sent, and no script expects it"
    given = {value for name, value in reasons.items() if re.search(rf"\b{name}\b", code)}
    assert not given & set(NEVER), f"given after all: {given & set(NEVER)}"
    assert given | set(NEVER) == set(range(2, 13)), f"reasons: {(given | set(NEVER)) ^ set(range(2, 13))}"
    if len(answers_seen) > 1:  # not alone
        assert answers_seen >= set(ANSWERS), f"not seen: {set(ANSWERS) - answers_seen}"
        assert reasons_seen >= given, f"reasons that no case has seen: {given - reasons_seen}"


if __name__ == "__main__":
    main()
