#!/usr/bin/env python3
"""Task management requests: answered, and with "not supported" until they do something
(RFC 7143 11.5, 11.6)."""

import pdu as P
from common import case, main
from iscsi import login

FUNCTIONS = {1: "abort task", 2: "abort task set", 3: "clear ACA", 4: "clear task set",
             5: "LUN reset", 6: "target warm reset", 7: "target cold reset", 8: "task reassign"}
NOT_SUPPORTED = 5


@case
def each_function(server):
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        for function in FUNCTIONS:
            p = s.request(P.TMF_REQUEST, immediate=True, flags=P.FINAL | function, rtt=P.NONE,
                          refcmdsn=s.cmdsn)
            s.send(p)
            s.expect(P.TMF_RESPONSE, itt=p.itt, response=NOT_SUPPORTED)
        s.ping()
        s.settle()


@case
def not_immediate(server):
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        p = s.request(P.TMF_REQUEST, flags=P.FINAL | 5)
        s.send(p)
        s.expect(P.TMF_RESPONSE, itt=p.itt, response=NOT_SUPPORTED)
        s.settle()


@case
def unknown_function(server):
    with login(server.portals[0], server.iqn()) as s:
        s.settle()
        for function in (0, 9, 0x7F):
            p = s.request(P.TMF_REQUEST, immediate=True, flags=P.FINAL | function)
            s.send(p)
            a = s.recv()
            assert a.opcode == P.REJECT or (a.opcode == P.TMF_RESPONSE and a.response != 0), a
        s.settle()


if __name__ == "__main__":
    main()
