"""
An initiator that does what a test tells it, right or wrong, and judges every PDU that comes back:
StatSN without a gap, windows that never go back, Data-In and R2T as negotiated.

    Conn      a TCP connection that carries PDUs
    login()   a Session: a Conn in the full feature phase, or LoginRefused
    Session   commands with all their data, checked as they move
"""

import os
import socket
import time

import pdu as P
from pdu import Pdu

INITIATOR = "iqn.2026-11.org.example:initiator"
ISID = 0x00023D000001
TIMEOUT_S = float(os.environ.get("SPINDLE_TEST_TIMEOUT", "20"))
BLOCK = 512

DEFAULTS = {"HeaderDigest": "None", "DataDigest": "None", "MaxRecvDataSegmentLength": 8192,
            "InitialR2T": "Yes", "ImmediateData": "Yes", "MaxBurstLength": 262144,
            "FirstBurstLength": 65536, "MaxOutstandingR2T": 1, "MaxConnections": 1,
            "ErrorRecoveryLevel": 0, "DefaultTime2Wait": 2, "DefaultTime2Retain": 20,
            "DataPDUInOrder": "Yes", "DataSequenceInOrder": "Yes"}


class Closed(Exception):
    """The peer closed the connection between two PDUs."""


class Mismatch(AssertionError):
    """Something else came than was expected."""


class LoginRefused(Exception):
    def __init__(self, status):
        super().__init__(f"login refused: {status:#06x}")
        self.status = status


def serial_lt(a, b):
    """a comes before b, in serial number arithmetic (RFC 1982)."""
    return a != b and ((b - a) & 0xFFFFFFFF) < 0x80000000


def add(sn, n=1):
    return (sn + n) & 0xFFFFFFFF


