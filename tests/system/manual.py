"""The pages say what the tables of the code say: options, stores, ATA commands."""

import os
import re
import subprocess

from harness import SOURCE, main, need_tool, run

PAGE = os.path.join(SOURCE, "man", "spindle.1")


def options_of_the_program():
    """{"size": "SIZE", "ro": "", ...}"""
    found = re.findall(r"^  --([a-z-]+)(?: (\S+))?  ", run("help", "run").stdout, re.MULTILINE)
    return dict(found)


def options_of_the_page():
    with open(PAGE, encoding="ascii") as f:
        text = f.read()
    found = re.findall(r"^\.It (?:Fl \w , )?Fl -([a-z-]+)(?: Ar (\S+))?$", text, re.MULTILINE)
    return dict(found)


def test_same_options():
    program, page = options_of_the_program(), options_of_the_page()
    assert len(program) > 5, program
    assert program == page, f"program: {program}\npage: {page}"


def test_same_order():
    assert list(options_of_the_program()) == list(options_of_the_page())


def test_stores_are_described():
    with open(PAGE, encoding="ascii") as f:
        text = f.read()
    for store in re.findall(r"^  ([a-z]+) +\S", run("help", "run").stdout, re.MULTILINE):
        assert f".It Cm {store} :" in text, f"{store} is not in the page"


def ata_rows(path, pattern):
    """[("EC", "IDENTIFY DEVICE"), ...]"""
    with open(os.path.join(SOURCE, *path.split("/")), encoding="utf-8") as f:
        found = re.findall(pattern, f.read(), re.MULTILINE)
    return [(opcode.replace("ATA_IDENTIFY", "EC").removeprefix("0x").upper(), name) for opcode, name in found]


def test_ata_commands():
    code = []
    for name in ("ata.c", "ata_smart.c"):
        code += ata_rows(f"src/aoe/{name}", r"^\t\{(0x[0-9a-f]{2}|ATA_IDENTIFY), .*\},\s+/\* ([A-Z/ ]+) \*/$")
    page = ata_rows("docs/ata.md", r"^\| ([0-9A-F]{2}) \| ([A-Z/ ]+) \|")
    assert len(code) > 25, code
    assert page == code, f"page: {page}\ncode: {code}"


def test_lint():
    need_tool("mandoc")
    pages = [os.path.join(os.path.dirname(PAGE), name) for name in os.listdir(os.path.dirname(PAGE)) if name.endswith(".1")]
    assert PAGE in pages
    done = subprocess.run(["mandoc", "-Tlint", "-Wstyle", *pages], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    # Which other pages are installed is nothing of these.
    found = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line and "mandoc.db" not in line]
    assert not found, "\n".join(found)


main(globals())
