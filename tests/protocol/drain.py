#!/usr/bin/env python3
"""The last word of a server (RFC 7143 11.9): what sessions are told when it stops or their target is
reset, and what they can still do until then."""

import contextlib
import os
import signal
import socket
import time

import pdu as P
from common import Spindle, case, hanging, main
from iscsi import ISID, Closed, login, pattern, read10, test_unit_ready, write10
from tmf import ABORT_TASK, ABORT_TASK_SET, COLD_RESET, QUERY_TASK

LOGOUT, DROP_SESSION = 1, 3
GRACE_S = 5


def session(server, n=0, **keys):
    s = login(server.portals[0], server.iqn(), isid=ISID + n, keys=keys)
    s.settle()
    return s


@contextlib.contextmanager
def stopping():
    """A server whose first blocks hang until `release` is called; it stops with exit code 0."""
    with hanging("any@0-64K") as (server, hang, release):
        hang()
        yield server, release
        assert server.wait_end() == 0, server.stderr()


def terminate(server):
    os.kill(server.pid, signal.SIGTERM)


def message(s, event, **fields):
    a = s.expect(P.ASYNC, itt=P.NONE, event=event, vcode=0, lun=0, flags=P.FINAL, dsl=0, **fields)
    assert a.bhs[20:24] == bytes(4) and a.bhs[44:48] == bytes(4), a
    return a


def asked_to_log_out(s):
    message(s, LOGOUT, p1=0, p2=0, p3=GRACE_S)


def goodbye(s, time2wait=2):
    message(s, DROP_SESSION, p1=0, p2=time2wait, p3=0)
    s.expect_close()


def tmf(s, function, task=None, immediate=True):
    p = s.request(P.TMF_REQUEST, immediate, flags=P.FINAL | function,
                  rtt=task.itt if task else P.NONE, refcmdsn=task.cmdsn if task else 0)
    s.send(p)
    return p


def waiting_write(s):
    data = pattern(32 * 512, 7)
    p = s.scsi_pdu(write10(1024, 32), len(data), write=True)
    s.send(p)
    return p, s.expect(P.R2T, itt=p.itt), data


@case
def idle_sessions_are_told_and_not_waited_for(_):
    with Spindle("ram:1M") as server:
        sessions = [session(server), session(server, 1, DefaultTime2Wait=7),
                    session(server, 2, HeaderDigest="CRC32C", DataDigest="CRC32C"),
                    login(server.portals[0], discovery=True)]
        started = time.monotonic()
        terminate(server)
        assert server.wait_end() == 0, server.stderr()
        took = time.monotonic() - started
        print(f"stopped in {took:.3f} s", flush=True)
        assert took < GRACE_S - 1, took
        for s, time2wait in zip(sessions, (2, 7, 2, 2)):
            goodbye(s, time2wait)


@case
def what_is_under_way_is_answered(_):
    """New commands are ignored, pings are not; the last message comes behind the last answer."""
    with stopping() as (server, release):
        s, idle = session(server), session(server, 1)
        p = s.start(write10(0, 8), write=pattern(4096))
        s.ping()
        terminate(server)
        asked_to_log_out(s)
        goodbye(idle)
        for _ in range(3):
            s.send(s.scsi_pdu(test_unit_ready()))
        s.ping()
        assert s.expcmdsn == s.cmdsn, "they are ignored in their turn"
        s.expect_silence()
        release()
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        goodbye(s)


@case
def what_hangs_is_not_waited_for(_):
    with stopping() as (server, release):
        s, mute = session(server), session(server, 1)
        s.start(write10(0, 8), write=pattern(4096))
        s.ping()
        mute.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        for _ in range(16):
            mute.send(mute.scsi_pdu(read10(1024, 2048), 1 << 20, read=True))
        started = time.monotonic()
        terminate(server)
        asked_to_log_out(s)
        goodbye(s)
        assert GRACE_S - 1 < time.monotonic() - started < GRACE_S + 8
        assert server.running()
        assert mute.is_closed()
        release()


