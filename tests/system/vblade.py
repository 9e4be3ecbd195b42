"""
Ethernet alone (--no-iscsi), slices of a file, and the command line of vblade: what it takes, what it says, how
it fails, and what is served then. What it answers frame by frame is in aoe_golden.py.

It needs root.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from harness import MIB, SOURCE, Spindle, binary, expect_error, find_tool, main, run, server_env, wait_until

import aoe
import iscsi
from aoe import ata_frame, client, config_frame, pattern
from vblade import Vblade, ours

aoe.in_namespace()

SECTOR = aoe.SECTOR
STRANGER, FRIEND = bytes.fromhex("020000000066"), bytes.fromhex("020000000055")
AOE = ["--no-iscsi", "--aoe", "aoe0:1.0"]


def both(*stores, args=(), **more):
    return aoe.both(*stores, args=["--no-iscsi", *args], **more)


@contextlib.contextmanager
def folder(size=4 * MIB):
    """A directory with a file in it, `disk`."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as d:
        with open(os.path.join(d, "disk"), "wb") as f:
            f.truncate(size)
        yield d


@contextlib.contextmanager
def vblade(d, *args, slot=1, command=None):
    """vblade ARGS 1 1 aoe0 disk"""
    with Vblade(command or ours(), *args, 1, slot, "aoe0", "disk", cwd=d) as v, client(1, slot) as c:
        c.settle()
        yield v, c


def contents(d, first, count):
    return aoe.stored(d, first, count, "disk")


