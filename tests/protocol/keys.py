#!/usr/bin/env python3
"""
Every text key: legal values and illegal ones, in each stage, in a discovery session, twice; and texts that are no
negotiation. The keys come from the table in src/iscsi/keys.c: a row that is added there and has none here fails
`nothing_is_missing`.
"""

import os
import re

import pdu as P
from common import HERE, Spindle, case, main
from iscsi import INITIATOR, Closed, Conn, LoginRefused, login

SOURCE = os.path.join(os.path.dirname(os.path.dirname(HERE)), "src", "iscsi", "keys.c")
INITIATOR_ERROR, AUTH_FAILED, SESSION_TYPE, OUT_OF_RESOURCES = 0x0200, 0x0201, 0x0209, 0x0302
PROTOCOL_ERROR = 4
TEXT_MAX = 8192

S, O, F = "security", "operational", "full feature"
LOGIN = {S, O}
NUMBERS = ("", "x", "-1", "+1", "0x", "0xg", "1,2", " 1", "1 ", "01", "1.0", "4294967296", "99999999999999999999", "Yes")
BOOLEANS = ("", "yes", "YES", "1", "No,Yes", "Yes ", "None")
DSL = (*NUMBERS, "0", "511", "16777216", "0x1000000")


class Key:
    """stages: where it may come; offer, answer: a legal exchange, answer None: a declaration; bad: values that are
    rejected, or that refuse the login with `refusal`; normal: irrelevant in a discovery session."""

    def __init__(self, stages, offer, answer, bad=(), refusal=None, normal=False, again=False):
        self.stages, self.offer, self.answer, self.bad = set(stages), offer, answer, bad
        self.refusal, self.normal, self.again = refusal, normal, again


def lead(offer, answer, bad):
    return Key({O}, offer, answer, bad, normal=True)


TOO_LONG = "iqn.2026-11.org.example:" + "a" * 200
KEYS = {
    "SessionType": Key(LOGIN, "Normal", None, ("", "normal", "None", "Normal,Discovery"), SESSION_TYPE, again=True),
    "InitiatorName": Key(LOGIN, INITIATOR, None, ("", TOO_LONG), INITIATOR_ERROR, again=True),
    "TargetName": Key(LOGIN, None, None, ("", TOO_LONG), INITIATOR_ERROR, again=True),
    "InitiatorAlias": Key({S, O, F}, "me", None, ("a" * 256,), INITIATOR_ERROR, again=True),
    "AuthMethod": Key({S}, "CHAP,None", "None", ("", "CHAP", "none", "KRB5", "X-a,X-b"), AUTH_FAILED),
    # Where no password is asked for, they are out of place everywhere; chap.py has the rest.
    "CHAP_A": Key({S}, "5", "Reject"),
    "CHAP_I": Key({S}, "1", "Reject"),
    "CHAP_C": Key({S}, "0x00", "Reject"),
    "CHAP_N": Key({S}, "name", "Reject"),
    "CHAP_R": Key({S}, "0x00", "Reject"),
    "HeaderDigest": Key({O}, "CRC32C,None", "CRC32C", ("", "crc32c", "X-a", "CRC32", "None ", ",", "a,b")),
    "DataDigest": Key({O}, "None,CRC32C", "None", ("", "crc32c", "X-a", "CRC32", "None ", ",", "a,b")),
    "MaxRecvDataSegmentLength": Key({O, F}, "512", None, DSL, INITIATOR_ERROR),
    "MaxConnections": lead("8", "1", (*NUMBERS, "0", "65536")),
    "InitialR2T": lead("No", "Yes", BOOLEANS),
    "ImmediateData": lead("Yes", "Yes", BOOLEANS),
    "MaxBurstLength": lead("0x1000", "4096", DSL),
    "FirstBurstLength": lead("4096", "4096", DSL),
    "MaxOutstandingR2T": lead("2", "2", (*NUMBERS, "0", "65536")),
    "DataPDUInOrder": lead("No", "Yes", BOOLEANS),
    "DataSequenceInOrder": lead("No", "Yes", BOOLEANS),
    "DefaultTime2Wait": Key({O}, "3600", "3600", (*NUMBERS, "3601")),
    "DefaultTime2Retain": Key({O}, "3600", "0", (*NUMBERS, "3601")),
    "ErrorRecoveryLevel": Key({O}, "2", "0", (*NUMBERS, "3")),
    "TaskReporting": lead("FastAbort,RFC3720", "RFC3720", ("", "FastAbort", "rfc3720")),
    "iSCSIProtocolLevel": lead("31", "2", (*NUMBERS, "32")),
    "X#NodeArchitecture": Key(LOGIN, "os:cpu", None),
    "SendTargets": Key({F}, "", None),
    "TargetAlias": Key({S, O, F}, "t", "Reject"),
    "TargetAddress": Key({S, O, F}, "10.0.0.1:3260,1", "Reject"),
    "TargetPortalGroupTag": Key({S, O, F}, "1", "Reject"),
    "IFMarker": Key({O}, "Yes", "No", BOOLEANS),
    "OFMarker": Key({O}, "No", "No", BOOLEANS),
    "IFMarkInt": Key({O}, "1", "Reject"),
    "OFMarkInt": Key({O}, "1", "Reject"),
}


