"""A disk keeps its identity for life, and no copy has the same one."""

import os
import re
import shutil
import tempfile

from harness import MIB, Spindle, main, need_tool, tool

need_tool("iscsi-inq")


def naa(s, index=0):
    text = tool("iscsi-inq", "-e", "1", "-c", "131", s.url(index))
    found = re.search(r"Designator:\[?\s*(3[0-9a-f]{15})", text.lower().replace("designator: ",
                                                                               "designator:"))
    if not found:
        found = re.search(r"\b(3[0-9a-f]{15})\b", text.lower())
    assert found, f"no NAA 3h designator in\n{text}"
    return found.group(1)


def serial(s, index=0):
    text = tool("iscsi-inq", "-e", "1", "-c", "128", s.url(index))
    found = re.search(r"Unit Serial Number:\[(\S+)\]", text)
    assert found, text
    return found.group(1)


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
