#!/usr/bin/env python3
"""Task management (RFC 7143 11.5, 11.6): each function and each response, which tasks are gone when it
comes and what came before it, commands that have not come yet, Data-Out that comes late or never."""

import contextlib
import os
import time

import pdu as P
from common import SkipCase, Spindle, case, main
from iscsi import add, login, pattern, read10, test_unit_ready, write10

ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET = 1, 2, 3, 4
LUN_RESET, WARM_RESET, COLD_RESET, REASSIGN = 5, 6, 7, 8
QUERY_TASK, QUERY_TASK_SET, NEXUS_RESET, QUERY_EVENT = 9, 10, 11, 12  # query.py
COMPLETE, NO_TASK, NO_LUN, NO_REASSIGN = 0, 1, 2, 4
NOT_SUPPORTED, SUCCEEDED, REJECTED = 5, 7, 255
OF_SEVERAL = (ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET)
RESETS = (LUN_RESET, WARM_RESET)
OTHER_ISID = 0x00023D000002


def session(server, **more):
    s = login(server.portals[0], server.iqn(), **more)
    s.settle()
    return s


def tmf(s, function, task=None, immediate=True, **fields):
    fields.setdefault("rtt", task.itt if task else P.NONE)
    fields.setdefault("refcmdsn", task.cmdsn if task else 0)
    p = s.request(P.TMF_REQUEST, immediate, flags=P.FINAL | function, **fields)
    s.send(p)
    return p


def answered(s, p, response=COMPLETE, timeout_s=None):
    return s.expect(P.TMF_RESPONSE, timeout_s, itt=p.itt, response=response)


def function(s, what, response=COMPLETE, **more):
    p = tmf(s, what, **more)
    return answered(s, p, response)


def waiting_write(s, blocks=32, lba=0):
    """A write whose Data-Out is asked for, and the R2T."""
    data = pattern(blocks * 512, 7)
    p = s.scsi_pdu(write10(lba, blocks), len(data), write=True)
    s.send(p)
    r2t = s.expect(P.R2T, itt=p.itt)
    return p, r2t, data


def was_reset(s):
    r = s.command(test_unit_ready())
    assert r.sense_key == 6 and r.asc == (0x29, 0x03), r
    s.good(s.command(test_unit_ready()))


@case
def what_there_is_not(server):
    with session(server) as s:
        for what, response in ((0, NOT_SUPPORTED), (CLEAR_ACA, NOT_SUPPORTED), (REASSIGN, NO_REASSIGN),
                               (9, NOT_SUPPORTED), (10, NOT_SUPPORTED), (11, NOT_SUPPORTED),
                               (12, NOT_SUPPORTED), (13, NOT_SUPPORTED), (0x7F, NOT_SUPPORTED)):
            function(s, what, response)
            function(s, what, response, immediate=False)
        s.ping()
        s.good(s.command(test_unit_ready()))


@case
def each_function_with_nothing_to_do(server):
    with session(server) as s:
        for immediate in (True, False):
            function(s, ABORT_TASK, NO_TASK, rtt=0x4711, refcmdsn=s.cmdsn - 1, immediate=immediate)
            for what in OF_SEVERAL:
                function(s, what, immediate=immediate)
                if what in RESETS:
                    was_reset(s)
        s.good(s.command(test_unit_ready()))


@case
def no_such_lun(server):
    with session(server) as s:
        for what in (ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET):
            function(s, what, NO_LUN, lun=5 << 48)
        s.good(s.command(test_unit_ready()))


@case
def tags_in_use(server):
    with session(server) as s:
        p, r2t, data = waiting_write(s)
        bad = tmf(s, LUN_RESET, itt=p.itt)
        s.expect_reject(0x07, bad)
        bad = tmf(s, LUN_RESET, itt=P.NONE)
        s.expect_reject(0x09, bad)
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)


@case
def abort_task_ends_it_and_its_data_is_thrown_away(server):
    with session(server) as s:
        s.write(0, pattern(32 * 512, 1))
        p, r2t, data = waiting_write(s)
        function(s, ABORT_TASK, task=p)
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        s.expect_silence()
        assert s.read(0, 32) == pattern(32 * 512, 1)
        function(s, ABORT_TASK, NO_TASK, task=p)


@case
def abort_task_needs_the_right_lun(server):
    with session(server) as s:
        p, r2t, data = waiting_write(s)
        function(s, ABORT_TASK, NO_TASK, task=p, lun=1 << 48)
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)


