"""
Who is let in over Ethernet: the MAC mask list and reserve/release, what they mean for iSCSI, what of them
outlives the process, and that nothing of those who are kept out gets to the disk.

It needs root. SPINDLE_SEED=N makes the random tests what they were in a run that printed it.
"""

import contextlib
import os
import random
import time

from harness import main, wait_until, without_attributes

import aoe
import iscsi
import pdu as P
from aoe import (ADD, DELETE, MASK_EDIT, MASK_READ, NOTHING, RESERVE_FORCE, RESERVE_READ, RESERVE_SET, Frame, ata_frame,
                 config_frame, mask_frame, pattern, reserve_frame, smart_frame)
from disks import RELEASE6, RESERVE6

aoe.in_namespace()

SEED = int(os.environ.get("SPINDLE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECTOR = aoe.SECTOR
ADMIN, ONE, TWO = (bytes.fromhex(f"0200000000{n}") for n in ("77", "01", "02"))
MASK_MAX, HOLDERS_MAX = (1514 - 28) // 8, (1514 - 26) // 6
CONFLICT = 0x18
RESERVE10 = bytes([0x56]) + bytes(9)
EVERYBODY = {"shelf": aoe.ALL_SHELVES, "slot": aoe.ALL_SLOTS, "dst": aoe.BROADCAST}
LU_RESET, TARGET_RESET = 5, 6


def option(name, *macs):
    return "".join(f",{name}={aoe.mac_text(mac)}" for mac in macs)


def serving(*stores, options=option("admin", ADMIN), **more):
    return aoe.serving(*(stores or ("ram:1M",)), options=options, **more)


def on_file(**more):
    return serving("disk.img", args=["--size", "1M"], **more)


def client(mac=None, **more):
    return aoe.client(mac=mac, **more)


@contextlib.contextmanager
def three():
    """The interface's own, one that is let do everything, and one more."""
    with client() as c, client(ADMIN) as admin, client(ONE) as one:
        yield c, admin, one


def macs(n, first=0):
    return [bytes.fromhex("06") + (first + i).to_bytes(5, "big") for i in range(n)]


def adds(*which):
    return [(ADD, mac) for mac in which]


def deletes(*which):
    return [(DELETE, mac) for mac in which]


def iscsi_login(s, index=0, **more):
    return iscsi.login(s.portals[0], s.iqn(index), **more)


def conflicts(session):
    """What a SPC-2 reservation of somebody else keeps out, and what it does not."""
    assert session.command(iscsi.test_unit_ready()).status == CONFLICT
    assert session.command(iscsi.read10(0, 1), read=SECTOR).status == CONFLICT
    assert session.command(iscsi.write10(0, 1), write=bytes(SECTOR)).status == CONFLICT
    for cdb in (RESERVE6, RESERVE10, bytes([0x35]) + bytes(9), bytes([0x1A, 0, 0x3F, 0, 255, 0])):
        assert session.command(cdb, read=255 if cdb[0] == 0x1A else 0).status == CONFLICT, hex(cdb[0])
    session.good(session.command(iscsi.inquiry(), read=96))
    # GOOD, or a unit attention that is still to be told; nothing is released.
    assert session.command(RELEASE6).status in (0, 2)
    assert session.command(iscsi.test_unit_ready()).status == CONFLICT


def reset(session, function):
    request = session.request(P.TMF_REQUEST, True, flags=P.FINAL | function, rtt=P.NONE)
    session.send(request)
    session.check(session.recv_for(request.itt), P.TMF_RESPONSE, response=0)


# ---- The MAC mask list -------------------------------------------------------------------------


def test_editing_the_mask_list():
    with serving(), three() as (c, admin, one):
        everybody = adds(c.mac, ADMIN, ONE)
        assert admin.mask() == c.mask() == []
        assert admin.mask(everybody) == [c.mac, ADMIN, ONE]
        for who in (c, admin, one):
            assert who.mask() == [c.mac, ADMIN, ONE]
        # What is there may be added again, and what is not deleted; several in one frame, in their order.
        assert admin.mask(adds(ONE)) == [c.mac, ADMIN, ONE]
        assert admin.mask(deletes(TWO)) == [c.mac, ADMIN, ONE]
        assert admin.mask([]) == [c.mac, ADMIN, ONE]
        assert admin.mask([(NOTHING, TWO)]) == [c.mac, ADMIN, ONE]
        assert admin.mask(deletes(c.mac) + adds(TWO) + deletes(TWO) + adds(c.mac)) == [ADMIN, ONE, c.mac]
        assert admin.mask(deletes(ADMIN, ONE, c.mac)) == []
        assert c.mask() == []
        assert admin.mask(deletes(c.mac)) == []


def test_who_may_edit_the_mask_list():
    with serving(), three() as (c, admin, one):
        for who in (c, one):
            who.expect_error(aoe.BAD_ARGUMENT, mask_frame(MASK_EDIT, adds(who.mac)))
            who.expect_error(aoe.BAD_ARGUMENT, mask_frame(MASK_EDIT))
        assert admin.mask() == []
    with serving(options=""), client() as c:
        c.expect_error(aoe.BAD_ARGUMENT, mask_frame(MASK_EDIT, adds(c.mac)))
        assert c.mask() == []


def test_directives_that_are_wrong():
    """Those before are done, the others not, and which one it was is told."""
    with serving(), client(ADMIN) as admin:
        def fails(error, at, *directives):
            answer = admin.ask(mask_frame(MASK_EDIT, directives))
            assert (answer.error, answer.mask_error, answer.mac_count) == (0, error, at), answer

        fails(aoe.BAD_DIRECTIVE, 1, (ADD, ADMIN), (9, ONE), (ADD, TWO))
        assert admin.mask() == [ADMIN]
        for command in (3, 0x7F, 0xFF):
            fails(aoe.BAD_DIRECTIVE, 0, (command, ONE), (ADD, TWO))
        fails(aoe.BAD_DIRECTIVE, 3, (ADD, ONE), (DELETE, ONE), (ADD, TWO), (3, ONE), (DELETE, ADMIN))
        assert admin.mask() == [ADMIN, TWO]


def test_a_mask_list_that_is_full():
    with serving(), client(ADMIN) as admin:
        everybody = [ADMIN, *macs(MASK_MAX - 1)]
        assert admin.mask(adds(*everybody)) == everybody
        answer = admin.ask(mask_frame(MASK_EDIT, deletes(everybody[-1]) + adds(*macs(2, 1000))))
        assert (answer.error, answer.mask_error, answer.mac_count) == (0, aoe.LIST_FULL, 2), answer
        everybody[-1] = macs(1, 1000)[0]
        assert admin.mask() == everybody
        assert admin.mask(adds(everybody[7])) == everybody
        assert admin.mask(deletes(*everybody)) == []
        # The most that a frame holds, and it is told of every list that it makes.
        assert admin.mask(adds(*macs(MASK_MAX))) == macs(MASK_MAX)


def test_lists_where_frames_are_small_or_large():
    aoe.set_mtu(9000)
    try:
        # Those on the list are told of another MTU.
        with serving(options=option("admin", ADMIN)) as s, client(ADMIN, only_mine=True) as admin:
            for n in (HOLDERS_MAX + 1, 255):
                admin.expect_error(aoe.BAD_ARGUMENT, reserve_frame(RESERVE_SET, macs(n)))
            answer = admin.ask(mask_frame(MASK_EDIT, adds(*macs(255))))
            assert (answer.mask_error, answer.mac_count) == (aoe.LIST_FULL, MASK_MAX), answer
            assert admin.mask(deletes(*macs(MASK_MAX - 100))) == macs(100, MASK_MAX - 100)
            aoe.set_mtu(600)
            # It is not told in part.
            wait_until(lambda: admin.ask(mask_frame()).error == aoe.UNAVAILABLE, 10, "the smaller frames")
            admin.expect_error(aoe.UNAVAILABLE, mask_frame(MASK_EDIT, deletes(macs(100, MASK_MAX - 100)[0])))
            assert len(admin.mask(deletes(*macs(70, MASK_MAX - 100)))) == 30
            room = (614 - 28) // 8
            answer = admin.ask(mask_frame(MASK_EDIT, adds(*macs(room - 30 + 1, 1000))))
            assert (answer.mask_error, answer.mac_count) == (aoe.LIST_FULL, room - 30), answer
            assert len(admin.mask()) == room
            assert s.running()
    finally:
        aoe.set_mtu(1500)


def test_mask_frames_that_are_wrong():
    with serving(), client(ADMIN) as admin:
        admin.mask(adds(ADMIN))
        for command in (2, 7, 255):
            admin.expect_error(aoe.BAD_ARGUMENT, mask_frame(command, adds(ONE)))
        for size in range(aoe.HEADER, aoe.MASK_HEADER):
            for command in (MASK_READ, MASK_EDIT):
                admin.expect_error(aoe.BAD_ARGUMENT, mask_frame(command), size)
        for n, size in ((5, None), (255, None), (255, 1514), (1, aoe.MASK_HEADER + 7), (2, aoe.MASK_HEADER + 15)):
            admin.expect_error(aoe.BAD_ARGUMENT, mask_frame(MASK_EDIT, adds(ONE), count=n), size)
        # Nor is a list for all disks.
        admin.expect_silence(mask_frame(MASK_EDIT, adds(ONE), **EVERYBODY), mask_frame(**EVERYBODY),
                             reserve_frame(RESERVE_SET, [ONE], **EVERYBODY))
        # Of a read nothing else counts.
        for frame in (mask_frame(MASK_READ, adds(ONE)), mask_frame(MASK_READ, count=255)):
            assert admin.ask(frame).macs == [ADMIN]
        assert admin.mask() == [ADMIN] and admin.reserved() == []


def test_who_is_answered():
    """An admin that is not on the list sees to the list and to nothing else."""
    with serving("ram:1M", "ram:1M"), three() as (c, admin, one):
        c.settle()
        admin.mask(adds(ONE))
        one.write(0, pattern(1, 0, 2))
        for who in (c, admin):
            who.expect_silence(config_frame(), ata_frame(aoe.IDENTIFY, count=1), ata_frame(aoe.READ_EXT, 0, 1),
                               ata_frame(aoe.WRITE_EXT, 0, 1, bytes(SECTOR)), ata_frame(aoe.FLUSH), Frame(0xF0),
                               Frame(aoe.CONFIG, bytes(8), version=2), reserve_frame(),
                               reserve_frame(RESERVE_SET, [who.mac]), reserve_frame(RESERVE_FORCE),
                               config_frame(aoe.CONFIG_FORCE, b"mine"))
            # The other disk has a list of its own.
            assert [(a.shelf, a.slot) for a in who.discover()] == [(1, 1)]
        c.expect_silence(mask_frame(), mask_frame(MASK_EDIT, adds(c.mac)), Frame(aoe.MASK, bytes(4), version=2))
        assert one.read(0, 2) == pattern(1, 0, 2) and one.config().string == b"" and one.reserved() == []
        assert admin.mask() == [ONE]
        assert admin.mask(adds(ADMIN)) == [ONE, ADMIN]
        assert admin.read(0, 2) == pattern(1, 0, 2)
        assert admin.mask(deletes(ONE, ADMIN)) == []
        assert c.read(0, 2) == pattern(1, 0, 2)


def test_both_lists_must_let_pass():
    """The one on the command line and the one of the disk."""
    with three() as (c, admin, one), client(TWO) as two, \
         serving(options=option("admin", ADMIN) + option("mac", ONE, TWO, ADMIN)):
        admin.mask(adds(c.mac, ONE, ADMIN))
        one.ping()
        c.expect_silence(config_frame(), mask_frame())
        two.expect_silence(config_frame(), mask_frame())
        admin.mask(deletes(ADMIN))
        admin.expect_silence(config_frame())
        assert admin.mask() == [c.mac, ONE]
    with three() as (c, admin, one), serving(options=option("admin", ADMIN) + option("mac", ONE)):
        one.ping()
        admin.expect_silence(config_frame(), mask_frame(), mask_frame(MASK_EDIT, adds(ADMIN)))


def test_who_is_told_that_it_is_there():
    """Those that are answered, each by itself."""
    with three() as (c, admin, one), on_file() as s:
        def told(options):
            s.args[1] = f"{aoe.SERVER_SIDE}:1.0{options}"
            for who in (c, admin, one):
                who.settle()
                who.announcements.clear()
            s.restart()
            (one if option("mac", ONE) in options else c).ping()
            for who in (c, admin, one):
                who.settle()
            return [[a.dst for a in who.announcements] for who in (c, admin, one)]

        admin.settle()
        admin.mask(adds(c.mac, ONE))
        assert told(option("admin", ADMIN)) == [[c.mac], [], [ONE]]
        assert told(option("mac", ONE, ADMIN)) == [[], [], [ONE]]
        assert told(option("admin", ADMIN)) == [[c.mac], [], [ONE]]
        admin.mask(deletes(c.mac, ONE))
        assert told(option("admin", ADMIN)) == [[aoe.BROADCAST]] * 3


# ---- Reserve/release ---------------------------------------------------------------------------


def test_reserving():
    with serving(), three() as (c, admin, one):
        c.write(0, pattern(1, 0, 2))
        assert c.reserved() == [] and c.reserved([]) == []
        assert c.reserved([c.mac, ADMIN]) == [c.mac, ADMIN]
        for who in (c, admin, one):
            assert who.reserved() == [c.mac, ADMIN]
        for who in (c, admin):
            assert who.read(0, 2) == pattern(1, 0, 2)
            who.write(0, pattern(1, 0, 2))
            who.flush()
        for opcode in set(range(256)) - {aoe.IDENTIFY}:
            one.expect_error(aoe.RESERVED, ata_frame(opcode, 0, 1, b"\xa5" * SECTOR))
        assert one.identify().size == 2048 and one.config().sectors == 2 and len(one.discover()) == 1
        assert one.mask() == []
        # What is no command is told first.
        one.expect_error(aoe.BAD_ARGUMENT, ata_frame(aoe.READ, 0, 1), aoe.HEADER + 4)
        assert c.read(0, 2) == pattern(1, 0, 2)
        assert admin.reserved([]) == []
        one.write(0, pattern(2, 0, 2))
        assert c.read(0, 2) == pattern(2, 0, 2)


def test_who_may_reserve():
    with serving(), three() as (c, admin, one):
        # For others than oneself, too; and then one is out.
        assert c.reserved([ONE]) == [ONE]
        for who in (c, admin):
            for which in ([who.mac], [ONE], [ONE, who.mac], []):
                who.expect_error(aoe.RESERVED, reserve_frame(RESERVE_SET, which))
        c.expect_error(aoe.BAD_ARGUMENT, reserve_frame(RESERVE_FORCE, [c.mac]))
        c.expect_error(aoe.BAD_ARGUMENT, reserve_frame(RESERVE_FORCE))
        assert c.reserved() == [ONE]
        assert one.reserved([ONE]) == [ONE]
        assert one.reserved([ONE, c.mac, ONE]) == [ONE, c.mac, ONE]
        c.write(0, pattern(1, 0, 2))
        assert c.reserved([c.mac]) == [c.mac]
        one.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
        # An admin asks nobody, and has no other right.
        admin.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
        assert admin.reserved([ONE], RESERVE_FORCE) == [ONE]
        c.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
        assert one.read(0, 2) == pattern(1, 0, 2)
        assert admin.reserved([], RESERVE_FORCE) == []
        assert admin.reserved([ADMIN], RESERVE_FORCE) == [ADMIN]
        assert admin.reserved([]) == []
        assert c.read(0, 2) == pattern(1, 0, 2)
    with serving(options=""), client() as c, client(ADMIN) as other:
        c.reserved([c.mac])
        other.expect_error(aoe.BAD_ARGUMENT, reserve_frame(RESERVE_FORCE, [ADMIN]))
        assert c.reserved([]) == []


def test_reserve_frames_that_are_wrong():
    with serving(), client() as c, client(ADMIN) as admin:
        for command in (3, 9, 255):
            admin.expect_error(aoe.BAD_ARGUMENT, reserve_frame(command, [ADMIN]))
        for size in (aoe.HEADER, aoe.HEADER + 1):
            for command in (RESERVE_READ, RESERVE_SET, RESERVE_FORCE):
                admin.expect_error(aoe.BAD_ARGUMENT, reserve_frame(command), size)
        for command in (RESERVE_SET, RESERVE_FORCE):
            for n, size in ((6, None), (255, 1514), (HOLDERS_MAX + 1, 1514), (1, aoe.RESERVE_HEADER + 5)):
                admin.expect_error(aoe.BAD_ARGUMENT, reserve_frame(command, [ADMIN], count=n), size)
        assert c.ask(reserve_frame(RESERVE_READ, [ADMIN])).macs == []
        assert c.ask(reserve_frame(RESERVE_READ, count=255)).macs == []
        everybody = [c.mac, *macs(HOLDERS_MAX - 1)]
        assert c.reserved(everybody) == everybody
        admin.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
        assert c.reserved([]) == []


def test_several_interfaces():
    aoe.add_pair("aoe2", "aoe3")
    with serving("ram:1M", "ram:1M", args=["--aoe", "aoe2:7.0" + option("admin", ONE)]) as s, three() as (c, admin, _), \
         aoe.Client(7, 0, interface="aoe3", server="aoe2", timeout_s=20) as d:
        admin.mask(adds(c.mac, d.mac, ADMIN))
        assert d.mask() == [c.mac, d.mac, ADMIN]
        # An admin here is none there.
        d.expect_error(aoe.BAD_ARGUMENT, mask_frame(MASK_EDIT, adds(ONE)))
        assert d.reserved([d.mac]) == [d.mac]
        c.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
        c.expect_error(aoe.RESERVED, reserve_frame(RESERVE_SET, [c.mac]))
        assert c.read(0, slot=1) == d.read(0) == bytes(SECTOR)
        admin.mask(deletes(d.mac))
        d.expect_silence(config_frame(), ata_frame(aoe.READ, 0, 1))
        assert s.running()


# ---- What is kept ------------------------------------------------------------------------------


def judge_kept(s, again):
    everybody, holders = macs(100, 5), macs(200, 9)
    aoe.Client.elsewhere.update(everybody)
    for how in (s.stop, s.kill):
        with client() as c, client(ADMIN) as admin:
            admin.mask(adds(c.mac, ADMIN, *everybody))
            assert c.reserved([c.mac, *holders]) == [c.mac, *holders]
            admin.config(aoe.CONFIG_FORCE, b"beside them")
        how()
        s.start()
        with client() as c, client(ADMIN) as admin, client(ONE) as one:
            assert c.mask() == [c.mac, ADMIN, *everybody], again
            assert c.reserved() == [c.mac, *holders], again
            assert c.config().string == b"beside them"
            one.expect_silence(config_frame())
            admin.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
            assert c.read(0) == bytes(SECTOR)
            assert c.reserved([]) == [] and admin.mask(deletes(c.mac, *everybody)) == [ADMIN]
        how()
        s.start()
        with client() as c, client(ADMIN) as admin:
            assert admin.mask() == [ADMIN] and admin.reserved() == [], again
            admin.mask(deletes(ADMIN))
            assert c.read(0) == bytes(SECTOR)


def test_lists_survive():
    with on_file() as s:
        judge_kept(s, "as attributes")


def test_lists_survive_in_a_directory():
    with on_file(wrap=without_attributes()) as s:
        judge_kept(s, "in a directory")


def test_without_ethernet():
    """What is kept waits: over iSCSI alone the disk is as any other."""
    with on_file() as s:
        with client() as c:
            c.reserved([c.mac])
        with iscsi_login(s) as session:
            conflicts(session)
        args, s.args = s.args, ["--size", "1M"]
        s.restart()
        with iscsi_login(s) as session:
            session.settle()
            session.write(0, pattern(1, 0, 2))
        s.args = args
        s.restart()
        with iscsi_login(s) as session, client() as c, client(ONE) as one:
            conflicts(session)
            assert c.reserved() == [c.mac] and c.read(0, 2) == pattern(1, 0, 2)
            one.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))


