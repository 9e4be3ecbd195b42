"""
FORMAT UNIT and SANITIZE of a disk in a file, and the end of the server in the middle: the disk is
refused until the work is done, and then every byte of it is what was asked for.
"""

import os
import random
import shutil
import tempfile
import time

from harness import KIB, MIB, Spindle, main, skip, wait_until, without_attributes

import iscsi

SIZE = 64 * MIB
OLD = iscsi.pattern(SIZE, 3)
PATTERN = bytes(range(200, 207))

NOT_READY, MEDIUM_ERROR = 2, 3
FORMATTING = (NOT_READY, (0x04, 0x04))
SANITIZING = (NOT_READY, (0x04, 0x1B))
SANITIZE_FAILED = (MEDIUM_ERROR, (0x31, 0x03))
FORMAT_FAILED = (MEDIUM_ERROR, (0x31, 0x01))

# 256 writes, 4 at once: 800 ms a pass. 8 pieces are made zeros, 4 at once: 1 s.
SLOW = "fault:rule=write;delay=12ms,rule=zero;delay=500ms:disk.img"


def sanitize(action, length=0, immed=True, ause=False):
    return (bytes([0x48, action | (0x80 if immed else 0) | (0x20 if ause else 0), 0, 0, 0, 0, 0])
            + length.to_bytes(2, "big") + b"\0")


def overwrite(session, passes=1, pattern=PATTERN, **how):
    data = bytes([passes, 0]) + len(pattern).to_bytes(2, "big") + pattern
    return session.command(sanitize(1, len(data), **how), write=data)


def start_overwrite(session, pattern=PATTERN):
    data = bytes([1, 0]) + len(pattern).to_bytes(2, "big") + pattern
    return session.start(sanitize(1, len(data), immed=False), 0, data)


def block_erase(session, **how):
    return session.command(sanitize(2, **how))


def exit_failure_mode(session):
    return session.command(sanitize(0x1F, immed=False))


def format_unit(session):
    return session.command(bytes([0x04, 0x10, 0, 0, 0, 0]), write=bytes([0, 0x02, 0, 0]))


def request_sense(session):
    """(key, (asc, ascq)) and the progress of 65536, None where there is none."""
    data = session.good(session.command(bytes([0x03, 0, 0, 0, 252, 0]), read=252)).data
    progress = int.from_bytes(data[16:18], "big") if data[15] & 0x80 else None
    return (data[2], (data[12], data[13])), progress


def settle(session):
    """Takes the unit attention of a new nexus, whatever else there is to say."""
    r = session.command(iscsi.test_unit_ready())
    assert r.sense_key == 6, r


def refused(result, sense):
    assert (result.sense_key, result.asc) == sense, f"{result!r}, expected {sense}"


def seen(session, sense):
    """Everything about the data is refused; what tells of the disk works."""
    assert request_sense(session)[0] == sense
    refused(session.command(iscsi.test_unit_ready()), sense)
    refused(session.command(iscsi.read10(0, 1), read=512), sense)
    refused(session.command(iscsi.write10(0, 1), write=bytes(512)), sense)
    session.good(session.command(iscsi.inquiry(), read=96))
    session.good(session.command(iscsi.read_capacity10(), read=8))


def wait_while(session, sense, seconds=30):
    progress = []

    def is_over():
        now, done = request_sense(session)
        progress.append(done)
        return now != sense

    wait_until(is_over, seconds, "the end of it")
    shown = [p for p in progress if p is not None]
    assert shown == sorted(shown), f"progress goes back: {shown}"
    return shown


class Disk:
    """disk.img with old data, in a directory of its own."""

    wrap = ()

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.dir = self.temporary.name
        self.path = os.path.join(self.dir, "disk.img")
        self.fill(OLD)
        self.check()
        return self

    def check(self):
        try:
            os.setxattr(self.path, "user.spindle.probe", b"1")
        except OSError:
            skip(f"{self.dir} keeps no extended attributes")

    def __exit__(self, *_):
        self.temporary.cleanup()

    def fill(self, data):
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as f:
            f.write(data)

    def read(self):
        with open(self.path, "rb") as f:
            return f.read()

    def serve(self, store=SLOW, **how):
        return Spindle(store, directory=self.dir, wrap=self.wrap, **how)

    def login(self, s):
        session = iscsi.login(s.portals[0], s.iqn())
        settle(session)
        return session


