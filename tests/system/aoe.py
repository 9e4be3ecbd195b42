"""
ATA over Ethernet, frame by frame, in a network namespace of its own: discovery, config strings, ATA
commands, errors, who is answered, what is durable, several paths, and windows of requests, lost ones too.

It needs root. SPINDLE_SEED=N makes the random tests what they were in a run that printed it.
"""

import contextlib
import os
import random
import re
import time

from harness import GIB, MIB, Spindle, expect_error, main, run, tool, wait_until

import aoe
import iscsi
import pdu as P
from aoe import Frame, Window, ata_frame, both, client, config_frame, pattern, serving, stored, with_mtu
from disks import RELEASE6, RESERVE6, Switch

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECTOR = aoe.SECTOR
PER_FRAME = 2  # sectors, where the MTU is 1500
STRANGER, ADMIN = bytes.fromhex("020000000066"), bytes.fromhex("020000000077")
PAIRS = ((aoe.WRITE, aoe.READ), (aoe.WRITE_EXT, aoe.READ_EXT), (aoe.WRITE_DMA, aoe.READ_DMA),
         (aoe.WRITE_DMA_EXT, aoe.READ_DMA_EXT))
WITHOUT_DATA = {aoe.FLUSH, aoe.FLUSH_EXT, aoe.CHECK_POWER, aoe.VERIFY, aoe.VERIFY_EXT, aoe.STANDBY_IMMEDIATE,
                aoe.IDLE_IMMEDIATE, aoe.SMART, aoe.SET_FEATURES, aoe.NATIVE_MAX, aoe.NATIVE_MAX_EXT}
KNOWN = {opcode for pair in PAIRS for opcode in pair} | WITHOUT_DATA | {aoe.IDENTIFY, aoe.DATA_SET, aoe.READ_LOG_EXT}


def places(answers):
    return [(a.shelf, a.slot) for a in answers]


# ---- Discovery and config strings --------------------------------------------------------------


def test_what_the_program_says():
    with serving("ram:1M", "ram:2M") as s:
        for slot, disk in enumerate(s.disks):
            assert disk["aoe"] == [{"interface": "aoe0", "shelf": 1, "slot": slot}], disk


def test_wrong_options():
    for option, text in (("aoe0", "aoe0"), ("aoe0:", "aoe0:"), (":1.0", ":1.0"), ("aoe0:1", "aoe0:1"), ("aoe0:1.", "aoe0:1."),
                         ("aoe0:65535.0", "65535"), ("aoe0:4095.0", "4095"), ("aoe0:65536.0", "65536"), ("aoe0:-1.0", "-1"),
                         ("aoe0:1.255", "255"), ("aoe0:1.256", "256"), ("aoe0:1.0x", "1.0x"), ("aoe0:1.0,potato", "potato"),
                         ("aoe0:1.0,cache=potato", "potato"), ("aoe0:1.0,mac=potato", "potato"), ("aoe0:1.0,mac=52540012345\x11", "Ethernet address"),
                         ("aoe0:1.0,mac=52:54:00:12:34", "52:54:00:12:34"),
                         ("aoe0:1.0,admin=52:54:00:12:34:56:78", "52:54:00:12:34:56:78")):
        expect_error(2, "run", "ram:1M", "--port", "0", "--aoe", option, says=[text], timeout=20)
    expect_error(2, "run", "ram:1M", "ram:1M", "--port", "0", "--aoe", "aoe0:1.254", says=["254"], timeout=20)
    expect_error(2, "run", "ram:1M", "--block-size", "4096", "--port", "0", "--aoe", "aoe0:1.0", says=["512"], timeout=20)
    expect_error(3, "run", "ram:1M", "--port", "0", "--aoe", "nosuch0:1.0", says=["nosuch0"], timeout=20)


def test_a_place_that_is_taken():
    done = run("run", "ram:1M", "--port", "0", "--aoe", "aoe0:1.0", "--aoe", "aoe0:1.0", timeout=20)
    assert done.returncode in (2, 4) and "1.0" in done.stderr, done
    with Spindle("ram:1M", args=["--aoe", "aoe0:1.0", "--aoe", "aoe0:1.1"]), client() as c:
        c.ping()
        assert places(c.discover()) == [(1, 0), (1, 1)]
        c.write(0, pattern(1, 0, 2))
        assert c.read(0, 2, slot=1) == pattern(1, 0, 2)


def test_it_serves_when_it_says_so():
    """An initiator asks again when nothing comes; a script that waits for the line of JSON does not."""
    late = []
    for i in range(10):
        with serving("ram:1M"), client() as c:
            try:
                c.ask(ata_frame(aoe.IDENTIFY, count=1), timeout_s=0.5)
            except aoe.NoAnswer:
                late.append(i)
                c.ping()
    assert not late, f"not there at once in {len(late)} of 10 starts"


def test_discovery():
    with both("ram:1M", "ram:1M", "ram:1M") as (_, c):
        everyone = [(1, 0), (1, 1), (1, 2)]
        assert places(c.discover()) == everyone
        assert places(c.discover(shelf=1)) == everyone
        assert places(c.discover(shelf=2)) == []
        for slot in range(3):
            assert places(c.discover(shelf=1, slot=slot)) == [(1, slot)]
            assert places(c.discover(slot=slot)) == [(1, slot)]
        assert places(c.discover(shelf=1, slot=3)) == []
        # To its address, as to everybody.
        assert places(c.discover(dst=c.server_mac)) == everyone
        assert places(c.discover(shelf=1, slot=1, dst=c.server_mac)) == [(1, 1)]


def test_discovery_again_and_again():
    """Each time anew, as several initiators do that start together."""
    with both("ram:1M", "ram:1M") as (_, c):
        for _ in range(20):
            assert places(c.discover(quiet_s=0.1)) == [(1, 0), (1, 1)]