def test_read_only():
    """Nothing of such a disk is changed; what was kept is in force."""
    with on_file() as s:
        with client() as c, client(ADMIN) as admin:
            c.reserved([c.mac])
            admin.mask(adds(c.mac, ADMIN))
        s.args += ["--ro"]
        s.restart()
        with client() as c, client(ADMIN) as admin, client(ONE) as one:
            assert c.read(0) == bytes(SECTOR)
            one.expect_silence(config_frame())
            admin.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
            c.expect_error(aoe.UNAVAILABLE, reserve_frame(RESERVE_SET))
            admin.expect_error(aoe.UNAVAILABLE, mask_frame(MASK_EDIT, adds(ONE)))
            assert c.reserved() == [c.mac] and c.mask() == [c.mac, ADMIN]


def test_lists_that_are_damaged():
    """A disk whose fence nobody can read is not served."""
    for name in ("aoe-mask", "aoe-reserve"):
        for value in (b"", b"\x02", b"\x01abc", b"\x01" + bytes(1500), b"\x01" + bytes(3000)):
            with on_file() as s:
                s.stop()
                os.setxattr(os.path.join(s.dir, "disk.img"), f"user.spindle.{name}", value)
                try:
                    s.start()
                except Exception as e:  # pylint: disable=broad-except
                    assert "damaged" in str(e), e
                else:
                    raise AssertionError(f"{name} of {value[:8]!r}: served")


