"""How it stops: answers what is under way, flushes, exits 0; a second signal ends it at once."""

import os
import signal
import subprocess
import tempfile
import time

from harness import KIB, MIB, Spindle, binary, main, need_tool, server_env, wait_until

import iscsi

BLOCK = 512
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)


def sessions_of(s, n):
    out = []
    for i in range(n):
        session = iscsi.login(s.portals[0], s.iqn(), isid=iscsi.ISID + i)
        session.settle()
        out.append(session)
    return out


def test_each_signal():
    for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Spindle("ram:1M", wrap=["env", "--default-signal"]) as s:
            os.kill(s.pid, signo)
            assert s.wait_end() == 0, s.stderr()
            assert s.stderr() == ""


def test_nohup():
    with Spindle("ram:1M", wrap=["env", "--ignore-signal=HUP"]) as s:
        os.kill(s.pid, signal.SIGHUP)
        time.sleep(0.3)
        assert s.running()
        sessions_of(s, 1)[0].close()


def test_idle_sessions_do_not_delay():
    with Spindle("ram:1M") as s:
        sessions = sessions_of(s, 8)
        started = time.monotonic()
        s.stop()
        assert time.monotonic() - started < 4, "idle sessions need no grace"
        for session in sessions:
            assert session.is_closed()


def test_half_open_logins_do_not_delay():
    with Spindle("ram:1M") as s:
        conns = [iscsi.Conn(s.portals[0]) for _ in range(4)]
        conns[0].send_raw(b"\x43")
        time.sleep(0.1)
        started = time.monotonic()
        s.stop()
        assert time.monotonic() - started < 4
        for conn in conns:
            conn.close()


def test_what_is_under_way_is_answered():
    with Spindle("fault:rule=write;delay=700ms:ram:1M") as s:
        session, = sessions_of(s, 1)
        p = session.start(iscsi.write10(5, 1), write=b"\xab" * BLOCK)
        time.sleep(0.2)
        os.kill(s.pid, signal.SIGTERM)
        session.good(session.finish(p, write=b"\xab" * BLOCK))
        assert session.is_closed()
        assert s.wait_end() == 0, s.stderr()


def fill_and_stop(store, directory):
    """Writes without a flush, stops, and counts the blocks that the file below has."""
    n = 64
    with Spindle(store, args=["--size", "1M"], directory=directory) as s:
        session, = sessions_of(s, 1)
        for i in range(n):
            session.write(i * 8, bytes([i + 1]) * 4 * KIB)
    with open(os.path.join(directory, "disk.img"), "rb") as f:
        data = f.read()
    return n, sum(data[i * 4 * KIB:(i + 1) * 4 * KIB] == bytes([i + 1]) * 4 * KIB
                  for i in range(n))


def test_stopping_flushes():
    with tempfile.TemporaryDirectory() as d:
        n, there = fill_and_stop("fault:volatile=on:disk.img", d)
        assert there == n, f"{there} of {n} blocks"
    # And the test would see it if it did not.
    with tempfile.TemporaryDirectory() as d:
        n, there = fill_and_stop("fault:volatile=on,flush=off:disk.img", d)
        assert there == 0, f"{there} of {n} blocks"


def test_a_failed_flush_is_told():
    with tempfile.TemporaryDirectory() as d, Spindle(
            "fault:rule=flush;eio:disk.img", "ram:1M", args=["--size", "1M"], directory=d) as s:
        os.kill(s.pid, signal.SIGTERM)
        assert s.wait_end() == 1
        lines = s.stderr().splitlines()
        assert len(lines) == 1 and "cannot flush" in lines[0] and "disk.img" in lines[0], lines


def hang_one_write(s):
    session, = sessions_of(s, 1)
    session.start(iscsi.write10(0, 1), write=bytes(BLOCK))
    time.sleep(0.2)
    os.kill(s.pid, signal.SIGTERM)
    return session


def test_second_signal():
    with Spindle("fault:rule=write;hang:ram:1M") as s:
        hang_one_write(s)
        time.sleep(0.5)
        assert s.running(), "it waits for what is under way"
        started = time.monotonic()
        os.kill(s.pid, signal.SIGINT)
        assert s.wait_end(5) == 1
        assert time.monotonic() - started < 2
        assert "second signal" in s.stderr(), s.stderr()


def test_a_signal_that_comes_twice():
    """At once, and while it stops: one of the two is not the user's second one."""
    for pause_s in (0, 0, 0, 0.0005, 0.05):
        with Spindle("fault:rule=flush;delay=300ms:ram:1M") as s:
            os.kill(s.pid, signal.SIGTERM)
            time.sleep(pause_s)
            os.kill(s.pid, signal.SIGINT)
            assert s.wait_end() == 0, s.stderr()
            assert s.stderr() == "", s.stderr()