def test_the_answer_to_a_query():
    with both() as (_, c):
        answer = c.config()
        assert answer.buffers == 64 and answer.sectors == PER_FRAME and answer.string == b"", answer
        # Linux' own has no version here, and so is the answer's all the same.
        assert c.config(version=0).ccmd == 0x10
        # User programs set the highest bit of a tag; one of them sets bits that must be 0.
        for tag, flags in ((0x80000001, 0), (0xFFFFFFFF, 0), (0x12345678, 1), (0x12345679, 2)):
            c.send(Frame(aoe.CONFIG, bytes(8), tag=tag, flags=flags))
            assert c.receive().tag == tag
        # Frames need not be filled up.
        assert not c.ask(config_frame(), size=aoe.CONFIG_HEADER).error
        assert not c.ask(config_frame(), size=1514).error


def test_sectors_by_mtu():
    for mtu, sectors in ((1500, 2), (1059, 1), (3000, 5), (4132, 8), (4608, 8), (4700, 8), (8227, 8), (8228, 16), (9000, 16),
                         (9780, 16)):
        assert aoe.sectors_of(mtu) == sectors
        with with_mtu(mtu), both("ram:1M") as (_, c):
            got = c.config().sectors
            assert got == sectors, f"{got} sectors with an MTU of {mtu}"
            data = pattern(SEED, 0, sectors)
            c.write(0, data)
            assert c.read(0, sectors) == data
            c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.READ_EXT, 0, (mtu - 36) // SECTOR + 1))
            if (mtu - 36) // SECTOR > sectors:
                assert c.read(0, sectors + 1)[:sectors * SECTOR] == data, "what fits is done, too"


def test_the_mtu_changes():
    """What it says follows; what it said before it need not keep."""
    with both("ram:1M") as (_, c):
        assert c.config().sectors == 2
        with with_mtu(9000):
            wait_until(lambda: c.config().sectors == 16, 10, "the larger frames")
            c.write(0, pattern(1, 0, 16))
            assert c.read(0, 16) == pattern(1, 0, 16)
        wait_until(lambda: c.config().sectors == 2, 10, "the smaller frames")
        assert c.read(14, 2) == pattern(1, 14, 2)


def test_it_says_when_it_starts():
    with client() as c:
        for n in (1, 3):
            c.announcements.clear()
            with serving(*["ram:1M"] * n):
                wait_until(lambda: c.receive(0.05) or len(c.announcements) >= n, 10, "what it says when it starts")
                c.settle()
                assert sorted(places(c.announcements)) == [(1, slot) for slot in range(n)], c.announcements
                for a in c.announcements:
                    assert a.dst == aoe.BROADCAST and a.flags == aoe.FLAG_R and a.tag == 0, a
                    assert a.buffers == 64 and a.sectors == PER_FRAME and a.ccmd == 0x10, a


def administered(*stores, **more):
    return serving(*(stores or ("ram:1M",)), options=f",admin={aoe.mac_text(ADMIN)}", **more)


def test_config_strings():
    with administered() as s, client() as c, client(mac=ADMIN) as admin:
        assert c.config().string == b""
        answer = admin.config(aoe.CONFIG_SET, b"hello")
        assert answer.string == b"hello", answer
        for who in (c, admin):
            assert who.config().string == b"hello"
            assert who.config(aoe.CONFIG_TEST, b"hello").string == b"hello"
            for prefix in (b"", b"h", b"hell", b"hello"):
                assert who.config(aoe.CONFIG_PREFIX, prefix).string == b"hello"
            who.expect_silence(config_frame(aoe.CONFIG_TEST, b"hell"), config_frame(aoe.CONFIG_TEST, b"hello "),
                               config_frame(aoe.CONFIG_TEST, b"hellO"), config_frame(aoe.CONFIG_TEST),
                               config_frame(aoe.CONFIG_PREFIX, b"hellO"), config_frame(aoe.CONFIG_PREFIX, b"hello "),
                               config_frame(aoe.CONFIG_PREFIX, b"e"))
        admin.expect_error(aoe.STRING_PRESENT, config_frame(aoe.CONFIG_SET, b"other"))
        admin.expect_error(aoe.STRING_PRESENT, config_frame(aoe.CONFIG_SET, b"hell"))
        admin.expect_error(aoe.STRING_PRESENT, config_frame(aoe.CONFIG_SET))
        assert admin.config(aoe.CONFIG_SET, b"hello").string == b"hello"
        assert c.config().string == b"hello"
        assert admin.config(aoe.CONFIG_FORCE, b"other one").string == b"other one"
        assert c.config().string == b"other one"
        assert admin.config(aoe.CONFIG_FORCE).string == b""
        assert c.config().string == b"" and c.config(aoe.CONFIG_TEST).string == b""
        assert admin.config(aoe.CONFIG_SET, b"third").string == b"third"
        assert s.running()


