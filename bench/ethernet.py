"""ATA over Ethernet: Spindle beside vblade 25, on a pair of virtual interfaces in a network namespace of its own."""
import contextlib
import ctypes
import json
import os
import subprocess
import sys
from typing import NamedTuple

import goals
from scenarios import Finding, interleaved
from servers import Server, pin

SERVER_SIDE, CLIENT_SIDE = "aoe0", "aoe1"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(status):
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def network():
    """A namespace with the pair, for this process and those that it starts."""
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
    def __init__(self, build, cache="writeback", **options):
        super().__init__("spindle")
        self.build, self.options = build, "".join(f",{k}={v}" for k, v in {"cache": cache, **options}.items())

    def start(self, paths):
        proc = self.spawn_one([f"{self.build}/spindle", "run", *paths, "--no-iscsi", "--json", "--threads", "1",
                               "--aoe", f"{SERVER_SIDE}:1.0{self.options}"])
        json.loads(proc.stdout.readline())
        return self.found_by(len(paths))


class Vblade(Aoe):
    """A process a disk. Its buffers hold the whole window: those it has by default lose frames."""

    def __init__(self, *options):
        super().__init__("vblade")
        self.options = options

    def start(self, paths):
        for slot, path in enumerate(paths):
            self.spawn_one(["vblade", "-b", "128", *self.options, "1", str(slot), SERVER_SIDE, path])
        return self.found_by(len(paths))


class Load(NamedTuple):
    """What one cell measures. Figures are of frames, each of which is 1 KiB of data at MTU 1500 and 8 or 8.5 KiB at 9000."""

    workload: str
    mtu: int
    window: int
    store: str = "tmpfs"
    disks: int = 1

    @property
    def name(self):
        disks = f" {self.disks} disks" if self.disks > 1 else ""
        return f"AoE {self.workload} MTU {self.mtu} window {self.window}{disks}, {self.store}"


def measured(bench, server, load):
    """The figures of a server that is started for them. Frames that were lost and asked for again are said."""
    set_mtu(load.mtu)
    paths = [bench.path(load.store, i) for i in range(load.disks)]
    with server.serving(paths) as where:
        argv = [f"{bench.build}/bench/spindle-aoe-load", *where, "--workload", load.workload, "--window",
                str(load.window), "--time", f"{int(bench.seconds * 1000)}ms", "--json"]
        got = subprocess.run(argv, preexec_fn=pin(1), stdout=subprocess.PIPE, text=True, check=False)
    if got.returncode != 0:
        return None
    figures = json.loads(got.stdout)
    if figures["refused"]:
        print(f"{load.name}: {server.name} lost {figures['refused']} frames", file=sys.stderr)
    return figures


def compare(bench, load, ours, theirs, rate_goal, cpu_goal=None):
    got = interleaved(bench, {"ours": lambda: measured(bench, ours, load),
                              "theirs": lambda: measured(bench, theirs, load)})
    yield Finding(load.name, "iops", got["ours"], "vblade", got["theirs"], at_least=rate_goal)
    yield Finding(load.name, "server_cpu_us_per_op", got["ours"], "vblade", got["theirs"], at_most=cpu_goal)


def windows(bench):
    """Both answer from the page cache, and neither promises that a write is durable."""
    for mtu in (1500, 9000):
        for window in (1, 16, 64):
            for workload in ("randread", "read", "randwrite", "write"):
                yield from compare(bench, Load(workload, mtu, window), SpindleAoe(bench.build), Vblade(),
                                   goals.AOE_RATE, goals.AOE_CPU)


def xdp(bench):
    for window in (16, 64):
        for workload in ("randread", "read"):
            ours = SpindleAoe(bench.build, xdp="on")
            for finding in compare(bench, Load(workload, 1500, window), ours, Vblade(), goals.AOE_RATE,
                                   goals.AOE_XDP_CPU):
                yield finding._replace(what=f"{finding.what}, xdp=on")


def four_disks(bench):
    for mtu in (1500, 9000):
        yield from compare(bench, Load("randread", mtu, 16, disks=4), SpindleAoe(bench.build), Vblade(), None,
                           goals.AOE_CPU)


def durable(bench):
    for mtu in (1500, 9000):
        yield from compare(bench, Load("randwrite", mtu, 16, store="ext4"), SpindleAoe(bench.build, "writethrough"),
                           Vblade("-s"), goals.AOE_DURABLE)


def in_network(scenario):
    def findings(bench):
        with network():
            yield from scenario(bench)

    return findings


ALL = {name: in_network(scenario) for name, scenario in
       {"AoE windows": windows, "AoE xdp": xdp, "AoE four disks": four_disks, "AoE durable": durable}.items()}
