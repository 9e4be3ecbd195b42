#!/usr/bin/env python3
"""The task management functions of RFC 7144, which iSCSIProtocolLevel 2 brings: QUERY TASK, QUERY TASK
SET, I_T NEXUS RESET and QUERY ASYNCHRONOUS EVENT."""

import socket
import time

import pdu as P
from common import Spindle, case, hanging, main
from iscsi import ISID, login, pattern, read10, test_unit_ready, write10
from tmf import (COMPLETE, LUN_RESET, NEXUS_RESET, NO_LUN, NOT_SUPPORTED, QUERY_EVENT,
                 QUERY_TASK, QUERY_TASK_SET, SUCCEEDED, tmf)

RESERVE, RELEASE = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])
NEXUS_LOST = (0x29, 0x07)


def session(server, n=0, level=2, settled=True, **keys):
    if level is not None:
        keys["iSCSIProtocolLevel"] = level
    s = login(server.portals[0], server.iqn(), isid=ISID + n, keys=keys)
    if settled:
        s.settle()
    return s


def function(s, what, response=COMPLETE, additional=0, **more):
    p = tmf(s, what, **more)
    s.check(s.recv_for(p.itt), P.TMF_RESPONSE, response=response, additional=additional)


def event(s, first, asc=0, ascq=0, **more):
    function(s, QUERY_EVENT, SUCCEEDED if first else COMPLETE, first << 16 | asc << 8 | ascq, **more)


def told(s, asc):
    r = s.command(test_unit_ready())
    assert r.sense_key == 6 and r.asc == asc, r


def told_in_time(s, asc):
    """The function has not been answered: commands may still be ahead of what it tells."""
    end = time.monotonic() + 5
    while (r := s.command(test_unit_ready())).status == 0:
        assert time.monotonic() < end
    assert r.sense_key == 6 and r.asc == asc, r


def ready(s):
    s.good(s.command(test_unit_ready()))


def waiting_write(s, blocks=32, lba=0):
    data = pattern(blocks * 512, 7)
    p = s.scsi_pdu(write10(lba, blocks), len(data), write=True)
    s.send(p)
    return p, s.recv_for(p.itt), data


def end_write(s, p, r2t, data):
    s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
    s.check(s.recv_for(p.itt), P.SCSI_RESPONSE, status=0)


def reported(s):
    r = s.good(s.command(bytes([0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]), read=4))
    return bytes(r.data)


@case
def at_lower_levels_there_are_none(server):
    for level in (None, 0, 1):
        with session(server, level=level) as s:
            for what in (QUERY_TASK, QUERY_TASK_SET, NEXUS_RESET, QUERY_EVENT):
                function(s, what, NOT_SUPPORTED)
                function(s, what, NOT_SUPPORTED, immediate=False)
            assert reported(s) == bytes([0xDA, 0, 0, 0])
            ready(s)


@case
def each_nexus_is_told_what_it_can_ask(server):
    with session(server) as s, session(server, 1, level=1) as other:
        assert reported(s) == bytes([0xDE, 7, 0, 0])
        assert reported(other) == bytes([0xDA, 0, 0, 0])
        function(s, 13, NOT_SUPPORTED)


@case
def no_such_lun(server):
    with session(server) as s:
        for what in (QUERY_TASK, QUERY_TASK_SET, QUERY_EVENT):
            function(s, what, NO_LUN, lun=5 << 48)
        function(s, NEXUS_RESET, lun=5 << 48)  # it has none
        told(s, NEXUS_LOST)
        ready(s)


@case
def a_priority_and_reserved_bytes_disturb_nothing(server):
    with session(server) as s:
        p = s.scsi_pdu(test_unit_ready())
        p.bhs[2] = 0x70
        s.send(p)
        r = s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        assert r.bhs[8:16] == bytes(8), "a status qualifier of nothing to add"


