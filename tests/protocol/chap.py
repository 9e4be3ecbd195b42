#!/usr/bin/env python3
"""CHAP: the whole conversation, and every way to get past it (RFC 7143 6.3, 12.1.3; RFC 1994)."""

import base64
import concurrent.futures
import hashlib
import os
import random
import tempfile

import pdu as P
from common import Spindle, case, main
from iscsi import INITIATOR, ISID, Conn, LoginRefused, Session

SECURITY, OPERATIONAL, FULL = P.SECURITY, P.OPERATIONAL, P.FULL_FEATURE
INITIATOR_ERROR, AUTH_FAILED = 0x0200, 0x0201
DIGESTS = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}
USERS = {"alice": "alice's secret 1", "iqn.1993-08.org.debian:01:bob": "0123456789ab", "0x12": "hex-looking name"}
SELF, SELF_SECRET = "the target", "the target's own secret"


def response(algorithm, ident, secret, challenge):
    return hashlib.new(DIGESTS[algorithm], bytes([ident]) + secret.encode() + challenge).digest()


def hexed(data):
    return "0x" + data.hex()


def based(data):
    return "0b" + base64.b64encode(data).decode()


def binary(text):
    assert text.startswith("0x"), text
    return bytes.fromhex(text[2:])


class Client:
    """Says right things until it is told otherwise."""

    def __init__(self, server, discovery=False, conn=None, isid=ISID):
        self.target = server.iqn()
        self.discovery = discovery
        self.isid = isid
        self.c = conn or Session(server.portals[0])
        self.algorithm = self.ident = self.challenge = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.c.close()

    def who(self):
        if self.discovery:
            return [("InitiatorName", INITIATOR), ("SessionType", "Discovery")]
        return [("InitiatorName", INITIATOR), ("TargetName", self.target)]

    def step(self, keys, csg=SECURITY, nsg=None, **more):
        return self.c.login_step(keys, csg=csg, nsg=nsg, isid=self.isid, **more)

    def method(self, offer="CHAP,None", nsg=None):
        a = self.step(self.who() + [("AuthMethod", offer)], nsg=nsg)
        assert dict(a.keys)["AuthMethod"] == "CHAP", a.keys
        self.c.check(a, P.LOGIN_RESPONSE, flags=0, tsih=0)

    def choose(self, offer="5", nsg=None):
        a = self.step([("CHAP_A", offer)], nsg=nsg)
        self.c.check(a, P.LOGIN_RESPONSE, flags=0, tsih=0)
        keys = dict(a.keys)
        assert set(keys) == {"CHAP_A", "CHAP_I", "CHAP_C"}, keys
        self.algorithm, self.ident = int(keys["CHAP_A"]), int(keys["CHAP_I"])
        self.challenge = binary(keys["CHAP_C"])
        assert 0 <= self.ident <= 255
        assert len(self.challenge) >= hashlib.new(DIGESTS[self.algorithm]).digest_size

    def to_proof(self, offer="5"):
        self.method()
        self.choose(offer)

    def proof(self, user="alice", secret=None, coded=hexed):
        r = response(self.algorithm, self.ident, secret or USERS.get(user, "nobody's secret"), self.challenge)
        return [("CHAP_N", user), ("CHAP_R", coded(r))]

    def prove(self, user="alice", nsg=OPERATIONAL, more=(), **kwargs):
        return self.step(self.proof(user, **kwargs) + list(more), nsg=nsg)

    def finish(self):
        """The operational stage, and proof that it is a session like any other."""
        self.c.log_in(None if self.discovery else self.target, INITIATOR, {}, False, self.discovery, isid=self.isid)
        self.works()

    def works(self):
        if self.discovery:
            assert self.target in [name for name, _ in self.c.send_targets()]
        else:
            self.c.ping()
        self.c.logout()

    def refused(self, status, keys, **kwargs):
        try:
            a = self.step(keys, **kwargs)
        except LoginRefused as e:
            if e.status != status:
                self.c.fail(f"refused with {e.status:#06x}, expected {status:#06x}")
            self.c.expect_close()
            return
        self.c.fail(f"not refused: {a!r}")


