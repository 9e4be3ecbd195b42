"""
What the system tests share: paths to the fixture and to the raw-PDU client, running the program
for an error, running Debian's tools against it, and a runner that names each case.
"""

import os
import subprocess
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("lib", "protocol"):
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), folder))

from spindle import SANITIZER_ENV, SANITIZER_MARKS, Spindle, binary, find_tool, need_tool, skip  # noqa: E402

SOURCE = os.environ.get("SPINDLE_SOURCE", os.path.dirname(os.path.dirname(HERE)))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

__all__ = ["GIB", "KIB", "MIB", "SOURCE", "Spindle", "binary", "can_trace", "expect_error", "find_tool", "is_sanitized",
           "main", "need_tool", "run", "skip", "tool", "traced", "wait_until", "without_attributes"]


def server_env():
    env = dict(SANITIZER_ENV)
    env.update(os.environ)
    return env


def run(*args, cwd=None, timeout=60, **more):
    """spindle ARGS..., to its end."""
    done = subprocess.run([binary(), *args], cwd=cwd, env=server_env(), text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout,
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})
    for mark in SANITIZER_MARKS:
        assert mark not in (done.stderr or ""), done.stderr
    return done


def expect_error(code, *args, says=(), cwd=None, **more):
    """It must end with this exit code and one line on stderr that holds every text of `says`."""
    done = run(*args, cwd=cwd, **more)
    assert done.returncode == code, f"{args}: exit code {done.returncode}\n{done.stderr}"
    assert not done.stdout, done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("spindle: "), done.stderr
    for text in says:
        assert text in lines[0], f"no {text!r} in: {lines[0]}"
    return lines[0]


def tool(name, *args, timeout=120, code=0, stdin=""):
    """A client tool that must end with `code`; returns what it printed."""
    done = subprocess.run([need_tool(name), *args], text=True, errors="replace", timeout=timeout, input=stdin,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == code, f"{' '.join([name, *args])}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def is_sanitized():
    """Does the program under test carry a sanitizer? Then its memory and speed mean nothing."""
    with open(binary(), "rb") as f:
        text = f.read()
    return any(name in text for name in (b"__asan_init", b"__tsan_init"))


def without_attributes():
    """The command to run a server under, so that its files keep no attributes."""
    wrap = [sys.executable, os.path.join(os.path.dirname(HERE), "lib", "noattr.py")]
    probe = "import errno, os\n" \
            "try: os.getxattr(0, 'user.spindle.identity')\n" \
            "except OSError as e: raise SystemExit(e.errno != errno.EOPNOTSUPP)\n" \
            "raise SystemExit(1)"
    with tempfile.TemporaryFile() as f:
        if subprocess.run([*wrap, sys.executable, "-c", probe], stdin=f, stderr=subprocess.DEVNULL,
                          check=False).returncode != 0:
            skip("system calls cannot be refused here")
    return wrap


def can_trace():
    """Whether strace is there and may."""
    return find_tool("strace") is not None and subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], check=False,
                                                              stderr=subprocess.DEVNULL).returncode == 0


def traced(out, *options, **env):
    """For a Spindle that runs under strace, which writes into the file `out`. The leak checker cannot work there."""
    return {"wrap": ["strace", "-f", "-o", out, *options],
            "env": {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0", **env}}


def wait_until(condition, seconds, what):
    import time
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def main(namespace):
    """Runs every function named test_*, in the order of the file; one failure fails the script."""
    failed = 0
    only = sys.argv[1:]
    for name, case in list(namespace.items()):
        if not name.startswith("test_") or (only and name not in only):
            continue
        try:
            case()
            print(f"ok   {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)
