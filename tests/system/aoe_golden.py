"""
Every request that vblade 25 was asked, byte for byte: `spindle compat vblade` answers as vblade does, but for
what stands in the tables here, each with its reason. A difference that is none any more is an error, too.

The conversation is in aoe_golden.txt. Where vblade is installed it must still answer as it is written there.
"""

import os
import re
import select
import socket
import struct
import tempfile
import time

from harness import main

import aoe
from aoe import pattern
from vblade import Vblade, ours, theirs

aoe.in_namespace(mtu=9000)

HERE = os.path.dirname(os.path.abspath(__file__))
DISK = 4 << 20
FRAME_HEAD = 14  # of Ethernet
QUIET_S = 0.5

# ---- What is different -------------------------------------------------------------------------

# In all answers.
EVERYWHERE = {
    "padding": "Ethernet frames have 60 bytes: some interfaces do not fill them up, and some clients want that",
    "error": "an error says which, in the header, and nothing behind it: nobody reads on",
    "firmware": "the version in a query's answer is our own",
    "sectors": "16 of 17 sectors are advertised where so many fit: so what clients split stays on blocks of 4 KiB. "
               "17 are done all the same",
}

IDENTITY = "a disk has its own serial number, model and World Wide Name, for life, whatever its place and host"
GEOMETRY = "cylinders, heads and sectors, for those who ask"
IDENTIFY = {
    0: "it is an ATA device, with a fixed medium",
    1: GEOMETRY, 3: GEOMETRY, 6: GEOMETRY, 54: GEOMETRY, 55: GEOMETRY, 56: GEOMETRY, 57: GEOMETRY, 58: GEOMETRY,
    **{word: IDENTITY for word in (*range(10, 20), *range(23, 47), *range(108, 112))},
    49: "DMA, which is the same here",
    53: "those words hold something",
    48: "what the standard wants there since ACS-2",
    69: "what is read of trimmed sectors",
    80: "which standards it follows",
    82: "SMART, and a write cache where a write is answered before it is durable: without -s",
    83: "FLUSH CACHE, too, which does what it says",
    84: "it has a World Wide Name, and logs",
    85: "as 82", 86: "as 83", 87: "as 84",
    93: "it is not on a parallel cable",
    105: "TRIM", 169: "TRIM",
    106: "sizes of sectors", 209: "sizes of sectors",
    217: "whether it rotates",
    255: "a checksum",
}

DONE = "vblade does not do it"
# The name in aoe_golden.txt: why, and our answer.
DIFFERENCES = {
    "a string of 2000 bytes": ("who is told of his mistake need not ask again", "1c 02 0001 01 01 0000001a"),
    "write extended, 17 sectors": ("vblade fills the frame up with what was in the request",
                                   "18 00 0001 01 00 00000022  41 00 00 40 640000000000 0000"),
    "read no sectors": ("AoEr11 has no such request", "1c 02 0001 01 00 00000027"),
    "FLUSH CACHE": ("vblade flushes nothing, and its status says that no device is there",
                    "18 00 0001 01 00 00000117  00 00 00 40 000000000000 0000"),
    "FLUSH CACHE EXT": (DONE, "18 00 0001 01 00 0000011a  00 00 00 40 000000000000 0000"),
    "CHECK POWER MODE": ("vblade is silent where the count is not 0", "18 00 0001 01 00 00000115  00 00 ff 40 000000000000 0000"),
    "READ DMA": (DONE, "18 00 0001 01 00 000000f8  00 00 00 40 000000000000 0000 ZEROS*512"),
    "READ DMA EXT": (DONE, "18 00 0001 01 00 00000055  00 00 00 40 000000000000 0000 ZEROS*512"),
    "WRITE DMA without data": (DONE, "1c 02 0001 01 00 000000fa"),
    "WRITE DMA EXT without data": (DONE, "1c 02 0001 01 00 00000065"),
    "READ VERIFY SECTORS": (DONE, "18 00 0001 01 00 00000070  00 00 00 40 000000000000 0000"),
    "AoE version 2": ("there is none that we could know", "1c 05 0001 01 01 00000042"),
}