class Conn:
    def __init__(self, portal, cmdsn=1):
        family = socket.AF_INET6 if ":" in portal[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(portal)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.header_digest = self.data_digest = False
        self.cmdsn = cmdsn
        self.expstatsn = None
        self.expcmdsn = self.maxcmdsn = None
        self.answer_pings = True
        self.history = []
        self.itt = 0x1000

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- sending

    def next_itt(self):
        self.itt += 1
        return self.itt

    def send(self, p, header_digest=None, data_digest=None):
        """The digests of what goes out may be bytes of the test's own, to be wrong."""
        raw = p.pack(self.header_digest, self.data_digest)
        if header_digest is not None:
            at = P.BHS + len(P.pad(p.ahs))
            raw = raw[:at] + header_digest + raw[at + 4:]
        if data_digest is not None:
            raw = raw[:-4] + data_digest
        self._remember(">", p)
        self.sock.sendall(raw)

    def send_raw(self, data):
        self._remember(">", f"{len(data)} raw bytes")
        self.sock.sendall(data)

    def _remember(self, direction, what):
        self.history.append(f"{direction} {what!r}"[:400])
        del self.history[:-30]

    def fail(self, why):
        raise Mismatch(why + "\n  the last PDUs:\n    " + "\n    ".join(self.history))

    # ---- receiving

    def _read(self, n, deadline, at_start=False):
        out = b""
        while len(out) < n:
            left = deadline - time.monotonic()
            if left <= 0:
                self.fail(f"nothing came in time ({len(out)} of {n} bytes)")
            self.sock.settimeout(left)
            try:
                piece = self.sock.recv(n - len(out))
            except socket.timeout:
                continue
            except ConnectionResetError as e:
                raise Closed("reset") from e
            if not piece:
                if at_start and not out:
                    raise Closed("closed")
                self.fail(f"closed in the middle of a PDU ({len(out)} of {n} bytes)")
            out += piece
        return out

    def _read_digest(self, over, deadline, what):
        got = self._read(4, deadline)
        if got != P.digest(over):
            self.fail(f"wrong {what} digest: {got.hex()}, not {P.digest(over).hex()}")

    def _recv_any(self, deadline):
        p = Pdu()
        p.bhs[:] = self._read(P.BHS, deadline, at_start=True)
        ahs = self._read(p.ahslen * 4, deadline)
        if self.header_digest:
            self._read_digest(bytes(p.bhs) + ahs, deadline, "header")
        p.ahs = ahs
        if p.dsl:
            body = self._read(p.dsl + -p.dsl % 4, deadline)
            if self.data_digest:
                self._read_digest(body, deadline, "data")
            if any(body[p.dsl:]):
                self.fail(f"padding is not zero: {body[p.dsl:].hex()}")
            p.data = body[:p.dsl]
        self._remember("<", p)
        self._account(p)
        return p

    def _account(self, p):
        """Numbers that every PDU of a target carries (RFC 7143 4.2.2)."""
        if p.opcode not in P.LAYOUT:
            self.fail(f"unknown opcode from the target: {p!r}")
        if p.opcode == P.NOP_IN and p.itt == P.NONE:
            advances, checked = False, True
        elif p.opcode == P.DATA_IN:
            advances = checked = bool(p.flags & P.STATUS)
        elif p.opcode == P.R2T:
            advances, checked = False, True
        else:
            advances = checked = True
        if checked:
            if self.expstatsn is not None and p.statsn != self.expstatsn:
                self.fail(f"StatSN {p.statsn:#x}, expected {self.expstatsn:#x}: {p!r}")
            self.expstatsn = add(p.statsn) if advances else p.statsn
        if self.maxcmdsn is not None and serial_lt(p.maxcmdsn, self.maxcmdsn):
            self.fail(f"MaxCmdSN goes back from {self.maxcmdsn:#x} to {p.maxcmdsn:#x}: {p!r}")
        if self.expcmdsn is not None and serial_lt(p.expcmdsn, self.expcmdsn):
            self.fail(f"ExpCmdSN goes back from {self.expcmdsn:#x} to {p.expcmdsn:#x}: {p!r}")
        self.expcmdsn, self.maxcmdsn = p.expcmdsn, p.maxcmdsn

    def recv(self, timeout_s=None):
        deadline = time.monotonic() + (timeout_s or TIMEOUT_S)
        while True:
            p = self._recv_any(deadline)
            if p.opcode == P.NOP_IN and p.ttt != P.NONE and p.itt == P.NONE and self.answer_pings:
                self.send(Pdu(P.NOP_OUT, immediate=True, flags=P.FINAL, lun=p.lun, itt=P.NONE,
                              ttt=p.ttt, cmdsn=self.cmdsn, expstatsn=self.expstatsn))
                continue
            return p

    def check(self, p, opcode, **fields):
        if p.opcode != opcode:
            self.fail(f"expected {P.LAYOUT[opcode][0]}, got {p!r}")
        for name, want in fields.items():
            if getattr(p, name) != want:
                self.fail(f"expected {name}={want:#x}, got {getattr(p, name):#x}: {p!r}")
        return p

    def expect(self, opcode, timeout_s=None, **fields):
        return self.check(self.recv(timeout_s), opcode, **fields)

    def expect_close(self, timeout_s=None):
        """The peer closes; it says nothing more before."""
        try:
            p = self.recv(timeout_s)
        except Closed:
            return
        self.fail(f"expected the end of the connection, got {p!r}")

    def expect_reject(self, reason, of):
        """A Reject that carries the header of what it rejects (RFC 7143 11.17)."""
        p = self.expect(P.REJECT, itt=P.NONE, reason=reason)
        if p.data[:P.BHS] != bytes(of.bhs):
            self.fail(f"the Reject shows another header: {p.data!r}")
        return p

    def expect_silence(self, seconds=0.3):
        self.sock.settimeout(seconds)
        try:
            piece = self.sock.recv(1, socket.MSG_PEEK)
        except socket.timeout:
            return
        self.fail("expected nothing, got " + ("the end" if not piece else repr(self.recv())))

    def is_closed(self, timeout_s=5):
        """Reads the rest away; true when the end comes in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                if not self.sock.recv(65536):
                    return True
            except socket.timeout:
                return False
            except ConnectionError:
                return True
        return False

    # ---- login

    def login_pdu(self, keys=(), csg=P.OPERATIONAL, nsg=None, cont=False, isid=ISID, tsih=0, cid=0,
                  itt=0x77, vmin=0, vmax=0, data=None, **fields):
        """nsg: the stage to go on to, with T set; None: stay."""
        flags = csg << 2 | (P.CONTINUE if cont else 0)
        if nsg is not None:
            flags |= P.FINAL | nsg
        p = Pdu(P.LOGIN_REQUEST, P.pack_keys(keys) if data is None else data, immediate=True,
                flags=flags, isid=isid, tsih=tsih, cid=cid, itt=itt, vmin=vmin, vmax=vmax,
                cmdsn=self.cmdsn, expstatsn=self.expstatsn or 0)
        for name, value in fields.items():
            setattr(p, name, value)
        return p

    def login_step(self, *args, **kwargs):
        """One request and its answer, which must be for it; raises LoginRefused."""
        request = self.login_pdu(*args, **kwargs)
        self.send(request)
        answer = self.expect(P.LOGIN_RESPONSE, itt=request.itt, isid=request.isid)
        if answer.status >> 8:
            raise LoginRefused(answer.status)
        return answer


def login(portal, target=None, initiator=INITIATOR, keys=None, security=False, discovery=False,
          isid=ISID, cmdsn=1, cls=None, **more):
    """Security stage first when asked for; all operational keys in one request."""
    s = (cls or Session)(portal, cmdsn)
    try:
        s.log_in(target, initiator, dict(keys or {}), security, discovery, isid=isid, **more)
    except BaseException:
        s.close()
        raise
    return s


class Result:
    """How a command ended."""

    def __init__(self):
        self.status = None
        self.sense = b""
        self.flags = 0
        self.residual = 0
        self.data = bytearray()
        self.data_in = []
        self.r2ts = []
        self.response = None

    @property
    def sense_key(self):
        return self.sense[2] & 0x0F if len(self.sense) > 2 else None

    @property
    def asc(self):
        return (self.sense[12], self.sense[13]) if len(self.sense) > 13 else None

    def __repr__(self):
        return (f"<Result status={self.status} sense={self.sense.hex()} flags={self.flags:#x} "
                f"residual={self.residual} data[{len(self.data)}]>")


class Session(Conn):
    def __init__(self, portal, cmdsn=1):
        super().__init__(portal, cmdsn)
        self.params = dict(DEFAULTS)
        self.offered = {}
        self.answers = []
        self.tsih = 0
        self.waiting = {}

    # ---- login

    def log_in(self, target, initiator, keys, security, discovery, **more):
        who = [("InitiatorName", initiator)]
        if discovery:
            who.append(("SessionType", "Discovery"))
        if target:
            who.append(("TargetName", target))
        if security:
            self.answers += self.login_step(who + [("AuthMethod", "None")], csg=P.SECURITY,
                                            nsg=P.OPERATIONAL, **more).keys
            who = []
        keys.setdefault("MaxRecvDataSegmentLength", 262144)
        self.offered = keys
        answer = self.login_step(who + list(keys.items()), nsg=P.FULL_FEATURE, **more)
        self.answers += answer.keys
        if not (answer.final and answer.flags & 3 == P.FULL_FEATURE):
            self.fail(f"the login did not end: {answer!r}")
        if answer.tsih == 0:
            self.fail("a session without TSIH")
        self.tsih = answer.tsih
        self.enter_full_feature()

    def enter_full_feature(self):
        """The answers rule from here on."""
        for key, value in self.answers:
            if value in ("Reject", "Irrelevant", "NotUnderstood"):
                continue
            self.params[key] = int(value) if value.isdigit() else value
        self.target_dsl = self.params.get("MaxRecvDataSegmentLength", 8192)
        self.own_dsl = int(self.offered.get("MaxRecvDataSegmentLength", 8192))
        self.header_digest = self.params["HeaderDigest"] == "CRC32C"
        self.data_digest = self.params["DataDigest"] == "CRC32C"

    def answer(self, key):
        """What the target answered to a key, all times that it did."""
        return [v for k, v in self.answers if k == key]

    # ---- PDUs of the full feature phase

    def request(self, opcode, immediate=False, **fields):
        """A request with all numbers right; the test sends it, perhaps after a change."""
        fields.setdefault("flags", P.FINAL)
        fields.setdefault("itt", self.next_itt())
        p = Pdu(opcode, immediate=immediate, cmdsn=self.cmdsn, expstatsn=self.expstatsn, **fields)
        if not immediate:
            self.cmdsn = add(self.cmdsn)
        return p

    def nop(self, data=b"", immediate=True, **fields):
        p = self.request(P.NOP_OUT, immediate, data=data, ttt=P.NONE, **fields)
        self.send(p)
        return p

    def ping(self, data=b"ping"):
        """It is alive: a NOP-Out comes back."""
        p = self.nop(data)
        answer = self.recv_for(p.itt)
        self.check(answer, P.NOP_IN, ttt=P.NONE)
        if answer.data != data:
            self.fail(f"the NOP-In brings back {answer.data!r}")

    def scsi_pdu(self, cdb, edtl=0, read=False, write=False, final=True, data=b"", lun=0,
                 immediate=False, attr=1, **fields):
        flags = (P.FINAL if final else 0) | (P.READ if read else 0) | (P.WRITE if write else 0)
        return self.request(P.SCSI_COMMAND, immediate, flags=flags | attr, lun=lun << 48, edtl=edtl,
                            cdb=cdb, data=data, **fields)

    def data_out(self, command, ttt, datasn, offset, data, final):
        return Pdu(P.DATA_OUT, data, flags=P.FINAL if final else 0, lun=command.lun,
                   itt=command.itt, ttt=ttt, expstatsn=self.expstatsn, datasn=datasn,
                   offset=offset)

    def text(self, keys, ttt=P.NONE, final=True, itt=None, cont=False, data=None, immediate=False):
        flags = (P.FINAL if final else 0) | (P.CONTINUE if cont else 0)
        p = self.request(P.TEXT_REQUEST, immediate, flags=flags, ttt=ttt,
                         itt=itt or self.next_itt(),
                         data=P.pack_keys(keys) if data is None else data)
        self.send(p)
        return p

    def text_whole(self, keys):
        """A text request and its answer, gathered over all its PDUs."""
        p = self.text(keys)
        gathered = b""
        while True:
            answer = self.expect(P.TEXT_RESPONSE, itt=p.itt)
            gathered += answer.data
            if answer.final:
                self.check(answer, P.TEXT_RESPONSE, ttt=P.NONE)
                return P.unpack_keys(gathered)
            if answer.ttt == P.NONE:
                self.fail("an unfinished Text Response without a tag")
            self.send(self.request(P.TEXT_REQUEST, itt=p.itt, ttt=answer.ttt))

    def send_targets(self, which="All"):
        """[(name, [address, ...]), ...]"""
        out = []
        for key, value in self.text_whole({"SendTargets": which}):
            if key == "TargetName":
                out.append((value, []))
            elif key == "TargetAddress":
                out[-1][1].append(value)
            elif key != "TargetAlias":
                self.fail(f"{key}={value} in an answer to SendTargets")
        return out

    def logout(self, reason=0, cid=0):
        p = self.request(P.LOGOUT_REQUEST, immediate=True, flags=P.FINAL | reason, cid=cid)
        self.send(p)
        return self.expect(P.LOGOUT_RESPONSE, itt=p.itt)

    # ---- commands

    def recv_for(self, itt):
        """The next PDU of this task; those of others are kept for who asks for them."""
        if self.waiting.get(itt):
            return self.waiting[itt].pop(0)
        while True:
            p = self.recv()
            if p.itt == itt:
                return p
            self.waiting.setdefault(p.itt, []).append(p)

    def unsolicited(self, data):
        """How much goes out unasked, as immediate data and in all (RFC 7143 13.10, 13.11, 13.14)."""
        first = min(self.params["FirstBurstLength"], len(data))
        immediate = 0
        if self.params["ImmediateData"] == "Yes":
            immediate = min(first, self.target_dsl)
        return immediate, first if self.params["InitialR2T"] == "No" else immediate

    def open_slots(self):
        """Commands that the window allows now."""
        return 0 if serial_lt(self.maxcmdsn, self.cmdsn) else (self.maxcmdsn - self.cmdsn + 1) & 0xffffffff

    def command(self, cdb, read=0, write=None, **more):
        """Runs one command to its end, with all its data."""
        p = self.start(cdb, read, write, **more)
        return self.finish(p, read, write or b"")

    def start(self, cdb, read=0, write=None, edtl=None, immediate_len=None, **more):
        write = write or b""
        now, unasked = self.unsolicited(write)
        if immediate_len is not None:
            now, unasked = immediate_len, max(immediate_len, unasked)
        p = self.scsi_pdu(cdb, edtl if edtl is not None else max(read, len(write)), read=read > 0,
                          write=len(write) > 0, final=unasked <= now, data=write[:now], **more)
        self.send(p)
        if unasked > now:
            self.send_burst(p, P.NONE, write, now, unasked - now)
        return p

    def send_burst(self, p, ttt, data, offset, length, segment=None):
        segment = min(segment or self.target_dsl, self.target_dsl)
        end, datasn = offset + length, 0
        while offset < end:
            n = min(segment, end - offset)
            self.send(self.data_out(p, ttt, datasn, offset, data[offset:offset + n],
                                    offset + n == end))
            offset += n
            datasn += 1

    def finish(self, p, read=0, write=b"", segment=None):
        r = Result()
        asked_to = len(p.data) if p.final else self.unsolicited(write)[1]
        burst = 0
        while r.status is None:
            a = self.recv_for(p.itt)
            if a.opcode == P.R2T:
                self._check_r2t(p, a, r, asked_to, write)
                asked_to = a.offset + a.length
                self.send_burst(p, a.ttt, write, a.offset, a.length, segment)
            elif a.opcode == P.DATA_IN:
                burst = self._check_data_in(a, r, burst, read)
            elif a.opcode == P.SCSI_RESPONSE:
                self._check_response(a, r)
            else:
                self.fail(f"not an answer to a command: {a!r}")
        return r

    def _check_r2t(self, p, a, r, asked_to, write):
        if a.r2tsn != len(r.r2ts):
            self.fail(f"R2TSN {a.r2tsn}, expected {len(r.r2ts)}")
        if a.ttt == P.NONE:
            self.fail("an R2T without a tag")
        if a.offset != asked_to:
            self.fail(f"R2T from {a.offset}, expected {asked_to}")
        if not 0 < a.length <= self.params["MaxBurstLength"]:
            self.fail(f"R2T for {a.length} bytes, MaxBurstLength={self.params['MaxBurstLength']}")
        if a.offset + a.length > min(p.edtl, len(write)):
            self.fail(f"R2T up to {a.offset + a.length} of {min(p.edtl, len(write))} bytes")
        if not a.final or a.lun != p.lun:
            self.fail(f"R2T without F or with another LUN: {a!r}")
        r.r2ts.append(a)

    def _check_data_in(self, a, r, burst, read):
        if a.datasn != len(r.data_in):
            self.fail(f"DataSN {a.datasn}, expected {len(r.data_in)}")
        if a.offset != len(r.data):
            self.fail(f"Data-In at {a.offset}, expected {len(r.data)}")
        if len(a.data) > self.own_dsl:
            self.fail(f"{len(a.data)} bytes in a Data-In, declared {self.own_dsl}")
        if len(r.data) + len(a.data) > read:
            self.fail(f"more than the {read} bytes expected")
        burst += len(a.data)
        if burst > self.params["MaxBurstLength"]:
            self.fail(f"a sequence of {burst} bytes, MaxBurstLength={self.params['MaxBurstLength']}")
        r.data_in.append(a)
        r.data += a.data
        if a.flags & P.STATUS:
            if not a.final:
                self.fail("Data-In with S and without F")
            r.status, r.flags, r.residual, r.response = a.status, a.flags, a.residual, a
            if a.flags & (P.UNDERFLOW | P.OVERFLOW) == 0 and a.residual:
                self.fail(f"a residual without its bit: {a!r}")
        elif a.flags & 0x06 or a.residual:
            self.fail(f"status bits without S: {a!r}")
        return 0 if a.final else burst

    def _check_response(self, a, r):
        if r.data_in and not r.data_in[-1].final:
            self.fail("the last Data-In has no F")
        sent = len(r.data_in) + len(r.r2ts)
        # Without Data-In it is 0 (RFC 7143 11.4.8), where RFC 3720 counted R2Ts.
        if a.response == 0 and a.expdatasn != sent and (a.expdatasn or r.data_in):
            self.fail(f"ExpDataSN {a.expdatasn}, sent {len(r.data_in)} + {len(r.r2ts)}")
        if not a.final:
            self.fail(f"SCSI Response without F: {a!r}")
        r.status, r.flags, r.residual, r.response = a.status, a.flags, a.residual, a
        if a.response:
            r.status = 0x100 | a.response
        if a.data:
            n = int.from_bytes(a.data[:2], "big")
            if len(a.data) < 2 + n:
                self.fail(f"sense of {n} bytes in a data segment of {len(a.data)}")
            r.sense = a.data[2:2 + n]

    # ---- the commands tests use

    def good(self, r):
        if r.status != 0:
            self.fail(f"expected GOOD, got {r!r}")
        return r

    def settle(self, lun=0):
        """Takes the unit attentions of a new nexus away."""
        for _ in range(5):
            if self.command(test_unit_ready(), lun=lun).status == 0:
                return
        self.fail("not ready")

    def widen(self, slots):
        """Works until its command window is so wide."""
        self.settle()
        for _ in range(100):
            if self.open_slots() >= slots:
                return
            self.good(self.command(test_unit_ready()))
        self.fail("the window stays narrow")

    def read(self, lba, blocks, block=BLOCK):
        r = self.good(self.command(read10(lba, blocks), read=blocks * block))
        if len(r.data) != blocks * block or r.flags & (P.UNDERFLOW | P.OVERFLOW):
            self.fail(f"read {len(r.data)} of {blocks * block} bytes: {r!r}")
        return bytes(r.data)

    def write(self, lba, data, block=BLOCK):
        r = self.good(self.command(write10(lba, len(data) // block), write=data))
        if r.flags & (P.UNDERFLOW | P.OVERFLOW):
            self.fail(f"a residual of a whole write: {r!r}")
        return r


def test_unit_ready():
    return bytes(6)


def inquiry(length=96, page=None):
    return bytes([0x12, 0 if page is None else 1, page or 0]) + length.to_bytes(2, "big") + b"\0"


def read_capacity10():
    return bytes([0x25]) + bytes(9)


def read10(lba, blocks, fua=False):
    return (bytes([0x28, 8 if fua else 0]) + lba.to_bytes(4, "big") + b"\0"
            + blocks.to_bytes(2, "big") + b"\0")


def write10(lba, blocks, fua=False):
    return bytes([0x2A]) + read10(lba, blocks, fua)[1:]


def pattern(length, seed=1):
    """Bytes that differ from offset to offset and from seed to seed."""
    words = bytearray()
    x = (seed * 2654435761 + 1) & 0xFFFFFFFF
    while len(words) < min(length, 65536):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        words += x.to_bytes(4, "big")
    out = bytearray()
    block = 0
    while len(out) < length:
        out += bytes(words[:65536 - 8]) + (block ^ seed).to_bytes(8, "big")
        block += 1
    return bytes(out[:length])
