"""CHAP as users meet it: secret files, what is printed, and Debian's clients with and without a password."""

import contextlib
import os
import re
import subprocess
import tempfile

from harness import Spindle, binary, expect_error, main, need_tool, run, server_env, tool

for name in ("iscsi-ls", "iscsi-inq", "qemu-img", "qemu-io"):
    need_tool(name)

SECRET, OTHER, SELF = "0123456789abcdef", "another secret", "fedcba9876543210"


def secret_file(directory, name, text, mode=0o600):
    path = os.path.join(directory, name)
    with open(path, "wb") as f:
        os.fchmod(f.fileno(), mode)
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


@contextlib.contextmanager
def server(mutual=False, **more):
    with tempfile.TemporaryDirectory() as d:
        args = ["--chap", f"alice:{secret_file(d, 'a', SECRET + chr(10))}",
                "--chap", f"iqn.2026-11.org.example:bob:{secret_file(d, 'b', OTHER)}"]
        if mutual:
            args += ["--mutual-chap", f"nas:{secret_file(d, 'm', SELF)}"]
        with Spindle("ram:16M", args=args, **more) as s:
            yield s


def with_password(url, user="alice", secret=SECRET, target_secret=None):
    url = url.replace("iscsi://", f"iscsi://{user}%{secret}@")
    return url + (f"?target_user=nas&target_password={target_secret}" if target_secret else "")


def test_inquiry():
    with server() as s:
        assert "SPINDLE" in tool("iscsi-inq", with_password(s.url()))
        assert "SPINDLE" in tool("iscsi-inq", with_password(s.url(), "iqn.2026-11.org.example:bob", OTHER))
        for url in (s.url(), with_password(s.url(), secret=OTHER), with_password(s.url(), "carol")):
            text = tool("iscsi-inq", url, code=10)
            assert "uthentication" in text and "SPINDLE" not in text, text


def test_discovery():
    with server() as s:
        portal = f"iscsi://{s.portal_text()}"
        assert s.iqn() in tool("iscsi-ls", "-s", with_password(portal))
        for url in (portal, with_password(portal, secret=OTHER)):
            done = subprocess.run(["iscsi-ls", url], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  check=False, timeout=60)
            assert "uthentication" in done.stdout and s.iqn() not in done.stdout, done.stdout


def test_mutual():
    with server(mutual=True) as s:
        assert "SPINDLE" in tool("iscsi-inq", with_password(s.url(), target_secret=SELF))
        assert "SPINDLE" in tool("iscsi-inq", with_password(s.url())), "who does not ask is let in"
        text = tool("iscsi-inq", with_password(s.url(), target_secret=SELF + "x"), code=10)
        assert "CHAP_R" in text, text
        assert s.iqn() in tool("iscsi-ls", with_password(f"iscsi://{s.portal_text()}", target_secret=SELF))
    with server() as s:
        text = tool("iscsi-inq", with_password(s.url(), target_secret=SELF), code=10)
        assert "uthentication" in text, text


def test_qemu():
    """As the printed line has it: the secret in a file."""
    with server() as s:
        disk = (f"driver=iscsi,transport=tcp,portal={s.portal_text()},target={s.iqn()},lun=0,user=alice,"
                "password-secret=chap")
        secret_file(s.dir, "q", SECRET)
        secret_file(s.dir, "wrong", SECRET[:-1])
        good, bad = (f"secret,id=chap,file={os.path.join(s.dir, name)}" for name in ("q", "wrong"))
        assert "16 MiB" in tool("qemu-img", "info", "--object", good, "--image-opts", disk)
        tool("qemu-io", "--object", good, "--image-opts", disk, "-c", "write -P 7 1M 64k", "-c", "flush")
        text = tool("qemu-io", "--object", good, "--image-opts", disk, "-c", "read -P 7 1M 64k")
        assert "failed" not in text.lower(), text
        assert "16 MiB" in tool("qemu-img", "info", "-f", "raw", with_password(s.url()))
        tool("qemu-img", "info", "--object", bad, "--image-opts", disk, code=1)
        tool("qemu-img", "info", "-f", "raw", s.url(), code=1)


