"""A disk keeps its identity for life, and no copy has the same one."""

import os
import shutil
import tempfile

from harness import MIB, Spindle, main, tool

import iscsi


def vpd(s, index, page):
    with iscsi.login(s.portals[0], s.iqn(index)) as session:
        session.settle()
        data = bytes(session.good(session.command(iscsi.inquiry(255, page), read=255)).data)
    assert data[1] == page
    return data[4:4 + int.from_bytes(data[2:4], "big")]


def naa(s, index=0):
    """Of the logical unit: association 0, type 3 (SPC-4 7.8.6)."""
    data, found = vpd(s, index, 0x83), []
    while data:
        length = data[3]
        if data[1] & 0x3F == 3:
            found.append(data[4:4 + length])
        data = data[4 + length:]
    assert len(found) == 1 and len(found[0]) == 8 and found[0][0] >> 4 == 3, found
    return found[0].hex()


def serial(s, index=0):
    text = vpd(s, index, 0x80).decode("ascii")
    assert len(text) >= 8 and text.isprintable(), text
    return text


def identity(s, index=0):
    return naa(s, index), serial(s, index)


def test_same_after_restart():
    with tempfile.TemporaryDirectory() as d:
        with Spindle("disk.img", args=["--size", "1M"], directory=d) as s:
            first = identity(s)
            s.restart()
            assert identity(s) == first
            s.kill()
            s.start()
            assert identity(s) == first
        # Neither the name nor the directory makes the identity.
        os.mkdir(os.path.join(d, "sub"))
        os.rename(os.path.join(d, "disk.img"), os.path.join(d, "sub", "other.img"))
        with Spindle("sub/other.img", args=["--name", "third"], directory=d) as s:
            assert identity(s) == first


def test_a_copy_gets_another():
    with tempfile.TemporaryDirectory() as d:
        with Spindle("disk.img", args=["--size", "1M"], directory=d) as s:
            first = identity(s)
        plain, faithful = os.path.join(d, "plain.img"), os.path.join(d, "faithful.img")
        shutil.copyfile(os.path.join(d, "disk.img"), plain)
        tool("cp", "-a", os.path.join(d, "disk.img"), faithful)
        with Spindle("plain.img", "faithful.img", "disk.img", directory=d) as s:
            found = [identity(s, i) for i in range(3)]
            assert found[2] == first, "the original keeps its own"
            assert len({x[0] for x in found}) == 3, found
            assert len({x[1] for x in found}) == 3, found
            told = [line for line in s.stderr().splitlines() if "identity-renewed" in line]
            # cp -a carries attributes over; without them a file is a new disk, and no news.
            assert len(told) == 1 and 'disk="faithful"' in told[0], told
            s.restart()
            assert [identity(s, i) for i in range(3)] == found


def test_disks_in_memory_differ():
    with Spindle("ram:1M", "ram:1M") as s, Spindle("ram:1M") as other:
        assert len({naa(s, 0), naa(s, 1), naa(other)}) == 3


def test_read_only_file_has_one():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "disk.img")
        with open(path, "wb") as f:
            f.truncate(MIB)
        os.chmod(path, 0o444)
        with Spindle("disk.img", args=["--ro"], directory=d) as s:
            first = identity(s)
            s.restart()
            assert identity(s) == first


main(globals())
