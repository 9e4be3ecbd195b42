"""
Digests of data that changes meanwhile: one session writes ever new bytes to some blocks, others read the same blocks with
header and data digests, large reads over several PDUs and small ones. Which bytes they get is open; a digest that does not
fit them is an error, and the load client says so. In memory, which is lent to reads without digests, and on a
file, with blocks of 512 and 4096. SPINDLE_SOAK=1: a minute each.
"""

import os
import subprocess

from harness import KIB, MIB, Spindle, main, skip

SECONDS = 60 if os.environ.get("SPINDLE_SOAK") else 4
REGION = 4 * MIB  # small, so that they meet
READS = (4 * KIB, 2 * MIB)


def client(server, index, workload, block_size, io_size, depth):
    program = os.environ.get("SPINDLE_LOAD") or skip("SPINDLE_LOAD does not name the load client")
    argv = [program, "--portal", server.portal_text(), "--target", server.iqn(), "--workload", workload,
            "--block-size", str(block_size), "--io-size", str(io_size), "--qd", str(depth), "--isid", str(index),
            "--region", str(REGION), "--seed", str(index + 1), "--time", f"{SECONDS}s", "--header-digest",
            "--data-digest"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def meet(store, block_size, *args):
    """`verify` writes bytes that differ from write to write, and reads them back itself."""
    with Spindle(store, args=[*args, "--block-size", block_size]) as server:
        children = [client(server, 0, "verify", block_size, 256 * KIB, 16)]
        children += [client(server, i, "randread", block_size, size, 4) for i, size in enumerate(READS, 1)]
        for child in children:
            said, wrong = child.communicate(timeout=SECONDS + 60)
            assert child.returncode == 0, f"{' '.join(child.args)}: exit code {child.returncode}\n{said}{wrong}"
            print(f"{store} {block_size}: {said.strip()} {wrong.strip()}")


def test_ram_512():
    meet("ram:8M", 512)


def test_ram_4096():
    meet("ram:8M", 4096)


def test_file_512():
    meet("disk.img", 512, "--size", "8M")


def test_file_4096():
    meet("disk.img", 4096, "--size", "8M")


main(globals())
