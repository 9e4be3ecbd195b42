#!/usr/bin/env python3
"""The rows of park.py for commands that wait for memory, which hung writes of others hold: to read into,
to ask for Data-Out, for all that is gathered, to repeat a block, and for what the own session has taken. In addition:

- memory comes back when the store has answered, and not when whoever holds it is given up;
- whoever waits then goes on;
- in the end all of it is back.
"""

import pdu as P
from common import Spindle, main
from iscsi import ISID, write10
from park import (ARGS, BLOCK, BLOCKS, ELSEWHERE, NEW, OLD, OTHERS, STORE, Park, World, add_case, add_rows,
                  ask_to_write, compare_and_write, parked, start_read)
from tmf import (ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, COMPLETE, NEXUS_RESET, tmf)

BEHIND = 64  # an LBA in the part that hangs, out of everybody's way
BUFFER = bytes(262144)  # fills one, and a burst
FIRST_BURST = 16384  # less than a quarter of a buffer, so that the server has to get one for the rest
# Of the 28 buffers of least memory: each session gets half of what is left of the one half, then one of the other.
SHARES = (7, 4, 2, *15 * (1,))


# ---- Who holds it


def ask_for_buffers(s, n, data=BUFFER):
    """The R2Ts of writes that take one each."""
    asked = [ask_to_write(s, BEHIND, len(data) // BLOCK) for _ in range(n)]
    return [(p, s.check(s.recv_for(p.itt), P.R2T, offset=0, length=len(data))) for p in asked]


def hold(s, n, data=BUFFER):
    """So many buffers, in the store."""
    for p, r2t in ask_for_buffers(s, n, data):
        s.send_burst(p, r2t.ttt, data, 0, len(data))
    s.ping()


def share(w, i):
    s = w.come(ISID + 16 + i, ImmediateData="No")
    s.widen(16)
    return s


def exhaust(w, shares=SHARES):
    """The sessions that hold all memory, or these shares of it."""
    w.hang()
    holders = [share(w, i) for i in range(len(shares))]
    for s, n in zip(holders, shares):
        hold(s, n)
    return holders


# ---- Where a command waits: each returns it


def to_read(w):
    exhaust(w)
    p = start_read(w.victims, ELSEWHERE, BLOCKS)
    parked(w.victims)
    return p


def ask_to_write_in_vain(s):
    p = ask_to_write(s, ELSEWHERE, BLOCKS)
    parked(s)
    return p


def to_ask_for_data(w):
    exhaust(w)
    return ask_to_write_in_vain(w.victims)


def to_gather(w):
    """Some of its data is there already, which came with it."""
    w.victims.write(ELSEWHERE, 3 * OLD, BLOCK)
    exhaust(w)
    p = w.victims.start(compare_and_write(ELSEWHERE, 3 * BLOCKS), write=3 * OLD + 3 * NEW)
    parked(w.victims)
    return p


def to_repeat(w):
    """WRITE SAME: there is memory for its block, and none to repeat it in."""
    exhaust(w, SHARES[:-1])
    last = share(w, len(SHARES) - 1)
    hold(last, 2, BUFFER[:len(BUFFER) // 4])
    nblocks = len(BUFFER) // BLOCK
    cdb = bytes([0x93, 0]) + ELSEWHERE.to_bytes(8, "big") + nblocks.to_bytes(4, "big") + bytes(2)
    p = w.victims.start(cdb, write=NEW[:BLOCK])
    parked(w.victims)
    return p


def for_its_session(w):
    """There is memory, and the session has taken its share of it."""
    w.hang()
    w.victims.widen(16)
    hold(w.victims, SHARES[0])
    return ask_to_write_in_vain(w.victims)


SCARCE = {
    "read": Park(to_read, ("disk",)),
    "data_out": Park(to_ask_for_data, ("disk",)),
    "gather": Park(to_gather, ("disk",)),
    "repeat": Park(to_repeat, ("disk",)),
    "share": Park(for_its_session, ("session", "disk")),
}


# ---- What becomes of those who hold it: the functions that are to be answered


def are_aborted(w, holders):
    del w
    return [(s, tmf(s, function)) for s, function in zip(holders, 2 * (
        ABORT_TASK_SET, CLEAR_TASK_SET, NEXUS_RESET))]


def are_lost(w, holders):
    del w
    for s in holders:
        s.close()
    return []


def are_replaced(w, holders):
    for i, s in enumerate(holders):
        w.come(ISID + 16 + i).ping()
        assert s.is_closed(20)
    return []


# ---- What must be true


def memory_is_back(w):
    """All of it: as many buffers are there as in the beginning."""
    w.release()
    for i, n in enumerate(SHARES):
        ask_for_buffers(share(w, i), n)


def memory_comes_back_later(w, become):
    """Those who hold it are given up, and whoever waits for it goes on when the store has answered."""
    swap = 4 * OLD + 4 * NEW
    reader = w.come(ISID + 2)
    for s in (w.victims, w.other, reader):
        s.widen(16)
    w.victims.write(ELSEWHERE, swap[:len(swap) // 2], BLOCK)
    holders = exhaust(w)
    reads = start_read(reader, ELSEWHERE - BLOCKS, BLOCKS)
    swaps = w.victims.start(compare_and_write(ELSEWHERE, 4 * BLOCKS), write=swap)
    writes = ask_to_write(w.other, ELSEWHERE - BLOCKS, BLOCKS)
    ended = become(w, holders)
    for s in (reader, w.victims, w.other, *(s for s, _ in ended)):
        parked(s)
    w.release()
    for s, f in ended:
        s.check(s.recv_for(f.itt), P.TMF_RESPONSE, response=COMPLETE)
        s.expect_silence(0.1)
    reader.good(reader.finish(reads, read=len(OLD)))
    w.victims.good(w.victims.finish(swaps, write=swap))
    w.other.good(w.other.finish(writes, write=OTHERS))
    assert reader.read(ELSEWHERE - BLOCKS, 5 * BLOCKS, BLOCK) == OTHERS + 4 * NEW


def scarce(name, test, *args):
    """With a server of its own, for what a session may do depends on how many there were of late."""
    def run(_):
        with Spindle(STORE, args=(*ARGS, "--memory", "16M"), threads=1) as server, World(server, FirstBurstLength=FIRST_BURST) as w:
            test(w, *args)
            memory_is_back(w)

    add_case(name, run)


add_rows(SCARCE, lambda name, park, function, becomes: scarce(name, becomes, park, function))
for _become in (are_aborted, are_lost, are_replaced):
    scarce(f"memory_comes_back_later-{_become.__name__}", memory_comes_back_later, _become)


if __name__ == "__main__":
    main(STORE, args=ARGS)