def test_config_strings_of_any_bytes():
    rng = random.Random(SEED)
    with administered() as _, client() as c, client(mac=ADMIN) as admin:
        for length in (1, 27, 28, 29, 255, 256, 1023, 1024):
            text = rng.randbytes(length)
            assert admin.config(aoe.CONFIG_FORCE, text).string == text, f"SPINDLE_SEED={SEED}"
            assert c.config().string == text and c.config(aoe.CONFIG_TEST, text).string == text
            assert c.config(aoe.CONFIG_PREFIX, text[:length // 2]).string == text
        # A frame that holds more than it says.
        frame = config_frame(aoe.CONFIG_FORCE, b"short and more", length=5)
        assert admin.ask(frame).string == b"short"


def test_config_strings_are_of_their_disk():
    with administered("ram:1M", "ram:1M") as _, client() as c, client(mac=ADMIN) as admin:
        admin.config(aoe.CONFIG_SET, b"one", slot=1)
        assert [a.string for a in c.discover()] == [b"", b"one"]
        # Those whose string fits answer.
        assert places(c.collect(config_frame(aoe.CONFIG_TEST, b"one", shelf=aoe.ALL_SHELVES, slot=aoe.ALL_SLOTS,
                                             dst=aoe.BROADCAST))) == [(1, 1)]
        admin.config(aoe.CONFIG_SET, b"zero", slot=0)
        assert [a.string for a in c.discover()] == [b"zero", b"one"]


def test_a_query_that_only_reads():
    """What else is in it means nothing: one program fills it up and says that it is 1024 bytes."""
    with administered() as _, client() as c, client(mac=ADMIN) as admin:
        admin.config(aoe.CONFIG_SET, b"hello")
        for frame in (config_frame(string=b"\xa5" * 1024), config_frame(string=b"\xa5" * 100, length=1024),
                      config_frame(length=1025), config_frame(length=65535), config_frame(string=b"other")):
            assert c.ask(frame).string == b"hello"


def test_config_strings_that_are_wrong():
    with administered() as _, client() as c, client(mac=ADMIN) as admin:
        admin.config(aoe.CONFIG_SET, b"hello")
        for ccmd in range(1, 5):
            for frame, size in ((config_frame(ccmd, b"x" * 1025), None), (config_frame(ccmd, length=1025), 1514),
                                (config_frame(ccmd, length=65535), None), (config_frame(ccmd, b"hello", length=100), None),
                                (config_frame(ccmd, b"hello"), aoe.CONFIG_HEADER + 4),
                                (config_frame(ccmd, length=1024), 1055)):
                admin.expect_error(aoe.BAD_ARGUMENT, frame, size)
        for ccmd in range(5, 16):
            for who in (c, admin):
                who.expect_error(aoe.BAD_ARGUMENT, config_frame(ccmd, b"hello"))
        assert c.config().string == b"hello"


def test_who_may_set_config_strings():
    with administered() as _, client() as c, client(mac=ADMIN) as admin:
        for ccmd in (aoe.CONFIG_SET, aoe.CONFIG_FORCE):
            c.expect_error(aoe.BAD_ARGUMENT, config_frame(ccmd, b"mine"))
        admin.config(aoe.CONFIG_SET, b"hello")
        for ccmd in (aoe.CONFIG_SET, aoe.CONFIG_FORCE):
            c.expect_error(aoe.BAD_ARGUMENT, config_frame(ccmd, b"mine"))
        assert c.config().string == b"hello"
    with both("ram:1M") as (_, c):
        for ccmd in (aoe.CONFIG_SET, aoe.CONFIG_FORCE):
            c.expect_error(aoe.BAD_ARGUMENT, config_frame(ccmd, b"mine"))
        assert c.config().string == b""


def test_config_strings_survive():
    rng = random.Random(SEED)
    text = rng.randbytes(1024)
    with administered("disk.img", args=["--size", "1M"]) as s:
        with client(mac=ADMIN) as admin:
            admin.config(aoe.CONFIG_SET, text)
        s.restart()
        with client() as c, client(mac=ADMIN) as admin:
            assert c.config().string == text, f"SPINDLE_SEED={SEED}"
            admin.expect_error(aoe.STRING_PRESENT, config_frame(aoe.CONFIG_SET, b"other"))
            admin.config(aoe.CONFIG_FORCE, b"other")
        # When it was answered it was kept.
        s.kill()
        s.start()
        with client() as c, client(mac=ADMIN) as admin:
            assert c.config().string == b"other"
            admin.config(aoe.CONFIG_FORCE)
        s.restart()
        with client() as c:
            assert c.config().string == b""


# ---- ATA commands ------------------------------------------------------------------------------


def test_identify():
    with both("ram:64M", "null:3T") as (_, c):
        who = c.identify()
        assert who.size == 64 * MIB // SECTOR and who.lba48, who
        assert who.words[60] | who.words[61] << 16 == who.size, who
        assert who.model and who.serial and who.firmware, who
        assert {"lba", "dma", "lba48", "flush"} <= who.flags and not {"cache", "cache on"} & who.flags, who.flags
        assert not who.words[82] & 8, "power management, of which it has a part"
        assert who.words[255] & 0xFF == 0xA5 and sum(who.data) & 0xFF == 0, hex(who.words[255])
        other = c.identify(slot=1)
        assert other.size == 3 << 40 >> 9, other
        assert other.words[60] | other.words[61] << 16 == 0x0FFFFFFF, other
        assert other.serial != who.serial and other.model == who.model


def test_identify_with_too_much():
    """One program asks with every size of frame that there is; counts that make no sense are let pass."""
    with with_mtu(9000), both("ram:1M") as (_, c):
        want = c.identify()
        for n in range(18):
            frame = ata_frame(aoe.IDENTIFY, count=1, data=b"\xa5" * (n * SECTOR))
            assert c.good(frame).data == want.data, n
        for size in (61, 1000, 9014):
            assert c.good(ata_frame(aoe.IDENTIFY, count=1), size).data == want.data, size
        for count in (2, 16, 255):
            assert c.good(ata_frame(aoe.IDENTIFY, count=count)).data == want.data, count
        c.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.IDENTIFY, count=0))


def test_the_identity_stays():
    with serving("disk.img", args=["--size", "1M"]) as s:
        with client() as c:
            want = c.identify()
        s.restart()
        with client() as c:
            assert c.identify().data == want.data


def test_reads_and_writes():
    with both() as (_, c):
        for i, (write, _) in enumerate(PAIRS):
            for count in (1, 2):
                lba = 100 * (i + 1) + 10 * count
                c.write(lba, pattern(SEED, lba, count), opcode=write)
                for _, read in PAIRS:
                    assert c.read(lba, count, opcode=read) == pattern(SEED, lba, count), (hex(write), hex(read))
                assert c.read(lba - 1) == bytes(SECTOR) and c.read(lba + count) == bytes(SECTOR)
        last = c.identify().size - 1
        for write, read in PAIRS:
            data = pattern(write, last)
            c.write(last, data, opcode=write)
            assert c.read(last, opcode=read) == data