@case
def the_tag_of_an_aborted_task_is_free(server):
    """Late data of the old task does not disturb the new one."""
    with session(server) as s:
        p, r2t, data = waiting_write(s)
        function(s, ABORT_TASK, task=p)
        new = s.scsi_pdu(write10(64, 32), len(data), write=True, itt=p.itt)
        s.send(new)
        ask = s.expect(P.R2T, itt=p.itt)
        assert ask.ttt != r2t.ttt
        s.send_burst(p, r2t.ttt, bytes(len(data)), r2t.offset, r2t.length)
        s.send_burst(new, ask.ttt, data, ask.offset, ask.length)
        s.expect(P.SCSI_RESPONSE, itt=p.itt, status=0)
        assert s.read(64, 32) == data


@case
def a_tag_that_was_never_given_still_ends_the_connection(server):
    with session(server) as s:
        p, r2t, data = waiting_write(s)
        function(s, ABORT_TASK, task=p)
        new = s.scsi_pdu(write10(64, 32), len(data), write=True)
        s.send(new)
        ask = s.expect(P.R2T, itt=new.itt)
        s.send_burst(new, add(ask.ttt, 77), data, ask.offset, 512)
        s.expect(P.REJECT)
        s.expect_close()


@case
def abort_task_while_its_data_comes(server):
    """The first half of a large Data-Out is there: the rest goes nowhere."""
    with session(server, keys={"MaxBurstLength": 262144}) as s:
        p, r2t, data = waiting_write(s, 512)
        out = s.data_out(p, r2t.ttt, 0, 0, data[:s.target_dsl][:131072], False).pack()
        s.send_raw(out[:60000])
        time.sleep(0.1)
        with session(server, isid=OTHER_ISID) as other:
            function(other, LUN_RESET)
            s.send_raw(out[60000:])
            s.send_burst(p, r2t.ttt, data, 131072, len(data) - 131072)
            time.sleep(0.1)
            was_reset(s)
            was_reset(other)


@case
def data_out_is_awaited_where_several_are_aborted(server):
    with session(server) as s:
        for what in OF_SEVERAL:
            s.write(0, pattern(32 * 512, what))
            p, r2t, data = waiting_write(s)
            f = tmf(s, what)
            s.expect_silence()
            s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
            answered(s, f)
            if what in RESETS:
                was_reset(s)
            assert s.read(0, 32) == pattern(32 * 512, what)


@case
def data_out_that_never_comes_is_not_awaited_for_long(server):
    with session(server) as s:
        for what in (ABORT_TASK_SET, LUN_RESET):
            p, r2t, data = waiting_write(s)
            began = time.monotonic()
            answered(s, tmf(s, what))
            took = time.monotonic() - began
            assert 1.5 < took < 5, took
            if what in RESETS:
                was_reset(s)
            s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
            s.ping()
            s.good(s.command(test_unit_ready()))