# With -r vblade does these, too, and forgets them when it ends. Here they belong to the disk and are kept with it, and
# one that is read-only is not to be changed: they are refused (error 3), which is better than to seem kept.
NOT_READ_ONLY = {"set the string", "force a string", "put the client on the mask list", "reserve"}

# ---- The conversation --------------------------------------------------------------------------


def identify_words(lines):
    data = bytearray(512)
    for line in lines:
        word, value, *text = line.split(maxsplit=2)
        at = 2 * int(word)
        if text:
            chars = text[0].replace("HOST", socket.gethostname()).encode()[:int(value)].ljust(int(value))
            for i, c in enumerate(chars):
                data[at + (i ^ 1)] = c
        else:
            data[at:at + 2] = struct.pack("<H", int(value, 16))
    return bytes(data)


class Notation:
    """BYTES of aoe_golden.txt."""

    def __init__(self, identify):
        self.identify = identify

    def bytes(self, text):
        out = b""
        for word in text.split():
            zeros, sectors = re.fullmatch(r"ZEROS\*(\d+)", word), re.fullmatch(r"SECTORS@(\d+)\*(\d+)", word)
            if zeros:
                out += bytes(int(zeros[1]))
            elif sectors:
                out += pattern(1, int(sectors[1]), int(sectors[2]))
            elif word == "ME":
                out += aoe.mac_of(aoe.CLIENT_SIDE)
            elif word == "IDENTIFY":
                out += self.identify
            elif word == "CUT":
                out = out[:aoe.SMALLEST - FRAME_HEAD]
            elif word == "PAD":
                out = out.ljust(aoe.SMALLEST - FRAME_HEAD, b"\0")
            else:
                out += bytes.fromhex(word)
        return out


class Exchange:
    def __init__(self, name, request, answer, notation):
        self.name = name
        self.to_all = request.startswith("all ")
        self.request = notation.bytes(request.removeprefix("all "))
        self.answer = None if answer == "nothing" else notation.bytes(answer)


def conversation():
    """The exchanges, and the notation that they are written in."""
    with open(os.path.join(HERE, "aoe_golden.txt"), encoding="ascii") as f:
        lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    notation = Notation(identify_words(line[1:] for line in lines if line.startswith("=")))
    lines = [line for line in lines if not line.startswith("=")]
    assert len(lines) % 3 == 0
    all_of_them = []
    for name, request, answer in zip(lines[0::3], lines[1::3], lines[2::3]):
        assert name[0] == "[" and request[0] == ">" and answer[0] == "<", name
        all_of_them.append(Exchange(name.strip("[]"), request[1:].strip(), answer[1:].strip(), notation))
    assert len({x.name for x in all_of_them}) == len(all_of_them)
    return all_of_them, notation


