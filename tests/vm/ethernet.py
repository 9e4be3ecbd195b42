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
import subprocess
import sys
import tempfile
import time

import parts

sys.path.insert(0, os.path.join(os.path.dirname(parts.HERE), "system"))

from harness import MIB, Spindle, main, need_tool, skip  # noqa: E402

import aoe  # noqa: E402

for tool_name in ("qemu-system-x86_64", "ldd"):
    need_tool(tool_name)
ROOT = parts.fetched(parts.WHOLE_KERNEL)  # while there is a network
aoe.in_namespace()

LIMIT_S = 420
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


def attend(process, directory, console):
    """While the machine runs: what it asks its host for."""
    acts = {
        "unplug": lambda: aoe.ip("link", "set", TAPS[0], "down"),
        "plug": lambda: aoe.ip("link", "set", TAPS[0], "up"),
        "grow": lambda: os.truncate(os.path.join(directory, "disk.img"), GROWN),
    }
    end, done = time.monotonic() + LIMIT_S, set()
    while process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)
        if not os.path.exists(console):
            continue
        with open(console, encoding="utf-8", errors="replace") as f:
            asked = set(re.findall(r"^vm: (unplug|plug|grow)\s*$", f.read(), re.MULTILINE))
        for what in sorted(asked - done, reverse=True):
            acts[what]()
        done |= asked


def boot(root, directory):
    tree = parts.initramfs(root, "ethernet.sh", MODULES, TOOLS)
    tree.add("raw", RAW)
    tree.add("parameters", f"RAW_AT={RAW_AT}\n".encode())
    initrd, console = os.path.join(directory, "initrd"), os.path.join(directory, "console")
    tree.write(initrd)
    qemu = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
            "-accel", os.environ.get("SPINDLE_VM_ACCEL", "tcg"), "-m", "512", "-smp", "1", "-cpu", "max",
            "-kernel", parts.kernel(root), "-initrd", initrd,
            "-append", "console=ttyS0 quiet panic=-1", "-serial", f"file:{console}"]
    for name in TAPS:
        qemu += ["-netdev", f"tap,id={name},ifname={name},script=no,downscript=no",
                 "-device", f"virtio-net-pci,netdev={name},romfile=,mac=52:54:00:00:00:0{TAPS.index(name)}"]
    with subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        try:
            attend(process, directory, console)
            said, _ = process.communicate()
        except TimeoutError:
            said = f"not at its end within {LIMIT_S} s"
        finally:
            process.kill()
    with open(console, encoding="utf-8", errors="replace") as f:
        text = f.read()
    print(text.replace("\r", ""), flush=True)
    assert process.returncode == 0, f"qemu: {said}"
    return parts.Guest(text)


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
            guest = boot(ROOT, directory)
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
