"""
Frames past most of the kernel, by AF_XDP: the same disk to its clients, and the same interface to everybody else.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time

from harness import Spindle, can_trace, expect_error, main, need_tool, skip, traced, wait_until

import aoe
from aoe import Window, ata_frame, pattern

aoe.in_namespace()

SEED = random.SystemRandom().randrange(1 << 32)
PLACE = f"{aoe.SERVER_SIDE}:1.0,xdp=on"
OTHER_TYPE, ETH_P_ALL = 0x88B5, 3  # for experiments; whatever comes


def both(*stores, **more):
    return aoe.both(*(stores or ("ram:16M",)), options=",xdp=on", **more)


def has_program():
    return "xdp" in aoe.ip("link", "show", aoe.SERVER_SIDE).stdout


def test_windows():
    with both() as (_, c):
        assert has_program(), "no program at the interface"
        print("by any driver" if "xdpgeneric" in aoe.ip("link", "show", aoe.SERVER_SIDE).stdout else "by its own driver")
        for window in (1, 16, 64):
            Window(c, 2, window=window).write(0, 4000, SEED + window)
            Window(c, 2, window=window).read(0, 4000, SEED + window)
        assert [(a.shelf, a.slot) for a in c.discover()] == [(1, 0)]
    assert not has_program(), "the program is still there"


def test_after_a_kill():
    """The program ends with the process, whatever becomes of that."""
    for _ in range(2):
        with both() as (s, c):
            c.write(0, pattern(SEED, 0, 2))
            s.kill()
        wait_until(lambda: not has_program(), 5, "the end of the program")


def test_long_frames():
    """They go the usual way."""
    with aoe.with_mtu(9000), both() as (_, c):
        assert c.config().sectors == 16
        Window(c, 16).write(0, 8000, SEED)
        Window(c, 16).read(0, 8000, SEED)
        Window(c, 2).read(0, 8000, SEED)


def test_frames_of_others():
    """Those of another type are the system's."""
    with both() as (_, c), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(OTHER_TYPE)) as sock:
        sock.bind((aoe.SERVER_SIDE, OTHER_TYPE))
        sock.settimeout(5)
        frame = aoe.mac_of(aoe.SERVER_SIDE) + aoe.mac_of(aoe.CLIENT_SIDE) + OTHER_TYPE.to_bytes(2, "big") + bytes(46)
        c.send_raw(frame)
        assert sock.recv(2000)[:len(frame)] == frame
        c.ping()