@case
def query_task(server):
    with session(server) as s, session(server, 1) as other:
        for immediate in (True, False):
            function(s, QUERY_TASK, rtt=0x4711, immediate=immediate)
            p, r2t, data = waiting_write(s)
            function(s, QUERY_TASK, SUCCEEDED, task=p, immediate=immediate)
            function(s, QUERY_TASK, COMPLETE, rtt=p.itt + 1, immediate=immediate)
            function(other, QUERY_TASK, COMPLETE, task=p, immediate=immediate)
            end_write(s, p, r2t, data)
            function(s, QUERY_TASK, COMPLETE, task=p, immediate=immediate)


@case
def query_task_set(server):
    with session(server) as s, session(server, 1) as other:
        for immediate in (True, False):
            function(s, QUERY_TASK_SET, immediate=immediate)
            p, r2t, data = waiting_write(s)
            function(s, QUERY_TASK_SET, SUCCEEDED, immediate=immediate)
            function(other, QUERY_TASK_SET, immediate=immediate)
            end_write(s, p, r2t, data)
            function(s, QUERY_TASK_SET, immediate=immediate)


@case
def commands_ahead_of_their_turn(server):
    """Those that are here count, those that are not do not; who asks for several waits for all that was
    sent before."""
    with session(server) as s:
        missing, held = s.scsi_pdu(test_unit_ready()), s.scsi_pdu(test_unit_ready())
        s.send(held)
        function(s, QUERY_TASK, SUCCEEDED, task=held)
        function(s, QUERY_TASK, COMPLETE, task=missing)
        function(s, QUERY_TASK, NO_LUN, task=held, lun=3 << 48)
        p = tmf(s, QUERY_TASK_SET)
        s.expect_silence()
        s.send(missing)
        s.check(s.recv_for(missing.itt), P.SCSI_RESPONSE, status=0)
        s.check(s.recv_for(held.itt), P.SCSI_RESPONSE, status=0)
        s.check(s.recv_for(p.itt), P.TMF_RESPONSE, response=COMPLETE)
        write = s.scsi_pdu(write10(0, 32), 32 * 512, write=True)
        p = tmf(s, QUERY_TASK_SET)
        s.expect_silence()
        s.send(write)
        s.check(s.recv_for(p.itt), P.TMF_RESPONSE, response=SUCCEEDED)
        end_write(s, write, s.recv_for(write.itt), pattern(32 * 512, 7))


@case
def reads_that_wait_to_be_started(server):
    """More waits to be sent than the socket takes."""
    with session(server) as s:
        s.widen(16)
        s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reads = [s.scsi_pdu(read10(0, 2048), 1 << 20, read=True) for _ in range(16)]
        for p in reads:
            s.send(p)
        one, several = tmf(s, QUERY_TASK, task=reads[-1]), tmf(s, QUERY_TASK_SET)
        answers = [s.recv() for _ in range(2)]
        while answers[-1].itt != reads[-1].itt or not answers[-1].flags & P.STATUS:
            answers.append(s.recv())
        for p in (one, several):
            a, = (a for a in answers if a.itt == p.itt)
            s.check(a, P.TMF_RESPONSE, response=SUCCEEDED)


@case
def what_is_over_but_for_its_data(_):
    """A refused write whose unsolicited data still comes has not been answered."""
    with Spindle("ram:1M", args=["--unsolicited"]) as server, session(server, InitialR2T="No") as s:
        data = pattern(4096)
        p = s.scsi_pdu(write10(1 << 20, 8), len(data), write=True, final=False)
        s.send(p)
        s.ping()
        function(s, QUERY_TASK, SUCCEEDED, task=p)
        function(s, QUERY_TASK_SET, SUCCEEDED)
        s.send_burst(p, P.NONE, data, 0, len(data))
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=2)
        function(s, QUERY_TASK, COMPLETE, task=p)
        function(s, QUERY_TASK_SET, COMPLETE)


