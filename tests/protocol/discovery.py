#!/usr/bin/env python3
"""Discovery sessions and SendTargets (RFC 7143 4.3, 13.3, appendix C)."""

import socket

import pdu as P
from common import SkipCase, Spindle, case, main
from iscsi import Closed, LoginRefused, login, test_unit_ready

DISKS = ("ram:1M", "ram:2M", "ram:3M")


def have_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


def discover(server, portal=0, **keys):
    return login(server.portals[portal], discovery=True, keys=keys)


@case
def all_targets(server):
    with discover(server) as s:
        found = s.send_targets("All")
        assert sorted(n for n, _ in found) == sorted(d["iqn"] for d in server.disks), found
        for _, addresses in found:
            assert f"{server.portal_text()},1" in addresses, addresses
        s.logout()
        s.expect_close()


@case
def one_by_name(server):
    with discover(server) as s:
        for disk in server.disks:
            found = s.send_targets(disk["iqn"])
            assert [n for n, _ in found] == [disk["iqn"]], found
            assert found[0][1], "no address"
        assert s.send_targets("iqn.2026-11.org.example:none") == []


@case
def from_a_normal_session(server):
    """Empty: the target of the session itself. All: not here."""
    with login(server.portals[0], server.iqn(1)) as s:
        found = s.send_targets("")
        assert [n for n, _ in found] == [server.iqn(1)], found
        found = s.send_targets(server.iqn(1))
        assert [n for n, _ in found] == [server.iqn(1)], found
        assert s.text_whole({"SendTargets": "All"}) == [("SendTargets", "Reject")]
        s.ping()


@case
def again_and_again(server):
    with discover(server) as s:
        first = s.send_targets("All")
        for _ in range(20):
            assert s.send_targets("All") == first
        s.ping()


@case
def with_a_target_name_too(server):
    """Some initiators name a target in a discovery login; that changes nothing."""
    with login(server.portals[0], server.iqn(), discovery=True) as s:
        assert len(s.send_targets("All")) == len(DISKS)


@case
def no_commands_here(server):
    with discover(server) as s:
        s.params.setdefault("MaxBurstLength", 262144)
        p = s.scsi_pdu(test_unit_ready())
        s.send(p)
        try:
            a = s.recv()
        except Closed:
            return
        s.check(a, P.REJECT)


@case
def sessions_side_by_side(server):
    """Discovery does not replace a normal session of the same initiator and ISID."""
    with login(server.portals[0], server.iqn()) as s:
        with discover(server) as d:
            d.send_targets("All")
            s.ping()
            d.ping()


@case
def split_over_small_segments(server):
    """An answer longer than the initiator can take comes in pieces, which it asks for."""
    with Spindle(*["ram:1M"] * 24) as many:
        with discover(many, MaxRecvDataSegmentLength=512) as s:
            found = s.send_targets("All")
        assert sorted(n for n, _ in found) == sorted(d["iqn"] for d in many.disks)
        assert all(addresses for _, addresses in found)


@case
def over_ipv6(server):
    if not have_ipv6():
        raise SkipCase("no ::1")
    with Spindle("ram:1M", listen=("[::1]:0", "127.0.0.1:0")) as both:
        six = both.portals.index(next(p for p in both.portals if ":" in p[0]))
        for portal in range(2):
            with discover(both, portal) as s:
                (name, addresses), = s.send_targets("All")
                assert name == both.iqn()
                assert f"{both.portal_text(portal)},1" in addresses, addresses
        assert both.portal_text(six).startswith("[::1]:")
        with login(both.portals[six], both.iqn()) as s:
            s.settle()
            s.write(0, b"v" * 512)
            assert s.read(0, 1) == b"v" * 512


@case
def refused_without_a_name(server):
    try:
        login(server.portals[0], initiator="", discovery=True)
    except LoginRefused as e:
        assert e.status >> 8 == 2, hex(e.status)
    else:
        raise AssertionError("an empty InitiatorName was taken")


if __name__ == "__main__":
    main(*DISKS)
