"""
QEMU's initiator over a disk that can give space back: what it discards or zeroes reads as zeros,
the file below gets smaller, and what QEMU learns of the disk's holes is what there is.
"""

import json
import os
import tempfile

from harness import MIB, Spindle, main, need_tool, skip, tool

need_tool("qemu-img")
need_tool("qemu-io")
if "iscsi" not in tool("qemu-img", "--help"):
    skip("this QEMU has no iSCSI (qemu-block-extra)")

SIZE = 64 * MIB


def qemu_io(url, *commands):
    args = ["qemu-io", "-f", "raw", "-d", "unmap"]
    for c in commands:
        args += ["-c", c]
    text = tool(*args, url)
    for bad in ("error", "failed", "verification"):
        assert bad not in text.lower(), text


def holes_of(url):
    """[(start, length), ...] of what QEMU takes for holes, neighbours joined."""
    out = []
    for e in json.loads(tool("qemu-img", "map", "-f", "raw", "--output=json", url)):
        if e["data"]:
            continue
        if out and sum(out[-1]) == e["start"]:
            out[-1] = (out[-1][0], out[-1][1] + e["length"])
        else:
            out.append((e["start"], e["length"]))
    return out


def used(server):
    return os.stat(os.path.join(server.dir, "disk.img")).st_blocks * 512


def unmaps(block):
    with Spindle("disk.img", args=["--size", SIZE, "--block-size", block]) as s:
        assert holes_of(s.url()) == [(0, SIZE)]
        qemu_io(s.url(), "write -P 5 0 16M", "flush")
        full = used(s)
        assert full >= 16 * MIB
        assert holes_of(s.url()) == [(16 * MIB, SIZE - 16 * MIB)]
        qemu_io(s.url(), "discard 1M 4M", "read -P 0 1M 4M", "write -z -u 8M 2M", "read -P 0 8M 2M",
                "read -P 5 0 1M", "read -P 5 5M 3M", "read -P 5 10M 6M", "flush")
        assert used(s) <= full - 6 * MIB, f"{full} bytes before, {used(s)} now"
        assert holes_of(s.url()) == [(MIB, 4 * MIB), (8 * MIB, 2 * MIB),
                                     (16 * MIB, SIZE - 16 * MIB)]
        # Zeros that keep their space.
        before = used(s)
        qemu_io(s.url(), "write -z 12M 1M", "read -P 0 12M 1M", "read -P 5 13M 3M", "flush")
        assert used(s) >= before
        # To the end of the disk, in many commands.
        qemu_io(s.url(), f"discard 0 {SIZE}", f"read -P 0 0 {SIZE}")
        assert used(s) < MIB


def test_unmap_512():
    unmaps("512")


def test_unmap_4096():
    unmaps("4096")


def test_a_sparse_image_stays_sparse():
    with tempfile.TemporaryDirectory() as d:
        image = os.path.join(d, "image")
        with open(image, "wb") as f:
            f.truncate(SIZE)
            for at in range(0, SIZE, 8 * MIB):
                f.seek(at)
                f.write(b"\x5a" * MIB)
        with Spindle("disk.img", args=["--size", SIZE]) as s:
            tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, s.url())
            assert "identical" in tool("qemu-img", "compare", "-f", "raw", "-F", "raw", image,
                                       s.url())
            assert used(s) <= 10 * MIB, f"{used(s)} bytes for 8 MiB of data"


main(globals())
