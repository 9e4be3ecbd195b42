#!/usr/bin/env python3
"""Keys on the wire: what the target answers, and that it then does what it said (RFC 7143 13)."""

import pdu as P
from common import case, main
from iscsi import INITIATOR, Conn, LoginRefused, login, pattern, read10

OFFERS = [
    # offered, answered
    ("HeaderDigest", "None", "None"),
    ("HeaderDigest", "CRC32C,None", "CRC32C"),
    ("HeaderDigest", "None,CRC32C", "None"),
    ("HeaderDigest", "X-other,None", "None"),
    ("HeaderDigest", "X-other", "Reject"),
    ("DataDigest", "CRC32C", "CRC32C"),
    ("DataDigest", "None", "None"),
    ("MaxConnections", "1", "1"),
    ("MaxConnections", "4", "1"),
    ("MaxConnections", "0", "Reject"),
    ("InitialR2T", "Yes", "Yes"),
    ("InitialR2T", "No", "Yes"),
    ("InitialR2T", "Maybe", "Reject"),
    ("ImmediateData", "Yes", "Yes"),
    ("ImmediateData", "No", "No"),
    ("MaxBurstLength", "512", "512"),
    ("MaxBurstLength", "0x10000", "65536"),
    ("MaxBurstLength", "16777215", "1048576"),
    ("MaxBurstLength", "16777216", "Reject"),
    ("MaxBurstLength", "511", "Reject"),
    ("FirstBurstLength", "512", "512"),
    ("FirstBurstLength", "16777215", "262144"),
    ("MaxOutstandingR2T", "1", "1"),
    ("MaxOutstandingR2T", "65535", "4"),
    ("DataPDUInOrder", "No", "Yes"),
    ("DataSequenceInOrder", "No", "Yes"),
    ("DefaultTime2Wait", "0", "2"),
    ("DefaultTime2Wait", "60", "60"),
    ("DefaultTime2Retain", "20", "0"),
    ("ErrorRecoveryLevel", "2", "0"),
    ("ErrorRecoveryLevel", "0", "0"),
    ("IFMarker", "No", "No"),
    ("OFMarker", "Yes", "No"),
    ("IFMarkInt", "2048", "Reject"),
    ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
    ("iSCSIProtocolLevel", "1", "1"),
    ("iSCSIProtocolLevel", "2", "2"),
    ("iSCSIProtocolLevel", "3", "2"),
    ("X-org.example.key", "value", "NotUnderstood"),
    ("NoSuchKey", "1", "NotUnderstood"),
]
QUIET = [("InitiatorAlias", "me"), ("MaxRecvDataSegmentLength", "65536"),
         ("X#NodeArchitecture", "a:b:c"), ("SessionType", "Normal")]


@case
def one_by_one(server):
    for key, value, want in OFFERS:
        with login(server.portals[0], server.iqn(), keys={key: value}) as s:
            assert s.answer(key) == [want], f"{key}={value}: {s.answer(key)}, not {want}"


@case
def together(server):
    seen = {}
    for key, value, want in OFFERS:
        seen.setdefault(key, (value, want))
    keys = {key: value for key, (value, _) in seen.items()}
    with login(server.portals[0], server.iqn(), keys=keys) as s:
        for key, (value, want) in seen.items():
            if key != "FirstBurstLength":
                assert s.answer(key) == [want], f"{key}={value}: {s.answer(key)}, not {want}"
        s.ping()


@case
def declarations_have_no_answer(server):
    for key, value in QUIET:
        with login(server.portals[0], server.iqn(), keys={key: value}) as s:
            got = s.answer(key)
            if key == "MaxRecvDataSegmentLength":
                assert got == ["262144"], got  # its own declaration, not an answer
            else:
                assert got == [], f"{key}: {got}"


@case
def declaration_out_of_range(server):
    for value in ("511", "16777216", "-1", "x"):
        try:
            login(server.portals[0], server.iqn(), keys={"MaxRecvDataSegmentLength": value})
        except LoginRefused as e:
            assert e.status == 0x0200, hex(e.status)
        else:
            raise AssertionError(f"MaxRecvDataSegmentLength={value} was taken")


@case
def first_burst_within_max_burst(server):
    for keys in ([("FirstBurstLength", 65536), ("MaxBurstLength", 8192)],
                 [("MaxBurstLength", 8192), ("FirstBurstLength", 65536)]):
        with login(server.portals[0], server.iqn(), keys=dict(keys)) as s:
            assert s.answer("FirstBurstLength") == ["8192"], s.answers


@case
def first_burst_without_unsolicited_data(server):
    with login(server.portals[0], server.iqn(),
               keys={"ImmediateData": "No", "FirstBurstLength": 4096}) as s:
        assert s.answer("FirstBurstLength") == ["Irrelevant"], s.answers


