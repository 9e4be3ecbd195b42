#!/usr/bin/env python3
"""Every place where a command can wait, times every function that can end it there, times what can
become of its session meanwhile.

A command waits at a closed channel, at the ordering barrier, for a range lock, for its Data-Out, in the
store, or for its Data-In to be taken (for memory: park_memory.py). The function comes from its own session,
which then stays, is cut off, or is replaced by a login with the same ISID; or from another session. What
must be true each time:

- the function is answered as soon as its victims are gone, and not before: what hangs in the store is
  waited for, but only by functions that are about it;
- the command is not answered, and nothing that had not reached the store is ever on the disk;
- a login in the place of the session does not wait for anything;
- afterwards everybody can go on.
"""

import contextlib
import os
import socket
import time

import pdu as P
from common import case, main
from iscsi import ISID, login, pattern, read10, test_unit_ready, write10
from tmf import (ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, COLD_RESET, COMPLETE, LUN_RESET,
                 NEXUS_RESET, WARM_RESET, tmf)

STORE = "fault:rule=write@0-1M;hang;while=hung:disk.img"
BLOCK, BLOCKS = 4096, 8
HUNG, ELSEWHERE = 0, 2048  # LBAs: in the part that hangs, and in the one that does not
OLD, NEW, OTHERS = (pattern(BLOCKS * BLOCK, seed) for seed in (1, 2, 3))
ORDERED = 2
WCE = 4
FUNCTIONS = {"abort_task": ABORT_TASK, "abort_task_set": ABORT_TASK_SET, "clear_task_set": CLEAR_TASK_SET,
             "nexus_reset": NEXUS_RESET, "lun_reset": LUN_RESET, "warm_reset": WARM_RESET,
             "cold_reset": COLD_RESET}
RESETS = (LUN_RESET, WARM_RESET, COLD_RESET)
LOOPS = int(os.environ.get("SPINDLE_TEST_THREADS", os.cpu_count()))
ARGS = ("--size", "16M", "--block-size", "4096")
ROOM = ("--memory", "4G")  # for windows that stay open, however many sessions there were of late


class World:
    """Sessions at one disk whose first megabyte takes no writes between hang() and release()."""

    def __init__(self, server, **keys):
        self.server = server
        self.keys = keys
        self.path = os.path.join(server.dir, "hung")
        self.sessions = contextlib.ExitStack()
        self.victims = self.come(ISID)
        self.other = self.come(ISID + 1)
        for s in (self.victims, self.other):
            s.settle()
        self.victims.write(HUNG, OLD, BLOCK)
        self.victims.write(ELSEWHERE, OLD, BLOCK)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()
        self.sessions.close()

    def come(self, isid, **keys):
        return self.sessions.enter_context(login(self.server.portals[0], self.server.iqn(), isid=isid,
                                               keys={"iSCSIProtocolLevel": 2, **self.keys, **keys}))

    def hang(self):
        with open(self.path, "w", encoding="ascii"):
            pass

    def release(self):
        if os.path.exists(self.path):
            os.unlink(self.path)


def compare_and_write(lba, blocks):
    return bytes([0x89, 0]) + lba.to_bytes(8, "big") + bytes([0, 0, 0, blocks, 0, 0])


def start_read(s, lba, blocks):
    return s.start(read10(lba, blocks), read=blocks * BLOCK)


def start_write(s, lba, data, **more):
    """It has come when this returns, so that a function of another session finds it."""
    p = s.scsi_pdu(write10(lba, BLOCKS), len(data), write=True, data=data, **more)
    s.send(p)
    s.ping()
    return p


def parked(s):
    s.expect_silence(0.1)
    s.ping()


# ---- Where it waits: each returns the command


def in_store(w):
    w.hang()
    return start_write(w.victims, HUNG, NEW)


def at_barrier(w):
    w.hang()
    start_write(w.victims, HUNG, NEW)
    return start_write(w.victims, ELSEWHERE, NEW, attr=ORDERED)


def at_channel(w):
    """Somebody's write hangs, and somebody else wants the write cache off, which drains the disk."""
    mode = w.come(ISID + 2)
    on_all_loops = [w.come(ISID + 16 + i) for i in range(2 * LOOPS)]
    mode.settle()
    page = bytearray(mode.good(mode.command(bytes([0x1A, 8, 8, 0, 255, 0]), read=255)).data[4:])
    select = bytes([0x15, 0x10, 0, 0, 4 + len(page), 0])
    page[0] &= 0x3F
    page[2] |= WCE
    mode.good(mode.command(select, write=bytes(4) + bytes(page)))
    for s in (w.victims, w.other):
        s.settle()
    w.hang()
    start_write(w.other, HUNG, OTHERS)
    parked(w.other)
    page[2] &= ~WCE
    mode.start(select, write=bytes(4) + bytes(page))
    parked(mode)
    # Whichever loop tells the others that the channel is closed has done so, and then they have heard it.
    for s in 2 * [*on_all_loops, w.victims]:
        s.ping()
    p = start_write(w.victims, ELSEWHERE, NEW)
    parked(w.victims)
    assert not w.victims.waiting.get(p.itt), "it did not wait"
    return p


def at_range_lock(w):
    """COMPARE AND WRITE holds its lock until its write is done."""
    w.hang()
    w.other.start(compare_and_write(HUNG, BLOCKS), write=OLD + OTHERS)
    parked(w.other)
    return start_write(w.victims, HUNG, NEW)


def ask_to_write(s, lba, blocks):
    p = s.scsi_pdu(write10(lba, blocks), blocks * BLOCK, write=True)
    s.send(p)
    return p


def for_data_out(w):
    p = ask_to_write(w.victims, ELSEWHERE, BLOCKS)
    w.victims.expect(P.R2T, itt=p.itt)
    return p


