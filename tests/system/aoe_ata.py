"""
ATA over Ethernet: the commands beside reads and writes. SMART, logs, TRIM, the write cache on and off, the
size, what is said of errors, and IDENTIFY as other people's programs read it.

It needs root. SPINDLE_SEED=N makes the random test what it was in a run that printed it.
"""

import os
import random
import re
import struct
import time

from harness import GIB, MIB, main, tool, wait_until

import aoe
import iscsi
from aoe import (ata_frame, both, client, log_frame, pattern, serving, smart_frame, stored, trim_frame,
                 with_mtu)
from disks import RELEASE6, RESERVE6, Switch

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECTOR = aoe.SECTOR
WELL, FAILING = bytes.fromhex("4fc2"), bytes.fromhex("f42c")
DF = 0x20
MOST = 65535  # sectors of a range


def expect_abort(c, frame):
    return c.expect_status(aoe.FAILED, aoe.ABRT, frame)


def blocks_of(server, name="disk.img"):
    return os.stat(os.path.join(server.dir, name)).st_blocks * 512


def lba_of(answer):
    return int.from_bytes(answer.lba, "little")


# ---- SMART -------------------------------------------------------------------------------------


def health(c):
    return c.good(smart_frame(aoe.SMART_STATUS)).lba[1:3]


def test_smart_of_a_disk_that_is_well():
    with both() as (_, c):
        words = c.identify().words
        assert words[82] & 1 and words[85] & 1 and words[84] & 1 and words[87] & 1, "SMART, and its error log"
        assert not words[84] & 2, "self-tests"
        assert health(c) == WELL
        data = c.good(smart_frame(aoe.SMART_DATA)).data
        assert sum(data) & 0xFF == 0 and len(data) == SECTOR
        assert data[370] == 1, "error logging"
        assert data[367] == 0, "off-line scans, of which it has none"
        for count in (0, 1, 255):
            assert c.good(smart_frame(aoe.SMART_DATA, count=count)).data == data
        for count in (0x00, 0xF1):
            answer = c.expect_status(aoe.GOOD, 0, smart_frame(aoe.SMART_AUTOSAVE, count=count))
            assert answer.lba[1:3] == WELL
        for count in (0x01, 0xF0, 0xFF):
            expect_abort(c, smart_frame(aoe.SMART_AUTOSAVE, count=count))


def test_what_smart_has_not():
    with both("ram:1M") as (_, c):
        has = {aoe.SMART_DATA, aoe.SMART_AUTOSAVE, aoe.SMART_LOG, aoe.SMART_ON, aoe.SMART_OFF, aoe.SMART_STATUS}
        for feature in set(range(256)) - has:
            expect_abort(c, smart_frame(feature, count=1))
        for feature in has:
            for mark in (b"\0\0", b"\x4f\0", b"\0\xc2", b"\xc2\x4f", b"\xf4\x2c"):
                expect_abort(c, smart_frame(feature, count=1, mark=mark))
        assert health(c) == WELL


def test_smart_off_and_on():
    """It is of the disk: on all interfaces, and kept with it."""
    with serving("disk.img", args=["--size", "1M"]) as s:
        for how in (s.restart, lambda: (s.kill(), s.start())):
            with client() as c:
                c.settle()
                c.good(smart_frame(aoe.SMART_ON))
                c.good(smart_frame(aoe.SMART_OFF))
            how()
            with client() as c:
                c.settle()
                words = c.identify().words
                assert words[82] & 1 and not words[85] & 1
                for feature in (aoe.SMART_DATA, aoe.SMART_AUTOSAVE, aoe.SMART_STATUS, aoe.SMART_OFF):
                    expect_abort(c, smart_frame(feature))
                expect_abort(c, smart_frame(aoe.SMART_LOG, count=1))
                c.write(0, pattern(1, 0, 2))
                c.good(smart_frame(aoe.SMART_ON))
                assert c.identify().words[85] & 1 and health(c) == WELL
            how()
            with client() as c:
                c.settle()
                assert c.identify().words[85] & 1 and health(c) == WELL
                assert c.read(0, 2) == pattern(1, 0, 2)


