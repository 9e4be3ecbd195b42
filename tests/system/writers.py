"""
Two loops serve one disk: no cache line is written by both of them for a command, be it a read or a write. For the
program of the tree with -Dwriters=true, which counts what it writes (tests/writers/writers.c).
"""

import os
import subprocess
import tempfile

from harness import MIB, Spindle, binary, main, skip, tool

OPS = 20000
# Of all the lines that both write: what they have to say to each other when sessions come and go.
MAX_SHARED = OPS // 100


def places(pcs):
    return " and ".join(tool("addr2line", "-f", "-s", "-p", "-e", binary(), *pcs).strip().splitlines())


def look(store, workload):
    program = os.environ.get("SPINDLE_LOAD") or skip("SPINDLE_LOAD does not name the load client")
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report")
        os.environ["WRITERS_REPORT"] = report
        with Spindle(store, args=["--size", str(64 * MIB)] if store == "disk.img" else [], threads=2) as server:
            del os.environ["WRITERS_REPORT"]
            subprocess.run([program, "--portal", server.portal_text(), "--target", server.iqn(), "--workload", workload,
                            "--sessions", "2", "--qd", "16", "--region", str(32 * MIB), "--warmup", "0ms", "--ops", str(OPS)],
                           check=True, timeout=100, stdout=subprocess.DEVNULL)
        with open(report, encoding="ascii") as f:
            threads, *lines = [line.split() for line in f]
    busy = sorted(map(int, threads))[-2:]
    assert busy[0] > OPS, f"one loop did it all: {threads}"
    # They post each other messages, so an empty report would be a broken one.
    assert lines, "nothing is shared"
    count, *pcs = lines[0]
    print(f"  {store}, {workload}: {busy} writes; the hottest shared line {count} times, {places(pcs)}")
    assert int(count) <= MAX_SHARED, "\n".join(f"{count} times: {places(pcs)}" for count, *pcs in lines[:10])


def test_reads_from_memory():
    look("ram:64M", "randread")


def test_writes_to_memory():
    look("ram:64M", "randwrite")


def test_reads_of_a_file():
    look("disk.img", "randread")


main(globals())
