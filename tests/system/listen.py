"""Where it listens: several addresses, IPv6, all addresses, the default port, free ports."""

import socket

from harness import Spindle, expect_error, main, need_tool, tool

import iscsi


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    except OSError:
        return False


def test_several_addresses():
    with Spindle("ram:1M", listen=["127.0.0.1", "127.0.0.2", "127.0.0.3:0"]) as s:
        assert [host for host, _ in s.portals] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        for portal in s.portals:
            socket.create_connection(portal, timeout=5).close()


def test_port_option_is_for_addresses_without():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with Spindle("ram:1M", listen=[f"127.0.0.2:{free}", "127.0.0.1"]) as s:
        assert s.portals[0] == ("127.0.0.2", free)
        assert s.portals[1][1] not in (0, free)


def test_discovery_names_every_portal():
    need_tool("iscsi-ls")
    with Spindle("ram:1M", listen=["127.0.0.1", "127.0.0.2"]) as s:
        text = tool("iscsi-ls", f"iscsi://{s.portal_text()}")
        assert s.iqn() in text, text
        for i in range(2):
            assert s.portal_text(i) in text, text


def test_ipv6():
    if not has_ipv6():
        print("no IPv6 here")
        return
    with Spindle("ram:1M", listen=["::1", "[::1]:0", "127.0.0.1"]) as s:
        assert [host for host, _ in s.portals] == ["::1", "::1", "127.0.0.1"]
        assert s.url().startswith("iscsi://[::1]:"), s.url()
        text = tool("iscsi-ls", f"iscsi://{s.portal_text()}")
        assert s.iqn() in text and s.portal_text() in text, text


def test_all_addresses():
    with Spindle("ram:1M", listen=[":0"]) as s:
        port = s.portals[0][1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        if has_ipv6():
            socket.create_connection(("::1", port), timeout=5).close()
        # What a client is told to connect to is an address, not a wildcard.
        assert "[::]" not in s.url() and "0.0.0.0" not in s.url(), s.url()


def test_same_address_twice():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    expect_error(4, "run", "ram:1M", "--listen", f"127.0.0.1:{free}", "--listen",
                 f"127.0.0.1:{free}", says=[str(free)])


def test_more_connections_than_the_soft_limit():
    need_tool("prlimit")
    with Spindle("ram:1M", wrap=["prlimit", "--nofile=40:4096"]) as s:
        sessions = [iscsi.login(s.portals[0], s.iqn(), isid=iscsi.ISID + i) for i in range(100)]
        for session in sessions:
            session.ping()
            session.close()


main(globals())
