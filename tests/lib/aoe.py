"""
ATA over Ethernet as an initiator speaks it, on a raw socket, and a network of our own to speak it on.

    aoe.in_namespace()                          # first of all: starts the script again in a new namespace
    with Spindle("ram:1M", args=["--aoe", "aoe0:1.0"]), aoe.Client(shelf=1, slot=0) as c:
        c.discover()                            # the answers to a broadcast
        c.write(0, bytes(512))
        c.read(0, 1)
        aoe.Window(c, sectors=2).read(0, 1000, seed=1)

Every frame that comes is judged before a test sees it: see Client._judge. What a test sends may be as
wrong as it likes.
"""

import collections
import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time

from spindle import Spindle, find_tool, need_tool, skip

ETHERTYPE = 0x88A2
BROADCAST = b"\xff" * 6
ALL_SHELVES, ALL_SLOTS = 0xFFFF, 0xFF
SECTOR, SMALLEST, HEADER, ATA_HEADER, CONFIG_HEADER = 512, 60, 24, 36, 32
STRING_MAX = 1024
QUESTION = b"spindle?"

FLAG_R, FLAG_E = 0x08, 0x04
ATA, CONFIG, MASK, RESERVE = 0, 1, 2, 3
UNKNOWN_COMMAND, BAD_ARGUMENT, UNAVAILABLE, STRING_PRESENT, BAD_VERSION, RESERVED = 1, 2, 3, 4, 5, 6
CONFIG_READ, CONFIG_TEST, CONFIG_PREFIX, CONFIG_SET, CONFIG_FORCE = range(5)
MASK_HEADER, DIRECTIVE, RESERVE_HEADER, MAC = 28, 8, 26, 6
MASK_READ, MASK_EDIT = range(2)
NOTHING, ADD, DELETE = range(3)
BAD_DIRECTIVE, LIST_FULL = 2, 3
RESERVE_READ, RESERVE_SET, RESERVE_FORCE = range(3)

AFLAG_EXT, AFLAG_ASYNC, AFLAG_WRITE = 0x40, 0x02, 0x01
READ, WRITE, READ_EXT, WRITE_EXT = 0x20, 0x30, 0x24, 0x34
READ_DMA, WRITE_DMA, READ_DMA_EXT, WRITE_DMA_EXT = 0xC8, 0xCA, 0x25, 0x35
VERIFY, VERIFY_EXT, FLUSH, FLUSH_EXT = 0x40, 0x42, 0xE7, 0xEA
STANDBY_IMMEDIATE, IDLE_IMMEDIATE, CHECK_POWER, IDENTIFY = 0xE0, 0xE1, 0xE5, 0xEC
DATA_SET, READ_LOG_EXT, SMART, SET_FEATURES, NATIVE_MAX, NATIVE_MAX_EXT = 0x06, 0x2F, 0xB0, 0xEF, 0xF8, 0x27
TRIM, CACHE_ON, CACHE_OFF = 0x01, 0x02, 0x82
SMART_DATA, SMART_AUTOSAVE, SMART_LOG, SMART_ON, SMART_OFF, SMART_STATUS = 0xD0, 0xD2, 0xD5, 0xD8, 0xD9, 0xDA
SMART_MARK = bytes.fromhex("4fc2")
READS = {READ, READ_EXT, READ_DMA, READ_DMA_EXT}
WRITES = {WRITE, WRITE_EXT, WRITE_DMA, WRITE_DMA_EXT}
EXTENDED = {READ_EXT, WRITE_EXT, READ_DMA_EXT, WRITE_DMA_EXT, VERIFY_EXT, FLUSH_EXT, DATA_SET, READ_LOG_EXT, NATIVE_MAX_EXT}

GOOD, FAILED, ERR = 0x40, 0x41, 0x01
ABRT, IDNF, UNC = 0x04, 0x10, 0x40

SERVER_SIDE, CLIENT_SIDE = "aoe0", "aoe1"
TIMEOUT_S = 2
MARK = "SPINDLE_TEST_NAMESPACE"
SIOCGIFHWADDR = 0x8927


class Mismatch(AssertionError):
    """Something else came than was expected."""


class NoAnswer(AssertionError):
    """Nothing came in time."""


# ---- the network


def this_namespace():
    return os.readlink("/proc/self/ns/net")


