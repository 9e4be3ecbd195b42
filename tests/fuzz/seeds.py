#!/usr/bin/env python3
"""
Writes the seeds of the corpora: inputs that do what initiators and users do, one deed each, for a fuzzer to begin
with. Only the files named seed-... are written; what a fuzzer found stands beside them.

    tests/fuzz/seeds.py
"""

import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "protocol"))

import pdu as P  # noqa: E402
from pdu import Pdu  # noqa: E402

TARGET = "iqn.2026-11.test:disk"
WHO = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": TARGET}


def write(harness, name, data):
    folder = HERE / "corpus" / harness
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


# ---- pdu: a byte of options, then bytes of an initiator; see pdu.c

RAW, UNSOLICITED, BLOCKS_4096 = 0x04, 0x08, 0x80
BEFORE, FULL, DIGESTS, DISCOVERY = 0, 1, 2, 3
PIECES_7, PIECES_48, PIECES_300 = 0x20, 0x40, 0x50


class Talk:
    """Requests with right numbers."""

    def __init__(self):
        self.cmdsn = 1
        self.itt = 0
        self.out = b""

    def add(self, opcode, data=b"", immediate=False, amplify=0, **fields):
        self.itt += 1
        fields.setdefault("flags", P.FINAL)
        fields.setdefault("itt", self.itt)
        p = Pdu(opcode, data, immediate=immediate, **fields)
        if p.has("cmdsn"):
            p.cmdsn = self.cmdsn
            self.cmdsn += not immediate
        if amplify:
            p.bhs[0] |= 0x80
            p.dsl = amplify
        self.out += bytes(p.bhs) + p.ahs + p.data
        return self

    def command(self, cdb, edtl=0, flags=0, data=b"", **more):
        return self.add(P.SCSI_COMMAND, data, flags=flags | 1 | more.pop("final", P.FINAL), edtl=edtl,
                        cdb=cdb, **more)

    def data_out(self, itt, ttt, offset, data, datasn=0, final=P.FINAL, amplify=0):
        return self.add(P.DATA_OUT, data, flags=final, itt=itt, ttt=ttt, offset=offset, datasn=datasn,
                        amplify=amplify)


def rw10(opcode, lba, blocks):
    return struct.pack(">BBIBHB", opcode, 0, lba, 0, blocks, 0)


def tur():
    return Talk().command(bytes(6))


def login_pdu(keys, csg=1, nsg=3, flags=P.FINAL):
    return bytes(Pdu(P.LOGIN_REQUEST, P.pack_keys(keys), immediate=True, flags=flags | csg << 2 | nsg,
                     isid=0x40 << 40, itt=7, cmdsn=1).pack())


