"""Debian's clients see the disk: iscsi-ls, iscsi-inq, iscsi-readcapacity16."""

import re

from harness import MIB, Spindle, main, need_tool, tool

for name in ("iscsi-ls", "iscsi-inq", "iscsi-readcapacity16"):
    need_tool(name)


def field(text, name):
    found = re.search(rf"^\s*{re.escape(name)}\s*[:=]\s*(.*?)\s*$", text, re.MULTILINE)
    assert found, f"no {name} in\n{text}"
    return found.group(1)


def test_ls():
    with Spindle("ram:1G", "null:2T", args=["--ro"]) as s:
        text = tool("iscsi-ls", "-s", f"iscsi://{s.portal_text()}")
        for disk in s.disks:
            assert disk["iqn"] in text, text
        # It takes the last block's number for the number of blocks, and rounds down.
        assert re.search(r"Lun:0 +Type:DIRECT_ACCESS \(Size:102[34]M\)", text), text
        assert re.search(r"Lun:0 +Type:DIRECT_ACCESS \(Size:[12]T\)", text), text


def test_inquiry():
    with Spindle("ram:1M") as s:
        text = tool("iscsi-inq", s.url())
        assert field(text, "Vendor") == "SPINDLE", text
        assert field(text, "Product") == "VIRTUAL-DISK", text
        assert "DIRECT_ACCESS" in field(text, "Peripheral Device Type"), text
        pages = tool("iscsi-inq", "-e", "1", "-c", "0", s.url())
        for code in ("0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"):
            assert code in pages.lower(), pages
        serial = tool("iscsi-inq", "-e", "1", "-c", "128", s.url())
        assert len(field(serial, "Unit Serial Number").strip("[]")) >= 8, serial


def test_capacity():
    for size, blocks, block in (("1M", MIB // 512, 512), ("3T", (3 << 40) // 4096, 4096)):
        kind = "ram" if size == "1M" else "null"
        with Spindle(f"{kind}:{size}", args=["--block-size", block]) as s:
            text = tool("iscsi-readcapacity16", s.url())
            assert int(field(text, "RETURNED LOGICAL BLOCK ADDRESS")) == blocks - 1, text
            assert int(field(text, "LOGICAL BLOCK LENGTH IN BYTES")) == block, text


def test_no_such_target():
    with Spindle("ram:1M") as s:
        text = tool("iscsi-inq", s.url().replace(s.iqn(), "iqn.2026-11.nowhere:x"), code=10)
        assert "Target not found" in text or "failed" in text.lower(), text


main(globals())
