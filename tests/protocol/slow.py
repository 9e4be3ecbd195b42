#!/usr/bin/env python3
"""Disks that fail, dawdle and hang, seen from the wire: who waits, who does not, and what the end
of a command says then."""

import time

import pdu as P
from common import Spindle, case, hanging, main
from iscsi import (ISID, Closed, inquiry, login, pattern, read10, serial_lt, test_unit_ready,
                   write10)

MIB = 1 << 20


def session(server, index=0, **more):
    s = login(server.portals[0], server.iqn(index), **more)
    s.settle()
    return s


def sense_is(r, key, asc, ascq):
    assert r.status == 2 and r.sense_key == key and r.asc == (asc, ascq), r


@case
def pings_while_the_disk_hangs(_):
    with hanging() as (server, hang, release):
        with session(server) as s:
            hang()
            p = s.start(read10(0, 8), read=4096)
            w = s.start(write10(8, 8), write=pattern(4096))
            for _ in range(20):
                ping = s.nop(b"well?")
                s.check(s.recv_for(ping.itt), P.NOP_IN)
            release()
            s.good(s.finish(p, read=4096))
            s.good(s.finish(w))
            assert s.read(8, 8) == pattern(4096)


@case
def other_disks_run_on(_):
    with hanging(more=("ram:8M",)) as (server, hang, release):
        with session(server) as s, session(server, 1) as other:
            s.widen(64)
            hang()
            waiting = [s.start(read10(i, 8), read=4096) for i in range(64)]
            for i in range(30):
                other.write(i, pattern(4096, i))
                assert other.read(i, 8) == pattern(4096, i)
            release()
            for p in waiting:
                s.good(s.finish(p, read=4096))


@case
def others_log_in_and_out(_):
    with hanging() as (server, hang, release):
        with session(server) as s:
            hang()
            p = s.start(read10(0, 8), read=4096)
            for i in range(5):
                with login(server.portals[0], server.iqn(), isid=ISID + 1 + i) as other:
                    other.ping()
                    other.logout()
            with login(server.portals[0], discovery=True) as d:
                assert d.send_targets("All")
            release()
            s.good(s.finish(p, read=4096))


@case
def window_full_of_hung_commands(_):
    """The window closes and opens again; nothing is lost."""
    with hanging() as (server, hang, release):
        with session(server) as s:
            hang()
            data, sent = pattern(4096, 7), []
            while not serial_lt(s.maxcmdsn, s.cmdsn) and len(sent) < 1000:
                sent.append(s.start(write10(len(sent) * 8, 8), write=data))
            s.ping()
            release()
            for p in sent:
                s.good(s.finish(p))
            for i in range(len(sent)):
                assert s.read(i * 8, 8) == data


@case
def too_many_immediate_commands(_):
    """Beyond a limit of their own they are rejected (6), not piled up; the others end well."""
    with hanging() as (server, hang, release):
        with session(server) as s:
            hang()
            sent = {}
            for i in range(300):
                p = s.start(read10(i, 1), read=512, immediate=True)
                sent[p.itt] = p
            s.ping()
            release()
            rejected = 0
            for _ in range(len(sent)):
                a = s.waiting[P.NONE].pop(0) if s.waiting.get(P.NONE) else s.recv()
                if a.opcode == P.REJECT:
                    s.check(a, P.REJECT, reason=6)
                    rejected += 1
                else:
                    s.check(a, P.DATA_IN, status=0)
                    assert a.itt in sent, a
            assert 0 < rejected < 300, f"{rejected} of 300 rejected"
            s.settle()


def hung_write(s, seed=1, lba=0):
    p = s.start(write10(lba, 8), write=pattern(4096, seed))
    time.sleep(0.1)
    return p


def successor(server, **more):
    """A session that takes the place of the one whose write hangs: it is there at once."""
    s = login(server.portals[0], server.iqn(), **more)
    s.ping()
    s.good(s.command(inquiry(), read=96))
    return s


def attention(s, p):
    """The command whose turn it was first hears of the new nexus."""
    sense_is(s.finish(p), 6, 0x29, 0)


