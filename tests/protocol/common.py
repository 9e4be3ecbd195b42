"""
The runner of a protocol test: every function marked @case runs against one server; a script ends
with 0 when all passed, 1 when one did not, 77 when it could not run.
"""

import contextlib
import os
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from spindle import SKIP, Spindle, skip  # noqa: E402

__all__ = ["Spindle", "case", "hanging", "main", "skip", "SkipCase"]

_cases = []


class SkipCase(Exception):
    """This case cannot run here."""


def case(function):
    """Of the script that runs, not of those that it imports."""
    if function.__module__ == "__main__":
        _cases.append(function)
    return function


@contextlib.contextmanager
def hanging(ops="read+write", more=(), size="16M", **server):
    """A server whose first disk hangs from hang() to release()."""
    server = Spindle(f"fault:rule={ops};hang;while=hung:ram:{size}", *more, **server)
    path = os.path.join(server.dir, "hung")

    def hang():
        with open(path, "w", encoding="ascii"):
            pass

    def release():
        if os.path.exists(path):
            os.unlink(path)

    with server:
        try:
            yield server, hang, release
        finally:
            release()


def run_case(function, server):
    started = time.monotonic()
    try:
        function(server)
        outcome = "ok"
    except SkipCase as e:
        outcome = f"skip ({e})"
    except Exception:  # pylint: disable=broad-except
        outcome = "FAIL"
        print(traceback.format_exc(), flush=True)
    print(f"{outcome:4} {function.__name__} {time.monotonic() - started:.2f}s", flush=True)
    return outcome


def main(*stores, args=()):
    """
    Runs the cases that sys.argv names, or all of them. What follows --serve there is served in
    the place of `stores`, as in: write.py --serve disk.img --size 64M
    """
    wanted, _, instead = split_at(sys.argv[1:], "--serve")
    chosen = [c for c in _cases if not wanted or c.__name__ in wanted]
    outcomes = []
    if instead:
        stores, args = instead[:1], instead[1:]
    with Spindle(*(stores or ("ram:64M",)), args=args) as server:
        for function in chosen:
            outcomes.append(run_case(function, server))
            if not server.running():
                print("FAIL the server is gone\n" + server.stderr(), flush=True)
                sys.exit(1)
    failed = outcomes.count("FAIL")
    print(f"{len(outcomes)} cases, {failed} failed")
    if failed:
        sys.exit(1)
    if outcomes and all(o.startswith("skip") for o in outcomes):
        sys.exit(SKIP)


def split_at(words, word):
    """["a", "x", "b"] at "x" -> ["a"], ["x"], ["b"]"""
    at = words.index(word) if word in words else len(words)
    return words[:at], words[at:at + 1], words[at + 1:]