def names(server):
    return [("InitiatorName", INITIATOR), ("TargetName", server.iqn())]


def offer_of(server, name):
    return server.iqn() if name == "TargetName" else KEYS[name].offer


def stage_of(c, server, stage, pairs):
    """One request of a login in this stage, on a connection of its own, with these pairs: its answers."""
    said = {k for k, _ in pairs}
    who = [pair for pair in names(server) if pair[0] not in said]
    return c.login_step(who + pairs, csg=P.SECURITY if stage == S else P.OPERATIONAL).keys


def answers(server, stage, pairs):
    """[(key, value)] without what the target declares unasked; LoginRefused."""
    if stage == F:
        with login(server.portals[0], server.iqn()) as s:
            got = s.text_whole(pairs)
            s.ping()
            return [pair for pair in got if pair[0] in dict(pairs)]
    with Conn(server.portals[0]) as c:
        got = stage_of(c, server, stage, pairs)
    unasked = {("TargetPortalGroupTag", "1"), ("TargetAlias", server.disks[0]["name"])}
    if stage == O:
        unasked.add(("MaxRecvDataSegmentLength", "262144"))
    return [pair for pair in got if pair[0] in dict(pairs) and pair not in unasked]


@case
def legal_values_in_their_stages(server):
    for name, key in KEYS.items():
        for stage in key.stages:
            got = answers(server, stage, [(name, offer_of(server, name))])
            if name == "SendTargets":
                got = [pair for pair in got if pair[0] == name]
            want = [] if key.answer is None else [(name, key.answer)]
            assert got == want, f"{name} in {stage}: {got}, not {want}"


@case
def illegal_values(server):
    for name, key in KEYS.items():
        for value in key.bad:
            for stage in key.stages - {F}:
                try:
                    got = answers(server, stage, [(name, value)])
                except LoginRefused as e:
                    assert e.status == key.refusal, f"{name}={value!r}: refused with {e.status:#06x}"
                    continue
                assert key.refusal is None, f"{name}={value!r}: {got}"
                assert got == [(name, "Reject")], f"{name}={value!r}: {got}"


@case
def illegal_values_of_declarations_later(server):
    """In the full feature phase what cannot be lived with is a protocol error of that text."""
    for name, key in KEYS.items():
        if F not in key.stages or key.answer is not None:
            continue
        for value in key.bad:
            with login(server.portals[0], server.iqn()) as s:
                p = s.text({name: value})
                s.expect_reject(PROTOCOL_ERROR, p)
                s.ping()