def test_smart_off_where_nothing_is_kept():
    with serving("ram:1M") as s, client() as c:
        c.settle()
        c.good(smart_frame(aoe.SMART_OFF))
        expect_abort(c, smart_frame(aoe.SMART_STATUS))
        c.settle()
        s.restart()
        c.settle()
        assert health(c) == WELL
    with serving("disk.img", args=["--size", "1M"]) as s, client() as c:
        s.args += ["--ro"]
        s.restart()
        c.settle()
        c.good(smart_frame(aoe.SMART_OFF))
        expect_abort(c, smart_frame(aoe.SMART_STATUS))
        c.good(smart_frame(aoe.SMART_ON))
        assert health(c) == WELL


def test_smart_of_a_disk_that_lost_a_flush():
    with serving("fault:rule=flush;eio;while=broken:ram:1M") as s, client() as c:
        c.settle()
        assert health(c) == WELL
        Switch(s, "broken").on()
        answer = c.ata(aoe.WRITE_EXT, 8, 1, bytes(SECTOR))
        assert answer.status & DF, answer
        assert health(c) == FAILING
        Switch(s, "broken").off()
        assert health(c) == FAILING, "what was lost is lost"
        s.terminate()
        assert s.wait_end() == 1


def test_smart_of_a_disk_that_is_gone():
    with serving("fault:rule=any;enodev;while=lost:ram:1M") as s, client() as c:
        c.settle()
        lost = Switch(s, "lost")
        lost.on()
        answer = c.ata(aoe.READ_EXT, 0, 1)
        assert answer.status & (aoe.ERR | DF) == aoe.ERR | DF, answer
        wait_until(lambda: health(c) == FAILING, 20, "the disk to be failing")
        lost.off()
        wait_until(lambda: health(c) == WELL, 20, "the disk to be well")


# ---- Logs --------------------------------------------------------------------------------------


def directory(data):
    words = struct.unpack("<256H", data)
    assert words[0] == 1, words[0]
    return {address: pages for address, pages in enumerate(words) if address and pages}


def smart_log(c, address, count=1):
    return c.good(smart_frame(aoe.SMART_LOG, low=address, count=count)).data


def general_log(c, address, page=0, count=1):
    return c.good(log_frame(address, page, count)).data


def test_each_log_that_is_listed_can_be_read():
    with both() as (_, c):
        words = c.identify().words
        assert words[84] & 0x20 and words[87] & 0x20
        smart, general = directory(smart_log(c, 0)), directory(general_log(c, 0))
        assert 0x01 in smart and 0x03 in general, (smart, general)
        for address, pages in smart.items():
            for count in range(1, min(pages, 2) + 1):
                assert len(smart_log(c, address, count)) == count * SECTOR
            expect_abort(c, smart_frame(aoe.SMART_LOG, low=address, count=pages + 1))
        for address, pages in general.items():
            whole = b"".join(general_log(c, address, page) for page in range(pages))
            for page in range(pages - 1):
                assert general_log(c, address, page, 2) == whole[page * SECTOR:][:2 * SECTOR]
            for page, count in ((pages, 1), (pages - 1, 2), (0, pages + 1), (255, 1), (256, 1), (0xFFFF, 1)):
                expect_abort(c, log_frame(address, page, count))
        for address in set(range(1, 256)) - set(smart):
            expect_abort(c, smart_frame(aoe.SMART_LOG, low=address, count=1))
        for address in set(range(1, 256)) - set(general):
            expect_abort(c, log_frame(address))
        expect_abort(c, log_frame(0, 1))
        expect_abort(c, log_frame(0, count=0))
        expect_abort(c, smart_frame(aoe.SMART_LOG, low=0, count=0))
        expect_abort(c, smart_frame(aoe.SMART_LOG, low=0, count=2))


def test_more_of_a_log_than_fits_into_a_frame():
    with both() as (_, c):
        c.expect_error(aoe.BAD_ARGUMENT, log_frame(0x03, 0, 3))
        with with_mtu(9000):
            wait_until(lambda: c.config().sectors == 16, 10, "the larger frames")
            assert len(general_log(c, 0x03, 0, 5)) == 5 * SECTOR