def sockets_of(pid):
    """What the process listens on: TCP ports."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
            if found:
                inodes.add(found[1])
    ports = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{name}", encoding="ascii") as f:
            ports += [line.split()[1] for line in f if line.split()[9] in inodes]
    return ports


# ---- Without iSCSI -----------------------------------------------------------------------------


def test_no_iscsi_says_what_there_is():
    with both("ram:1M", "ram:2M") as (s, c):
        assert s.ready == {"pid": s.process.pid, "portals": [], "disks": [
            {"name": "ram", "size": MIB, "aoe": [{"interface": "aoe0", "shelf": 1, "slot": 0}]},
            {"name": "ram-2", "size": 2 * MIB, "aoe": [{"interface": "aoe0", "shelf": 1, "slot": 1}]}]}, s.ready
        assert sockets_of(s.pid) == []
        assert s.stderr() == "", s.stderr()
        c.write(0, pattern(1, 0, 2))
        assert c.read(0, 2) == pattern(1, 0, 2)
    with Spindle("ram:1M", args=["--aoe", "aoe0:1.0"]) as s:
        assert len(sockets_of(s.pid)) == 1 and s.disks[0]["iqn"] and s.disks[0]["url"] and s.disks[0]["lun"] == 0


def said(*args):
    """What is printed for people."""
    server = subprocess.Popen([binary(), "run", "ram:1M", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, env=server_env(), text=True)
    text = ""
    while "/dev/etherd/e1.0" not in text:
        line = server.stdout.readline()
        assert line, text
        text += line
    server.terminate()
    rest, err = server.communicate(timeout=30)
    assert server.returncode == 0, err
    return text + rest


def test_no_iscsi_in_words():
    text = said(*AOE)
    assert "export  aoe     1.0 on aoe0" in text and "aoe-discover" in text, text
    for word in ("iscsi", "iqn", "qemu", "QEMU"):
        assert word not in text, text


def test_both_in_words():
    text = said("--listen", "127.0.0.1:0", "--aoe", "aoe0:1.0")
    assert "iscsiadm -m node -T iqn." in text and "-drive file=iscsi://" in text, text
    assert "on the Ethernet of aoe0, for ram:\n  sudo modprobe aoe && sudo aoe-discover\n" in text, text


def test_no_iscsi_and_what_does_not_go_with_it():
    def refused(*args, says):
        expect_error(2, "run", "ram:1M", "--no-iscsi", *args, says=says, timeout=20)

    refused(says=["--no-iscsi", "--aoe eth1:1.0"])
    for option, value in (("--listen", "127.0.0.1"), ("--iqn", "iqn.2026-11.test:a"), ("--chap", "a:b")):
        refused("--aoe", "aoe0:1.0", option, value, says=[option, "--no-iscsi"])
    refused("--aoe", "aoe0:1.0", "--unsolicited", says=["--unsolicited"])
    refused("--aoe", "aoe0:1.0", "--mutual-chap", "a:b", says=["--mutual-chap"])


def test_no_iscsi_where_a_port_is_taken():
    with socket.create_server(("127.0.0.1", 3260)), \
         subprocess.Popen([binary(), "run", "ram:1M", *AOE, "--json"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          env=server_env()) as server:
        assert b'"portals":[]' in server.stdout.readline()
        server.terminate()
        assert server.wait(timeout=30) == 0


def test_no_iscsi_stops():
    """At once when nothing is under way; and what is under way is answered and kept."""
    with both("ram:1M", "null:1T"):
        pass
    with both("fault:rule=write;delay=500ms:disk.img", args=["--size", "1M"]) as (s, c):
        tag = c.send(ata_frame(aoe.WRITE_EXT, 5, 2, pattern(1, 5, 2)))
        time.sleep(0.1)
        s.terminate()
        answer = c.receive()
        assert answer.tag == tag and answer.status == aoe.GOOD, answer
        assert s.wait_end() == 0
        with open(os.path.join(s.dir, "disk.img"), "rb") as f:
            f.seek(5 * SECTOR)
            assert f.read(2 * SECTOR) == pattern(1, 5, 2)
    for _ in range(3):
        with Spindle("ram:1M", args=AOE) as s:
            s.terminate()


def test_no_iscsi_grows():
    with both("disk.img", args=["--size", "1M"]) as (s, c):
        os.truncate(os.path.join(s.dir, "disk.img"), 2 * MIB)
        wait_until(lambda: c.identify().size == 2 * MIB // SECTOR, 20, "the disk to grow")


def test_no_iscsi_goes_on_with_what_was_begun():
    """A disk that was left half erased is refused until it is erased."""
    data = bytes([1, 0, 0, 4]) + b"wipe"
    slow = "fault:rule=write;delay=12ms:disk.img"
    with folder() as d, Spindle(slow, args=["--size", "64M"], directory=d) as s:
        with iscsi.login(s.portals[0], s.iqn()) as session:
            session.settle()
            session.good(session.command(bytes([0x48, 0x81, 0, 0, 0, 0, 0, 0, len(data), 0]), write=data))
            time.sleep(0.2)
            s.kill()
        with Spindle(slow, args=AOE, directory=d) as alone, client() as c:
            c.settle()
            assert "unfinished-work" in alone.stderr(), alone.stderr()
            refused = c.ata(aoe.READ_EXT, 0, 2)
            assert refused.error or refused.status & aoe.ERR, refused
            wait_until(lambda: c.ata(aoe.READ_EXT, 0, 2).status == aoe.GOOD, 60, "the disk to be erased")
            for lba in (0, 65536, 131070):
                assert c.read(lba, 2) == b"wipe" * 256, lba


# ---- Options of a place ------------------------------------------------------------------------


def test_anybody_may_set_the_string():
    with both("ram:1M", options=",admin=*") as (_, c), client(mac=STRANGER) as d:
        c.config(aoe.CONFIG_SET, b"one")
        d.expect_error(aoe.STRING_PRESENT, config_frame(aoe.CONFIG_SET, b"two"))
        assert d.config(aoe.CONFIG_FORCE, b"two").string == b"two" and c.config().string == b"two"
    with both("ram:1M", options=f",mac=*,mac={aoe.mac_text(STRANGER)}") as (_, c):
        assert not c.config().error
        c.expect_error(aoe.BAD_ARGUMENT, config_frame(aoe.CONFIG_SET, b"one"))


def test_buffers():
    for n in (1, 2, 64, 256):
        with both("ram:1M", options=f",buffers={n}") as (_, c):
            assert c.config().buffers == n
            aoe.Window(c, 2, window=n, rto_s=10).write(0, 600, 1)
    for n in ("0", "257", "-1", "x"):
        expect_error(2, "run", "ram:1M", "--no-iscsi", "--aoe", f"aoe0:1.0,buffers={n}", says=["buffers", n], timeout=20)


# ---- Slices ------------------------------------------------------------------------------------

LOW, HIGH = "slice:offset=0,length=1M:disk", "slice:offset=1M,length=1M:disk"


def test_slices_are_disks():
    """Each with its own bytes, identity and string, and all of it is there again after a restart."""
    with folder() as d, Spindle(LOW, HIGH, "slice:offset=2M:disk", directory=d,
                                args=["--no-iscsi", "--aoe", "aoe0:1.0,admin=*"]) as s:
        seen = []
        for turn in range(2):
            with client() as c:
                c.settle()
                assert [c.identify(slot=slot).size for slot in range(3)] == [2048, 2048, 4096]
                serials = [c.identify(slot=slot).serial for slot in range(3)]
                assert len(set(serials)) == 3, serials
                seen.append(serials)
                for slot in range(3):
                    if turn == 0:
                        c.write(0, pattern(slot, 0, 2), slot=slot)
                        c.write(2046, pattern(slot, 2046, 2), slot=slot)
                        c.config(aoe.CONFIG_SET, b"%d" % slot, slot=slot)
                    assert c.read(0, 2, slot=slot) == pattern(slot, 0, 2)
                    assert c.read(2046, 2, slot=slot) == pattern(slot, 2046, 2)
                    assert c.config(slot=slot).string == b"%d" % slot
                for slot in range(2):
                    c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(aoe.READ_EXT, 2047, 2, slot=slot))
                    c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(aoe.WRITE_EXT, 2048, 1, bytes(SECTOR), slot=slot))
            if turn == 0:
                s.restart()
        assert seen[0] == seen[1], seen
        for slot, first in enumerate((0, 2048, 4096)):
            assert contents(d, first, 2) == pattern(slot, 0, 2)
            assert contents(d, first + 2046, 2) == pattern(slot, 2046, 2)
        assert not any("spindle" in name for name in os.listxattr(os.path.join(d, "disk"))), "nothing is kept with the whole"


def test_slices_of_several_processes():
    with folder() as d, Spindle(LOW, directory=d, args=AOE):
        with Spindle(HIGH, args=["--no-iscsi", "--aoe", "aoe0:1.1", "--state", "other"], directory=d), client() as c:
            c.settle()
            c.write(0, pattern(1, 0, 2))
            c.write(0, pattern(2, 0, 2), slot=1)
            assert c.read(0, 2) == pattern(1, 0, 2) and c.read(0, 2, slot=1) == pattern(2, 0, 2)
            assert c.identify().serial != c.identify(slot=1).serial
            for spec in ("disk", LOW, HIGH, "slice:offset=2047K,length=4K:disk", "slice:offset=512:disk"):
                expect_error(4, "run", spec, "--no-iscsi", "--aoe", "aoe0:1.2", says=["in use"], cwd=d, timeout=20)
        with Spindle(HIGH, args=["--no-iscsi", "--aoe", "aoe0:1.1"], directory=d):
            pass


def test_a_slice_is_another_disk_than_the_whole():
    with folder() as d:
        serials = set()
        for spec in ("disk", "slice::disk", LOW, "slice:length=2M:disk", HIGH):
            with Spindle(spec, directory=d, args=AOE), client() as c:
                serials.add(c.identify().serial)
        assert len(serials) == 5, serials


def test_slices_over_iscsi_too():
    with folder() as d, Spindle(LOW, HIGH, directory=d) as s:
        assert [disk["name"] for disk in s.disks] == ["disk", "disk-2"]
        assert [disk["size"] for disk in s.disks] == [MIB, MIB]


def test_slices_that_are_none():
    with folder() as d:
        for spec, text in (("slice:offset=4M:disk", "4 MiB"), ("slice:length=5M:disk", "4 MiB"), ("slice:offset=1:disk", "512"),
                           ("slice:frob=1:disk", "frob"), ("slice:offset=0", "STORE")):
            expect_error(2, "run", spec, *AOE, says=[text], cwd=d, timeout=20)
        expect_error(3, "run", "slice:offset=0:nofile", *AOE, says=["nofile"], cwd=d, timeout=20)


def test_a_slice_grows():
    with folder() as d, Spindle("slice:offset=1M:disk", LOW, directory=d, args=AOE), client() as c:
        c.settle()
        os.truncate(os.path.join(d, "disk"), 8 * MIB)
        wait_until(lambda: c.identify().size == 7 * 2048, 20, "the slice to grow")
        assert c.identify(slot=1).size == 2048
        c.write(7 * 2048 - 2, pattern(1, 0, 2))
        assert contents(d, 8 * 2048 - 2, 2) == pattern(1, 0, 2)


def test_slices_of_a_device():
    """Two of one device at once, and nobody has the whole of it meanwhile."""
    losetup = find_tool("losetup")
    with folder() as d:
        done = losetup and subprocess.run([losetup, "-f", "--show", os.path.join(d, "disk")], stdout=subprocess.PIPE,
                                          stderr=subprocess.DEVNULL, text=True, check=False)
        if not done or done.returncode != 0:
            print("not tried: there are no loop devices")
            return
        device = done.stdout.strip()
        try:
            low, high = (f"slice:offset={at}M,length=1M:{device}" for at in (0, 1))
            with Spindle(low, high, directory=d, args=AOE), client() as c:
                c.settle()
                c.write(0, pattern(1, 0, 2))
                c.write(0, pattern(2, 0, 2), slot=1)
                assert c.identify().serial != c.identify(slot=1).serial
                for spec in (device, low):
                    expect_error(4, "run", spec, "--no-iscsi", "--aoe", "aoe0:1.2", says=[device], timeout=20)
            assert contents(d, 0, 2) == pattern(1, 0, 2) and contents(d, 2048, 2) == pattern(2, 0, 2)
        finally:
            subprocess.run([losetup, "-d", device], check=False)


# ---- vblade ------------------------------------------------------------------------------------


def test_vblade_serves():
    with folder() as d:
        with vblade(d) as (v, c):
            assert v.line == "e1.1, 8192 sectors O_RDWR", v.line
            assert sockets_of(v.process.pid) == []
            answer = c.config()
            assert answer.buffers == 16 and answer.sectors == 2 and answer.string == b"", answer
            who = c.identify()
            assert who.size == 8192 and {"cache", "cache on"} <= who.flags, who
            c.write(7, pattern(1, 7, 2))
            assert c.read(7, 2) == pattern(1, 7, 2)
            assert contents(d, 7, 2) == pattern(1, 7, 2)
            c.config(aoe.CONFIG_SET, b"hello")
        with vblade(d) as (_, c):
            assert c.read(7, 2) == pattern(1, 7, 2)
            assert c.config().string == b"hello", "it is kept with the file"


def test_vblade_options():
    with folder() as d:
        with vblade(d, "-b", 8) as (_, c):
            assert c.config().buffers == 8
        with vblade(d, "-b", 70000) as (_, c):
            assert c.config().buffers == 256, "no more than there can be"
        with vblade(d, "-s") as (_, c):
            assert not {"cache", "cache on"} & c.identify().flags
        with vblade(d, "-r") as (v, c):
            assert v.line == "e1.1, 8192 sectors O_RDONLY", v.line
            c.expect_status(aoe.FAILED, aoe.ABRT, ata_frame(aoe.WRITE_EXT, 0, 1, bytes(SECTOR)))
            assert c.read(0) == bytes(SECTOR)
        with vblade(d, "-sb8") as (_, c):
            assert c.config().buffers == 8 and not {"cache on"} & c.identify().flags


def test_vblade_direct():
    with folder() as d:
        done = run("compat", "vblade", "-d", "1", "1", "nosuch0", "disk", cwd=d, timeout=20)
        if "nosuch0" not in done.stderr or "512" in done.stderr:
            print(f"not tried: {done.stderr.strip()}")
            return
        with vblade(d, "-d") as (_, c):
            c.write(3, pattern(1, 3, 2))
            assert c.read(3, 2) == pattern(1, 3, 2)


def test_vblade_macs():
    mine, friends = aoe.mac_of("aoe1"), FRIEND.hex()
    with folder() as d, client(mac=STRANGER, slot=1) as stranger, client(mac=FRIEND, slot=1) as friend:
        for option, both in ((["-m", aoe.mac_text(mine)], False), (["-m", mine.hex().upper()], False),
                             (["-m", f"{friends},{aoe.mac_text(mine)}"], True), (["-m", friends, "-m", mine.hex()], True)):
            with vblade(d, *option) as (_, c):
                assert not c.config().error
                stranger.expect_silence(config_frame(), ata_frame(aoe.READ_EXT, 0, 1))
                assert not stranger.announcements
                if both:
                    assert not friend.config().error


def test_vblade_slices():
    with folder() as d:
        with vblade(d, "-o", 100, "-l", 50) as (v, c), Vblade(ours(), "-o", "0x100", 1, 2, "aoe0", "disk", cwd=d) as w:
            assert v.line == "e1.1, 50 sectors O_RDWR" and w.line == "e1.2, 7936 sectors O_RDWR", (v.line, w.line)
            c.settle()
            assert c.identify().size == 50 and c.identify(slot=2).size == 7936
            assert c.identify().serial != c.identify(slot=2).serial
            c.write(48, pattern(1, 48, 2))
            c.write(0, pattern(2, 0, 2), slot=2)
            c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(aoe.READ_EXT, 49, 2))
            assert contents(d, 148, 2) == pattern(1, 48, 2) and contents(d, 256, 2) == pattern(2, 0, 2)
            os.truncate(os.path.join(d, "disk"), 5 * MIB)
            wait_until(lambda: c.identify(slot=2).size == 7936 + 2048, 20, "the rest of the file to grow")
            assert c.identify().size == 50


def test_vblade_sizes():
    """The last part of a sector is nobody's."""
    for size, sectors in ((512, 1), (1000, 1), (1024, 2), (4 * MIB + 511, 8192)):
        with folder(size) as d, vblade(d) as (v, c):
            assert v.line == f"e1.1, {sectors} sectors O_RDWR", v.line
            assert c.identify().size == sectors
            c.write(sectors - 1, pattern(1, 0))
            c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(aoe.READ_EXT, sectors, 1))
            assert os.path.getsize(os.path.join(d, "disk")) == size