def test_a_signal_that_comes_again_when_all_is_flushed():
    for i in range(10):
        with Spindle("ram:1M") as s:
            os.kill(s.pid, signal.SIGTERM)
            time.sleep(i / 1000)
            os.kill(s.pid, signal.SIGINT)
            assert s.wait_end() == 0, s.stderr()


def test_timeout():
    """Signals the process, and then its group."""
    command = [need_tool("timeout"), "--preserve-status", "3", binary(), "run", "fault:rule=flush;delay=300ms:ram:1M", "--port", "0"]
    running = []
    for _ in range(8):
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        env=server_env(), text=True))
        time.sleep(0.1)
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and said == "", (process.returncode, said)


def test_a_long_flush_is_waited_for():
    """And not in silence. It ends as it would have, or by a second signal."""
    with tempfile.TemporaryDirectory() as d:
        gate = os.path.join(d, "gate")
        store = f"fault:rule=flush;hang;while={gate}:ram:1M"
        for patient in (True, False):
            open(gate, "wb").close()
            with Spindle(store, directory=d) as s:
                before = len(s.stderr())
                os.kill(s.pid, signal.SIGTERM)
                wait_until(lambda: "still flushing after 15 s" in s.stderr()[before:], 20, "a word")
                assert s.running()
                if patient:
                    os.unlink(gate)
                else:
                    os.kill(s.pid, signal.SIGTERM)
                assert s.wait_end(5) == (0 if patient else 1), s.stderr()


def test_stuck_io_does_not_hold_it_for_ever():
    """The other disk is flushed all the same."""
    with tempfile.TemporaryDirectory() as d, Spindle(
            "fault:rule=write;hang:ram:1M", "fault:volatile=on:disk.img", args=["--size", "1M"],
            directory=d) as s:
        with iscsi.login(s.portals[0], s.iqn(1), isid=iscsi.ISID + 100) as other:
            other.settle()
            other.write(0, b"\x77" * 4 * KIB)
            hang_one_write(s)
            assert s.wait_end(40) == 1
        assert "did not come back" in s.stderr(), s.stderr()
        with open(os.path.join(d, "disk.img"), "rb") as f:
            assert f.read(4 * KIB) == b"\x77" * 4 * KIB


def test_a_hang_that_ends_is_no_error():
    with tempfile.TemporaryDirectory() as d:
        gate = os.path.join(d, "gate")
        open(gate, "wb").close()
        with Spindle(f"fault:rule=write;hang;while={gate}:ram:1M", directory=d) as s:
            hang_one_write(s)
            time.sleep(0.3)
            assert s.running()
            os.unlink(gate)
            assert s.wait_end() == 0, s.stderr()


def test_busy_sessions():
    """Several writers in full swing: exit 0, and all that was acknowledged is in the file."""
    with tempfile.TemporaryDirectory() as d:
        with Spindle("disk.img", args=["--size", "4M"], directory=d) as s:
            sessions = sessions_of(s, 4)
            acked = [set() for _ in sessions]
            for session in sessions:
                session.outstanding = {}
            for step in range(400):
                if step == 200:
                    os.kill(s.pid, signal.SIGTERM)
                if not any([push(session, acked[i], i, step) for i, session in enumerate(sessions)]):
                    break
            assert s.wait_end() == 0, s.stderr()
        with open(os.path.join(d, "disk.img"), "rb") as f:
            data = f.read()
        assert sum(map(len, acked)) > 200, acked
        for i, numbers in enumerate(acked):
            for n in numbers:
                at = i * MIB + n * BLOCK
                assert data[at:at + BLOCK] == bytes([n % 255 + 1]) * BLOCK, f"session {i} block {n}"


def push(session, acked, index, number):
    """One more write, kept eight deep; false when the server has closed the connection."""
    try:
        data = bytes([number % 255 + 1]) * BLOCK
        p = session.start(iscsi.write10(index * (MIB // BLOCK) + number, 1), write=data)
        session.outstanding[p.itt] = number
        while len(session.outstanding) > 8:
            answer = session.recv()
            if answer.opcode == iscsi.P.ASYNC:
                continue
            assert answer.opcode == iscsi.P.SCSI_RESPONSE and answer.status == 0, answer
            acked.add(session.outstanding.pop(answer.itt))
        return True
    except (iscsi.Closed, OSError):
        return False


def test_kill_releases_the_file():
    with tempfile.TemporaryDirectory() as d, Spindle("disk.img", args=["--size", "1M"],
                                                     directory=d) as s:
        for _ in range(3):
            s.kill()
            wait_until(lambda: not s.running(), 5, "killed")
            s.start()


main(globals())
