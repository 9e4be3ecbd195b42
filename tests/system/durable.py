"""fdatasync returns before the status is sent: the order of system calls, as strace sees it."""

import os
import re
import tempfile

from harness import KIB, Spindle, can_trace, main, skip, traced

import iscsi

ROUNDS = 20
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)

if not can_trace():
    skip("strace is not installed, or may not trace here")


def events(path):
    """'send' when one starts, 'sync' when a synchronous write or a sync has returned 0 or more."""
    pending = {}
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            pid, _, call = line.partition(" ")
            call = call.strip()
            if re.match(r"(sendmsg|sendto|writev)\(", call):
                yield "send"
            if call.startswith("<... "):
                name = call.split()[1]
                if re.search(r"= \d+$", call) and pending.pop(pid, "") == name:
                    yield "sync"
            elif re.match(r"(fdatasync|fsync)\(|pwritev2\(.*RWF_D?SYNC", call):
                name = call.partition("(")[0]
                if call.endswith("<unfinished ...>"):
                    pending[pid] = name
                elif re.search(r"= \d+$", call):
                    yield "sync"


def trace(command):
    """A plain write, then `command` for its durability, ROUNDS times; the events, newest last."""
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "trace")
        under_strace = traced(out, "-s", "0", "-e", "trace=fdatasync,fsync,pwritev2,sendmsg,sendto,writev",
                              SPINDLE_NO_URING="1")
        with Spindle("disk.img", args=["--size", "1M"], directory=d, **under_strace) as s:
            session = iscsi.login(s.portals[0], s.iqn())
            session.settle()
            for i in range(ROUNDS):
                session.write(i * 8, bytes([i + 1]) * 4 * KIB)
                session.good(command(session, i))
            found = list(events(out))
            session.close()
        return found


def order_holds(found):
    """Reads backwards: the last send is the status of the last durable command."""
    sends = [i for i, what in enumerate(found) if what == "send"][-2 * ROUNDS:]
    assert len(sends) == 2 * ROUNDS, found
    return all(found[sends[i] - 1] == "sync" for i in range(1, 2 * ROUNDS, 2))


def test_synchronize_cache():
    found = trace(lambda session, i: session.command(SYNCHRONIZE_CACHE))
    assert order_holds(found), found


def test_fua():
    found = trace(lambda session, i: session.command(iscsi.write10(i * 8, 8, fua=True),
                                                     write=b"\xee" * 4 * KIB))
    assert order_holds(found), found


def test_a_plain_write_does_not_wait():
    """The check itself can fail."""
    found = trace(lambda session, i: session.command(iscsi.write10(i * 8, 8),
                                                     write=b"\xee" * 4 * KIB))
    assert not order_holds(found), found


main(globals())