@case
def in_the_wrong_stage(server):
    for name, key in KEYS.items():
        for stage in {S, O, F} - key.stages:
            got = answers(server, stage, [(name, offer_of(server, name))])
            assert got == [(name, "Reject")], f"{name} in {stage}: {got}"


@case
def in_a_discovery_session(server):
    for name, key in KEYS.items():
        if not key.normal:
            continue
        with Conn(server.portals[0]) as c:
            a = c.login_step([("InitiatorName", INITIATOR), ("SessionType", "Discovery"), (name, key.offer)])
            assert (name, "Irrelevant") in a.keys, f"{name}: {a.keys}"


@case
def unknown_keys(server):
    for stage in (S, O, F):
        for name in ("X-org.example.a", "Y#b", "NoSuchKey", "initiatorname", "HeaderDigest ", "X" * 63):
            assert answers(server, stage, [(name, "1")]) == [(name, "NotUnderstood")], name


@case
def twice_in_a_login(server):
    """In one request and in two; who is who may be said again, if it is the same."""
    for name, key in KEYS.items():
        offer = offer_of(server, name)
        for stage in key.stages - {F}:
            number = P.SECURITY if stage == S else P.OPERATIONAL
            for apart in (False, True):
                with Conn(server.portals[0]) as c:
                    try:
                        if apart:
                            stage_of(c, server, stage, [(name, offer)])
                            c.login_step([(name, offer)], csg=number)
                        else:
                            stage_of(c, server, stage, [(name, offer), (name, offer)])
                        assert key.again, f"{name} twice in {stage}"
                    except LoginRefused as e:
                        assert not key.again and e.status == INITIATOR_ERROR, f"{name}: {e.status:#06x}"
                        c.expect_close()


@case
def twice_in_a_text(server):
    for name, key in KEYS.items():
        if key.again:
            continue
        with login(server.portals[0], server.iqn()) as s:
            p = s.text([(name, offer_of(server, name))] * 2)
            s.expect_reject(PROTOCOL_ERROR, p)
            s.ping()


@case
def not_understood_comes_back(server):
    """An answer to what we declared needs none."""
    for name in ("TargetAlias", "TargetAddress", "TargetPortalGroupTag"):
        for stage in (S, O, F):
            assert answers(server, stage, [(name, "NotUnderstood")]) == []


# ---- texts that are no negotiation

MALFORMED = (b"=\0", b"=1\0", b"a\0", b"InitiatorAlias\0", b"X-a=1", b"X-a=1\0X-b", b"X-a=1\0X-b=", b"X-a\0=1\0",
             b"K" * 64 + b"=1\0", b"a" * 8000 + b"\0", b"\xff" * 100, b"\n", b"X-a=1\0\xff\0")
HARMLESS = (b"", b"\0", b"\0" * 8192, b"X-a=\0", b"X-a==\0", b"X-a=b=c\0", b"\0\0X-a=1\0\0\0", b"X-a=1\0" + bytes(100))


@case
def malformed_texts(server):
    for text in MALFORMED:
        for stage in (P.SECURITY, P.OPERATIONAL):
            with Conn(server.portals[0]) as c:
                c.login_step(names(server), csg=stage)
                try:
                    c.login_step(data=text, csg=stage)
                    c.fail(f"{text[:40]!r} was taken")
                except LoginRefused as e:
                    assert e.status == INITIATOR_ERROR, f"{text[:40]!r}: {e.status:#06x}"
                c.expect_close()
        for discovery in (False, True):
            with login(server.portals[0], server.iqn(), discovery=discovery) as s:
                p = s.text(None, data=text)
                s.expect_reject(PROTOCOL_ERROR, p)
                s.ping()


@case
def harmless_texts(server):
    """Empty ones, padding that is counted in, values with a '='."""
    for text in HARMLESS:
        for stage in (P.SECURITY, P.OPERATIONAL):
            with Conn(server.portals[0]) as c:
                c.login_step(names(server), csg=stage)
                c.login_step(data=text, csg=stage)
                c.login_step(csg=stage, nsg=P.FULL_FEATURE)
        with login(server.portals[0], server.iqn()) as s:
            p = s.text(None, data=text)
            s.expect(P.TEXT_RESPONSE, itt=p.itt)
            s.ping()