def for_sending(w):
    w.victims.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    p = start_read(w.victims, 0, 4000)
    time.sleep(0.1)
    return p


class Park:
    """Where a command waits, and what hangs then: it, one of its session, one of the disk."""

    def __init__(self, begin, hangs=()):
        self.begin = begin
        self.hangs = hangs

    def holds_up(self, function, own):
        if not own:
            return "disk" in self.hangs
        return {ABORT_TASK: "it", ABORT_TASK_SET: "session",
                CLEAR_TASK_SET: "session", NEXUS_RESET: "session"}.get(function, "disk") in self.hangs


PARKS = {
    "store": Park(in_store, ("it", "session", "disk")),
    "barrier": Park(at_barrier, ("session", "disk")),
    "channel": Park(at_channel, ("disk",)),
    "range_lock": Park(at_range_lock, ("disk",)),
    "data_out": Park(for_data_out),
    "send": Park(for_sending),
}


# ---- What must be true


def answer_of(s, f, victim):
    """What is queued before it may come; of the victim nothing but Data-In that was on its way."""
    while (a := s.recv()).opcode != P.TMF_RESPONSE:
        assert a.opcode == P.DATA_IN and not a.flags & P.STATUS and a.itt == victim.itt, a
    s.check(a, P.TMF_RESPONSE, itt=f.itt, response=COMPLETE)


def never_answered(s, victim, timeout_s=0.1):
    """On a connection that still stands."""
    p = s.nop(b"still there")
    while (a := s.recv()).opcode != P.NOP_IN or a.itt != p.itt:
        assert a.opcode == P.DATA_IN and not a.flags & P.STATUS and a.itt == victim.itt, a
    s.expect_silence(timeout_s)


def hears_of_the_reset(s):
    r = s.command(test_unit_ready())
    assert r.sense_key == 6 and r.asc == (0x29, 0x03), r


def successor(w):
    """It is let in while the past hangs, and sees what it may see of the disk."""
    s = w.come(ISID)
    s.ping()
    s.good(s.command(bytes([0x12, 0, 0, 0, 96, 0]), read=96))
    return s


def told(s, *command, **data):
    """Its result, once the news are told that come with whatever ends behind a release."""
    for _ in range(5):
        r = s.command(*command, **data)
        if r.sense_key != 6:
            break
    return s.good(r).data


def disk_is_right(s, park):
    hung, elsewhere = (told(s, read10(lba, BLOCKS), read=BLOCKS * BLOCK) for lba in (HUNG, ELSEWHERE))
    if park is PARKS["store"] or park is PARKS["barrier"]:
        assert hung in (OLD, NEW), "a mixture"
    else:
        assert hung in (OLD, OTHERS), "the command that was ended has written"
    assert elsewhere == OLD, "the command that was ended has written"
    # Not where another session's write may still be on its way: nothing puts the two in order.
    for i, lba in enumerate((HUNG + 2 * BLOCKS, ELSEWHERE)):
        data = pattern(BLOCKS * BLOCK, 10 + i)
        told(s, write10(lba, BLOCKS), write=data)
        assert told(s, read10(lba, BLOCKS), read=len(data)) == data


def wait_for(w, actor, f, function, park, victim):
    if park.holds_up(function, own=actor is w.victims):
        actor.expect_silence(0.2)
        actor.ping()
        w.release()
    elif park is PARKS["send"]:
        time.sleep(0.2)  # who reads at once may have all of it before the function has come to its loop
    answer_of(actor, f, victim)


# ---- What becomes of the session


def stays(w, park, function):
    victim = park.begin(w)
    s = w.victims
    wait_for(w, s, tmf(s, function, task=victim if function == ABORT_TASK else None), function, park,
             victim)
    if function == COLD_RESET:
        s.expect_close()
        s = successor(w)
    else:
        never_answered(s, victim)
    w.release()
    if function in (LUN_RESET, WARM_RESET):
        hears_of_the_reset(s)
    disk_is_right(s, park)


def cut(w, park, function):
    victim = park.begin(w)
    tmf(w.victims, function, task=victim if function == ABORT_TASK else None)
    w.victims.close()
    s = successor(w)
    w.release()
    disk_is_right(s, park)


def replaced(w, park, function):
    victim = park.begin(w)
    tmf(w.victims, function, task=victim if function == ABORT_TASK else None)
    s = successor(w)
    assert w.victims.is_closed(20)
    w.release()
    disk_is_right(s, park)


def reset_by_another(w, park, function):
    actor = w.come(ISID + 3)
    actor.settle()
    victim = park.begin(w)
    wait_for(w, actor, tmf(actor, function), function, park, victim)
    w.release()
    s = w.victims
    if function == COLD_RESET:
        assert s.is_closed(20)
        s = successor(w)
    else:
        never_answered(s, victim)
        hears_of_the_reset(s)
    disk_is_right(s, park)


def lost(w, park, _):
    park.begin(w)
    w.victims.close()
    s = successor(w)
    w.release()
    disk_is_right(s, park)


def add_case(name, run):
    run.__name__ = name
    case(run)


def add_rows(parks, add):
    for name, park in parks.items():
        add(f"{name}-no_function-lost", park, None, lost)
        for what, function in FUNCTIONS.items():
            for becomes in (stays, cut, replaced, *((reset_by_another,) if function in RESETS else ())):
                add(f"{name}-{what}-{becomes.__name__}", park, function, becomes)


def of_the_matrix(name, park, function, becomes):
    def run(server):
        with World(server) as w:
            becomes(w, park, function)

    add_case(name, run)


add_rows(PARKS, of_the_matrix)

if __name__ == "__main__":
    main(STORE, args=(*ARGS, *ROOM))
