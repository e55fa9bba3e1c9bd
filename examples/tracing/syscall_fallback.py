#!/usr/bin/python3
#
# syscall_fallback.py  Trace a system call by fentry, else by its tracepoint,
#                      else by a kprobe: the first probe type that attaches.
#                      For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: syscall_fallback.py      as root; then run kill(1) in another shell
#
# fentry costs least. A tracepoint has named arguments, but slows all system
# calls while it is attached. kprobes exist on old kernels too. A kernel can
# list a function, have BTF for it, and still refuse the program: only trying
# shows which probe type it accepts. For each one that it refuses, BCC prints
# the compiler's or the kernel's message on stderr.
#
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import signal
import sys

from bcc import BPF

# The probe types share this. It receives the arguments as plain numbers.
common_text = """
#include <uapi/linux/ptrace.h>

struct event {
    u32 pid;
    s32 target;
    s32 sig;
};
BPF_PERF_OUTPUT(events);    /* kernels before 5.8 have no ring buffer */

static __always_inline int submit(void *ctx, s32 target, s32 sig)
{
    struct event event = {bpf_get_current_pid_tgid() >> 32, target, sig};

    /* If the buffer is full, BCC reports the lost events on stderr. */
    events.perf_submit(ctx, &event, sizeof(event));
    return 0;
}
"""
probe_text = {"fentry": """
/* SYSCALL is the kernel's wrapper. Its argument is the caller's registers,
   which BTF describes: no bpf_probe_read() is required. */
KFUNC_PROBE(SYSCALL, struct pt_regs *regs)
{
    return submit(ctx, PT_REGS_PARM1(regs), PT_REGS_PARM2(regs));
}
""", "tracepoint": """
/* BCC declares args from the tracepoint's format file in tracefs. */
TRACEPOINT_PROBE(syscalls, sys_enter_kill)
{
    return submit(args, args->pid, args->sig);
}
""", "kprobe": """
/* Because of the prefix syscall__, BCC reads the arguments from the caller's
   registers where the kernel has such a wrapper. */
int syscall__kill(struct pt_regs *ctx, int target, int sig)
{
    return submit(ctx, target, sig);
}
"""}

# The wrapper's name depends on the architecture, such as __x64_sys_kill.
function = BPF(text="").get_syscall_fnname(b"kill").decode()
for probe, text in probe_text.items():
    try:
        # This also attaches fentry programs and tracepoints.
        b = BPF(text=common_text + text.replace("SYSCALL", function))
        if probe == "kprobe":
            b.attach_kprobe(event=function, fn_name="syscall__kill")
        break
    except Exception as e:
        print("%s: refused (%s)" % (probe, e), flush=True)
else:
    sys.exit("this kernel accepts no probe on kill(2)")


def print_event(cpu, data, size):
    event = b["events"].event(data)
    print("%-9d %-9d %d" % (event.pid, event.target, event.sig), flush=True)


signal.signal(signal.SIGINT, signal.SIG_DFL)    # no traceback at Ctrl-C
b["events"].open_perf_buffer(print_event)
print("%s: attached. Tracing kill(2). Hit Ctrl-C to end." % probe)
print("%-9s %-9s %s" % ("PID", "TARGET", "SIGNAL"), flush=True)
while True:
    b.perf_buffer_poll()
