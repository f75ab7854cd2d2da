# SPDX-License-Identifier: MIT
"""strict.py FAMILY,... PROGRAM [ARGUMENT]...: runs it so that what the unit refuses quietly kills it.

SystemCallErrorNumber=kill does that for SystemCallFilter=. The lines of a unit that look into a
call's arguments have an error of their own, which a library may take and say nothing. A filter of
the same sense in front of them: where two differ, the kernel takes the worse.

Their part that cannot be judged so: RestrictNamespaces= has clone3(2), whose flags are out of a
filter's sight, be unknown; the C library then uses clone(2).
"""

import ctypes
import os
import platform
import socket
import struct
import sys

LOAD, JUMP, JUMP_SET, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, KILL_PROCESS = 0x7fff0000, 0x80000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

NUMBERS = {
    "x86_64": {"socket": 41, "mmap": 9, "mprotect": 10, "clone": 56, "personality": 135,
               "chmod": 90, "fchmod": 91, "fchmodat": 268},
    "aarch64": {"socket": 198, "mmap": 222, "mprotect": 226, "clone": 220, "personality": 92,
                "fchmod": 52, "fchmodat": 53},
}

WRITE_EXEC = 2 | 4
EXEC = 4
NEW_NAMESPACES = 0x7e020000
SET_IDS = 0o6000

# What kills: call, argument, and all, any of these bits.
BITS = [("mmap", 2, WRITE_EXEC, WRITE_EXEC), ("mprotect", 2, EXEC, EXEC),
        ("clone", 0, NEW_NAMESPACES, None), ("chmod", 1, SET_IDS, None),
        ("fchmod", 1, SET_IDS, None), ("fchmodat", 2, SET_IDS, None)]


def argument(n):
    return LOAD, 0, 0, 16 + 8 * n  # its low half; struct seccomp_data


def rule(number, checks):
    """Skips `checks` unless it is this call; the call's number is loaded."""
    return [(JUMP, 0, len(checks), number), *checks]


def allowed_values(n, values):
    """Kills unless the argument is one of these."""
    tests = [(JUMP, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [argument(n), *tests, (RETURN, 0, 0, KILL_PROCESS), (RETURN, 0, 0, ALLOW)]


def program(families, numbers):
    code = [(LOAD, 0, 0, 0)]
    code += rule(numbers["socket"], allowed_values(0, families))
    code += rule(numbers["personality"], allowed_values(0, [0xffffffff]))  # asks only
    for name, n, mask, value in BITS:
        if name not in numbers:
            continue
        if value is None:
            checks = [argument(n), (JUMP_SET, 0, 1, mask)]
        else:
            checks = [argument(n), (AND, 0, 0, mask), (JUMP, 0, 1, value)]
        checks += [(RETURN, 0, 0, KILL_PROCESS), (RETURN, 0, 0, ALLOW)]
        code += rule(numbers[name], checks)
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code), len(code)


def main():
    families = [getattr(socket, name) for name in sys.argv[1].split(",")]
    code, length = program(families, NUMBERS[platform.machine()])
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog
    header = struct.pack("HxxxxxxP", length, ctypes.addressof(buffer))
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)):
        if libc.prctl(*arguments) != 0:
            sys.exit(f"prctl({arguments[0]}): {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[2], sys.argv[2:])


main()