def test_vblade_refuses():
    def refused(code, *args, says):
        line = expect_error(code, "compat", "vblade", *args, says=says, cwd=d, timeout=20)
        assert "--" not in line, line

    with folder() as d:
        with open(os.path.join(d, "tiny"), "wb") as f:
            f.truncate(100)
        for args in ((), ("1",), ("1", "1", "aoe0"), ("1", "1", "aoe0", "disk", "more"), ("-x", "1", "1", "aoe0", "disk"), ("-b",)):
            refused(2, *args, says=["usage: vblade", "shelf slot netif filename"])
        for option, value in (("-b", "0"), ("-b", "x"), ("-b", "-1"), ("-o", "-1"), ("-o", "x"), ("-o", "5x"), ("-l", "0"),
                              ("-l", "99999999999999999999"), ("-m", ""), ("-m", "020000000055,")):
            refused(2, option, value, "1", "1", "aoe0", "disk", says=[option, value, "usage: vblade"])
        for where in (("x", "1", "aoe0"), ("1", "x", "aoe0"), ("65536", "1", "aoe0"), ("1", "256", "aoe0"), ("1.0", "1", "aoe0"),
                      ("1", "1", "aoe0,cache=x"), ("", "1", "aoe0")):
            refused(2, *where, "disk", says=["usage: vblade"])
        for where in (("65535", "1"), ("4095", "1"), ("1", "255")):
            refused(2, *where, "aoe0", "disk", says=[where[0], where[1]])
        refused(2, "-m", "zz", "1", "1", "aoe0", "disk", says=["zz"])
        refused(2, "-o", "8192", "1", "1", "aoe0", "disk", says=["4 MiB"])
        refused(2, "-o", "10", "-l", "8190", "1", "1", "aoe0", "disk", says=["4 MiB"])
        refused(2, "1", "1", "aoe0", "tiny", says=["tiny", "100 bytes"])
        refused(2, "1", "1", "aoe0", ".", says=["directory"])
        refused(3, "1", "1", "aoe0", "nofile", says=["nofile"])
        refused(3, "1", "1", "nosuch0", "disk", says=["nosuch0"])
        with vblade(d):
            refused(4, "1", "2", "aoe0", "disk", says=["in use"])
        expect_error(2, "compat", "potato", says=["potato", "spindle help compat"])
        assert run("compat").returncode == 2


