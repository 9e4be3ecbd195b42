#!/usr/bin/env python3
"""Login: stages, bits, split texts, refusals (RFC 7143 6.3, 11.12, 11.13)."""

import pdu as P
from common import case, main
from iscsi import INITIATOR, ISID, Closed, Conn, LoginRefused, login

SECURITY, OPERATIONAL, FULL = P.SECURITY, P.OPERATIONAL, P.FULL_FEATURE
INITIATOR_ERROR, AUTH_FAILED, NOT_FOUND, VERSION = 0x0200, 0x0201, 0x0203, 0x0205
MISSING, SESSION_TYPE, NO_SESSION, DURING_LOGIN = 0x0207, 0x0209, 0x020A, 0x020B


def names(server, **changes):
    keys = {"InitiatorName": INITIATOR, "TargetName": server.iqn()}
    keys.update(changes)
    return {k: v for k, v in keys.items() if v is not None}


def connect(server):
    return Conn(server.portals[0])


def refused(server, status, *args, **kwargs):
    """This first request is answered with `status` (a set: one of them), and that is the end."""
    with connect(server) as c:
        refused_on(c, status, *args, **kwargs)


def refused_on(c, status, *args, **kwargs):
    allowed = status if isinstance(status, set) else {status}
    try:
        answer = c.login_step(*args, **kwargs)
    except LoginRefused as e:
        if e.status not in allowed:
            c.fail(f"refused with {e.status:#06x}, expected {sorted(map(hex, allowed))}")
        c.expect_close()
        return
    c.fail(f"not refused: {answer!r}")


def any_initiator_error():
    return set(range(0x0200, 0x020C))


def alive(server):
    with login(server.portals[0], server.iqn()) as s:
        s.ping()
        s.logout()


@case
def operational_only(server):
    with connect(server) as c:
        a = c.login_step(names(server), csg=OPERATIONAL, nsg=FULL)
        c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL << 2 | FULL, vmax=0, vactive=0)
        assert a.tsih != 0


@case
def security_then_operational(server):
    with connect(server) as c:
        a = c.login_step({**names(server), "AuthMethod": "None"}, csg=SECURITY, nsg=OPERATIONAL)
        c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL, tsih=0)
        assert ("AuthMethod", "None") in a.keys
        a = c.login_step({"HeaderDigest": "None"}, csg=OPERATIONAL, nsg=FULL)
        c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL << 2 | FULL)
        assert a.tsih != 0


@case
def security_then_full_feature(server):
    with connect(server) as c:
        a = c.login_step({**names(server), "AuthMethod": "None"}, csg=SECURITY, nsg=FULL)
        c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | FULL)
        assert a.tsih != 0


@case
def security_without_a_word_about_it(server):
    """No AuthMethod at all in the security stage: nothing to agree on."""
    with connect(server) as c:
        c.login_step(names(server), csg=SECURITY, nsg=OPERATIONAL)
        assert c.login_step({}, csg=OPERATIONAL, nsg=FULL).tsih != 0


@case
def stays_in_a_stage(server):
    """Without T the target answers without T, as often as one likes."""
    with connect(server) as c:
        a = c.login_step(names(server), csg=SECURITY)
        c.check(a, P.LOGIN_RESPONSE, flags=0, tsih=0)
        a = c.login_step({"AuthMethod": "None"}, csg=SECURITY)
        c.check(a, P.LOGIN_RESPONSE, flags=0, tsih=0)
        a = c.login_step({}, csg=SECURITY, nsg=OPERATIONAL)
        c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL, tsih=0)
        for key in ("MaxBurstLength", "MaxOutstandingR2T"):
            a = c.login_step({key: "1024"}, csg=OPERATIONAL)
            c.check(a, P.LOGIN_RESPONSE, flags=OPERATIONAL << 2, tsih=0)
        assert c.login_step({}, csg=OPERATIONAL, nsg=FULL).tsih != 0


