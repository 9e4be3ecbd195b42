#!/usr/bin/env python3
"""Disks that fail: what each kind of failure below is to a client, which blocks it names, and what
goes on all the same. (Loss and read-only: live.py; space: nospace in the protocol tests.)"""

import os
import re
import shutil
import subprocess
import time

from harness import MIB, Spindle, main

import disks
import iscsi
import pdu as P
from disks import (MODE_CHANGED, PROTECTED, READ_ERROR, REPORT_LUNS, SYNCHRONIZE_CACHE, TUR,
                   WRITE_ERROR, Switch, capacity, expect_tur, information, is_protected, log_lines,
                   sense, sessions, wait_tur)

BLOCK = 512


def write_verify(s, lba, seed):
    data = iscsi.pattern(4096, seed)
    s.write(lba, data)
    assert s.read(lba, 8) == data


def test_read_error_names_the_block():
    """One bad block, at every place of a transfer."""
    bad = 2048 + 37
    with Spindle(f"fault:rule=read@{bad * BLOCK}-{(bad + 1) * BLOCK};eio:ram:16M") as server:
        s, = sessions(server, 1)
        truth = iscsi.pattern(2 * MIB, 8)
        s.write(1024, truth)
        for first, count in ((bad, 1), (bad - 7, 8), (bad, 8), (bad - 3, 64), (1024, 4096)):
            r = s.command(iscsi.read10(first, count), read=count * BLOCK)
            assert sense(r) == READ_ERROR, r
            assert information(r) == bad, (first, count, r)
            at = (first - 1024) * BLOCK
            assert bytes(r.data) == truth[at:at + len(r.data)]
            assert len(r.data) <= (bad - first) * BLOCK
        assert s.read(bad - 8, 8) == truth[(bad - 8 - 1024) * BLOCK:(bad - 1024) * BLOCK]
        assert s.read(bad + 1, 8) == truth[(bad + 1 - 1024) * BLOCK:(bad + 9 - 1024) * BLOCK]
        expect_tur(s, None)
        s.close()


def test_write_error_names_a_block():
    bad = 2048 + 37
    with Spindle(f"fault:rule=write@{bad * BLOCK}-{(bad + 1) * BLOCK};eio:ram:16M") as server:
        s, = sessions(server, 1)
        for first, count in ((bad, 1), (bad - 7, 8), (bad, 8), (bad - 3, 64)):
            r = s.command(iscsi.write10(first, count), write=bytes(count * BLOCK))
            assert sense(r) == WRITE_ERROR, r
            assert information(r) is not None and first <= information(r) <= bad, (first, r)
        write_verify(s, bad - 8, 1)
        write_verify(s, bad + 1, 2)
        expect_tur(s, None)
        assert not is_protected(s)
        s.close()


def test_a_store_hangs():
    """What needs no block of it answers, on every session; then all goes on."""
    with Spindle("fault:rule=any;hang;while=hung:ram:16M", "ram:1M") as server:
        hung = Switch(server, "hung")
        a, b = sessions(server, 2)
        other, = sessions(server, 1, index=1)
        write_verify(a, 0, 7)
        hung.on()
        waiting = a.start(iscsi.read10(0, 8), read=4096)
        time.sleep(6)  # the watch asks it as well, and hangs
        for s in (a, b):
            s.ping()
            s.good(s.command(iscsi.inquiry(), read=96))
            s.good(s.command(REPORT_LUNS, read=256))
            s.good(s.command(TUR))
            assert capacity(s) == 16 * MIB // BLOCK
        write_verify(other, 0, 1)
        late, = sessions(server, 1, first=5)
        late.good(late.command(iscsi.inquiry(), read=96))
        hung.off()
        assert a.good(a.finish(waiting, read=4096)).data == iscsi.pattern(4096, 7)
        for s in (a, b, late):
            expect_tur(s, None)
            write_verify(s, 16, 9)
            s.close()
        other.close()
        assert server.stderr() == "", server.stderr()


