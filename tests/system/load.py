"""
Eight load clients, each a process of its own, deep in flight, write and verify regions of their own: with and without
digests, blocks of 512 and 4096, a file and memory. SPINDLE_SOAK=1: a minute each.
"""

import os
import subprocess

from harness import MIB, Spindle, main, skip

CLIENTS = 8
REGION = 8 * MIB
SECONDS = 60 if os.environ.get("SPINDLE_SOAK") else 3


def load_clients(server, block_size, digests):
    program = os.environ.get("SPINDLE_LOAD") or skip("SPINDLE_LOAD does not name the load client")
    host, port = server.portals[0]
    children = []
    for i in range(CLIENTS):
        argv = [program, "--portal", f"{host}:{port}", "--target", server.disks[0]["iqn"], "--workload", "verify",
                "--block-size", str(block_size), "--io-size", "640K" if i % 2 else "64K", "--qd", "16", "--isid", str(i),
                "--start", str(i * REGION), "--region", str(REGION), "--seed", str(i + 1), "--time", f"{SECONDS}s"]
        argv += ["--header-digest", "--data-digest"] if digests else []
        children.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for child in children:
        said, wrong = child.communicate(timeout=SECONDS + 60)
        assert child.returncode == 0, f"{child.args}: exit code {child.returncode}\n{said}{wrong}"
        assert " 0 wrong" in wrong, wrong


def one(store, block_size, digests):
    size = CLIENTS * REGION
    stores = {"file": ("disk.img", ["--size", str(size)]), "ram": (f"ram:{size}", [])}
    spec, args = stores[store]
    with Spindle(spec, args=[*args, "--block-size", str(block_size)]) as server:
        load_clients(server, block_size, digests)


def test_file_512_plain():
    one("file", 512, False)


def test_file_4096_digests():
    one("file", 4096, True)


def test_ram_512_digests():
    one("ram", 512, True)


def test_ram_4096_plain():
    one("ram", 4096, False)


main(globals())