@case
def values_of_any_length(server):
    """255 bytes are a value, also where nobody asked for it; 256 of a key that we know are an error."""
    for name in ("HeaderDigest", "MaxBurstLength", "InitialR2T", "InitiatorAlias", "X#NodeArchitecture"):
        lists = KEYS[name].offer in ("CRC32C,None",)
        for length in (255, 256):
            try:
                answers(server, O, [(name, "v" * length)])
                assert length == 255 or lists, f"{name} of {length} bytes"
            except LoginRefused as e:
                assert length == 256 and e.status == INITIATOR_ERROR, f"{name} of {length}: {e.status:#06x}"
    for length in (255, 256, 4000):
        assert answers(server, O, [("X-a", "v" * length)]) == [("X-a", "NotUnderstood")]


@case
def ten_thousand_keys(server):
    """In requests of 100, which are answered one by one; in one text it is too long."""
    keys = [(f"X-key-{i}", "value") for i in range(10000)]
    with Conn(server.portals[0]) as c:
        c.login_step(names(server))
        for i in range(0, len(keys), 100):
            a = c.login_step(keys[i:i + 100])
            assert a.keys[-100:] == [(k, "NotUnderstood") for k, _ in keys[i:i + 100]], a
        c.login_step(nsg=P.FULL_FEATURE)
    with Conn(server.portals[0]) as c:
        c.login_step(names(server))
        try:
            for i in range(0, len(keys), 100):
                c.login_step(keys[i:i + 100], cont=True)
            c.fail("a text of 10,000 keys was taken")
        except LoginRefused as e:
            assert e.status == INITIATOR_ERROR, hex(e.status)
            assert i * 16 < 2 * TEXT_MAX, "more than a text's length was kept"
        c.expect_close()
    with login(server.portals[0], server.iqn()) as s:
        for i in range(0, len(keys), 100):
            assert len(s.text_whole(keys[i:i + 100])) == 100
        s.ping()


@case
def answers_longer_than_there_is_room(server):
    """Each short unknown key makes a long answer."""
    text = b"".join(b"%c%c=\0" % (65 + i // 26 % 26, 65 + i % 26) for i in range(2000))
    with Conn(server.portals[0]) as c:
        c.login_step(names(server))
        try:
            c.login_step(data=text)
            c.fail("answered")
        except LoginRefused as e:
            assert e.status == OUT_OF_RESOURCES, hex(e.status)
    with login(server.portals[0], server.iqn()) as s:
        p = s.text(None, data=text)
        s.expect_reject(PROTOCOL_ERROR, p)
        s.ping()


@case
def continued_for_ever(server):
    """Empty pieces and bytes one by one, in the login and after it: an end, or nothing that grows."""
    for data in (b"", b"X"):
        with Conn(server.portals[0]) as c:
            c.login_step(names(server))
            try:
                for _ in range(3000):
                    c.login_step(data=data, cont=True)
                c.fail("3000 pieces were taken")
            except LoginRefused as e:
                assert e.status == INITIATOR_ERROR, hex(e.status)
            c.expect_close()
    with login(server.portals[0], server.iqn()) as s:
        p = s.text(None, data=b"", final=False, cont=True)
        for _ in range(3000):
            a = s.expect(P.TEXT_RESPONSE, itt=p.itt, dsl=0)
            p = s.text(None, data=b"", final=False, cont=True, itt=p.itt, ttt=a.ttt)
        s.expect(P.TEXT_RESPONSE, itt=p.itt, dsl=0)
        s.ping()
    with login(server.portals[0], server.iqn()) as s:
        p = s.text(None, data=b"X" * 4096, final=False, cont=True)
        for _ in range(10):
            a = s.recv()
            if a.opcode == P.REJECT:
                break
            p = s.text(None, data=b"X" * 4096, final=False, cont=True, itt=p.itt, ttt=a.ttt)
        s.check(a, P.REJECT, reason=PROTOCOL_ERROR)
        s.ping()


@case
def a_thousand_login_requests(server):
    """As many as anybody needs, and no more."""
    with Conn(server.portals[0]) as c:
        c.login_step(names(server))
        try:
            for n in range(2000):
                c.login_step()
            c.fail("2000 requests were taken")
        except LoginRefused as e:
            assert e.status == INITIATOR_ERROR, hex(e.status)
        assert 100 < n <= 1024, n
        c.expect_close()


@case
def final_and_continued(server):
    with login(server.portals[0], server.iqn()) as s:
        p = s.text({"X-a": "1"}, final=True, cont=True)
        s.expect_reject(PROTOCOL_ERROR, p)
        p = s.request(P.TEXT_REQUEST, itt=P.NONE, ttt=P.NONE, data=b"X-a=1\0")
        s.send(p)
        s.expect_reject(PROTOCOL_ERROR, p)
        s.ping()


# ---- names that want to be more than names: where they end up is the log

ESCAPES = (b"\x1b[2J\x1b[31mred", b"\r\n2026-01-01T00:00:00.000Z error forged key=1", b"\x07\x08\x7f", b"\xc3\x28",
           b"\xff\xfe", b"\xe2\x80\xae", "ünïcode".encode(), b'quote" why="login', b"back\\slash\\x41", b"'$(id)`id`",
           b"%s%n%x", b"a" * 150 + b"\x01" * 60, b"\x01" * 223, b"<script>")
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warn|info|debug) [a-z-]+"
                  r"( [a-z_]+=(\"[^\"]*\"|[-0-9a-zA-Z_.:]+))*(\.\.\.)?")


