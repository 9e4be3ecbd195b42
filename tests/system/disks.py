"""What the tests of disks that change or fail share: switches of fault rules, sessions, sense."""

import os
import time

import iscsi

TUR = iscsi.test_unit_ready()
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)
RESERVE6, RELEASE6 = bytes([0x16]) + bytes(5), bytes([0x17]) + bytes(5)
REPORT_LUNS = bytes([0xA0]) + bytes(8) + bytes([1]) + bytes(2)
READ_CAPACITY_16 = bytes([0x9E, 0x10]) + bytes(8) + (32).to_bytes(4, "big") + bytes(2)
MODE_SENSE = bytes([0x1A, 0x08, 0x3F, 0, 255, 0])

LOST = (2, 0x04, 0x03)
BACK = (6, 0x28, 0x00)
MODE_CHANGED = (6, 0x2A, 0x01)
CAPACITY_CHANGED = (6, 0x2A, 0x09)
READ_ERROR = (3, 0x11, 0x00)
WRITE_ERROR = (3, 0x0C, 0x00)
PROTECTED = (7, 0x27, 0x00)

# The server looks after its disks every five seconds.
PATIENCE_S = 12


class Switch:
    """A file whose existence makes a rule act (while=NAME)."""

    def __init__(self, server, name):
        self.path = os.path.join(server.dir, name)

    def on(self):
        with open(self.path, "w", encoding="ascii"):
            pass

    def off(self):
        if os.path.exists(self.path):
            os.unlink(self.path)


def sessions(server, n, index=0, first=0):
    """Of n initiator ports, from `first` on: the same one again would replace its session."""
    out = []
    for i in range(first, first + n):
        s = iscsi.login(server.portals[0], server.iqn(index), isid=iscsi.ISID + i)
        s.settle()
        out.append(s)
    return out


def sense(r):
    """(key, ASC, ASCQ) of a CHECK CONDITION, None of GOOD."""
    assert r.status in (0, 2), r
    return (r.sense_key, *r.asc) if r.status else None


def information(r):
    """The INFORMATION field of fixed sense data, None when it is not valid."""
    assert r.sense[0] & 0x7F == 0x70, r
    return int.from_bytes(r.sense[3:7], "big") if r.sense[0] & 0x80 else None


def tur(s):
    return sense(s.command(TUR))


def expect_tur(s, *expected):
    """One TEST UNIT READY after another ends so; None is GOOD."""
    got = [tur(s) for _ in expected]
    assert got == list(expected), got


def wait_tur(s, expected):
    """Until TEST UNIT READY ends so. What came before is given back, without what is usual."""
    end = time.monotonic() + PATIENCE_S
    other = []
    while True:
        got = tur(s)
        if got == expected:
            return other
        other.append(got)
        assert time.monotonic() < end, f"{expected} did not come, but {set(other)}"
        time.sleep(0.05)


def capacity(s):
    """Blocks, by both commands."""
    short = s.good(s.command(iscsi.read_capacity10(), read=8)).data
    long = s.good(s.command(READ_CAPACITY_16, read=32)).data
    assert int.from_bytes(short[:4], "big") == int.from_bytes(long[:8], "big")
    return int.from_bytes(long[:8], "big") + 1


def is_protected(s):
    """WP in the mode parameter header."""
    return bool(s.good(s.command(MODE_SENSE, read=255)).data[2] & 0x80)


def log_lines(server, event):
    return [line for line in server.stderr().splitlines() if f" {event}" in line]
