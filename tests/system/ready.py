"""The line of JSON that programs wait for: exact, alone, and only when clients can connect."""

import json
import os
import socket
import subprocess
import tempfile

from harness import GIB, MIB, Spindle, binary, main


def test_line_is_exact():
    with Spindle("ram:1G", args=["--name", "a", "--iqn", "iqn.2026-11.test:a"]) as s:
        port = s.portals[0][1]
        expected = {
            "pid": s.process.pid,
            "portals": [f"127.0.0.1:{port}"],
            "disks": [{"name": "a", "iqn": "iqn.2026-11.test:a", "lun": 0, "size": GIB,
                       "url": f"iscsi://127.0.0.1:{port}/iqn.2026-11.test:a/0"}],
        }
        assert s.ready == expected, s.ready
        assert list(s.ready) == list(expected)
        assert list(s.ready["disks"][0]) == list(expected["disks"][0])
        assert s.stderr() == "", s.stderr()


def test_one_line_and_nothing_else():
    server = subprocess.Popen([binary(), "run", "ram:1M", "null:1T", "--port", "0", "--json"],
                              stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    line = server.stdout.readline()
    server.terminate()
    rest, _ = server.communicate(timeout=30)
    assert server.returncode == 0 and rest == b"", rest
    text = line.decode()
    assert text == json.dumps(json.loads(text), separators=(",", ":")) + "\n", text


def test_connects_at_once():
    for _ in range(5):
        with Spindle("ram:1M") as s, socket.create_connection(s.portals[0], timeout=5):
            pass


def test_several_disks():
    with tempfile.TemporaryDirectory() as d:
        os.mkdir(os.path.join(d, "sub"))
        with Spindle("a.img", "sub/a.img", "ram:1M", "ram:2M", "null:1T", directory=d,
                     args=["--size", "1M"]) as s:
            assert [x["name"] for x in s.disks] == ["a", "a-2", "ram", "ram-2", "null"]
            assert [x["size"] for x in s.disks] == [MIB, MIB, MIB, 2 * MIB, 1 << 40]
            assert len({x["iqn"] for x in s.disks}) == 5
            for disk in s.disks:
                assert disk["iqn"].startswith("iqn.2026-11."), disk
                assert disk["iqn"].endswith(":" + disk["name"]), disk
                assert disk["url"] == f"iscsi://{s.portal_text()}/{disk['iqn']}/0"
            assert os.path.getsize(os.path.join(d, "a.img")) == MIB
            assert os.stat(os.path.join(d, "a.img")).st_blocks * 512 < MIB


def test_block_size_cuts_the_last_block():
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "odd.img"), "wb") as f:
            f.truncate(MIB + 1000)
        for size, expected in (("512", MIB + 512), ("4096", MIB)):
            with Spindle("odd.img", directory=d, args=["--block-size", size]) as s:
                assert s.disks[0]["size"] == expected, s.disks
        assert os.path.getsize(os.path.join(d, "odd.img")) == MIB + 1000


main(globals())