def say(c, pairs):
    """Key and value are bytes. The status of a login, or None when it went on."""
    text = b"".join(k + b"=" + v + b"\0" for k, v in pairs)
    c.send(c.login_pdu(data=text, nsg=P.FULL_FEATURE))
    try:
        a = c.expect(P.LOGIN_RESPONSE)
    except Closed:
        return None
    for _, value in pairs:
        if len(value) > 4 and value != pairs[-1][1]:
            assert value not in a.data, f"{value!r} comes back"
    return a.status


def every_name(server):
    """As one's own, as an alias, as a target."""
    iqn = server.iqn().encode()
    for i, name in enumerate(ESCAPES):
        own = (b"iqn." + name)[:223]
        for pairs in ([(b"InitiatorName", own), (b"TargetName", iqn)],
                      [(b"InitiatorName", own), (b"TargetName", own)],
                      [(b"InitiatorName", own), (b"SessionType", b"Discovery")],
                      [(b"InitiatorName", INITIATOR.encode()), (b"InitiatorAlias", name), (b"TargetName", iqn)],
                      [(b"InitiatorName", own), (b"InitiatorAlias", name), (b"TargetName", name)],
                      [(b"InitiatorName", own), (b"TargetName", iqn), (b"SessionType", name)],
                      [(b"InitiatorName", own * 2), (b"TargetName", own)], [(b"InitiatorName", own)]):
            with Conn(server.portals[0]) as c:
                say(c, [*pairs, (b"X-last", b"%d" % i)])


def every_target(server):
    """SendTargets=what there is not: nothing, and above all not the name."""
    with login(server.portals[0], discovery=True) as s:
        for name in ESCAPES:
            p = s.text(None, data=b"SendTargets=" + name + b"\0")
            assert s.expect(P.TEXT_RESPONSE, itt=p.itt).data == b"", name
        found = s.send_targets()
        assert [n for n, _ in found] == [server.iqn()], found