def alive(server):
    with Client(server) as k:
        k.to_proof()
        k.prove()
        k.finish()


# ---- what works

@case
def every_algorithm(server):
    for discovery in (False, True):
        for algorithm in DIGESTS:
            with Client(server, discovery) as k:
                k.to_proof(str(algorithm))
                assert k.algorithm == algorithm
                k.c.check(k.prove(), P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL, tsih=0)
                k.finish()


@case
def every_user(server):
    for user in USERS:
        for coded in (hexed, based, lambda r: hexed(r).upper()):
            with Client(server) as k:
                k.to_proof("8")
                k.prove(user, coded=coded)
                k.finish()


@case
def best_algorithm(server):
    """The list is the initiator's, the choice ours."""
    for offer, choice in (("5,6,7,8", 8), ("8,7,6,5", 8), ("5,7", 7), ("6,5", 6), ("5,128,0x6", 6), ("9,5", 5)):
        with Client(server) as k:
            k.to_proof(offer)
            assert k.algorithm == choice, (offer, k.algorithm)
            k.prove()
            k.finish()


@case
def method_lists(server):
    for offer in ("CHAP", "CHAP,None", "None,CHAP", "KRB5,SRP,CHAP"):
        with Client(server) as k:
            k.method(offer)
            k.choose()
            k.prove()
            k.finish()


@case
def to_full_feature_at_once(server):
    for discovery in (False, True):
        with Client(server, discovery) as k:
            k.to_proof()
            a = k.prove(nsg=FULL)
            k.c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | FULL)
            assert a.tsih != 0
            k.c.enter_full_feature()
            k.works()


@case
def transit_comes_later(server):
    """Proof without T; the stage goes on until the initiator wants to leave it."""
    with Client(server) as k:
        k.to_proof()
        k.c.check(k.prove(nsg=None), P.LOGIN_RESPONSE, flags=0, tsih=0)
        k.c.check(k.step([]), P.LOGIN_RESPONSE, flags=0)
        k.c.check(k.step([], nsg=OPERATIONAL), P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL)
        k.finish()


@case
def transit_too_early(server):
    """T with a step that is not the last: answered, and not granted (RFC 7143 6.3.1)."""
    for nsg in (OPERATIONAL, FULL):
        with Client(server) as k:
            k.method(nsg=nsg)
            k.choose(nsg=nsg)
            k.prove()
            k.finish()


@case
def silence_is_allowed(server):
    with Client(server) as k:
        k.c.check(k.step(k.who()), P.LOGIN_RESPONSE, flags=0)
        k.method()
        k.c.check(k.step([]), P.LOGIN_RESPONSE, flags=0)
        k.choose()
        k.c.check(k.step([]), P.LOGIN_RESPONSE, flags=0)
        k.prove()
        k.finish()


@case
def in_pieces(server):
    """The C bit cuts keys and values anywhere."""
    for cut in (1, 7, 40):
        with Client(server) as k:
            k.to_proof("7")
            text = P.pack_keys(k.proof())
            pieces = [text[i:i + cut] for i in range(0, len(text), cut)]
            for piece in pieces[:-1]:
                a = k.step([], data=piece, cont=True)
                k.c.check(a, P.LOGIN_RESPONSE, flags=0, dsl=0)
            k.c.check(k.step([], data=pieces[-1], nsg=OPERATIONAL), P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL)
            k.finish()


@case
def challenges_differ(server):
    seen = set()
    for _ in range(20):
        with Client(server) as k:
            k.to_proof()
            seen.add(k.challenge)
    assert len(seen) == 20


# ---- mutual

@case
def mutual(server):
    for discovery in (False, True):
        for algorithm in DIGESTS:
            for coded, challenge in ((hexed, bytes(range(16))), (based, os.urandom(1024)), (hexed, b"x")):
                with Client(server, discovery) as k:
                    k.to_proof(str(algorithm))
                    ident = random.randrange(256)
                    a = k.prove(more=[("CHAP_I", ident), ("CHAP_C", coded(challenge))])
                    k.c.check(a, P.LOGIN_RESPONSE, flags=P.FINAL | OPERATIONAL)
                    keys = dict(a.keys)
                    assert keys["CHAP_N"] == SELF, keys
                    assert binary(keys["CHAP_R"]) == response(algorithm, ident, SELF_SECRET, challenge), keys
                    k.finish()


