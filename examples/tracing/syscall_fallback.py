#!/usr/bin/python3
#
# syscall_fallback.py  Trace one system call by fentry, else by its tracepoint,
#                      else by a kprobe: the first that the kernel takes.
#                      For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: syscall_fallback.py      as root; then try kill(1) in another shell
#
# Three ways to see kill(2), the best first. fentry is a direct call from the
# function itself. A tracepoint's arguments keep their names and types from
# kernel to kernel, but while one system call's is in use, all system calls of
# all processes take a slower path. A kprobe works on old kernels too.
#
# Which one? A kernel can list the function, have type information for it, and
# refuse the program all the same, so that a table's yes proves nothing: try.
#
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import os
import signal
import subprocess
import sys
import tempfile

try:
    from bcc import BPF
except (ImportError, OSError):
    sys.exit("needs BCC's Python module: install python3-bpfcc (Debian, "
             "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)")
if os.geteuid() != 0:
    sys.exit("needs root, try: sudo " + sys.argv[0])

# Ctrl-C ends it at once. As an exception it could be lost in print_event().
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)   # and so does | head

# Without headers nothing compiles, and no way would be better than another.
trial = subprocess.run([sys.executable, "-c", "import bcc; bcc.BPF(text='')"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
if b"kernel headers" in trial.stdout:
    sys.exit("BCC needs kernel headers: install linux-headers-%s (Debian, "
             "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or set "
             "BCC_KERNEL_SOURCE" % os.uname().release)

# What the ways share takes the arguments as plain numbers. Only the few lines
# of C that each way adds know where they come from.
common = """
#include <uapi/linux/ptrace.h>

struct event {
    u32 pid;
    s32 target;
    s32 sig;
};
BPF_PERF_OUTPUT(events);    /* not a ring buffer: old kernels have none */

static __always_inline int submit(void *ctx, s32 target, s32 sig)
{
    struct event event = {bpf_get_current_pid_tgid() >> 32, target, sig};

    /* If this fails, the perf buffer counts the loss: see lost_cb below. */
    events.perf_submit(ctx, &event, sizeof(event));
    return 0;
}
"""

ways = {}

# FUNCTION is the kernel's wrapper around the system call. What it is given is
# the caller's registers, which the program may read as they are.
ways["fentry"] = common + """
KFUNC_PROBE(FUNCTION, struct pt_regs *regs)
{
    return submit(ctx, PT_REGS_PARM1(regs), PT_REGS_PARM2(regs));
}
"""

# BCC makes args of what tracefs says about the tracepoint.
ways["tracepoint"] = common + """
TRACEPOINT_PROBE(syscalls, sys_enter_kill)
{
    return submit(args, args->pid, args->sig);
}
"""

# Because of syscall__ in its name, BCC reads the arguments from the caller's
# registers, where the kernel has such a wrapper, and from its own elsewhere.
ways["kprobe"] = common + """
int syscall__kill(struct pt_regs *ctx, int target, int sig)
{
    return submit(ctx, target, sig);
}
"""

# The wrapper's name differs by architecture: __x64_sys_kill, for one.
function = BPF(text="", cflags=["-w"]).get_syscall_fnname(b"kill").decode()


def attach(way, text):
    """Returns a BPF object that traces. Raises an exception."""
    # A table's no is proof enough, and clearer than the compiler's words.
    if way == "tracepoint" and not BPF.tracepoint_exists("syscalls",
                                                         "sys_enter_kill"):
        raise Exception("not in tracefs, or that is not mounted")
    # Programs that macros define are loaded and attached by this. Without -w,
    # BCC 0.18 warns of the kernel's headers.
    bpf = BPF(text=text.replace("FUNCTION", function), cflags=["-w"])
    if way == "kprobe":     # while this one is a plain function
        bpf.attach_kprobe(event=function, fn_name="syscall__kill")
    return bpf


def choose():
    """The first way that works: its name and the BPF object."""
    for way, text in ways.items():
        # BCC's C++ parts write to descriptor 2, past Python.
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            stderr = os.dup(2)
            os.dup2(log.fileno(), 2)
            try:
                return way, attach(way, text)
            except Exception as e:
                log.seek(0)     # the compiler's or the kernel's words, or e
                reason = next((line.strip() for line in log
                               if "error:" in line or "bpf: " in line), e)
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
        print("%-11s no: %s" % (way + ":", reason), flush=True)
    sys.exit("this kernel lets nobody trace kill(2): see above")


def print_event(cpu, data, size):
    event = b["events"].event(data)
    print("%-9d %-9d %d" % (event.pid, event.target, event.sig), flush=True)


way, b = choose()
b["events"].open_perf_buffer(print_event, lost_cb=lambda count: print(
    "lost %d events" % count, flush=True))
# From here on nothing is missed, and this may be said.
print("%-11s chosen\n\nTracing kill(2). Hit Ctrl-C to end." % (way + ":"))
print("%-9s %-9s %s" % ("PID", "TARGET", "SIGNAL"), flush=True)
while True:
    b.perf_buffer_poll()