@case
def replaced_while_a_write_hangs(_):
    """The login does not wait for what is in the store, and what it writes comes behind that."""
    with hanging("write") as (server, hang, release):
        with session(server) as old:
            hang()
            hung_write(old)
            with successor(server) as new:
                assert old.is_closed()
                first = new.start(test_unit_ready())
                p = new.start(write10(0, 8), write=pattern(4096, 2))
                new.expect_silence(0.5)
                new.ping()
                release()
                attention(new, first)
                new.good(new.finish(p))
                time.sleep(0.2)
                assert new.read(0, 8) == pattern(4096, 2), "the old write came after the new one"


@case
def replaced_again_and_again_while_a_write_hangs(_):
    """Those in the middle leave nothing behind, and none of their writes gets through."""
    with hanging("write") as (server, hang, release):
        old = session(server)
        hang()
        hung_write(old)
        for i in range(1, 20):
            with successor(server) as s:
                s.start(write10(8 * i, 8), write=pattern(4096, i))
                s.ping()
        with successor(server) as last:
            p = last.start(test_unit_ready())
            last.expect_silence()
            release()
            attention(last, p)
            assert last.read(0, 8) == pattern(4096, 1)
            assert last.read(8, 19 * 8) == bytes(19 * 4096)
        old.close()


@case
def lost_while_a_write_hangs(_):
    """Nobody replaces it: its connection is simply gone. It comes back, and so does its data."""
    with hanging("write") as (server, hang, release):
        old = session(server)
        hang()
        hung_write(old)
        old.close()
        time.sleep(0.2)
        with successor(server) as new:
            p = new.start(read10(0, 8), read=4096)
            new.expect_silence()
            release()
            attention(new, p)
            assert new.read(0, 8) == pattern(4096, 1)


@case
def replaced_during_a_logout_that_hangs(_):
    """The response would say that all is over: it does not come. The next session does."""
    with hanging("write") as (server, hang, release):
        with session(server) as old:
            hang()
            hung_write(old)
            old.send(old.request(P.LOGOUT_REQUEST, immediate=True, cid=0))
            old.expect_silence()
            with successor(server) as new:
                assert old.is_closed()
                p = new.start(test_unit_ready())
                new.expect_silence()
                release()
                attention(new, p)
                assert new.read(0, 8) == pattern(4096, 1)


@case
def others_are_not_held_up_by_a_hung_write(_):
    """Other initiator ports read, write elsewhere and come and go, whoever's write hangs; so do other
    disks, and functions that are about other tasks."""
    with hanging("write", more=("ram:8M",)) as (server, hang, release):
        with session(server) as old, session(server, isid=ISID + 1) as other, \
                session(server, 1) as elsewhere:
            other.write(64, pattern(4096, 5))
            hang()
            p = hung_write(old)
            assert other.read(64, 8) == pattern(4096, 5)
            elsewhere.write(0, pattern(4096, 6))
            assert elsewhere.read(0, 8) == pattern(4096, 6)
            q = hung_write(other, 7, 128)
            f = other.request(P.TMF_REQUEST, True, flags=P.FINAL | 1, rtt=q.itt - 1, refcmdsn=0)
            other.send(f)
            other.expect(P.TMF_RESPONSE, itt=f.itt, response=1)
            with session(server, isid=ISID + 2) as third:
                assert third.read(64, 8) == pattern(4096, 5)
            release()
            old.good(old.finish(p))
            other.good(other.finish(q))


@case
def reset_waits_for_what_hangs_of_an_earlier_session(_):
    with hanging("write") as (server, hang, release):
        old = session(server)
        hang()
        hung_write(old)
        with successor(server) as new:
            f = new.request(P.TMF_REQUEST, True, flags=P.FINAL | 5, rtt=P.NONE)
            new.send(f)
            new.expect_silence(0.5)
            new.ping()
            release()
            new.expect(P.TMF_RESPONSE, itt=f.itt, response=0)
            new.settle()
            assert new.read(0, 8) == pattern(4096, 1)
        old.close()


@case
def cut_off_while_reads_hang(_):
    with hanging("read") as (server, hang, release):
        s = session(server)
        hang()
        for i in range(32):
            s.start(read10(i * 8, 64), read=32768)
        s.close()
        time.sleep(0.2)
        release()
        with session(server) as again:
            again.write(0, pattern(4096, 3))
            assert again.read(0, 8) == pattern(4096, 3)


