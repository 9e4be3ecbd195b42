"""
What a virtual machine is made of: a kernel and an initiator of Debian's, fetched as packages and unpacked into
a folder (nothing is installed), tools of this machine with their libraries, and an initramfs of all that.

The folder is SPINDLE_VM_CACHE; what is complete there is used again without asking apt.
"""

import os
import platform
import re
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

from spindle import need_tool, skip  # noqa: E402

# The cloud kernel: its virtio, iSCSI and ext4 are all that most need, at a third of the size.
CLOUD_KERNEL, WHOLE_KERNEL = "linux-image-cloud-amd64", "linux-image-amd64"
PACKAGES = ("busybox-static", "open-iscsi", "libopeniscsiusr", "libkmod2")
LIMIT_S = 420  # far more than it takes on a machine of its own
LIBRARIES = "usr/lib/x86_64-linux-gnu"
MODULES = ("virtio_pci", "virtio_net", "sd_mod", "iscsi_tcp", "crc32c-intel")
HOST_TOOLS = ("blkdiscard", "dd", "e2fsck", "fstrim", "mke2fs",
              "sg_compare_and_write", "sg_format", "sg_get_lba_status", "sg_ident", "sg_inq", "sg_logs", "sg_luns",
              "sg_modes", "sg_opcodes", "sg_read_buffer", "sg_readcap", "sg_reassign", "sg_requests", "sg_sanitize",
              "sg_senddiag", "sg_sync", "sg_timestamp", "sg_turs", "sg_unmap", "sg_verify", "sg_vpd",
              "sg_write_same")


