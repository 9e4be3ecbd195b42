#!/usr/bin/env python3
"""
Runs one fuzzer over its corpus: a minute, or its share of an hour with SPINDLE_SOAK set.

    run.py PROGRAM NAME MAX_LEN

What it finds beyond the corpus stays in the folder corpus-NAME beside the program, so that the next run goes on
from there; an input that fails lies there as crashes-NAME/crash-..., and the last lines say how to run it again.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CHECK_S = 60
SOAK_S = 720


def main():
    program, name, max_len = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    seconds = int(os.environ.get("SPINDLE_FUZZ_S", SOAK_S if os.environ.get("SPINDLE_SOAK") else CHECK_S))
    grown = program.parent / f"corpus-{name}"
    crashes = program.parent / f"crashes-{name}"
    grown.mkdir(exist_ok=True)
    crashes.mkdir(exist_ok=True)
    before = set(crashes.iterdir())
    words = HERE / f"{name}.dict"
    argv = [str(program), f"-max_total_time={seconds}", "-timeout=25", "-rss_limit_mb=3000", f"-max_len={max_len}",
            "-print_final_stats=1", f"-artifact_prefix={crashes}/"]
    if words.exists():
        argv.append(f"-dict={words}")
    status = subprocess.call(argv + [str(grown), str(HERE / "corpus" / name)], stdin=subprocess.DEVNULL)
    for path in sorted(set(crashes.iterdir()) - before):
        print(f"to run it again: {program} {path}")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