@case
def mutual_to_full_feature(server):
    with Client(server) as k:
        k.to_proof("8")
        a = k.prove(nsg=FULL, more=[("CHAP_I", 0), ("CHAP_C", "0x00")])
        assert binary(dict(a.keys)["CHAP_R"]) == response(8, 0, SELF_SECRET, b"\0")
        k.c.enter_full_feature()
        k.works()


@case
def mutual_malformed(server):
    for more in ([("CHAP_I", 1)], [("CHAP_C", "0x01")], [("CHAP_I", 256), ("CHAP_C", "0x01")],
                 [("CHAP_I", -1), ("CHAP_C", "0x01")], [("CHAP_I", ""), ("CHAP_C", "0x01")],
                 [("CHAP_I", 1), ("CHAP_C", "")], [("CHAP_I", 1), ("CHAP_C", "0x")],
                 [("CHAP_I", 1), ("CHAP_C", "12")], [("CHAP_I", 1), ("CHAP_C", "0xzz")],
                 [("CHAP_I", 1), ("CHAP_C", "0b=")], [("CHAP_I", 1), ("CHAP_C", hexed(bytes(1025)))],
                 [("CHAP_I", 1), ("CHAP_I", 1), ("CHAP_C", "0x01")],
                 [("CHAP_I", 1), ("CHAP_C", "0x01"), ("CHAP_A", 5)]):
        with Client(server) as k:
            k.to_proof()
            k.refused(INITIATOR_ERROR, k.proof() + more, nsg=OPERATIONAL)


@case
def reflection(server):
    """Our own challenge is not answered, however it is written, whatever the identifier."""
    for coded in (hexed, based, lambda c: hexed(c).upper()):
        for same_ident in (True, False):
            with Client(server) as k:
                k.to_proof("8")
                ident = k.ident if same_ident else k.ident ^ 1
                k.refused(AUTH_FAILED, k.proof() + [("CHAP_I", ident), ("CHAP_C", coded(k.challenge))],
                          nsg=OPERATIONAL)


@case
def reflection_over_another_connection(server):
    """Who has no secret learns nothing with a challenge of another connection, who has one gets no answer that
    would do there."""
    with Client(server, isid=ISID + 1) as victim, Client(server) as k:
        victim.to_proof()
        k.to_proof()
        k.refused(AUTH_FAILED, k.proof(secret="a wrong secret") +
                  [("CHAP_I", victim.ident), ("CHAP_C", hexed(victim.challenge))])
        with Client(server, isid=ISID + 2) as insider:
            insider.to_proof()
            a = insider.prove(more=[("CHAP_I", victim.ident), ("CHAP_C", hexed(victim.challenge))])
            got = dict(a.keys)["CHAP_R"]
        victim.refused(AUTH_FAILED, [("CHAP_N", "alice"), ("CHAP_R", got)])


@case
def no_proof_for_strangers(server):
    with Client(server) as k:
        k.to_proof()
        request = k.c.login_pdu(k.proof(secret="a wrong secret") + [("CHAP_I", 1), ("CHAP_C", "0x01")], csg=SECURITY)
        k.c.send(request)
        a = k.c.recv()
        assert a.status == AUTH_FAILED and not a.data, a


@case
def mutual_not_set_up(server):
    with tempfile.TemporaryDirectory() as d, Spindle("ram:1M", args=options(d)[:2]) as other:
        assert other.ready["chap"] == ["alice"] and other.ready["mutual_chap"] is None, other.ready
        with Client(other) as k:
            k.to_proof()
            k.refused(AUTH_FAILED, k.proof() + [("CHAP_I", 1), ("CHAP_C", "0x01")], nsg=OPERATIONAL)
        with Client(other) as k:
            k.to_proof()
            k.prove()
            k.finish()


# ---- strangers