@case
def keys_in_the_wrong_stage(server):
    with Conn(server.portals[0]) as c:
        names = {"InitiatorName": INITIATOR, "TargetName": server.iqn()}
        a = c.login_step({**names, "MaxBurstLength": 4096}, csg=P.SECURITY, nsg=P.OPERATIONAL)
        assert ("MaxBurstLength", "Reject") in a.keys, a.keys
        a = c.login_step({"AuthMethod": "None", "SendTargets": "All"}, csg=P.OPERATIONAL,
                         nsg=P.FULL_FEATURE)
        assert ("AuthMethod", "Reject") in a.keys, a.keys
        assert ("SendTargets", "Reject") in a.keys, a.keys


@case
def discovery_session(server):
    with login(server.portals[0], discovery=True,
               keys={"MaxBurstLength": 4096, "InitialR2T": "Yes", "ErrorRecoveryLevel": 0,
                     "HeaderDigest": "None,CRC32C"}) as s:
        assert s.answer("MaxBurstLength") == ["Irrelevant"], s.answers
        assert s.answer("InitialR2T") == ["Irrelevant"], s.answers
        assert s.answer("ErrorRecoveryLevel") == ["0"], s.answers
        assert s.answer("HeaderDigest") == ["None"], s.answers
        assert s.answer("TargetPortalGroupTag") == [], s.answers


@case
def target_offers_nothing(server):
    """In a discovery session above all no digests (some initiators break off)."""
    with login(server.portals[0], discovery=True, keys={}) as s:
        assert {k for k, _ in s.answers} <= {"MaxRecvDataSegmentLength"}, s.answers
    with login(server.portals[0], server.iqn()) as s:
        assert {k for k, _ in s.answers} <= {"MaxRecvDataSegmentLength", "TargetAlias",
                                             "TargetPortalGroupTag"}, s.answers


@case
def data_segment_length_changes_later(server):
    """A text request in the full feature phase declares a new length; it is in force at once."""
    with login(server.portals[0], server.iqn(), keys={"MaxRecvDataSegmentLength": 65536}) as s:
        s.settle()
        data = pattern(65536)
        s.write(0, data)
        sizes = []
        for length in (512, 4096, 65536):
            keys = s.text_whole({"MaxRecvDataSegmentLength": length})
            assert all(k == "MaxRecvDataSegmentLength" and v.isdigit() for k, v in keys), keys
            s.own_dsl = length
            r = s.good(s.command(read10(0, 128), read=65536))
            assert r.data == data
            sizes.append(max(len(p.data) for p in r.data_in))
        assert sizes == [512, 4096, 65536], sizes


@case
def login_keys_in_full_feature_phase(server):
    with login(server.portals[0], server.iqn()) as s:
        keys = dict(s.text_whole({"MaxBurstLength": 4096, "X-some": "thing"}))
        assert keys == {"MaxBurstLength": "Reject", "X-some": "NotUnderstood"}, keys
        s.ping()


@case
def text_in_pieces_in_full_feature_phase(server):
    """The C bit of a text request: an empty answer with a tag to go on with."""
    with login(server.portals[0], server.iqn()) as s:
        text = P.pack_keys({"X-one": "1", "X-two": "2"})
        p = s.text(None, data=text[:7], final=False, cont=True)
        a = s.expect(P.TEXT_RESPONSE, itt=p.itt, dsl=0)
        assert not a.final and a.ttt != P.NONE, a
        s.send(s.request(P.TEXT_REQUEST, itt=p.itt, ttt=a.ttt, data=text[7:]))
        a = s.expect(P.TEXT_RESPONSE, itt=p.itt, ttt=P.NONE)
        assert dict(a.keys) == {"X-one": "NotUnderstood", "X-two": "NotUnderstood"}, a


@case
def text_with_a_tag_nobody_gave(server):
    with login(server.portals[0], server.iqn()) as s:
        p = s.text({"X-a": "1"}, ttt=0x1234)
        s.check(s.recv(), P.REJECT)
        assert p.ttt == 0x1234
    with login(server.portals[0], server.iqn()) as s:
        s.ping()


@case
def text_begun_anew(server):
    """A request with the reserved tag gives up the one that was not finished."""
    with login(server.portals[0], server.iqn()) as s:
        p = s.text(None, data=b"X-one=", final=False, cont=True)
        s.expect(P.TEXT_RESPONSE, itt=p.itt)
        assert s.text_whole({"X-two": "2"}) == [("X-two", "NotUnderstood")]


@case
def text_malformed_in_full_feature_phase(server):
    """A protocol error: rejected, and the session may go on or end, but not hang."""
    with login(server.portals[0], server.iqn()) as s:
        p = s.text(None, data=b"no equals sign\0")
        s.expect_reject(4, p)
    with login(server.portals[0], server.iqn()) as s:
        s.ping()


if __name__ == "__main__":
    main()
