"""
ATA over Ethernet while interfaces change: MTU, address, link, name; gone and made anew; and who is asked
before a shelf and slot is served. In a network namespace of its own, with a bridge for a switch:

    "srv0", "srv1" where servers are, "cli" where clients are

It needs root.
"""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from harness import MIB, Spindle, binary, expect_error, find_tool, main, server_env, wait_until

import aoe
from aoe import Frame, Window, ata_frame, config_frame, ip, pattern
from vblade import Vblade, ours

aoe.in_namespace()

SECTOR = aoe.SECTOR
OTHER = bytes.fromhex("020000000042")


def link(*args):
    done = ip("link", *args)
    assert done.returncode == 0, f"ip link {' '.join(args)}: {done.stdout}"


def plug(name, mtu=1500):
    """An interface that is joined to the switch."""
    aoe.add_pair(name, name + "-sw", mtu)
    link("set", "dev", name + "-sw", "master", "switch")


def unplug(name):
    link("del", "dev", name)


def up(*names):
    for name in names:
        link("set", "dev", name, "up")


def down(*names):
    for name in names:
        link("set", "dev", name, "down")


@contextlib.contextmanager
def segment(*names, mtu=1500):
    link("add", "name", "switch", "type", "bridge")
    up("switch")
    try:
        for name in names or ("srv0", "srv1", "cli"):
            plug(name, mtu)
        yield
    finally:
        for name in names or ("srv0", "srv1", "cli"):
            ip("link", "del", "dev", name)
        link("del", "dev", "switch")


def serving(*stores, at="srv0:1.0", args=(), **more):
    return Spindle(*(stores or ("ram:16M",)), args=["--aoe", at, *args], **more)


def client(shelf=1, slot=0, **more):
    return aoe.Client(shelf, slot, **{"interface": "cli", "server": "srv0", "timeout_s": 20, **more})


def places(answers):
    return [(a.shelf, a.slot) for a in answers]


def heard(c, n, since=0, seconds=15):
    """The announcements from there on, when there are so many."""
    wait_until(lambda: c.receive(0.05) or len(c.announcements) - since >= n, seconds, f"{n} announcements")
    return c.announcements[since:]


def silent(c, **more):
    return not c.discover(quiet_s=0.3, **more)