@case
def wrong_answers(server):
    for discovery in (False, True):
        for user, secret in (("alice", "alice's secret 2"), ("alice", USERS["0x12"]), ("nobody", USERS["alice"]),
                             ("Alice", USERS["alice"]), ("alice ", USERS["alice"]), ("", USERS["alice"]),
                             ("alice", SELF_SECRET), (SELF, SELF_SECRET), ("n" * 255, USERS["alice"]),
                             ("\x1b[31m\u00fc", USERS["alice"])):
            for algorithm in ("5", "8"):
                with Client(server, discovery) as k:
                    k.to_proof(algorithm)
                    k.refused(AUTH_FAILED, k.proof(user, secret), nsg=OPERATIONAL)


@case
def wrong_answers_look_alike(server):
    """Nothing in the PDU tells a wrong secret from a wrong name."""
    seen = set()
    for user, secret in (("alice", "alice's secret 2"), ("nobody", USERS["alice"])):
        with Client(server) as k:
            k.to_proof()
            k.c.send(k.c.login_pdu(k.proof(user, secret), csg=SECURITY, nsg=OPERATIONAL))
            a = k.c.recv()
            assert a.status == AUTH_FAILED
            seen.add((bytes(a.bhs), a.data))
            k.c.expect_close()
    assert len(seen) == 1, seen


@case
def responses_of_other_lengths(server):
    with Client(server) as k:
        k.to_proof()
        right = response(5, k.ident, USERS["alice"], k.challenge)
    for change in (lambda r: r[:-1], lambda r: r + b"\0", lambda r: b"\0" + r, lambda r: r[:1], lambda r: r * 64):
        with Client(server) as k:
            k.to_proof()
            k.refused(AUTH_FAILED, [("CHAP_N", "alice"), ("CHAP_R", hexed(change(
                response(5, k.ident, USERS["alice"], k.challenge))))])
    with Client(server) as k:
        k.to_proof()
        k.refused(AUTH_FAILED, [("CHAP_N", "alice"), ("CHAP_R", hexed(right))])  # of another time


@case
def responses_malformed(server):
    for value in ("", "0x", "0b", "0", "1234", "banana", "0xgg", "0x00 ", "0bAAA", "0bA===", "0b????",
                  hexed(bytes(1025)), based(bytes(1025)), "0x" + "0" * 5000):
        with Client(server) as k:
            k.to_proof()
            k.refused(INITIATOR_ERROR, [("CHAP_N", "alice"), ("CHAP_R", value)])


@case
def values_too_long(server):
    with Client(server) as k:
        k.to_proof()
        k.refused(INITIATOR_ERROR, [("CHAP_N", "n" * 256), ("CHAP_R", "0x00")])
    with Client(server) as k:
        k.method()
        k.refused(INITIATOR_ERROR, [("CHAP_A", "5," * 128 + "5")])
    with Client(server) as k:
        k.to_proof()
        k.refused(INITIATOR_ERROR, k.proof() + [("CHAP_I", "0" * 256), ("CHAP_C", "0x00")])


@case
def no_common_algorithm(server):
    for offer in ("4", "128", "", ",", "banana", "0x", "-5", "55"):
        with Client(server) as k:
            k.method()
            k.refused(AUTH_FAILED, [("CHAP_A", offer)])


# ---- ways around it

@case
def operational_stage_first(server):
    for nsg in (None, FULL):
        for discovery in (False, True):
            with Client(server, discovery) as k:
                k.refused(AUTH_FAILED, k.who(), csg=OPERATIONAL, nsg=nsg)
    with Client(server) as k:
        k.refused(AUTH_FAILED, k.who() + [("CHAP_A", "5")], csg=OPERATIONAL, nsg=FULL)


@case
def security_stage_left_at_once(server):
    for nsg in (OPERATIONAL, FULL):
        for discovery in (False, True):
            with Client(server, discovery) as k:
                k.refused(AUTH_FAILED, k.who(), nsg=nsg)
            with Client(server, discovery) as k:
                k.step(k.who())
                k.refused(AUTH_FAILED, [], nsg=nsg)