def one_user(server, user):
    with Conn(server.portals[0]) as c:
        c.login_step({"InitiatorName": INITIATOR, "TargetName": server.iqn(), "AuthMethod": "CHAP"}, csg=P.SECURITY)
        c.login_step({"CHAP_A": "7"}, csg=P.SECURITY)
        p = c.login_pdu(data=b"CHAP_N=" + user + b"\0CHAP_R=0x" + b"00" * 32 + b"\0", csg=P.SECURITY,
                        nsg=P.OPERATIONAL)
        c.send(p)
        c.expect(P.LOGIN_RESPONSE, status=AUTH_FAILED)
        c.expect_close()


def judge_log(server, at_least):
    with open(server.stderr_path, "rb") as f:
        raw = f.read()
    bad = sorted({b for b in raw if b != 0x0A and not 0x20 <= b <= 0x7E})
    assert not bad, f"raw bytes in the log: {bytes(bad)!r}"
    lines = raw.decode("ascii").splitlines()
    for line in lines:
        if line.startswith("spindle: "):
            continue
        assert LINE.fullmatch(line), f"not a line of the log: {line}"
        assert "forged" not in line.split(" ")[2], line
    assert len(lines) >= at_least, lines


@case
def names_in_the_log(_):
    # No password: they get in, and session-up and session-down tell of them; refusals are told up to a limit.
    with Spindle("ram:1M", args=["--verbose"]) as server:
        every_name(server)
        every_target(server)
        with login(server.portals[0], server.iqn()) as s:
            s.ping()
        judge_log(server, 2 * len(ESCAPES))
    # All are refused, ten in ten seconds are told: a server for each, so that none is lost in the count.
    for first in range(0, len(ESCAPES), 5):
        with Spindle("ram:1M", args=["--verbose"]) as server:
            for name in ESCAPES[first:first + 5]:
                for pairs in ([(b"InitiatorName", (b"iqn." + name)[:223]), (b"TargetName", name)],
                              [(b"InitiatorName", name), (b"TargetName", b"iqn." + name[:200])]):
                    with Conn(server.portals[0]) as c:
                        assert say(c, pairs) == 0x0203
            judge_log(server, 2 * len(ESCAPES[first:first + 5]))


@case
def users_in_the_log(_):
    for first in range(0, len(ESCAPES), 8):
        server = Spindle("ram:1M", args=["--verbose", "--chap", "alice:secret"])
        path = os.path.join(server.dir, "secret")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as f:
            f.write("0123456789abcdef")
        with server:
            for i in range(first, min(first + 8, len(ESCAPES))):
                one_user(server, ESCAPES[i])
            judge_log(server, min(8, len(ESCAPES) - first))


# ---- the check that nothing is missing

def rows():
    """{name: (stages, is it irrelevant in a discovery session)} of the table in keys.c."""
    with open(SOURCE, encoding="utf-8") as f:
        text = f.read()
    table = re.search(r"static const struct iscsi_key keys\[\] = {(.*?)\n};", text, re.DOTALL).group(1)
    out = {}
    for name, rest in re.findall(r'{"([^"]+)", (.*?)},', table, re.DOTALL):
        said = re.search(r"\.stages = ([A-Z_| ]+)", rest)
        words = "OPER" if "LEAD_NORMAL" in rest else said.group(1)
        stages = set()
        for word, some in (("LOGIN", LOGIN), ("OPER", {O}), ("KEYS_SECURITY", {S}), ("FULL", {F})):
            if re.search(rf"\b{word}\b", words):
                stages |= some
        out[name] = (stages, "LEAD_NORMAL" in rest or "KEY_NORMAL" in rest)
    return out


@case
def nothing_is_missing(_):
    if not os.path.exists(SOURCE):
        return
    table = rows()
    assert len(table) > 30, "the table was not found"
    assert set(table) == set(KEYS), f"keys: {set(table) ^ set(KEYS)}"
    for name, (stages, normal) in table.items():
        assert stages == KEYS[name].stages, f"{name}: {stages}, not {KEYS[name].stages}"
        assert normal == KEYS[name].normal, f"{name}: irrelevant in discovery: {normal}"


if __name__ == "__main__":
    main()