def test_what_a_request_has_too_much():
    """A probe is a read with data; a write may have more than it needs; the device bits mean nothing."""
    with both() as (_, c):
        c.write(8, pattern(1, 8, 2))
        for data in (bytes(2), b"\xa5" * SECTOR, b"\xa5" * 2 * SECTOR):
            assert c.good(ata_frame(aoe.READ_EXT, 8, 2, data)).data == pattern(1, 8, 2)
        c.good(ata_frame(aoe.WRITE_EXT, 8, 1, pattern(2, 8, 2)))
        assert c.read(8, 2) == pattern(2, 8) + pattern(1, 9)
        for bits in (0x00, 0x40, 0xA0, 0xF0):
            registers = bytes([8, 0, 0, bits, 0, 0])
            assert c.good(ata_frame(aoe.READ, count=1, registers=registers)).data == pattern(2, 8)
        for aflags in (aoe.AFLAG_EXT, aoe.AFLAG_EXT | 0x10, aoe.AFLAG_EXT | aoe.AFLAG_ASYNC):
            assert c.good(ata_frame(aoe.READ_EXT, 8, 1, aflags=aflags)).data == pattern(2, 8)
        c.good(ata_frame(aoe.WRITE_EXT, 8, 1, pattern(3, 8), aflags=aoe.AFLAG_EXT | aoe.AFLAG_WRITE | aoe.AFLAG_ASYNC))
        assert c.read(8) == pattern(3, 8)


def test_far_behind():
    """Each bit of an LBA counts, in both forms."""
    with both("disk.img", args=["--size", "200G"]) as (_, c):
        size = c.identify().size
        assert size == 200 * GIB // SECTOR
        lbas = [1 << n for n in range(29)] + [size - 1]
        for lba in lbas:
            c.write(lba, pattern(1, lba))
        c.write(0, pattern(1, 0))
        for lba in [0] + lbas:
            assert c.read(lba) == pattern(1, lba), lba
            if lba < 1 << 28:
                assert c.read(lba, opcode=aoe.READ) == pattern(1, lba), lba
        c.write((1 << 28) - 1, pattern(2, 7), opcode=aoe.WRITE)
        assert c.read((1 << 28) - 1) == pattern(2, 7)


def test_commands_without_data():
    with both() as (_, c):
        for opcode in (aoe.FLUSH, aoe.FLUSH_EXT):
            for count in (0, 1):
                assert c.good(ata_frame(opcode, count=count)).status == aoe.GOOD
        answer = c.expect_status(aoe.GOOD, 0, ata_frame(aoe.CHECK_POWER))
        assert answer.count == 0xFF, answer
        assert c.expect_status(aoe.GOOD, 0, ata_frame(aoe.CHECK_POWER, count=1)).count == 0xFF
        for opcode in (aoe.STANDBY_IMMEDIATE, aoe.IDLE_IMMEDIATE):
            c.good(ata_frame(opcode))
        last = c.identify().size - 1
        for opcode in (aoe.VERIFY, aoe.VERIFY_EXT):
            c.good(ata_frame(opcode, 0, 2))
            c.good(ata_frame(opcode, last, 1))
            for lba, count in ((last + 1, 1), (last, 2)):
                c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(opcode, lba, count))


def test_commands_that_it_has_not():
    with both("ram:1M") as (_, c):
        for opcode in set(range(256)) - KNOWN:
            c.expect_status(aoe.FAILED, aoe.ABRT, ata_frame(opcode, count=1))


def test_past_the_end():
    with both("ram:1M") as (_, c):
        size = MIB // SECTOR
        for write, read in PAIRS:
            for lba, count in ((size, 1), (size - 1, 2), (size + 1000, 1), (0x0FFFFFFF, 1)):
                c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(read, lba, count))
                c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(write, lba, count, b"\xa5" * (count * SECTOR)))
        for opcode in (aoe.READ_EXT, aoe.READ_DMA_EXT):
            for lba in (1 << 28, 1 << 32, (1 << 48) - 1, (1 << 47) + 3):
                c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(opcode, lba, 1))
        # Nothing of a write that ends behind the end is done.
        assert c.read(size - 1) == bytes(SECTOR)


def test_counts_and_lengths_that_are_wrong():
    with both() as (_, c):
        c.write(0, pattern(1, 0, 2))
        for write, read in PAIRS:
            for count in (0, PER_FRAME + 1, 255):
                c.expect_error(aoe.BAD_ARGUMENT, ata_frame(read, 0, count))
                c.expect_error(aoe.BAD_ARGUMENT, ata_frame(write, 0, count, b"\xa5" * 2 * SECTOR))
            for length in (0, 24, SECTOR - 1):
                c.expect_error(aoe.BAD_ARGUMENT, ata_frame(write, 0, 1, b"\xa5" * length))
            c.expect_error(aoe.BAD_ARGUMENT, ata_frame(write, 0, 2, b"\xa5" * (2 * SECTOR - 1)))
        # The argument is cut: one does not ask what is missing.
        for size in range(aoe.HEADER, aoe.ATA_HEADER):
            for opcode in (aoe.IDENTIFY, aoe.READ, aoe.FLUSH):
                c.expect_error(aoe.BAD_ARGUMENT, ata_frame(opcode, 0, 1), size)
        assert c.good(ata_frame(aoe.READ_EXT, 0, 2), aoe.ATA_HEADER).data == pattern(1, 0, 2)


def test_read_only():
    with serving("disk.img", args=["--size", "1M"]) as s:
        with client() as c:
            c.write(0, pattern(1, 0, 2))
        s.args += ["--ro"]
        s.restart()
        with client() as c:
            for write, read in PAIRS:
                assert c.read(0, 2, opcode=read) == pattern(1, 0, 2)
                c.expect_status(aoe.FAILED, aoe.ABRT, ata_frame(write, 0, 2, bytes(2 * SECTOR)))
            c.flush()
            assert c.read(0, 2) == pattern(1, 0, 2)


