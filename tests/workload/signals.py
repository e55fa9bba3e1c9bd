#!/usr/bin/python3
"""A known number of signals, by each system call that can send one.

USAGE: signals.py                    what examples/demo shows: see scene()
       signals.py CALL SIG COUNT     COUNT times CALL with SIG to itself
       signals.py numbered COUNT     COUNT times act(), numbered from 0
       signals.py pair               see pair()

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
import threading

libc = ctypes.CDLL(None, use_errno=True)

# From asm/unistd.h: x86-64's own table, and the one all newer ports share.
NUMBERS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "timer_create": (222, 107), "timer_settime": (223, 110),
}
PIDFD_THREAD = os.O_EXCL        # Linux 6.9
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


def pidfd_open(target, flags=0):
    """Return a pidfd (Linux 5.3), or the error as a negative number."""
    return syscall("pidfd_open", target, flags)


def pidfd_send_signal(target, sig, flags=0, open_flags=0):
    fd = pidfd_open(target, open_flags)
    if fd < 0:
        return fd
    result = syscall("pidfd_send_signal", fd, sig, None, flags)
    os.close(fd)
    return result


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


def act(number=0):
    """Do a kill(2) that bears a number, to 2^30: no such process group."""
    kill(-2**30 - number, 0)


def number(row):
    """Return the number of an act() from killsnoop's row, or None."""
    return None if row["TPID"] == "-" else -2**30 - int(row["TPID"])


def guard(group=None):
    """Ignore some signals and block others, also after exec(). Enter a
    process group, 0 for a new one."""
    if group is not None:
        os.setpgid(0, group)
    for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1,
                signal.SIGTERM):
        signal.signal(sig, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK,
                           [signal.SIGUSR2, signal.SIGRTMAX])


def start_target(group=None):
    """Start "sleep 60" behind guard(). Return its Popen; the caller ends it.
    """
    return subprocess.Popen(["sleep", "60"], preexec_fn=lambda: guard(group))


def no_process():
    """A PID that no process has: one above the highest that can be given."""
    with open("/proc/sys/kernel/pid_max") as f:
        return int(f.read()) + 1


def scene():
    """Send 23 signals: to one process three by each of the six calls, and five
    that are odd, fail or end it. Then start a process that faults."""
    target = start_target()
    try:
        for call in list(CALLS.values())[:6]:
            for sig in (0, signal.SIGUSR1, signal.SIGHUP):
                call(target.pid, sig)
        kill(-os.getpgrp(), 0)
        kill(no_process(), signal.SIGTERM)
        kill(target.pid, signal.NSIG)
        kill(target.pid, signal.SIGTERM)
    finally:
        kill(target.pid, signal.SIGKILL)
        target.wait()
    subprocess.call([sys.executable, "-c", "import ctypes, resource; "
                     "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
                     "ctypes.string_at(0)"])


def burst(call, sig, count):
    """Start a process that sends itself count signals; returns its Popen."""
    return subprocess.Popen([sys.executable, __file__, call, str(int(sig)),
                             str(count)])


def pair():
    """Fork a victim of two threads. With each call send 0 and an ignored
    SIGUSR1 to the victim, this process, and the victim's second thread. Wait
    for a line on stdin before and after. Print the three IDs."""
    reader, writer = os.pipe()
    guard()
    victim = os.fork()
    if victim == 0:
        thread = threading.Thread(target=signal.pause, name="victim",
                                  daemon=True)
        thread.start()
        os.write(writer, b"%d" % thread.native_id)
        while True:
            signal.pause()
    thread = int(os.read(reader, 10))
    print(os.getpid(), victim, thread, flush=True)
    sys.stdin.readline()
    for sig in 0, signal.SIGUSR1:
        for target in victim, os.getpid():
            for call in list(CALLS.values())[:6]:
                call(target, sig)
        tkill(thread, sig)
        syscall("tgkill", victim, thread, sig)
        syscall("rt_tgsigqueueinfo", victim, thread, sig, siginfo(sig))
        pidfd_send_signal(thread, sig, open_flags=PIDFD_THREAD)
    print("done", flush=True)
    sys.stdin.readline()
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)


def main():
    if len(sys.argv) == 4:
        name, sig, count = sys.argv[1:]
        for _ in range(int(count)):
            CALLS[name](os.getpid(), int(sig))
    elif sys.argv[1:2] == ["numbered"] and len(sys.argv) == 3:
        for i in range(int(sys.argv[2])):
            act(i)
    elif sys.argv[1:] == ["pair"]:
        pair()
    elif len(sys.argv) == 1:
        scene()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