# ---- With iSCSI --------------------------------------------------------------------------------


def test_iscsi_is_kept_out():
    with serving("ram:1M", "ram:1M") as s, three() as (c, admin, one), iscsi_login(s) as session:
        session.settle()
        session.write(0, pattern(1, 0, 2))
        c.reserved([c.mac])
        conflicts(session)
        with iscsi_login(s, isid=iscsi.ISID + 1) as late:
            conflicts(late)
        with iscsi_login(s, 1) as other:
            other.settle()
            other.write(0, pattern(1, 0, 2))
        # Another holder is another holder.
        admin.reserved([ONE], RESERVE_FORCE)
        conflicts(session)
        one.write(0, pattern(2, 0, 2))
        one.reserved([])
        assert session.read(0, 2) == pattern(2, 0, 2)
        session.write(0, pattern(3, 0, 2))
        session.good(session.command(RESERVE6))
        session.good(session.command(RELEASE6))


def test_a_reset_does_not_end_it():
    """Else whoever is kept out could let himself in."""
    with on_file() as s, three() as (c, _, one), iscsi_login(s) as session:
        session.settle()
        c.reserved([c.mac])
        for function in (LU_RESET, TARGET_RESET):
            reset(session, function)
            conflicts(session)
            one.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
            assert c.reserved() == [c.mac]
            c.write(0, pattern(function, 0, 2))
        session.close()
        with iscsi_login(s) as again:
            conflicts(again)
            c.reserved([])
            again.settle()
            assert again.read(0, 2) == pattern(TARGET_RESET, 0, 2)
            # What was reserved there a reset ends, as ever.
            again.good(again.command(RESERVE6))
            c.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))
            reset(again, LU_RESET)
            assert c.read(0, 2) == pattern(TARGET_RESET, 0, 2)