def test_what_the_disk_cannot():
    """It is the status that says so: initiators drop frames with E and fail much later."""
    with both("fault:rule=read@64K-65K;eio,rule=write@128K-129K;eio:ram:1M") as (_, c):
        c.write(0, pattern(1, 0, 2))
        c.expect_status(aoe.FAILED, aoe.UNC, ata_frame(aoe.READ_EXT, 128, 2))
        c.expect_status(aoe.FAILED, aoe.UNC, ata_frame(aoe.READ, 129, 1))
        for opcode in (aoe.WRITE, aoe.WRITE_EXT):
            answer = c.ata(opcode, 256, 1, bytes(SECTOR))
            assert not answer.error and answer.status & (aoe.ERR | 0x20), answer
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_a_flush_that_fails():
    """A write that is not durable is none, and nothing is written from then on."""
    with serving("fault:rule=flush;eio;while=broken:ram:1M") as s, client() as c:
        c.ping()
        c.write(0, pattern(1, 0, 2))
        Switch(s, "broken").on()
        for frame in (ata_frame(aoe.WRITE_EXT, 8, 1, bytes(SECTOR)), ata_frame(aoe.FLUSH)):
            answer = c.ask(frame)
            assert not answer.error and answer.status & aoe.ERR, answer
        Switch(s, "broken").off()
        for frame in (ata_frame(aoe.WRITE_EXT, 8, 1, bytes(SECTOR)), ata_frame(aoe.FLUSH)):
            answer = c.ask(frame)
            assert not answer.error and answer.status & aoe.ERR, answer
        assert c.read(0, 2) == pattern(1, 0, 2)
        s.terminate()
        assert s.wait_end() == 1, "data may be lost: that is no clean stop"


# ---- Who is answered, and what is not ----------------------------------------------------------


def test_commands_of_the_protocol_that_it_has_not():
    with both("ram:1M", "ram:1M") as (_, c):
        for command in (4, 5, 0x7F, 0xEF, 0xF0, 0xFF):
            for frame in (Frame(command, b"\xa5" * 100, slot=1), Frame(command)):
                answer = c.expect_error(aoe.UNKNOWN_COMMAND, frame)
                assert answer.body == bytes(aoe.SMALLEST - aoe.HEADER), answer
            c.expect_error(aoe.UNKNOWN_COMMAND, Frame(command), aoe.HEADER)
        assert c.read(0) == bytes(SECTOR)


def test_other_versions():
    with both("ram:1M") as (_, c):
        for version in (0, 2, 3, 15):
            for frame in (config_frame(), ata_frame(aoe.IDENTIFY, count=1), ata_frame(aoe.WRITE, 0, 1, b"\xa5" * SECTOR),
                          Frame(0xF0)):
                frame.version = version
                c.expect_error(aoe.BAD_VERSION, frame)
        assert c.read(0) == bytes(SECTOR)


def test_frames_that_are_not_for_it():
    with both("ram:1M", "ram:1M") as (_, c):
        elsewhere = bytes.fromhex("020000000099")
        for make in (config_frame, lambda **w: ata_frame(aoe.IDENTIFY, count=1, **w),
                     lambda **w: ata_frame(aoe.WRITE, 0, 1, b"\xa5" * SECTOR, **w), lambda **w: Frame(0xF0, **w)):
            c.expect_silence(*(make(flags=flags) for flags in (aoe.FLAG_R, aoe.FLAG_R | aoe.FLAG_E)))
            c.expect_silence(make(dst=elsewhere), make(dst=bytes.fromhex("01005e000001")), make(dst=c.mac))
            c.expect_silence(make(shelf=2), make(slot=2), make(shelf=0), make(shelf=256), make(slot=254),
                             make(shelf=2, slot=aoe.ALL_SLOTS), make(shelf=aoe.ALL_SHELVES, slot=2))
            c.expect_silence(make(kind=0x88A3), make(kind=0x0800))
        c.expect_silence(*(config_frame() for _ in range(3)), size=aoe.HEADER - 1)
        c.expect_silence(config_frame(dst=aoe.BROADCAST), size=14)
        assert c.read(0) == bytes(SECTOR) and c.read(0, slot=1) == bytes(SECTOR)


def test_only_queries_may_be_for_everybody():
    with both("ram:1M", "ram:1M") as (_, c):
        for where in ({"shelf": aoe.ALL_SHELVES, "slot": aoe.ALL_SLOTS}, {"slot": aoe.ALL_SLOTS},
                      {"shelf": aoe.ALL_SHELVES}):
            for dst in (aoe.BROADCAST, c.server_mac):
                c.expect_silence(ata_frame(aoe.IDENTIFY, count=1, dst=dst, **where),
                                 ata_frame(aoe.READ_EXT, 0, 1, dst=dst, **where),
                                 ata_frame(aoe.WRITE_EXT, 0, 1, b"\xa5" * SECTOR, dst=dst, **where))
        assert c.read(0) == bytes(SECTOR) and c.read(0, slot=1) == bytes(SECTOR)


def test_who_is_answered():
    with client() as c, client(mac=STRANGER) as stranger, client(mac=ADMIN) as second:
        options = f",mac={aoe.mac_text(c.mac)},mac={second.mac.hex()}"
        with serving("ram:1M", options=options):
            for who in (c, second):
                who.settle()
                assert places(who.discover()) == [(1, 0)]
                who.write(0, pattern(1, 0, 2))
                assert who.read(0, 2) == pattern(1, 0, 2)
            everybody = {"shelf": aoe.ALL_SHELVES, "slot": aoe.ALL_SLOTS, "dst": aoe.BROADCAST}
            stranger.settle()
            stranger.expect_silence(config_frame(**everybody), config_frame(), ata_frame(aoe.IDENTIFY, count=1),
                                    ata_frame(aoe.READ_EXT, 0, 1), ata_frame(aoe.WRITE_EXT, 0, 1, bytes(SECTOR)),
                                    ata_frame(aoe.FLUSH), Frame(0xF0), Frame(aoe.CONFIG, bytes(8), version=2))
            stranger.expect_silence(config_frame(aoe.CONFIG_FORCE, b"mine"), aoe.mask_frame(), aoe.reserve_frame())
            assert c.read(0, 2) == pattern(1, 0, 2) and c.config().string == b""


