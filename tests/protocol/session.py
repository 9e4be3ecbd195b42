#!/usr/bin/env python3
"""The end of sessions, their replacement, and several at once (RFC 7143 6.3.5, 11.14, 11.15)."""

import socket
import time

import pdu as P
from common import case, main
from iscsi import (INITIATOR, ISID, Closed, Conn, LoginRefused, login, pattern, read10,
                   test_unit_ready, write10)


def session(server, **more):
    s = login(server.portals[0], server.iqn(), **more)
    s.settle()
    return s


@case
def logout_closes_the_session(server):
    with session(server) as s:
        s.check(s.logout(0), P.LOGOUT_RESPONSE, response=0)
        s.expect_close()


@case
def logout_closes_the_connection(server):
    with session(server) as s:
        s.check(s.logout(1, cid=0), P.LOGOUT_RESPONSE, response=0)
        s.expect_close()


@case
def logout_behind_data_that_is_read_late(server):
    """What was queued before it, and the response, have their time, however old the session is."""
    with session(server) as s:
        s.widen(16)
        s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        time.sleep(9)
        for _ in range(16):
            s.send(s.scsi_pdu(read10(0, 2048), edtl=1 << 20, read=True))
        p = s.request(P.LOGOUT_REQUEST, immediate=True, cid=0)
        s.send(p)
        time.sleep(2)
        while True:
            a = s.recv()
            if a.opcode == P.LOGOUT_RESPONSE:
                break
            s.check(a, P.DATA_IN)
        s.expect_close()


@case
def logout_that_is_not_immediate(server):
    with session(server) as s:
        p = s.request(P.LOGOUT_REQUEST, flags=P.FINAL, cid=0)
        s.send(p)
        s.expect(P.LOGOUT_RESPONSE, itt=p.itt, response=0)
        s.expect_close()


@case
def logout_of_another_connection(server):
    with session(server) as s:
        s.check(s.logout(1, cid=77), P.LOGOUT_RESPONSE, response=1)
        s.ping()


@case
def logout_for_recovery_is_not_for_level_0(server):
    with session(server) as s:
        s.check(s.logout(2, cid=0), P.LOGOUT_RESPONSE, response=2)
        s.ping()


@case
def logout_with_commands_under_way(server):
    """Commands that were accepted before are answered or dropped; the logout itself is answered
    and the disk is whole."""
    with session(server) as s:
        for i in range(20):
            s.start(write10(i * 128, 128), write=pattern(65536, i))
        p = s.request(P.LOGOUT_REQUEST, immediate=False, flags=P.FINAL)
        s.send(p)
        while True:
            a = s.recv()
            if a.opcode == P.LOGOUT_RESPONSE:
                assert a.response == 0, a
                break
        s.expect_close()
    with session(server) as s:
        s.ping()


@case
def same_isid_replaces(server):
    with session(server) as old:
        with session(server) as new:
            assert old.is_closed(), "the old session lives on"
            new.write(0, pattern(512, 1))
            assert new.read(0, 1) == pattern(512, 1)


@case
def replaced_with_a_write_half_done(server):
    """The old write does not come back after the new session began to write."""
    with login(server.portals[0], server.iqn(), keys={"ImmediateData": "No"}) as old:
        old.settle()
        p = old.scsi_pdu(write10(50, 8), edtl=4096, write=True)
        old.send(p)
        r2t = old.expect(P.R2T, itt=p.itt)
        with session(server) as new:
            data = pattern(4096, 2)
            new.write(50, data)
            try:
                old.send(old.data_out(p, r2t.ttt, 0, 0, pattern(4096, 3), True))
                old.recv()
            except (Closed, OSError):
                pass
            assert new.read(50, 8) == data


@case
def replaced_many_times(server):
    last = None
    for i in range(20):
        s = session(server)
        s.start(read10(0, 256), read=131072)
        if last is not None:
            assert last.is_closed()
            last.close()
        last = s
    last.close()


@case
def other_isid_lives_beside(server):
    with session(server, isid=ISID) as a, session(server, isid=ISID + 1) as b:
        a.write(10, pattern(512, 4))
        assert b.read(10, 1) == pattern(512, 4)
        a.ping()
        b.ping()
        assert a.tsih != b.tsih


@case
def other_initiator_lives_beside(server):
    with session(server) as a, session(server, initiator=INITIATOR + ":other") as b:
        a.ping()
        b.ping()


@case
def other_target_lives_beside(server):
    with session(server) as a, login(server.portals[0], server.iqn(1)) as b:
        b.settle()
        a.write(5, pattern(512, 5))
        b.write(5, pattern(512, 6))
        assert a.read(5, 1) == pattern(512, 5)
        assert b.read(5, 1) == pattern(512, 6)


@case
def second_connection_is_refused(server):
    """MaxConnections=1: too many (0x0206), or the session is not to be joined."""
    with session(server) as s:
        with Conn(server.portals[0]) as c:
            try:
                c.login_step({"InitiatorName": INITIATOR, "TargetName": server.iqn()},
                             nsg=P.FULL_FEATURE, tsih=s.tsih, cid=1)
            except LoginRefused as e:
                assert e.status in (0x0206, 0x0208, 0x020A), hex(e.status)
            else:
                c.fail("a second connection was let in")
        s.ping()


@case
def tsih_of_another_isid_is_unknown(server):
    with session(server) as s:
        with Conn(server.portals[0]) as c:
            try:
                c.login_step({"InitiatorName": INITIATOR, "TargetName": server.iqn()},
                             nsg=P.FULL_FEATURE, tsih=s.tsih, isid=ISID + 9)
            except LoginRefused as e:
                assert e.status == 0x020A, hex(e.status)
            else:
                c.fail("let in")
        s.ping()


@case
def attention_after_login(server):
    """A new nexus hears of it or not, but never twice, and INQUIRY does not wait for it."""
    with login(server.portals[0], server.iqn(), isid=ISID + 3) as s:
        assert s.command(bytes([0x12, 0, 0, 0, 36, 0]), read=36).status == 0
        outcomes = [s.command(test_unit_ready()) for _ in range(3)]
        for r in outcomes:
            assert r.status == 0 or r.sense_key == 6, r
        assert outcomes[-1].status == 0


@case
def cut_connection(server):
    """No logout, commands under way: the next session works at once."""
    for _ in range(10):
        s = session(server)
        for i in range(10):
            s.start(write10(i * 64, 64), write=pattern(32768, i))
        s.close()
    with session(server) as s:
        s.ping()
        data = pattern(65536, 7)
        s.write(0, data)
        assert s.read(0, 128) == data


@case
def forty_sessions(server):
    all_of_them = [session(server, isid=ISID + 100 + i) for i in range(40)]
    for i, s in enumerate(all_of_them):
        s.write(i * 8, pattern(4096, i))
    for i, s in enumerate(all_of_them):
        assert all_of_them[-1 - i].read(i * 8, 8) == pattern(4096, i)
        s.ping()
    for s in all_of_them:
        s.logout()
        s.expect_close()
        s.close()


if __name__ == "__main__":
    main("ram:64M", "ram:8M")
