#!/usr/bin/env python3
"""
Debian's iscsi-test-cu against a disk of ours, one suite after another.

    conformance.py file|ram|slow 512|4096 [--restart] [--chap] [--header-digest] [SUITE...]

tests.txt says of each test of iscsi-test-cu what must come of it; a test that is not there, or
ends otherwise, fails the run: also one that was thought not to work and does. --restart stops and
starts the server between suites; --chap asks for a password; --header-digest has the tool insist on
header digests. A slow disk takes its time over each write, so that what aborts one finds it there.
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from spindle import Spindle, need_tool  # noqa: E402

TOOL = "iscsi-test-cu"
BEGINS = re.compile(r"^\s*Test: (\S+) \.\.\.")
VERDICT = re.compile(r"(?:^|\.\.\.)(passed|FAILED)")
SIZE_MIB = 128
WHERE = {"file": "disk.img", "ram": f"ram:{SIZE_MIB}M",
         "slow": f"fault:rule=write;delay=125ms:ram:{SIZE_MIB}M"}
BY_TWO_PATHS = {"MultipathIO"}  # these log in twice
CHAP_USER, CHAP_SECRET = "tester", "0123456789abcdef"
ON_READ_ONLY = {"ReadOnly"}  # these suites get a disk that is write-protected


def expectations(where):
    """{suite: {test: outcome}} in the order of the file, for "file-512" and the like."""
    suites = {}
    with open(os.path.join(HERE, "tests.txt"), encoding="utf-8") as f:
        for line in f:
            words = line.split("#")[0].split()
            if words:
                suite, test = words[0].split(".")
                here = dict(word.split("=") for word in words[2:])
                suites.setdefault(suite, {})[test] = here.get(where, words[1])
    return suites


def tests_of_the_tool():
    listed = subprocess.run([TOOL, "--list"], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, check=False).stdout
    return {tuple(name.split(".")[1:]) for name in listed.split() if name.startswith("ALL.")
            and name.count(".") == 2}


def run_suite(url, suite, test=None):
    """{test: "pass", "fail" or "skip"}, and what the tool printed."""
    name = f"ALL.{suite}.{test}" if test else f"ALL.{suite}"
    paths = [url] * (2 if suite in BY_TWO_PATHS else 1)
    try:
        done = subprocess.run([TOOL, "--dataloss", "--allow-sanitize", "--test", name, *paths], text=True,
                              timeout=100, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, errors="replace", check=False)
        out = done.stdout
    except subprocess.TimeoutExpired as e:
        return {}, f"{name}: no end in 100 s\n{(e.stdout or b'').decode(errors='replace')}"
    return outcomes_in(out), out


def outcomes_in(out):
    """A test's lines go from its own to its verdict; what is torn down after that says more."""
    outcomes, current, skipped = {}, None, False
    for line in out.splitlines():
        begins, verdict = BEGINS.match(line), VERDICT.search(line)
        if begins:
            current, skipped = begins.group(1), False
        if "[SKIPPED]" in (line[:verdict.start()] if verdict else line):
            skipped = True
        if current and verdict:
            passed = "skip" if skipped else "pass"
            outcomes[current] = passed if verdict.group(1) == "passed" else "fail"
            current = None
    return outcomes


def judge(suite, expected, outcomes, out):
    """The names of tests that ended otherwise than expected."""
    wrong = []
    for test, want in expected.items():
        got = outcomes.get(test, "no verdict")
        if got != want:
            wrong.append(f"{suite}.{test}: {got}, expected {want}")
    if wrong:
        print(out)
    return wrong


class Campaign:
    """All suites on one kind of disk."""

    def __init__(self, store, block, chap, header_digest):
        self.where = WHERE[store]
        self.chap = chap
        self.query = "?header_digest=crc32c" if header_digest else ""
        self.args = ["--block-size", block] + (["--chap", f"{CHAP_USER}:secret"] if chap else [])
        self.ran = 0
        self.wrong = []

    def suite(self, server, suite, tests):
        """Whole suites where nothing in them is left out, else test by test."""
        run = {t: want for t, want in tests.items() if want != "absent"}
        outcomes, out = {}, ""
        for test in [None] if len(run) == len(tests) else run:
            some, text = run_suite(self.url(server), suite, test)
            outcomes.update(some)
            out += text
        failed = judge(suite, run, outcomes, out)
        print(f"{'FAIL' if failed else 'ok':4} {suite}: {len(run)} of {len(tests)} tests", flush=True)
        self.wrong += failed
        self.ran += len(run)
        if not server.running():
            sys.exit(f"the server is gone\n{server.stderr()}")

    def url(self, server):
        password = f"{CHAP_USER}%{CHAP_SECRET}@" if self.chap else ""
        return server.url().replace("iscsi://", "iscsi://" + password) + self.query

    def suites(self, suites, restart, more=()):
        if not suites:
            return
        server = Spindle(self.where, args=self.args + list(more))
        if self.where == "disk.img":
            with open(os.path.join(server.dir, self.where), "wb") as disk:
                disk.truncate(SIZE_MIB << 20)
        if self.chap:
            with open(os.open(os.path.join(server.dir, "secret"), os.O_CREAT | os.O_WRONLY, 0o600), "w",
                      encoding="ascii") as secret:
                secret.write(CHAP_SECRET)
        with server:
            for i, (suite, tests) in enumerate(suites.items()):
                if restart and i:
                    server.restart()
                self.suite(server, suite, tests)

    def report(self):
        print(f"{self.ran} tests run, {len(self.wrong)} wrong")
        for line in self.wrong:
            print("  " + line)
        sys.exit(1 if self.wrong else 0)


def main():
    need_tool(TOOL)
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    suites = expectations("-".join(words[:2]))
    known = {(s, t) for s, tests in suites.items() for t in tests}
    chosen = {s: tests for s, tests in suites.items()
              if s in (words[2:] or suites) and set(tests.values()) != {"absent"}}
    campaign = Campaign(words[0], words[1], "--chap" in sys.argv, "--header-digest" in sys.argv)
    campaign.wrong += [f"{'.'.join(n)}: not in tests.txt"
                       for n in sorted(tests_of_the_tool() - known)]
    campaign.suites({s: t for s, t in chosen.items() if s not in ON_READ_ONLY},
                    "--restart" in sys.argv)
    if words[0] == "file":
        campaign.suites({s: t for s, t in chosen.items() if s in ON_READ_ONLY}, False, ["--ro"])
    campaign.report()


if __name__ == "__main__":
    main()