def test_reserved_over_iscsi():
    with serving() as s, three() as (c, admin, one), iscsi_login(s) as session:
        session.settle()
        session.good(session.command(RESERVE6))
        for who in (c, admin):
            who.expect_error(aoe.RESERVED, reserve_frame(RESERVE_SET, [who.mac]))
            for frame in (ata_frame(aoe.READ, 0, 1), ata_frame(aoe.CHECK_POWER), smart_frame(aoe.SMART_OFF)):
                who.expect_error(aoe.RESERVED, frame)
            # Nothing is nothing to release.
            assert who.reserved([]) == [] and who.reserved() == []
        session.write(0, pattern(1, 0, 2))
        assert admin.reserved([], RESERVE_FORCE) == []
        assert c.read(0, 2) == pattern(1, 0, 2), "an admin releases it, too"
        session.good(session.command(RESERVE6))
        session.good(session.command(RELEASE6))
        assert c.reserved([c.mac]) == [c.mac]
        c.reserved([])
        # An admin takes it from there, too.
        session.good(session.command(RESERVE6))
        assert admin.reserved([ONE], RESERVE_FORCE) == [ONE]
        conflicts(session)
        assert one.read(0, 2) == pattern(1, 0, 2)
        one.reserved([])
        session.good(session.command(RESERVE6))
        c.expect_error(aoe.RESERVED, ata_frame(aoe.READ, 0, 1))