@case
def data_out_that_is_half_there_when_the_time_is_up(server):
    with session(server) as s:
        p, r2t, data = waiting_write(s, 512)
        f = tmf(s, ABORT_TASK_SET)
        n = min(s.target_dsl, len(data))
        out = s.data_out(p, r2t.ttt, 0, 0, data[:n], False).pack()
        s.send_raw(out[:n // 2])
        answered(s, f)
        s.send_raw(out[n // 2:])
        s.send_burst(p, r2t.ttt, data, n, len(data) - n)
        s.write(0, data)
        assert s.read(0, 512) == data


@case
def unsolicited_data_of_an_aborted_task(server):
    with session(server, keys={"InitialR2T": "No"}) as s:
        if s.params["InitialR2T"] != "No":
            raise SkipCase("not agreed on")
        data = pattern(4096, 3)
        p = s.scsi_pdu(write10(0, 8), len(data), write=True, final=False)
        s.send(p)
        function(s, ABORT_TASK, task=p)
        s.send_burst(p, P.NONE, data, 0, len(data))
        s.ping()


@case
def answers_come_before_the_function(server):
    """What was answered before, in order; nothing of the task behind it."""
    with session(server) as s:
        s.widen(16)  # else it closes, and a NOP-In says when it opens again
        for _ in range(10):
            reads = [s.scsi_pdu(read10(0, 512), 512 * 512, read=True) for _ in range(8)]
            for p in reads:
                s.send(p)
            f = tmf(s, ABORT_TASK_SET)
            ended = set()
            while True:
                a = s.recv()
                if a.opcode == P.TMF_RESPONSE:
                    break
                assert a.opcode == P.DATA_IN or a.opcode == P.SCSI_RESPONSE, a
                assert a.itt not in ended
                if a.opcode == P.SCSI_RESPONSE or a.flags & P.STATUS:
                    ended.add(a.itt)
            s.check(a, P.TMF_RESPONSE, itt=f.itt, response=COMPLETE)
            s.ping()
        assert len(s.read(0, 8)) == 4096


@case
def commands_that_have_not_come_yet(server):
    """They fill their place in the order of CmdSN, and are ignored when they come (11.5.1)."""
    with session(server) as s:
        missing = s.scsi_pdu(test_unit_ready())
        behind = s.scsi_pdu(test_unit_ready())
        s.send(behind)
        s.expect_silence()
        f = tmf(s, ABORT_TASK, task=missing)
        answers = {s.recv().itt for _ in range(2)}
        assert answers == {f.itt, behind.itt}, answers
        s.send(missing)
        s.expect_silence()
        assert s.expcmdsn == s.cmdsn
        s.good(s.command(test_unit_ready()))


@case
def a_hole_behind_another_hole(server):
    with session(server) as s:
        first, second, third = (s.scsi_pdu(test_unit_ready()) for _ in range(3))
        s.send(third)
        function(s, ABORT_TASK, task=second)
        function(s, ABORT_TASK, task=second)
        s.expect_silence()
        s.send(second)
        s.expect_silence()
        s.send(first)
        s.expect(P.SCSI_RESPONSE, itt=first.itt)
        s.expect(P.SCSI_RESPONSE, itt=third.itt)
        s.good(s.command(test_unit_ready()))


@case
def a_held_command_is_aborted(server):
    with session(server) as s:
        first, held, last = (s.scsi_pdu(test_unit_ready()) for _ in range(3))
        s.send(held)
        s.send(last)
        function(s, ABORT_TASK, NO_TASK, rtt=0x99, refcmdsn=held.cmdsn)
        function(s, ABORT_TASK, task=held)
        s.send(first)
        s.expect(P.SCSI_RESPONSE, itt=first.itt)
        s.expect(P.SCSI_RESPONSE, itt=last.itt)
        s.expect_silence()


@case
def numbers_outside_the_window_are_no_holes(server):
    with session(server) as s:
        for number in (add(s.cmdsn, 0), add(s.cmdsn, 1000), add(s.cmdsn, -1), add(s.maxcmdsn, 1)):
            function(s, ABORT_TASK, NO_TASK, rtt=0x4711, refcmdsn=number)
        s.good(s.command(test_unit_ready()))


@case
def several_wait_for_what_was_sent_before(server):
    """An immediate function over several tasks waits for all lower numbers, and ends them."""
    with session(server) as s:
        for what in OF_SEVERAL:
            data = pattern(16384, 1)
            missing = s.scsi_pdu(write10(0, 32), len(data), write=True)
            f = tmf(s, what)
            s.expect_silence()
            s.send(missing)
            while (a := s.recv()).opcode != P.TMF_RESPONSE:
                if a.opcode == P.SCSI_RESPONSE:  # it was faster than what was to end it
                    s.check(a, P.SCSI_RESPONSE, itt=missing.itt, status=0)
                    continue
                s.check(a, P.R2T, itt=missing.itt)
                s.send_burst(missing, a.ttt, data, a.offset, a.length)
            s.check(a, P.TMF_RESPONSE, itt=f.itt, response=COMPLETE)
            if what in RESETS:
                was_reset(s)
        s.good(s.command(test_unit_ready()))


@case
def later_commands_are_no_victims(server):
    with session(server) as s:
        for what in (ABORT_TASK_SET, CLEAR_TASK_SET):
            f = s.request(P.TMF_REQUEST, True, flags=P.FINAL | what, rtt=P.NONE)
            after = s.scsi_pdu(test_unit_ready())
            s.send_raw(f.pack() + after.pack())
            answers = {s.recv().itt for _ in range(2)}
            assert answers == {f.itt, after.itt}


@case
def too_many_at_a_time(server):
    with session(server) as s:
        missing = s.scsi_pdu(test_unit_ready())
        held = [tmf(s, ABORT_TASK_SET) for _ in range(8)]
        s.expect_silence()
        bad = tmf(s, ABORT_TASK_SET)
        s.expect_reject(0x06, bad)
        s.ping()
        s.send(missing)
        s.expect(P.SCSI_RESPONSE, itt=missing.itt)
        assert {s.expect(P.TMF_RESPONSE, response=COMPLETE).itt for _ in held} == {
            f.itt for f in held}
        s.good(s.command(test_unit_ready()))


@case
def a_lost_connection_takes_its_functions_along(server):
    for what in OF_SEVERAL:
        s = session(server)
        s.scsi_pdu(test_unit_ready())
        tmf(s, what)
        s.close()
        s = session(server)
        waiting_write(s)
        tmf(s, what)
        s.close()
    with session(server) as s:
        s.good(s.command(test_unit_ready()))


@case
def logout_in_the_middle_of_a_function(server):
    with session(server) as s:
        waiting_write(s)
        tmf(s, ABORT_TASK_SET)
        p = s.request(P.LOGOUT_REQUEST, immediate=True)
        s.send(p)
        s.expect(P.LOGOUT_RESPONSE, itt=p.itt, response=0)
        s.expect_close()


@case
def lun_reset_is_told_to_all_and_ends_their_tasks(server):
    with session(server) as s, session(server, isid=OTHER_ISID) as other:
        p, r2t, data = waiting_write(other)
        other.good(other.command(bytes([0x16, 0, 0, 0, 0, 0])))
        function(s, LUN_RESET)
        was_reset(s)
        was_reset(other)
        other.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        other.expect_silence()
        s.good(s.command(bytes([0x16, 0, 0, 0, 0, 0])))
        assert other.command(test_unit_ready()).status == 0x18


def set_tas(s, on):
    r = s.good(s.command(bytes([0x1A, 8, 0x0A, 0, 255, 0]), read=255))
    page = bytearray(r.data[4:])
    page[0] &= 0x3F
    page[5] = 0x40 if on else 0
    s.good(s.command(bytes([0x15, 0x10, 0, 0, 4 + len(page), 0]), write=bytes(4) + bytes(page)))


@case
def with_tas_others_hear_that_they_are_aborted(server):
    with session(server) as s, session(server, isid=OTHER_ISID) as other:
        set_tas(s, True)
        r = other.command(test_unit_ready())
        assert r.asc == (0x2A, 0x01), r
        p, r2t, data = waiting_write(other)
        own, own_r2t, _ = waiting_write(s, lba=100)
        f = tmf(s, LUN_RESET)
        s.expect_silence()
        s.send_burst(own, own_r2t.ttt, data, own_r2t.offset, own_r2t.length)
        answered(s, f)
        other.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        other.expect(P.SCSI_RESPONSE, itt=p.itt, status=0x40)
        was_reset(s)
        was_reset(other)
        r = s.good(s.command(bytes([0x1A, 8, 0x0A, 0, 255, 0]), read=255))
        assert r.data[4 + 5] == 0, "the reset sets TAS back"


@contextlib.contextmanager
def write_that_hangs_halfway():
    """On a disk of its own with TAS: the first half of a write hangs in the store, the other half is
    asked for, and another session has reset the unit. The session, the write, the R2T of the other
    half, and what lets the store go on."""
    with Spindle("fault:rule=write;hang;while=hung:ram:16M") as server:
        hung = os.path.join(server.dir, "hung")
        with session(server, keys={"MaxOutstandingR2T": 4}) as s, \
                session(server, isid=OTHER_ISID) as other:
            set_tas(s, True)
            other.command(test_unit_ready())
            with open(hung, "w", encoding="ascii"):
                pass
            p, first, data = waiting_write(s, 1024)
            second = s.expect(P.R2T, itt=p.itt)
            s.send_burst(p, first.ttt, data, first.offset, first.length)
            s.ping()
            reset = tmf(other, LUN_RESET)
            while s.command(test_unit_ready()).status == 0:
                time.sleep(0.01)
            yield s, p, second, data, lambda: os.unlink(hung)
            answered(other, reset)


@case
def aborted_by_another_before_its_own_abort_task(_):
    """The victim has a status by then, and Data-Out that was asked for; nobody wants either."""
    with write_that_hangs_halfway() as (s, p, r2t, data, release):
        f = tmf(s, ABORT_TASK, task=p)
        s.expect_silence()
        release()
        answered(s, f)
        s.good(s.command(test_unit_ready(), itt=p.itt))
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        s.expect_silence()


@case
def aborted_by_another_before_its_own_abort_task_set(_):
    with write_that_hangs_halfway() as (s, p, r2t, data, release):
        f = tmf(s, ABORT_TASK_SET)
        s.expect_silence()
        release()
        s.expect_silence()
        s.send_burst(p, r2t.ttt, data, r2t.offset, r2t.length)
        answered(s, f)
        s.expect_silence()


@case
def cold_reset_ends_the_sessions_of_the_target(server):
    s, other = session(server), session(server, isid=OTHER_ISID)
    function(s, COLD_RESET)
    s.expect_close()
    other.expect(P.ASYNC, event=3)
    other.expect_close()
    with session(server) as s:
        s.good(s.command(test_unit_ready()))


@case
def they_are_reported(server):
    with session(server) as s:
        r = s.good(s.command(bytes([0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]), read=4))
        assert bytes(r.data) == bytes([0xDA, 0, 0, 0]), r


if __name__ == "__main__":
    main()
