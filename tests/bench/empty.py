#!/usr/bin/python3
"""Attaches a pair of programs that do nothing to a system call's tracepoints:
what there is below any tool that uses them.

USAGE: empty.py SYSCALL
"""

import signal
import sys

from bcc import BPF

BPF(text="""
TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s)
{
    return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{
    return 0;
}
""" % {"name": sys.argv[1]})
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print("Attached.", flush=True)
signal.pause()