def test_both_at_once():
    """One of them has it."""
    won = {True: 0, False: 0}
    with serving(args=["--threads", "4"]) as s, client() as c, iscsi_login(s) as session:
        session.settle()
        rng = random.Random(SEED)
        for _ in range(100):
            request = reserve_frame(RESERVE_SET, [c.mac])
            if rng.randrange(2):
                c.send(request)
                p = session.start(RESERVE6)
            else:
                p = session.start(RESERVE6)
                c.send(request)
            result, answer = session.finish(p), c.receive()
            assert (result.status, answer.error) in ((0, aoe.RESERVED), (CONFLICT, 0)), (result, answer)
            ours = answer.error == 0
            won[ours] += 1
            assert c.ata(aoe.READ, 0, 1).error == (0 if ours else aoe.RESERVED)
            assert session.command(iscsi.test_unit_ready()).status == (CONFLICT if ours else 0)
            if ours:
                c.reserved([])
            else:
                session.good(session.command(RELEASE6))
    print(f"{won[True]} times over Ethernet, {won[False]} times over iSCSI")


# ---- What was under way ------------------------------------------------------------------------


def test_nothing_comes_behind():
    """Of a write that was under way, of one that waited for it, and of those that came again: none reaches the disk after
    the answer."""
    with serving("fault:rule=write;delay=300ms:ram:1M") as s, three() as (c, admin, one), iscsi_login(s) as session:
        session.settle()
        for i in range(4):
            who, how = (one, RESERVE_SET) if i % 2 else (admin, RESERVE_FORCE)
            for seed in (1, 2, 1, 3):
                c.send(ata_frame(aoe.WRITE_EXT, 0, 2, pattern(10 * i + seed, 0, 2)))
            c.send(ata_frame(aoe.WRITE_EXT, 1, 2, pattern(10 * i + 4, 1, 2)))
            c.send(ata_frame(aoe.WRITE_EXT, 8, 1, pattern(10 * i, 8)))
            command = session.start(iscsi.write10(16, 1), write=pattern(10 * i, 16))
            time.sleep(0.1 * i)
            assert who.reserved([who.mac], how) == [who.mac]
            found = [who.read(lba, n) for lba, n in ((0, 2), (2, 1), (8, 1), (16, 1))]
            who.write(32, pattern(i, 32))
            time.sleep(1)
            assert found == [who.read(lba, n) for lba, n in ((0, 2), (2, 1), (8, 1), (16, 1))], f"round {i}"
            assert session.finish(command, write=pattern(10 * i, 16)).status in (0, CONFLICT)
            while (answer := c.receive(0.3)) is not None:
                assert answer.error in (0, aoe.RESERVED), answer
            c.expect_error(aoe.RESERVED, ata_frame(aoe.WRITE_EXT, 0, 2, bytes(2 * SECTOR)))
            assert session.command(iscsi.write10(16, 1), write=bytes(SECTOR)).status == CONFLICT
            assert who.reserved([]) == []
            c.write(2, bytes(SECTOR))


