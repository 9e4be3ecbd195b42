#!/usr/bin/env python3
"""Disks that change while they are served: they grow, are lost and come back, become read-only and
writable again. Each client hears of it with its next command, once."""

import os
import re
import threading
import time

from harness import MIB, Spindle, main

import disks
import iscsi
from disks import (BACK, CAPACITY_CHANGED, LOST, MODE_CHANGED, PROTECTED, Switch, capacity,
                   expect_tur, is_protected, log_lines, sense, sessions, wait_tur)

BLOCK = 512


class Load:
    """A client that writes and reads back, and notes what it hears of beside GOOD."""

    def __init__(self, server):
        self.session = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 99)
        self.session.settle()
        self.heard = []
        self.rounds = 0
        self.error = None
        self.quit = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def command(self, cdb, **data):
        while True:
            r = self.session.command(cdb, **data)
            if r.status == 0:
                return r
            self.heard.append(sense(r))
            assert len(self.heard) < 1000, self.heard[:5]

    def run(self):
        try:
            while not self.quit.is_set():
                lba, data = self.rounds % 64 * 16, iscsi.pattern(8192, self.rounds)
                self.command(iscsi.write10(lba, 16), write=data)
                assert self.command(iscsi.read10(lba, 16), read=8192).data == data
                self.rounds += 1
        except BaseException as e:
            self.error = e

    def stop(self):
        self.quit.set()
        self.thread.join(30)
        self.session.close()
        if self.error is not None:
            raise self.error
        assert self.rounds > 10


def test_a_file_grows():
    with Spindle("disk.img", args=["--size", "64M", "-v"]) as server:
        a, b = sessions(server, 2)
        load = Load(server)
        assert capacity(a) == 64 * MIB // BLOCK
        started = time.monotonic()
        os.truncate(os.path.join(server.dir, "disk.img"), 96 * MIB + 100)
        assert set(wait_tur(a, CAPACITY_CHANGED)) <= {None}
        assert time.monotonic() - started < 8
        expect_tur(a, None)
        expect_tur(b, CAPACITY_CHANGED, None)
        for s in (a, b):
            assert capacity(s) == 96 * MIB // BLOCK
        last = 96 * MIB // BLOCK - 8
        a.write(last, iscsi.pattern(4096, 5))
        assert b.read(last, 8) == iscsi.pattern(4096, 5)
        assert sense(a.command(iscsi.read10(last + 1, 8), read=4096)) == (5, 0x21, 0)
        load.stop()
        assert load.heard == [CAPACITY_CHANGED], load.heard
        late, = sessions(server, 1, first=5)
        expect_tur(late, None)
        assert capacity(late) == 96 * MIB // BLOCK
        lines = log_lines(server, "disk-grew")
        assert len(lines) == 1 and re.search(rf"disk=\S*disk\S* old={64 * MIB} new={96 * MIB}",
                                             lines[0]), server.stderr()
        for s in (a, b, late):
            s.close()


def test_a_file_grows_unwatched():
    """Nobody is logged in: the next one sees the new size and hears nothing about it."""
    with Spindle("disk.img", args=["--size", "16M"]) as server:
        os.truncate(os.path.join(server.dir, "disk.img"), 32 * MIB)
        time.sleep(6)
        s, = sessions(server, 1)
        assert capacity(s) == 32 * MIB // BLOCK
        s.close()


def test_lost_and_back():
    with Spindle("fault:rule=any;enodev;while=lost:ram:16M") as server:
        lost = Switch(server, "lost")
        a, b = sessions(server, 2)
        a.write(0, iscsi.pattern(4096, 3))
        lost.on()
        assert sense(a.command(iscsi.read10(0, 8), read=4096)) == LOST
        assert set(wait_tur(b, LOST)) <= {None}
        for s in (a, b):
            expect_tur(s, LOST, LOST)
            assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == LOST
            assert sense(s.command(disks.SYNCHRONIZE_CACHE)) == LOST
            s.good(s.command(iscsi.inquiry(), read=96))
            s.good(s.command(disks.REPORT_LUNS, read=256))
        late = iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 7)
        assert disks.tur(late) in ((6, 0x29, 0), LOST)
        expect_tur(late, LOST)
        lost.off()
        assert set(wait_tur(a, BACK)) <= {LOST}
        expect_tur(a, None)
        expect_tur(b, BACK, None)
        expect_tur(late, BACK, None)
        assert a.read(0, 8) == iscsi.pattern(4096, 3), "what was refused was written"
        assert len(log_lines(server, "disk-lost")) == 1, server.stderr()
        assert len(log_lines(server, "disk-back")) == 1, server.stderr()
        for s in (a, b, late):
            s.close()


def test_lost_twice_under_load():
    with Spindle("fault:rule=any;enxio;while=lost:ram:16M") as server:
        lost = Switch(server, "lost")
        s, = sessions(server, 1)
        for _ in range(2):
            lost.on()
            wait_tur(s, LOST)
            for _ in range(20):
                assert sense(s.command(iscsi.read10(0, 8), read=4096)) == LOST
            lost.off()
            wait_tur(s, BACK)
            s.write(0, iscsi.pattern(4096, 3))
        s.close()


def test_read_only_and_writable():
    with Spindle("fault:rule=write+zero+discard;erofs;while=ro:ram:16M") as server:
        switch = Switch(server, "ro")
        a, b = sessions(server, 2)
        assert not is_protected(a)
        switch.on()
        assert sense(a.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
        assert set(wait_tur(b, MODE_CHANGED)) <= {None}
        expect_tur(b, None)
        expect_tur(a, MODE_CHANGED, None)
        for s in (a, b):
            assert is_protected(s)
            assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
            s.read(0, 8)
        switch.off()
        assert set(wait_tur(a, MODE_CHANGED)) <= {None}
        expect_tur(a, None)
        expect_tur(b, MODE_CHANGED, None)
        assert not is_protected(b)
        a.write(0, iscsi.pattern(4096, 4))
        assert b.read(0, 8) == iscsi.pattern(4096, 4)
        assert len(log_lines(server, "disk-read-only")) == 1, server.stderr()
        assert len(log_lines(server, "disk-writable")) == 1, server.stderr()
        for s in (a, b):
            s.close()


def test_asked_for_read_only():
    """It stays, whatever the store says, and is no event."""
    with Spindle("fault:rule=write;erofs;while=ro:ram:16M", args=["--ro"]) as server:
        switch = Switch(server, "ro")
        s, = sessions(server, 1)
        for turn in (switch.on, switch.off):
            turn()
            time.sleep(5.5)
            expect_tur(s, None)
            assert is_protected(s)
            assert sense(s.command(iscsi.write10(0, 8), write=bytes(4096))) == PROTECTED
        assert server.stderr() == "", server.stderr()
        s.close()


if __name__ == "__main__":
    main(globals())