class BareDisk(Disk):
    """The same where files keep no attributes: what is kept is in the server's directory."""

    def check(self):
        self.wrap = without_attributes()

    def records(self):
        """All that is kept there."""
        return [os.path.join(folder, name)
                for folder, _, names in os.walk(os.path.join(self.dir, "state")) for name in names]


def blocks_of(pattern, block=512):
    return (pattern * (block // len(pattern) + 1))[:block]


def is_all(data, block):
    return data == block * (len(data) // len(block))


def killed_twice(begin, sense, wanted, kind=Disk):
    with kind() as disk, disk.serve() as s:
        begin(disk.login(s))
        time.sleep(0.25)
        s.kill()
        assert not is_all(disk.read(), wanted), "it was done already: nothing is tested"
        for _ in range(2):
            s.start()
            with disk.login(s) as session:
                seen(session, sense)
            assert "unfinished-work" in s.stderr(), s.stderr()
            time.sleep(random.uniform(0, 0.2))
            s.kill()
        s.start()
        with disk.login(s) as session:
            seen(session, sense)
            wait_while(session, sense)
            session.good(session.command(iscsi.test_unit_ready()))
            assert session.read(0, 1) == wanted[:512]
        assert is_all(disk.read(), wanted)
        # It is a disk again, and stays one.
        with disk.login(s) as session:
            session.write(9, b"new " * 128)
        s.restart()
        with disk.login(s) as session:
            time.sleep(0.1)
            assert session.read(9, 1) == b"new " * 128
            assert session.read(10, 1) == wanted[:512]


def test_overwrite_goes_on_after_kill():
    killed_twice(lambda session: session.good(overwrite(session)), SANITIZING, blocks_of(PATTERN))


def test_passes_go_on_after_kill():
    killed_twice(lambda session: session.good(overwrite(session, passes=0x82)), SANITIZING,
                 blocks_of(PATTERN))


def test_format_goes_on_after_kill():
    killed_twice(lambda session: session.good(format_unit(session)), FORMATTING, bytes(4 * KIB))


def test_block_erase_goes_on_after_kill():
    killed_twice(lambda session: session.good(block_erase(session)), SANITIZING, bytes(4 * KIB))


def test_waiting_command_is_killed():
    killed_twice(start_overwrite, SANITIZING, blocks_of(PATTERN))


def test_the_same_without_attributes():
    killed_twice(lambda session: session.good(overwrite(session)), SANITIZING, blocks_of(PATTERN),
                 BareDisk)
    killed_twice(lambda session: session.good(format_unit(session)), FORMATTING, bytes(4 * KIB),
                 BareDisk)


def killed_without_attributes(disk, s):
    with disk.login(s) as session:
        session.good(overwrite(session, ause=True))
        time.sleep(0.3)
        s.kill()
    assert len(disk.records()) == 1 and disk.records()[0].endswith("/work"), disk.records()


def test_another_disk_in_its_place_does_not_go_on():
    """A new file of the same name, of whose data nothing may be erased."""
    with BareDisk() as disk, disk.serve() as s:
        killed_without_attributes(disk, s)
        os.rename(disk.path, disk.path + ".half")
        disk.fill(OLD)
        s.start()
        with disk.login(s) as session:
            session.good(session.command(iscsi.test_unit_ready()))
            time.sleep(0.2)
            session.good(session.command(iscsi.test_unit_ready()))
        s.stop()
        assert disk.read() == OLD
        # The one that it was begun on goes on, whatever its name.
        with disk.serve("disk.img.half") as other, disk.login(other) as session:
            seen(session, SANITIZING)
            wait_while(session, SANITIZING)
        disk.path += ".half"
        assert is_all(disk.read(), blocks_of(PATTERN))
        s.start()


def test_read_only_does_not_hide_it():
    with BareDisk() as disk, disk.serve() as s:
        killed_without_attributes(disk, s)
        with disk.serve("disk.img", args=["--ro"]) as other, disk.login(other) as session:
            assert request_sense(session)[0] == SANITIZE_FAILED
            refused(session.command(iscsi.read10(0, 1), read=512), SANITIZE_FAILED)
        s.start()
        with disk.login(s) as session:
            wait_while(session, SANITIZING)
        assert is_all(disk.read(), blocks_of(PATTERN))


def test_a_damaged_record_is_no_good_disk():
    with BareDisk() as disk, disk.serve() as s:
        killed_without_attributes(disk, s)
        with open(disk.records()[0], "r+b") as f:
            f.truncate(40)
        s.start()
        with disk.login(s) as session:
            seen(session, SANITIZE_FAILED)
            session.good(exit_failure_mode(session))
            session.good(session.command(iscsi.test_unit_ready()))
        s.restart()
        with disk.login(s) as session:
            session.good(session.command(iscsi.test_unit_ready()))


def test_what_cannot_be_recorded_is_not_begun():
    with BareDisk() as disk, disk.serve() as s, disk.login(s) as session:
        with open(os.path.join(disk.dir, "state"), "w", encoding="ascii"):
            pass
        for r in (overwrite(session), format_unit(session)):
            assert r.status == 2 and r.sense_key == MEDIUM_ERROR, r
        session.good(session.command(iscsi.test_unit_ready()))
        assert session.read(0, 128) == OLD[:128 * 512]
        os.unlink(os.path.join(disk.dir, "state"))
        session.good(overwrite(session, immed=False))
        assert is_all(disk.read(), blocks_of(PATTERN))


def test_stop_is_quick_and_keeps_the_position():
    with Disk() as disk, disk.serve() as s:
        session = disk.login(s)
        session.good(overwrite(session))
        time.sleep(0.4)
        begun = time.monotonic()
        s.stop()
        assert time.monotonic() - begun < 5
        session.close()
        # Where it was is not done again.
        half = disk.read()
        done = sum(half[at:at + 512] == blocks_of(PATTERN) for at in range(0, SIZE, MIB))
        assert 4 <= done < 64, done
        disk.fill(b"kept" * (KIB // 4))
        s.start()
        with disk.login(s) as session:
            _, progress = request_sense(session)
            assert progress is not None and progress >= (done - 4) * 65536 // 64, progress
            wait_while(session, SANITIZING)
        now = disk.read()
        assert now[:KIB] == b"kept" * (KIB // 4)
        assert is_all(now[KIB:], blocks_of(PATTERN))


def test_stop_ends_a_waiting_command():
    with Disk() as disk, disk.serve() as s:
        session = disk.login(s)
        p = start_overwrite(session)
        time.sleep(0.3)
        begun = time.monotonic()
        s.terminate()
        refused(session.finish(p), SANITIZING)
        session.close()
        assert s.wait_end() == 0
        assert time.monotonic() - begun < 5
        s.start()
        with disk.login(s) as session:
            wait_while(session, SANITIZING)
        assert is_all(disk.read(), blocks_of(PATTERN))


def test_nexus_goes():
    """Its session ends; the work does not."""
    with Disk() as disk, disk.serve() as s:
        session = disk.login(s)
        start_overwrite(session)
        time.sleep(0.2)
        session.close()
        with disk.login(s) as session:
            seen(session, SANITIZING)
            wait_while(session, SANITIZING)
        assert is_all(disk.read(), blocks_of(PATTERN))


def test_failure_mode():
    store = "fault:rule=write+zero@32M-33M;eio;while=broken:disk.img"
    with Disk() as disk:
        broken = os.path.join(disk.dir, "broken")
        with open(broken, "w", encoding="ascii"):
            pass
        with disk.serve(store) as s:
            with disk.login(s) as session:
                refused(overwrite(session, ause=True, immed=False), SANITIZE_FAILED)
                seen(session, SANITIZE_FAILED)
            s.restart()
            with disk.login(s) as session:
                seen(session, SANITIZE_FAILED)
                session.good(exit_failure_mode(session))
                # What is there is served as it is: half of it is old.
                assert session.read(SIZE // 512 - 1, 1) == OLD[-512:]
                refused(overwrite(session, immed=False), SANITIZE_FAILED)
                refused(exit_failure_mode(session), (5, (0x24, 0x00)))
            s.kill()
            s.start()
            with disk.login(s) as session:
                refused(exit_failure_mode(session), (5, (0x24, 0x00)))
                seen(session, SANITIZE_FAILED)
                os.unlink(broken)
                session.good(overwrite(session, immed=False))
            assert is_all(disk.read(), blocks_of(PATTERN))


def test_format_fails():
    store = "fault:rule=write+zero@32M-33M;eio;while=broken:disk.img"
    with Disk() as disk:
        broken = os.path.join(disk.dir, "broken")
        with open(broken, "w", encoding="ascii"):
            pass
        with disk.serve(store) as s:
            with disk.login(s) as session:
                session.good(format_unit(session))
                wait_while(session, FORMATTING)
                seen(session, FORMAT_FAILED)
            s.kill()
            s.start()
            with disk.login(s) as session:
                seen(session, FORMAT_FAILED)
                os.unlink(broken)
                session.good(format_unit(session))
                wait_while(session, FORMATTING)
                session.good(session.command(iscsi.test_unit_ready()))
            assert is_all(disk.read(), bytes(512))


def test_lost_disk_is_waited_for():
    """As after a loss of power: it goes on when the disk is back."""
    store = "fault:rule=write;delay=12ms,rule=any;enodev;while=lost:disk.img"
    with Disk() as disk, disk.serve(store) as s:
        lost = os.path.join(disk.dir, "lost")
        session = disk.login(s)
        session.good(overwrite(session, passes=0x82))
        time.sleep(0.3)
        with open(lost, "w", encoding="ascii"):
            pass
        wait_until(lambda: request_sense(session)[0] == (NOT_READY, (0x04, 0x03)), 20, "its loss")
        os.unlink(lost)
        wait_until(lambda: request_sense(session)[0] == (0, (0, 0)), 30, "the end of it")
        assert is_all(disk.read(), blocks_of(PATTERN))
        session.close()


def test_copy_does_not_go_on():
    """Nobody has asked for the copy to be erased; nobody can take it for whole either."""
    with Disk() as disk, disk.serve() as s:
        session = disk.login(s)
        session.good(overwrite(session, ause=True))
        time.sleep(0.3)
        s.kill()
        copy = os.path.join(disk.dir, "copy.img")
        shutil.copy2(disk.path, copy)
        with open(copy, "rb") as f:
            before = f.read()
        with disk.serve("copy.img") as other, disk.login(other) as session:
            seen(session, SANITIZE_FAILED)
            session.good(exit_failure_mode(session))
            assert session.read(SIZE // 512 - 1, 1) == OLD[-512:]
        with open(copy, "rb") as f:
            assert f.read() == before
        s.start()
        with disk.login(s) as session:
            wait_while(session, SANITIZING)
        assert is_all(disk.read(), blocks_of(PATTERN))


def test_read_only_does_not_go_on():
    """The disk cannot be written now: it has failed, as far as this server is concerned."""
    with Disk() as disk, disk.serve() as s:
        session = disk.login(s)
        session.good(overwrite(session))
        time.sleep(0.2)
        s.kill()
        before = disk.read()
        with disk.serve("disk.img", args=["--ro"]) as other, disk.login(other) as session:
            seen(session, SANITIZE_FAILED)
        assert disk.read() == before
        s.start()
        with disk.login(s) as session:
            wait_while(session, SANITIZING)
        assert is_all(disk.read(), blocks_of(PATTERN))


main(globals())
