"""The servers that the benchmark measures, and the client that measures them.

Each server has CPU 0, the client CPU 1, unless a measurement says otherwise.
"""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

SIZE = 1 << 30
IQN = "iqn.2026-11.bench:disk"
TGT_PORT, ISTGT_PORT, ISTGT_CONTROL_PORT = 23261, 23262, 23263


def pin(cpu):
    return (lambda: os.sched_setaffinity(0, {cpu})) if cpu is not None and os.cpu_count() > 1 else None


class Server:
    """One server. start() returns the arguments that lead the load client to it, None where it has no such store."""

    digests = True

    def __init__(self, name):
        self.name, self.proc = name, None

    def spawn(self, argv, cpu, **kwargs):
        self.proc = subprocess.Popen(argv, preexec_fn=pin(cpu), **kwargs)

    def start(self, path):
        raise NotImplementedError

    def stop(self):
        if self.proc is not None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
            self.proc = None

    @contextlib.contextmanager
    def serving(self, path):
        """Without a path: a disk in memory."""
        try:
            yield self.start(path)
        finally:
            self.stop()


class Spindle(Server):
    def __init__(self, build, threads=1, cpu=0, uring=True, direct=False):
        super().__init__("spindle")
        self.options = ["--direct"] if direct else []
        self.build, self.threads, self.cpu = build, threads, cpu
        self.env = os.environ if uring else {**os.environ, "SPINDLE_NO_URING": "1"}

    def start(self, path):
        return self.run([path or f"ram:{SIZE}"], "--iqn", IQN, *self.options)

    def run(self, stores, *options):
        """Until it is ready; the first portal and disk."""
        self.spawn([f"{self.build}/spindle", "run", *stores, "--listen", "127.0.0.1", "--port", "0", "--json",
                    "--threads", str(self.threads), *options],
                   self.cpu, stdout=subprocess.PIPE, text=True, env=self.env)
        ready = json.loads(self.proc.stdout.readline())
        return ["--portal", ready["portals"][0], "--target", ready["disks"][0]["iqn"]]


class Echo(Server):
    digests = False

    def __init__(self, build):
        super().__init__("echo")
        self.build = build

    def start(self, path):
        argv = [f"{self.build}/bench/spindle-echo"] + (["--file", path] if path else [])
        self.spawn(argv, 0, stdout=subprocess.PIPE, text=True)
        return ["--portal", self.proc.stdout.readline().strip(), "--echo"]


class Tgt(Server):
    def __init__(self):
        super().__init__("tgt")

    def admin(self, *args):
        subprocess.run(["tgtadm", "-C", "77", "--lld", "iscsi", *args], check=True)

    def start(self, path):
        if not path:
            return None
        self.spawn(["tgtd", "-f", "--iscsi", f"portal=127.0.0.1:{TGT_PORT}", "-C", "77"], 0,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            time.sleep(0.05)
            probe = ["tgtadm", "-C", "77", "--lld", "iscsi", "--op", "show", "--mode", "target"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                break
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", IQN)
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", path)
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        for key in ("HeaderDigest", "DataDigest"):
            self.admin("--op", "update", "--mode", "target", "--tid", "1", "-n", key, "-v", "CRC32C,None")
        return ["--portal", f"127.0.0.1:{TGT_PORT}", "--target", IQN, "--lun", "1"]


# What istgt does not start without, and what lets it do its best: its deepest queue, the client's own lengths.
ISTGT_CONF = """
[Global]
  NodeBase "iqn.2026-11.bench"
  PidFile {dir}/istgt.pid
  AuthFile {dir}/auth.conf
  MediaDirectory {dir}
  DiscoveryAuthMethod None
  FirstBurstLength 262144
  MaxBurstLength 1048576
  MaxRecvDataSegmentLength 262144
[UnitControl]
  AuthMethod None
  Portal UC1 127.0.0.1:{control}
  Netmask 127.0.0.1
[PortalGroup1]
  Portal DA1 127.0.0.1:{port}
[InitiatorGroup1]
  InitiatorName "ALL"
  Netmask 127.0.0.0/8
[LogicalUnit1]
  TargetName "{iqn}"
  Mapping PortalGroup1 InitiatorGroup1
  AuthMethod None
  UseDigest Auto
  UnitType Disk
  QueueDepth 255
  LUN0 Storage {path} {size}MB
"""


class Istgt(Server):
    def __init__(self):
        super().__init__("istgt")
        self.dir = None

    def start(self, path):
        if not path:
            return None
        self.dir = tempfile.TemporaryDirectory()
        conf = pathlib.Path(self.dir.name, "istgt.conf")
        conf.with_name("auth.conf").touch(mode=0o600)
        conf.write_text(ISTGT_CONF.format(dir=self.dir.name, port=ISTGT_PORT, control=ISTGT_CONTROL_PORT, iqn=IQN,
                                          path=path, size=SIZE >> 20), encoding="utf-8")
        self.spawn(["istgt", "-D", "-c", str(conf)], 0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            time.sleep(0.05)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ISTGT_PORT)) == 0:
                    break
        return ["--portal", f"127.0.0.1:{ISTGT_PORT}", "--target", IQN]

    def stop(self):
        super().stop()
        if self.dir is not None:
            self.dir.cleanup()
            self.dir = None


class Bench:
    """The release build and the files of a run, and the load client."""

    def __init__(self, build, rounds, seconds, folders):
        self.build, self.rounds, self.seconds = build, rounds, seconds
        self.paths = {store: str(pathlib.Path(folder, "disk")) for store, folder in folders.items()}

    def path(self, store, number=0):
        """Filled at its first use: a sparse file would have the first cell measure the allocation of its blocks."""
        path = self.paths.get(store)
        if path and number:
            path += str(number)
        if path and not os.path.exists(path):
            block = os.urandom(1 << 20)
            with open(path, "wb") as f:
                for _ in range(SIZE >> 20):
                    f.write(block)
                f.flush()
                os.fsync(f.fileno())
        return path

    def client(self, server, where, *args, seconds=None, nice=0):
        argv = ["nice", "-n", str(nice), f"{self.build}/bench/spindle-load", *where, "--region", str(SIZE),
                "--time", f"{int((seconds or self.seconds) * 1000)}ms", "--pid", str(server.proc.pid), "--json", *args]
        return subprocess.Popen(argv, preexec_fn=pin(1), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result(self, proc):
        """The client's figures; None when it failed, which is said."""
        out, err = proc.communicate()
        if proc.returncode != 0:
            print(f"{' '.join(proc.args)}: {err.strip()}", file=sys.stderr)
            return None
        return json.loads(out)

    def load(self, server, where, *args, seconds=None):
        return self.result(self.client(server, where, *args, seconds=seconds))

    def fresh(self, server, store, *args, seconds=None):
        """The figures of a server that is started for them."""
        with server.serving(self.path(store)) as where:
            if where and store == "ram":
                fill = ["--workload", "write", "--io-size", "1M", "--qd", "4", "--ops", str(SIZE >> 20)]
                self.result(self.client(server, where, *fill))
            return self.load(server, where, *args, seconds=seconds) if where else None