def answers(frame, interface, seconds):
    """Whatever comes for that frame, without a judge."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((interface, aoe.ETHERTYPE))
        s.send(frame.pack())
        found, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            s.settimeout(left)
            try:
                answer = Frame.parse(s.recv(4096))
            except socket.timeout:
                break
            if answer.tag == frame.tag and answer.flags & aoe.FLAG_R:
                found.append(answer)
        return found


def answers_by_mac(interface="cli", shelf=1, slot=0, seconds=0.4):
    """Whoever answers a query, and how often."""
    frame = config_frame(shelf=shelf, slot=slot, tag=0x1234, dst=aoe.BROADCAST, src=aoe.mac_of(interface))
    return [a.src for a in answers(frame, interface, seconds)]


def says(server, event, n=1, seconds=15):
    wait_until(lambda: server.stderr().count(f" {event} ") >= n, seconds, f"{event} in the log")


# ---- MTU ----------------------------------------------------------------------------------------


def test_the_mtu_is_announced_once():
    """The switch lets all through; what it says follows, for each disk, and once a change."""
    with segment(mtu=9000), serving("ram:1M", "ram:1M", args=["--verbose"]) as s, client() as c:
        c.settle()
        for mtu, sectors in ((1500, 2), (4132, 8), (9000, 16)):
            since = len(c.announcements)
            link("set", "dev", "srv0", "mtu", str(mtu))
            got = heard(c, 2, since)
            time.sleep(1.2)
            c.settle()
            got = c.announcements[since:]
            assert sorted(places(got)) == [(1, 0), (1, 1)] and {a.sectors for a in got} == {sectors}, got
            assert c.config().sectors == sectors
        # What changes nothing is not told.
        since = len(c.announcements)
        for mtu in (8999, 9000, 8700, 9000):
            link("set", "dev", "srv0", "mtu", str(mtu))
        time.sleep(1.2)
        c.settle()
        assert len(c.announcements) == since, c.announcements[since:]
        assert s.stderr().count(" aoe-mtu-changed ") == 3, s.stderr()


def test_the_mtu_changes_while_data_move():
    with segment(mtu=9000), serving("disk.img", args=["--size", "16M"]) as s, client() as c:
        end = threading.Event()

        def change():
            while not end.is_set():
                for mtu in (1500, 9000):
                    link("set", "dev", "srv0", "mtu", str(mtu))
                    end.wait(0.3)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for seed in range(1, 6):
                Window(c, 2, rto_s=2).write(0, 2000, seed)
                Window(c, 2, rto_s=2).read(0, 2000, seed)
        finally:
            end.set()
            thread.join()
        link("set", "dev", "srv0", "mtu", "9000")
        wait_until(lambda: c.config().sectors == 16, 10, "the larger frames")
        Window(c, 16).read(0, 1984, 5)
        Window(c, 16).write(0, 1600, 6)
        link("set", "dev", "srv0", "mtu", "1500")
        wait_until(lambda: c.config().sectors == 2, 10, "the smaller frames")
        Window(c, 2).read(0, 1600, 6)
        assert s.running()


def test_who_has_not_heard_of_the_mtu():
    """What came whole is written, and what fits is read."""
    with segment(mtu=9000), serving() as _, client() as c:
        c.settle()
        link("set", "dev", "srv0", "mtu", "8227")
        wait_until(lambda: c.config().sectors == 8, 10, "the smaller frames")
        c.write(0, pattern(1, 0, 16))
        assert c.read(0, 15) == pattern(1, 0, 15)
        c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.READ_EXT, 0, 16))
        assert c.read(8, 8) == pattern(1, 8, 8)
    with segment(mtu=9000):
        link("set", "dev", "srv0", "mtu", "8227")
        with serving() as _, client() as c:
            # More than it says, and than fit.
            c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.READ_EXT, 0, 16))
            c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.WRITE_EXT, 0, 16, bytes(16 * SECTOR)))


# ---- Links and addresses ------------------------------------------------------------------------


def test_a_link_that_comes_is_announced():
    with segment(), serving("ram:1M", "ram:1M") as s, client() as c:
        c.settle()
        for which in ("srv0", "srv0-sw"):  # the interface, and only its carrier
            c.write(0, pattern(1, 0, 2))
            since, asked = len(c.announcements), len(c.questions)
            down(which)
            assert silent(c)
            up(which)
            got = heard(c, 2, since)
            assert sorted(places(got)) == [(1, 0), (1, 1)], got
            assert {(q.shelf, q.slot) for q in c.questions[asked:]} == {(1, 0), (1, 1)}, "served without asking"
            assert c.read(0, 2) == pattern(1, 0, 2)
        says(s, "aoe-link-down")
        says(s, "aoe-link-up", 2)


def test_a_link_that_was_down_for_a_moment():
    with segment(), serving("ram:1M") as _, client() as c:
        c.settle()
        since = len(c.announcements)
        done = subprocess.run(["ip", "-batch", "-"], input="link set srv0 down\nlink set srv0 up\n", text=True, check=False)
        assert done.returncode == 0
        heard(c, 1, since)
        c.ping()


def test_a_link_that_flaps():
    """It is told how it is in the end, and not much more."""
    with segment(), serving("ram:1M") as s, client() as c:
        c.settle()
        since, asked, began = len(c.announcements), len(c.questions), time.monotonic()
        while time.monotonic() < began + 3:
            down("srv0")
            up("srv0")
        flapped = time.monotonic() - began
        heard(c, 1, since)
        time.sleep(2.5)
        c.settle()
        most = flapped + 4
        assert len(c.announcements) - since <= most, f"{len(c.announcements) - since} announcements"
        assert len(c.questions) - asked <= 3 * most, f"{len(c.questions) - asked} questions"
        assert len(s.stderr().splitlines()) <= 2 * most, s.stderr()
        c.ping()


def test_what_fitted_before_two_changes():
    """A client goes on with the writes it has split already, until it has asked anew. The bridge lets them in."""
    with segment("srv0", "cli", mtu=9000), serving(at="switch:1.0") as _, client(server="switch") as c:
        wait_until(lambda: c.config().sectors == 16, 10, "the larger frames")
        for mtu, sectors in ((4132, 8), (1500, 2)):
            link("set", "dev", "switch", "mtu", str(mtu))
            wait_until(lambda: c.config().sectors == sectors, 10, "the smaller frames")  # pylint: disable=cell-var-from-loop
            c.write(0, pattern(mtu, 0, 16))
            assert b"".join(c.read(lba, 2) for lba in range(0, 16, 2)) == pattern(mtu, 0, 16)
            c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.READ_EXT, 0, 16))


def test_an_interface_that_is_down_at_the_start():
    """It is said, as nobody is served."""
    for which in ("srv0", "srv0-sw"):  # the interface, and only its carrier
        with segment():
            down(which)
            wait_until(lambda: " state UP " not in ip("link", "show", "dev", "srv0").stdout, 10, "the link is down")
            with serving("ram:1M") as s, client() as c:
                says(s, "aoe-link-down")
                assert silent(c)
                assert re.fullmatch(r'\S+ warn aoe-link-down interface="srv0" downs=0\n', s.stderr()), s.stderr()
                up(which)
                assert places(heard(c, 1)) == [(1, 0)]
                c.write(0, pattern(1, 0, 2))
                assert c.read(0, 2) == pattern(1, 0, 2)
                says(s, "aoe-link-up")
                down(which)
                says(s, "aoe-link-down", 2)


def test_an_interface_that_is_no_ethernet():
    done = ip("tuntap", "add", "dev", "tun9", "mode", "tun")
    if done.returncode != 0:
        print("not tried:", done.stdout.strip())
        return
    try:
        for more in ("", ",xdp=on"):
            expect_error(2, "run", "ram:1M", "--port", "0", "--aoe", f"tun9:1.0{more}", says=["tun9", "no Ethernet", "ip link"], timeout=20)
    finally:
        link("del", "dev", "tun9")


def test_another_address():
    with segment(), serving("ram:1M") as _, client() as c:
        c.write(0, pattern(1, 0, 2))
        old, since = c.server_mac, len(c.announcements)
        c.settle()
        link("set", "dev", "srv0", "address", aoe.mac_text(OTHER))
        c.server_mac = OTHER
        got = heard(c, 1, since)
        assert got[0].src == OTHER, got
        assert c.read(0, 2) == pattern(1, 0, 2)
        assert places(c.discover()) == [(1, 0)]
        c.expect_silence(config_frame(dst=old))


# ---- Interfaces that go -------------------------------------------------------------------------


def count_fds(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def test_an_interface_is_made_anew():
    with segment(), serving("disk.img", args=["--size", "16M"]) as s, client() as c:
        Window(c, 2).write(0, 1000, 1)
        fds = count_fds(s)
        for n in range(5):
            unplug("srv0")
            c.settle()
            assert silent(c, dst=aoe.BROADCAST)
            since = len(c.announcements)
            plug("srv0")
            c.server_mac = aoe.mac_of("srv0")
            got = heard(c, 1, since)
            assert got[0].src == c.server_mac, got
            Window(c, 2).read(0, 200, 1)
            Window(c, 2).write(200 * n, 200, 1)
        Window(c, 2).read(0, 1000, 1)
        assert count_fds(s) == fds

        def told_last(event):
            lines = [line for line in s.stderr().splitlines() if f" aoe-{event}-" in line]
            return lines[-1].split()[2] if lines else None
        wait_until(lambda: told_last("interface") == "aoe-interface-back" and told_last("link") == "aoe-link-up", 5,
                   "the last of it in the log")
        assert s.stderr().count(" aoe-interface-back ") <= 5, s.stderr()


def test_an_interface_goes_while_data_move():
    """The client asks on until it is back, by whatever address."""
    with segment(), serving("fault:rule=write;delay=20ms:ram:16M") as s, client() as c:
        end = threading.Event()

        def change():
            while not end.wait(0.7):
                unplug("srv0")
                end.wait(0.3)
                plug("srv0")
                link("set", "dev", "srv0", "address", aoe.mac_text(c.server_mac))
                up("srv0")

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for seed in range(1, 4):
                Window(c, 2, rto_s=0.3).write(0, 400, seed)
                Window(c, 2, rto_s=0.3).read(0, 400, seed)
        finally:
            end.set()
            thread.join()
        wait_until(lambda: not silent(c), 10, "an answer")
        Window(c, 2).read(0, 400, 3)
        assert s.running()


def test_a_stop_without_an_interface():
    with segment(), serving("fault:rule=write;delay=500ms:ram:1M") as s, client() as c:
        for i in range(8):
            c.send(ata_frame(aoe.WRITE_EXT, 2 * i, 2, pattern(1, 2 * i, 2)))
        time.sleep(0.1)
        unplug("srv0")
        says(s, "aoe-interface-gone")
        s.stop()


def test_a_stop_while_it_asks():
    with segment():
        for delay in (0, 0.05, 0.2, 0.35):
            with serving("ram:1M") as s:
                down("srv0")
                says(s, "aoe-link-down")
                up("srv0")
                time.sleep(delay)
                s.stop()


def ask_for_much(c, n):
    for i in range(n):
        c.send(ata_frame(aoe.READ_EXT, i % 1000, 2))
        if i % 100 == 0:
            time.sleep(0.005)


@contextlib.contextmanager
def two_paths():
    """A server and its clients by both of its interfaces."""
    with segment(), serving("ram:16M", args=["--aoe", "srv1:1.0"]) as s:
        wait_until(lambda: len(answers_by_mac()) == 2, 10, "both paths")
        with client() as c, client(server="srv1", mac=OTHER) as other:
            c.settle()
            other.settle()
            yield s, c, other


def test_a_path_that_is_full():
    """What waits there is given up after a second, and does not keep the requests of the other one out."""
    with two_paths() as (s, c, other):
        if not aoe.throttle("srv0"):
            return
        ask_for_much(c, 10000)
        Window(other, 2, limit_s=20).write(0, 500, 1)
        Window(other, 2).read(0, 500, 1)
        ask_for_much(c, 10000)
        assert other.ask(ata_frame(aoe.READ_EXT, 0, 2), timeout_s=0.2, tries=5).data == pattern(1, 0, 2)
        wait_until(lambda: aoe.counts(s, "srv0")["unsent"] > 200, 5, "answers that were given up")


def test_a_link_that_is_full_goes_down():
    """What waits there is given up at once."""
    with two_paths() as (s, c, other):
        if not aoe.throttle("srv0"):
            return
        ask_for_much(c, 10000)
        down("srv0-sw")
        says(s, "aoe-link-down")
        assert len(other.ask(ata_frame(aoe.READ_EXT, 0, 2), timeout_s=0.1, tries=5).data) == 2 * SECTOR


def test_an_interface_that_is_full_goes():
    """What waits for room does not wait for ever: the next one of that name is served at once."""
    with segment(), serving("ram:16M") as s, client() as c:
        for n in range(2):
            if not aoe.throttle("srv0"):
                return
            ask_for_much(c, 10000)
            time.sleep(0.3)
            unplug("srv0")
            c.settle()
            since = len(c.announcements)
            plug("srv0")
            c.server_mac = aoe.mac_of("srv0")
            heard(c, 1, since)
            Window(c, 2).write(0, 500, n)
            Window(c, 2).read(0, 500, n)
        assert s.running()


def test_names():
    """It is the name that counts: away, back, and another one that has it."""
    with segment("srv0", "srv1", "cli"), serving("ram:1M") as s, client() as c:
        c.write(0, pattern(1, 0, 2))

        def rename(old, new):
            down(old)
            link("set", "dev", old, "name", new)
            up(new)

        rename("srv0", "away")
        says(s, "aoe-interface-gone")
        c.settle()
        assert silent(c, dst=aoe.BROADCAST)
        since = len(c.announcements)
        rename("away", "srv0")
        heard(c, 1, since)
        assert c.read(0, 2) == pattern(1, 0, 2)
        rename("srv0", "away")
        says(s, "aoe-interface-gone", 2)
        c.server_mac = aoe.mac_of("srv1")
        since = len(c.announcements)
        rename("srv1", "srv0")
        heard(c, 1, since)
        assert c.read(0, 2) == pattern(1, 0, 2)
        # In one breath: both are there all the time, by other names.
        c.server_mac = aoe.mac_of("away")
        since = len(c.announcements)
        done = subprocess.run(["ip", "-batch", "-"], input="link set srv0 down\nlink set srv0 name srv1\nlink set srv1 up\n"
                              "link set away down\nlink set away name srv0\nlink set srv0 up\n", text=True, check=False)
        assert done.returncode == 0
        heard(c, 1, since)
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_two_interfaces_change_names():
    with segment(), serving("ram:1M", args=["--aoe", "srv1:2.0"]) as s:
        first, second = aoe.mac_of("srv0"), aoe.mac_of("srv1")
        for one, two in ((second, first), (first, second)):
            done = subprocess.run(["ip", "-batch", "-"], input="link set srv0 down\nlink set srv1 down\nlink set srv0 name away\n"
                                  "link set srv1 name srv0\nlink set away name srv1\nlink set srv0 up\nlink set srv1 up\n",
                                  text=True, check=False)
            assert done.returncode == 0
            wait_until(lambda: answers_by_mac() == [one] and answers_by_mac(shelf=2) == [two], 10, "the other interfaces")
        assert s.running()


def test_other_names_of_an_interface():
    with segment():
        link("property", "add", "dev", "srv0", "altname", "second")
        with serving("ram:1M", at="second:1.0") as _, client() as c:
            c.ping()
        expect_error(4, "run", "ram:1M", "--port", "0", "--aoe", "srv0:1.0", "--aoe", "second:2.0", says=["second"], timeout=20)


# ---- Netlink ------------------------------------------------------------------------------------


def test_messages_that_are_lost():
    with segment(mtu=9000), serving("ram:1M") as s, client() as c:
        c.settle()
        os.kill(s.pid, signal.SIGSTOP)
        try:
            lines = "".join(f"link set dev srv1 mtu {1400 + n % 100}\n" for n in range(2000))
            done = subprocess.run(["ip", "-batch", "-"], input=lines + "link set dev srv0 mtu 4132\n", text=True, check=False)
            assert done.returncode == 0
            with open(f"/proc/{s.pid}/net/netlink", encoding="ascii") as f:
                drops = [int(line.split()[8]) for line in f if line.split()[1] == "0" and line.split()[2] == str(s.pid)]
            assert drops and max(drops) > 0, f"none was lost: {drops}"
            since = len(c.announcements)
        finally:
            os.kill(s.pid, signal.SIGCONT)
        assert {a.sectors for a in heard(c, 1, since)} == {8}
        # And it still listens.
        link("set", "dev", "srv0", "mtu", "1500")
        wait_until(lambda: c.config().sectors == 2, 10, "the smaller frames")


def test_messages_that_are_not_the_kernels():
    with segment(), serving("ram:1M") as s, client() as c:
        c.settle()
        since = len(c.announcements)
        index = socket.if_nametoindex("srv0")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as n:
            info = struct.pack("=BxHiII", 0, 1, index, 0, 0xFFFFFFFF)
            for kind in (16, 17):  # RTM_NEWLINK that says it is down, RTM_DELLINK
                message = struct.pack("=IHHII", 16 + len(info), kind, 0, 0, 0) + info
                for raw in (message, message[:20], message + bytes(5000), b"\xff" * 32, b""):
                    with contextlib.suppress(OSError):
                        n.sendto(raw, (s.pid, 0))
        c.ping()
        time.sleep(0.5)
        c.settle()
        assert len(c.announcements) == since and not c.questions, (c.announcements, c.questions)


def test_the_right_to_raw_sockets_is_enough():
    if not aoe.have("setpriv"):
        print("not tried: setpriv is not installed")
        return
    wrap = ["setpriv", "--inh-caps=-all,+net_raw", "--bounding-set=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--reuid=0",
            "--securebits=+noroot"]
    with segment(), serving("ram:1M", wrap=wrap) as s, client() as c:
        c.write(0, pattern(1, 0, 2))
        with open(f"/proc/{s.pid}/status", encoding="ascii") as f:
            caps = int(re.search(r"^CapEff:\s*(\w+)", f.read(), re.MULTILINE)[1], 16)
        assert caps == 1 << 13, f"{caps:#x}"
        since = len(c.announcements)
        unplug("srv0")
        c.settle()
        plug("srv0")
        c.server_mac = aoe.mac_of("srv0")
        heard(c, 1, since)
        assert c.read(0, 2) == pattern(1, 0, 2)


# ---- Who else is there --------------------------------------------------------------------------


def refused(*stores, at, by, place):
    done = expect_error(4, "run", *(stores or ("ram:1M",)), "--port", "0", "--aoe", at, timeout=20,
                        says=[f"disk {place} ", at.split(":")[0], aoe.mac_text(aoe.mac_of(by))])
    assert "another shelf or slot" in done, done


def test_a_place_that_another_server_has():
    with segment(), serving("ram:1M", "ram:1M") as s:
        refused(at="srv1:1.0", by="srv0", place="1.0")
        refused(at="srv1:1.1", by="srv0", place="1.1")
        refused("ram:1M", "ram:1M", "ram:1M", at="srv1:1.1", by="srv0", place="1.1")
        with serving("ram:1M", at="srv1:1.2") as _, client(1, 2, server="srv1", mac=OTHER) as d:
            d.ping()
        with client() as c:
            c.ping()
        assert s.running()


def refused_here(*stores, at, place, command=("run", "--port", "0"), wrap=()):
    """By another process on this machine, which no frame would tell of."""
    name, where = at.split(":")[0], f"spindle-aoe/{socket.if_nametoindex(at.split(':')[0])}/{place}"
    done = subprocess.run([*wrap, binary(), *command, *(stores or ("ram:1M",)), "--aoe", at], env=server_env(), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20, check=False)
    assert done.returncode == 4 and not done.stdout, done
    for text in (f"disk {place} ", name, "another process on this machine", "another shelf or slot", f"grep {where}"):
        assert text in done.stderr, f"no {text!r} in: {done.stderr}"
    ss = find_tool("ss")
    if ss is not None:
        found = subprocess.run([ss, "-xap"], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert [line for line in found.splitlines() if f"@{where} " in line and "spindle" in line], found


def test_a_place_that_another_process_has():
    """On the same interface, where neither hears the other."""
    with segment(), serving("ram:1M", "ram:1M") as s:
        refused_here(at="srv0:1.0", place="1.0")
        refused_here("ram:1M", "ram:1M", "ram:1M", at="srv0:1.1", place="1.1")
        link("property", "add", "dev", "srv0", "altname", "second")
        refused_here(at="second:1.1", place="1.1")
        with serving("ram:2M", at="srv0:1.2") as _, client(1, 2) as c:
            assert c.identify().size == 2 * MIB // SECTOR
            # The name ends with the process that has it.
            refused_here(at="srv0:1.2", place="1.2")
        with serving("ram:1M", at="srv0:1.2"), serving("ram:1M", at="srv0:2.0"), serving("ram:1M", at="srv1:3.0"):
            pass
        down("srv0")
        says(s, "aoe-link-down")
        up("srv0")
        says(s, "aoe-link-up")
        refused_here(at="srv0:1.0", place="1.0")
        wait_until(lambda: answers_by_mac() == [aoe.mac_of("srv0")], 10, "an answer, and one")
        with client() as c:
            c.ping()
        assert " aoe-taken " not in s.stderr(), s.stderr()


def test_a_place_of_a_process_that_is_killed():
    with segment(), serving("ram:2M", at="srv1:2.0") as other:
        for size in (1, 2, 3):
            with serving(f"ram:{size}M") as s, client() as c:
                assert c.identify().size == size * MIB // SECTOR
                s.kill()
        assert other.running()


def test_a_place_that_vblade_of_ours_has():
    with segment(), tempfile.TemporaryDirectory() as d:
        for name in ("one", "two"):
            with open(os.path.join(d, name), "wb") as f:
                f.truncate(MIB)
        with Vblade(ours(), 1, 0, "srv0", "one", cwd=d):
            expect_error(4, "compat", "vblade", "1", "0", "srv0", "two", cwd=d, timeout=20,
                         says=["disk 1.0 ", "srv0", "another process on this machine", "another shelf or slot"])
            refused_here(at="srv0:1.0", place="1.0")
            with Vblade(ours(), 1, 1, "srv0", "two", cwd=d):
                pass
        with Vblade(ours(), 1, 0, "srv0", "two", cwd=d):
            pass


def test_places_of_other_networks():
    """Interfaces of other namespaces have the same numbers."""
    nsenter = find_tool("nsenter")
    if nsenter is None:
        print("not tried: nsenter is not installed")
        return
    index = 4242
    with subprocess.Popen([find_tool("unshare"), "-n", "sleep", "600"], stdin=subprocess.DEVNULL) as other:
        try:
            wait_until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") != aoe.this_namespace(), 10, "the namespace")
            inside = [nsenter, f"--net=/proc/{other.pid}/ns/net"]
            for wrap in ([], inside):
                lines = f"link set lo up\nlink add twin index {index} type veth peer name twin-sw\nlink set twin-sw up\nlink set twin up\n"
                done = subprocess.run([*wrap, find_tool("ip"), "-batch", "-"], input=lines, text=True, check=False)
                assert done.returncode == 0
            with serving("ram:1M", at="twin:1.0"), serving("ram:1M", at="twin:1.0", wrap=inside):
                refused_here(at="twin:1.0", place="1.0")
                refused_here(at="twin:1.0", place="1.0", wrap=inside)
        finally:
            ip("link", "del", "dev", "twin")
            other.kill()


def sizes(seconds=1.0):
    """Of the disks that answer for 1.0: one size for each answer."""
    frame = ata_frame(aoe.IDENTIFY, count=1, shelf=1, slot=0, tag=0x1234, dst=aoe.mac_of("srv0"), src=aoe.mac_of("cli"))
    return [aoe.parse_identity(a.data).size * SECTOR // MIB for a in answers(frame, "cli", seconds)]


def test_a_process_that_waits_for_anothers_place():
    """While its interface goes, is made anew, changes its name: one of them serves."""
    with segment():
        down("srv0")
        with serving("ram:1M") as s, serving("ram:2M", at="srv0:1.0") as t:
            up("srv0")
            wait_until(lambda: s.stderr().count(" aoe-taken ") + t.stderr().count(" aoe-taken ") == 1, 10, "one that has lost")
            loser = t if " aoe-taken " in t.stderr() else s
            line = next(line for line in loser.stderr().splitlines() if " aoe-taken " in line)
            assert 'disk="1.0"' in line and 'by="another process on this machine"' in line and 'interface="srv0"' in line, line

            def one_serves():
                wait_until(lambda: len(sizes(0.3)) == 1, 15, "one that answers")
                owner = sizes()
                assert owner in ([1], [2])
                # However often the other one asks.
                end = time.monotonic() + 7
                while time.monotonic() < end:
                    assert sizes(0.3) == owner
                return s if owner == [1] else t
            assert one_serves() is not loser
            for _ in range(2):
                unplug("srv0")
                plug("srv0")
                one_serves()
            down("srv0")
            link("set", "dev", "srv0", "name", "away")
            says(s, "aoe-interface-gone")
            link("set", "dev", "away", "name", "srv0")
            up("srv0")
            winner = one_serves()
            winner.kill()
            left = s if winner is t else t
            wait_until(lambda: sizes(0.3) == [1 if left is s else 2], 15, "the one that is left")
            says(left, "aoe-free")


def test_claims_that_there_are_no_descriptors_for():
    with segment():
        done = subprocess.run(["sh", "-c", 'ulimit -n 150; exec "$0" "$@"', binary(), "run", "--no-iscsi", *["null:1M"] * 200, "--aoe",
                               "srv0:1.0"], env=server_env(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=30, check=False)
        assert done.returncode == 1 and not done.stdout, done
        assert "who is there" in done.stderr and "ulimit -n" in done.stderr, done
        with serving("ram:1M", at="srv0:1.0") as _, client() as c:
            c.ping()


def test_a_place_that_another_program_has():
    vblade = find_tool("vblade")
    if vblade is None:
        print("not tried: vblade is not installed")
        return
    with segment(), open("/dev/null", "wb") as null:
        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"spindle-aoe-links-{os.getpid()}")
        with open(path, "wb") as f:
            f.truncate(MIB)
        other = subprocess.Popen([vblade, "1", "0", "srv0", path], stdin=subprocess.DEVNULL, stdout=null, stderr=null)
        try:
            wait_until(lambda: answers_by_mac(), 10, "vblade")
            refused(at="srv1:1.0", by="srv0", place="1.0")
        finally:
            other.kill()
            other.wait()
            os.unlink(path)
        with serving("ram:1M", at="srv1:1.0") as _, client(server="srv1") as c:
            c.ping()


def test_a_place_that_is_taken_when_the_link_comes():
    with segment():
        down("srv0")
        with serving("ram:1M", "ram:1M") as s:
            with serving("ram:2M", at="srv1:1.0") as _:
                up("srv0")
                says(s, "aoe-taken")
                line = next(line for line in s.stderr().splitlines() if " aoe-taken " in line)
                assert 'disk="1.0"' in line and aoe.mac_text(aoe.mac_of("srv1")) in line and 'interface="srv0"' in line, line
                # The other disk is served, and this one is by its owner alone, however often it is asked for.
                end = time.monotonic() + 8
                while time.monotonic() < end:
                    assert answers_by_mac() == [aoe.mac_of("srv1")]
                    assert answers_by_mac(slot=1) == [aoe.mac_of("srv0")]
                assert s.stderr().count(" aoe-taken ") == 1, s.stderr()
            wait_until(lambda: answers_by_mac() == [aoe.mac_of("srv0")], 15, "the place that is free")
            says(s, "aoe-free")
            with client() as c:
                assert c.identify().size == MIB // SECTOR


def start_two_at_once(more="", names=("srv0", "srv1")):
    for _ in range(5):
        started = [subprocess.Popen([binary(), "run", "ram:1M", "--port", "0", "--json", "--aoe", f"{name}:1.0{more}"],
                                    env=server_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    text=True) for name in names]
        lines = [p.stdout.readline() for p in started]
        try:
            assert sum(bool(line) for line in lines) == 1, lines
            owner = aoe.mac_of(names[0] if lines[0] else names[1])
            wait_until(lambda: answers_by_mac() == [owner], 10, "an answer")
        finally:
            for p, line in zip(started, lines):
                if line:
                    p.send_signal(signal.SIGTERM)
            codes = []
            for p in started:
                _, err = p.communicate(timeout=30)
                codes.append(p.returncode)
                assert "Sanitizer" not in err, err
        assert sorted(codes) == [0, 4], codes


def test_two_that_start_at_once():
    """One of them has it."""
    with segment():
        start_two_at_once()


def test_two_that_start_at_once_on_one_interface():
    with segment():
        start_two_at_once(names=("srv0", "srv0"))


def test_two_that_start_at_once_by_xdp():
    """A question to everybody is heard by the system, too."""
    with segment():
        try:
            serving("ram:1M", at="srv0:1.0,xdp=on").stop()
        except AssertionError:
            print("not tried: no AF_XDP here")
            return
        start_two_at_once(",xdp=on")


def test_two_whose_links_come_at_once():
    with segment():
        down("srv0", "srv1")
        with serving("ram:1M") as s, serving("ram:1M", at="srv1:1.0") as t:
            for _ in range(3):
                done = subprocess.run(["ip", "-batch", "-"], input="link set srv0 up\nlink set srv1 up\n", text=True, check=False)
                assert done.returncode == 0
                wait_until(lambda: len(answers_by_mac()) == 1, 15, "one that answers")
                for _ in range(5):
                    found = answers_by_mac()
                    assert len(found) == 1, found
                down("srv0", "srv1")
                time.sleep(1.1)
            assert s.running() and t.running()


def test_paths_of_one_server():
    """Two interfaces on one switch are two paths, and no other server."""
    with segment(), serving("ram:1M", args=["--aoe", "srv1:1.0"]) as s:
        both = sorted([aoe.mac_of("srv0"), aoe.mac_of("srv1")])
        wait_until(lambda: sorted(answers_by_mac()) == both, 10, "both paths")
        for name in ("srv0", "srv1"):
            down(name)
            up(name)
            wait_until(lambda: sorted(answers_by_mac()) == both, 10, "both paths again")
        down("srv0", "srv1")
        up("srv0", "srv1")
        wait_until(lambda: sorted(answers_by_mac()) == both, 10, "both paths at once")
        assert " aoe-taken " not in s.stderr(), s.stderr()


def test_many_disks_start_quickly():
    def start_s(args):
        began = time.monotonic()
        with Spindle(*["null:1M"] * 64, args=args):
            return time.monotonic() - began
    with segment():
        without = min(start_s([]) for _ in range(3))
        among = min(start_s(["--aoe", "srv0:1.0"]) for _ in range(3))
        assert among - without < 0.9, f"{among:.2f} s, and {without:.2f} s without"
        with serving(*["null:1M"] * 64) as _, client() as c:
            c.settle()
            assert len(c.discover()) == 64
            since = len(c.announcements)
            down("srv0")
            up("srv0")
            assert sorted(places(heard(c, 64, since))) == [(1, slot) for slot in range(64)]
            time.sleep(1.2)
            c.settle()
            assert len(c.announcements) - since == 64


# ---- Where a frame belongs ----------------------------------------------------------------------


def tagged(frame, vid, src):
    frame.src = src
    raw = frame.pack()
    return raw[:12] + struct.pack(">HH", 0x8100, vid) + raw[12:]


def test_frames_of_a_vlan():
    """What is tagged for another network is not this interface's; a tag that names none means nothing."""
    with segment(), serving("ram:1M") as _, client() as c:
        c.settle()

        def ask(vid, dst):
            tag = c.new_tag()
            frame = config_frame(shelf=1, slot=0, tag=tag, dst=dst)
            c.sent[tag] = aoe.Sent(frame, 1)
            c.send_raw(tagged(frame, vid, c.mac))
            return c.receive(0.3)
        for dst in (c.server_mac, aoe.BROADCAST):
            for vid in (1, 5, 100, 4094, 0xE005):
                assert ask(vid, dst) is None, f"VLAN {vid} on the parent"
        for dst in (c.server_mac, aoe.BROADCAST):
            for vid in (0, 0xE000):
                answer = ask(vid, dst)
                assert answer is None or answer.slot == 0, answer
        c.write(0, pattern(1, 0, 2))
        tag = c.new_tag()
        frame = ata_frame(aoe.WRITE_EXT, 0, 2, bytes(2 * SECTOR), shelf=1, slot=0, tag=tag, dst=c.server_mac)
        c.sent[tag] = aoe.Sent(frame, 1)
        c.send_raw(tagged(frame, 7, c.mac))
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_vlans():
    """Each is a network of its own, in which the same place is another disk's."""
    with segment(), contextlib.ExitStack() as stack:
        networks = ("", ".5", ".6")
        for side in ("srv0", "cli"):
            for vid in (5, 6):
                done = ip("link", "add", "link", side, "name", f"{side}.{vid}", "type", "vlan", "id", str(vid))
                if done.returncode != 0:
                    print(f"not tried: {done.stdout.strip()}")
                    return
                up(f"{side}.{vid}")
        for n, which in enumerate(networks):
            stack.enter_context(serving(f"ram:{n + 1}M", at=f"srv0{which}:1.0"))
        for which in networks:
            wait_until(lambda: len(answers_by_mac(f"cli{which}")) == 1, 10, "one answer")  # pylint: disable=cell-var-from-loop
        for n, which in enumerate(networks):
            with client(interface=f"cli{which}", server=f"srv0{which}") as c:
                assert c.identify().size == (n + 1) * MIB // SECTOR
                Window(c, 2).write(0, 500, n)
        for n, which in enumerate(networks):
            with client(interface=f"cli{which}", server=f"srv0{which}") as c:
                Window(c, 2).read(0, 500, n)


def test_an_interface_that_has_others():
    """Each disk is where it was put, and on none of the others, though they share a cable."""
    with segment():
        for name in ("mac0", "mac1"):
            done = ip("link", "add", "link", "srv0", "name", name, "type", "macvlan", "mode", "bridge")
            if done.returncode != 0:
                print(f"not tried: {done.stdout.strip()}")
                return
            up(name)
        with serving("ram:1M", at="mac0:1.0") as _, serving("ram:2M", at="mac1:2.0") as _, serving("ram:3M", at="srv0:3.0") as _:
            for shelf, server, size in ((1, "mac0", 1), (2, "mac1", 2), (3, "srv0", 3)):
                wait_until(lambda: answers_by_mac(shelf=shelf) == [aoe.mac_of(server)], 10, server)
                with client(shelf, server=server) as c:
                    assert c.identify().size == size * MIB // SECTOR
                    for other in {1, 2, 3} - {shelf}:
                        # The kernel shows it to the interface below, too.
                        c.expect_silence(config_frame(shelf=other, dst=c.server_mac),
                                         ata_frame(aoe.WRITE_EXT, 0, 2, pattern(1, 0, 2), shelf=other))
            refused(at="mac1:1.0", by="mac0", place="1.0")


main(globals())
