"""What a server bears besides one load at a time. Each function is a scenario and returns its findings."""
import contextlib
import os
import statistics
import sys
import tempfile
import time
from typing import NamedTuple, Optional

from goals import Goal
from servers import Spindle, Tgt

RANDREAD = ["--workload", "randread", "--io-size", "4K"]
UNITS = {"iops": "{:.0f}/s", "server_cpu_us_per_op": "{:.2f} us CPU", "p99_us": "p99 {:.0f} us", "seconds": "{:.2f} s"}


class Finding(NamedTuple):
    """One row: a figure, the same figure of something else, and the goal of their ratio.

    A round that failed has None for its figures; the row says so.
    """

    what: str
    key: str
    ours: list
    against: str = ""
    theirs: Optional[list] = None
    at_least: Optional[float] = None
    at_most: Optional[float] = None

    def figure(self, samples):
        return statistics.median(s[self.key] for s in samples if s)

    def texts(self):
        """Without a figure to compare with, the goal bounds the figure itself."""
        if not any(self.ours) or (self.theirs is not None and not any(self.theirs)):
            return [self.what, "failed", "", "", ""]
        ours = value = self.figure(self.ours)
        failed = f", {self.ours.count(None)} of {len(self.ours)} rounds failed" if None in self.ours else ""
        unit = UNITS[self.key]
        against = ""
        if self.theirs:
            value = ours / self.figure(self.theirs)
            against = f"{unit.format(self.figure(self.theirs))} {self.against}"
        goal = ""
        if self.at_least or self.at_most:
            bound = Goal(self.key, "" if self.theirs else "s", self.at_least or self.at_most, bool(self.at_least))
            goal = f"{bound.text()}: {bound.verdict(value)}"
        return [self.what, unit.format(ours) + failed, against, f"{value:.2f}" if self.theirs else "", goal]


def interleaved(bench, variants):
    """Each variant's figures, a round each."""
    out = {name: [] for name in variants}
    for _ in range(bench.rounds):
        for name, measure in variants.items():
            out[name].append(measure())
    return out


@contextlib.contextmanager
def client_beside(bench, server, where, *args, seconds, least):
    """A second client while something else is measured: niced, so that the CPU of the first one is not what it takes.

    It has to have done `least` operations in the end, or the measurement says nothing.
    """
    proc = bench.client(server, where, *args, seconds=seconds, nice=19)
    try:
        yield
        got = bench.result(proc)
        if got and got["ops"] < least:
            print(f"{' '.join(args)}: only {got['ops']} operations, not {least}", file=sys.stderr)
    finally:
        proc.kill()
        proc.wait()


def reads_beside_a_writer(bench):
    """Latency of one reader while another session writes 1 GiB and more, with a flush every 64 MiB."""
    server, seconds = Spindle(bench.build), max(bench.seconds, 4)
    reads = [*RANDREAD, "--qd", "1", "--warmup", "200ms"]
    writes = ["--workload", "write", "--io-size", "256K", "--qd", "8", "--flush-every", "256", "--isid", "100",
              "--warmup", "0ms"]

    def alone():
        return bench.fresh(server, "ext4", *reads, seconds=seconds)

    def beside():
        with server.serving(bench.path("ext4")) as where:
            with client_beside(bench, server, where, *writes, seconds=seconds + 0.2, least=4096):
                return bench.load(server, where, *reads, seconds=seconds)

    got = interleaved(bench, {"alone": alone, "beside": beside})
    return [Finding("4K rand read QD1, ext4, beside a writer", "p99_us", got["beside"], "without", got["alone"],
                    at_most=3)]


def data_digests(bench):
    reads = ["--workload", "read", "--io-size", "64K", "--qd", "8"]
    server = Spindle(bench.build)
    got = interleaved(bench, {"with": lambda: bench.fresh(server, "tmpfs", *reads, "--data-digest"),
                              "without": lambda: bench.fresh(server, "tmpfs", *reads)})
    return [Finding("64K seq read QD8, tmpfs, with data digests", "server_cpu_us_per_op", got["with"], "without",
                    got["without"], at_most=1.25)]


def flushed_writes(bench):
    """Each write is followed by a SYNCHRONIZE CACHE; both count."""
    findings = []
    for sessions, bound in ((1, 1), (16, 3)):
        load = ["--workload", "flushed-write", "--qd", "1", "--sessions", str(sessions)]
        got = interleaved(bench, {s.name: lambda s=s: bench.fresh(s, "ext4", *load)
                                  for s in (Spindle(bench.build), Tgt())})
        findings.append(Finding(f"4K rand write + flush QD1 {sessions}s, ext4", "iops", got["spindle"], "tgt",
                                got["tgt"], at_least=bound))
    return findings


