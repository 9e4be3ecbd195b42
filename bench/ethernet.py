"""ATA over Ethernet: Spindle beside vblade 25, on a pair of virtual interfaces in a network namespace of its own."""
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

from goals import Goal
from servers import Server, pin

SERVER_SIDE, CLIENT_SIDE = "aoe0", "aoe1"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(status):
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def network():
    """A namespace with the pair. None where that is not allowed."""
    old = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        checked(LIBC.unshare(CLONE_NEWNET))
        subprocess.run(["ip", "link", "add", SERVER_SIDE, "type", "veth", "peer", "name", CLIENT_SIDE], check=True)
        yield
    finally:
        checked(LIBC.setns(old, CLONE_NEWNET))
        os.close(old)


def set_mtu(mtu):
    for name in (SERVER_SIDE, CLIENT_SIDE):
        subprocess.run(["ip", "link", "set", name, "mtu", str(mtu), "up"], check=True)


class Aoe(Server):
    """One program, or several, on CPU 0. start() returns the arguments that lead the load client to its disks."""

    def __init__(self, name):
        super().__init__(name)
        self.procs = []

    def spawn_one(self, argv):
        self.procs.append(subprocess.Popen(argv, preexec_fn=pin(0), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                           text=True))
        return self.procs[-1]

    def stop(self):
        for proc in self.procs:
            proc.kill()
            proc.wait()
        self.procs = []

    def found_by(self, disks):
        return ["--interface", CLIENT_SIDE, "--shelf", "1", "--disks", str(disks),
                *[arg for proc in self.procs for arg in ("--pid", str(proc.pid))]]


class SpindleAoe(Aoe):
    def __init__(self, build, *options, cache="writeback", name="spindle"):
        super().__init__(name)
        self.build, self.cache, self.options = build, cache, options

    def start(self, path):
        paths = path if isinstance(path, list) else [path]
        proc = self.spawn_one([f"{self.build}/spindle", "run", *paths, "--listen", "127.0.0.1", "--port", "0", "--json",
                               "--threads", "1", "--aoe", f"{SERVER_SIDE}:1.0,cache={self.cache}", *self.options])
        json.loads(proc.stdout.readline())
        return self.found_by(len(paths))


class Vblade(Aoe):
    """Its buffers hold the whole window: by default it would lose frames at 64."""

    def __init__(self, *options):
        super().__init__("vblade")
        self.options = options

    def start(self, path):
        paths = path if isinstance(path, list) else [path]
        for i, one in enumerate(paths):
            self.spawn_one(["vblade", "-b", "128", *self.options, "1", str(i), SERVER_SIDE, one])
        return self.found_by(len(paths))