def expect_reset(s):
    r = s.command(TUR)
    assert sense(r) == (6, 0x29, 0x03), r
    expect_tur(s, None)


def test_task_management_while_a_write_hangs():
    """Functions wait for what hangs, and only those that it concerns; other I/O and logins for nothing."""
    with Spindle("fault:rule=write@0-4K;hang;while=hung:ram:16M") as server:
        hung = Switch(server, "hung")
        a, b = sessions(server, 2)
        hung.on()
        data = iscsi.pattern(4096, 3)
        victim = a.start(iscsi.write10(0, 8), write=data)
        behind = a.scsi_pdu(iscsi.read10(64, 8), 4096, read=True, attr=2)
        a.send(behind)  # ORDERED: it waits for the write

        def function(s, what, **more):
            p = s.request(P.TMF_REQUEST, True, flags=P.FINAL | what, **more)
            s.send(p)
            return p

        started = time.monotonic()
        p = function(a, 1, rtt=behind.itt, refcmdsn=behind.cmdsn)
        a.expect(P.TMF_RESPONSE, itt=p.itt, response=0)
        first = function(a, 1, rtt=victim.itt, refcmdsn=victim.cmdsn)
        reset = function(b, 5, rtt=P.NONE)
        time.sleep(0.2)
        a.ping()
        expect_reset(b)
        expect_reset(a)
        write_verify(b, 64, 5)
        late, = sessions(server, 1, first=5)
        write_verify(late, 128, 6)
        late.close()
        assert time.monotonic() - started < 2
        a.expect_silence()
        b.expect_silence()
        hung.off()
        a.expect(P.TMF_RESPONSE, itt=first.itt, response=0)
        b.expect(P.TMF_RESPONSE, itt=reset.itt, response=0)
        for s in (a, b):
            expect_tur(s, None)
            s.close()


def test_stops_while_a_store_does_not_say_how_it_is():
    """The look at it hangs, its I/O does not: all is flushed, and nobody waits for the look."""
    with Spindle("fault:rule=any;hang;while=hung;count=1:ram:16M") as server:
        hung = Switch(server, "hung")
        s, = sessions(server, 1)
        hung.on()
        waiting = s.start(iscsi.read10(0, 8), read=4096)
        time.sleep(0.2)
        hung.off()
        s.good(s.finish(waiting, read=4096))
        hung.on()
        time.sleep(6)
        write_verify(s, 0, 1)
        s.close()
        started = time.monotonic()
        server.terminate()
        assert server.wait_end() == 0, server.stderr()
        assert time.monotonic() - started < 4


def test_a_file_is_cut_off():
    """Errors at the first block that is not there, no zeros; and nothing makes zeros of them."""
    with Spindle("disk.img", args=["--size", "16M"]) as server:
        path = os.path.join(server.dir, "disk.img")
        a, b = sessions(server, 2)
        truth = iscsi.pattern(2 * MIB, 6)
        a.write(0, truth)
        heard = []
        os.truncate(path, MIB + 700)  # block 2048, and a part of 2049
        for first, count in ((2049, 1), (2048, 8), (2000, 128), (4000, 8), (0, 4096)):
            r = a.command(iscsi.read10(first, count), read=count * BLOCK)
            if sense(r) == MODE_CHANGED:  # the first error told the server
                heard.append(first)
                r = a.command(iscsi.read10(first, count), read=count * BLOCK)
            assert sense(r) == READ_ERROR, (first, r)
            assert information(r) == max(first, 2049), (first, r)
            assert bytes(r.data) == truth[first * BLOCK:first * BLOCK + len(r.data)]
        assert set(wait_tur(b, MODE_CHANGED)) <= {None}
        expect_tur(a, *([] if heard else [MODE_CHANGED]), None)
        assert a.read(2048, 1) == truth[MIB:MIB + BLOCK]
        assert capacity(a) == 16 * MIB // BLOCK
        assert sense(a.command(iscsi.write10(8192, 8), write=bytes(4096))) == PROTECTED
        assert os.path.getsize(path) == MIB + 700
        assert len(log_lines(server, "disk-shrunk")) == 1, server.stderr()
        os.truncate(path, 16 * MIB)
        wait_tur(a, MODE_CHANGED)
        write_verify(a, 8192, 3)
        for s in (a, b):
            s.close()


