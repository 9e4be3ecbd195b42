#!/usr/bin/env python3
"""More asked for than there is memory: who waits, who is refused, who does not notice."""

import contextlib
import socket
import struct
import threading
import time

import pdu as P
from common import Spindle, case, hanging, main
from iscsi import ISID, login, pattern, read10, write10

MIB = 1 << 20
UNSOLICITED = {"InitialR2T": "No", "FirstBurstLength": 262144, "MaxBurstLength": 262144}


def scarce(ops="read+write", args=()):
    """One loop with the least memory, and a disk that hangs."""
    return hanging(ops, size="64M", args=["--memory", "16M", *args], threads=1)


def session(server, i=0, **more):
    s = login(server.portals[0], server.iqn(), isid=ISID + i, **more)
    s.settle()
    return s


def busy(s):
    """It has a wide window, for it has done much that is small."""
    for i in range(40):
        s.write(8 * i, pattern(4096, i))


@case
def window_grows_for_small_commands(_):
    with scarce() as (server, _hang, _release):
        with session(server) as s:
            first = s.open_slots()
            busy(s)
            assert s.open_slots() > first or s.open_slots() == 128, (first, s.open_slots())


@case
def window_stops_for_large_ones(_):
    """It never goes back, which every PDU is checked for, and what it promises is kept."""
    with scarce("write") as (server, hang, release):
        with session(server) as s:
            busy(s)
            assert s.open_slots() >= 64, s.open_slots()
            data = pattern(64 << 10)
            for i in range(160):
                s.write(128 * (i % 200), data)
            assert s.open_slots() <= 64, s.open_slots()
            hang()
            sent = []
            while s.open_slots() and len(sent) < 200:
                sent.append(s.start(write10(128 * len(sent), 128), write=data))
            s.ping()
            release()
            for p in sent:
                s.good(s.finish(p))


@case
def what_was_not_foreseen_is_refused_and_done_again(_):
    """First bursts of 256 KiB by sessions that were granted many slots for small commands: the server takes
    what has room, ends the others with TASK SET FULL, and loses nothing it said GOOD to."""
    with scarce("write", ["--unsolicited"]) as (server, hang, release):
        sessions = [session(server, i, keys=dict(UNSOLICITED)) for i in range(4)]
        for s in sessions:
            busy(s)
        hang()
        data = pattern(256 << 10, 5)
        sent = []
        for n, s in enumerate(sessions):
            for i in range(min(24, s.open_slots())):
                lba = 512 * (24 * n + i)
                sent.append((s, lba, s.start(write10(lba, 512), write=data)))
        for s in sessions:
            started = time.monotonic()
            s.ping()
            print(f"a ping took {time.monotonic() - started:.3f} s")
        release()
        again = []
        for s, lba, p in sent:
            r = s.finish(p)
            assert r.status in (0, 0x28), r
            if r.status == 0x28:
                again.append((s, lba))
        print(f"{len(again)} of {len(sent)} were refused")
        assert again and len(again) < len(sent)
        for s, lba in again:
            s.write(lba, data)
        for s, lba, _p in sent:
            assert s.read(lba, 512) == data
        for s in sessions:
            s.close()


def ask_for_data(s, lba, nblocks):
    """A write that brings nothing by itself."""
    p = s.scsi_pdu(write10(lba, nblocks), edtl=512 * nblocks, write=True)
    s.send(p)
    return p


@case
def one_that_sends_nothing_does_not_stop_others(_):
    """It has asked to write, was given R2Ts as far as its share goes, and sleeps."""
    with scarce() as (server, _hang, _release):
        with session(server) as bad, session(server, 1) as good:
            busy(bad)
            for i in range(100):
                if not bad.open_slots():
                    break
                ask_for_data(bad, 512 * (i % 100), 512)
            for i in range(20):
                data = pattern(MIB, i)
                for k in range(4):
                    good.write(2048 * k, data)
                assert good.read(0, 2048) == data
            good.ping()
            bad.ping()


