"""
Linux' initiator and disk driver (Debian's kernel, iscsistart) use our disks from a virtual machine: logins with
and without digests and CHAP, raw I/O past caches, an ext4 file system written, checked and read again. The host
judges what the kernel saw and said, and finds everything in the files below afterwards.

The machine's only network is qemu's own: it reaches this host's loopback as 10.0.2.2, and nothing else.
"""

import contextlib
import hashlib
import os
import random
import re
import sys
import tempfile

import parts

sys.path.insert(0, os.path.join(os.path.dirname(parts.HERE), "system"))

from harness import MIB, Spindle, main, need_tool, tool  # noqa: E402

SIZE = 64 * MIB
GROWN = 80 * MIB
RAW_AT = 48 * MIB  # below it the file system, from here on the raw area,
SPACE_AT = 56 * MIB  # what is discarded and zeroed,
TOOLS_AT = 60 * MIB  # and what other tools write

WRITE_BACK = "Write cache: enabled, read cache: enabled, supports DPO and FUA"
NO_CACHE = "Write cache: disabled, read cache: enabled, supports DPO and FUA"

# Users and their secrets; each server finds them in files of its directory.
SECRETS = {"vm": "0123456789abcdef", "host": "fedcba9876543210"}
CHAP = ("--chap", "vm:vm")
MUTUAL_CHAP = ("--mutual-chap", "host:host")

# A row: name, STORE, options, digest, what is done beside reading and writing, and what Linux must find: bytes in a
# block, its line about the cache, InitialR2T.
CASES = (
    ("plain", "disk.img", (), "None", "grow", 512, WRITE_BACK, 1),
    ("digests", "disk.img", CHAP, "CRC32C", "tools", 512, WRITE_BACK, 1),
    ("big-blocks", "disk.img", ("--block-size", "4096", "--unsolicited"), "None", "tools", 4096, WRITE_BACK, 0),
    ("big-blocks-digests", "disk.img", ("--block-size", "4096"), "CRC32C", "none", 4096, WRITE_BACK, 1),
    ("memory", f"ram:{SIZE}", ("--unsolicited",), "CRC32C", "erase", 512, NO_CACHE, 0),
    ("read-only", "disk.img", ("--ro", *CHAP, *MUTUAL_CHAP), "None", "none", 512, NO_CACHE, 1),
)

# What Linux writes when a command or a connection fails.
COMPLAINT = re.compile(r"error|fail|sense key|rejected|timing out|timed out|abort|reset of|invalid|unsupported|"
                       r"unhandled|warning|BUG|Call Trace|not responding|closed", re.IGNORECASE)
EXPECTED = re.compile(r"Power-on or device reset occurred")
# What sg3_utils write when a page is not as the standards have it.
DECODERS_COMPLAINT = re.compile(r"malformed|too short|truncated|unexpected|illegal|bad |wrong|(?<!\[)invalid|unable|couldn't|"
                                r"cannot|unknown\b(?!\))", re.IGNORECASE)


def contents():
    """Name to bytes: what goes through the file system, of every awkward length."""
    rng = random.Random(7143)
    lengths = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65537, 262144, 1048577, 3 * MIB]
    lengths += [rng.randrange(100000) for _ in range(28)]
    return {f"files/file{n}": rng.randbytes(length) for n, length in enumerate(lengths)}


RAW = random.Random(3720).randbytes(2 * MIB)
FILES = contents()


def make_file_system(path):
    with tempfile.TemporaryDirectory() as d:
        os.mkdir(os.path.join(d, "files"))
        for name, data in FILES.items():
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)
        with open(path, "wb") as f:
            f.truncate(SIZE)
        tool("mke2fs", "-q", "-t", "ext4", "-d", d, path)


def grow(directory, name):
    os.truncate(os.path.join(directory, name, "disk.img"), GROWN)


def boot(root, directory, cases):
    """Runs the machine to its end; what it wrote on its console."""
    tree = parts.initramfs(root)
    for name, data in FILES.items():
        tree.add(name, data)
    tree.add("raw", RAW)
    tree.add("parameters", f"RAW_AT={RAW_AT}\nSPACE_AT={SPACE_AT}\nTOOLS_AT={TOOLS_AT}\n".encode())
    tree.add("sums", "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n"
                             for name, data in FILES.items()).encode())
    tree.add("cases", "".join(" ".join(map(str, case)) + "\n" for case in cases).encode())
    return parts.run(root, tree, directory, ["-netdev", "user,id=net,ipv6=off",
                                             "-device", "virtio-net-pci,netdev=net,romfile="],
                     lambda word, name: grow(directory, name))


