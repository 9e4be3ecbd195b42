"""
A disk that is larger than the space below it: once that is full, whatever needs more ends with
SPACE ALLOCATION FAILED WRITE PROTECT, all else goes on, nothing that was acknowledged is lost, and
writes work again as soon as there is space, whether the host has unmapped some or somebody else has
made room.

The disk lies on a small tmpfs that the server mounts for itself in a mount namespace of its own.
"""

import os
import subprocess

from harness import KIB, MIB, Spindle, main, skip

import iscsi

BLOCK = 512
CHUNK = 64 * KIB
BLOCKS = CHUNK // BLOCK
SIZE = 64 * MIB
SPACE = 12 * MIB
NO_SPACE = (0x27, 0x07)
DATA_PROTECT = 7
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)
MOUNT = f"mount -t tmpfs -o size={SPACE} none small && exec \"$@\""


def namespace():
    """How to run a command that may mount."""
    for flags in ("-m", "-Urm"):
        probe = ["unshare", flags, "sh", "-c", "mount -t tmpfs none /mnt"]
        try:
            if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              check=False).returncode == 0:
                return ["unshare", flags]
        except FileNotFoundError:
            skip("unshare is not installed")
    skip("no mount namespaces here")
    return None


NAMESPACE = namespace()


def cdb16(opcode, lba, blocks, flags=0):
    return (bytes([opcode, flags]) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(2))


def compare_and_write(lba, blocks):
    return bytes([0x89, 0]) + lba.to_bytes(8, "big") + bytes(3) + bytes([blocks, 0, 0])


def unmap(lba, blocks):
    """The CDB and its list."""
    data = (bytes([0, 22, 0, 16]) + bytes(4) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big")
            + bytes(4))
    return bytes([0x42]) + bytes(6) + len(data).to_bytes(2, "big") + b"\0", data


def no_space(r):
    return r.status == 2 and r.sense_key == DATA_PROTECT and r.asc == NO_SPACE


class Disk:
    """The server, a session, and what was acknowledged, by chunk."""

    def __init__(self, store="small/disk.img", ballast=0):
        self.server = Spindle(store, args=["--size", str(SIZE)],
                              wrap=NAMESPACE + ["sh", "-c", MOUNT, "sh"])
        os.mkdir(os.path.join(self.server.dir, "small"))
        self.server.start()
        # The server's own view of its directory.
        self.small = f"/proc/{self.server.pid}/root{self.server.dir}/small"
        if ballast:
            with open(self.ballast(), "wb") as f:
                f.write(b"x" * ballast)
        self.session = iscsi.login(self.server.portals[0], self.server.iqn())
        self.session.settle()
        self.acked = {}
        self.seed = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.session.close()
        if kind is None:
            self.server.stop()
        else:
            self.server.kill()
        self.server.cleanup()

    def ballast(self):
        return os.path.join(self.small, "ballast")

    def fresh(self, chunk):
        self.seed += 1
        return iscsi.pattern(CHUNK, (chunk << 12) + self.seed)

    def write(self, chunk):
        """true: acknowledged. false: there is no space."""
        data = self.fresh(chunk)
        r = self.session.command(cdb16(0x8A, chunk * BLOCKS, BLOCKS), write=data)
        if no_space(r):
            self.acked.pop(chunk, None)
            return False
        self.session.good(r)
        self.acked[chunk] = data
        return True

    def fill(self, chunk=0):
        """Writes one chunk after another until there is no space: the first that had none."""
        while self.write(chunk):
            chunk += 1
            assert chunk < SIZE // CHUNK, "it never became full"
        return chunk

    def unmap(self, chunk, count):
        cdb, data = unmap(chunk * BLOCKS, count * BLOCKS)
        self.session.good(self.session.command(cdb, write=data))
        for c in range(chunk, chunk + count):
            self.acked[c] = bytes(CHUNK)

    def check(self):
        """All that was acknowledged is there, by the server and below it."""
        self.session.good(self.session.command(SYNCHRONIZE_CACHE))
        with open(os.path.join(self.small, "disk.img"), "rb") as below:
            for chunk, data in self.acked.items():
                got = self.session.read(chunk * BLOCKS, BLOCKS)
                assert got == data, f"chunk {chunk} is not what was acknowledged"
                below.seek(chunk * CHUNK)
                assert below.read(CHUNK) == data, f"chunk {chunk} is not in the file"


def test_a_full_disk_says_so_and_goes_on():
    with Disk() as disk:
        full = disk.fill()
        assert full * CHUNK > SPACE // 2, f"full after {full} chunks"
        disk.check()
        # It stays so, and what needs no space works.
        assert not disk.write(full) and not disk.write(full + 10)
        assert disk.write(0) and disk.write(full - 1)
        assert disk.session.read((full + 20) * BLOCKS, BLOCKS) == bytes(CHUNK)
        disk.check()


def test_every_command_that_writes_says_so():
    with Disk() as disk:
        full = disk.fill()
        lba = (full + 5) * BLOCKS
        data = disk.fresh(full)
        zeros = bytes(4096)
        for name, cdb, out in (
                ("WRITE(10)", iscsi.write10(lba, BLOCKS), data),
                ("WRITE(10) FUA", iscsi.write10(lba, BLOCKS, fua=True), data),
                ("WRITE SAME(16)", cdb16(0x93, lba, 4 * BLOCKS), data[:BLOCK]),
                ("WRITE SAME(16) of zeros", cdb16(0x93, lba, 4 * BLOCKS), bytes(BLOCK)),
                ("WRITE SAME(16) NDOB", cdb16(0x93, lba, 4 * BLOCKS, 0x01), b""),
                ("COMPARE AND WRITE", compare_and_write(lba, 8), zeros + data[:4096]),
                ("WRITE AND VERIFY(16)", cdb16(0x8E, lba, BLOCKS), data),
                ("ORWRITE(16)", cdb16(0x8B, lba, BLOCKS), data)):
            r = disk.session.command(cdb, write=out)
            assert no_space(r), f"{name}: {r!r}"
        # To give space back needs none.
        r = disk.session.command(cdb16(0x93, lba, 4 * BLOCKS, 0x08), write=bytes(BLOCK))
        disk.session.good(r)
        disk.check()


def test_the_host_makes_room():
    with Disk() as disk:
        full = disk.fill()
        disk.unmap(0, 8)
        assert disk.write(full) and disk.write(full + 1)
        disk.fill(full + 2)
        disk.check()


def test_somebody_else_makes_room():
    with Disk(ballast=4 * MIB) as disk:
        full = disk.fill()
        for chunk in range(full, full + 3):
            assert not disk.write(chunk)
        os.unlink(disk.ballast())
        for chunk in range(full, full + 32):
            assert disk.write(chunk), "there is space again"
        disk.check()


def test_many_writes_meet_the_end_together():
    """Some of a burst are acknowledged and some refused; each tells the truth."""
    with Disk() as disk:
        session, chunk, refused = disk.session, 0, 0
        while not refused:
            burst = {c: disk.fresh(c) for c in range(chunk, chunk + 16)}
            tasks = {c: session.start(cdb16(0x8A, c * BLOCKS, BLOCKS), 0, data)
                     for c, data in burst.items()}
            for c, data in burst.items():
                r = session.finish(tasks[c], 0, data)
                if no_space(r):
                    refused += 1
                else:
                    session.good(r)
                    disk.acked[c] = data
            chunk += 16
        disk.check()


def test_a_store_with_a_home_loop():
    with Disk(store="fault::small/disk.img") as disk:
        full = disk.fill()
        disk.unmap(0, 8)
        assert disk.write(full)
        disk.check()


main(globals())