class Wire:
    """A raw socket: what comes is not judged here."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.bind((aoe.CLIENT_SIDE, aoe.ETHERTYPE))
        self.me, self.server = aoe.mac_of(aoe.CLIENT_SIDE), aoe.mac_of(aoe.SERVER_SIDE)

    def receive(self, wait_s):
        """From the byte behind the Ethernet type on; None: nothing came for us."""
        end = time.monotonic() + wait_s
        while select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
            raw, where = self.sock.recvfrom(1 << 16)
            if where[2] == socket.PACKET_OUTGOING or raw[:6] != self.me:
                continue
            assert raw[6:14] == self.server + aoe.ETHERTYPE.to_bytes(2, "big"), raw[:14].hex()
            return raw[FRAME_HEAD:]
        return None

    def ask(self, x):
        self.sock.send((aoe.BROADCAST if x.to_all else self.server) + self.me + aoe.ETHERTYPE.to_bytes(2, "big") + x.request)
        return self.receive(QUIET_S if x.answer is None else 20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


def talk(command, exchanges, *options):
    """The answers, in order."""
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "disk"), "wb") as f:
            f.truncate(DISK)
        with Vblade(command, *options, 1, 1, aoe.SERVER_SIDE, "disk", cwd=d) as v, Wire() as wire:
            assert v.line == f"e1.1, 8192 sectors {'O_RDONLY' if '-r' in options else 'O_RDWR'}", v.line
            while wire.receive(QUIET_S) is not None:
                pass
            return [wire.ask(x) for x in exchanges]


# ---- What is compared --------------------------------------------------------------------------

FLAGS, COMMAND = 0, 5
FIRMWARE, SECTORS = slice(12, 14), 14
IDENTIFY_AT = slice(22, 22 + 512)


def padded(answer):
    return answer.ljust(aoe.SMALLEST - FRAME_HEAD, b"\0")


def as_ours(answer):
    """vblade's answer with what is different in all of ours, and which differences these are."""
    used = set()
    ours_ = bytearray(answer)
    if answer[FLAGS] & aoe.FLAG_E:
        used.add("error")
        del ours_[aoe.HEADER - FRAME_HEAD:]
    elif answer[COMMAND] == aoe.CONFIG:
        used |= {"firmware", "sectors"}
        ours_[FIRMWARE], ours_[SECTORS] = b"\0\1", 16
    if len(padded(answer)) != len(answer):
        used.add("padding")
    return padded(bytes(ours_)), used


def compare_identify(got, want):
    """Every word that is not in the table is vblade's."""
    differ = {word for word in range(256) if got[2 * word:2 * word + 2] != want[2 * word:2 * word + 2]}
    assert differ <= set(IDENTIFY), f"words {sorted(differ - set(IDENTIFY))} are not vblade's"


def show(answer):
    return "nothing" if answer is None else f"{len(answer)} bytes, {answer[:44].hex(' ')}"


def test_they_still_do():
    """vblade itself, if it is there."""
    if theirs() is None:
        print("not tried: vblade is not installed")
        return
    exchanges, _ = conversation()
    for x, got in zip(exchanges, talk(theirs(), exchanges)):
        assert got == x.answer, f"{x.name}: vblade answers {show(got)}\nand not {show(x.answer)}"


def test_so_do_we():
    exchanges, notation = conversation()
    used = set()
    assert set(DIFFERENCES) <= {x.name for x in exchanges}
    for x, got in zip(exchanges, talk(ours(), exchanges)):
        want, here = (None, set()) if x.answer is None else as_ours(x.answer)
        if x.name in DIFFERENCES:
            _, text = DIFFERENCES[x.name]
            ours_ = padded(notation.bytes(text))
            assert ours_ != want, f"{x.name}: it is no difference"
            want, here = ours_, set()
        used |= here
        if want is not None and got is not None and notation.identify in want:
            compare_identify(got[IDENTIFY_AT], want[IDENTIFY_AT])
            got = got[:IDENTIFY_AT.start] + want[IDENTIFY_AT] + got[IDENTIFY_AT.stop:]
        assert got == want, f"{x.name}: {show(got)}\nand not {show(want)}"
    assert used == set(EVERYWHERE), f"no differences: {set(EVERYWHERE) - used}"


def test_read_only():
    exchanges = [x for x in conversation()[0] if x.name in NOT_READ_ONLY]
    assert {x.name for x in exchanges} == NOT_READ_ONLY
    for x, got in zip(exchanges, talk(ours(), exchanges, "-r")):
        want = padded(bytes([aoe.FLAG_R | aoe.FLAG_E | x.request[FLAGS], aoe.UNAVAILABLE]) + x.request[2:aoe.HEADER - FRAME_HEAD])
        assert got == want, f"{x.name}: {show(got)}\nand not {show(want)}"
    if theirs() is None:
        print("not tried: vblade is not installed")
        return
    for x, got in zip(exchanges, talk(theirs(), exchanges, "-r")):
        assert got == x.answer, f"{x.name}: vblade answers {show(got)}\nand not {show(x.answer)}"


main(globals())
