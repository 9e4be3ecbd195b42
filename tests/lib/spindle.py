"""
A server for a test: starts `spindle run`, reads what it serves, stops it and judges how it ended.

    with Spindle("ram:64M") as s:
        s.portals[0]   # ("127.0.0.1", 41873)
        s.disks[0]     # {"name", "iqn", "lun", "size", "url"}
        s.dir          # a directory of its own, removed at the end

SPINDLE names the executable (without it the test is skipped), SPINDLE_TEST_THREADS gives --threads.
Leaving the block stops the server with SIGTERM and fails the test unless it exits 0 within the
limit and no sanitizer spoke. Only the process that was started here is ever signalled, by its pid.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SANITIZER_MARKS = (
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
    "WARNING: ThreadSanitizer",
    "runtime error:",
)
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=99:second_deadlock_stack=1",
}
SKIP = 77


class ServerError(AssertionError):
    """The server did not start, did not stop as it should, or a sanitizer complained."""


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(SKIP)


def binary():
    path = os.environ.get("SPINDLE")
    if not path:
        skip("SPINDLE does not name the executable")
    return path


def find_tool(name):
    """Its path, None where it is not installed. Some live where only root looks."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def need_tool(name):
    return find_tool(name) or skip(f"{name} is not installed")


def split_portal(text):
    """'[::1]:3260' -> ('::1', 3260)"""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Spindle:
    """
    stores: what `spindle run` is given; args: further options. `listen`: addresses with ports
    instead of one free port of 127.0.0.1. `env`: added to the environment; `wrap`: a command to
    run it under, as ["strace", "-f"]. What its disks cannot keep it keeps in its directory, too.
    """

    def __init__(self, *stores, args=(), listen=(), threads=None, env=None, wrap=(), start_s=30,
                 stop_s=30, directory=None):
        self.stores = list(stores)
        self.args = [str(a) for a in args]
        for addr in listen:
            self.args += ["--listen", addr]
        threads = threads or os.environ.get("SPINDLE_TEST_THREADS")
        if threads:
            self.args += ["--threads", str(threads)]
        self.env = dict(SANITIZER_ENV)
        self.env.update(os.environ)
        self.env.update(env or {})
        self.wrap = list(wrap)
        self.start_s = start_s
        self.stop_s = stop_s
        self.own_dir = directory is None
        self.dir = directory or tempfile.mkdtemp(prefix="spindle-test-")
        self.stderr_path = os.path.join(self.dir, "server.stderr")
        self.process = None
        self.pid = None
        self.told_to_stop = False
        self.portals = []
        self.disks = []
        self.ready = {}

    # ---- life

    def start(self):
        cmd = self.wrap + [binary(), "run"] + self.stores + ["--port", "0", "--json"] + self.args
        if "--state" not in self.args:
            cmd += ["--state", "state"]
        self.told_to_stop = False
        with open(self.stderr_path, "ab") as err:
            self.process = subprocess.Popen(cmd, cwd=self.dir, env=self.env, stderr=err,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            self.ready = json.loads(self._first_line())
        except ValueError as e:
            self.kill()
            raise ServerError(f"{' '.join(cmd)}: no line of JSON: {e}\n{self.stderr()}") from e
        except ServerError:
            self.kill()
            raise
        self.pid = self.ready["pid"]
        self.portals = [split_portal(p) for p in self.ready["portals"]]
        self.disks = self.ready["disks"]
        return self

    def _first_line(self):
        deadline = time.monotonic() + self.start_s
        fd = self.process.stdout.fileno()
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise ServerError(f"not ready within {self.start_s} s\n{self.stderr()}")
            piece = os.read(fd, 4096)
            if not piece:
                code = self.process.wait()
                raise ServerError(f"ended at once with {code}\n{self.stderr()}")
            line += piece
        return line.decode()

    def terminate(self):
        """SIGTERM, once: a second one means another thing."""
        if not self.told_to_stop and self.running():
            os.kill(self.pid or self.process.pid, signal.SIGTERM)
            self.told_to_stop = True

    def stop(self):
        """SIGTERM; it must end with 0 in time, and no sanitizer may have spoken."""
        if self.process is None:
            return
        self.terminate()
        try:
            code = self.process.wait(timeout=self.stop_s)
        except subprocess.TimeoutExpired as e:
            self.dump_stacks()
            self.kill()
            raise ServerError(f"not stopped within {self.stop_s} s\n{self.stderr()}") from e
        self._forget()
        self.check_sanitizer()
        if code != 0:
            raise ServerError(f"exit code {code}\n{self.stderr()}")

    def wait_end(self, seconds=None):
        """It ends by itself, or by a signal the test sent: its exit code, which the test judges."""
        code = self.process.wait(timeout=seconds or self.stop_s)
        self._forget()
        self.check_sanitizer()
        return code

    def kill(self):
        """SIGKILL, for tests of power loss; nothing is judged but what a sanitizer said before."""
        if self.process is None:
            return
        for pid in {self.pid, self.process.pid} - {None}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self._forget()

    def _forget(self):
        self.process.stdout.close()
        self.process = None
        self.pid = None

    def running(self):
        return self.process is not None and self.process.poll() is None

    def restart(self):
        """Stops it and starts it again, over the same stores, on a new port."""
        self.stop()
        return self.start()

    def cleanup(self):
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.cleanup()
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
            else:
                self._stop_quietly()
        finally:
            self.cleanup()

    def _stop_quietly(self):
        """The test failed already: what the server said may tell why."""
        try:
            self.stop()
        except ServerError as e:
            print(f"the server, too: {e}", file=sys.stderr)
            return
        if self.stderr():
            print("---- the server said:\n" + self.stderr(), file=sys.stderr)

    # ---- what it says

    def stderr(self):
        try:
            with open(self.stderr_path, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def check_sanitizer(self):
        text = self.stderr()
        for mark in SANITIZER_MARKS:
            if mark in text:
                raise ServerError(f"a sanitizer spoke\n{text}")

    def dump_stacks(self):
        """Where the threads of a server that hangs are, as far as the kernel tells."""
        for task in sorted(os.listdir(f"/proc/{self.process.pid}/task")):
            try:
                with open(f"/proc/{self.process.pid}/task/{task}/wchan", encoding="ascii") as f:
                    print(f"thread {task} waits in {f.read()}", file=sys.stderr)
            except OSError:
                pass

    # ---- what it costs

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise ServerError("no VmRSS")

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ---- how to reach it

    def url(self, index=0):
        return self.disks[index]["url"]

    def iqn(self, index=0):
        return self.disks[index]["iqn"]

    def portal_text(self, index=0):
        host, port = self.portals[index]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