def test_an_admin_alone_is_no_rule_for_the_others():
    with administered() as _, client() as c, client(mac=STRANGER) as stranger:
        for who in (c, stranger):
            who.settle()
            assert places(who.discover()) == [(1, 0)]
            assert who.identify().size == MIB // SECTOR


# ---- What is durable ---------------------------------------------------------------------------


def test_what_is_answered_is_durable():
    """Over a store that loses what was not flushed, and nobody flushes."""
    with serving("fault:volatile=on:disk.img", args=["--size", "16M"]) as s:
        for opcodes in ((aoe.READ_EXT, aoe.WRITE_EXT), (aoe.READ, aoe.WRITE), (aoe.READ_DMA_EXT, aoe.WRITE_DMA_EXT)):
            with client() as c:
                assert "cache on" not in c.identify().flags
                Window(c, PER_FRAME, window=16, rto_s=5, opcodes=opcodes).write(0, 200, opcodes[0])
                c.write(1000, pattern(opcodes[1], 1000, 2), opcode=opcodes[1])
            s.kill()
            assert stored(s.dir, 0, 200) == pattern(opcodes[0], 0, 200)
            assert stored(s.dir, 1000, 2) == pattern(opcodes[1], 1000, 2)
            s.start()
            with client() as c:
                Window(c, PER_FRAME).read(0, 200, opcodes[0])


def test_with_a_write_cache():
    """What was written is there when it was flushed; before, it need not be, and here it is not."""
    with serving("fault:volatile=on:disk.img", options=",cache=writeback", args=["--size", "16M"]) as s:
        for i, opcode in enumerate((aoe.FLUSH, aoe.FLUSH_EXT)):
            at = 1000 * i
            with client() as c:
                assert {"cache", "cache on"} <= c.identify().flags
                Window(c, PER_FRAME, window=16, rto_s=5).write(at, 100, i)
                c.flush(opcode)
                Window(c, PER_FRAME, window=16, rto_s=5).write(at + 500, 100, i)
                Window(c, PER_FRAME, window=16, rto_s=5).read(at + 500, 100, i)
            s.kill()
            assert stored(s.dir, at, 100) == pattern(i, at, 100)
            assert stored(s.dir, at + 500, 100) == bytes(100 * SECTOR)
            s.start()


def test_a_stop_leaves_nothing_behind():
    with serving("fault:volatile=on:disk.img", options=",cache=writeback", args=["--size", "16M"]) as s:
        with client() as c:
            Window(c, PER_FRAME, rto_s=5).write(0, 100, 1)
        s.stop()
        assert stored(s.dir, 0, 100) == pattern(1, 0, 100)


# ---- With iSCSI, and on several interfaces -----------------------------------------------------


def test_with_iscsi():
    with both("disk.img", args=["--size", "16M"]) as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        session.write(100, pattern(1, 100, 64))
        Window(c, PER_FRAME).read(100, 64, 1)
        Window(c, PER_FRAME, rto_s=5).write(132, 64, 2)
        assert session.read(100, 96) == pattern(1, 100, 32) + pattern(2, 132, 64)
        assert c.identify().size == 16 * MIB // SECTOR
        for i in range(20):
            session.write(200, pattern(i, 200, 2))
            assert c.read(200, 2) == pattern(i, 200, 2)
            c.write(200, pattern(i + 100, 200, 2))
            assert session.read(200, 2) == pattern(i + 100, 200, 2)


def test_reserved_over_iscsi():
    with both("ram:1M", "ram:1M") as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        c.write(0, pattern(1, 0, 2))
        session.good(session.command(RESERVE6))
        for write, read in PAIRS:
            c.expect_error(aoe.RESERVED, ata_frame(read, 0, 2))
            c.expect_error(aoe.RESERVED, ata_frame(write, 0, 2, bytes(2 * SECTOR)))
        assert c.identify().size == MIB // SECTOR and places(c.discover()) == [(1, 0), (1, 1)]
        c.write(0, pattern(2, 0, 2), slot=1)
        assert session.read(0, 2) == pattern(1, 0, 2)
        session.good(session.command(RELEASE6))
        assert c.read(0, 2) == pattern(1, 0, 2)
        c.write(0, pattern(3, 0, 2))
        session.good(session.command(RESERVE6))
        c.expect_error(aoe.RESERVED, ata_frame(aoe.READ_EXT, 0, 1))
        session.close()
        wait_until(lambda: not c.ata(aoe.READ_EXT, 0, 1).error, 30, "the reservation to go with its session")


def test_a_reset_over_iscsi():
    """It ends what was under way over Ethernet, and what waited behind that: nothing of it is answered, and nothing is
    written later on."""
    with both("fault:rule=write;delay=700ms:ram:1M") as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        c.settle()
        c.send(ata_frame(aoe.WRITE_EXT, 0, 2, pattern(1, 0, 2)))
        c.send(ata_frame(aoe.WRITE_EXT, 1, 2, pattern(2, 1, 2)))
        time.sleep(0.2)
        reset = session.request(P.TMF_REQUEST, True, flags=P.FINAL | 5, rtt=P.NONE)
        session.send(reset)
        session.check(session.recv_for(reset.itt), P.TMF_RESPONSE, response=0)
        c.expect_silence(quiet_s=1.5)
        assert c.read(2, 1) == bytes(SECTOR), "written behind the reset"
        c.write(1, pattern(2, 1, 2))
        assert c.read(1, 2) == pattern(2, 1, 2)


def test_one_address_is_one_disk():
    """Clients take what has one shelf and slot on two interfaces for one disk."""
    aoe.add_pair("aoe4", "aoe5")
    expect_error(2, "run", "ram:1M", "ram:1M", "--port", "0", "--aoe", "aoe0:1.0", "--aoe", "aoe4:1.1", says=["1.1"], timeout=20)
    expect_error(2, "run", "ram:1M", "--port", "0", "--aoe", "aoe0:1.0", "--aoe", "aoe0:1.0", says=["1.0"], timeout=20)


