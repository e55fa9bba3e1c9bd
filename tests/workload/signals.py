#!/usr/bin/python3
"""A known number of signals, by each system call that can send one.

USAGE: signals.py                    what examples/demo shows: see scene()
       signals.py numbered COUNT     COUNT times act(), numbered from 0
       signals.py pair               see pair()
"""

import ctypes
import mmap
import os
import pathlib
import platform
import signal
import subprocess
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)

# From asm/unistd.h: x86-64's own table, and the one all newer ports share.
NUMBERS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "timer_create": (222, 107), "timer_settime": (223, 110),
    "madvise": (28, 233), "process_madvise": (440, 440),
}
PIDFD_THREAD = os.O_EXCL        # Linux 6.9
CALLS = list(NUMBERS)[:6]       # those that send a signal
TO_THREAD = ["tkill", "tgkill", "rt_tgsigqueueinfo", "pidfd_send_signal"]


def syscall(name, *args):
    """Call NAME past the C library. Return its result, or -errno."""
    number = NUMBERS[name][platform.machine() != "x86_64"]
    result = libc.syscall(number, *args)
    return -ctypes.get_errno() if result < 0 else result


def pidfd_open(target, flags=0):
    return syscall("pidfd_open", target, flags)


def send(call, target, sig, thread=None, flags=0):
    """Signal a process, or its thread, by one of CALLS. Return 0 or -errno."""
    if call == "pidfd_send_signal":
        fd = pidfd_open(thread or target, PIDFD_THREAD if thread else 0)
        if fd < 0:
            return fd
        result = syscall(call, fd, sig, None, flags)
        os.close(fd)
        return result
    process = [target] if "tg" in call else []
    # As sigqueue(3) has it: si_signo, si_errno, si_code SI_QUEUE.
    siginfo = [(ctypes.c_int * 32)(sig, 0, -1)] if "queue" in call else []
    return syscall(call, *process, thread or target, sig, *siginfo)


def kill(target, sig):
    return syscall("kill", target, sig)


def ia32_kill(target, sig):
    """Call kill(2) by x86's 32-bit entry, from a 64-bit process."""
    code = bytes.fromhex("53" "89fb" "89f1"     # push %rbx; ebx, ecx = args
                         "b825000000" "cd80"    # mov $37,%eax; int $0x80
                         "5b" "c3")             # pop %rbx; ret
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=7)     # to read, write, execute
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(*3 * [ctypes.c_int])(address)(target, sig)


def act(number=0):
    """Call kill(2) with a number up to 2^30: for no such process group."""
    kill(-2**30 - number, 0)


def number(row):
    """Return the number of an act() from killsnoop's row, or None."""
    return None if row["TPID"] == "-" else -2**30 - int(row["TPID"])


def guard():
    """Ignore some signals, block others. Enter a new process group."""
    os.setpgid(0, 0)
    for sig in signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM:
        signal.signal(sig, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK,
                           [signal.SIGUSR2, signal.SIGRTMAX])


def start_target():
    """Start "sleep 600" behind guard(). Return its Popen."""
    process = subprocess.Popen(["sleep", "600"], preexec_fn=guard)
    folder = pathlib.Path("/proc", str(process.pid))
    while (folder / "comm").read_text() != "sleep\n" or (
            "[heap]" not in (folder / "maps").read_text()):
        time.sleep(0.01)        # exec(2) is not over
    return process


def no_process():
    """Return a PID that no process has: one above the highest."""
    with open("/proc/sys/kernel/pid_max") as f:
        return int(f.read()) + 1


def scene():
    """Send 23 signals: to one process three by each of the six calls, and five
    that are odd, fail or end it. Then start a process that faults."""
    with start_target() as target:
        for call in CALLS:
            for sig in (0, signal.SIGUSR1, signal.SIGHUP):
                send(call, target.pid, sig)
        for pid, sig in (-os.getpgrp(), 0), (no_process(), signal.SIGTERM), (
                target.pid, signal.NSIG), (target.pid, signal.SIGTERM):
            kill(pid, sig)
        kill(target.pid, signal.SIGKILL)
    subprocess.call([sys.executable, "-c", "import ctypes, resource; "
                     "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
                     "ctypes.string_at(0)"])


def pair():
    """As PID 1 of a namespace, start PID 2, which has a thread of ID 3. Print
    their PIDs outside. On a line of stdin, send 0 and SIGUSR1 by each call to
    2, 1 and the thread. PID 2 ends with PID 1."""
    reader, writer = os.pipe()
    guard()
    if os.fork() == 0:
        threading.Thread(target=signal.pause).start()
        os.write(writer, os.readlink(b"/proc/self"))
        signal.pause()
    print(os.readlink("/proc/self"), os.read(reader, 10).decode(), flush=True)
    sys.stdin.readline()
    for sig in 0, signal.SIGUSR1:
        for target in 2, 1:
            for call in CALLS:
                send(call, target, sig)
        for call in TO_THREAD:
            send(call, 2, sig, 3)


def main():
    if len(sys.argv) == 1:
        scene()
    elif sys.argv[1] == "pair":
        pair()
    else:
        for i in range(int(sys.argv[2])):
            act(i)


if __name__ == "__main__":
    main()