@case
def text_over_several_requests(server):
    """The C bit: pieces cut anywhere are answered with nothing until the last has come."""
    text = P.pack_keys({**names(server), "MaxBurstLength": "65536", "HeaderDigest": "None",
                        "ImmediateData": "Yes", "X-org.example": "a" * 300})
    for cut in (1, 10, 37, 100, len(text) - 1):
        with connect(server) as c:
            pieces = [text[i:i + cut] for i in range(0, len(text), cut)]
            for piece in pieces[:-1]:
                a = c.login_step(data=piece, csg=OPERATIONAL, cont=True)
                c.check(a, P.LOGIN_RESPONSE, flags=OPERATIONAL << 2, dsl=0, tsih=0)
            a = c.login_step(data=pieces[-1], csg=OPERATIONAL, nsg=FULL)
            assert a.tsih != 0, a
            keys = dict(a.keys)
            assert keys["MaxBurstLength"] == "65536", keys
            assert keys["X-org.example"] == "NotUnderstood", keys


@case
def final_and_continue_exclude_each_other(server):
    refused(server, any_initiator_error(), names(server), csg=OPERATIONAL, nsg=FULL, cont=True)


@case
def text_without_end(server):
    with connect(server) as c:
        c.login_step(names(server), csg=SECURITY)
        try:
            for _ in range(100):
                c.login_step(data=b"X" * 4096, csg=SECURITY, cont=True)
        except LoginRefused:
            c.expect_close()
            return
        c.fail("400 KiB of text were taken in")


@case
def names_are_needed(server):
    refused(server, MISSING, names(server, InitiatorName=None), nsg=FULL)
    refused(server, MISSING, names(server, TargetName=None), nsg=FULL)
    refused(server, MISSING, {}, nsg=FULL)
    refused(server, MISSING, {}, csg=SECURITY, nsg=OPERATIONAL)
    refused(server, MISSING, {"SessionType": "Discovery"}, nsg=FULL)


@case
def target_unknown(server):
    refused(server, NOT_FOUND, names(server, TargetName="iqn.2026-11.org.example:none"), nsg=FULL)
    refused(server, NOT_FOUND, names(server, TargetName=server.iqn() + "x"), nsg=FULL)
    refused(server, NOT_FOUND, names(server, TargetName=server.iqn()[:-1]), nsg=FULL)


@case
def version_unsupported(server):
    refused(server, VERSION, names(server), nsg=FULL, vmin=1, vmax=1)
    refused(server, VERSION, names(server), nsg=FULL, vmin=255, vmax=255)
    with connect(server) as c:
        a = c.login_step(names(server), nsg=FULL, vmin=0, vmax=9)
        c.check(a, P.LOGIN_RESPONSE, vactive=0)


@case
def session_type_unknown(server):
    refused(server, SESSION_TYPE, {**names(server), "SessionType": "Wrong"}, nsg=FULL)


@case
def session_unknown(server):
    refused(server, NO_SESSION, names(server), nsg=FULL, tsih=0x1234)


@case
def authentication_without_a_common_method(server):
    refused(server, AUTH_FAILED, {**names(server), "AuthMethod": "CHAP"}, csg=SECURITY,
            nsg=OPERATIONAL)


@case
def key_twice(server):
    both = list(names(server).items()) + [("MaxBurstLength", "4096")]
    refused(server, INITIATOR_ERROR, both + [("MaxBurstLength", "4096")], nsg=FULL)
    with connect(server) as c:
        c.login_step(both, csg=OPERATIONAL)
        refused_on(c, INITIATOR_ERROR, {"MaxBurstLength": "4096"}, nsg=FULL)


@case
def names_again(server):
    """libiscsi, and with it QEMU, says its names in both stages when it was given a password."""
    who = {**names(server), "SessionType": "Normal"}
    with connect(server) as c:
        c.login_step({**who, "AuthMethod": "CHAP,None"}, csg=SECURITY, nsg=OPERATIONAL)
        c.login_step({**who, "InitialR2T": "Yes"}, nsg=FULL)
    for other in ({"InitiatorName": INITIATOR + "x"}, {"TargetName": server.iqn() + "x"},
                  {"SessionType": "Discovery"}):
        with connect(server) as c:
            c.login_step(who, csg=SECURITY, nsg=OPERATIONAL)
            refused_on(c, INITIATOR_ERROR, {**who, **other}, nsg=FULL)


