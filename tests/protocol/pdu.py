"""
iSCSI PDUs as bytes (RFC 7143 section 11): pack, unpack, digests, and a text of them for humans.
Nothing here knows what is right; a test may build any PDU it likes.
"""

import struct

NOP_OUT, SCSI_COMMAND, TMF_REQUEST, LOGIN_REQUEST = 0x00, 0x01, 0x02, 0x03
TEXT_REQUEST, DATA_OUT, LOGOUT_REQUEST, SNACK = 0x04, 0x05, 0x06, 0x10
NOP_IN, SCSI_RESPONSE, TMF_RESPONSE, LOGIN_RESPONSE = 0x20, 0x21, 0x22, 0x23
TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE, R2T = 0x24, 0x25, 0x26, 0x31
ASYNC, REJECT = 0x32, 0x3F

NONE = 0xFFFFFFFF  # the reserved tag
BHS = 48

FINAL = 0x80
CONTINUE = 0x40  # login and text
READ, WRITE = 0x40, 0x20  # SCSI command
UNDERFLOW, OVERFLOW = 0x02, 0x04  # SCSI response, Data-In
STATUS = 0x01  # Data-In

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3

_REQUEST = {"cmdsn": (24, 4), "expstatsn": (28, 4)}
_ANSWER = {"statsn": (24, 4), "expcmdsn": (28, 4), "maxcmdsn": (32, 4)}

# name, and the fields by offset and width beyond those that all share
LAYOUT = {
    NOP_OUT: ("NOP-Out", {"ttt": (20, 4), **_REQUEST}),
    SCSI_COMMAND: ("SCSI Command", {"edtl": (20, 4), **_REQUEST}),
    TMF_REQUEST: ("TMF Request", {"rtt": (20, 4), **_REQUEST, "refcmdsn": (32, 4),
                                  "expdatasn": (36, 4)}),
    LOGIN_REQUEST: ("Login Request", {"vmax": (2, 1), "vmin": (3, 1), "isid": (8, 6),
                                      "tsih": (14, 2), "cid": (20, 2), **_REQUEST}),
    TEXT_REQUEST: ("Text Request", {"ttt": (20, 4), **_REQUEST}),
    DATA_OUT: ("Data-Out", {"ttt": (20, 4), "expstatsn": (28, 4), "datasn": (36, 4),
                            "offset": (40, 4)}),
    LOGOUT_REQUEST: ("Logout Request", {"cid": (20, 2), **_REQUEST}),
    SNACK: ("SNACK Request", {"ttt": (20, 4), "expstatsn": (28, 4), "begrun": (40, 4),
                              "runlen": (44, 4)}),
    NOP_IN: ("NOP-In", {"ttt": (20, 4), **_ANSWER}),
    SCSI_RESPONSE: ("SCSI Response", {"response": (2, 1), "status": (3, 1), **_ANSWER,
                                      "expdatasn": (36, 4), "bidi": (40, 4),
                                      "residual": (44, 4)}),
    TMF_RESPONSE: ("TMF Response", {"response": (2, 1), "additional": (8, 3), **_ANSWER}),
    LOGIN_RESPONSE: ("Login Response", {"vmax": (2, 1), "vactive": (3, 1), "isid": (8, 6),
                                        "tsih": (14, 2), **_ANSWER, "status": (36, 2)}),
    TEXT_RESPONSE: ("Text Response", {"ttt": (20, 4), **_ANSWER}),
    DATA_IN: ("Data-In", {"status": (3, 1), "ttt": (20, 4), **_ANSWER, "datasn": (36, 4),
                          "offset": (40, 4), "residual": (44, 4)}),
    LOGOUT_RESPONSE: ("Logout Response", {"response": (2, 1), **_ANSWER, "time2wait": (40, 2),
                                          "time2retain": (42, 2)}),
    R2T: ("R2T", {"ttt": (20, 4), **_ANSWER, "r2tsn": (36, 4), "offset": (40, 4),
                  "length": (44, 4)}),
    ASYNC: ("Async Message", {**_ANSWER, "event": (36, 1), "vcode": (37, 1), "p1": (38, 2),
                              "p2": (40, 2), "p3": (42, 2)}),
    REJECT: ("Reject", {"reason": (2, 1), **_ANSWER, "datasn": (36, 4)}),
}
SHARED = {"flags": (1, 1), "ahslen": (4, 1), "dsl": (5, 3), "lun": (8, 8), "itt": (16, 4)}


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def digest(data):
    """As on the wire: least significant byte first (RFC 7143 13.1)."""
    return struct.pack("<I", crc32c(data))