def test_a_file_vanishes():
    """Its data are there as long as it is served, and that they will go is said, once."""
    with Spindle("disk.img", args=["--size", "16M"]) as server:
        path = os.path.join(server.dir, "disk.img")
        s, = sessions(server, 1)
        write_verify(s, 0, 1)
        os.unlink(path)
        with open(path, "wb") as f:  # another of the same name is another
            f.truncate(32 * MIB)
        time.sleep(11)
        expect_tur(s, None)
        assert s.read(0, 8) == iscsi.pattern(4096, 1)
        write_verify(s, 64, 2)
        assert capacity(s) == 16 * MIB // BLOCK
        assert len(log_lines(server, "disk-unlinked")) == 1, server.stderr()
        assert not any(open(path, "rb").read(MIB))
        s.close()


def test_a_flush_fails():
    """Told to who flushed, then read-only for all, for ever: the next flush would succeed over lost
    data."""
    with Spindle("fault:rule=flush;eio;count=1:ram:16M") as server:
        a, b = sessions(server, 2)
        write_verify(a, 0, 1)
        assert sense(a.command(SYNCHRONIZE_CACHE)) == WRITE_ERROR
        assert set(wait_tur(b, MODE_CHANGED)) <= {None}
        expect_tur(b, None)
        expect_tur(a, MODE_CHANGED, None)
        for s in (a, b):
            assert is_protected(s)
            assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
            assert sense(s.command(SYNCHRONIZE_CACHE)) == WRITE_ERROR
            assert s.read(0, 8) == iscsi.pattern(4096, 1)
        time.sleep(6)
        expect_tur(a, None)
        assert is_protected(a)
        lines = log_lines(server, "flush-failed")
        assert len(lines) == 1 and " error " in lines[0] and "check the disk" in lines[0], \
            server.stderr()
        for s in (a, b):
            s.close()
        server.terminate()
        assert server.wait_end() == 1, "data may be lost: that is no clean stop"