def test_the_log_of_identity():
    with both() as (_, c):
        for read in (smart_log, general_log):
            pages = general_log(c, 0x30, 0)
            assert list(pages[9:9 + pages[8]]) == [0, 1], pages[:16]
            assert general_log(c, 0x30, 1) == c.identify().data
            assert read(c, 0x30, count=2) == pages + c.identify().data


def errors_of(c):
    """(the command, its LBA), the answer, its LBA): the newest first; as both logs say, which must agree."""
    summary = smart_log(c, 0x01)
    assert sum(summary) & 0xFF == 0 and summary[0] == 1
    pages = [general_log(c, 0x03, i) for i in range(directory(general_log(c, 0))[0x03])]
    assert all(sum(page) & 0xFF == 0 for page in pages) and pages[0][0] == 1
    newest, total = struct.unpack_from("<H", pages[0], 2)[0], struct.unpack_from("<H", pages[0], 500)[0]
    assert struct.unpack_from("<H", summary, 452)[0] == total
    places = 4 * len(pages)
    found = []
    for i in range(min(total, places)):
        at = (newest - 1 - i) % places
        e = pages[at // 4][4 + at % 4 * 124:][:124]
        command, answer = e[72:90], e[90:]
        lbas = [sum(r[at + 2 * i] << 8 * i | r[at + 1 + 2 * i] << 8 * (i + 3) for i in range(3)) for r, at in ((command, 5), (answer, 4))]
        found.append((command[12], command[3], lbas[0], answer[11], answer[1], answer[2], lbas[1]))
        assert not any(e[:72]) and answer[31] == 3, e.hex()
    for i in range(min(total, 5)):
        at = (summary[1] - 1 - i) % 5
        e = summary[2 + at * 90:][:90]
        command, answer = e[48:60], e[60:]
        got = (command[7], command[2], int.from_bytes(command[3:6], "little"), answer[7], answer[1], answer[2],
               int.from_bytes(answer[3:6], "little"))
        want = found[i]
        assert got == (*want[:2], want[2] & 0xFFFFFF, *want[3:6], want[6] & 0xFFFFFF), (got, want)
    assert (summary[1] == 0) == (newest == 0) == (total == 0)
    return total, found


def test_errors_in_the_logs():
    """Those of the disk, and none of who asks for what there is not."""
    with both("fault:rule=read@64K-65K;eio,rule=write@128K-129K;eio:null:3T") as (_, c):
        for frame in (ata_frame(aoe.READ_EXT, 1 << 40, 1), ata_frame(0xFF), trim_frame((1 << 40, 1))):
            c.expect_status(aoe.FAILED, aoe.ABRT if frame.opcode == 0xFF else aoe.IDNF, frame)
        assert errors_of(c) == (0, [])
        c.expect_status(aoe.FAILED, aoe.UNC, ata_frame(aoe.READ_EXT, 128, 1))
        c.expect_status(aoe.FAILED | DF, aoe.ABRT, ata_frame(aoe.WRITE, 256, 2, bytes(2 * SECTOR)))
        want = [(aoe.WRITE, 2, 256, aoe.FAILED | DF, aoe.ABRT, 2, 256), (aoe.READ_EXT, 1, 128, aoe.FAILED, aoe.UNC, 1, 128)]
        assert errors_of(c) == (2, want), errors_of(c)
        for n in range(3, 60):
            opcode = (aoe.READ, aoe.READ_EXT, aoe.READ_DMA)[n % 3]
            c.expect_status(aoe.FAILED, aoe.UNC, ata_frame(opcode, 128 + n % 2, 1))
            want = [(opcode, 1, 128 + n % 2, aoe.FAILED, aoe.UNC, 1, 128 + n % 2)] + want[:19]
            assert errors_of(c) == (n, want), (n, errors_of(c))


# ---- What is said of errors --------------------------------------------------------------------


def test_where_the_end_was_passed():
    with both("ram:1M") as (_, c):
        size = MIB // SECTOR
        for opcode in (aoe.READ_EXT, aoe.READ_DMA_EXT, aoe.VERIFY_EXT):
            for lba, count, first in ((size - 1, 2, size), (size, 1, size), (size + 5, 2, size + 5), ((1 << 48) - 1, 1, (1 << 48) - 1)):
                answer = c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(opcode, lba, count))
                assert lba_of(answer) == first, answer
        for opcode in (aoe.READ, aoe.READ_DMA, aoe.VERIFY):
            answer = c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(opcode, size - 1, 2))
            assert answer.lba == size.to_bytes(3, "little") + b"\xe0\0\0", answer
        answer = c.expect_status(aoe.FAILED, aoe.IDNF, ata_frame(aoe.WRITE_EXT, size - 1, 2, bytes(2 * SECTOR)))
        assert lba_of(answer) == size and answer.count == 2, answer