def make_secrets(directory):
    for user, secret in SECRETS.items():
        with open(os.open(os.path.join(directory, user), os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as f:
            f.write(secret)


def login_options(options):
    """What iscsistart needs to log in."""
    words = []
    if "--chap" in options:
        words += ["-u", "vm", "-w", SECRETS["vm"]]
    if "--mutual-chap" in options:
        words += ["-U", "host", "-W", SECRETS["host"]]
    return words


def run_all(directory):
    """Starts a server a case, lets the machine use them all, stops them: its report, and what they said."""
    root = parts.fetched()
    with contextlib.ExitStack() as stack:
        rows, servers = [], []
        for name, store, options, digest, more, *_ in CASES:
            own = os.path.join(directory, name)
            os.mkdir(own)
            make_secrets(own)
            if "--ro" in options:
                make_file_system(os.path.join(own, store))
            elif store == "disk.img":
                options = (*options, "--size", SIZE)
            server = stack.enter_context(Spindle(store, args=options, directory=own))
            servers.append((name, server))
            rows.append((name, "ro" if "--ro" in options else "rw", server.portals[0][1], server.iqn(), digest,
                         more, *login_options(options)))
        guest = parts.Guest(boot(root, directory, rows))
    # The servers have stopped, and each has judged how it ended.
    said = {name: server.stderr() for name, server in servers}
    return guest, said


def check_kernel(name, lines, expected):
    text = "\n".join(lines)
    for want in expected:
        assert want in text, f"{name}: the kernel did not say {want!r}:\n{text}"
    complaints = [line for line in lines if COMPLAINT.search(line) and not EXPECTED.search(line)]
    assert not complaints, f"{name}: the kernel complained:\n" + "\n".join(complaints)


def check_space(path, block, more):
    """What was discarded and zeroed reads zeros and takes no space, and its neighbours are as they were."""
    with open(path, "rb") as f:
        f.seek(SPACE_AT)
        assert f.read(len(RAW)) == bytes(3 * MIB // 2) + RAW[3 * MIB // 2:], f"{path}: discarded"
        assert os.lseek(f.fileno(), SPACE_AT, os.SEEK_DATA) >= SPACE_AT + MIB, f"{path}: it takes space still"
        if more != "tools":
            return
        # COMPARE AND WRITE made zeros of the first one; 32 to 63 and 64 to 127 were unmapped.
        wanted = bytes(block) + 31 * RAW[:block] + bytes(96 * block)
        f.seek(TOOLS_AT)
        assert f.read(128 * block) == wanted, f"{path}: what the tools wrote"


def check_tools(name, guest):
    """Each ended as it should, and found nothing wrong with what it decoded."""
    miscompare = 14  # the second COMPARE AND WRITE
    for line in guest.tools.get(name, []):
        status, _, command = line.partition(" ")
        wanted = miscompare if command.startswith("sg_compare_and_write -q") else 0
        assert int(status) == wanted, f"{name}: {command}: {status}\n" + "\n".join(guest.said[name])
    wrong = [line for line in guest.said.get(name, []) if DECODERS_COMPLAINT.search(line)]
    assert not wrong, f"{name}: sg3_utils complain:\n" + "\n".join(wrong)


def check_image(path, block, more):
    """The file below holds what the machine wrote, in the file system and in the raw area."""
    tool("e2fsck", "-fn", path)
    with tempfile.TemporaryDirectory() as d:
        tool("debugfs", "-R", f"rdump /files {d}", path)
        tool("debugfs", "-R", f"dump /direct {d}/files/direct", path)
        for name, data in {**FILES, "files/direct": RAW}.items():
            with open(os.path.join(d, name), "rb") as f:
                assert f.read() == data, f"{path}: {name} differs"
    check_space(path, block, more)
    pieces = {
        "with FUA": (RAW_AT, RAW),
        "four at once": (RAW_AT + len(RAW), RAW[:256 * block]),
        "through the cache, and flushed": (RAW_AT + 2 * len(RAW), RAW),
        "the last block": (SIZE - block, RAW[:block]),
    }
    if more == "grow":
        pieces["behind what was the end"] = (GROWN - len(RAW), RAW)
    with open(path, "rb") as f:
        for name, (offset, data) in pieces.items():
            f.seek(offset)
            assert f.read(len(data)) == data, f"{path}: {name} differs"


def check_case(case, guest):
    name, store, options, digest, more, block, cache, initial_r2t = case
    read_only = "--ro" in options
    assert guest.results.get(name) == 0, f"{name}: {guest.results.get(name)}"
    check_kernel(name, guest.kernel[name], (
        f"{SIZE // block} {block}-byte logical blocks: (67.1 MB/64.0 MiB)",
        f"Write Protect is {'on' if read_only else 'off'}", cache, "Attached SCSI disk"))
    has_digests = int(digest == "CRC32C")
    # A file that is opened read-only cannot discard.
    unmap = 0 if read_only else 512 * MIB
    facts = [("queue/logical_block_size", block), ("ro", int(read_only)), ("immediate_data", 1),
             ("initial_r2t", initial_r2t), ("header_digest", has_digests), ("data_digest", has_digests),
             ("provisioning_mode", "full" if read_only else "unmap"), ("queue/discard_max_bytes", unmap),
             ("queue/write_zeroes_max_bytes", 256 * MIB)]
    if more == "grow":
        facts.append(("grown", GROWN // 512))
    for key, want in facts:
        found = guest.facts[name][key]
        assert found == str(want), f"{name}: {key} is {found}, not {want}"


def test_linux():
    with tempfile.TemporaryDirectory(prefix="spindle-vm-") as directory:
        guest, said = run_all(directory)
        assert guest.ended, "the machine did not come to its end"
        assert not guest.problems, guest.problems
        for case in CASES:
            name, store, options, _, more, block, *_ = case
            check_case(case, guest)
            check_tools(name, guest)
            assert not said[name], f"{name}: the server said:\n{said[name]}"
            if store == "disk.img" and "--ro" not in options:
                check_image(os.path.join(directory, name, store), block, more)


for tool_name in ("qemu-system-x86_64", "debugfs", "ldd"):
    need_tool(tool_name)
main(globals())
