"""The command line: what is printed, what is refused, with which words and which exit code."""

import os
import socket
import subprocess
import tempfile

from harness import MIB, Spindle, binary, expect_error, main, run, wait_until


def test_version():
    for args in (["version"], ["--version"]):
        done = run(*args)
        assert done.returncode == 0
        word, number = done.stdout.split()
        assert word == "spindle" and number[0].isdigit(), done.stdout


def test_help():
    for args in (["help"], ["--help"], ["-h"]):
        done = run(*args)
        assert done.returncode == 0 and "run STORE" in done.stdout, done.stdout
    for args in (["help", "run"], ["run", "--help"], ["run", "-h"]):
        done = run(*args)
        assert done.returncode == 0
        for word in ("--listen ADDR[:PORT]", "--size SIZE", "ram", "fault", "Exit codes"):
            assert word in done.stdout, f"{word} not in {done.stdout}"
    assert run().returncode == 2


def test_usage_errors():
    with tempfile.TemporaryDirectory() as d:
        expect_error(2, "nonsense", says=["nonsense", "spindle help"])
        expect_error(2, "help", "nonsense", says=["nonsense"])
        expect_error(2, "run", says=["nothing to serve", "--size 10G"])
        expect_error(2, "run", "--frobnicate", says=["frobnicate"])
        expect_error(2, "run", "-x", says=["-x"])
        expect_error(2, "run", "ram:1M", "--port", "65536", says=["port", "65535"])
        expect_error(2, "run", "ram:1M", "--port", "-1", says=["-1"])
        expect_error(2, "run", "ram:1M", "--block-size", "1024", says=["block-size", "512"])
        expect_error(2, "run", "ram:1M", "--threads", "0", says=["threads"])
        expect_error(2, "run", "ram:1M", "--size", "12potatoes", says=["12potatoes", "100G"])
        expect_error(2, "run", "ram:1M", "--listen", says=["listen"])
        expect_error(2, "run", "ram:1M", "--listen", "localhost", says=["localhost"])
        expect_error(2, "run", "ram:1M", "--listen", "127.0.0.1:x", says=["127.0.0.1:x"])
        expect_error(2, "run", "ram:1M", "ram:1M", "--name", "a", says=["--name", "one disk"])
        expect_error(2, "run", "ram:1M", "--name", "Big Disk", says=["Big Disk", "--name big-disk"])
        expect_error(2, "run", "ram:1M", "--iqn", "potato", says=["potato"])
        expect_error(2, "run", "ram:1M", "--state", "", says=["--state", "directory"])
        expect_error(1, "run", "ram:1M", "--port", "0", "--state", "/dev/null/state",
                     says=["/dev/null/state", "--state DIR"])
        expect_error(2, "run", "ram:", says=["ram"])
        expect_error(2, "run", "ram:lots", says=["lots"])
        expect_error(2, "run", "fault:frob=1:ram:1M", says=["frob"])
        assert os.listdir(d) == []


def test_names_are_escaped():
    line = expect_error(2, "run", "--\x1b[31m", says=["option"])
    assert "\x1b" not in line
    line = expect_error(3, "run", "no\n\x1b[31mwhere.img", "--port", "0", says=["where.img"])
    assert "\x1b" not in line


def test_missing_file():
    with tempfile.TemporaryDirectory() as d:
        expect_error(3, "run", "nowhere.img", "--port", "0", says=["nowhere.img", "--size"], cwd=d)
        expect_error(3, "run", "no/where.img", "--size", "1M", "--port", "0",
                     says=["no/where.img"], cwd=d)
        assert os.listdir(d) == []


def test_wrong_kinds_of_file():
    with tempfile.TemporaryDirectory() as d:
        os.mkfifo(os.path.join(d, "fifo"))
        for name in (".", "fifo", "/dev/null"):
            done = run("run", name, "--port", "0", cwd=d)
            assert done.returncode in (1, 2), f"{name}: {done.returncode} {done.stderr}"
            assert len(done.stderr.splitlines()) == 1 and name in done.stderr, done.stderr


def test_size_mismatch():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "disk.img")
        with open(path, "wb") as f:
            f.truncate(MIB)
        done = run("run", "disk.img", "--size", "2M", "--port", "0", cwd=d)
        assert done.returncode in (1, 2, 4), done.returncode
        assert "disk.img" in done.stderr and "1 MiB" in done.stderr, done.stderr
        assert os.path.getsize(path) == MIB


def test_empty_file():
    with tempfile.TemporaryDirectory() as d:
        open(os.path.join(d, "empty.img"), "wb").close()
        done = run("run", "empty.img", "--port", "0", cwd=d)
        assert done.returncode != 0 and "empty.img" in done.stderr, done.stderr


