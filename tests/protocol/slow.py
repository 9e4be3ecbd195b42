#!/usr/bin/env python3
"""Disks that fail, dawdle and hang, seen from the wire: who waits, who does not, and what the end
of a command says then."""

import contextlib
import os
import threading
import time

import pdu as P
from common import Spindle, case, main
from iscsi import ISID, Closed, login, pattern, read10, serial_lt, write10

MIB = 1 << 20
HANGS = "fault:rule={ops};hang;while=hung:ram:16M"


@contextlib.contextmanager
def hanging(ops="read+write", more=()):
    """A server whose first disk hangs from hang() to release()."""
    server = Spindle(HANGS.format(ops=ops), *more)
    path = os.path.join(server.dir, "hung")

    def hang():
        with open(path, "w", encoding="ascii"):
            pass

    def release():
        if os.path.exists(path):
            os.unlink(path)

    with server:
        try:
            yield server, hang, release
        finally:
            release()


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


@case
def replaced_while_a_write_hangs(_):
    """The old session's write is in the store and cannot be recalled. Whether the new login waits
    for it or not, no byte of the old write shows up over what the new session wrote."""
    with hanging("write") as (server, hang, release):
        with session(server) as old:
            hang()
            old.start(write10(0, 8), write=pattern(4096, 1))
            time.sleep(0.1)
            later = threading.Timer(0.5, release)
            later.start()
            with login(server.portals[0], server.iqn()) as new:
                new.ping()
                p = new.start(write10(0, 8), write=pattern(4096, 2))
                r = new.finish(p)
                if r.status == 2 and r.sense_key == 6:  # the new nexus's unit attention
                    new.settle()
                    new.write(0, pattern(4096, 2))
                later.join()
                time.sleep(0.2)
                assert new.read(0, 8) == pattern(4096, 2), "the old write came after the new one"


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