def drop_pages(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold_reads(bench):
    """A tenth of a file that is not in memory, so that hardly a block is read twice."""
    load = [*RANDREAD, "--qd", "32", "--ops", str((1 << 30) // 4096 // 10)]
    servers = {"io_uring": Spindle(bench.build), "worker threads": Spindle(bench.build, uring=False), "tgt": Tgt()}

    def cold(server):
        drop_pages(bench.path("ext4"))
        return bench.fresh(server, "ext4", *load)

    got = interleaved(bench, {name: lambda s=s: cold(s) for name, s in servers.items()})
    return [Finding(f"4K rand read QD32, ext4, cold, {name}", "iops", got[name], "tgt", got["tgt"])
            for name in ("io_uring", "worker threads")]


def idle_sessions(bench):
    """When they have just logged in, the server still counts them among those that do something."""
    server = Spindle(bench.build)
    load = [*RANDREAD, "--qd", "32"]
    idle = {"just logged in": "500ms", "logged in for 3 s": "3s"}
    got = interleaved(bench, {
        "alone": lambda: bench.fresh(server, "tmpfs", *load),
        **{since: lambda w=warmup: bench.fresh(server, "tmpfs", *load, "--idle", "2000", "--warmup", w)
           for since, warmup in idle.items()}})
    return [Finding(f"4K rand read QD32 1s, tmpfs, beside 2,000 idle sessions, {since}", "iops", got[since], "without",
                    got["alone"], at_least=0.95) for since in idle]


def direct(bench):
    """What O_DIRECT costs or gains where the page cache has the whole file."""
    findings = []
    for name, load in (("4K rand read QD32", [*RANDREAD, "--qd", "32"]),
                       ("4K rand write QD32", ["--workload", "randwrite", "--io-size", "4K", "--qd", "32"]),
                       ("256K seq read QD8", ["--workload", "read", "--io-size", "256K", "--qd", "8"]),
                       ("256K seq write QD8", ["--workload", "write", "--io-size", "256K", "--qd", "8"])):
        got = interleaved(bench, {on: lambda on=on, load=load: bench.fresh(Spindle(bench.build, direct=on), "ext4", *load)
                                  for on in (True, False)})
        findings.append(Finding(f"{name}, ext4, --direct", "iops", got[True], "without", got[False]))
    return findings


def logins(bench):
    server = Spindle(bench.build)
    load, rate = [*RANDREAD, "--qd", "32"], 100
    seconds = bench.seconds + 0.5
    others = ["--workload", "login", "--rate", str(rate), "--isid", "100"]

    def beside():
        with server.serving(bench.path("tmpfs")) as where:
            with client_beside(bench, server, where, *others, seconds=seconds, least=0.9 * rate * seconds):
                return bench.load(server, where, *load)

    got = interleaved(bench, {"alone": lambda: bench.fresh(server, "tmpfs", *load), "beside": beside})
    return [Finding(f"4K rand read QD32 1s, tmpfs, beside {rate} logins a second", "iops", got["beside"], "without",
                    got["alone"], at_least=0.9)]


def thousand_targets(bench):
    """From the start of the program until it says that it serves: disks of one name, and disks of a name each."""
    server = Spindle(bench.build)

    def start(stores):
        began = time.monotonic()
        try:
            server.run(stores, "--size", "1M")
            return {"seconds": time.monotonic() - began}
        finally:
            server.stop()

    with tempfile.TemporaryDirectory(dir=os.path.dirname(bench.paths["ext4"])) as folder:
        files = [f"{folder}/disk{i:04}.img" for i in range(1000)]
        start(files)
        got = interleaved(bench, {"ram": lambda: start(["ram:1M"] * 1000), "files, ext4": lambda: start(files)})
    return [Finding(f"start of 1,000 targets ({name})", "seconds", got[name], at_most=1) for name in got]


def threads(bench):
    """CPU per command of one disk that four sessions share, with one loop and with several: both CPUs for everybody."""
    load = [*RANDREAD, "--qd", "32", "--sessions", "4"]
    got = interleaved(bench, {n: lambda n=n: bench.fresh(Spindle(bench.build, threads=n, cpu=None), "tmpfs", *load)
                              for n in (1, 2, 4, 8)})
    return [Finding(f"4K rand read QD32 4s, tmpfs, --threads {n}", "server_cpu_us_per_op", got[n], "with 1", got[1])
            for n in got]


ALL = {
    "writer": reads_beside_a_writer,
    "digest cost": data_digests,
    "flush": flushed_writes,
    "cold": cold_reads,
    "direct": direct,
    "idle": idle_sessions,
    "logins": logins,
    "targets": thousand_targets,
    "threads": threads,
}