def test_no_permission():
    if os.geteuid() == 0:
        return
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "disk.img")
        with open(path, "wb") as f:
            f.truncate(MIB)
        os.chmod(path, 0o400)
        expect_error(5, "run", "disk.img", "--port", "0", says=["disk.img"], cwd=d)


def test_address_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with tempfile.TemporaryDirectory() as d:
            expect_error(4, "run", "new.img", "--size", "1M", "--listen", f"127.0.0.1:{port}",
                         says=[f"127.0.0.1:{port}", "use"], cwd=d)


def test_a_start_that_fails_leaves_no_file():
    """Whatever it was: what --size has made is gone again, and what was there is as it was."""
    with socket.create_server(("127.0.0.1", 0)) as other, tempfile.TemporaryDirectory() as d:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for code, args in ((3, ["new.img", "--aoe", "nosuch9:1.0", "--no-iscsi"]),
                           (4, ["new.img", "--listen", taken]),
                           (4, ["new.img", "./new.img"]),
                           (4, ["slice:length=512K:new.img", "slice:offset=512K:file:new.img", "--listen", taken]),
                           (3, ["new.img", "nowhere/new.img"]),
                           (2, ["new.img", "fault:frob=1:other.img"]),
                           (2, ["slice:offset=2M:new.img"]),
                           (2, ["new.img", "--listen", "localhost"]),
                           (2, ["new.img", "ram:lots"])):
            expect_error(code, "run", *args, "--size", "1M", "--port", "0", cwd=d)
            assert os.listdir(d) == [], (args, os.listdir(d))
        with open("/dev/full", "w", encoding="ascii") as full:
            done = run("run", "new.img", "--size", "1M", "--port", "0", "--json", cwd=d, stdout=full)
        assert done.returncode == 1 and os.listdir(d) == [], done
        with open(os.path.join(d, "old.img"), "wb") as f:
            f.write(bytes(MIB - 1) + b"x")
        expect_error(4, "run", "new.img", "old.img", "--size", "1M", "--listen", taken, cwd=d)
        assert os.listdir(d) == ["old.img"]
        with open(os.path.join(d, "old.img"), "rb") as f:
            assert f.read() == bytes(MIB - 1) + b"x"


def test_address_not_ours():
    done = run("run", "ram:1M", "--listen", "192.0.2.1:0")
    assert done.returncode != 0 and "192.0.2.1" in done.stderr, done.stderr


def test_file_in_use():
    with tempfile.TemporaryDirectory() as d, Spindle("disk.img", args=["--size", "1M"],
                                                     directory=d) as s:
        expect_error(4, "run", "disk.img", "--port", "0", says=["disk.img"], cwd=d)
        expect_error(4, "run", "other.img", "disk.img", "--size", "1M", "--port", "0",
                     says=["disk.img"], cwd=d)
        assert s.running()
        s.kill()
        # The lock went with the process.
        s.start()


def test_same_file_twice():
    with tempfile.TemporaryDirectory() as d:
        expect_error(4, "run", "disk.img", "./disk.img", "--size", "1M", "--port", "0",
                     says=["disk.img"], cwd=d)


def test_closed_stdout_is_not_silent():
    done = run("run", "ram:1M", "--port", "0", "--json", stdout=open("/dev/full", "w"))
    assert done.returncode == 1 and "stdout" in done.stderr, done.stderr


def test_closed_stdout_does_not_stop_a_human():
    read_end, write_end = os.pipe()
    os.close(read_end)
    server = subprocess.Popen([binary(), "run", "ram:1M", "--port", "0", "-v"], stdout=write_end,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    os.close(write_end)
    line = server.stderr.readline()
    assert "stdout" in line and "serving all the same" in line, line
    line = server.stderr.readline()
    assert "serving" in line and "disk_engine" in line, line
    server.terminate()
    server.communicate(timeout=30)
    assert server.returncode == 0


def test_text_for_people():
    server = subprocess.Popen([binary(), "run", "ram:1M", "--port", "0"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    text = ""
    while "-blockdev" not in text:
        line = server.stdout.readline()
        assert line, text
        text += line
    server.terminate()
    server.communicate(timeout=30)
    assert server.returncode == 0
    for words in ("1 MiB (1048576 bytes)", "blocks of 512", "ram:1M", "iscsiadm -m discovery",
                  "--login", "file=iscsi://127.0.0.1:", "naa.3"):
        assert words in text, f"{words} not in {text}"


def test_engine_is_logged():
    for env, engine in (({"SPINDLE_NO_URING": "1"}, 'disk_engine="worker threads"'),
                        ({}, "disk_engine=")):
        with Spindle("ram:1M", args=["-v"], env=env) as s:
            wait_until(lambda: engine in s.stderr(), 10, f"{engine} in the log")


main(globals())
