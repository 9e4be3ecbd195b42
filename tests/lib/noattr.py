"""
Runs a program to which no file keeps attributes, as on a file system without any:

    python3 noattr.py PROGRAM ARGS...

A seccomp filter answers fgetxattr and fsetxattr with EOPNOTSUPP. It needs no privilege and no mount, and the
program, its children, and its process id are what they would be otherwise.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCH_AT = 0, 4
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

# machine: its number in seccomp_data, fsetxattr, fgetxattr
MACHINES = {
    "x86_64": (0xC000003E, 190, 193),
    "aarch64": (0xC00000B7, 7, 10),
}


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)


def forbid():
    arch, fsetxattr, fgetxattr = MACHINES[os.uname().machine]
    code = b"".join([
        instruction(LD_WORD, ARCH_AT),
        instruction(JUMP_IF_EQUAL, arch, if_false=3),
        instruction(LD_WORD, NUMBER_AT),
        instruction(JUMP_IF_EQUAL, fsetxattr, if_true=2),
        instruction(JUMP_IF_EQUAL, fgetxattr, if_true=1),
        instruction(RETURN, ALLOW),
        instruction(RETURN, ERRNO | errno.EOPNOTSUPP),
    ])
    program = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or \
       libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