@case
def while_the_disk_hangs(_):
    with hanging("any@0-4K") as (server, hang, release):
        hang()
        with session(server) as s, session(server, 1) as other:
            p = s.start(read10(0, 8), read=4096)
            function(s, QUERY_TASK, SUCCEEDED, task=p)
            function(s, QUERY_TASK_SET, SUCCEEDED)
            event(s, 0)
            function(other, QUERY_TASK_SET, COMPLETE)
            f = tmf(s, NEXUS_RESET)
            told_in_time(s, NEXUS_LOST)
            event(s, 0)
            # The function waits for it.
            function(s, QUERY_TASK, SUCCEEDED, task=p)
            s.expect_silence()
            release()
            s.check(s.recv_for(f.itt), P.TMF_RESPONSE, response=COMPLETE)
            function(s, QUERY_TASK_SET, COMPLETE)
            ready(s)
            ready(other)


@case
def nexus_reset(server):
    """Its tasks and its reservation go; nobody else loses anything."""
    with session(server) as s, session(server, 1) as other:
        for immediate in (True, False):
            s.good(s.command(RESERVE))
            assert other.command(RESERVE).status == 0x18
            function(s, NEXUS_RESET, immediate=immediate)
            event(s, 0x16, *NEXUS_LOST)
            p, r2t, data = waiting_write(other)
            told(s, NEXUS_LOST)
            ready(s)
            function(s, NEXUS_RESET, immediate=immediate)
            end_write(other, p, r2t, data)
            other.good(other.command(RESERVE))
            function(s, NEXUS_RESET, immediate=immediate)
            assert s.command(RESERVE).status == 0x18
            other.good(other.command(RELEASE))
            told(s, NEXUS_LOST)
            ready(s)
            ready(other)


@case
def nexus_reset_awaits_data_out(server):
    with session(server) as s:
        s.write(0, pattern(32 * 512, 1))
        p, r2t, data = waiting_write(s)
        f = tmf(s, NEXUS_RESET)
        s.expect_silence()
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        s.expect(P.TMF_RESPONSE, itt=f.itt, response=COMPLETE)
        told(s, NEXUS_LOST)
        assert s.read(0, 32) == pattern(32 * 512, 1)


@case
def nexus_reset_waits_for_what_was_sent_before(server):
    with session(server) as s:
        missing = s.scsi_pdu(test_unit_ready())
        f = tmf(s, NEXUS_RESET)
        s.expect_silence()
        s.send(missing)
        s.check(s.recv_for(f.itt), P.TMF_RESPONSE, response=COMPLETE)
        told(s, NEXUS_LOST)
        ready(s)


@case
def a_connection_that_is_lost_in_a_nexus_reset(server):
    for _ in range(5):
        s = session(server)
        waiting_write(s)
        tmf(s, NEXUS_RESET)
        s.close()
    with session(server) as s:
        ready(s)


@case
def query_event(server):
    """What comes next, in order, and it stays until a command tells it."""
    with session(server, settled=False) as s, session(server, 1) as other:
        for immediate in (True, False):
            event(s, 0x16, 0x29, 0x00, immediate=immediate)
        told(s, (0x29, 0x00))
        event(s, 0)
        r = other.good(other.command(bytes([0x1A, 8, 0x0A, 0, 255, 0]), read=255))
        page = bytearray(r.data[4:])
        page[0] &= 0x3F
        page[5] = 0x40
        other.good(other.command(bytes([0x15, 0x10, 0, 0, 4 + len(page), 0]),
                                 write=bytes(4) + bytes(page)))
        event(other, 0)
        event(s, 0x16, 0x2A, 0x01)
        function(other, LUN_RESET)
        event(s, 0x26, 0x29, 0x03)
        event(s, 0x26, 0x29, 0x03)
        told(s, (0x29, 0x03))
        event(s, 0x16, 0x2A, 0x01)
        told(s, (0x2A, 0x01))
        event(s, 0)
        event(other, 0x16, 0x29, 0x03)
        told(other, (0x29, 0x03))
        ready(s)


if __name__ == "__main__":
    main()
