"""
Interfaces of other kinds than the test's machine may have: VLANs, macvlans, and a network card that has a driver
of its own for AF_XDP (virtio). Debian's kernel runs tests of tests/system with the host's own files.
"""

import os
import sys
import tempfile

import parts

sys.path.insert(0, os.path.join(os.path.dirname(parts.HERE), "system"))

from harness import binary, main, need_tool  # noqa: E402

for tool_name in ("qemu-system-x86_64", "ldd"):
    need_tool(tool_name)
ROOT = parts.fetched(parts.WHOLE_KERNEL)  # while there is a network

SYSTEM = os.path.join(os.path.dirname(parts.HERE), "system")
MODULES = ("virtio_pci", "virtio_net", "9p", "9pnet_virtio", "veth", "bridge", "8021q", "macvlan", "sch_tbf")
CARD = "aoe_xdp.py"  # by the card; the others by interfaces of their own
TESTS = (CARD, "aoe_links.py test_vlans test_frames_of_a_vlan test_an_interface_that_has_others")


def boot(directory):
    tree = parts.initramfs(ROOT, "networks.sh", MODULES, ())
    tree.add("tests", "".join(f"{n} python3 {SYSTEM}/{test}\n" for n, test in enumerate(TESTS)).encode())
    environment = {"SPINDLE": binary(), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
                   "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    tree.add("parameters", "".join(f"export {name}={value}\n" for name, value in environment.items()).encode())
    devices = ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
    for n in range(2):
        devices += ["-netdev", f"hubport,id=port{n},hubid=0",
                    "-device", f"virtio-net-pci,netdev=port{n},romfile=,mac=52:54:00:00:00:0{n}"]
    return parts.run(ROOT, tree, directory, devices, lambda *_: None)


def test_networks():
    with tempfile.TemporaryDirectory(prefix="spindle-vm-") as directory:
        guest = parts.Guest(boot(directory))
    assert guest.ended, "not at its end"
    for n, test in enumerate(TESTS):
        said = guest.said.get(str(n), [])
        assert any(line.startswith("ok ") for line in said), f"{test}: {said}"
        assert test != CARD or "by its own driver" in said, said
        bad = [line for line in said if line.startswith(("FAIL", "not tried", "skip"))]
        assert not bad, f"{test}: {bad}"


main(globals())