def test_nothing_of_iscsi_comes_behind():
    """A write that is in the store is done before the answer; what comes while that is awaited is refused."""
    with serving("fault:rule=write;delay=700ms:ram:1M") as s, client() as c, iscsi_login(s) as session:
        session.settle()
        c.settle()
        early = session.start(iscsi.write10(0, 2), write=pattern(1, 0, 2))
        time.sleep(0.2)
        tag = c.send(reserve_frame(RESERVE_SET, [c.mac]))
        time.sleep(0.2)
        late = session.start(iscsi.write10(8, 2), write=pattern(1, 8, 2))
        answer = c.receive()
        assert answer.tag == tag and answer.macs == [c.mac], answer
        assert c.read(0, 2) == pattern(1, 0, 2)
        assert session.finish(early, write=pattern(1, 0, 2)).status == 0
        assert session.finish(late, write=pattern(1, 8, 2)).status == CONFLICT
        time.sleep(1)
        assert c.read(8, 2) == bytes(2 * SECTOR)


def test_those_who_stay_go_on():
    """What holders have under way is done and answered, however others are kept out."""
    with serving("fault:rule=write;delay=5ms:ram:16M") as s, client() as c, client(ONE) as one:
        c.settle()
        for i in range(10):
            tags = {c.send(ata_frame(aoe.WRITE_EXT, 2 * n, 2, pattern(i, 2 * n, 2))) for n in range(32)}
            one.reserved([c.mac, ONE])
            while tags:
                answer = c.receive()
                assert answer is not None and not answer.error and answer.status == aoe.GOOD, answer
                tags.discard(answer.tag)
            assert c.read(0, 2) + c.read(62, 2) == pattern(i, 0, 2) + pattern(i, 62, 2)
            one.reserved([])
        assert s.running()