@case
def who_is_asked_may_log_out(_):
    with stopping() as (server, release):
        s, other = session(server), session(server, 1)
        s.start(write10(0, 8), write=pattern(4096))
        waiting_write(other)
        s.ping()
        terminate(server)
        for one in (s, other):
            asked_to_log_out(one)
            one.send(one.request(P.LOGOUT_REQUEST, immediate=one is s))
        other.expect(P.LOGOUT_RESPONSE, response=0)
        other.expect_close()
        s.expect_silence()  # its write may still reach the disk
        release()
        s.expect(P.LOGOUT_RESPONSE, response=0)
        s.expect_close()


@case
def a_logout_that_began_before_is_answered(_):
    with stopping() as (server, release):
        s = session(server)
        s.start(write10(0, 8), write=pattern(4096))
        p = s.request(P.LOGOUT_REQUEST, immediate=True)
        s.send(p)
        s.expect_silence()
        terminate(server)
        s.expect_silence()
        release()
        s.expect(P.LOGOUT_RESPONSE, itt=p.itt, response=0)
        s.expect_close()


@case
def functions_end_commands_while_it_drains(_):
    for immediate in (True, False):
        with Spindle("ram:4M") as server:
            s = session(server, iSCSIProtocolLevel=2)
            p = waiting_write(s)[0]
            terminate(server)
            asked_to_log_out(s)
            f = tmf(s, QUERY_TASK, p, immediate)
            s.expect(P.TMF_RESPONSE, itt=f.itt, response=7)
            s.send(s.scsi_pdu(test_unit_ready()))
            f = tmf(s, ABORT_TASK, p, immediate)
            s.expect(P.TMF_RESPONSE, itt=f.itt, response=0)
            goodbye(s)
            assert server.wait_end() == 0, server.stderr()


@case
def functions_over_several_come_behind_ignored_commands(_):
    """The second one was sent before the first."""
    for immediate in (True, False):
        with Spindle("ram:4M") as server:
            s = session(server)
            p, r2t, data = waiting_write(s)
            terminate(server)
            asked_to_log_out(s)
            first, second = (s.scsi_pdu(test_unit_ready()) for _ in range(2))
            f = s.request(P.TMF_REQUEST, immediate, flags=P.FINAL | ABORT_TASK_SET, rtt=P.NONE)
            for one in (second, f, first):
                s.send(one)
            s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
            a = s.recv()
            if a.opcode == P.SCSI_RESPONSE:  # it was faster than what was to end it
                s.check(a, P.SCSI_RESPONSE, itt=p.itt, status=0)
                a = s.recv()
            s.check(a, P.TMF_RESPONSE, itt=f.itt, response=0)
            goodbye(s)
            assert server.wait_end() == 0, server.stderr()


@case
def a_hung_command_that_is_aborted(_):
    with stopping() as (server, release):
        s = session(server)
        p = s.start(write10(0, 8), write=pattern(4096))
        s.ping()
        terminate(server)
        asked_to_log_out(s)
        f = tmf(s, ABORT_TASK, p)
        s.expect_silence()
        release()
        s.expect(P.TMF_RESPONSE, itt=f.itt, response=0)
        goodbye(s)


@case
def many_commands_in_flight(_):
    """They are answered or ignored, in order, and then comes the message."""
    with Spindle("fault:rule=any;delay=2ms:ram:4M") as server:
        s = session(server)
        sent = 0
        for i in range(400):
            if i == 100:
                terminate(server)
            with contextlib.suppress(OSError):
                s.start(read10(i * 8, 8), read=4096)
                sent += 1
        seen = []
        with contextlib.suppress(Closed, OSError):
            while True:
                seen.append(s.recv())
        assert len(seen) <= sent + 2
        assert [a for a in seen if a.opcode == P.ASYNC and a.event == DROP_SESSION] == seen[-1:]
        assert server.wait_end() == 0, server.stderr()


@case
def sessions_of_a_target_that_is_reset(server):
    s, other = session(server), session(server, 1)
    waiting = session(server, 2)
    waiting_write(waiting)
    f = tmf(s, COLD_RESET)
    s.expect(P.TMF_RESPONSE, itt=f.itt, response=0)
    s.expect_close()
    goodbye(other)
    goodbye(waiting)


@case
def who_is_replaced_is_not_told(server):
    s = session(server)
    with session(server):
        s.expect_close()


if __name__ == "__main__":
    main()