def test_vblade_helps():
    for args in (["compat", "vblade", "-h"], ["compat", "vblade", "-h", "1"]):
        done = run(*args)
        assert done.returncode == 0 and done.stdout.startswith("usage: vblade "), done
    assert "vblade" in run("help", "compat").stdout


def test_vblade_by_name():
    """A link in its place, with the options behind, as Debian's unit has them."""
    with folder() as d:
        link = os.path.join(d, "vblade")
        os.symlink(binary(), link)
        with Vblade([link], "1", "1", "aoe0", "disk", "-r", "-b", "8", cwd=d) as v, client(slot=1) as c:
            assert v.line == "e1.1, 8192 sectors O_RDONLY" and c.config().buffers == 8
        done = subprocess.run([link], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=server_env(), check=False)
        assert done.returncode == 2 and "usage: vblade" in done.stderr, done


def test_vblade_in_debians_unit():
    unit = "/lib/systemd/system/vblade@.service"
    if not os.path.exists(unit) or find_tool("ionice") is None:
        print("not tried: vblade or ionice is not installed")
        return
    with open(unit, encoding="utf-8") as f:
        line = re.search(r"^ExecStart=(.*)$", f.read(), re.MULTILINE)[1]
    with folder() as d:
        link = os.path.join(d, "vblade")
        os.symlink(binary(), link)
        values = {"ionice": "-c2 -n7", "shelf": "1", "slot": "1", "netif": "aoe0", "filename": "disk", "options": "-b 8 -s"}
        line = re.sub(r"\$(\w+)", lambda m: values[m[1]], line.replace("/usr/sbin/vblade", link))
        with Vblade(line.split(), cwd=d) as v, client(slot=1) as c:
            v.is_ours = True
            assert v.line == "e1.1, 8192 sectors O_RDWR" and c.config().buffers == 8