def test_a_disk_that_hangs():
    """Nobody knows what a write will do that does not come back: there is no reservation, and all goes on."""
    with serving("fault:rule=write@0-512;delay=14s;count=1:ram:1M") as s, client() as c, client(ONE) as one:
        c.settle()
        c.send(ata_frame(aoe.WRITE_EXT, 0, 1, pattern(1, 0)))
        time.sleep(0.2)
        one.expect_error(aoe.UNAVAILABLE, reserve_frame(RESERVE_SET, [ONE]))
        assert one.reserved() == []
        one.write(8, pattern(2, 8))
        assert c.receive().status == aoe.GOOD
        assert one.reserved([ONE]) == [ONE]
        assert s.running()


def test_changes_at_any_moment():
    """Holders change while all write, and the server stops in the middle of it: it lives, and says one thing."""
    rng = random.Random(SEED)
    with on_file() as s:
        for _ in range(3):
            with three() as (c, admin, one):
                everybody = (c, admin, one)
                for _ in range(300):
                    who = rng.choice(everybody)
                    kind = rng.randrange(6)
                    lba = rng.randrange(4)
                    if kind < 3:
                        who.send(ata_frame(aoe.WRITE_EXT, lba, 2, pattern(rng.randrange(3), lba, 2)))
                    elif kind == 3:
                        who.send(reserve_frame(RESERVE_SET, [w.mac for w in everybody if rng.randrange(2)]))
                    elif kind == 4:
                        admin.send(reserve_frame(RESERVE_FORCE, [w.mac for w in everybody if rng.randrange(2)]))
                    else:
                        admin.send(mask_frame(MASK_EDIT, [(rng.randrange(3), w.mac) for w in everybody]))
                    while rng.randrange(2) and who.receive(0.001) is not None:
                        pass
                s.restart()
                for who in everybody:
                    who.settle()
                while admin.mask(deletes(*(w.mac for w in everybody))):
                    pass
                holders = admin.reserved()
                for who in everybody:
                    answer = who.ata(aoe.READ, 0, 1)
                    assert (answer.error == 0) == (not holders or who.mac in holders), f"SPINDLE_SEED={SEED}"
                assert admin.reserved([], RESERVE_FORCE) == [], f"SPINDLE_SEED={SEED}"


main(globals())
