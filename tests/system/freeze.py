# SPDX-License-Identifier: MIT
"""freeze.py TID: stops that one thread, the others run on, until the thread or this program ends.

Says "stopped" when it stands. Uses ptrace: a stop signal would stop the whole process.
"""

import ctypes
import os
import sys

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000  # __WALL: threads too


def main():
    tid = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, tid, None, None) != 0:
            sys.exit(f"ptrace({request:#x}, {tid}): {os.strerror(ctypes.get_errno())}")
    # A traced thread is the tracer's to reap: until then its process does not end for others.
    while True:
        _, status = os.waitpid(tid, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            break
        print("stopped", flush=True)


main()