def test_what_is_printed():
    with server(mutual=True) as s:
        assert s.ready["chap"] == ["alice", "iqn.2026-11.org.example:bob"], s.ready
        assert s.ready["mutual_chap"] == "nas", s.ready
        for secret in (SECRET, OTHER, SELF):
            assert secret not in repr(s.ready) + s.stderr()
        with open(f"/proc/{s.pid}/cmdline", encoding="ascii") as f:
            assert SECRET not in f.read()
    with Spindle("ram:1M") as s:
        assert "chap" not in s.ready and "mutual_chap" not in s.ready, s.ready
    with tempfile.TemporaryDirectory() as d:
        users = ["--chap", f"alice:{secret_file(d, 'a', SECRET)}", "--mutual-chap", f"nas:{secret_file(d, 'm', SELF)}"]
        process = subprocess.Popen([binary(), "run", "ram:1M", "--port", "0", *users], stdout=subprocess.PIPE,
                                   text=True, env=server_env())
        text = ""
        while "password-secret" not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        process.terminate()
        text += process.communicate(timeout=30)[0]
        assert process.returncode == 0
    assert re.search(r"^users +chap +alice .*nas$", text, re.MULTILINE), text
    for words in ("node.session.auth.username -v 'alice'", "auth.username_in -v 'nas'", "user=alice"):
        assert words in text, text
    assert SECRET not in text and SELF not in text and "discovery" not in text, text


def test_refusals_say_why():
    with server() as s:
        tool("iscsi-inq", with_password(s.url(), secret=OTHER), code=10)
        tool("iscsi-inq", with_password(s.url(), "carol"), code=10)
        tool("iscsi-inq", s.url(), code=10)
        text = s.stderr()
        for words in ('why="wrong CHAP secret" user="alice"', 'why="no such CHAP user" user="carol"',
                      'why="no authentication"'):
            assert words in text, text
        assert text.count("status=0x0201") == 3, text


def test_secret_files():
    """Each is refused with what mends it, and never shown."""
    with tempfile.TemporaryDirectory() as d:
        good = secret_file(d, "good", SECRET)
        for name, text, mode, code, says in (
                ("group", SECRET, 0o640, 5, ["mode 640", "chmod 600"]),
                ("world", SECRET, 0o604, 5, ["mode 604", "chmod 600"]),
                ("short", "elevenbytes", 0o600, 2, ["11 bytes", "12 to 255", "openssl rand"]),
                ("long", "x" * 256, 0o600, 2, ["256 bytes", "12 to 255"]),
                ("huge", "x" * 5000, 0o600, 2, ["one line"]),
                ("empty", "", 0o600, 2, ["0 bytes"]),
                ("newline", "\n", 0o600, 2, ["0 bytes"]),
                ("lines", f"{SECRET}\n{SECRET}\n", 0o600, 2, ["one line"]),
                ("nul", b"0123456789ab\0cdef", 0o600, 2, ["one line"]),
                ("blank", f" {SECRET}\n", 0o600, 2, ["blank"]),
                ("control", "0123456789\x1b[31m", 0o600, 2, ["control character"])):
            path = secret_file(d, name, text, mode)
            line = expect_error(code, "run", "ram:1M", "--port", "0", "--chap", f"u:{path}", says=says)
            assert SECRET not in line and "elevenbytes" not in line, line
            expect_error(code, "run", "ram:1M", "--port", "0", "--chap", f"u:{good}", "--mutual-chap", f"m:{path}",
                         says=says)
        expect_error(3, "run", "ram:1M", "--chap", f"u:{d}/missing", says=["missing", "openssl rand"])
        expect_error(1, "run", "ram:1M", "--chap", f"u:{d}", says=["directory"])
        for user in ("", ":", "u", "u:", f":{good}"):
            expect_error(2, "run", "ram:1M", "--chap", user, says=["USER:FILE"])
        expect_error(2, "run", "ram:1M", "--chap", f"{'n' * 300}:{good}", says=["USER:FILE"])
        expect_error(2, "run", "ram:1M", "--chap", f"u\n:{good}", says=["printable"])
        expect_error(2, "run", "ram:1M", "--chap", f"u:{good}", "--chap", f"u:{good}", says=["two CHAP users"])
        expect_error(2, "run", "ram:1M", "--chap", f"u:{good}", "--mutual-chap", f"m:{good}", says=["of their own"])
        expect_error(2, "run", "ram:1M", "--mutual-chap", f"m:{good}", says=["--chap USER:FILE"])


def test_line_ends_are_no_secret():
    for end in ("", "\n", "\r\n"):
        with tempfile.TemporaryDirectory() as d:
            with Spindle("ram:1M", args=["--chap", f"alice:{secret_file(d, 'a', SECRET + end)}"]) as s:
                assert "SPINDLE" in tool("iscsi-inq", with_password(s.url()))


def test_secret_from_a_pipe():
    """What a shell or a service manager hands over has no mode to judge."""
    r, w = os.pipe()
    os.write(w, SECRET.encode() + b"\n")
    os.close(w)
    done = run("run", "ram:1M", "--chap", f"alice:/dev/fd/{r}", "--mutual-chap", "m:/nowhere", pass_fds=[r])
    os.close(r)
    assert "/nowhere" in done.stderr, done.stderr


main(globals())