@contextlib.contextmanager
def behind_the_interface():
    """What a bridge or other addresses there would get: requests that come by it, as they are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(aoe.ETHERTYPE)) as sock:
        sock.bind((aoe.SERVER_SIDE, aoe.ETHERTYPE))
        sock.settimeout(0.3)
        yield sock


def is_heard(sock, raw):
    with contextlib.suppress(socket.timeout):
        while True:
            if sock.recv(2000) == raw:
                return True
    return False


def test_other_addresses():
    """What is sent to them is theirs, also when the interface has another one than before."""
    own, other, third = aoe.mac_of(aoe.SERVER_SIDE), bytes.fromhex("0280ff000055"), bytes.fromhex("fe80ff000055")
    with both() as (_, c):
        def check(mac):
            with behind_the_interface() as sock:
                for to in (own, other, third):
                    frame = ata_frame(aoe.READ_EXT, 0, 1, dst=to)
                    if to == mac:
                        assert c.ask(frame).status == aoe.GOOD
                    else:
                        c.expect_silence(frame)
                    assert is_heard(sock, frame.pack(60)) == (to != mac), (to, mac)

        check(own)
        for mac in (other, third, own):
            c.server_mac = mac
            since = len(c.announcements)
            set_address(mac)
            wait_until(lambda: c.receive(0.05) or len(c.announcements) > since, 15, "an announcement")  # pylint: disable=cell-var-from-loop
            check(mac)


def test_another_server_on_the_interface():
    """What is not for a disk of ours goes to whoever has that one."""
    with both("ram:16M", "ram:16M") as (_, c), Spindle("ram:2M", args=["--no-iscsi", "--aoe", f"{aoe.SERVER_SIDE}:2.0"]), \
         aoe.client(2, 0, mac=bytes.fromhex("020000000003")) as d, aoe.client(1, 1, mac=bytes.fromhex("020000000004")) as second:
        for who in (c, d, second):
            who.settle()
        assert d.identify().size == 2 << 20 >> 9
        for n, who in enumerate((c, d, second)):
            Window(who, 2).write(0, 500, SEED + n)
        for n, who in enumerate((c, d, second)):
            Window(who, 2).read(0, 500, SEED + n)


def test_answers_while_it_is_down():
    """They are lost, cost nothing, and do not come when it is up again."""
    with both("fault:rule=read;delay=500ms:ram:16M") as (s, c), \
         socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind((aoe.CLIENT_SIDE, ETH_P_ALL))
        wire.settimeout(0.5)
        for lba in range(0, 80, 2):
            c.send(ata_frame(aoe.READ_EXT, lba, 2))
        aoe.ip("link", "set", "dev", aoe.SERVER_SIDE, "down")
        time.sleep(0.7)
        used = cpu_s(s)
        time.sleep(1)
        assert cpu_s(s) - used < 0.1
        with contextlib.suppress(OSError):
            while True:
                wire.recv(2000, socket.MSG_DONTWAIT)
        aoe.ip("link", "set", "dev", aoe.SERVER_SIDE, "up")
        wait_until(lambda: c.discover(), 10, "the disk")
        old = []
        with contextlib.suppress(socket.timeout):
            while True:
                frame = wire.recv(2000)
                if frame[6:12] == c.server_mac and len(frame) > 1000:
                    old.append(frame)
        assert all(frame[:14] == 2 * c.server_mac + bytes(2) for frame in old) and len(old) < 80, len(old)
        assert c.read(0, 2) == bytes(1024)


def set_address(mac):
    for args in (("down",), ("address", mac.hex(":")), ("up",)):
        done = aoe.ip("link", "set", "dev", aoe.SERVER_SIDE, *args)
        assert done.returncode == 0, done.stdout


def cpu_s(server):
    with open(f"/proc/{server.pid}/stat", encoding="utf-8") as f:
        user, system = f.read().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_long_frames_that_cannot_leave():
    """They wait, and nothing turns in circles meanwhile; the short ones go their own way."""
    aoe.set_mtu(9000)
    try:
        with both() as (s, c):
            if not aoe.throttle(aoe.SERVER_SIDE):
                return
            for lba in range(0, 3200, 16):
                c.send(ata_frame(aoe.READ_EXT, lba, 16))
            time.sleep(0.1)
            used, since = cpu_s(s), time.monotonic()
            time.sleep(0.8)
            used = (cpu_s(s) - used) / (time.monotonic() - since)
            assert used < 0.3, f"{used:.0%} of a CPU"
            wait_until(lambda: c.ask(ata_frame(aoe.READ_EXT, 0, 1), timeout_s=0.2, tries=10), 10, "a short one")
    finally:
        aoe.ip("link", "set", "dev", aoe.SERVER_SIDE, "down")
        aoe.ip("link", "set", "dev", aoe.SERVER_SIDE, "up")
        aoe.set_mtu(1500)


def test_garbage():
    rng = random.Random(SEED)
    with both() as (_, c):
        head = c.server_mac + c.mac + aoe.ETHERTYPE.to_bytes(2, "big")
        for _ in range(2000):
            c.send_raw(head + rng.randbytes(rng.randrange(1, 1400)))
        c.settle()
        c.write(0, pattern(SEED, 0, 2))
        assert c.read(0, 2) == pattern(SEED, 0, 2)


def test_more_than_there_is_room_for():
    """All of a burst that fits is answered in the end; what does not is lost, counted, and asked for again."""
    with both() as (s, c):
        os.kill(s.pid, signal.SIGSTOP)
        for lba in range(0, 6000, 2):
            c.send(ata_frame(aoe.READ_EXT, lba, 2))
        os.kill(s.pid, signal.SIGCONT)
        c.settle()
        assert aoe.counts(s)["lost"] > 0
        Window(c, 2).write(0, 2000, SEED)
        Window(c, 2).read(0, 2000, SEED)


def test_one_way_an_interface():
    expect_error(2, "run", "ram:1M", "ram:1M", "--no-iscsi", "--aoe", f"{aoe.SERVER_SIDE}:1.0", "--aoe",
                 f"{aoe.SERVER_SIDE}:2.0,xdp=on", says=["xdp=on"], timeout=20)
    expect_error(2, "run", "ram:1M", "--no-iscsi", "--aoe", f"{aoe.SERVER_SIDE}:1.0,xdp=potato", says=["potato"],
                 timeout=20)


def test_without_the_right():
    need_tool("setpriv")
    got = subprocess.run(["setpriv", "--bounding-set=-all,+net_raw,+dac_override", "--inh-caps=-all",
                          os.environ["SPINDLE"], "run", "ram:1M", "--no-iscsi", "--aoe", PLACE],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                         timeout=20)
    assert got.returncode == 5 and "xdp=on" in got.stderr, got


def test_a_kernel_that_breaks_off():
    """Its look at the program: EAGAIN, when something waits for the thread."""
    if not can_trace():
        print("not tried: strace is not installed, or may not trace here")
        return
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "trace")
        with both(**traced(out, "-e", "trace=bpf", "-e", "inject=bpf:error=EAGAIN:when=4..6")) as (_, c):
            c.write(0, pattern(SEED, 0, 2))
            assert c.read(0, 2) == pattern(SEED, 0, 2)
        with open(out, encoding="utf-8") as f:
            calls = [line for line in f.read().splitlines() if "BPF_PROG_LOAD" in line]
    assert sum("EAGAIN" in line for line in calls) == 3 and len(calls) == 4, calls


def test_counts():
    """SIGUSR1 says what came and went, by either way."""
    for options in (",xdp=on", ""):
        with aoe.both("fault:rule=read;delay=300ms;count=1:ram:1M", options=options) as (s, c):
            for _ in range(3):
                c.send(ata_frame(aoe.READ_EXT, 0, 1))
            assert c.receive() is not None
            counts = aoe.counts(s)
            assert counts["again"] == 2 and counts["lost"] == 0, counts
            assert counts["received"] >= 3 and counts["sent"] >= 2, counts


def allowed():
    """Some systems let nobody have it."""
    with contextlib.suppress(Exception), both():
        return True
    return False


if not allowed():
    skip("no AF_XDP here")
main(globals())