def test_several_interfaces():
    """Two paths to a disk: what is written and set through one is seen through the other."""
    aoe.add_pair("aoe2", "aoe3", 9000)
    args = ["--aoe", f"aoe2:1.0,admin={aoe.mac_text(ADMIN)}"]
    with serving("ram:16M", "ram:1M", args=args, options=f",admin={aoe.mac_text(ADMIN)}") as s, client() as c, \
         client(interface="aoe3", server="aoe2") as d, client(mac=ADMIN) as admin:
        assert s.disks[1]["aoe"] == [{"interface": "aoe0", "shelf": 1, "slot": 1},
                                     {"interface": "aoe2", "shelf": 1, "slot": 1}], s.disks[1]
        for who, sectors in ((c, 2), (d, 16)):
            who.settle()
            answers = who.discover()
            assert places(answers) == [(1, 0), (1, 1)]
            assert [a.sectors for a in answers] == [sectors] * 2
        assert c.identify().data == d.identify().data
        Window(c, 2).write(0, 500, 1)
        Window(d, 16).read(0, 500, 1)
        Window(d, 16).write(100, 500, 2)
        Window(c, 2).read(100, 500, 2)
        admin.config(aoe.CONFIG_SET, b"the same")
        assert d.config().string == b"the same"
    with serving("ram:1M", args=["--aoe", "aoe2:7.3"]) as s, client() as c, \
         client(7, 3, interface="aoe3", server="aoe2") as d:
        assert s.disks[0]["aoe"] == [{"interface": "aoe0", "shelf": 1, "slot": 0},
                                     {"interface": "aoe2", "shelf": 7, "slot": 3}], s.disks[0]
        for who in (c, d):
            who.settle()
        assert places(c.discover()) == [(1, 0)] and places(d.discover()) == [(7, 3)]
        c.write(0, pattern(1, 0, 2))
        assert d.read(0, 2) == pattern(1, 0, 2)


def test_many_disks():
    n = 64
    with both(*["ram:1M"] * n) as (s, c):
        everyone = [(1, slot) for slot in range(n)]
        assert [disk["aoe"][0]["slot"] for disk in s.disks] == list(range(n))
        assert places(c.discover(quiet_s=1)) == everyone
        assert len({c.identify(slot=slot).serial for slot in range(n)}) == n
        for slot in range(n):
            c.write(slot, pattern(slot, slot, 2), slot=slot)
        for slot in range(n):
            assert c.read(slot, 2, slot=slot) == pattern(slot, slot, 2), slot
            assert c.read((slot + 2) % n, slot=slot) == bytes(SECTOR), slot
        assert places(c.discover(quiet_s=1)) == everyone


# ---- Many frames -------------------------------------------------------------------------------


def test_frames_of_all_sizes():
    """A full window, as wide as it says it may be, and nothing is lost."""
    for mtu in (1500, 4132, 8228, 9000):
        with with_mtu(mtu), both() as (_, c):
            answer = c.config()
            assert answer.sectors == aoe.sectors_of(mtu) and answer.buffers == 64
            w = Window(c, answer.sectors, window=answer.buffers, rto_s=10)
            count = 300 * answer.sectors + 1
            w.read(5, count, None)
            w.write(5, count, mtu)
            w.read(5, count, mtu)
            assert c.read(4) == bytes(SECTOR) and c.read(5 + count) == bytes(SECTOR)
            assert w.counts == {"sent": 903, "done": 903}, f"MTU {mtu}: {w.counts}"


def test_a_file_in_windows():
    with with_mtu(9000), both("disk.img", args=["--size", "16M"]) as (s, c):
        w = Window(c, 16, window=64, rto_s=10)
        w.write(3, 4000, 1)
        w.read(3, 4000, 1)
        assert stored(s.dir, 0, 4003) == bytes(3 * SECTOR) + pattern(1, 3, 4000)


def test_several_disks_in_windows():
    """Frames of each small window go to another disk than those before, and come from several clients."""
    with both(*["ram:4M"] * 4) as (_, c), client(mac=STRANGER) as d:
        d.settle()
        for slot in range(4):
            for i, who in enumerate((c, d)):
                Window(who, PER_FRAME, window=8, slot=slot).write(2000 * i, 500, slot * 2 + i)
        for slot in range(4):
            for i, who in enumerate((d, c)):
                Window(who, PER_FRAME, window=8, slot=slot).read(2000 * (1 - i), 500, slot * 2 + 1 - i)


def test_the_same_request_many_times():
    """An initiator asks again with another tag: the last one at least is answered, and none twice."""
    with both("fault:rule=read+write;delay=30ms:ram:1M") as (_, c):
        for lba, make in ((0, lambda: ata_frame(aoe.WRITE_EXT, 0, 2, pattern(1, 0, 2))),
                          (0, lambda: ata_frame(aoe.READ_EXT, 0, 2)), (8, lambda: ata_frame(aoe.READ, 8, 1))):
            tags = [c.send(make()) for _ in range(8)]
            got = set()
            end = time.monotonic() + c.timeout_s
            while tags[-1] not in got and time.monotonic() < end:
                answer = c.receive(1)
                if answer is not None:
                    assert answer.status == aoe.GOOD and not answer.error, answer
                    got.add(answer.tag)
            assert tags[-1] in got and got <= set(tags), (tags, got)
            c.settle()
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_writes_of_the_same_sectors():
    """Of two at a time either may be the later one, but both are whole; what is sent after an answer is later than that."""
    rng = random.Random(SEED)

    def send(lba, data):
        return c.send(ata_frame(aoe.WRITE_EXT, lba, 2, data))

    def wait(tags):
        """Until one of them at least is answered."""
        while True:
            answer = c.receive()
            assert answer is not None and answer.status == aoe.GOOD, answer
            if answer.tag in tags:
                return tags - {answer.tag}

    with both("fault:rule=write;delay=3ms;prob=0.5:ram:1M") as (_, c):
        for i in range(40):
            lba = 4 + rng.randrange(4)
            a, b, third = (pattern(3 * i + n, lba - 1, 4) for n in range(3))
            a, b, third = a[:2 * SECTOR], b[SECTOR:3 * SECTOR], third[:2 * SECTOR]
            wait(wait({send(lba - 1, a), send(lba, b)}))
            got = c.read(lba - 1) + c.read(lba, 2)
            assert got in (a + b[SECTOR:], a[:SECTOR] + b), f"SPINDLE_SEED={SEED}, round {i}"
            # The second of them may still be under way when the first is answered.
            wait({send(lba, b), send(lba, b), send(lba, b)})
            wait({send(lba, third)})
            assert c.read(lba, 2) == third, f"SPINDLE_SEED={SEED}, round {i}"
            c.receive(0.01)
            assert c.read(lba, 2) == third, f"SPINDLE_SEED={SEED}, round {i}"


