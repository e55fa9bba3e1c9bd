#!/usr/bin/python3
"""A known number of signals, by each system call that can send one.

USAGE: signals.py                    the 23 signals that examples/demo shows
       signals.py CALL SIG COUNT     COUNT times CALL with SIG to itself
       signals.py numbered COUNT     COUNT times kill() with 0 to the process
                                     groups -2^30, -2^30 - 1, ..., of nobody

CALL is kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo,
pidfd_send_signal or ia32_kill.
"""

import ctypes
import mmap
import os
import platform
import signal
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)

# From asm/unistd.h: x86-64's own table, and the one all newer ports share.
NUMBERS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
}
SI_QUEUE = -1


def syscall(name, *args):
    """Call NAME with integer or ctypes arguments past any wrapper of the C
    library. Returns its result, or the error as a negative number."""
    number = NUMBERS[name][platform.machine() != "x86_64"]
    result = libc.syscall(number, *args)
    return -ctypes.get_errno() if result < 0 else result


def siginfo(sig):
    """A siginfo_t as sigqueue(3) fills it: si_signo, si_errno, si_code, and
    128 bytes in all (asm-generic/siginfo.h)."""
    return (ctypes.c_int * 32)(sig, 0, SI_QUEUE)


def kill(target, sig):
    return syscall("kill", target, sig)


def tkill(target, sig):
    return syscall("tkill", target, sig)


def tgkill(target, sig):
    return syscall("tgkill", target, target, sig)


def rt_sigqueueinfo(target, sig):
    return syscall("rt_sigqueueinfo", target, sig, siginfo(sig))


def rt_tgsigqueueinfo(target, sig):
    return syscall("rt_tgsigqueueinfo", target, target, sig, siginfo(sig))


def pidfd_open(target):
    """A descriptor for a process (Linux 5.3), or the error, negative."""
    return syscall("pidfd_open", target, 0)


def pidfd_send_signal(target, sig, fds={}):
    """By a descriptor that stays open, for whoever looks at it."""
    if target not in fds:
        fds[target] = pidfd_open(target)
    return syscall("pidfd_send_signal", fds[target], sig, None, 0)


def call_ia32(number, *args):
    """A system call by x86's 32-bit entry, int $0x80, from this 64-bit
    process: NUMBER (arch/x86/entry/syscalls/syscall_32.tbl) in eax, up to
    five 32-bit ARGS in ebx, ecx, edx, esi, edi. Returns its result, an error
    as a negative number."""
    code = bytes.fromhex("53" "89fb"        # push %rbx; mov %edi,%ebx
                         "87f1" "4489c7"    # xchg %esi,%ecx; mov %r8d,%edi
                         "4489c8" "cd80"    # mov %r9d,%eax; int $0x80
                         "5b" "c3")         # pop %rbx; ret
    rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, mmap.PAGESIZE, prot=rwx) as page:
        page.write(code)
        start = ctypes.c_char.from_buffer(page)
        function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint32] * 6)
        words = [arg & 0xffffffff for arg in args] + [0] * (5 - len(args))
        result = function(ctypes.addressof(start))(*words, number)
        del start   # or the page can't be unmapped
    return result


def ia32_kill(target, sig):
    return call_ia32(37, target, sig)


CALLS = {f.__name__: f for f in (
    kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo,
    pidfd_send_signal, ia32_kill)}


def start_target():
    """A new process that ignores what a process can ignore. Returns its Popen
    once it does so; the caller ends it."""
    target = subprocess.Popen(
        ["sh", "-c", "trap '' HUP INT QUIT USR1 USR2 TERM; exec sleep 60"])
    while True:
        with open("/proc/%d/comm" % target.pid) as f:
            if f.read() == "sleep\n":
                return target
        time.sleep(0.001)


def no_process():
    """A PID that no process has: one above the highest that can be given."""
    with open("/proc/sys/kernel/pid_max") as f:
        return int(f.read()) + 1


def scene():
    """23 signals: to one process three by each of the six calls, and five
    that are odd, fail or end it."""
    target = start_target()
    try:
        for call in list(CALLS.values())[:6]:
            for sig in (0, signal.SIGUSR1, signal.SIGHUP):
                call(target.pid, sig)
        time.sleep(0.2)     # for whoever looks at the descriptor
        kill(-os.getpgrp(), 0)
        kill(no_process(), signal.SIGTERM)
        kill(target.pid, signal.NSIG)
        kill(target.pid, signal.SIGTERM)
    finally:
        kill(target.pid, signal.SIGKILL)
        target.wait()


def burst(call, sig, count):
    """Start a process that sends itself count signals; returns its Popen."""
    return subprocess.Popen([sys.executable, __file__, call, str(int(sig)),
                             str(count)])


def main():
    if len(sys.argv) == 4:
        name, sig, count = sys.argv[1:]
        for _ in range(int(count)):
            CALLS[name](os.getpid(), int(sig))
    elif sys.argv[1:2] == ["numbered"] and len(sys.argv) == 3:
        for i in range(int(sys.argv[2])):
            kill(-2**30 - i, 0)
    elif len(sys.argv) == 1:
        scene()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