def in_background(d):
    """DIR/vbladed, which ends at once: what it serves, and what it says where the log is."""
    with open(os.path.join(d, "logger"), "w", encoding="ascii") as f:
        f.write(f"#!/bin/sh\necho \"$@\" >{d}/log\nexec cat >>{d}/log\n")
    os.chmod(os.path.join(d, "logger"), 0o755)
    # What runs on in the background may have these still open.
    with open(os.path.join(d, "said"), "w+b") as said:
        subprocess.run([os.path.join(d, "vbladed"), "1", "1", "aoe0", os.path.join(d, "disk"), "-b", "8"], timeout=20,
                       env={**server_env(), "PATH": f"{d}:{os.environ['PATH']}"}, stdin=subprocess.DEVNULL, stdout=said,
                       stderr=said, check=True)
        said.seek(0)
        assert not said.read()

    def logged():
        with contextlib.suppress(FileNotFoundError), open(os.path.join(d, "log"), encoding="utf-8") as f:
            return f.read()
        return ""

    wait_until(lambda: logged().count("\n") == 2, 20, "what it says in the log")
    found = re.match(r"-t vbladed\npid (\d+): e1\.1, 8192 sectors O_RDWR\n$", logged())
    assert found, logged()
    try:
        with client(slot=1) as c:
            assert c.config().buffers == 8
    finally:
        os.kill(int(found[1]), signal.SIGTERM)
    wait_until(lambda: not os.path.exists(f"/proc/{found[1]}"), 20, "its end")
    assert logged().count("\n") == 2, logged()


def test_vbladed():
    with folder() as d:
        os.symlink(binary(), os.path.join(d, "vbladed"))
        in_background(d)
    expect_error(2, "compat", "vbladed", "1", "1", "aoe0", says=["usage: vblade"])
    assert run("compat", "vbladed", "-h").stdout.startswith("usage: vblade ")


def test_debians_vbladed():
    """A script, which runs the vblade that lies beside it."""
    script = find_tool("vbladed")
    if script is None:
        print("not tried: vblade is not installed")
        return
    with folder() as d:
        os.symlink(binary(), os.path.join(d, "vblade"))
        shutil.copy(script, os.path.join(d, "vbladed"))
        in_background(d)


def test_vblade_manual():
    """The page has the options that the program has, in the same order."""
    with open(os.path.join(SOURCE, "man", "spindle-compat-vblade.1"), encoding="ascii") as f:
        page = re.findall(r"^\.It Fl (\w)(?: Ar (\S+))?$", f.read(), re.MULTILINE)
    program = re.findall(r"^  -(\w)(?: (\S+))?  ", run("compat", "vblade", "-h").stdout, re.MULTILINE)
    assert page == program and len(page) == 8, (page, program)


main(globals())