def test_a_file_may_not_become_so_large():
    """A limit of the process or the file system: no space, and the server lives."""
    if shutil.which("prlimit") is None:
        print("     no prlimit here")
        return
    server = Spindle("disk.img", wrap=["prlimit", "--fsize=%d" % (8 * MIB)])
    with open(os.path.join(server.dir, "disk.img"), "wb") as f:
        f.truncate(16 * MIB)
    with server:
        s, = sessions(server, 1)
        write_verify(s, 0, 1)
        r = s.command(iscsi.write10(10 * MIB // BLOCK, 8), write=bytes(4096))
        assert sense(r) == (7, 0x27, 0x07), r
        write_verify(s, 64, 2)
        expect_tur(s, None)
        s.close()


def loop_device(path):
    """A block device over a file, or None where there is none."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        return None
    done = subprocess.run(["losetup", "--find", "--show", path], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else None


def with_loop_device(server_test):
    backing = "/var/tmp/spindle-errors-%d.img" % os.getpid()
    with open(backing, "wb") as f:
        f.truncate(16 * MIB)
    device = loop_device(backing)
    try:
        if device is None:
            print("     no loop device here")
            return
        server_test(device, backing)
    finally:
        if device is not None:
            subprocess.run(["losetup", "--detach", device], check=False)
        os.unlink(backing)


def check_device(device, backing):
    with Spindle(device) as server:
        s, = sessions(server, 1)
        write_verify(s, 0, 1)
        subprocess.run(["blockdev", "--setro", device], check=True)
        assert set(wait_tur(s, MODE_CHANGED)) <= {None}
        assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
        subprocess.run(["blockdev", "--setrw", device], check=True)
        assert set(wait_tur(s, MODE_CHANGED)) <= {None}
        write_verify(s, 0, 2)
        os.truncate(backing, 32 * MIB)
        subprocess.run(["losetup", "--set-capacity", device], check=True)
        assert set(wait_tur(s, disks.CAPACITY_CHANGED)) <= {None}
        assert capacity(s) == 32 * MIB // BLOCK
        write_verify(s, 32 * MIB // BLOCK - 8, 3)
        s.close()


def test_a_device_is_made_read_only_and_grows():
    with_loop_device(check_device)


def check_immutable(server, path):
    s, = sessions(server, 1)
    write_verify(s, 0, 1)
    subprocess.run(["chattr", "+i", path], check=True)
    assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
    assert set(wait_tur(s, MODE_CHANGED)) <= {None}
    assert is_protected(s)
    assert s.read(0, 8) == iscsi.pattern(4096, 1)
    subprocess.run(["chattr", "-i", path], check=True)
    assert set(wait_tur(s, MODE_CHANGED)) <= {None}
    write_verify(s, 0, 2)
    s.close()


def test_a_file_becomes_immutable():
    """As a file system that refuses changes without saying that it is read-only."""
    with Spindle("disk.img", args=["--size", "16M"]) as server:
        path = os.path.join(server.dir, "disk.img")
        tried = shutil.which("chattr") and subprocess.run(
            ["chattr", "+i", path], check=False, stderr=subprocess.DEVNULL).returncode == 0
        if not tried:
            print("     no immutable files here")
            return
        subprocess.run(["chattr", "-i", path], check=True)
        try:
            check_immutable(server, path)
        finally:
            subprocess.run(["chattr", "-i", path], check=False)


def mount_ext4(folder):
    """An ext4 of our own, to be made read-only; None where that cannot be."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return None
    image = os.path.join(folder, "fs.img")
    with open(image, "wb") as f:
        f.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    where = os.path.join(folder, "mnt")
    os.mkdir(where)
    done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, where], check=False,
                          stderr=subprocess.DEVNULL)
    return where if done.returncode == 0 else None


def trigger_of(where):
    """What tells ext4 that it found an error."""
    with open("/proc/mounts", encoding="ascii") as f:
        device = next(line.split()[0] for line in f if line.split()[1] == where)
    return f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error"


def check_file_system(where):
    with Spindle(os.path.join(where, "disk.img"), args=["--size", "8M"]) as server:
        s, = sessions(server, 1)
        write_verify(s, 0, 1)
        s.good(s.command(SYNCHRONIZE_CACHE))
        with open(trigger_of(where), "w", encoding="ascii") as f:
            f.write("test")
        r = s.command(iscsi.write10(0, 8), write=bytes(4096))
        assert sense(r) in (PROTECTED, MODE_CHANGED), r
        wait_tur(s, None)
        time.sleep(0.5)
        while disks.tur(s) is not None:
            pass
        assert is_protected(s)
        assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
        assert s.read(0, 8) == iscsi.pattern(4096, 1)
        assert re.search("disk-read-only|flush-failed", server.stderr()), server.stderr()
        s.close()
        server.terminate()
        server.wait_end()


def test_a_file_system_becomes_read_only():
    folder = "/var/tmp/spindle-errors-%d" % os.getpid()
    os.mkdir(folder)
    where = mount_ext4(folder)
    try:
        if where is None or not os.path.exists(trigger_of(where)):
            print("     no file system here that could become read-only")
            return
        check_file_system(where)
    finally:
        if where is not None:
            subprocess.run(["umount", where], check=False)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(globals())
