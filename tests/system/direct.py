"""Past the page cache (--direct): what is read and written is right whatever the size and wherever in a buffer it lies, the
file is open with O_DIRECT, and what has no page cache is refused."""

import os
import tempfile

from harness import MIB, Spindle, expect_error, main

import iscsi

SIZE = 16 * MIB


def can_direct(directory):
    with tempfile.NamedTemporaryFile(dir=directory) as f:
        try:
            os.close(os.open(f.name, os.O_RDWR | os.O_DIRECT))
        except OSError:
            return False
    return True


def open_flags(server, path):
    fds = f"/proc/{server.pid}/fd"
    for fd in os.listdir(fds):
        if os.path.realpath(f"{fds}/{fd}") == os.path.realpath(path):
            with open(f"/proc/{server.pid}/fdinfo/{fd}", encoding="ascii") as f:
                return int(dict(line.split(":\t") for line in f if ":\t" in line)["flags"], 8)
    raise AssertionError(f"{path} is not open")


def exercise(s, block):
    """Writes of each size and place, read back in other sizes; what is gathered, repeated and zeroed."""
    shadow = bytearray(2 * MIB)
    for i, n in enumerate((1, 2, 3, 8, 31, 64, 65, 200)):
        lba = (17 * i * i) % (len(shadow) // block - n)
        data = iscsi.pattern(n * block, i)
        s.write(lba, data, block=block)
        shadow[lba * block:(lba + n) * block] = data
    for n in (1, 5, 64, 256):
        for lba in range(0, len(shadow) // block - n + 1, n):
            got = s.read(lba, n, block=block)
            assert got == shadow[lba * block:(lba + n) * block], f"{n} blocks at {lba}"
    old, new = bytes(shadow[5 * block:8 * block]), iscsi.pattern(3 * block, 99)
    s.good(s.command(bytes([0x89, 0]) + (5).to_bytes(8, "big") + bytes([0, 0, 0, 3, 0, 0]), write=old + new))
    assert s.read(5, 3, block=block) == new
    one = iscsi.pattern(block, 7)
    s.good(s.command(bytes([0x93, 0]) + (9).to_bytes(8, "big") + (40).to_bytes(4, "big") + bytes(2), write=one))
    assert s.read(9, 40, block=block) == 40 * one
    s.good(s.command(bytes([0x93, 1]) + (9).to_bytes(8, "big") + (7).to_bytes(4, "big") + bytes(2)))
    assert s.read(9, 8, block=block) == bytes(7 * block) + one
    s.good(s.command(bytes([0x35]) + bytes(9)))


def test_what_is_written_is_read():
    for where in (os.getcwd(), "/dev/shm"):
        if not can_direct(where):
            print(f"  {where} has no direct I/O")
            continue
        with tempfile.TemporaryDirectory(dir=where) as directory:
            for block_size in ("auto", "4096"):
                path = os.path.join(directory, f"{block_size}.img")
                with Spindle(path, args=["--size", str(SIZE), "--direct", "--block-size", block_size]) as server:
                    assert open_flags(server, path) & os.O_DIRECT
                    s = iscsi.login(server.portals[0], server.iqn())
                    s.settle()
                    capacity = s.good(s.command(bytes([0x25]) + bytes(9), read=8)).data
                    block = int.from_bytes(capacity[4:], "big")
                    assert block in (512, 4096) and (block == 4096 or block_size == "auto"), block
                    exercise(s, block)
                    s.close()


def test_without_it_the_cache_is_used():
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as directory:
        path = os.path.join(directory, "disk.img")
        with Spindle(path, args=["--size", "1M"]) as server:
            assert not open_flags(server, path) & os.O_DIRECT


def test_what_has_no_cache_is_refused():
    expect_error(2, "run", "ram:1M", "--direct", "--port", "0", says=("ram", "--direct"))
    expect_error(2, "run", "fault:rule=read;eio:null:1M", "--direct", "--port", "0", says=("null", "--direct"))


main(globals())