def fetched(kernel_name=CLOUD_KERNEL):
    """The folder with the unpacked packages; a test that cannot have them is skipped."""
    if platform.machine() != "x86_64":
        skip("the virtual machine is an x86_64 one, with tools of its host")
    cache = os.environ.get("SPINDLE_VM_CACHE") or skip("SPINDLE_VM_CACHE does not name a folder")
    root = os.path.join(cache, kernel_name)
    if not os.path.isdir(root):
        for name in ("apt-cache", "apt-get", "dpkg-deb"):
            need_tool(name)
        os.makedirs(cache, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as work:
            fetch(work, kernel_name)
            # Whole or not at all, whoever else fetches at the same time.
            try:
                os.rename(os.path.join(work, "root"), root)
            except OSError:
                if not os.path.isdir(root):
                    raise
    return root


def fetch(work, kernel_name):
    depends = subprocess.run(["apt-cache", "depends", "--important", kernel_name], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    image = re.search(r"Depends: (linux-image-\S+)", depends)
    if image is None:
        skip(f"apt does not know {kernel_name} (apt-get update)")
    try:
        got = subprocess.run(["apt-get", "-qq", "download", image[1], *PACKAGES], cwd=work, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        skip("apt-get does not get its packages in time")
    debs = [name for name in os.listdir(work) if name.endswith(".deb")]
    if got.returncode != 0 or len(debs) != len(PACKAGES) + 1:
        skip(f"apt-get cannot download {image[1]} {' '.join(PACKAGES)}:\n{got.stdout}")
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", deb, "root"], cwd=work, check=True)


def kernel(root):
    boot = os.path.join(root, "boot")
    names = [name for name in os.listdir(boot) if name.startswith("vmlinuz-")]
    assert len(names) == 1, names
    return os.path.join(boot, names[0])


def modules(root, wanted):
    """Paths of the modules, each after those it depends on; the package has no modules.dep."""
    found = {}
    for folder, _, names in os.walk(os.path.join(root, "lib", "modules")):
        for name in names:
            if name.endswith(".ko"):
                found[name[:-3].replace("-", "_")] = os.path.join(folder, name)
    order = []

    def add(name):
        path = found.get(name.replace("-", "_"))
        assert path, f"the kernel has no module {name}"
        if path in order:
            return
        with open(path, "rb") as f:
            depends = re.search(rb"\0depends=([^\0]*)\0", f.read())
        for other in depends[1].decode().split(",") if depends and depends[1] else []:
            add(other)
        order.append(path)

    for name in wanted:
        add(name)
    return order


def libraries(program, root):
    """(path in the guest, path here) of what the loader wants for a program."""
    env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": os.path.join(root, LIBRARIES)}
    text = subprocess.run(["ldd", program], env=env, text=True, stdout=subprocess.PIPE,
                          check=True).stdout
    wanted = {}
    for line in text.splitlines():
        m = re.match(r"\s*(?:(\S+) => )?(/\S+|not found)", line)
        if m is None:
            continue
        if m[2] == "not found":
            skip(f"{os.path.basename(program)} needs {m[1]}, which is not installed")
        # The loader by the path that programs name; the rest where it looks first.
        wanted[m[2] if m[1] is None else "/lib/" + m[1]] = m[2]
    return wanted


class Guest:
    """What the machine reported, by case."""

    def __init__(self, console):
        self.results, self.facts, self.kernel, self.problems = {}, {}, {}, []
        self.tools, self.said = {}, {}
        self.ended = False
        for line in console.splitlines():
            m = re.match(r"vm: (\w+) ?(\S*) ?(.*)", line.rstrip())
            if m:
                self.take(*m.groups())

    def take(self, what, name, rest):
        if what == "result":
            self.results[name] = int(rest)
        elif what == "fact":
            key, _, value = rest.partition(" ")
            self.facts.setdefault(name, {})[key] = value.strip()
        elif what == "kernel":
            self.kernel.setdefault(name, []).append(rest)
        elif what == "sg":
            self.tools.setdefault(name, []).append(rest)
        elif what == "said":
            self.said.setdefault(name, []).append(rest)
        elif what == "problem":
            self.problems.append(rest)
        elif what == "end":
            self.ended = True


class Initramfs:
    """A tree in the cpio format that the kernel unpacks ("newc", initramfs/buffer-format.rst)."""

    def __init__(self):
        self.entries = {}

    def add(self, path, data=b"", mode=stat.S_IFREG | 0o644):
        parts = path.strip("/").split("/")
        for n in range(1, len(parts)):
            self.entries.setdefault("/".join(parts[:n]), (stat.S_IFDIR | 0o755, b""))
        self.entries["/".join(parts)] = (mode, data)

    def copy(self, path, source):
        with open(source, "rb") as f:
            self.add(path, f.read(), stat.S_IFREG | 0o755)

    def folder(self, path):
        self.add(path, mode=stat.S_IFDIR | 0o755)

    def write(self, path):
        with open(path, "wb") as f:
            rows = [*self.entries.items(), ("TRAILER!!!", (0, b""))]
            for inode, (name, (mode, data)) in enumerate(rows, 1):
                name = name.encode() + b"\0"
                fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
                for piece in (b"070701" + b"".join(b"%08X" % x for x in fields) + name, data):
                    f.write(piece + bytes(-len(piece) % 4))


def initramfs(root, init="linux.sh", wanted_modules=MODULES, tools=HOST_TOOLS):
    """With the programs and modules in it; the caller adds its files and writes it."""
    tree = Initramfs()
    for name in ("dev", "mnt", "proc", "run", "sys", "tmp", "var/run", "etc/iscsi"):
        tree.folder(name)
    tree.copy("init", os.path.join(HERE, init))
    tree.copy("start", os.path.join(HERE, "start.sh"))
    tree.copy("bin/busybox", os.path.join(root, "bin/busybox"))
    programs = {"iscsistart": os.path.join(root, "sbin/iscsistart")}
    programs.update({name: need_tool(name) for name in tools})
    for name, path in programs.items():
        tree.copy("sbin/" + name, path)
        for there, here in libraries(path, root).items():
            tree.copy(there, here)
    paths = modules(root, wanted_modules)
    for path in paths:
        tree.copy("modules/" + os.path.basename(path), path)
    tree.add("modules/order", "".join(os.path.basename(p) + "\n" for p in paths).encode())
    return tree


def attend(process, console, act):
    """While the machine runs: each thing that it asks its host for, once. act(word, name)."""
    end, done = time.monotonic() + LIMIT_S, set()
    while process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)
        if not os.path.exists(console):
            continue
        with open(console, encoding="utf-8", errors="replace") as f:
            asked = re.findall(r"^vm: (grow|unplug|plug) ?(\S*)\s*$", f.read(), re.MULTILINE)
        for word, name in asked:
            if (word, name) not in done:
                act(word, name)
        done |= set(asked)


def run(root, tree, directory, network, act):
    """Runs the machine to its end; what it wrote on its console."""
    initrd, console = os.path.join(directory, "initrd"), os.path.join(directory, "console")
    tree.write(initrd)
    qemu = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
            # Software emulation: a minute for all of it, and the same on every machine.
            "-accel", os.environ.get("SPINDLE_VM_ACCEL", "tcg"), "-m", "512", "-smp", "1", "-cpu", "max",
            "-kernel", kernel(root), "-initrd", initrd,
            "-append", "console=ttyS0 quiet panic=-1", "-serial", f"file:{console}", *network]
    with subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:
        try:
            attend(process, console, act)
            said, _ = process.communicate()
        except TimeoutError:
            said = f"not at its end within {LIMIT_S} s"
        finally:
            process.kill()
    with open(console, encoding="utf-8", errors="replace") as f:
        text = f.read()
    print(text.replace("\r", ""), flush=True)
    assert process.returncode == 0, f"qemu: {said}"
    return text
