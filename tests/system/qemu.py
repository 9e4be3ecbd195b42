"""QEMU's initiator: an ext4 image goes to the disk and comes back identical; I/O patterns."""

import filecmp
import os
import random
import re
import subprocess
import tempfile

from harness import MIB, Spindle, main, need_tool, skip, tool

need_tool("qemu-img")
need_tool("qemu-io")
if "iscsi" not in tool("qemu-img", "--help"):
    skip("this QEMU has no iSCSI (qemu-block-extra)")

SIZE = 96 * MIB


def make_ext4(path):
    """With real files in it, without a mount."""
    with tempfile.TemporaryDirectory() as d:
        rng = random.Random(1)
        for i in range(40):
            with open(os.path.join(d, f"file{i}"), "wb") as f:
                f.write(rng.randbytes(rng.randrange(400000)))
        os.symlink("file1", os.path.join(d, "link"))
        with open(path, "wb") as f:
            f.truncate(SIZE)
        tool("mke2fs", "-q", "-t", "ext4", "-d", d, path)
    tool("e2fsck", "-fn", path)


def there_and_back(store, *args, env=None):
    with tempfile.TemporaryDirectory() as d:
        image, back = os.path.join(d, "ext4.img"), os.path.join(d, "back.img")
        make_ext4(image)
        with Spindle(store, args=args, env=env, directory=d) as s:
            tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, s.url())
            assert "identical" in tool("qemu-img", "compare", "-f", "raw", "-F", "raw", image,
                                       s.url())
            tool("qemu-img", "convert", "-f", "raw", "-O", "raw", s.url(), back)
        assert filecmp.cmp(image, back, shallow=False), "what came back differs"
        tool("e2fsck", "-fn", back)
        # The file below holds the same file system.
        if store == "disk.img":
            path = os.path.join(d, "disk.img")
            assert filecmp.cmp(image, path, shallow=False), "the file below differs"
            tool("e2fsck", "-fn", path)


def test_convert_on_a_file():
    there_and_back("disk.img", "--size", SIZE)


def test_convert_on_a_file_without_uring():
    there_and_back("disk.img", "--size", SIZE, env={"SPINDLE_NO_URING": "1"})


def test_convert_4096():
    there_and_back("disk.img", "--size", SIZE, "--block-size", "4096")


def test_convert_in_memory():
    there_and_back(f"ram:{SIZE}")


def qemu_io(url, *commands, code=0):
    args = ["qemu-io", "-f", "raw"]
    for c in commands:
        args += ["-c", c]
    text = tool(*args, url, code=code)
    if code == 0:
        assert "error" not in text.lower() and "failed" not in text.lower(), text
    return text


def patterns(block):
    """Reads back what it wrote, over sizes and places that fall on and beside the segments."""
    rng = random.Random(block)
    commands = []
    sizes = [block, 4096, 65536, 262144 - 4096, 262144, 262144 + 4096, MIB, 3 * MIB + 4096]
    offset = 0
    for i, size in enumerate(sizes):
        offset += rng.randrange(4) * 4096
        flag = "-f " if i % 3 == 0 else ""
        commands.append(f"write {flag}-P {i + 1} {offset} {size}")
        commands.append(f"read -P {i + 1} {offset} {size}")
        commands.append(f"read -P 0 {offset + size} {block}")
        offset += size + 4096
    commands += ["flush", "aio_write -P 77 0 65536", "aio_write -P 78 65536 65536", "aio_flush",
                 "read -P 77 0 65536", "read -P 78 65536 65536"]
    return commands


def test_patterns():
    for block in (512, 4096):
        for store in ("ram:16M", "disk.img"):
            args = ["--block-size", block]
            if store == "disk.img":
                args += ["--size", "16M"]
            with Spindle(store, args=args) as s:
                text = qemu_io(s.url(), *patterns(block))
                assert "verification" not in text.lower(), text


def test_pattern_failure_is_seen():
    """The check itself can fail."""
    with Spindle("ram:1M") as s:
        done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 1 0 4096", "-c",
                               "read -P 2 0 4096", s.url()], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert "Pattern verification failed" in done.stdout, done.stdout


def test_read_only():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "disk.img")
        with open(path, "wb") as f:
            f.write(b"\xaa" * MIB)
        os.chmod(path, 0o444)
        with Spindle("disk.img", args=["--ro"], directory=d) as s:
            text = tool("qemu-io", "-r", "-f", "raw", "-c", f"read -P 0xaa 0 {MIB}", s.url())
            assert re.search(r"read 1048576/1048576", text), text
            done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 4096", s.url()],
                                  text=True, check=False, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            assert "wrote" not in done.stdout, done.stdout
            # Two may read the same file.
            with Spindle(path, args=["--ro"]) as other:
                tool("qemu-io", "-r", "-f", "raw", "-c", "read -P 0xaa 0 4096", other.url())
        with open(path, "rb") as f:
            assert f.read() == b"\xaa" * MIB


main(globals())
