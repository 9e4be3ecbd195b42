"""
64 clients that send faster than the disk takes: nothing is lost, memory stays within --memory, a ping is answered
within a second throughout, and no client gets less than half of what the others get. SPINDLE_SOAK=1: half a minute each.
"""

import json
import os
import subprocess
import threading
import time

from harness import KIB, MIB, Spindle, is_sanitized, main, skip, wait_until

import iscsi

SOAK = bool(os.environ.get("SPINDLE_SOAK"))
PLAIN = not is_sanitized()
CLIENTS = 64 if PLAIN or SOAK else 12
SECONDS = 30 if SOAK else 6 if PLAIN else 3
REGION = 4 * MIB
MEMORY = 64 * MIB
# The program, its threads' stacks and heaps, and the sockets' bookkeeping.
BESIDE = 32 * MIB
PING_MAX_S = 1.0 if PLAIN else 5.0
ALL = CLIENTS * REGION


class Pings(threading.Thread):
    """One more client, which only wants to know whether anybody is there."""

    def __init__(self, server):
        super().__init__()
        self.session = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 5000)
        self.worst, self.n, self.stopping = 0.0, 0, False
        self.error = None

    def run(self):
        try:
            while not self.stopping:
                before = time.monotonic()
                self.session.ping(b"x" * (100 if self.n % 2 else 2000))
                self.worst = max(self.worst, time.monotonic() - before)
                self.n += 1
                time.sleep(0.01)
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def end(self):
        self.stopping = True
        self.join()
        self.session.close()
        if self.error is not None:
            raise self.error
        assert self.n > 10, self.n
        assert self.worst < PING_MAX_S, f"a ping took {self.worst:.2f} s"


def peak_bytes(server):
    with open(f"/proc/{server.pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    raise AssertionError("no VmHWM")


def crowd(server, n, workload, io_size, qd, *more, block_size=512):
    """Clients that measure at the same time: one that began late would have the server to itself in the end."""
    program = os.environ.get("SPINDLE_LOAD") or skip("SPINDLE_LOAD does not name the load client")
    begin = time.monotonic() + 2 + n * 0.05
    argv = [program, "--portal", server.portal_text(), "--target", server.iqn(), "--workload", workload, "--block-size",
            str(block_size), "--io-size", str(io_size), "--qd", str(qd), "--region", str(REGION), "--time", f"{SECONDS}s",
            "--begin", str(int(begin * 1000)), "--json", *more]
    return [subprocess.Popen([*argv, "--isid", str(i), "--start", str(i * REGION), "--seed", str(i + 1)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(n)]


def judge(children, fair=True):
    """All did well; what they did, in IOPS."""
    rates, refused = [], 0
    for child in children:
        said, wrong = child.communicate(timeout=SECONDS + 120)
        assert child.returncode == 0, f"{child.args}: exit code {child.returncode}\n{said}{wrong}"
        assert "wrong" not in wrong or " 0 wrong" in wrong, wrong
        rates.append(json.loads(said)["iops"])
        refused += json.loads(said)["refused"]
    mean = sum(rates) / len(rates)
    print(f"  {len(rates)} clients: {mean:.1f} IOPS each, the slowest {min(rates):.1f}, the fastest {max(rates):.1f}, {refused} refused")
    # Only while all of them log in has each more promised to it than it will have in the end.
    assert refused <= CLIENTS, refused
    if fair and PLAIN:
        assert min(rates) >= mean / 2, sorted(rates)
    return rates


def under_load(store, args, run):
    # A sanitizer's own memory says nothing; the budget is the same.
    with Spindle(store, args=[*args, "--memory", str(MEMORY)], threads=2) as server:
        pings = Pings(server)
        pings.start()
        try:
            run(server)
        finally:
            pings.end()
        peak = peak_bytes(server)
        print(f"  peak {peak // MIB} MiB of {MEMORY // MIB}, {pings.n} pings, the slowest {pings.worst * 1000:.0f} ms")
        if PLAIN:
            assert peak < MEMORY + BESIDE, peak


def clients(workload, io_size, qd, *more):
    return lambda server: judge(crowd(server, CLIENTS, workload, io_size, qd, *more))


def test_verified_on_a_file():
    under_load("disk.img", ["--size", str(ALL)], clients("verify", "256K", 32))


def test_writes_to_a_slow_disk():
    """Faster than it takes them, by far; immediate data with each."""
    under_load("fault:rule=write;delay=100ms:null:1G", [], clients("write", "256K", 32))


def test_unsolicited_writes_to_a_slow_disk():
    under_load("fault:rule=write;delay=50ms:null:1G", ["--unsolicited"], clients("write", "64K", 32))


def test_long_commands_verified_on_a_slow_disk():
    under_load("fault:rule=write+read;delay=20ms:disk.img", ["--size", str(ALL)], clients("verify", "1M", 8))


def test_reads_by_who_does_not_read():
    """A quarter of the clients asks for much and takes nothing; the others do not notice for long."""
    def run(server):
        lazy = []
        for i in range(CLIENTS // 4):
            s = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 6000 + i)
            s.widen(32)
            for k in range(32):
                s.start(iscsi.read10(2048 * (k % 4), 2048), read=MIB)
            lazy.append(s)
        judge(crowd(server, CLIENTS, "verify", "256K", 16))
        for s in lazy:
            s.close()

    under_load("disk.img", ["--size", str(ALL)], run)


def compare_and_write(s, lba, nblocks, old, new):
    cdb = bytes([0x89, 0]) + lba.to_bytes(8, "big") + bytes(3) + bytes([nblocks, 0, 0])
    return s.command(cdb, write=old + new)


def test_compare_and_write_beside_writers():
    """It gathers all its data before it begins; each of many counts on what the last one left."""
    def run(server):
        writers = crowd(server, CLIENTS // 2, "write", "256K", 16, block_size=4096)
        s = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 7000)
        s.settle()
        nblocks, lba = 32, (ALL - MIB) // 4096
        old = bytes(nblocks * 4096)
        s.write(lba, old, block=4096)
        done, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            new = iscsi.pattern(len(old), done + 1)
            s.good(compare_and_write(s, lba, nblocks, old, new))
            old = new
            done += 1
        assert s.read(lba, nblocks, block=4096) == old
        print(f"  {done} times")
        assert done > 0
        s.close()
        judge(writers)

    under_load("disk.img", ["--size", str(ALL), "--block-size", "4096"], run)


def test_memory_comes_back():
    """When all is over little of it is left."""
    if not PLAIN:
        return
    with Spindle("fault:rule=write;delay=50ms:null:1G", args=["--memory", str(MEMORY)], threads=2) as server:
        before = server.rss_bytes()
        judge(crowd(server, CLIENTS, "write", "256K", 16), fair=False)
        wait_until(lambda: server.rss_bytes() < before + 16 * MIB, 60, "most of the memory was given back")


main(globals())