@case
def other_methods(server):
    for offer in ("None", "KRB5", "SRP,None", "", "chap", "CHAPS", "X-other"):
        for discovery in (False, True):
            with Client(server, discovery) as k:
                k.refused(AUTH_FAILED, k.who() + [("AuthMethod", offer)], nsg=OPERATIONAL)


@case
def left_in_the_middle(server):
    for nsg in (OPERATIONAL, FULL):
        with Client(server) as k:
            k.method()
            k.refused(AUTH_FAILED, [], nsg=nsg)
        with Client(server) as k:
            k.to_proof()
            k.refused(AUTH_FAILED, [], nsg=nsg)
        with Client(server) as k:
            k.to_proof()
            k.refused(INITIATOR_ERROR, [], csg=OPERATIONAL, nsg=FULL if nsg == FULL else None)


@case
def out_of_order(server):
    a, p = ("CHAP_A", "5"), [("CHAP_N", "alice"), ("CHAP_R", "0x00")]
    for keys in ([a], p, [("AuthMethod", "CHAP"), a], [a, ("AuthMethod", "CHAP")], [("CHAP_I", 1)]):
        with Client(server) as k:
            k.refused(INITIATOR_ERROR, k.who() + keys)
    for keys in (p, [a] + p, [a, a], [("CHAP_I", 1), ("CHAP_C", "0x00")], [("AuthMethod", "CHAP")],
                 [("AuthMethod", "None")]):
        with Client(server) as k:
            k.method()
            k.refused(INITIATOR_ERROR, keys)
    for keys in ([a], p[:1], p[1:], p[:1] + p, p + p[1:], p[:1] + [("CHAP_I", 1), ("CHAP_C", "0x00")]):
        with Client(server) as k:
            k.to_proof()
            k.refused(INITIATOR_ERROR, keys, nsg=OPERATIONAL)
    for keys in ([a], p, [("CHAP_I", 1), ("CHAP_C", "0x00")], [("AuthMethod", "CHAP")]):
        with Client(server) as k:
            k.to_proof()
            k.prove(nsg=None)
            k.refused(INITIATOR_ERROR, keys)


@case
def in_the_operational_stage(server):
    """What is of the security stage is rejected there, and changes nothing."""
    with Client(server) as k:
        k.to_proof()
        k.prove()
        a = k.step([("CHAP_I", "5"), ("CHAP_C", "0x00")], csg=OPERATIONAL)
        assert ("CHAP_I", "Reject") in a.keys and ("CHAP_C", "Reject") in a.keys, a.keys
        k.finish()
    with Client(server) as k:
        k.to_proof()
        k.prove()
        k.refused(INITIATOR_ERROR, [("CHAP_A", "5")], csg=OPERATIONAL)  # a key comes once


@case
def pieces_prove_nothing(server):
    with Client(server) as k:
        k.to_proof()
        text = P.pack_keys(k.proof())
        k.step([], data=text[:-5], cont=True)
        k.refused(INITIATOR_ERROR, [], nsg=OPERATIONAL)
    with Client(server) as k:
        k.to_proof()
        k.refused(INITIATOR_ERROR, k.proof(), nsg=OPERATIONAL, cont=True)
    with Client(server) as k:
        k.refused(INITIATOR_ERROR, k.who(), nsg=FULL, cont=True)


@case
def replay(server):
    with Client(server) as k:
        k.to_proof()
        old = k.proof()
        k.prove()
        k.finish()
    with Client(server) as k:
        k.to_proof()
        k.refused(AUTH_FAILED, old, nsg=OPERATIONAL)


@case
def commands_before_the_login(server):
    for steps in range(3):
        with Client(server) as k:
            if steps == 0:
                k.step(k.who())
            else:
                k.method()
            if steps == 2:
                k.choose()
            k.c.send(P.Pdu(P.SCSI_COMMAND, immediate=True, flags=P.FINAL | P.READ, itt=9, edtl=512, cdb=b"\x28"))
            assert k.c.is_closed(), "the connection stays open"