def pad(data):
    return bytes(data) + bytes(-len(data) % 4)


class Pdu:
    """Fields are attributes: p.itt, p.cmdsn, p.flags, ...; `data` is the data segment."""

    def __init__(self, opcode=0, data=b"", immediate=False, ahs=b"", cdb=None, **fields):
        object.__setattr__(self, "bhs", bytearray(BHS))
        object.__setattr__(self, "ahs", bytes(ahs))
        object.__setattr__(self, "data", bytes(data))
        self.bhs[0] = opcode | (0x40 if immediate else 0)
        if len(self.ahs):
            self.ahslen = len(self.ahs) // 4
        self.dsl = len(self.data)
        if cdb is not None:
            self.bhs[32:32 + len(cdb)] = cdb
        for name, value in fields.items():
            setattr(self, name, value)

    @property
    def opcode(self):
        return self.bhs[0] & 0x3F

    @property
    def name(self):
        return LAYOUT[self.opcode][0] if self.opcode in LAYOUT else f"opcode {self.opcode:#x}"

    @property
    def immediate(self):
        return bool(self.bhs[0] & 0x40)

    @property
    def final(self):
        return bool(self.bhs[1] & FINAL)

    @property
    def keys(self):
        return unpack_keys(self.data)

    def _field(self, name):
        if name in SHARED:
            return SHARED[name]
        if self.opcode in LAYOUT and name in LAYOUT[self.opcode][1]:
            return LAYOUT[self.opcode][1][name]
        raise AttributeError(f"{self.name} has no field {name}")

    def __getattr__(self, name):
        at, width = self._field(name)
        return int.from_bytes(self.bhs[at:at + width], "big")

    def __setattr__(self, name, value):
        if name in ("data", "ahs"):
            object.__setattr__(self, name, bytes(value))
            return
        at, width = self._field(name)
        self.bhs[at:at + width] = value.to_bytes(width, "big")

    def has(self, name):
        return name in SHARED or (self.opcode in LAYOUT and name in LAYOUT[self.opcode][1])

    def pack(self, header_digest=False, data_digest=False):
        out = bytes(self.bhs) + pad(self.ahs)
        if header_digest:
            out += digest(out)
        if self.data:
            body = pad(self.data)
            out += body + (digest(body) if data_digest else b"")
        return out

    def __repr__(self):
        names = list(LAYOUT.get(self.opcode, ("", {}))[1])
        parts = [f"flags={self.flags:#04x}", f"itt={self.itt:#x}"]
        parts += [f"{n}={getattr(self, n):#x}" for n in names]
        if self.data:
            shown = self.data[:80]
            parts.append(f"data[{len(self.data)}]={shown!r}{'...' if len(self.data) > 80 else ''}")
        return f"<{self.name}{' immediate' if self.immediate else ''} {' '.join(parts)}>"


def pack_keys(pairs):
    """A dict, or a list of (key, value) where order or repetition matters."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return b"".join(f"{k}={v}".encode() + b"\0" for k, v in items)


def unpack_keys(data):
    """[(key, value), ...]; each pair must end with a NUL inside the data."""
    if not data:
        return []
    assert data.endswith(b"\0"), f"text does not end with NUL: {data!r}"
    return [tuple(s.decode().split("=", 1)) for s in data.split(b"\0") if s]
