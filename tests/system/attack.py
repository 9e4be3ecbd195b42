"""
Floods: thousands of idle sessions and half-open connections, logins without end, aborted, with a wrong password, garbage,
logins of a byte a second. A session that was there works on, memory stays bounded, and afterwards nothing is left.

test_victim measures reads of one block at a time with each attack and without, in turn. The figures are only worth
something if it is the server that is measured and not the scheduler: attackers are a process of one thread each that
is niced and kept to one core, and the victim has another. Judged is the best of several rounds, at twice the bound; SPINDLE_SOAK:
longer ones, the one in the middle, and the bound. Under a sanitizer only what is left behind is judged.
"""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import time

from harness import KIB, MIB, Spindle, is_sanitized, main, wait_until

import iscsi
import pdu as P

SOAK = bool(os.environ.get("SPINDLE_SOAK"))
SLOW = is_sanitized()
MANY = 150 if SLOW else 2000
ALL_CORES = os.sched_getaffinity(0)
SECRET = "0123456789abcdef"
ROUND_S, ROUNDS = (3, 9) if SOAK else (0.4, 7)
LOGIN_S = 15


def descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def let_me_open(n):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(n, hard), hard))


def works(server, victim, **more):
    """One that was there, and one that comes now."""
    data = iscsi.pattern(4 * KIB, 3)
    victim.write(64, data)
    assert victim.read(64, 8) == data
    with iscsi.login(server.portals[0], server.iqn(), isid=iscsi.ISID + 0x900000, **more) as s:
        s.settle()
        assert s.read(64, 8) == data
        s.logout()


@contextlib.contextmanager
def left_as_it_was(server):
    """In the end no descriptor and no session more than before, when one may have been about to go."""
    def left():
        up, down = events(server)
        return descriptors(server), up - down

    before = left()
    yield
    wait_until(lambda: all(now <= then for now, then in zip(left(), before)), 30, f"only {before} descriptors and sessions are left")


def events(server):
    said = server.stderr()
    return said.count(" session-up "), said.count(" session-down ")


def login_bytes(server, name="iqn.2026-11.org.example:flood", isid=iscsi.ISID):
    keys = {"InitiatorName": name, "TargetName": server.iqn()}
    flags = P.FINAL | P.OPERATIONAL << 2 | P.FULL_FEATURE
    return P.Pdu(P.LOGIN_REQUEST, P.pack_keys(keys), immediate=True, flags=flags, isid=isid, itt=1, cmdsn=1).pack()


def connect(server):
    return socket.create_connection(server.portals[0], 20)


def is_closed(sock, seconds):
    sock.settimeout(seconds)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# ---- thousands

def test_thousands_of_sessions_and_half_open_connections():
    let_me_open(2 * MANY + 500)
    with Spindle("ram:16M", args=["--verbose"]) as server:
        victim = iscsi.login(server.portals[0], server.iqn())
        victim.settle()
        works(server, victim)
        rss = server.rss_bytes()
        with left_as_it_was(server), contextlib.ExitStack() as stack:
            sessions = []
            for i in range(MANY):
                s = stack.enter_context(connect(server))
                s.sendall(login_bytes(server, isid=iscsi.ISID + 1 + i))
                sessions.append(s)
                if len(sessions) % 50 == 0:
                    works(server, victim)
            for s in sessions:
                assert len(s.recv(48, socket.MSG_WAITALL)) == 48, "a login was not answered"
            wait_until(lambda: events(server)[0] - events(server)[1] == MANY + 1, 30, "all sessions are there")
            half_open = [stack.enter_context(connect(server)) for _ in range(MANY)]
            began = time.monotonic()
            for i, s in enumerate(half_open):
                s.sendall(login_bytes(server)[:i % 60])
            works(server, victim)
            grown = server.rss_bytes() - rss
            print(f"{MANY} sessions and {MANY} half-open connections: {grown / MIB:.1f} MiB")
            assert SLOW or grown < MANY * 40 * KIB, f"{grown} bytes"
            drip(server, half_open[-20:], began)
            for s in half_open:
                assert is_closed(s, 20), "a half-open connection is kept"
            assert time.monotonic() - began < LOGIN_S + 20
            works(server, victim)
            wait_until(lambda: events(server)[0] - events(server)[1] == MANY + 1, 10, "all sessions are there still")
        works(server, victim)
        victim.close()