def ip(*args):
    return subprocess.run(["ip", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)


def in_namespace(mtu=1500):
    """
    Returns in a network namespace that holds lo and a pair of interfaces, aoe0 and aoe1: the first time
    it starts the script again, there. All of it is gone when the process ends.
    """
    mark = os.environ.get(MARK)
    if mark is None:
        need_tool("ip")
        command = [need_tool("unshare"), "-n"]
        tried = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
        if tried.returncode != 0:
            skip(f"no network namespace may be made here: {tried.stdout.strip()}")
        os.environ[MARK] = this_namespace()
        sys.stdout.flush()
        os.execv(command[0], [*command, sys.executable, *sys.argv])
    if mark == this_namespace():
        skip("the network namespace is the old one")
    for which in ("all", "default"):
        try:
            with open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w", encoding="ascii") as f:
                f.write("1")
        except OSError:
            pass
    done = ip("link", "set", "dev", "lo", "up")
    if done.returncode != 0:
        skip(f"lo: {done.stdout.strip()}")
    if SERVER_SIDE not in [name for _, name in socket.if_nameindex()]:
        add_pair(SERVER_SIDE, CLIENT_SIDE, mtu)


def add_pair(server, client, mtu=1500):
    """Two interfaces, joined by a cable."""
    for args in (("add", server, "type", "veth", "peer", "name", client),
                 ("set", "dev", server, "mtu", str(mtu), "up"), ("set", "dev", client, "mtu", str(mtu), "up")):
        done = ip("link", *args)
        if done.returncode != 0:
            skip(f"ip link {' '.join(args)}: {done.stdout.strip()}")


def throttle(interface):
    """Hardly anything leaves it any more. False: that cannot be done here, as is said."""
    tc = find_tool("tc")
    if tc is None:
        print("not tried: tc is not installed")
        return False
    done = subprocess.run([tc, "qdisc", "add", "dev", interface, "root", "tbf", "rate", "8kbit", "burst", "1600", "limit",
                           "100000000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        print(f"not tried: {done.stdout.strip()}")
    return done.returncode == 0


def set_mtu(mtu, interfaces=(SERVER_SIDE, CLIENT_SIDE)):
    for name in interfaces:
        done = ip("link", "set", "dev", name, "mtu", str(mtu))
        assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def with_mtu(mtu):
    set_mtu(mtu)
    try:
        yield
    finally:
        set_mtu(1500)


def mac_of(interface):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        answer = fcntl.ioctl(s, SIOCGIFHWADDR, struct.pack("16s16x8x", interface.encode()))
    return answer[18:24]


def mac_text(mac):
    return mac.hex(":")


def sectors_of(mtu):
    """What a target advertises there."""
    sectors = min((mtu - 36) // SECTOR, 255)
    return sectors if sectors <= 8 else sectors & ~7


# ---- frames


class Frame:
    """
    The common header in fields, and `body`: all that follows it, from offset 24 on. What is left None
    the client fills in when it sends the frame.
    """

    def __init__(self, command, body=b"", *, shelf=None, slot=None, tag=None, version=1, flags=0, error=0, dst=None,
                 src=None, kind=ETHERTYPE):
        self.command, self.body, self.shelf, self.slot, self.tag = command, bytes(body), shelf, slot, tag
        self.version, self.flags, self.error, self.dst, self.src, self.kind = version, flags, error, dst, src, kind

    def pack(self, size=None):
        """`size`: cut or filled up with zeros to so many bytes; else only filled up to the smallest frame."""
        raw = self.dst + self.src + struct.pack(">HBBHBBI", self.kind, self.version << 4 | self.flags, self.error,
                                                self.shelf, self.slot, self.command, self.tag) + self.body
        return raw.ljust(size or SMALLEST, b"\0")[:size]

    @classmethod
    def parse(cls, raw):
        kind, version, error, shelf, slot, command, tag = struct.unpack(">HBBHBBI", raw[12:HEADER])
        return cls(command, raw[HEADER:], shelf=shelf, slot=slot, tag=tag, version=version >> 4, flags=version & 15,
                   error=error, dst=raw[:6], src=raw[6:12], kind=kind)

    def __repr__(self):
        macs = " ".join(mac.hex() if mac else "-" for mac in (self.dst, self.src))
        tag = "-" if self.tag is None else f"{self.tag:#x}"
        return f"<{macs} v{self.version} flags={self.flags:#x} error={self.error} {self.shelf}.{self.slot} " \
               f"command={self.command} tag={tag} {self.body[:12].hex(' ')} + {max(0, len(self.body) - 12)} bytes>"

    # ATA

    @property
    def aflags(self):
        return self.body[0]

    @property
    def ata_error(self):
        return self.body[1]

    @property
    def count(self):
        return self.body[2]

    @property
    def status(self):
        """In a request: the opcode."""
        return self.body[3]

    opcode = status

    @property
    def lba(self):
        """The six registers as they are."""
        return self.body[4:10]

    @property
    def data(self):
        return self.body[12:]

    # config/query

    @property
    def buffers(self):
        return int.from_bytes(self.body[0:2], "big")

    @property
    def firmware(self):
        return int.from_bytes(self.body[2:4], "big")

    @property
    def sectors(self):
        return self.body[4]

    @property
    def ccmd(self):
        """With the version in the high nibble."""
        return self.body[5]

    @property
    def string_len(self):
        return int.from_bytes(self.body[6:8], "big")

    @property
    def string(self):
        return self.body[8:8 + self.string_len]

    # MAC mask list, reserve/release

    @property
    def mask_error(self):
        return self.body[2]

    @property
    def mac_count(self):
        return self.body[3 if self.command == MASK else 1]

    @property
    def macs(self):
        start, each = (4, DIRECTIVE) if self.command == MASK else (2, MAC)
        return [self.body[start + (i + 1) * each - MAC:start + (i + 1) * each] for i in range(self.mac_count)]


def config_frame(ccmd=CONFIG_READ, string=b"", length=None, version=1, **where):
    """`length`: what it says the string's is, when that is not true."""
    body = bytes(5) + bytes([version << 4 | ccmd]) + (len(string) if length is None else length).to_bytes(2, "big")
    return Frame(CONFIG, body + string, **where)


def ata_frame(opcode, lba=0, count=0, data=b"", feature=0, aflags=None, registers=None, **where):
    """
    `registers`: the six LBA bytes, else made of `lba` in the form that the opcode has, as Linux does;
    `aflags` as the opcode wants them unless given.
    """
    extended = opcode in EXTENDED
    if registers is None:
        registers = lba.to_bytes(6, "little")
        if not extended:
            registers = registers[:3] + bytes([0xE0 | (lba >> 24 & 0x0F), 0, 0])
    if aflags is None:
        aflags = (AFLAG_EXT if extended else 0) | (AFLAG_WRITE if opcode in WRITES | {DATA_SET} else 0)
    return Frame(ATA, bytes([aflags, feature, count & 0xFF, opcode]) + registers + bytes(2) + data, **where)


def smart_frame(feature, low=0, count=0, mark=SMART_MARK, data=b"", **where):
    return ata_frame(SMART, count=count, feature=feature, registers=bytes([low]) + mark + bytes(3), data=data, **where)


def log_frame(address, page=0, count=1, **where):
    registers = bytes([address, page & 0xFF, 0, 0, page >> 8, 0])
    return ata_frame(READ_LOG_EXT, count=count, registers=registers, **where)


def trim_frame(*ranges, blocks=1, feature=TRIM, count=None, **where):
    """ranges: (LBA, sectors), ..."""
    data = b"".join((lba | n << 48).to_bytes(8, "little") for lba, n in ranges).ljust(blocks * SECTOR, b"\0")
    return ata_frame(DATA_SET, count=blocks if count is None else count, feature=feature, registers=bytes(6), data=data,
                     **where)


def data_of(opcode, feature, count):
    """How many bytes a good answer brings."""
    if opcode == IDENTIFY or opcode == SMART and feature == SMART_DATA:
        return SECTOR
    if opcode in READS | {READ_LOG_EXT} or opcode == SMART and feature == SMART_LOG:
        return count * SECTOR
    return 0


def mask_frame(mcmd=0, directives=(), count=None, **where):
    """directives: (DCmd, MAC), ..."""
    body = bytes([0, mcmd, 0, len(directives) if count is None else count])
    return Frame(MASK, body + b"".join(bytes([0, dcmd]) + mac for dcmd, mac in directives), **where)


def reserve_frame(rcmd=0, macs=(), count=None, **where):
    return Frame(RESERVE, bytes([rcmd, len(macs) if count is None else count]) + b"".join(macs), **where)


Identity = collections.namedtuple("Identity", "size model serial firmware lba48 flags words data")


def parse_identity(data):
    """flags: a set of "lba", "dma", "lba48", "flush", "cache" (supported), "cache on"; size in sectors."""
    words = struct.unpack("<256H", data)

    def text(first, last):
        return struct.pack(f">{last - first + 1}H", *words[first:last + 1]).decode("ascii").rstrip(" ")

    bits = {"lba": (49, 9), "dma": (49, 8), "lba48": (83, 10), "flush": (83, 12), "cache": (82, 5), "cache on": (85, 5)}
    flags = {name for name, (word, bit) in bits.items() if words[word] >> bit & 1}
    lba48 = bool(words[83] >> 10 & words[86] >> 10 & 1)
    first, n = (100, 4) if lba48 else (60, 2)
    size = sum(words[first + i] << 16 * i for i in range(n))
    return Identity(size, text(27, 46), text(10, 19), text(23, 26), lba48, flags, words, data)


# ---- the client


class Sent:
    """A frame that went out, and who answered it how often."""

    def __init__(self, frame, copies=1):
        self.frame = frame
        self.copies = copies
        self.answers = collections.Counter()


class Client:
    """
    shelf, slot: whom it asks when a call does not say. `mac`: its address when it is not the interface's,
    for several clients on one interface. only_mine: what comes for others is neither judged nor in its way.
    """

    here = {}
    elsewhere = set()  # addresses that are nobody's here, and may be written to

    def __init__(self, shelf=1, slot=0, *, mac=None, interface=CLIENT_SIDE, server=SERVER_SIDE, timeout_s=TIMEOUT_S,
                 only_mine=False):
        self.shelf, self.slot, self.timeout_s = shelf, slot, timeout_s
        self.server_mac = mac_of(server)
        self.mac = mac or mac_of(interface)
        self.sent = {}
        self.announcements = []
        self.questions = []
        self.sequence = itertools.count(random.randrange(1 << 15))
        self.history = collections.deque(maxlen=20)
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        for option in (getattr(socket, "SO_RCVBUFFORCE", 33), socket.SO_RCVBUF):
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, option, 16 << 20)
                break
            except PermissionError:
                continue
        if only_mine:
            self._filter()
        self.sock.bind((interface, ETHERTYPE))
        self.key = (interface, self.mac)
        assert self.key not in Client.here, "two clients with one address"
        Client.here[self.key] = self

    def _filter(self):
        """Frames to it and to everybody; see linux/filter.h."""
        load_4, load_2, equal, end = 0x20, 0x28, 0x15, 0x06
        mine = struct.unpack(">IH", self.mac)
        code = [(load_4, 0, 0, 0), (equal, 0, 2, mine[0]), (load_2, 0, 0, 4), (equal, 3, 4, mine[1]),
                (equal, 0, 3, 0xFFFFFFFF), (load_2, 0, 0, 4), (equal, 0, 1, 0xFFFF), (end, 0, 0, 0xFFFFFFFF), (end, 0, 0, 0)]
        raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
        self.sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(code), ctypes.addressof(raw)))

    def close(self):
        self.sock.close()
        Client.here.pop(self.key, None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def story(self):
        return "\n  the last frames:\n    " + "\n    ".join(self.history)

    def fail(self, why):
        raise Mismatch(why + self.story())

    # ---- sending

    def new_tag(self):
        """As Linux makes them: a sequence and a clock, and never 0."""
        while True:
            tag = (next(self.sequence) & 0x7FFF) << 16 | int(time.monotonic() * 250) & 0xFFFF
            if tag and tag not in self.sent:
                return tag

    def send(self, frame, size=None, copies=1):
        """Fills in what is missing; `copies` may be 0: lost on the way. Returns the tag."""
        if frame.tag is None:
            frame.tag = self.new_tag()
        frame.dst = self.server_mac if frame.dst is None else frame.dst
        frame.src = self.mac if frame.src is None else frame.src
        frame.shelf = self.shelf if frame.shelf is None else frame.shelf
        frame.slot = self.slot if frame.slot is None else frame.slot
        if frame.tag not in self.sent:
            self.sent[frame.tag] = Sent(frame, 0)
        self.sent[frame.tag].copies += copies
        raw = frame.pack(size)
        for _ in range(copies):
            self.history.append(f"> {frame!r}")
            self.sock.send(raw)
        return frame.tag

    def send_raw(self, raw):
        self.history.append(f"> {len(raw)} raw bytes: {raw[:40].hex(' ')}")
        self.sock.send(raw)

    # ---- receiving

    def receive(self, timeout_s=None):
        """The next answer, or None; announcements are put aside, and questions of the server, who else is there."""
        end = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            if not select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
                return None
            raw, where = self.sock.recvfrom(1 << 17)
            to = raw[:6]
            if where[2] == socket.PACKET_OUTGOING or to in Client.elsewhere or \
               to != self.mac and (self.key[0], to) in Client.here:
                continue
            frame = Frame.parse(raw.ljust(HEADER, b"\0"))
            self.history.append(f"< {frame!r}")
            if self._judge(raw, frame):
                return frame

    def _judge(self, raw, frame):
        """Is it an answer? What is neither that nor an announcement, and right in every byte, ends the test."""
        if len(raw) < SMALLEST:
            self.fail(f"a frame of {len(raw)} bytes")
        if frame.version == 1 and frame.flags == 0 and frame.dst == BROADCAST:
            self._judge_question(raw, frame)
            self.questions.append(frame)
            return False
        if frame.src != self.server_mac:
            self.fail(f"it comes from {mac_text(frame.src)}")
        if frame.version != 1 or frame.flags not in (FLAG_R, FLAG_R | FLAG_E):
            self.fail(f"version {frame.version}, flags {frame.flags:#x}")
        if bool(frame.error) != bool(frame.flags & FLAG_E):
            self.fail(f"error {frame.error} with flags {frame.flags:#x}")
        if frame.shelf == ALL_SHELVES or frame.slot == ALL_SLOTS:
            self.fail(f"it comes from {frame.shelf}.{frame.slot}")
        announcement = frame.tag == 0 and frame.tag not in self.sent
        if frame.dst != self.mac and not (announcement and frame.dst == BROADCAST):
            self.fail(f"it goes to {mac_text(frame.dst)}")
        if announcement:
            self._judge_config(raw, frame, CONFIG_READ)
            if frame.error or frame.command != CONFIG:
                self.fail("neither an answer nor an announcement")
            self.announcements.append(frame)
            return False
        self._judge_answer(raw, frame)
        return True

    def _judge_question(self, raw, frame):
        """A query that any target answers."""
        if frame.command != CONFIG or frame.error or frame.ccmd != 0x10 or not frame.string.startswith(QUESTION) or \
           frame.shelf == ALL_SHELVES or frame.slot == ALL_SLOTS:
            self.fail(f"a question that is none: {frame!r}")
        self._judge_length(raw, CONFIG_HEADER + frame.string_len)

    def _judge_answer(self, raw, frame):
        sent = self.sent.get(frame.tag)
        if sent is None:
            self.fail(f"an unknown tag: {frame.tag:#x}")
        request = sent.frame
        if frame.command != request.command or request.shelf not in (frame.shelf, ALL_SHELVES) or \
           request.slot not in (frame.slot, ALL_SLOTS):
            self.fail(f"it is no answer to {request!r}")
        sent.answers[frame.shelf, frame.slot] += 1
        if sent.answers[frame.shelf, frame.slot] > sent.copies:
            self.fail(f"{sent.answers[frame.shelf, frame.slot]} answers to a frame that was sent {sent.copies} times")
        if frame.error:
            # What there is of an argument is the request's or the current string: nobody looks at it.
            end = {ATA: ATA_HEADER, CONFIG: CONFIG_HEADER + frame.string_len}.get(frame.command, HEADER)
            self._judge_length(raw, end, exact=False)
        elif frame.command == ATA:
            self._judge_ata(raw, frame, request)
        elif frame.command == CONFIG:
            self._judge_config(raw, frame, request.body.ljust(6, b"\0")[5] & 15)
        elif frame.command in (MASK, RESERVE):
            self._judge_list(raw, frame, request)

    def _judge_length(self, raw, end, exact=True):
        """`end`: where what is said ends; zeros up to the smallest frame and not a byte more."""
        if len(raw) > max(SMALLEST, end) or exact and len(raw) < end:
            self.fail(f"a frame of {len(raw)} bytes that should have {max(SMALLEST, end)}")
        if any(raw[end:]):
            self.fail(f"padding is not zero: {raw[end:].hex()}")

    def _judge_config(self, raw, frame, ccmd):
        if frame.ccmd != 0x10 | ccmd:
            self.fail(f"version and CCmd are {frame.ccmd:#x}, not {0x10 | ccmd:#x}")
        if frame.string_len > STRING_MAX:
            self.fail(f"a string of {frame.string_len} bytes")
        self._judge_length(raw, CONFIG_HEADER + frame.string_len)

    def _judge_list(self, raw, frame, request):
        """A mask list that was edited up to an error is not told."""
        is_mask = frame.command == MASK
        n = 0 if is_mask and frame.mask_error else frame.mac_count
        self._judge_length(raw, MASK_HEADER + n * DIRECTIVE if is_mask else RESERVE_HEADER + n * MAC)
        if len(raw) > 1514:
            self.fail(f"a frame of {len(raw)} bytes")
        at = 1 if is_mask else 0
        if frame.body[at] != request.body[at] or is_mask and frame.body[0]:
            self.fail("another sub-command comes back")
        if is_mask and any(frame.body[4 + i * DIRECTIVE + j] for i in range(n) for j in range(2)):
            self.fail("directives in an answer")

    def _judge_ata(self, raw, frame, request):
        asked = request.body.ljust(12, b"\0")
        if frame.aflags not in (0, asked[0]):
            self.fail(f"AFlags {frame.aflags:#x} to {asked[0]:#x}")
        if any(frame.body[10:12]):
            self.fail(f"reserved bytes are {frame.body[10:12].hex()}")
        says_lba = frame.status & ERR or asked[3] in (NATIVE_MAX, NATIVE_MAX_EXT) or \
            asked[3] == SMART and asked[1] == SMART_STATUS
        if frame.lba != asked[4:10] and not says_lba:
            self.fail(f"the LBA registers come back as {frame.lba.hex()}, not {asked[4:10].hex()}")
        if bool(frame.ata_error) != bool(frame.status & ERR):
            self.fail(f"status {frame.status:#x} with error {frame.ata_error:#x}")
        data = 0
        if not frame.status & ERR:
            data = data_of(asked[3], asked[1], asked[2])
        if asked[3] == SMART and not data and len(request.body) >= 12 + SECTOR:
            data = SECTOR  # aoeping sends one, and waits for one
        self._judge_length(raw, ATA_HEADER + data)

    # ---- questions and answers

    def ask(self, frame, size=None, timeout_s=None, tries=1):
        """The first answer to it. Each try has a tag of its own; answers to others are let go."""
        for _ in range(tries):
            frame.tag = None
            tag = self.send(frame, size)
            end = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
            while True:
                answer = self.receive(max(0, end - time.monotonic()))
                if answer is None:
                    break
                if answer.tag == tag:
                    return answer
        raise NoAnswer(f"no answer to {frame!r}" + self.story())

    def collect(self, frame, quiet_s=0.3, size=None):
        """All answers to it, until there is none for a while."""
        tag = self.send(frame, size)
        answers = []
        while True:
            answer = self.receive(quiet_s)
            if answer is None:
                return answers
            if answer.tag == tag:
                answers.append(answer)

    def expect_silence(self, *frames, quiet_s=0.2, size=None):
        for frame in frames:
            self.send(frame, size)
        answer = self.receive(quiet_s)
        if answer is not None:
            self.fail(f"expected nothing, got {answer!r}")

    def expect_error(self, error, frame, size=None):
        """An answer with E."""
        answer = self.ask(frame, size)
        if answer.error != error:
            self.fail(f"expected error {error}, got {answer!r}")
        return answer

    def expect_status(self, status, ata_error, frame, size=None):
        """An answer whose ATA registers say so."""
        answer = self.ask(frame, size)
        if answer.error or (answer.status, answer.ata_error) != (status, ata_error):
            self.fail(f"expected status {status:#x} and error {ata_error:#x}, got {answer!r}")
        return answer

    def settle(self):
        """Reads away what may still come, announcements too."""
        while self.receive(0.1) is not None:
            pass

    # ---- what initiators ask

    def discover(self, shelf=ALL_SHELVES, slot=ALL_SLOTS, quiet_s=0.3, dst=BROADCAST):
        """The answers, by shelf and slot."""
        return sorted(self.collect(config_frame(shelf=shelf, slot=slot, dst=dst), quiet_s),
                      key=lambda a: (a.shelf, a.slot))

    def config(self, ccmd=CONFIG_READ, string=b"", **more):
        """An answer without E."""
        answer = self.ask(config_frame(ccmd, string, **more))
        if answer.error:
            self.fail(f"expected an answer, got {answer!r}")
        return answer

    def _list(self, frame):
        answer = self.ask(frame)
        if answer.error or frame.command == MASK and answer.mask_error:
            self.fail(f"expected a list, got {answer!r}")
        return answer.macs

    def mask(self, directives=None, **where):
        """The MAC mask list, after it was edited when there are directives: (DCmd, MAC), ..."""
        return self._list(mask_frame(MASK_READ if directives is None else MASK_EDIT, directives or (), **where))

    def reserved(self, macs=None, rcmd=RESERVE_SET, **where):
        """Who has the disk, after it was reserved for `macs` when these are given."""
        return self._list(reserve_frame(RESERVE_READ if macs is None else rcmd, macs or (), **where))

    def identify(self, shelf=None, slot=None):
        frame = ata_frame(IDENTIFY, count=1, registers=bytes.fromhex("000000a00000"), shelf=shelf, slot=slot)
        return parse_identity(self.good(frame).data)

    def good(self, frame, size=None):
        """It must end well, with nothing left to do."""
        answer = self.expect_status(GOOD, 0, frame, size)
        if answer.count and frame.body[3] != CHECK_POWER:
            self.fail(f"{answer.count} sectors are not done")
        return answer

    def ata(self, opcode, lba=0, count=0, data=b"", **more):
        """The answer, whatever its status is."""
        return self.ask(ata_frame(opcode, lba, count, data, **more))

    def read(self, lba, count=1, opcode=READ_EXT, **where):
        return self.good(ata_frame(opcode, lba, count, **where)).data

    def write(self, lba, data, opcode=WRITE_EXT, **where):
        self.good(ata_frame(opcode, lba, len(data) // SECTOR, data, **where))

    def flush(self, opcode=FLUSH, **where):
        self.good(ata_frame(opcode, **where))

    def ping(self):
        """It is alive: it answers in the end, even when there was too much for it before."""
        return self.ask(config_frame(), tries=10)


# ---- a server, and a client of it


def serving(*stores, options="", args=(), **more):
    """The first disk is 1.0, the next one 1.1."""
    return Spindle(*(stores or ("ram:64M",)), args=["--aoe", f"{SERVER_SIDE}:1.0{options}", *args], **more)


def counts(server, interface=SERVER_SIDE):
    """What SIGUSR1 has the server say of an interface: numbers by their names."""
    def said():
        return re.findall(rf' aoe-counts interface="{interface}" (.*)', server.stderr())

    before, end = len(said()), time.monotonic() + 10
    os.kill(server.pid, signal.SIGUSR1)
    while len(said()) == before:
        assert time.monotonic() < end, f"no counts of {interface}"
        time.sleep(0.02)
    return {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", said()[-1])}


def client(shelf=1, slot=0, **more):
    """Of a machine that is busy with other tests it expects little."""
    return Client(shelf, slot, **{"timeout_s": 20, **more})


@contextlib.contextmanager
def both(*stores, **more):
    """A server and a client that waits for nothing more of its start."""
    with serving(*stores, **more) as s, client() as c:
        c.settle()
        yield s, c


def stored(directory, lba, count, name="disk.img"):
    """The sectors of a disk, as they are in its file."""
    with open(os.path.join(directory, name), "rb") as f:
        f.seek(lba * SECTOR)
        return f.read(count * SECTOR)


def have(*names):
    """Are these tools installed?"""
    return all(map(find_tool, names))


# ---- clients of machines


class Counter:
    """How a machine with Linux counts the frames that it sends to a disk: `c.new_tag = Counter().next`."""

    def __init__(self, sequence=None, ticks=None, hz=250):
        self.sequence = random.randrange(1 << 15) if sequence is None else sequence
        self.hz = hz
        self.booted_s = time.monotonic() - (random.randrange(1 << 16) if ticks is None else ticks) / hz

    def next(self):
        self.sequence += 1
        return (self.sequence & 0x7FFF) << 16 | int((time.monotonic() - self.booted_s) * self.hz) & 0xFFFF


class Paths:
    """Clients of one machine on several interfaces, or with several addresses, for a Window: frames take turns."""

    def __init__(self, clients, counter=None):
        self.clients = list(clients)
        self.turns = itertools.cycle(self.clients)
        counter = counter or Counter()
        for c in self.clients:
            c.new_tag = counter.next

    def send(self, frame, size=None, copies=1):
        return next(self.turns).send(frame, size, copies)

    def receive(self, timeout_s):
        end = time.monotonic() + timeout_s
        while True:
            ready = select.select([c.sock for c in self.clients], [], [], max(0, end - time.monotonic()))[0]
            for c in self.clients:
                answer = c.receive(0) if c.sock in ready else None
                if answer is not None:
                    return answer
            if not ready:
                return None

    def fail(self, why):
        self.clients[0].fail(why)


# ---- many at once


def pattern(seed, lba, count=1):
    """What a test writes there: no two sectors are alike, nor two seeds."""
    return b"".join(hashlib.shake_128(struct.pack(">QQ", seed, n)).digest(SECTOR) for n in range(lba, lba + count))


class Request:
    """Some sectors on their way, perhaps under several tags."""

    def __init__(self, lba, count):
        self.lba, self.count = lba, count
        self.tags = []
        self.deadline = 0
        self.done = False


class Window:
    """
    Keeps `window` requests of `sectors` in flight, and sends one again, with a new tag, when its answer
    is not there within rto_s (each time twice that). drop and duplicate: how likely a frame is lost or comes
    twice, each way. In `counts` is what happened.
    """

    def __init__(self, client, sectors, window=32, rto_s=0.5, drop=0.0, duplicate=0.0, seed=1, tries=30, limit_s=120,
                 opcodes=(READ_EXT, WRITE_EXT), slot=None):
        self.client, self.sectors, self.window, self.rto_s = client, sectors, window, rto_s
        self.drop, self.duplicate, self.tries, self.limit_s = drop, duplicate, tries, limit_s
        self.read_opcode, self.write_opcode = opcodes
        self.slot = slot
        self.dice = random.Random(seed)
        self.counts = collections.Counter()

    def write(self, lba, count, seed):
        """Returns when all is acknowledged."""
        self._run(lba, count, lambda r: ata_frame(self.write_opcode, r.lba, r.count, pattern(seed, r.lba, r.count),
                                                  slot=self.slot), lambda r, answer: None)

    def read(self, lba, count, seed):
        """Every sector must be as write() left it; seed None: zeros."""
        def judge(r, answer):
            want = bytes(r.count * SECTOR) if seed is None else pattern(seed, r.lba, r.count)
            if answer.data != want:
                wrong = [r.lba + i for i in range(r.count)
                         if answer.data[i * SECTOR:(i + 1) * SECTOR] != want[i * SECTOR:(i + 1) * SECTOR]]
                self.client.fail(f"wrong data in the sectors {wrong}")
        self._run(lba, count, lambda r: ata_frame(self.read_opcode, r.lba, r.count, slot=self.slot), judge)

    def _copies(self):
        x = self.dice.random()
        if x < self.drop:
            self.counts["dropped"] += 1
            return 0
        if x < self.drop + self.duplicate:
            self.counts["duplicated"] += 1
            return 2
        return 1

    def _send(self, r, make, by_tag):
        if len(r.tags) == self.tries:
            self.client.fail(f"no answer for sector {r.lba} after {self.tries} tries")
        self.counts["sent" if not r.tags else "sent again"] += 1
        tag = self.client.send(make(r), copies=self._copies())
        r.deadline = time.monotonic() + self.rto_s * 2 ** min(len(r.tags), 4)
        r.tags.append(tag)
        by_tag[tag] = r

    def _run(self, lba, count, make, judge):
        end, limit = lba + count, time.monotonic() + self.limit_s
        flying, by_tag = [], {}
        while lba < end or flying:
            while lba < end and len(flying) < self.window:
                r = Request(lba, min(self.sectors, end - lba))
                self._send(r, make, by_tag)
                flying.append(r)
                lba += r.count
            if time.monotonic() > limit:
                self.client.fail(f"not done within {self.limit_s} s: {dict(self.counts)}")
            wait_s = min(r.deadline for r in flying) - time.monotonic()
            answer = self.client.receive(max(0, wait_s))
            if answer is None:
                for r in flying:
                    if r.deadline <= time.monotonic():
                        self._send(r, make, by_tag)
                continue
            for _ in range(self._copies()):
                self._take(by_tag, flying, answer, judge)

    def _take(self, by_tag, flying, answer, judge):
        """Answers to what is done already, of this run or an earlier one, count and are forgotten."""
        r = by_tag.get(answer.tag)
        if r is None or r.done:
            self.counts["late"] += 1
            return
        if answer.error or answer.status != GOOD or answer.count:
            self.client.fail(f"sector {r.lba}: {answer!r}")
        judge(r, answer)
        r.done = True
        flying.remove(r)
        self.counts["done"] += 1