@case
def stops_while_the_disk_hangs(_):
    """SIGTERM is obeyed; what hung is let go while the server waits for it."""
    with hanging() as (server, hang, release):
        with session(server) as s:
            hang()
            s.start(read10(0, 8), read=4096)
            s.ping()
            server.terminate()
            time.sleep(0.3)
            release()
            assert s.is_closed(10)


@case
def late_data_in_any_order(_):
    """A disk that answers late and out of order: every command gets its own bytes."""
    rules = ",".join(f"rule=read+write@{i}M-{i + 1}M;delay={(7 - i) * 15}ms" for i in range(8))
    with Spindle(f"fault:{rules}:ram:16M") as server, session(server) as s:
        payloads = [pattern(8192, i) for i in range(8)]
        sent = [s.start(write10(i * 2048, 16), write=d) for i, d in enumerate(payloads)]
        for p in sent:
            s.good(s.finish(p))
        sent = [s.start(read10(i * 2048, 16), read=8192) for i in range(8)]
        for p, d in zip(sent, payloads):
            assert s.good(s.finish(p, read=8192)).data == d
        r = s.good(s.command(read10(0, 16384), read=8 * MIB))
        assert [r.data[i * MIB:i * MIB + 8192] for i in range(8)] == payloads


@case
def read_error(_):
    with Spindle("fault:rule=read@1M-1536K;eio:ram:16M") as server, session(server) as s:
        r = s.command(read10(2048, 8), read=4096)
        sense_is(r, 3, 0x11, 0)
        assert not r.data and r.flags & P.UNDERFLOW and r.residual == 4096, r
        s.read(0, 2048)
        s.read(3072, 64)


@case
def read_error_in_mid_transfer(_):
    """What was sent before counts: DataSN, ExpDataSN (judged by finish()) and residual fit it."""
    for dsl in (4096, 262144):
        with Spindle("fault:rule=read@1M-1536K;eio:ram:16M") as server:
            with login(server.portals[0], server.iqn(),
                       keys={"MaxRecvDataSegmentLength": dsl}) as s:
                s.settle()
                r = s.command(read10(0, 4096), read=2 * MIB)
                sense_is(r, 3, 0x11, 0)
                assert len(r.data) <= MIB, len(r.data)
                assert r.residual == (2 * MIB - len(r.data) if r.flags & P.UNDERFLOW else 0), r
                s.read(0, 2048)


@case
def write_error(_):
    with Spindle("fault:rule=write@1M-1536K;eio:ram:16M") as server, session(server) as s:
        r = s.command(write10(2048, 8), write=pattern(4096))
        sense_is(r, 3, 0x0C, 0)
        r = s.command(write10(0, 4096), write=pattern(2 * MIB))
        sense_is(r, 3, 0x0C, 0)
        s.write(0, pattern(MIB, 5))
        assert s.read(0, 2048) == pattern(MIB, 5)
        s.ping()


@case
def no_space(_):
    with Spindle("fault:rule=write;enospc:ram:16M") as server, session(server) as s:
        sense_is(s.command(write10(0, 8), write=pattern(4096)), 7, 0x27, 7)


@case
def flush_error(_):
    with Spindle("fault:rule=flush;eio;count=1:ram:16M") as server, session(server) as s:
        s.write(0, pattern(4096))
        r = s.command(bytes([0x35]) + bytes(9))
        assert r.status == 2 and r.sense_key in (3, 4), r
        server.terminate()
        assert server.wait_end() == 1, "data may be lost: that is no clean stop"


@case
def closed_in_the_midst_of_everything(_):
    """Connections cut while a slow disk works on their commands, again and again."""
    with Spindle("fault:rule=any;delay=5ms:ram:16M") as server:
        for i in range(15):
            s = session(server, isid=ISID + i % 3)
            try:
                for j in range(20):
                    s.start(write10(j * 64, 64), write=pattern(32768, i))
                    s.start(read10(j * 64, 64), read=32768)
            except (Closed, OSError):
                pass
            s.close()
        with session(server) as s:
            s.write(0, pattern(4096, 9))
            assert s.read(0, 8) == pattern(4096, 9)


if __name__ == "__main__":
    main("ram:1M")
