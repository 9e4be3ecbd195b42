"""What it costs to be there: resident memory, idle and a session. For the release build."""

import time

from harness import KIB, MIB, Spindle, is_sanitized, main, skip

import iscsi

IDLE_MAX = 10 * MIB
SESSION_MAX = 64 * KIB
SESSIONS = 200

if is_sanitized():
    skip("a sanitizer's memory says nothing")


def test_idle():
    with Spindle("disk.img", "ram:1T", args=["--size", "10G"]) as s:
        time.sleep(0.3)
        rss = s.rss_bytes()
        print(f"idle: {rss // KIB} KiB")
        assert rss < IDLE_MAX, rss


def grow(s, n, first):
    sessions = []
    for i in range(n):
        session = iscsi.login(s.portals[0], s.iqn(), isid=iscsi.ISID + first + i)
        session.settle()
        # It did some work once, and keeps nothing of it.
        session.write(8 * i, bytes(64 * KIB))
        session.read(8 * i, 128)
        sessions.append(session)
    return sessions


def test_idle_sessions():
    with Spindle("null:1G") as s:
        # What the first sessions take is the loops' pools.
        warm = grow(s, 20, 0)
        time.sleep(0.2)
        before = s.rss_bytes()
        sessions = grow(s, SESSIONS, 1000)
        time.sleep(0.2)
        each = (s.rss_bytes() - before) // SESSIONS
        print(f"a further session: {each / KIB:.1f} KiB, in all {s.rss_bytes() // KIB} KiB")
        assert each < SESSION_MAX, each
        for session in warm + sessions:
            session.ping()
            session.close()


main(globals())