def test_where_it_could_not_be_read():
    """The first sector of all, wherever in the request it is, and how many are not done from there on."""
    with with_mtu(9000), both("fault:rule=read@64K-65K;eio,rule=read@70144-70656;eio:ram:1M") as (_, c):
        bad = [128, 129, 137]
        for lba in range(112, 140):
            for count in (1, 2, 3, 7, 16):
                first = next((b for b in bad if lba <= b < lba + count), None)
                for opcode in (aoe.READ_EXT, aoe.VERIFY):
                    answer = c.ata(opcode, lba, count)
                    if first is None:
                        assert answer.status == aoe.GOOD, answer
                        continue
                    assert (answer.status, answer.ata_error) == (aoe.FAILED, aoe.UNC), answer
                    assert lba_of(answer) & 0xFFFFFF == first and answer.count == lba + count - first, (lba, count, answer)
        answer = c.expect_status(aoe.FAILED, aoe.UNC, ata_frame(aoe.VERIFY, 0, 0))
        assert lba_of(answer) & 0xFFFFFF == 128 and answer.count == 128, answer


# ---- TRIM --------------------------------------------------------------------------------------


def test_what_is_said_of_trim():
    with serving("disk.img", args=["--size", "1M"]) as s, client() as c:
        c.settle()
        words = c.identify().words
        assert words[105] >= 1 and words[169] == 1 and words[80] >> 9 & 1, (words[105], words[169])
        assert words[69] >> 14 & 1 and words[69] >> 5 & 1 and words[53] & 2, "zeros"
        s.args += ["--ro"]
        s.restart()
        c.settle()
        words = c.identify().words
        assert not words[105] and not words[169] and not words[69], "one that cannot"
        expect_abort(c, trim_frame((0, 8)))


def test_trim():
    with both("disk.img", args=["--size", "64M"]) as (s, c):
        w = aoe.Window(c, 2, rto_s=10)
        w.write(0, 64, 1)
        c.good(trim_frame((8, 8), (0, 0), (24, 3), (1 << 47, 0), (40, 16)))
        want = bytearray(pattern(1, 0, 64))
        for lba, n in ((8, 8), (24, 3), (40, 16)):
            want[lba * SECTOR:(lba + n) * SECTOR] = bytes(n * SECTOR)
        assert b"".join(c.read(lba, 2) for lba in range(0, 64, 2)) == want
        assert stored(s.dir, 0, 64) == want
        # Ranges that overlap, in no order, of a whole block and more.
        w.write(0, 128, 2)
        c.good(trim_frame(*((lba, 2) for lba in range(126, 0, -2))))
        assert b"".join(c.read(lba, 2) for lba in range(0, 128, 2)) == pattern(2, 0, 2) + bytes(126 * SECTOR)
        w.write(0, 128, 3)
        c.good(trim_frame(*((lba, 1) for lba in range(128)), blocks=2))
        assert stored(s.dir, 0, 128) == bytes(128 * SECTOR)


