"""
vblade for a test, or what takes its place: started, waited for until it says what it serves, stopped and
judged.

    with Vblade(ours(), "1", "1", "aoe0", "disk.img") as v:
        v.line         # "e1.1, 8192 sectors O_RDWR"
    Vblade(theirs(), ...)           # Debian's own; theirs() is None where it is not installed
"""

import os
import re
import select
import signal
import subprocess
import tempfile
import time

from spindle import SANITIZER_ENV, SANITIZER_MARKS, ServerError, binary, find_tool


def ours():
    return [binary(), "compat", "vblade"]


def theirs():
    path = find_tool("vblade")
    return path and [path]


class Vblade:
    """`command` is what stands in front of `args`."""

    def __init__(self, command, *args, cwd=None, start_s=30, stop_s=30):
        self.command = [*command, *map(str, args)]
        self.is_ours = os.path.realpath(command[0]) == os.path.realpath(binary())
        self.cwd, self.start_s, self.stop_s = cwd, start_s, stop_s
        self.process = self.stderr_file = self.line = None

    def start(self):
        self.stderr_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, cwd=self.cwd, env={**SANITIZER_ENV, **os.environ},
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr_file)
        line, end = b"", time.monotonic() + self.start_s
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                break
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece:
                break
            line += piece
        found = re.fullmatch(rf"pid {self.process.pid}: (.*)\n", line.decode())
        if not found:
            self.kill()
            raise ServerError(f"{' '.join(self.command)} said {line!r}\n{self.stderr()}")
        self.line = found[1]
        return self

    def stderr(self):
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode(errors="replace")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """Ours ends with 0, having flushed everything; theirs just dies. Nothing more may have been said."""
        self.process.send_signal(signal.SIGTERM)
        try:
            more, _ = self.process.communicate(timeout=self.stop_s)
        except subprocess.TimeoutExpired as e:
            self.kill()
            raise ServerError(f"not stopped within {self.stop_s} s\n{self.stderr()}") from e
        if self.process.returncode != (0 if self.is_ours else -signal.SIGTERM) or more:
            raise ServerError(f"exit code {self.process.returncode}, {more!r}\n{self.stderr()}")
        if any(mark in self.stderr() for mark in SANITIZER_MARKS):
            raise ServerError(f"a sanitizer spoke\n{self.stderr()}")

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
            elif self.process.poll() is None:
                self.kill()
        finally:
            self.stderr_file.close()