@case
def text_malformed(server):
    good = P.pack_keys(names(server))
    for bad in (b"MaxBurstLength=4096", b"MaxBurstLength\0", b"=4096\0", b"\xff" * 40,
                b"K" * 64 + b"=1\0"):
        refused(server, INITIATOR_ERROR, data=good + bad, nsg=FULL)


@case
def name_too_long(server):
    refused(server, any_initiator_error(), names(server, InitiatorName="iqn." + "a" * 220),
            nsg=FULL)
    refused(server, any_initiator_error(), names(server, TargetName="iqn." + "a" * 220), nsg=FULL)


@case
def stages_that_are_not(server):
    for csg, nsg in ((OPERATIONAL, SECURITY), (OPERATIONAL, OPERATIONAL), (SECURITY, SECURITY),
                     (OPERATIONAL, 2), (SECURITY, 2), (2, FULL), (FULL, FULL), (2, None),
                     (FULL, None)):
        refused(server, any_initiator_error(), names(server), csg=csg, nsg=nsg)


@case
def stage_going_back(server):
    with connect(server) as c:
        c.login_step(names(server), csg=OPERATIONAL)
        refused_on(c, any_initiator_error(), {}, csg=SECURITY)


@case
def something_else_during_login(server):
    """After a first login request only login requests may come."""
    for opcode in (P.NOP_OUT, P.SCSI_COMMAND, P.TEXT_REQUEST, P.LOGOUT_REQUEST):
        with connect(server) as c:
            c.login_step(names(server), csg=OPERATIONAL)
            c.send(P.Pdu(opcode, immediate=True, flags=P.FINAL, itt=1, cmdsn=1))
            try:
                p = c.recv()
            except Closed:
                continue
            assert p.opcode == P.LOGIN_RESPONSE and p.status == DURING_LOGIN, p
            c.expect_close()


@case
def something_else_first(server):
    for opcode in (P.NOP_OUT, P.SCSI_COMMAND, P.TEXT_REQUEST, P.DATA_OUT):
        with connect(server) as c:
            c.send(P.Pdu(opcode, immediate=True, flags=P.FINAL, itt=1))
            assert c.is_closed(), "the connection stays open"
    alive(server)


@case
def data_segment_too_large(server):
    """Login text is limited to the default of 8192 bytes a PDU (RFC 7143 13.12)."""
    with connect(server) as c:
        p = c.login_pdu(data=b"A=" + b"b" * 9000 + b"\0")
        c.send(p)
        assert c.is_closed(), "9 KiB were taken in"


@case
def target_speaks_of_itself(server):
    """The portal group goes out with the first answer, the data segment length once."""
    with connect(server) as c:
        first = c.login_step({**names(server), "AuthMethod": "None"}, csg=SECURITY,
                             nsg=OPERATIONAL).keys
        assert ("TargetPortalGroupTag", "1") in first, first
        second = c.login_step({}, csg=OPERATIONAL).keys
        third = c.login_step({}, csg=OPERATIONAL, nsg=FULL).keys
        said = [k for k, _ in first + second + third]
        assert said.count("TargetPortalGroupTag") == 1, said
        assert said.count("MaxRecvDataSegmentLength") == 1, said


@case
def cid_and_isid_are_free(server):
    for isid, cid in ((0, 0), (0x80123456789A, 65535), (0x40FFFFFF0001, 7)):
        with connect(server) as c:
            a = c.login_step(names(server), nsg=FULL, isid=isid, cid=cid)
            assert a.isid == isid


@case
def numbers_start_anywhere(server):
    for cmdsn in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
        with login(server.portals[0], server.iqn(), cmdsn=cmdsn, isid=ISID + 5) as s:
            assert s.expcmdsn == cmdsn, hex(s.expcmdsn)
            s.settle()
            s.ping()


@case
def many_logins(server):
    for i in range(50):
        with login(server.portals[0], server.iqn(), isid=ISID + i, security=i % 2 == 0) as s:
            s.ping()
            if i % 3 == 0:
                s.logout()


@case
def still_serves(server):
    alive(server)


if __name__ == "__main__":
    main()