def test_loss():
    """One frame in twenty is lost, one in twenty comes twice, each way; and again over the same sectors."""
    with both("disk.img", args=["--size", "16M"]) as (s, c):
        w = Window(c, PER_FRAME, window=32, rto_s=0.15, drop=0.05, duplicate=0.05, seed=SEED)
        try:
            w.write(0, 1001, 1)
            w.read(0, 1001, 1)
            for generation in range(2, 22):
                w.write(10, 65, generation)
            w.read(10, 65, 21)
        except AssertionError:
            print(f"SPINDLE_SEED={SEED}")
            raise
        assert w.counts["dropped"] and w.counts["duplicated"] and w.counts["sent again"], w.counts
        c.settle()
        want = pattern(1, 0, 10) + pattern(21, 10, 65) + pattern(1, 75, 926)
        assert c.read(0, 2) == pattern(1, 0, 2)
        assert stored(s.dir, 0, 1001) == want, f"SPINDLE_SEED={SEED}"


def garbage(rng, server_mac):
    """Noise behind the addresses; noise behind a good header; a good request with bytes changed, or cut."""
    head = rng.choice((server_mac, server_mac, aoe.BROADCAST)) + STRANGER + aoe.ETHERTYPE.to_bytes(2, "big")
    kind = rng.randrange(4)
    length = rng.choice((rng.randrange(60), rng.randrange(1500), 1500))
    if kind == 0:
        return head + rng.randbytes(length)
    where = rng.choice((b"\0\1\0", b"\0\1\0", b"\0\1\1", b"\xff\xff\xff", b"\0\1\xff"))
    good = bytes([0x10, 0]) + where + bytes([rng.choice((0, 0, 0, 1, 1, 2, 3, 4, 255))]) + rng.randbytes(4)
    if kind == 1:
        return head + good + rng.randbytes(max(0, length - 10))
    if good[5] == aoe.ATA:
        good += bytes([rng.choice((0, 0x40, 0x41, 1, 0xFF)), 0, rng.choice((0, 1, 2, 3, 255)), rng.choice(sorted(KNOWN))])
        good += rng.choice((rng.randrange(4096), rng.randrange(1 << 48))).to_bytes(6, "little") + bytes(2)
    else:
        good += rng.randbytes(5) + bytes([0x10 | rng.randrange(6)]) + rng.choice((0, 5, 1024, 65535)).to_bytes(2, "big")
    good = bytearray(good + rng.randbytes(rng.choice((0, 5, 512, 1024))))
    if kind == 3:
        for _ in range(rng.randrange(1, 4)):
            good[rng.randrange(len(good))] = rng.randrange(256)
        del good[rng.randrange(len(good)) + 1:]
    return head + bytes(good)


def test_garbage():
    """It lives, answers nothing that is no frame, and serves whoever else is there."""
    rng = random.Random(SEED)
    with serving("ram:1M", "ram:1M", options=f",admin={aoe.mac_text(aoe.mac_of('aoe1'))}") as s, client() as c, \
         client(mac=STRANGER) as noise:
        noise.settle()
        noise.sock.setblocking(False)
        answers = 0
        for i in range(4000):
            noise.send_raw(garbage(rng, c.server_mac))
            if i % 50:
                continue
            # It has time for all of them: what is thrown away unread tells nothing.
            assert c.ping().sectors == PER_FRAME, f"SPINDLE_SEED={SEED}"
            with contextlib.suppress(BlockingIOError):
                while True:
                    raw, where = noise.sock.recvfrom(1 << 16)
                    if raw[:6] != STRANGER:
                        continue
                    answer = Frame.parse(raw)
                    answers += 1
                    assert len(raw) >= aoe.SMALLEST and answer.src == c.server_mac and answer.version == 1 and \
                        answer.flags & ~aoe.FLAG_E == aoe.FLAG_R and answer.shelf == 1 and answer.slot in (0, 1), \
                        f"SPINDLE_SEED={SEED}: {answer!r}"
        assert answers > 500, f"SPINDLE_SEED={SEED}: {answers} answers"
        assert s.running() and places(c.discover()) == [(1, 0), (1, 1)]
        assert c.identify().size == MIB // SECTOR
        # Noise may have reserved it.
        assert c.reserved([], aoe.RESERVE_FORCE, slot=1) == []
        c.write(0, pattern(1, 0, 2), slot=1)
        assert c.read(0, 2, slot=1) == pattern(1, 0, 2)


# ---- Other people's programs -------------------------------------------------------------------


def test_aoetools():
    if not aoe.have("aoeping", "aoecfg", "aoe-sancheck"):
        print("not tried: aoetools are not installed")
        return
    with with_mtu(9000), both(options=f",admin={aoe.mac_text(aoe.mac_of('aoe1'))}"):
        text = tool("aoeping", "-i", "-v", "1", "0", "aoe1")
        assert f"found e1.0 with mac {aoe.mac_of('aoe0').hex()}" in text and "device identify response:" in text, text
        tool("aoecfg", "-c", "set", "-s", "hello", "1", "0", "aoe1")
        assert "hello" in tool("aoecfg", "1", "0", "aoe1")
        text = tool("aoe-sancheck")
        assert re.search(r"^e1\.0\s+1\s+8192\s+aoe1\s*$", text, re.MULTILINE), text


main(globals())
