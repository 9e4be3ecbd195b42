"""
Linux' aoe driver (Debian's kernel) uses our disk from a virtual machine with two interfaces: raw data past
caches, an ext4 file system, one path lost while it writes and back again, a disk that grows. The host judges what
the kernel saw and said, and finds everything in the file below afterwards.

The network is two taps in a namespace of the test's own. It needs root and /dev/net/tun.
"""

import hashlib
import os
import random
import re
import sys
import tempfile

import parts

sys.path.insert(0, os.path.join(os.path.dirname(parts.HERE), "system"))

from harness import MIB, Spindle, main, need_tool, skip  # noqa: E402

import aoe  # noqa: E402

for tool_name in ("qemu-system-x86_64", "ldd"):
    need_tool(tool_name)
ROOT = parts.fetched(parts.WHOLE_KERNEL)  # while there is a network
aoe.in_namespace()

SIZE, GROWN, RAW_AT = 64 * MIB, 80 * MIB, 32 * MIB
TAPS = ("tap0", "tap1")
RAW = random.Random(88).randbytes(2 * MIB)
MODULES = ("virtio_pci", "virtio_net", "crc32c-intel", "crc32c_generic", "ext4", "aoe")
TOOLS = ("dd", "mke2fs", "e2fsck")


def make_taps():
    for name in TAPS:
        if aoe.ip("tuntap", "add", "dev", name, "mode", "tap").returncode != 0:
            skip("there are no taps here")
        aoe.ip("link", "set", name, "up")


def act(directory, word):
    """What the machine asks its host for."""
    if word == "grow":
        os.truncate(os.path.join(directory, "disk.img"), GROWN)
    else:
        aoe.ip("link", "set", TAPS[0], {"unplug": "down", "plug": "up"}[word])


def boot(directory):
    tree = parts.initramfs(ROOT, "ethernet.sh", MODULES, TOOLS)
    tree.add("raw", RAW)
    tree.add("parameters", f"RAW_AT={RAW_AT}\n".encode())
    network = []
    for n, name in enumerate(TAPS):
        network += ["-netdev", f"tap,id={name},ifname={name},script=no,downscript=no",
                    "-device", f"virtio-net-pci,netdev={name},romfile=,mac=52:54:00:00:00:0{n}"]
    return parts.run(ROOT, tree, directory, network, lambda word, _: act(directory, word))


def check_image(path):
    with open(path, "rb") as f:
        data = f.read()
    assert len(data) == GROWN
    for at in [*range(RAW_AT, RAW_AT + 5 * len(RAW), len(RAW)), GROWN - len(RAW)]:
        assert hashlib.sha256(data[at:at + len(RAW)]).digest() == hashlib.sha256(RAW).digest(), f"at {at}"


def test_linux():
    make_taps()
    with tempfile.TemporaryDirectory(prefix="spindle-vm-") as directory:
        args = ["--size", str(SIZE), "--no-iscsi", *[arg for name in TAPS for arg in ("--aoe", f"{name}:1.0")]]
        with Spindle("disk.img", args=args, directory=directory):
            guest = parts.Guest(boot(directory))
        assert guest.ended and not guest.problems, guest.problems
        assert guest.results.get("all") == 0, guest.results
        found, grown = guest.facts["found"], guest.facts["grown"]
        assert found["size"] == str(SIZE // 512) and grown["size"] == str(GROWN // 512), (found, grown)
        assert found["payload"] == "1024" and found["state"] == "up", found
        assert found["netif"].replace(" ", "") in ("eth0,eth1", "eth1,eth0"), found
        bad = [line for line in guest.kernel.get("all", []) if re.search(r"BUG|Call Trace|I/O error|hung", line)]
        assert not bad, bad
        check_image(os.path.join(directory, "disk.img"))


main(globals())