@case
def abort_of_one_that_waits_for_memory(_):
    """Its data was not asked for yet: the function is answered at once, and those behind it have its turn."""
    with scarce() as (server, _hang, _release):
        with session(server) as s:
            busy(s)
            asked = [ask_for_data(s, 512 * i, 512) for i in range(min(100, s.open_slots()))]
            s.ping()
            # R2Ts go ahead of the answer to the ping.
            waits = [p for p in asked if not s.waiting.get(p.itt)]
            assert 0 < len(waits) < len(asked), (len(waits), len(asked))
            for p in waits:
                tmf = s.request(P.TMF_REQUEST, True, flags=P.FINAL | 1, lun=p.lun, rtt=p.itt,
                                refcmdsn=p.cmdsn)
                s.send(tmf)
                s.check(s.recv_for(tmf.itt), P.TMF_RESPONSE, response=0)
            assert s.expcmdsn == s.cmdsn
            s.ping()
        with session(server, 1) as other:
            other.write(0, pattern(MIB))
            assert other.read(0, 2048) == pattern(MIB)


@case
def lost_while_it_waits_for_memory(_):
    """All that a session had and waited for is there for the next one."""
    with scarce() as (server, _hang, _release):
        for turn in range(6):
            with session(server, turn) as s:
                busy(s)
                for i in range(min(60, s.open_slots())):
                    ask_for_data(s, 512 * i, 512)
                s.ping()
        with session(server, 100) as s:
            for i in range(8):
                s.write(2048 * i, pattern(MIB, i))
                assert s.read(2048 * i, 2048) == pattern(MIB, i)


@case
def one_that_does_not_read_does_not_stop_others(_):
    with scarce() as (server, _hang, _release):
        with session(server) as bad, session(server, 1) as good:
            busy(bad)
            for i in range(min(100, bad.open_slots())):
                bad.start(read10(2048 * (i % 60), 2048), read=MIB)
            for i in range(20):
                data = pattern(MIB, i)
                good.write(2048, data)
                assert good.read(2048, 2048) == data
            good.ping()


@case
def one_that_pauses_is_waited_for(_):
    """Nobody lacks what it holds."""
    with scarce() as (server, _hang, _release), session(server) as s, session(server, 1) as good:
        busy(s)
        data = pattern(MIB)
        s.write(0, data)
        reads = [s.start(read10(0, 2048), read=MIB) for _ in range(16)]
        end = time.monotonic() + 9
        while time.monotonic() < end:
            good.write(2048, data)
        for p in reads:
            assert s.good(s.finish(p, MIB)).data == data


def drip(s, p, data):
    """All of it in one PDU, for eight seconds."""
    r2t = s.recv_for(p.itt)
    raw = s.data_out(p, r2t.ttt, 0, 0, data, True).pack(False, False)
    for at in range(0, len(raw), 4096):
        s.sock.sendall(raw[at:at + 4096])
        time.sleep(8 / (len(raw) / 4096))


@case
def memory_of_those_that_stand_still_comes_back(_):
    """More of them than there is memory for: half do not read, half do not send what they were asked for. The
    others wait for a few seconds and not for a time-out of theirs. One that is slow does not stand still."""
    with scarce() as (server, _hang, _release), contextlib.ExitStack() as stack:
        good = stack.enter_context(session(server, 1000))
        slow = stack.enter_context(session(server, 1001))
        slowly = ask_for_data(slow, 100 << 10, 512)
        dripping = threading.Thread(target=drip, args=(slow, slowly, pattern(256 << 10, 9)))
        dripping.start()
        bad = [stack.enter_context(session(server, i)) for i in range(40)]
        for i, b in enumerate(bad):
            b.widen(8)
            for k in range(8):
                if i % 2:
                    b.start(read10(2048 * k, 2048), read=MIB)
                else:
                    ask_for_data(b, 2048 * k, 2048)
        started = time.monotonic()
        for i in range(20):
            good.write(2048, pattern(MIB, i))
            assert good.read(2048, 2048) == pattern(MIB, i)
        took = time.monotonic() - started
        print(f"the others waited {took:.1f} s")
        assert took > 1, "there was memory for all"
        dripping.join()
        slow.good(slow.finish(slowly))
        assert slow.read(100 << 10, 512) == pattern(256 << 10, 9)
        gone = [b for b in bad if b.is_closed(0.1)]
        print(f"{len(gone)} of {len(bad)} were lost")
        assert gone
        # Who was sent away may come again.
        with session(server, 0) as again:
            assert again.read(2048, 2048) == pattern(MIB, 19)