def pdu_seeds():
    talks = {
        "tur": tur(),
        "inquiry": tur().command(bytes([0x12, 0, 0, 0, 96, 0]), 96, P.READ),
        "read": tur().command(rw10(0x28, 0, 64), 32768, P.READ),
        "read-short": tur().command(rw10(0x28, 0, 8), 1000, P.READ),
        "read-long": tur().command(rw10(0x28, 0, 1), 9000, P.READ),
        "write-immediate": tur().command(rw10(0x2A, 0, 1), 512, P.WRITE, b"x" * 512),
        "write-r2t": tur().command(rw10(0x2A, 0, 4), 2048, P.WRITE)
        .data_out(2, 1, 0, b"y" * 1024, final=0).data_out(2, 1, 1024, b"y" * 1024, 1),
        "write-large": tur().command(rw10(0x2A, 0, 128), 65536, P.WRITE)
        .data_out(2, 1, 0, b"z", final=0, amplify=32768).data_out(2, 1, 32768, b"z", 1, amplify=32768),
        "write-overrun": tur().command(rw10(0x2A, 0, 4), 2048, P.WRITE).data_out(2, 1, 0, b"o", amplify=2049),
        "write-overrun-large": tur().command(rw10(0x2A, 0, 128), 65536, P.WRITE)
        .data_out(2, 1, 0, b"o", amplify=65540),
        "write-offset": tur().command(rw10(0x2A, 0, 4), 2048, P.WRITE).data_out(2, 1, 1024, b"y" * 1025),
        "write-datasn": tur().command(rw10(0x2A, 0, 4), 2048, P.WRITE).data_out(2, 1, 0, b"y" * 2048, 1),
        "write-immediate-overrun": tur().command(rw10(0x2A, 0, 1), 512, P.WRITE, b"i", amplify=40000),
        "write-unsolicited-overrun": tur().command(rw10(0x2A, 0, 8), 4096, P.WRITE, b"u" * 512, final=0)
        .data_out(2, P.NONE, 512, b"u", amplify=40000),
        "write-unsolicited": tur().command(rw10(0x2A, 0, 8), 4096, P.WRITE, b"u" * 512, final=0)
        .data_out(2, P.NONE, 512, b"u" * 3584),
        "write-placed": tur().command(rw10(0x2A, 0, 40), 20480, P.WRITE, b"p", amplify=20480),
        "compare-and-write": tur().command(bytes([0x89] + [0] * 12 + [1, 0, 0]), 1024, P.WRITE, bytes(1024)),
        "unmap": tur().command(bytes([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]), 24, P.WRITE,
                               bytes.fromhex("0016001000000000") + bytes(8) + bytes([0, 0, 0, 8]) + bytes(4)),
        "nop": Talk().add(P.NOP_OUT, b"ping", ttt=P.NONE).add(P.NOP_OUT, b"now", immediate=True, ttt=P.NONE),
        "nop-answer": Talk().add(P.NOP_OUT, immediate=True, itt=P.NONE, ttt=1),
        "abort": tur().command(rw10(0x2A, 0, 8), 4096, P.WRITE)
        .add(P.TMF_REQUEST, immediate=True, flags=P.FINAL | 1, rtt=2, refcmdsn=2),
        "lu-reset": tur().command(rw10(0x2A, 0, 8), 4096, P.WRITE)
        .add(P.TMF_REQUEST, immediate=True, flags=P.FINAL | 5, rtt=P.NONE),
        "warm-reset": tur().add(P.TMF_REQUEST, immediate=True, flags=P.FINAL | 6, rtt=P.NONE),
        "task-reassign": tur().add(P.TMF_REQUEST, immediate=True, flags=P.FINAL | 8, rtt=1),
        "logout": tur().add(P.LOGOUT_REQUEST, flags=P.FINAL),
        "logout-connection": tur().add(P.LOGOUT_REQUEST, immediate=True, flags=P.FINAL | 1),
        "snack": tur().add(P.SNACK, immediate=True, flags=P.FINAL | 1),
        "text": Talk().add(P.TEXT_REQUEST, b"MaxRecvDataSegmentLength=512\0", ttt=P.NONE),
        "login-again": Talk().add(P.LOGIN_REQUEST, b"InitiatorName=a\0", immediate=True),
        "unknown": Talk().add(0x1C, immediate=True),
        "long-cdb": Talk().command(b"\x7f" + bytes(15), ahs=b"\0\x11\x01\0" + bytes(16)),
        "bidirectional": Talk().command(rw10(0x2A, 0, 1), 512, P.READ | P.WRITE, bytes(512),
                                        ahs=b"\0\x05\x02\0" + bytes(4)),
        "wrong-lun": Talk().command(bytes([0x12, 0, 0, 0, 96, 0]), 96, P.READ, lun=5 << 48),
        "report-luns": Talk().command(bytes([0xA0] + [0] * 8 + [64, 0, 0]), 64, P.READ),
    }
    held = Talk()
    held.cmdsn = 3
    held.command(bytes(6)).command(rw10(0x28, 0, 1), 512, P.READ)
    held.cmdsn = 1
    talks["out-of-order"] = held.command(bytes(6)).command(bytes(6))
    for name, talk in talks.items():
        write("pdu", name, bytes([FULL]) + talk.out)
        if name in ("write-r2t", "write-large", "write-placed", "read", "nop", "long-cdb"):
            write("pdu", f"{name}-digests", bytes([DIGESTS]) + talk.out)
            write("pdu", f"{name}-torn", bytes([FULL | PIECES_300]) + talk.out)
        if name.startswith("write-unsolicited") or name.startswith("write-immediate"):
            write("pdu", f"{name}-agreed", bytes([FULL | UNSOLICITED | PIECES_48]) + talk.out)
        if name in ("read", "write-immediate"):
            write("pdu", f"{name}-4096", bytes([FULL | BLOCKS_4096]) + talk.out)
    write("pdu", "discovery", bytes([DISCOVERY]) + Talk().add(P.TEXT_REQUEST, b"SendTargets=All\0",
                                                              ttt=P.NONE).out)
    write("pdu", "login", bytes([BEFORE | RAW]) + login_pdu(WHO))
    write("pdu", "login-torn", bytes([BEFORE | RAW | PIECES_7]) + login_pdu(WHO))
    write("pdu", "login-stages", bytes([BEFORE | RAW]) + login_pdu({**WHO, "AuthMethod": "None"}, 0, 1)
          + login_pdu({"HeaderDigest": "CRC32C,None"}))
    write("pdu", "login-and-more", bytes([BEFORE | RAW]) + login_pdu(WHO) + Talk().command(bytes(6)).out)
    write("pdu", "http", bytes([BEFORE | RAW]) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    write("pdu", "too-long", bytes([FULL | RAW]) + bytes([0x40, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF]) + bytes(40))


# ---- login and text: a byte of options, then flags, length, text again and again

def texts(options, *requests):
    out = bytes([options])
    for flags, data in requests:
        out += struct.pack(">BH", flags, len(data)) + data
    return out


def login_seeds():
    every = {"HeaderDigest": "CRC32C,None", "DataDigest": "None", "InitialR2T": "No", "ImmediateData": "Yes",
             "MaxRecvDataSegmentLength": 262144, "MaxBurstLength": 16776192, "FirstBurstLength": 65536,
             "MaxOutstandingR2T": 8, "MaxConnections": 4, "DefaultTime2Wait": 0, "DefaultTime2Retain": 60,
             "ErrorRecoveryLevel": 2, "DataPDUInOrder": "Yes", "DataSequenceInOrder": "No",
             "IFMarker": "No", "OFMarker": "Yes", "TaskReporting": "FastAbort,RFC3720",
             "iSCSIProtocolLevel": 2, "X-com.example.key": 1}
    to_full, to_oper, stay = 0x87, 0x81, 0x04
    write("login", "every-key", texts(2, (to_full, P.pack_keys(every))))
    write("login", "security", texts(2, (to_oper, P.pack_keys({"AuthMethod": "CHAP,None"})), (to_full, b"")))
    write("login", "chap", texts(0x12, (0, P.pack_keys({"AuthMethod": "CHAP"})), (0, P.pack_keys({"CHAP_A": "7,5"})),
                                 (0x83, P.pack_keys({"CHAP_N": "user", "CHAP_R": "0x" + "11" * 32,
                                                     "CHAP_I": 1, "CHAP_C": "0b" + "AAAA" * 5}))))
    write("login", "continued", texts(2, (0x44, b"HeaderDig"), (0x44, b"est=None\0Max"), (to_full, b"BurstLength=512\0")))
    write("login", "steps", texts(2, (stay, b"MaxBurstLength=1024\0"), (stay, b"FirstBurstLength=512\0"), (to_full, b"")))
    write("login", "discovery", texts(0, (to_full, b"InitiatorName=iqn.a.b:c\0SessionType=Discovery\0")))
    write("login", "numbers", texts(2, (to_full, b"MaxBurstLength=0x200\0FirstBurstLength=0b/w==\0"
                                        b"MaxRecvDataSegmentLength=99999999999999999999\0")))
    write("login", "ranges", texts(2, (to_full, b"MaxBurstLength=512~1024\0IFMarkInt=2048~8192\0")))
    write("login", "nobody", texts(0, (to_full, b"TargetName=x\0")))
    write("login", "empty", texts(0, (to_full, b"")))
    write("login", "twice", texts(2, (to_full, b"InitialR2T=No\0InitialR2T=No\0")))
    write("login", "no-equals", texts(2, (to_full, b"InitialR2T\0=\0\0=x\0")))
    write("login", "full-feature", texts(4, (to_full, b"SendTargets=\0MaxRecvDataSegmentLength=512\0")))
    write("login", "long-name", texts(0, (to_full, b"InitiatorName=" + b"i" * 224 + b"\0TargetName=x\0")))


def text_seeds():
    final, cont, new, reset, wrong, numbered, no_wait = 0x80, 0x40, 1, 2, 4, 8, 16
    everything = b"SendTargets=All\0"
    write("text", "all", texts(1, (final, everything)))
    write("text", "all-in-pieces", texts(3, (final, everything), *[(final, b"")] * 6))
    write("text", "own", texts(0, (final, b"SendTargets=\0")))
    write("text", "one", texts(1, (final, f"SendTargets={TARGET}\0".encode())))
    write("text", "continued", texts(1, (cont, b"SendTar"), (cont, b"gets="), (final, b"All\0")))
    write("text", "reset", texts(3, (final, everything), (final | reset | new, b"SendTargets=x\0")))
    write("text", "numbered", texts(3, (final | numbered, everything), (final | numbered, b"")))
    write("text", "wrong-tag", texts(3, (final, everything), (final | wrong, b"")))
    write("text", "no-wait", texts(1, (final | no_wait, everything), (final | new, everything)))
    write("text", "negotiate", texts(0, (final, b"MaxRecvDataSegmentLength=1024\0X-a=b\0HeaderDigest=None\0")))
    write("text", "both", texts(1, (cont | final, everything)))
    write("text", "too-long", texts(1, *[(cont, b"X" * 1000)] * 9))


# ---- cdb: two bytes of options, then commands; see cdb.c

READS, WRITES, SCALE, LATER, NO_WAIT, OTHER = 2, 4, 0x20, 0x10, 8, 1


def cmd(cdb, flags=0, expected=0, data=b"", where=1):
    return struct.pack(">BB", flags, where) + bytes(cdb).ljust(16, b"\0") + struct.pack(">HH", expected, len(data)) + data


def cdb16(opcode, flags, lba, blocks):
    return struct.pack(">BBQIBB", opcode, flags, lba, blocks, 0, 0)


def cdb_seeds():
    attention = cmd(bytes(6)) + cmd(bytes(6), OTHER)
    unmap = bytes.fromhex("0016001000000000") + bytes(8) + struct.pack(">II", 8, 0)
    page_08 = bytes.fromhex("00000000") + bytes([0x08, 0x12, 0x04]) + bytes(17)
    one = {
        "request-sense": cmd([3, 0, 0, 0, 252], READS, 252),
        "format": cmd([4]), "format-list": cmd([4, 0x10], WRITES, 4, bytes(4)),
        "format-immed": cmd([4, 0x10], WRITES, 4, b"\0\x02\0\0") + cmd([3, 0, 0, 0, 96], READS, 96),
        "inquiry": cmd([0x12, 0, 0, 0, 96], READS, 96),
        "mode-sense-6": cmd([0x1A, 0, 0x3F, 0xFF, 255], READS, 255),
        "mode-sense-10": cmd([0x5A, 0x10, 0x3F, 0xFF, 0, 0, 0, 4, 0], READS, 1024),
        "mode-select-6": cmd([0x15, 0x10, 0, 0, 24], WRITES, 24, page_08),
        "mode-select-10": cmd([0x55, 0x11, 0, 0, 0, 0, 0, 0, 28], WRITES, 28, bytes(4) + page_08),
        "reserve": cmd([0x16]) + cmd(bytes(6), OTHER) + cmd([0x17]),
        "stop": cmd([0x1B, 0, 0, 0, 0]) + cmd(bytes(6)) + cmd([0x1B, 0, 0, 0, 1]),
        "self-test": cmd([0x1D, 4]), "background-test": cmd([0x1D, 0x20]) + cmd([0x1D, 0x80]),
        "send-diagnostic": cmd([0x1D, 0x10, 0, 0, 4], WRITES, 4, bytes(4)),
        "receive-diagnostic": cmd([0x1C, 1, 0x40, 0, 64], READS, 64),
        "write-buffer": cmd([0x3B, 2, 0, 0, 0, 0, 0, 0, 64], WRITES, 64, b"b" * 64)
        + cmd([0x3C, 2, 0, 0, 0, 0, 0, 0, 64], READS, 64),
        "unmap": cmd([0x42, 0, 0, 0, 0, 0, 0, 0, 24], WRITES, 24, unmap),
        "write-same-10": cmd([0x41, 8, 0, 0, 0, 0, 0, 0, 64], WRITES | SCALE, 1, b"s"),
        "write-same-16": cmd(cdb16(0x93, 1, 16, 100), READS, 0) + cmd(cdb16(0x93, 0, 16, 100), WRITES | SCALE, 1, b"s"),
        "sanitize": cmd([0x48, 1, 0, 0, 0, 0, 0, 0, 8], WRITES, 8, b"\x01\0\0\x04abcd"),
        "block-erase": cmd([0x48, 2]) + cmd([0x48, 0x1F]),
        "sanitize-immed": cmd([0x48, 0x82]) + cmd([3, 0, 0, 0, 96], READS, 96),
        "log-sense": cmd([0x4D, 0, 0x40, 0xFF, 0, 0, 0, 1, 0], READS, 256),
        "log-select": cmd([0x4C, 2]), "log-select-list": cmd([0x4C, 0, 0x42, 0, 0, 0, 0, 0, 4], WRITES, 4, bytes(4)),
        "read-write": cmd([0x2A, 8, 0, 0, 0, 4, 0, 0, 8], WRITES | SCALE, 8, b"data")
        + cmd([0x28, 0, 0, 0, 0, 4, 0, 0, 8], READS | SCALE, 8),
        "read-6": cmd([8, 0, 0, 1, 4], READS | SCALE, 4), "write-6": cmd([10, 0, 0, 1, 4], WRITES | SCALE, 4, b"w"),
        "read-large": cmd(cdb16(0x88, 0, 0, 1500), READS | SCALE | LATER, 1500),
        "write-large": cmd(cdb16(0x8A, 0, 0, 1500), WRITES | SCALE | LATER, 1500, b"12345"),
        "write-verify": cmd(cdb16(0x8E, 2, 4, 4), WRITES | SCALE, 4, b"wv"),
        "verify": cmd(cdb16(0x8F, 2, 4, 4), WRITES | SCALE, 4, bytes(8)) + cmd(cdb16(0x8F, 0, 4, 4)),
        "compare-and-write": cmd([0x89] + [0] * 12 + [1], WRITES | SCALE, 2, bytes(512)),
        "orwrite": cmd(cdb16(0x8B, 0, 4, 4), WRITES | SCALE, 4, b"\x81"),
        "many": b"".join(cmd(cdb16(0x8A, 0, 4 * i, 6), WRITES | SCALE | NO_WAIT | LATER | i & 1, 6, b"m")
                         for i in range(5)) + cmd([0x91]),
        "sync": cmd([0x35]), "prefetch": cmd([0x34, 2, 0, 0, 0, 0, 0, 0, 4]),
        "read-capacity": cmd([0x25], READS, 8) + cmd([0x9E, 0x10] + [0] * 11 + [32], READS, 32),
        "lba-status": cmd([0x9E, 0x12] + [0] * 11 + [96], READS, 96),
        "report-luns": cmd([0xA0] + [0] * 8 + [64], READS, 64), "well-known": cmd([0xA0] + [0] * 8 + [64], READS, 64, where=0x81),
        "defects": cmd([0x37, 0, 0x0D, 0, 0, 0, 0, 0, 64], READS, 64) + cmd([0xB7, 0x1D] + [0] * 7 + [64], READS, 64),
        "identifying": cmd([0xA4, 6] + [0] * 7 + [8], WRITES, 8, b"info\0\0\0\0") + cmd([0xA3, 5] + [0] * 7 + [64], READS, 64),
        "opcodes": cmd([0xA3, 0x0C, 0x80, 0, 0, 0, 0, 0, 8, 0], READS, 2048) + cmd([0xA3, 0x0C, 1, 0x2A] + [0] * 5 + [64], READS, 64),
        "tmfs": cmd([0xA3, 0x0D, 0x80] + [0] * 6 + [16], READS, 16),
        "timestamp": cmd([0xA4, 0x0F] + [0] * 7 + [12], WRITES, 12, bytes(12)) + cmd([0xA3, 0x0F] + [0] * 7 + [12], READS, 12),
        "ordered": cmd(bytes(6), where=2) + cmd(bytes(6), where=3),
        "no-lun": cmd([0x12, 0, 0, 0, 96], READS, 96, where=0x11),
    }
    for n, (name, commands) in enumerate(one.items()):
        write("cdb", name, bytes([n & 5, n]) + attention + commands)
    for page in (0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2):
        write("cdb", f"vpd-{page:02x}", bytes([0, 0]) + cmd([0x12, 1, page, 2, 0], READS, 512))
    write("cdb", "lost", bytes([8, 1]) + attention + b"".join(
        cmd(cdb16(0x8A, 0, 4 * i, 600), WRITES | SCALE | NO_WAIT | LATER, 600, b"l") for i in range(4)))
    write("cdb", "read-only", bytes([2, 1]) + attention + one["read-write"])
    write("cdb", "null", bytes([16, 1]) + attention + one["read-write"])


# ---- grammar: a byte that says which, then text

def grammar_seeds():
    number, rule, spec, options, arguments, names = (bytes([n]) for n in range(6))
    for n, text in enumerate((b"4096", b"100GiB", b"100GB", b"1.5T", b"250ms", b"18446744073709551615", b"0x10")):
        write("grammar", f"number-{n}", number + text)
    for n, text in enumerate((b"write+flush@1M-2M;eio;after=3;count=1", b"any;hang;while=/nowhere", b"read@4K-;delay=250ms",
                              b"write;short=512;prob=0.01", b"discard+zero+extent;enospc", b"read;eremoteio;prob=1")):
        write("grammar", f"rule-{n}", rule + text)
    for n, text in enumerate((b"ram:64M", b"null:1T", b"fault::ram:1M", b"fault:volatile=on,seed=7,rule=read;eio:ram:1M",
                              b"fault:flush=off:fault:rule=any;hang:null:1G", b"disk.img", b"nonsense:1", b"ram:0")):
        write("grammar", f"spec-{n}", spec + text)
    for n, text in enumerate((b"flag,uint=7,size=4K,duration=2s,string=abc,choice=green,list=a,list=b", b"flag=no", b"uint=1001",
                              b"choice=blue", b"size=1", b"=,=x,flag=")):
        write("grammar", f"options-{n}", options + text)
    for n, text in enumerate((b"ram:1G\n--port\n0", b"--size=10G\ndisk.img\n-v", b"--listen\n[::1]:3260\na\n--json", b"--name=x\na\nb",
                              b"--\n-v", b"-h", b"--iqn\niqn.2026-11.lan.nas:disk1\na\n--block-size=4096\n--threads=3")):
        write("grammar", f"arguments-{n}", arguments + text)
    for n, text in enumerate((b"nas.example.com\ndisk-1", b"iqn.2026-11.lan.nas:disk1", b"naa.52004567ba64678d", b"eui.02004567a425678d",
                              b"[fd00::5]:3260", b":3260", b"10.0.0.5", b"::ffff:1.2.3.4", b"[fe80::1%lo]:1")):
        write("grammar", f"names-{n}", names + text)


# ---- aoe: two bytes of options, then frames; see aoe.c

OTHER_CLIENT, OTHER_PORT, NO_WAIT, GOES, FLAPS, MTU, RIVAL = 1, 2, 4, 8, 16, 32, 64


def aoe_frame(command, body=b"", flags=0, shelf=1, slot=2, tag=7, version=0x10):
    frame = struct.pack(">BBHBBI", version, 0, shelf, slot, command, tag) + body
    return struct.pack(">BH", flags, len(frame)) + frame


def aoe_ata(opcode, lba=0, count=0, data=b"", feature=0, **more):
    return aoe_frame(0, bytes([0x40, feature, count, opcode]) + lba.to_bytes(6, "little") + bytes(2) + data, **more)


def aoe_smart(feature, low=0, count=1, **more):
    return aoe_ata(0xB0, low | 0xC24F00, count, feature=feature, **more)


def aoe_trim(*ranges, **more):
    data = b"".join((lba | n << 48).to_bytes(8, "little") for lba, n in ranges).ljust(512, b"\0")
    return aoe_ata(0x06, count=1, data=data, feature=1, **more)


def aoe_query(command, string=b"", **more):
    return aoe_frame(1, struct.pack(">HHBBH", 0, 0, 0, 0x10 | command, len(string)) + string, **more)


def aoe_mask(directives, command=1, **more):
    return aoe_frame(2, bytes([0, command, 0, len(directives)]) + b"".join(bytes([0, d]) + mac for d, mac in directives), **more)


def aoe_reserve(command, *macs, **more):
    return aoe_frame(3, bytes([command, len(macs)]) + b"".join(macs), **more)


def aoe_lists():
    one, two = (b"\2" + bytes(4) + bytes([n]) for n in (1, 2))
    many = [bytes([6, 0, 0, 0, 0, n]) for n in range(100)]
    write("aoe", "masks", bytes(2) + aoe_mask([(1, one), (1, two), (0, two)]) + aoe_mask([(2, two)], flags=OTHER_PORT) +
          aoe_mask([], 0, flags=OTHER_CLIENT) + aoe_query(0, flags=OTHER_CLIENT) + aoe_mask([(2, one)]) + aoe_mask([], 0) +
          aoe_mask([(1, two), (9, one), (2, two)]) + aoe_ata(0x24, 0, 1) + aoe_mask([(2, two)]) + aoe_mask([(1, two)], flags=OTHER_CLIENT))
    write("aoe", "masks-full", bytes([0x20, 1]) + aoe_mask([(1, mac) for mac in many]) +
          aoe_mask([(1, b"\4" + mac[1:]) for mac in many]) + aoe_mask([], 0) + aoe_mask([(2, mac) for mac in many]))
    write("aoe", "reserve", bytes(2) + aoe_reserve(1, one) + aoe_ata(0x24, 0, 1, flags=OTHER_CLIENT) + aoe_reserve(1, two, flags=OTHER_CLIENT) +
          aoe_reserve(0, flags=OTHER_CLIENT) + aoe_ata(0x24, 0, 1) + aoe_reserve(1, two, one) + aoe_reserve(1, flags=OTHER_CLIENT) +
          aoe_reserve(1, *many) + aoe_reserve(2) + aoe_reserve(2, two, flags=OTHER_CLIENT) + aoe_reserve(7) + aoe_frame(3, b"\1\377"))
    # Others have writes under way.
    write("aoe", "fence", bytes([0x08, 2]) + b"".join(
        aoe_ata(0x34, lba, 2, 2 * bytes(range(256)) * 2, tag=tag, flags=OTHER_CLIENT | NO_WAIT)
        for tag, lba in enumerate((0, 0, 1, 0, 9))) + aoe_reserve(1, one, flags=NO_WAIT) + aoe_reserve(2, two, flags=NO_WAIT) +
          aoe_ata(0x34, 0, 1, bytes(512), flags=OTHER_CLIENT | NO_WAIT) + aoe_ata(0x24, 0, 2) + aoe_reserve(1))


def aoe_seeds():
    aoe_lists()
    block = bytes(range(256)) * 2
    everybody = {"shelf": 0xFFFF, "slot": 0xFF}
    write("aoe", "discover", bytes(2) + aoe_query(0, **everybody) + aoe_ata(0xEC, count=1))
    write("aoe", "transfers", bytes([0x02, 1]) + b"".join(
        aoe_ata(w, 3, 2, 2 * block) + aoe_ata(r, 3, 2) for w, r in ((0x30, 0x20), (0x34, 0x24), (0xCA, 0xC8), (0x35, 0x25))))
    write("aoe", "others", bytes([0x04, 2]) + b"".join(aoe_ata(n, 1, 1) for n in (0x40, 0x42, 0xE0, 0xE1, 0xE5, 0xE7, 0xEA, 0xB0)))
    write("aoe", "strings", bytes(2) + aoe_query(3, b"mine") + aoe_query(1, b"mine") + aoe_query(2, b"mi") +
          aoe_query(3, b"yours") + aoe_query(4, b"yours", flags=OTHER_PORT) + aoe_query(4, b"x", flags=OTHER_CLIENT))
    write("aoe", "again", bytes([0x08, 3]) + b"".join(
        aoe_ata(0x34, lba, 2, 2 * block, tag=tag, flags=flags)
        for tag, (lba, flags) in enumerate(((0, NO_WAIT), (0, NO_WAIT), (1, NO_WAIT), (0, NO_WAIT), (0, NO_WAIT | OTHER_PORT), (0, 0)))))
    write("aoe", "wrong", bytes([0x70, 4]) + aoe_frame(2, bytes(3)) + aoe_frame(3) + aoe_frame(0xF0) + aoe_ata(0x24, 1 << 40, 1) +
          aoe_ata(0x24, 0, 0) + aoe_ata(0x24, 0, 255) + aoe_ata(0x34, 0, 2, block) + aoe_frame(0) + aoe_query(7))
    write("aoe", "smart", bytes(2) + b"".join(aoe_smart(n) for n in (0xD0, 0xD2, 0xDA, 0xD9, 0xDA, 0xD8, 0xD4)) +
          aoe_smart(0xD5, 0, 1) + aoe_smart(0xD5, 1, 1) + aoe_smart(0xD5, 0x30, 2) + aoe_smart(0xD5, 2, 1) + aoe_smart(0xDA, data=block))
    write("aoe", "logs", bytes([0x20, 6]) + aoe_ata(0x2F, 0, 1) + aoe_ata(0x2F, 0x03, 5) + aoe_ata(0x2F, 0x0403, 1) +
          aoe_ata(0x2F, 0x30, 2) + aoe_ata(0x2F, 0x100000030, 1) + aoe_ata(0x27) + aoe_ata(0xF8))
    write("aoe", "trim", bytes([0x08, 7]) + b"".join((
        aoe_trim((0, 8), (16, 2), (5, 0), (2047, 1), flags=NO_WAIT), aoe_ata(0x34, 1, 2, 2 * block, flags=NO_WAIT),
        aoe_trim((1, 1), flags=NO_WAIT), aoe_trim((1, 1), flags=NO_WAIT | OTHER_PORT), aoe_ata(0x24, 0, 2),
        aoe_trim((0, 1), (2047, 2)), aoe_trim(), aoe_ata(0x24, 1, 2))))
    write("aoe", "cache", bytes([0x06, 8]) + aoe_ata(0xEF, feature=0x82) + aoe_ata(0x34, 0, 1, block) + aoe_trim((0, 1)) +
          aoe_ata(0xEF, feature=2) + aoe_ata(0x34, 0, 1, block) + aoe_trim((0, 1)) + aoe_ata(0xEC, count=1))
    write("aoe", "jumbo", bytes([0x20, 5]) + aoe_ata(0x34, 8, 16, 16 * block) + aoe_ata(0x24, 8, 16) + aoe_ata(0x42, 0, 255))
    write("aoe", "links", bytes([0x28, 6]) + aoe_ata(0x34, 8, 16, 16 * block, flags=NO_WAIT) + aoe_ata(0x24, 8, 16, flags=NO_WAIT) +
          aoe_ata(0x24, 8, 16, flags=MTU | NO_WAIT) + aoe_ata(0x34, 8, 16, 16 * block, flags=NO_WAIT) + aoe_ata(0x24, 8, 2) +
          aoe_ata(0x34, 0, 2, 2 * block, flags=NO_WAIT) + aoe_query(0, flags=GOES) + aoe_query(0) + aoe_query(0, flags=GOES) +
          aoe_ata(0x24, 0, 2) + aoe_query(0, flags=FLAPS | NO_WAIT) + aoe_query(0, flags=RIVAL | NO_WAIT, version=0x18) +
          aoe_query(0, b"spindle?" + bytes(8), flags=FLAPS | RIVAL | NO_WAIT | OTHER_PORT) + aoe_query(0) +
          aoe_ata(0x24, 0, 2, flags=OTHER_PORT))
    write("aoe", "gone-meanwhile", bytes([0x08, 7]) + aoe_ata(0x34, 0, 2, 2 * block, flags=NO_WAIT) +
          aoe_query(0, flags=GOES | NO_WAIT) + aoe_query(0, flags=GOES | NO_WAIT) + aoe_query(0))


def main():
    for seeds in (pdu_seeds, login_seeds, text_seeds, cdb_seeds, grammar_seeds, aoe_seeds):
        seeds()


if __name__ == "__main__":
    main()