def drip(server, socks, began):
    """A byte a second keeps nobody alive: the login as a whole has its time."""
    raw = login_bytes(server)
    for s in socks:
        s.setblocking(False)
    for i in range(60, 60 + LOGIN_S + 5):
        time.sleep(1)
        ended = 0
        for s in socks:
            try:
                s.send(raw[i:i + 1])
                ended += s.recv(1) == b""
            except BlockingIOError:
                pass
            except OSError:
                ended += 1
        if ended == len(socks):
            took = time.monotonic() - began
            assert took > 5, f"ended after {took:.1f} s"
            return
    raise AssertionError(f"{len(socks) - ended} logins of a byte a second are still there")


# ---- attacks without end: each is a loop of one thread

def one_login(server, n):
    with connect(server) as s:
        s.sendall(login_bytes(server, isid=iscsi.ISID + 0x1000 + n % 100))
        s.recv(48, socket.MSG_WAITALL)
        s.sendall(P.Pdu(P.LOGOUT_REQUEST, immediate=True, flags=P.FINAL, itt=2, cmdsn=1).pack())
        while s.recv(4096):
            pass


def one_aborted_login(server, n):
    raw = login_bytes(server, isid=iscsi.ISID + 0x1000 + n % 100)
    with connect(server) as s:
        s.sendall(raw[:len(raw) * (n % 4 + 1) // 4])
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def one_refused_login(server, n):
    with connect(server) as s:
        s.sendall(login_bytes(server, name=f"iqn.2026-11.org.example:\x1b{n}").replace(b"TargetName=", b"TargetNama="))
        while s.recv(4096):
            pass


def one_wrong_password(server, n):
    with iscsi.Conn(server.portals[0]) as c:
        c.login_step({"InitiatorName": "iqn.a.b:c", "TargetName": server.iqn(), "AuthMethod": "CHAP"}, csg=P.SECURITY)
        c.login_step({"CHAP_A": "7"}, csg=P.SECURITY)
        try:
            c.login_step({"CHAP_N": "alice", "CHAP_R": "0x" + "ab" * 32}, csg=P.SECURITY, nsg=P.OPERATIONAL)
        except iscsi.LoginRefused as e:
            assert e.status == 0x0201, hex(e.status)


def one_garbage(server, n):
    with connect(server) as s:
        s.sendall(os.urandom(400) if n % 2 else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


held = []


def one_half_open(server, n):
    held.append(connect(server))
    if len(held) > 300:
        held.pop(0).close()


BOUND = 2  # how many times as long reads may take
ATTACKS = (one_login, one_aborted_login, one_refused_login, one_wrong_password, one_garbage, one_half_open)


@contextlib.contextmanager
def on_one_core():
    """This process, not the server, which has started on all."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})
    yield
    os.sched_setaffinity(0, own)


def attacker(one, server, goes, ends, count):
    os.nice(19)
    os.sched_setaffinity(0, {max(ALL_CORES)})
    while not ends.is_set():
        if not goes.wait(0.05):
            continue
        with contextlib.suppress(OSError, iscsi.Closed, AssertionError):
            one(server, count.value)
        count.value += 1


class Attacker:
    def __init__(self, one, server):
        self.goes, self.ends = multiprocessing.Event(), multiprocessing.Event()
        self.count = multiprocessing.Value("l", 0, lock=False)
        self.process = multiprocessing.Process(target=attacker, args=(one, server, self.goes, self.ends, self.count),
                                               daemon=True)
        self.process.start()

    def end(self):
        self.ends.set()
        self.goes.set()
        self.process.join(30)
        assert not self.process.is_alive(), "the attacker hangs"


def chap_login(server):
    """A session that has proven who it is."""
    s = iscsi.Session(server.portals[0])
    s.login_step({"InitiatorName": iscsi.INITIATOR, "TargetName": server.iqn(), "AuthMethod": "CHAP"}, csg=P.SECURITY)
    asked = dict(s.login_step({"CHAP_A": "7"}, csg=P.SECURITY).keys)
    answer = hashlib.sha256(bytes([int(asked["CHAP_I"])]) + SECRET.encode() + bytes.fromhex(asked["CHAP_C"][2:]))
    s.login_step({"CHAP_N": "alice", "CHAP_R": "0x" + answer.hexdigest()}, csg=P.SECURITY, nsg=P.OPERATIONAL)
    s.answers = s.login_step({"MaxRecvDataSegmentLength": 262144}, nsg=P.FULL_FEATURE).keys
    s.offered = {"MaxRecvDataSegmentLength": 262144}
    s.enter_full_feature()
    s.settle()
    return s


def plain_login(server):
    s = iscsi.login(server.portals[0], server.iqn())
    s.settle()
    return s


@contextlib.contextmanager
def server_for(one):
    server = Spindle("ram:16M", args=["--verbose"])
    if one is one_wrong_password:
        path = os.path.join(server.dir, "secret")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as f:
            f.write(SECRET)
        server.args += ["--chap", "alice:secret"]
    with server:
        yield server


def measure(s, seconds):
    """p99 in microseconds of 4 KiB reads, one at a time."""
    times, until = [], time.perf_counter() + seconds
    p = s.scsi_pdu(iscsi.read10(0, 8), 4 * KIB, read=True)
    s.cmdsn = p.cmdsn
    # On a machine that is busy with other things a round may pass without any.
    while time.perf_counter() < until or len(times) < 100:
        p.cmdsn, p.expstatsn = s.cmdsn, s.expstatsn
        raw = p.pack()
        began = time.perf_counter()
        s.sock.sendall(raw)
        got = s.sock.recv(48 + 4 * KIB, socket.MSG_WAITALL)
        times.append(time.perf_counter() - began)
        assert got[0] == P.DATA_IN and got[1] & P.STATUS and got[3] == 0, got[:48].hex()
        s.cmdsn, s.expstatsn = iscsi.add(s.cmdsn), iscsi.add(s.expstatsn)
    return statistics.quantiles(times, n=100)[98] * 1e6


def under_attack(one):
    """[(calm, attacked)] a round."""
    rounds = []
    with server_for(one) as server, on_one_core():
        attack = Attacker(one, server)
        victim = (chap_login if one is one_wrong_password else plain_login)(server)
        rss = server.rss_bytes()
        try:
            with left_as_it_was(server):
                victim.sock.settimeout(20)
                measure(victim, 0.2)
                for _ in range(1 if SLOW else ROUNDS):
                    calm = measure(victim, ROUND_S)
                    attack.goes.set()
                    wait_until(lambda: attack.count.value > 0, 30, "it attacks")
                    attacked = measure(victim, ROUND_S)
                    attack.goes.clear()
                    rounds.append((calm, attacked))
                attack.end()
        finally:
            attack.ends.set()
        grown = server.rss_bytes() - rss
        assert SLOW or grown < 16 * MIB, f"{one.__name__}: {grown} bytes more"
        lines = server.stderr().count(" login-refused ")
        assert lines <= 12 * (3 + ROUNDS * ROUND_S // 5), f"{lines} lines of refusals in the log"
        victim.close()
    return rounds, attack.count.value


def test_victim():
    gc.disable()
    try:
        for one in ATTACKS:
            rounds, count = under_attack(one)
            ratios = sorted(attacked / calm for calm, attacked in rounds)
            calm, attacked = (statistics.median(r[i] for r in rounds) for i in (0, 1))
            middle = statistics.median(ratios)
            print(f"{one.__name__}: {count} of them; p99 {calm:.0f} us without, {attacked:.0f} us with; ratio "
                  f"{ratios[0]:.2f} to {ratios[-1]:.2f}, in the middle {middle:.2f}", flush=True)
            judged = middle if SOAK else ratios[0]
            # A machine with other work on it finds what starves a victim, and measures nothing.
            bound = BOUND * (1 if SOAK else 2)
            assert SLOW or judged <= bound, f"{one.__name__}: {ratios}"
    finally:
        gc.enable()


main(globals())