@case
def strangers_end_no_session(server):
    """Reinstatement is for who has proven who it is (RFC 7143 6.3.5)."""
    with Client(server) as k:
        k.to_proof()
        k.prove()
        k.c.log_in(k.target, INITIATOR, {}, False, False, isid=ISID)
        with Client(server) as stranger:
            stranger.refused(AUTH_FAILED, stranger.who(), csg=OPERATIONAL, nsg=FULL)
        k.c.ping()
        with Client(server) as stranger:
            stranger.to_proof()
            stranger.refused(AUTH_FAILED, stranger.proof(secret="a wrong secret"), nsg=FULL)
        k.c.ping()
        with Client(server) as again:
            again.to_proof()
            again.prove()
            again.finish()
        assert k.c.is_closed(), "two sessions with one name"


@case
def strangers_end_no_login(server):
    """A login that is under way goes on, whoever else begins one with its name."""
    with Client(server) as k, Client(server) as stranger, Client(server) as late:
        k.method()
        stranger.to_proof()
        k.choose()
        late.step(late.who())
        k.prove()
        k.finish()
        stranger.refused(AUTH_FAILED, stranger.proof(secret="a wrong secret"))
        late.method()


@case
def who_proves_itself_last_counts(server):
    """Two logins with one name, both true: one session in the end."""
    with Client(server) as one, Client(server) as two:
        one.to_proof()
        two.to_proof()
        two.prove()
        one.prove()
        two.c.log_in(two.target, INITIATOR, {}, False, False, isid=ISID)
        two.c.ping()
        one.c.log_in(one.target, INITIATOR, {}, False, False, isid=ISID)
        one.c.ping()
        assert two.c.is_closed(), "two sessions with one name"
        one.c.logout()


# ---- floods and noise

@case
def many_at_once(server):
    """On all loops, with all algorithms, right and wrong, mutual and not."""
    def work(n):
        rng = random.Random(n)
        for i in range(25):
            with Client(server, discovery=rng.random() < 0.3, isid=ISID + 1000 * n + i) as k:
                k.to_proof(str(rng.choice(list(DIGESTS))))
                if rng.random() < 0.3:
                    k.refused(AUTH_FAILED, k.proof(secret="a wrong secret"))
                    continue
                k.prove(more=[("CHAP_I", 1), ("CHAP_C", "0x07")] if rng.random() < 0.5 else ())
                k.finish()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, n) for n in range(8)]:
            done.result()


@case
def flood(server):
    """The log does not grow with every stranger, and tells how many it left out."""
    before = server.stderr().count("login-refused")
    for i in range(150):
        with Client(server, isid=ISID + i) as k:
            k.to_proof()
            k.refused(AUTH_FAILED, k.proof(f"user {i}"), nsg=OPERATIONAL)
    lines = server.stderr().count("login-refused") - before
    assert lines < 75, f"{lines} lines for 150 logins"
    alive(server)


@case
def noise(server):
    rng = random.Random(11)
    keys = ["AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "InitiatorName"]
    values = ["CHAP", "None", "5", "8,7", "0x00", "0b", "alice", "", "0b" + "A" * 300, "0x" + "f" * 2100, "Reject"]
    for _ in range(200):
        with Client(server) as k:
            try:
                if rng.random() < 0.7:
                    k.method()
                if rng.random() < 0.5:
                    k.step([("CHAP_A", "8")])
                for _ in range(4):
                    a = k.step([(rng.choice(keys), rng.choice(values)) for _ in range(rng.randrange(4))],
                               csg=rng.choice((0, 0, 0, 1)), nsg=rng.choice((None, 1, 3)))
                    assert not a.final, a
            except LoginRefused:
                pass
    alive(server)


@case
def secrets_are_not_told(server):
    text = server.stderr()
    for secret in list(USERS.values()) + [SELF_SECRET]:
        assert secret not in text
    assert "login-refused" in text and "why=" in text, text


def options(directory):
    args = []
    for i, (user, secret) in enumerate([*USERS.items(), (SELF, SELF_SECRET)]):
        path = os.path.join(directory, f"secret{i}")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as f:
            f.write(secret + "\n")
        args += ["--mutual-chap" if user == SELF else "--chap", f"{user}:{path}"]
    return args


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main("ram:64M", args=options(made))