def in_flight(s, start, data):
    """As many commands as the window allows, while the disk hangs; the statuses when it goes on."""
    sent = []
    while s.open_slots() and len(sent) < 128:
        sent.append(start(len(sent)))
    s.ping()
    yield
    yield [s.finish(p, 0, data).status for p in sent]


@case
def what_repeats_a_block_waits_for_its_memory(_):
    """WRITE SAME and VERIFY bring 512 bytes, and work with as much as anybody."""
    same = [lambda i: bytes([0x41, 0]) + struct.pack(">IBHB", 8 * i, 0, 8, 0),
            lambda i: bytes([0x2f, 6]) + struct.pack(">IBHB", 8 * i, 0, 8, 0)]
    block = pattern(512, 7)
    for cdb in same:
        with scarce() as (server, hang, release), session(server) as s:
            busy(s)
            s.write(0, block * 8 * 128)
            for _turn in range(2):
                hang()
                run = in_flight(s, lambda i, cdb=cdb: s.start(cdb(i), write=block), block)
                next(run)
                release()
                statuses = next(run)
                assert len(statuses) >= 64 and set(statuses) == {0}, statuses
            assert s.read(0, 8 * 128) == block * 8 * 128


@case
def a_little_that_comes_with_much_takes_little(_):
    """8 KiB of immediate data of writes of 256 KiB."""
    data = pattern(256 << 10)
    with scarce("write") as (server, hang, release), session(server, keys={"FirstBurstLength": 8192}) as s:
        busy(s)
        hang()
        run = in_flight(s, lambda i: s.start(write10(512 * (i % 100), 512), write=data), data)
        next(run)
        release()
        statuses = next(run)
        assert len(statuses) >= 64 and set(statuses) == {0}, statuses


@case
def sessions_that_come_and_go_take_no_slots(_):
    with scarce() as (server, _hang, _release), session(server) as s:
        busy(s)
        before = s.open_slots()
        for _i in range(300):
            login(server.portals[0], server.iqn(), isid=ISID + 1).close()
        for i in range(200):
            s.read(8 * i, 8)
        assert s.open_slots() >= before / 2, (before, s.open_slots())


@case
def pings_whose_answers_nobody_reads(_):
    """100 sessions send as many as the server takes: it stops to read from them, and from nobody else."""
    with Spindle("ram:64M", args=["--memory", "16M", "-v"], threads=1) as server:
        with session(server, 1000) as good, contextlib.ExitStack() as stack:
            busy(good)
            bad = [stack.enter_context(session(server, i)) for i in range(100)]
            ping = bad[0].request(P.NOP_OUT, True, data=bytes(100), ttt=P.NONE).pack(False, False)
            for b in bad:
                b.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                b.sock.settimeout(0)
            quiet = time.monotonic()
            while time.monotonic() < quiet + 1:
                for b in bad:
                    with contextlib.suppress(BlockingIOError):
                        b.sock.sendall(ping * 1000)
                        quiet = time.monotonic()
            # In two parts: the server has to keep the first.
            data = pattern(8192)
            p = good.scsi_pdu(write10(0, 16), len(data), write=True, data=data)
            raw = p.pack(False, False)
            good.sock.sendall(raw[:3000])
            time.sleep(0.2)
            good.sock.sendall(raw[3000:])
            good.good(good.finish(p, 0, data))
            assert good.read(0, 16) == data
            good.good(good.command(bytes(6), immediate=True))
            session(server, 2000).close()
            assert "out of memory" not in server.stderr(), server.stderr()


@case
def a_window_that_opens_in_silence_is_told(_):
    """Another session's reset ends all of its commands, and no answer says that there may be more."""
    with scarce("read") as (server, hang, release), session(server) as s, session(server, 1) as other:
        busy(s)
        hang()
        n = 0
        while s.open_slots():
            s.start(read10(8 * n, 8), read=4096)
            n += 1
        s.ping()
        assert not s.open_slots()
        reset = other.request(P.TMF_REQUEST, True, flags=P.FINAL | 5, rtt=P.NONE)
        other.send(reset)
        other.ping()
        release()
        other.check(other.recv_for(reset.itt), P.TMF_RESPONSE, response=0)
        s.expect(P.NOP_IN, itt=P.NONE, ttt=P.NONE)
        assert s.open_slots() > 0
        s.expect_silence(0.1)
        s.command(bytes(6))
        s.good(s.command(bytes(6)))


if __name__ == "__main__":
    main("ram:64M")