def test_trim_of_nothing():
    with both() as (_, c):
        c.write(0, pattern(1, 0, 2))
        c.good(trim_frame())
        c.good(trim_frame((0, 0), (1 << 47, 0)))
        c.good(trim_frame(blocks=2))
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_trim_gives_space_back():
    with both("disk.img", args=["--size", "256M"]) as (s, c):
        with open(os.path.join(s.dir, "disk.img"), "r+b") as f:
            f.write(b"\xa5" * (200 * MIB))
            os.fsync(f.fileno())
        assert blocks_of(s) >= 200 * MIB
        # As much as a range can be, again and again: the end of one is no end of a granule.
        at, ranges = 0, []
        while at < 200 * MIB // SECTOR:
            ranges.append((at, min(MOST, 200 * MIB // SECTOR - at)))
            at += MOST
        c.good(trim_frame(*ranges))
        assert blocks_of(s) <= 64 * 1024, blocks_of(s)
        assert c.read(300000) == bytes(SECTOR)


def test_trim_that_is_wrong():
    """Nothing of it is done."""
    with both("ram:1M") as (_, c):
        size = MIB // SECTOR
        c.write(0, pattern(1, 0, 2))
        c.write(size - 2, pattern(1, size - 2, 2))
        for bad, first in (((size, 1), size), ((size - 1, 2), size), ((size + 7, 9), size + 7), (((1 << 48) - 1, MOST), (1 << 48) - 1)):
            answer = c.expect_status(aoe.FAILED, aoe.IDNF, trim_frame((0, 2), bad, (size - 2, 2)))
            assert lba_of(answer) == first, answer
        for feature in (0, 2, 3, 0x81, 0xFF):
            expect_abort(c, trim_frame((0, 2), feature=feature))
        c.expect_error(aoe.BAD_ARGUMENT, trim_frame((0, 2), count=0))
        c.expect_error(aoe.BAD_ARGUMENT, trim_frame((0, 2), count=2))
        c.expect_error(aoe.BAD_ARGUMENT, trim_frame((0, 2), count=3))
        c.expect_error(aoe.BAD_ARGUMENT, trim_frame((0, 2)), aoe.ATA_HEADER + SECTOR - 1)
        assert c.read(0, 2) == pattern(1, 0, 2) and c.read(size - 2, 2) == pattern(1, size - 2, 2)
        c.good(trim_frame((size - 2, 2)))
        assert c.read(size - 2, 2) == bytes(2 * SECTOR)


def test_trim_is_durable():
    with serving("fault:volatile=on:disk.img", args=["--size", "1M"]) as s:
        for options, durable in (("", True), (",cache=writeback", False)):
            s.args[s.args.index("--aoe") + 1] = f"{aoe.SERVER_SIDE}:1.0{options}"
            s.restart()
            with client() as c:
                c.settle()
                c.write(0, pattern(1, 0, 2))
                c.flush()
                c.good(trim_frame((0, 2)))
                assert c.read(0, 2) == bytes(2 * SECTOR)
            s.kill()
            assert stored(s.dir, 0, 2) == (bytes(2 * SECTOR) if durable else pattern(1, 0, 2))
            s.start()


def test_trim_of_a_disk_that_fails():
    with serving("fault:rule=discard@64K-65K;eio,rule=flush;eio;while=broken:ram:1M") as s, client() as c:
        c.settle()
        c.good(trim_frame((0, 8)))
        c.expect_status(aoe.FAILED | DF, aoe.ABRT, trim_frame((0, 8), (128, 8)))
        Switch(s, "broken").on()
        c.expect_status(aoe.FAILED | DF, aoe.ABRT, trim_frame((0, 8)))
        assert health(c) == FAILING
        # From here on nothing is written.
        expect_abort(c, trim_frame((0, 8)))
        s.terminate()
        assert s.wait_end() == 1


def test_trim_and_who_holds_the_disk():
    with both("ram:1M") as (s, c), iscsi.login(s.portals[0], s.iqn()) as session:
        session.settle()
        c.write(0, pattern(1, 0, 2))
        session.good(session.command(RESERVE6))
        c.expect_error(aoe.RESERVED, trim_frame((0, 2)))
        c.expect_error(aoe.RESERVED, trim_frame())
        c.expect_error(aoe.RESERVED, ata_frame(aoe.SET_FEATURES, feature=aoe.CACHE_OFF))
        assert session.read(0, 2) == pattern(1, 0, 2)
        session.good(session.command(RELEASE6))
        c.good(trim_frame((0, 2)))
        assert session.read(0, 2) == bytes(2 * SECTOR)


def test_trim_in_between_writes():
    """The last one that came is the one that is seen, however slow those before it are."""
    for slow in ("write", "discard"):
        with both(f"fault:rule={slow};delay=30ms:ram:1M") as (_, c):
            for i in range(10):
                tags = [c.send(ata_frame(aoe.WRITE_EXT, 8, 2, pattern(3 * i, 8, 2))), c.send(trim_frame((0, 2), (9, 1), (20, 8))),
                        c.send(ata_frame(aoe.WRITE_EXT, 10, 2, pattern(3 * i + 1, 10, 2))), c.send(trim_frame((11, 1)))]
                # A sector that the first one only spans, and one of its last range.
                tags += [c.send(ata_frame(aoe.WRITE_EXT, 15, 1, pattern(3 * i, 15))), c.send(ata_frame(aoe.WRITE_EXT, 27, 1, pattern(3 * i, 27)))]
                answers = {c.receive().tag for _ in tags}
                assert answers == set(tags)
                assert c.read(8, 2) == pattern(3 * i, 8) + bytes(SECTOR)
                assert c.read(10, 2) == pattern(3 * i + 1, 10) + bytes(SECTOR)
                assert c.read(15) == pattern(3 * i, 15) and c.read(27) == pattern(3 * i, 27)


def test_the_same_trim_many_times():
    """However often it is asked for, it is done once; and all are answered, but those nobody waits for any more."""
    with both("fault:rule=discard;delay=300ms:ram:1M") as (_, c):
        c.write(0, pattern(1, 0, 2))
        begun = time.monotonic()
        tags = [c.send(trim_frame((0, 2), (8, 1)))]
        time.sleep(0.05)
        tags += [c.send(trim_frame((0, 2), (8, 1))) for _ in range(10)]
        # Not the same: another list, and one that comes behind a write.
        others = [c.send(trim_frame((0, 2))), c.send(ata_frame(aoe.WRITE_EXT, 0, 2, pattern(2, 0, 2)))]
        wanted = {*tags[-5:], *others}
        got = set()
        while got != wanted:
            answer = c.receive()
            assert answer and answer.status == aoe.GOOD and answer.tag in wanted - got, answer
            got.add(answer.tag)
        assert time.monotonic() - begun < 6 * 0.3, "it was done more often than it had to be"
        assert c.read(0, 2) == pattern(2, 0, 2)
        c.expect_silence(quiet_s=0.5)


def test_trims_and_writes_at_random():
    """Sector by sector, what is read is what came last."""
    rng = random.Random(SEED)
    size = 256
    with both("fault:rule=write;delay=1ms;prob=0.2,rule=discard;delay=3ms;prob=0.3:ram:1M") as (_, c):
        want = [bytes(SECTOR)] * size
        flying = set()
        for i in range(600):
            while len(flying) >= 24:
                answer = c.receive()
                assert answer and not answer.error and answer.status == aoe.GOOD, f"SPINDLE_SEED={SEED}: {answer!r}"
                flying.remove(answer.tag)
            if rng.random() < 0.3:
                ranges = [(lba, rng.randrange(min(12, size - lba) + 1)) for lba in (rng.randrange(size) for _ in range(rng.randrange(5)))]
                flying.add(c.send(trim_frame(*ranges)))
                for lba, n in ranges:
                    want[lba:lba + n] = [bytes(SECTOR)] * n
                continue
            lba = rng.randrange(size - 1)
            flying.add(c.send(ata_frame(aoe.WRITE_EXT, lba, 2, pattern(i, lba, 2))))
            want[lba:lba + 2] = [pattern(i, lba), pattern(i, lba + 1)]
        while flying:
            answer = c.receive()
            assert answer and not answer.error and answer.status == aoe.GOOD, f"SPINDLE_SEED={SEED}: {answer!r}"
            flying.remove(answer.tag)
        got = b"".join(c.read(lba, 2) for lba in range(0, size, 2))
        wrong = [lba for lba in range(size) if got[lba * SECTOR:(lba + 1) * SECTOR] != want[lba]]
        assert not wrong, f"SPINDLE_SEED={SEED}: wrong data in the sectors {wrong}"


def test_a_stop_while_something_is_trimmed():
    with serving("fault:rule=discard;delay=500ms:disk.img", args=["--size", "1M"]) as s, client() as c:
        c.settle()
        c.write(0, pattern(1, 0, 2))
        c.send(trim_frame((0, 2)))
        time.sleep(0.2)
        s.stop()
        assert stored(s.dir, 0, 2) == bytes(2 * SECTOR)


# ---- The write cache ---------------------------------------------------------------------------


def cache(c, feature):
    return c.good(ata_frame(aoe.SET_FEATURES, feature=feature))


def test_a_write_cache_off_and_on():
    with serving("fault:volatile=on:disk.img", options=",cache=writeback", args=["--size", "1M"]) as s:
        with client() as c:
            c.settle()
            c.write(0, pattern(1, 0, 2))
            cache(c, aoe.CACHE_OFF)
            assert "cache" in c.identify().flags and "cache on" not in c.identify().flags
            cache(c, aoe.CACHE_OFF)
            c.write(2, pattern(1, 2, 2))
            c.good(trim_frame((3, 1)))
        s.kill()
        assert stored(s.dir, 0, 4) == pattern(1, 0, 3) + bytes(SECTOR), "what was there before, and what came behind it"
        s.start()
        with client() as c:
            c.settle()
            assert "cache on" in c.identify().flags, "a restart forgets it"
            cache(c, aoe.CACHE_OFF)
            cache(c, aoe.CACHE_ON)
            assert "cache on" in c.identify().flags
            c.write(0, pattern(2, 0, 2))
        s.kill()
        assert stored(s.dir, 0, 2) == pattern(1, 0, 2), "durable, though the cache is on"
        s.start()


def test_what_is_of_the_disk():
    """Two interfaces, of which one has a write cache: both see what is done through the other."""
    aoe.add_pair("aoe2", "aoe3")
    with serving("ram:1M", options=",cache=writeback", args=["--aoe", "aoe2:1.0"]), client() as c, \
         client(interface="aoe3", server="aoe2") as d:
        for who in (c, d):
            who.settle()
        assert "cache on" in c.identify().flags and "cache" not in d.identify().flags
        expect_abort(d, ata_frame(aoe.SET_FEATURES, feature=aoe.CACHE_OFF))
        assert "cache on" in c.identify().flags
        cache(c, aoe.CACHE_OFF)
        d.good(smart_frame(aoe.SMART_OFF))
        expect_abort(c, smart_frame(aoe.SMART_STATUS))
        c.good(smart_frame(aoe.SMART_ON))
        assert health(d) == WELL
        d.write(0, pattern(1, 0, 2))
        c.good(trim_frame((1, 1)))
        assert d.read(0, 2) == pattern(1, 0) + bytes(SECTOR)


def test_a_write_cache_that_cannot_be_flushed():
    with serving("fault:rule=flush;eio;while=broken:ram:1M", options=",cache=writeback") as s, client() as c:
        c.settle()
        Switch(s, "broken").on()
        c.write(0, pattern(1, 0, 2))
        c.expect_status(aoe.FAILED | DF, aoe.ABRT, ata_frame(aoe.SET_FEATURES, feature=aoe.CACHE_OFF))
        s.terminate()
        assert s.wait_end() == 1


def test_features_that_it_has_not():
    with both("ram:1M") as (_, c):
        for feature in range(256):
            expect_abort(c, ata_frame(aoe.SET_FEATURES, feature=feature))
    with both("ram:1M", options=",cache=writeback") as (_, c):
        for feature in set(range(256)) - {aoe.CACHE_ON, aoe.CACHE_OFF}:
            expect_abort(c, ata_frame(aoe.SET_FEATURES, feature=feature))
        assert "cache on" in c.identify().flags


# ---- The size ----------------------------------------------------------------------------------


def test_native_max_address():
    with both("ram:64M", "null:3T", "null:100G") as (_, c):
        for slot, size in enumerate((64 * MIB, 3 << 40, 100 * GIB)):
            last = size // SECTOR - 1
            assert lba_of(c.good(ata_frame(aoe.NATIVE_MAX_EXT, slot=slot))) == last
            short = min(last, 0x0FFFFFFF)
            lba = c.good(ata_frame(aoe.NATIVE_MAX, slot=slot)).lba
            assert lba == short.to_bytes(4, "little")[:3] + bytes([0xE0 | short >> 24, 0, 0]), lba.hex()
            assert not c.identify(slot=slot).words[82] & 0x400, "a Host Protected Area"


# ---- Other people's programs -------------------------------------------------------------------


def aoeping(*args, **more):
    return tool("aoeping", "-s", "20", *args, "1", "0", "aoe1", **more)


def test_aoeping():
    if not aoe.have("aoeping"):
        print("not tried: aoetools are not installed")
        return
    with serving("fault:rule=flush;eio;while=broken:ram:1M") as s, client() as c:
        c.settle()
        c.close()
        text = aoeping("-S", "return_status")
        assert re.search(r"LBA Mid: 0x4f\n *LBA High: 0xc2\n *Status: 0x40", text), text
        assert "SMART data:" in aoeping("-S", "read_data")
        assert "01 00 01 00" in aoeping("-S", "read_log:0")
        assert "SMART data:" in aoeping("-S", "read_log:1")
        assert "aborted" in aoeping("-S", "read_log:2", code=1)
        assert "aborted" in aoeping("-S", "offline_immediate:0", code=1)
        assert "aborted" in aoeping("-S", "write_log:0x80", stdin="\0" * 512, code=1)
        assert "Status: 0x40" in aoeping("-S", "disable")
        assert "aborted" in aoeping("-S", "return_status", code=1)
        assert "Status: 0x40" in aoeping("-S", "enable")
        with client() as c:
            Switch(s, "broken").on()
            c.ata(aoe.FLUSH)
        assert re.search(r"LBA Mid: 0xf4\n *LBA High: 0x2c\n", aoeping("-S", "return_status"))
        s.terminate()
        assert s.wait_end() == 1


def hdparm(c):
    if not aoe.have("hdparm"):
        print("not tried: hdparm is not installed")
        return None
    words = c.identify().words
    lines = [" ".join(f"{w:04x}" for w in words[i:i + 8]) for i in range(0, 256, 8)]
    return tool("hdparm", "--Istdin", stdin="\n".join(lines) + "\n")


def test_hdparm():
    with both("disk.img", args=["--size", "64M"]) as (_, c):
        text = hdparm(c)
        if text is None:
            return
        for line in (r"Model Number: +Spindle disk", r"LBA48  user addressable sectors: +131072", r"\*\s+SMART feature set",
                     r"\*\s+SMART error logging", r"\*\s+General Purpose Logging feature set", r"\*\s+48-bit Address feature set",
                     r"\*\s+Mandatory FLUSH_CACHE", r"\*\s+FLUSH_CACHE_EXT", r"\*\s+64-bit World wide name",
                     r"\*\s+Data Set Management TRIM supported \(limit 1 block\)", r"\*\s+Deterministic read ZEROs after TRIM",
                     r"Checksum: correct"):
            assert re.search(line, text), f"no {line!r} in\n{text}"
        for line in ("Write cache", "Host Protected Area", "SMART self-test", "Power Management"):
            assert line not in text, text
        c.good(smart_frame(aoe.SMART_OFF))
        assert re.search(r"\n\s+SMART feature set", hdparm(c))
    with both("ram:1M", options=",cache=writeback") as (_, c):
        assert re.search(r"\*\s+Write cache", hdparm(c))
        cache(c, aoe.CACHE_OFF)
        assert re.search(r"\n\s+Write cache", hdparm(c))


main(globals())
