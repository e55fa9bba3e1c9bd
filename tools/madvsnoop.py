#!/usr/bin/python3
#
# madvsnoop  Trace madvise(2) and process_madvise(2): who advises what, on
#            which memory, with what result, and how long it takes.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: madvsnoop [-h] [-T] [-p PID] [-t TID] [-u UID] [-n NAME] [-a LIST]
#                  [-x] [-m MIN_US] [-d SECONDS] [-M] [-U] [-b] [-j] [-v]
#                  [-S] [-H] [--cgroupmap PATH] [--mntnsmap PATH]
#                  [--probe {auto,fentry,tracepoint,kprobe}]
#                  [interval] [count]
#
# Traces by fentry, else system call tracepoints, else kprobes.
#
# Copyright (c) 2026 The madvsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 22-Nov-2026   Created this.

import argparse
import bisect
import collections
import contextlib
import csv
import ctypes
import errno
import functools
import gc
import io
import math
import mmap
import os
import platform
import re
import resource
import select
import signal
import struct
import sys
import tempfile
import threading
import time

# Until tracing starts there is nothing to finish: end at once, and quietly.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}

# A closed descriptor's number must not become that of something of BPF's.
for name in ("stdin", "stdout", "stderr"):
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, "r+"))

PAUSE = 0.04        # seconds between two looks into the buffer
SETTLE = 10000000   # ns that a call may take without leaving the order in time
LONG = 99999950     # ns that do not show with one decimal in seven columns
BATCH = 10000       # events to print before the next look at signals
BACKLOG = 1000000   # events that may wait to be printed, beside the buffer
BUFFER = 32 << 20   # bytes
MAX_STACK = 127     # frames, as the kernel's own default
KERNEL_BTF = "/sys/kernel/btf/vmlinux"

try:
    from bcc import BPF
    from bcc.containers import filter_by_containers
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

# From asm-generic/mman-common.h of Linux 7.0.
advices = {
    0: "NORMAL", 1: "RANDOM", 2: "SEQUENTIAL", 3: "WILLNEED", 4: "DONTNEED",
    8: "FREE", 9: "REMOVE", 10: "DONTFORK", 11: "DOFORK", 12: "MERGEABLE",
    13: "UNMERGEABLE", 14: "HUGEPAGE", 15: "NOHUGEPAGE", 16: "DONTDUMP",
    17: "DODUMP", 18: "WIPEONFORK", 19: "KEEPONFORK", 20: "COLD",
    21: "PAGEOUT", 22: "POPULATE_READ", 23: "POPULATE_WRITE",
    24: "DONTNEED_LOCKED", 25: "COLLAPSE", 100: "HWPOISON",
    101: "SOFT_OFFLINE", 102: "GUARD_INSTALL", 103: "GUARD_REMOVE",
}
if platform.machine() == "alpha":
    del advices[4]
    advices.update({5: "SPACEAVAIL", 6: "DONTNEED"})
elif platform.machine().startswith("parisc"):
    for number in range(12, 20):    # as they were before Linux 6.2
        advices[number + 53] = advices[number]

examples = """examples:
    ./madvsnoop              # trace all calls
    ./madvsnoop -p 181       # only those of PID 181
    ./madvsnoop -a FREE,25   # only these kinds of advice
    ./madvsnoop -x           # only failed calls
    ./madvsnoop -m 1000      # only calls that took 1 ms or longer
    ./madvsnoop -MU -n redis # on what memory, and called from where
    ./madvsnoop -S           # sum up by process and advice until Ctrl-C
    ./madvsnoop -S 1 10      # the same each second, 10 times
    ./madvsnoop -H -d 30     # latencies as histograms, for 30 seconds
"""


def whole_number(least, most):
    """An argparse type: a decimal number from least to most."""
    def number(text):
        if re.fullmatch("-?[0-9]+", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            "'%s' is not a number from %d to %d" % (text, least, most))
    return number


def duration(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(
            "'%s' is not a time above 0 and below 1e9" % text)
    return value


def advice_numbers(text):
    """4, DONTNEED or MADV_DONTNEED as a list of numbers, mostly of one."""
    name = re.sub("^MADV_", "", text.upper())
    numbers = [number for number in advices if advices[number] == name]
    if re.fullmatch("-?[0-9]+", name) and -2**31 <= int(name) < 2**31:
        numbers = [int(name)]
    if not numbers:
        raise argparse.ArgumentTypeError("'%s' is not an advice" % text)
    return numbers


def advice_list(text):
    return sorted({number for part in text.split(",")
                   for number in advice_numbers(part.strip())})


def part_of_comm(text):
    """The bytes of a name that can be in the kernel's 15."""
    name = os.fsencode(text)
    if not 0 < len(name) < 16:
        raise argparse.ArgumentTypeError(
            "'%s' is not a name of 1 to 15 bytes" % text)
    return name


def pinned_map(path):
    """A path that may stand in a C string."""
    if not re.fullmatch("/[A-Za-z0-9_./:@+-]+", path):
        raise argparse.ArgumentTypeError("'%s' is not a plain path" % path)
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError("'%s' does not exist" % path)
    return path


parser = argparse.ArgumentParser(
    description="Trace madvise(2) and process_madvise(2)",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog=examples)
parser.add_argument("-T", "--timestamp", action="store_true",
    help="show the time of each call, of each summary with -S or -H")
parser.add_argument("-p", "--pid", type=whole_number(1, 2**31 - 1),
    help="trace only this process")
parser.add_argument("-t", "--tid", type=whole_number(1, 2**31 - 1),
    help="trace only this thread")
parser.add_argument("-u", "--uid", type=whole_number(0, 2**32 - 2),
    help="trace only this user ID")
parser.add_argument("-n", "--name", type=part_of_comm,
    help="trace only command names that contain this")
parser.add_argument("-a", "--advice", type=advice_list, metavar="LIST",
    help="trace only these: names or numbers, as DONTNEED,FREE,25")
parser.add_argument("-x", "--failed", action="store_true",
    help="show only calls that failed")
parser.add_argument("-m", "--min-us", type=duration,
    help="show only calls that took this many microseconds or more")
parser.add_argument("-d", "--duration", type=duration, metavar="SECONDS",
    help="end after this time")
parser.add_argument("-M", "--mapping", action="store_true",
    help="show what lies at ADDR: a file, [heap], anon, ...")
parser.add_argument("-U", "--user-stack", action="store_true",
    help="show the user-space stack of each call")
parser.add_argument("-b", "--bytes", action="store_true",
    help="show LEN as an exact number of bytes")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values, exact and in full")
parser.add_argument("-v", "--verbose", action="store_true",
    help="show thread IDs, and which probe type is in use")
parser.add_argument("-S", "--summary", action="store_true",
    help="sum up by process and advice, dearest first")
parser.add_argument("-H", "--histogram", action="store_true",
    help="show latencies as a histogram for each advice")
parser.add_argument("--cgroupmap", type=pinned_map, metavar="PATH",
    help="trace only the cgroups of this pinned BPF map")
parser.add_argument("--mntnsmap", type=pinned_map, metavar="PATH",
    help="trace only the mount namespaces of this pinned BPF map")
parser.add_argument("--probe", default="auto",
    choices=("auto", "fentry", "tracepoint", "kprobe"),
    help="probe type to use (default: the first that works)")
parser.add_argument("--ebpf", action="store_true",
    help=argparse.SUPPRESS)
parser.add_argument("interval", type=duration, nargs="?",
    help="with -S or -H: seconds between two summaries")
parser.add_argument("count", type=whole_number(1, 2**31 - 1), nargs="?",
    help="end after this many summaries")
args = parser.parse_args()
aggregate = args.summary or args.histogram
if args.interval and not aggregate:
    parser.error("an interval needs -S or -H")
if aggregate and (args.mapping or args.user_stack):
    parser.error("-M and -U show single calls, not with -S or -H")
if args.csv and args.summary and args.histogram:
    parser.error("-j takes one of -S and -H")


def warn(message):
    try:    # with no buffer, which would be tried again at the end
        os.write(sys.stderr.fileno(), (message + "\n").encode(
            sys.stderr.encoding, "backslashreplace"))
    except OSError:
        pass    # there is nobody to tell


def die(message):
    warn("%s: %s" % (parser.prog, message))
    sys.exit(1)


# Names of the system calls, and how the C text calls their arguments.
syscalls = {
    "madvise": ("start", "len_in", "behavior"),
    "process_madvise": ("pidfd", "vec", "vlen", "behavior"),
}

# The kernel functions behind a system call, and where they find its arguments.
entry_points = [
    ("__x64_sys_", "NATIVE"),
    ("__arm64_sys_", "NATIVE"),
    ("sys_", "NATIVE"),
    ("__ia32_sys_", "IA32"),
]

bpf_text = """
#include <uapi/linux/ptrace.h>

#define COMM_LEN 16
#define MAX_RANGES 1024     /* the kernel's UIO_MAXIOV */

struct event {
    u64 ts;
    u64 ns;
    u64 addr;               /* while ranges are unread: of their array */
    u64 len;                /* and how many there are */
    u32 pid;
    u32 tid;
    s32 advice;
    s32 ret;                /* no more than INT_MAX, also of bytes */
    s32 pidfd;
    u8 syscall;
    u8 unread;              /* the size of a range that is still to be read */
    u8 active;
    char comm[COMM_LEN];
#ifdef MAX_STACK
    u64 caller;             /* what the stack pointer or link register has */
    u64 stack[MAX_STACK + 1];   /* a power of 2, to mask with */
#endif
};

/* Calls of one process with one advice. */
struct sum {
    u32 pid;
    s32 advice;
    u64 calls;
    u64 failed;
    u64 bytes;
    u64 ns;
    u64 max_ns;
    char comm[COMM_LEN];
};

struct sum_key {
    u32 pid;
    s32 advice;
    u32 period;
    u32 program;
};

struct bucket_key {
    s32 advice;
    u8 period;
    u8 program;
    u16 bucket;             /* as bpf_log2l() has it */
};

/*
 * A thread's latest call. Most threads find their place by their number in an
 * array, who finds it taken by another thread in a hash table, which costs a
 * call some 70 ns more, 10% of a short one. Entries stay: to insert and delete
 * them would cost another 200 ns.
 */
BPF_ARRAY(threads, struct event, THREADS);
BPF_TABLE("lru_hash", u32, struct event, other_threads, 10240);
BPF_ARRAY(unused, struct event, 1);     /* what an entry there begins as */
BPF_ARRAY(lost, u64, 1);
BPF_ARRAY(since, u64, 1);               /* when all was attached */
#ifdef TASK_PT_REGS
/* Of Linux 5.11 and 5.15; BCC has names for them since 0.22 only. */
static void *(*current_task_btf)(void) = (void *)158;
static long (*task_pt_regs)(void *task) = (void *)175;
#endif
#ifdef AGGREGATE
/*
 * The period alternates between 0 and 1, so that user space reads what BPF
 * has done with. Each CPU and program has its own numbers: nothing else runs
 * between a program's reading and writing one.
 */
BPF_ARRAY(period, u32, 1);
BPF_PERCPU_ARRAY(recent, struct sum, 2 * PROGRAMS);
BPF_TABLE("percpu_hash", struct sum_key, struct sum, sums, MAX_SUMS);
BPF_TABLE("percpu_hash", struct bucket_key, u64, buckets, MAX_SUMS);
#elif defined(RING_PAGES)
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif

static __always_inline void count_lost(u64 events)
{
    int zero = 0;
    u64 *n = lost.lookup(&zero);

    if (n)
        __sync_fetch_and_add(n, events);
}

/* Of a call that was under way then, the return may have gone by before. */
static __always_inline void count_missed_return(u64 entered)
{
    int zero = 0;
    u64 *begin = since.lookup(&zero);

    if (begin && *begin && entered > *begin)
        count_lost(1);
}

static __always_inline struct event *find_thread(u32 tid)
{
    u32 i = tid & (THREADS - 1);
    struct event *event = threads.lookup(&i);

    if (!event || !event->tid)
        return NULL;
    return event->tid == tid ? event : other_threads.lookup(&tid);
}

static __always_inline struct event *add_thread(u32 tid)
{
    u32 i = tid & (THREADS - 1);
    int zero = 0;
    struct event *event = threads.lookup(&i), *first = unused.lookup(&zero);

    if (!event || !first)
        return NULL;
    /* After 10 s without a call the place is free again. */
    if (event->tid && (event->active ||
                       bpf_ktime_get_ns() - event->ts < 10000000000ULL))
        event = other_threads.lookup_or_try_init(&tid, first);
    if (event)
        event->tid = tid;
    return event;
}

/* Returns the call to fill in, or NULL for one that is not wanted. */
static __always_inline struct event *enter(s32 advice)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id;
    struct event *event = find_thread(tid);

    if (event && event->active) {
        count_missed_return(event->ts);
        event->active = 0;
    }

#ifdef ONLY_PID
    if (pid != ONLY_PID)
        return NULL;
#endif
#ifdef ONLY_TID
    if (tid != ONLY_TID)
        return NULL;
#endif
#ifdef ONLY_UID
    if ((u32)bpf_get_current_uid_gid() != ONLY_UID)
        return NULL;
#endif
#ifdef ONLY_ADVICES
    if (!ONLY_ADVICES(advice))
        return NULL;
#endif
#ifdef ONLY_CONTAINERS
    if (container_should_be_filtered())
        return NULL;
#endif
#ifdef ONLY_COMM
    u8 comm[COMM_LEN];

    if (bpf_get_current_comm(comm, COMM_LEN) || !ONLY_COMM(comm))
        return NULL;
#endif

    if (!event)
        event = add_thread(tid);
    if (!event) {
        count_lost(1);
        return NULL;
    }
    event->pid = pid;
    event->advice = advice;
    event->active = 1;
    event->unread = 0;
#ifndef AGGREGATE
    if (bpf_get_current_comm(event->comm, COMM_LEN))
        event->comm[0] = 0;
#endif
    return event;
}

static __always_inline int enter_madvise(u64 addr, u64 len, s32 advice)
{
    struct event *event = enter(advice);

    if (!event)
        return 0;
    event->syscall = MADVISE;
    event->addr = addr;
    event->len = len;
    event->ts = bpf_ktime_get_ns();
    return 0;
}

#ifdef WITH_RANGES     /* Linux 5.10; older ones may not take the loop */
/* Replaces the place of the ranges by the first one's and their total. */
static __always_inline void read_ranges(struct event *event, u8 size)
{
    u64 i, first = 0, len = 0;
    u64 range[2] = {};
    u32 range32[2] = {};

    if (event->len > MAX_RANGES)    /* which the kernel refuses */
        return;
    for (i = 0; i < MAX_RANGES && i < event->len; i++) {
        if (size == sizeof(range32)) {
            if (bpf_probe_read_user(range32, sizeof(range32),
                                    (void *)event->addr + i * size))
                return;
            range[0] = range32[0];
            range[1] = range32[1];
        } else if (bpf_probe_read_user(range, sizeof(range),
                                       (void *)event->addr + i * size)) {
            return;
        }
        if (i == 0)
            first = range[0];
        len += range[1];
    }
    event->addr = first;
    event->len = len;
    event->unread = 0;
}
#endif

static __always_inline int enter_process_madvise(
    s32 pidfd, u64 ranges, u32 count, s32 advice, u8 size)
{
    struct event *event = enter(advice);

    if (!event)
        return 0;
    event->syscall = PROCESS_MADVISE;
    event->pidfd = pidfd;
#ifdef WITH_RANGES
    event->addr = ranges;
    event->len = count;
    event->unread = size;
    read_ranges(event, size);
#endif
    event->ts = bpf_ktime_get_ns();
    return 0;
}

#ifdef WITH_SUMS
static __always_inline void flush(struct sum *recent, u32 period, u32 program)
{
    struct sum_key key = {recent->pid, recent->advice, period, program};
    struct sum *sum = sums.lookup(&key);

    if (sum) {
        sum->calls += recent->calls;
        sum->failed += recent->failed;
        sum->bytes += recent->bytes;
        sum->ns += recent->ns;
        if (recent->max_ns > sum->max_ns)
            sum->max_ns = recent->max_ns;
    } else if (sums.update(&key, recent)) {
        count_lost(recent->calls);
    }
    recent->calls = 0;
}

/* A CPU's calls mostly resemble the one before: no hash table for these. */
static __always_inline void add_to_sums(struct event *event, long ret,
                                        u32 period, u32 program)
{
    u32 i = period * PROGRAMS + program;
    struct sum *sum = recent.lookup(&i);

    if (!sum)
        return;
    if (sum->calls && (sum->pid != event->pid || sum->advice != event->advice))
        flush(sum, period, program);
    if (!sum->calls) {
        __builtin_memset(sum, 0, sizeof(*sum));
        sum->pid = event->pid;
        sum->advice = event->advice;
        bpf_get_current_comm(sum->comm, COMM_LEN);
    }
    sum->calls++;
    if (ret < 0)
        sum->failed++;
    else
        sum->bytes += event->syscall == MADVISE ? event->len : ret;
    sum->ns += event->ns;
    if (event->ns > sum->max_ns)
        sum->max_ns = event->ns;
}
#endif

#ifdef WITH_BUCKETS
static __always_inline void add_to_buckets(struct event *event, u32 period,
                                           u32 program)
{
    struct bucket_key key = {event->advice, period, program,
                             bpf_log2l(event->ns)};
    u64 zero = 0, *calls = buckets.lookup_or_try_init(&key, &zero);

    if (calls)
        (*calls)++;
    else
        count_lost(1);
}
#endif

#ifdef MAX_STACK
/* Returns the number of bytes. */
static __always_inline u32 read_stack(void *ctx, struct event *event)
{
    int bytes = bpf_get_stack(ctx, event->stack, MAX_STACK * sizeof(u64),
                              BPF_F_USER_STACK);

    bytes = bytes < 0 ? 0 : bytes & (sizeof(event->stack) - 1);
    event->caller = 0;
#ifdef TASK_PT_REGS
    /*
     * A stack that is walked by frame pointers lacks the caller of a function
     * that has none, as the C library's madvise().
     */
    struct pt_regs regs = {};

    if (bpf_probe_read_kernel(&regs, sizeof(regs),
                              (void *)task_pt_regs(current_task_btf())))
        return bytes;
#if defined(bpf_target_x86)
    bpf_probe_read_user(&event->caller, sizeof(event->caller),
                        (void *)PT_REGS_SP(&regs));
#elif defined(bpf_target_arm64)
    event->caller = PT_REGS_RET(&regs);
#endif
#endif
    return bytes;
}
#endif

static __always_inline int leave(void *ctx, u32 program, long ret)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct event *event = find_thread(tid);
    u64 now;

    if (!event || !event->active)
        return 0;
    now = bpf_ktime_get_ns();
    event->ns = now - event->ts;
#ifdef ONLY_FAILED
    if (ret >= 0)
        goto out;
#endif
#ifdef MIN_NS
    if (event->ns < MIN_NS)
        goto out;
#endif
#ifdef AGGREGATE
    int zero = 0;
    u32 *now_period = period.lookup(&zero);

    if (!now_period)
        goto out;
#ifdef WITH_SUMS
    add_to_sums(event, ret, *now_period, program);
#endif
#ifdef WITH_BUCKETS
    add_to_buckets(event, *now_period, program);
#endif
#else
    event->ret = ret;
#ifdef WITH_RANGES
    /* What was not in memory at the entry is there now. */
    if (event->syscall == PROCESS_MADVISE && event->unread)
        read_ranges(event, event->unread);
#endif
    u64 size = sizeof(*event);
#ifdef MAX_STACK
    size = offsetof(struct event, stack) + read_stack(ctx, event);
#endif
#ifdef RING_PAGES
    /* Waking the reader for each event would cost more than all the rest. */
    if (events.ringbuf_output(event, size, BPF_RB_NO_WAKEUP))
        count_lost(1);
#else
    if (events.perf_submit(ctx, event, size))
        count_lost(1);
#endif
#endif
out:
    event->active = 0;
    return 0;
}

/* A system call's wrapper is handed the registers of its caller. */
#ifdef CONFIG_ARCH_HAS_SYSCALL_WRAPPER
#define CALLER_REGS(ctx) ((void *)PT_REGS_PARM1(ctx))
#else
#define CALLER_REGS(ctx) ((void *)(ctx))
#endif
#define NATIVE_ARG1(regs) PT_REGS_PARM1(regs)
#define NATIVE_ARG2(regs) PT_REGS_PARM2(regs)
#define NATIVE_ARG3(regs) PT_REGS_PARM3(regs)
#ifdef bpf_target_x86
#define NATIVE_ARG4(regs) ((regs)->r10)
#else
#define NATIVE_ARG4(regs) PT_REGS_PARM4(regs)
#endif
#define NATIVE_RANGE 16
#define IA32_ARG1(regs) ((u32)(regs)->bx)
#define IA32_ARG2(regs) ((u32)(regs)->cx)
#define IA32_ARG3(regs) ((u32)(regs)->dx)
#define IA32_ARG4(regs) ((u32)(regs)->si)
#define IA32_RANGE 8
"""

# The programs for one entry point of one system call.
probe_text = {"fentry": """
KRETFUNC_PROBE(%(function)s, struct pt_regs *regs, long ret)
{
    return leave(ctx, %(program)d, ret);
}

KFUNC_PROBE(%(function)s, struct pt_regs *regs)
{
    return %(enter)s;
}
""", "tracepoint": """
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{
    return leave(args, %(program)d, args->ret);
}

TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s)
{
    return %(enter)s;
}
""", "kprobe": """
int leave_%(function)s(struct pt_regs *ctx)
{
    return leave(ctx, %(program)d, PT_REGS_RC(ctx));
}

int enter_%(function)s(struct pt_regs *ctx)
{
    struct pt_regs caller, *regs = &caller;

    if (bpf_probe_read_kernel(regs, sizeof(*regs), CALLER_REGS(ctx)))
        return 0;
    return %(enter)s;
}
"""}


class Unavailable(Exception):
    """This machine lacks what a probe type needs."""


def tracefs():
    for path in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.isdir(path + "/events"):
            return path
    raise Unavailable("tracefs is not mounted, try: "
                      "mount -t tracefs tracefs /sys/kernel/tracing")


@functools.lru_cache()
def kernel_symbols():
    with open("/proc/kallsyms", "rb") as f:
        return f.read()


def kernel_has(function):
    return b" %s\n" % function.encode() in kernel_symbols()


def refuses_tracing():
    """Ask for a fentry program in one bpf(2) that can't succeed. EPERM means
    that a real one would be refused, and saves the time to compile it."""
    bpf_call = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
    if not bpf_call:
        return False
    attr = ctypes.create_string_buffer(128)     # union bpf_attr
    struct.pack_into("=I", attr, 0, 26)         # prog_type TRACING
    struct.pack_into("=I", attr, 68, 24)        # expected_attach_type FENTRY
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(bpf_call, 5, attr, len(attr))  # BPF_PROG_LOAD
    return ctypes.get_errno() == errno.EPERM


def check(probe):
    """Refuse what a cheap look shows to be in vain."""
    if probe == "fentry":
        if not os.path.exists(KERNEL_BTF):
            raise Unavailable("this kernel has no BTF")
        if refuses_tracing():
            raise Unavailable(os.strerror(errno.EPERM))
    elif probe == "kprobe":
        if not os.path.exists("/sys/bus/event_source/devices/kprobe"):
            raise Unavailable("this kernel has no kprobes")


def enter_text(name, arguments, range_size):
    """The call that hands a system call's arguments on."""
    if name == "process_madvise":
        arguments = arguments + [range_size]
    return "enter_%s(%s)" % (name, ", ".join(arguments))


def probe_points(probe):
    """A dict for each place to attach to, with what the C text needs."""
    points = []
    for name, fields in syscalls.items():
        if probe == "tracepoint":
            path = tracefs() + "/events/syscalls/sys_enter_" + name
            if os.path.exists(path):
                points.append({"name": name, "enter": enter_text(
                    name, ["(u64)args->" + field for field in fields],
                    "NATIVE_RANGE")})
            continue
        for prefix, abi in entry_points:
            if probe == "fentry" and not prefix.startswith("__"):
                continue    # no wrapper that has the caller's registers
            if kernel_has(prefix + name):
                points.append({"function": prefix + name, "enter": enter_text(
                    name, ["%s_ARG%d(regs)" % (abi, i + 1)
                           for i in range(len(fields))], abi + "_RANGE")})
    if not points:
        raise Unavailable("this kernel does not show the system calls")
    for program, point in enumerate(points):
        point["program"] = program
    return points


def contains(name):
    """A C expression: does the array comm contain the bytes of name?"""
    return " || ".join(
        "(" + " && ".join("(comm)[%d] == %d" % (start + i, byte)
                          for i, byte in enumerate(name)) + ")"
        for start in range(16 - len(name)))


def max_sums():
    """Entries that keep a per-CPU table below some 32 Mbytes."""
    with open("/sys/devices/system/cpu/possible") as f:
        cpus = int(re.split("[-,]", f.read().strip())[-1]) + 1
    return max(1024, min(10240, (32 << 20) // (64 * cpus)))


def defines(points):
    """The options, as checked, and the kernel's features for the C text."""
    lines = ["MADVISE 0", "PROCESS_MADVISE 1"]
    for macro, value in (("ONLY_PID", args.pid), ("ONLY_TID", args.tid),
                         ("ONLY_UID", args.uid)):
        if value is not None:
            lines.append("%s (%d)" % (macro, value))
    if args.advice:
        lines.append("ONLY_ADVICES(advice) (%s)" % " || ".join(
            "(advice) == %d" % number for number in args.advice))
    if args.name:
        lines.append("ONLY_COMM(comm) (%s)" % contains(args.name))
    if args.min_us:
        lines.append("MIN_NS %dULL" % math.ceil(args.min_us * 1000))
    if aggregate:
        lines.append("MAX_SUMS %d" % max_sums())
    lines.append("THREADS %d" % (4096 if args.user_stack else 32768))
    if args.user_stack:
        lines.append("MAX_STACK %d" % MAX_STACK)
    for macro, wanted in (
            ("ONLY_FAILED", args.failed), ("AGGREGATE", aggregate),
            ("ONLY_CONTAINERS", args.cgroupmap or args.mntnsmap),
            ("WITH_SUMS", args.summary), ("WITH_BUCKETS", args.histogram)):
        if wanted:
            lines.append(macro)
    lines.append("PROGRAMS %d" % len(points))
    if not aggregate and any("process" in p["enter"] for p in points):
        lines.append("WITH_RANGES")
    if kernel_has("bpf_task_pt_regs") and os.path.exists(KERNEL_BTF):
        lines.append("TASK_PT_REGS")
    if kernel_has("bpf_ringbuf_output"):
        lines.append("RING_PAGES %d" % (BUFFER // resource.getpagesize()))
    return "".join("#define %s\n" % line for line in lines)


def program(probe, points):
    """The whole C text."""
    text = defines(points)
    if args.cgroupmap or args.mntnsmap:
        text += filter_by_containers(args)
    return text + bpf_text + "".join(probe_text[probe] % p for p in points)


def log_file():
    try:
        return tempfile.TemporaryFile(mode="w+", errors="replace")
    except OSError:     # a full disk
        return open(os.devnull, "r+")


@contextlib.contextmanager
def output_into(file):
    """What BCC's C++ parts print is for us, in case that they fail."""
    saved = os.dup(1), os.dup(2)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])


def attach(probe):
    check(probe)
    points = probe_points(probe)
    bpf = BPF.__new__(BPF)  # kept when __init__ fails, to undo what it did
    try:
        bpf.__init__(text=program(probe, points))   # attaches all but kprobes
        if probe == "kprobe":
            for point in points:
                name = point["function"]
                bpf.attach_kretprobe(event=name, fn_name="leave_" + name)
                bpf.attach_kprobe(event=name, fn_name="enter_" + name)
    except Exception:
        bpf.cleanup()
        raise
    return bpf


def if_too_old(words):
    """What to look at when the kernel refuses what it does not know."""
    if not any(os.strerror(number) in words
               for number in (errno.EINVAL, errno.ENOSYS)):
        return ""
    return ("; %s takes Linux 5.10 or later with CONFIG_BPF_SYSCALL, this "
            "is %s" % (parser.prog, os.uname().release))


def reason(error, log):
    """The one line that tells most of why a try failed."""
    if "kernel headers" in log:
        die("BCC needs kernel headers: install linux-headers-%s (Debian, "
            "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or set "
            "BCC_KERNEL_SOURCE" % os.uname().release)
    if "struct tracepoint__" in log:    # BCC 0.18 looks below debugfs alone
        return ("BCC does not find tracefs, try: mount -t debugfs debugfs "
                "/sys/kernel/debug")
    for line in log.splitlines():
        if "error:" in line or line.startswith("bpf: "):
            return line.split("error:")[-1].strip()
    return str(error)


def foreign_headers():
    """Are the headers another kernel's? Then its structures may differ."""
    try:
        with open(os.path.join(os.environ["BCC_KERNEL_SOURCE"],
                               "include/generated/utsrelease.h")) as f:
            return '"%s"' % os.uname().release not in f.read()
    except (KeyError, OSError):
        return False


def give_back_memory():
    """What the compiler took and freed: glibc would keep it, some 30 Mbytes,
    for a next time."""
    with contextlib.suppress(AttributeError):   # another C library
        ctypes.CDLL(None).malloc_trim(0)


def wanted_probes():
    return list(probe_text) if args.probe == "auto" else [args.probe]


def start():
    """Attach by the first probe type that works."""
    refusals = []
    for probe in wanted_probes():
        with log_file() as log:
            try:
                with output_into(log):
                    bpf = attach(probe)
            except Exception as e:
                log.seek(0)
                refusals.append("no %s: %s" % (probe, reason(e, log.read())))
                continue
        bpf["since"][ctypes.c_int(0)] = ctypes.c_uint64(
            int(time.monotonic() * 1e9))
        kernel_symbols.cache_clear()
        give_back_memory()
        if args.verbose:
            probe = "; ".join([probe] + refusals)
            warn("Tracing by %s." % probe)
        return bpf
    refusals = "; ".join(refusals)
    die("can't trace these system calls here: %s%s" % (
        refusals, if_too_old(refusals)))


class Stop:
    """The wish to end: Ctrl-C, SIGTERM, the end of -d, a reader that left."""

    def __init__(self):
        # Blocked, a signal waits to be looked at, and interrupts nothing.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.end = time.monotonic() + (args.duration or math.inf)
        self.reader = select.poll()
        self.reader.register(sys.stdout.fileno(), 0)

    def wished(self):
        if signal.sigpending() & STOP_SIGNALS or self.reader.poll(0):
            return True
        return time.monotonic() >= self.end

    def sleep(self, seconds):
        time.sleep(max(0, min(seconds, self.end - time.monotonic())))


class Output:
    """Standard output, which a reader that does not read can't block for good:
    a Ctrl-C still ends the tool then, a second later."""

    def __init__(self, stop):
        self.stop = stop
        self.room = select.poll()
        self.room.register(sys.stdout.fileno(), select.POLLOUT)

    def write(self, text):
        data = memoryview(text.encode(sys.stdout.encoding, "replace"))
        patience = 10
        while data:
            if self.room.poll(100):     # ms; then there is room for PIPE_BUF
                data = data[os.write(sys.stdout.fileno(),
                                     data[:select.PIPE_BUF]):]
            elif self.stop.wished():
                patience -= 1
                if not patience:
                    raise OSError(errno.EAGAIN, "nobody reads the output")


def skipped_runs(bpf):
    """How often the kernel skipped the program at an entry, because a BPF
    program was interrupted on that CPU. Linux 5.12 and later tell."""
    runs = 0
    for name, function in bpf.funcs.items():
        if re.match(b"kfunc__|enter_|.*__sys_enter_", name):
            with open("/proc/self/fdinfo/%d" % function.fd) as f:
                told = re.search(r"^recursion_misses:\s*(\d+)", f.read(), re.M)
            runs += int(told[1]) if told else 0
    return runs


class Loss:
    """Tells on standard error how many calls were lost, when more were."""

    def __init__(self):
        self.told = 0

    def tell(self, lost):
        if lost > self.told:
            warn("%s: lost %d events" % (parser.prog, lost - self.told))
        self.told = lost


@functools.lru_cache(maxsize=4096)
def printable(data):
    """A name, whose bytes can be any, as text."""
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


@functools.lru_cache(maxsize=4096)
def size(count):
    """A number of bytes, in at most 5 characters unless it is to be exact."""
    if count < 1024 or args.bytes or args.csv:
        return str(count)
    for unit in "KMGTPE":
        count /= 1024
        if count < 1024:
            break
    if count >= 100 or count == int(count):
        return "%d%s" % (count, unit)
    return "%.1f%s" % (int(count * 10) / 10, unit)


def advice_name(number):
    return advices.get(number, number)


def result(ret):
    if ret >= 0:
        return size(ret)
    if -ret in (512, 513, 514, 516):    # in the kernel alone: it calls again
        return "RESTART"
    return errno.errorcode.get(-ret, ret)


def clock(seconds):
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def csv_text(rows, end="\n"):
    lines = io.StringIO()
    csv.writer(lines, lineterminator=end).writerows(rows)
    return lines.getvalue()


class Ring:
    """BPF's ring buffer, whose events all have one size. They are taken in
    batches from where the kernel writes them, as Documentation/bpf/ringbuf.rst
    of the kernel tells: for BCC to call a function with each takes longer than
    to print it."""

    # Where Python reads and writes a position at once, not byte by byte.
    MACHINES = {"x86_64", "aarch64", "ppc64le", "s390x"}
    BUSY = 1 << 31      # in the length before an event, until it is complete

    def __init__(self, fd, event):
        page = resource.getpagesize()
        self.record = struct.Struct("=8x%s%dx" % (
            event, -struct.calcsize("=" + event) % 8))
        try:
            own = mmap.mmap(fd, page)
            # Its data is there twice, so that no batch ends at the end.
            kernels = mmap.mmap(fd, page + 2 * BUFFER, offset=page,
                                prot=mmap.PROT_READ)
        except OSError as e:
            die("can't map BPF's ring buffer: %s" % e.strerror)
        self.consumer = memoryview(own).cast("Q")
        self.producer = memoryview(kernels)[:page].cast("Q")
        self.data = memoryview(kernels)[page:]
        self.heads = self.data.cast("I")
        self.lock = threading.Lock()
        self.cut = False    # a batch, by an event that was being written

    def fence(self):
        """Keeps what is read and written before it from being so after it, on
        CPUs that change the order. Within one hold of a lock they may still
        do so, from one hold to the next they may not."""
        for _ in range(2):
            with self.lock:
                pass

    def take(self, most):
        """The next events, at most so many. Their places are free then."""
        size = self.record.size
        begin, end = self.consumer[0], self.producer[0]
        self.fence()
        there = min((end - begin) // size, most)
        at = begin % BUFFER
        heads = self.heads[at // 4:(at + there * size) // 4:size // 4].tolist()
        busy = size - 8 | self.BUSY
        ready = heads.index(busy) if busy in heads else there
        self.cut = ready < there
        self.fence()
        events = list(self.record.iter_unpack(
            self.data[at:at + ready * size]))
        self.fence()
        self.consumer[0] = begin + ready * size
        return events


class Events:
    """Takes events from BPF in batches, and hands them out in time order, each
    as (ts, ns, addr, len, the bytes that follow them, the stack)."""

    # What follows len in struct event, but for the stack. It comes again and
    # again: who takes it does not unpack it each time.
    fields = struct.Struct("=IIiiiBBx16sx")
    layout = "QQQQ%ds0s" % fields.size  # 0s: no stack

    def __init__(self, bpf):
        self.bpf, self.waiting, self.behind, self.newest = bpf, [], False, 0
        self.ring, self.full = None, BATCH
        self.dropped, self.lost_by_perf, self.lost_map = 0, 0, bpf["lost"]
        if not hasattr(bpf["events"], "open_ring_buffer"):
            self.open_perf_buffer(bpf)
        elif platform.machine() in Ring.MACHINES and not args.user_stack:
            self.ring = Ring(bpf["events"].map_fd, self.layout)
            self.consume = lambda: self.waiting.extend(self.ring.take(BATCH))
        else:   # with stacks, events differ in size
            bpf["events"].open_ring_buffer(self.collector())
            self.consume = bpf.ring_buffer_consume

    def open_perf_buffer(self, bpf):
        pages = 64
        while pages * 2 * resource.getpagesize() * os.cpu_count() <= BUFFER:
            pages *= 2
        try:    # no wake-up for each event, from BCC 0.24 on
            bpf["events"].open_perf_buffer(self.collector(), pages, self.lose,
                                           wakeup_events=BATCH)
            self.consume = bpf.perf_buffer_consume
        except TypeError:
            bpf["events"].open_perf_buffer(self.collector(), pages, self.lose)
            self.consume = functools.partial(bpf.perf_buffer_poll, timeout=0)

    def lose(self, count):
        self.lost_by_perf += count

    def lost(self):
        """BPF counts too what a perf buffer loses, from Linux 5.1 on."""
        return self.dropped + skipped_runs(self.bpf) + max(
            self.lost_map[0].value, self.lost_by_perf)

    def collector(self):
        """The function that BCC calls for each event. What it returns makes a
        ring buffer's consumer stop at a full batch; a perf buffer's goes on
        until it has caught up."""
        record = struct.Struct("=" + self.layout)
        at = (ctypes.c_char * record.size).from_address

        def collect(_, data, size):
            if len(self.waiting) < BACKLOG:
                event = record.unpack(at(data))
                if args.user_stack:     # a perf buffer's have 4 bytes more
                    event = event[:-1] + (ctypes.string_at(
                        data + record.size, (size - record.size) // 8 * 8),)
                self.waiting.append(event)
            else:
                self.dropped += 1
            return -1 if len(self.waiting) >= self.full else 0
        return collect

    def read(self, last):
        """The events that are due. Those younger than SETTLE stay in waiting,
        because an earlier call may not have returned yet. The last time, one
        that is being written is waited for.
        """
        now = int(time.monotonic() * 1e9)
        self.full = len(self.waiting) + BATCH
        self.consume()
        for _ in range(100 if last else 0):
            if not (self.ring and self.ring.cut):
                break
            time.sleep(0.001)   # its writer may have been preempted
            self.consume()
        self.waiting.sort()
        self.behind = len(self.waiting) >= self.full
        self.newest = self.waiting[-1][0] if self.waiting else 0
        limit = min(now, self.newest if self.behind else now) - SETTLE
        due = bisect.bisect(self.waiting, (limit,))
        events = self.waiting[:due]
        del self.waiting[:due]
        return events


def pidfd_target(pid, fd):
    """The process that another one means by a pidfd, or None."""
    if fd in (-10000, -10001, -20000):      # PIDFD_SELF, from Linux 6.14 on
        return pid
    try:
        with open("/proc/%d/fdinfo/%d" % (pid, fd)) as f:
            return int(re.search(r"^Pid:\s*([1-9]\d*)$", f.read(), re.M)[1])
    except (OSError, TypeError):    # gone, or no pidfd
        return None


def memory_map(pid):
    """A process' mappings as two lists: their starts, and (end, name)."""
    starts, ends = [], []
    try:
        with open("/proc/%d/maps" % pid, "rb") as f:
            for line in f:
                fields = line.rstrip(b"\n").split(None, 5)
                start, end = fields[0].split(b"-")
                starts.append(int(start, 16))
                ends.append((int(end, 16),
                             printable(fields[5]) if fields[5:] else "anon"))
    except OSError:     # gone
        pass
    return starts, ends


class Processes:
    """What can be seen of processes from outside."""

    def __init__(self, bpf):
        self.bpf, self.maps, self.just_read = bpf, {}, set()
        self.target = functools.lru_cache(maxsize=None)(pidfd_target)
        self.forget_at = 0

    def forget(self):
        """What may have changed since it was looked up. To look at a process'
        mappings has a price for that, too, and these are kept for 0.5 s."""
        self.target.cache_clear()
        now = time.monotonic()
        if now < self.forget_at:    # batches may come faster than that
            return
        self.forget_at = now + PAUSE
        self.just_read.clear()
        limit = now - 0.5
        self.maps = {pid: known for pid, known in self.maps.items()
                     if known[0] > limit}

    def mapping(self, pid, address):
        """The name of what lies at an address, or "-"."""
        if pid not in self.maps:
            self.maps[pid] = (time.monotonic(),) + memory_map(pid)
            self.just_read.add(pid)
        _, starts, ends = self.maps[pid]
        i = bisect.bisect(starts, address) - 1
        if i >= 0 and address < ends[i][0]:
            return ends[i][1]
        if pid in self.just_read:
            return "-"
        del self.maps[pid]      # perhaps it is new
        return self.mapping(pid, address)

    def symbol(self, pid, address):
        """Function, offset and module, the address in place of what is not
        known of these."""
        symbol = printable(self.bpf.sym(address, pid, show_module=True,
                                        show_offset=True))
        return symbol.replace("[unknown]", "%x" % address)

    def stack(self, pid, words):
        """Symbols, from the system call outwards. The first of words is what
        should be the innermost caller's address, and often is not."""
        caller, *addresses = struct.unpack("%dQ" % (len(words) // 8), words)
        frames = [self.symbol(pid, address) for address in addresses]
        if caller not in addresses[:2]:
            symbol = self.symbol(pid, caller)
            if " " in symbol:   # it lies in a module
                frames.insert(1, symbol)
        while frames[1:] and " " not in frames[-1]:
            frames.pop()
        return frames


def pid_width():
    try:
        with open("/proc/sys/kernel/pid_max") as f:
            return len(f.read().strip())
    except OSError:
        return 7


class Printer:
    """Prints events as rows, with a header. The rows of calls that come fast
    differ in time, address, length and latency: the rest is kept, for one
    batch at most."""

    def __init__(self, bpf, output):
        self.processes, self.output = Processes(bpf), output
        pid = "%%-%ds" % pid_width()
        self.formats = {
            "TIME": args.timestamp and "%-8s", "PID": pid,
            "TID": args.verbose and pid, "COMM": "%-15s",
            # Two names are longer, but a row has to stay below 80.
            "ADVICE": "%-13s", "ADDR": "%-12s",
            "LEN": "%12s" if args.bytes else "%5s", "LAT(us)": "%7s",
            "RET": "%-6s", "TPID": pid if args.mapping else "%s",
            "MAPPING": args.mapping and "%s",
            # Else it has lines of its own.
            "STACK": args.user_stack and args.csv and "%s"}
        self.gap, self.latencies = " ", ("%7.1f", "%7.0f")
        if args.csv:
            self.gap, self.latencies = ",", ("%.3f", "%.3f")
            self.formats = {title: form and "%s"
                            for title, form in self.formats.items()}
        self.quoted = functools.lru_cache(maxsize=4096)(
            lambda name: self.text({"MAPPING": name}))
        titles = {title: title for title in self.formats}
        output.write(self.text(titles) + "\n")

    def text(self, values):
        """Those columns of a row that are shown."""
        shown = [title for title in values if self.formats[title]]
        row = tuple(values[title] for title in shown)
        if args.csv:
            return csv_text([row], end="")
        return " ".join(self.formats[title] for title in shown) % row

    def row(self, moment, data, stack):
        """A row with places for address, length, latency and mapping, and one
        for a long latency; whether address and length are not known; and the
        process that is meant."""
        (pid, tid, advice, ret, pidfd, syscall, unread,
         comm) = Events.fields.unpack(data)
        target = self.processes.target(pid, pidfd) if syscall else pid
        left = moment + self.text({
            "PID": pid, "TID": tid, "COMM": printable(comm),
            "ADVICE": advice_name(advice)})
        right = self.text({"RET": result(ret),
                           "TPID": (target or "?") if syscall else "-"})
        stack = self.stack_text(pid, stack) if args.user_stack else ""
        left, right, stack = (text.replace("%", "%%")
                              for text in (left, right, stack))
        address = self.formats["ADDR"]
        if not unread:
            address = address.replace("s", "x")
        mapping = [self.formats["MAPPING"]] if args.mapping else []
        short, long = (
            self.gap.join([left, address, self.formats["LEN"], latency, right,
                           *mapping]) + stack + "\n"
            for latency in self.latencies)
        return short, long, unread, target

    def stack_text(self, pid, stack):
        frames = self.processes.stack(pid, stack)
        if args.csv:
            return self.gap + self.text({"STACK": ";".join(frames)})
        return "".join("\n    " + frame for frame in frames)

    def mapping(self, target, address):
        if not target:
            return "-"
        return self.quoted(self.processes.mapping(target, address))

    def print(self, events):
        self.processes.forget()
        to_wall_clock = int((time.time() - time.monotonic()) * 1e9)
        begin = 0
        while begin < len(events):
            second, end = 0, len(events)
            if args.timestamp:
                second = (events[begin][0] + to_wall_clock) // 10**9
                end = bisect.bisect(events, (
                    (second + 1) * 10**9 - to_wall_clock,))
            self.print_second(second, events[begin:end])
            begin = end

    def print_second(self, second, events):
        moment = ""
        if args.timestamp:
            moment = self.text({"TIME": clock(second)}) + self.gap
        mapping = args.mapping
        rows, known = [], {}
        for ts, ns, address, length, data, stack in events:
            key = (data, stack) if stack else data
            try:
                short, long, unread, target = known[key]
            except KeyError:
                known[key] = self.row(moment, data, stack)
                short, long, unread, target = known[key]
            if unread:
                places = "-", "-", ns / 1e3
            else:
                places = address, size(length), ns / 1e3
            if mapping:
                places += ("-" if unread else self.mapping(target, address),)
            rows.append((short if ns < LONG else long) % places)
        self.output.write("".join(rows))


def process_name(pid):
    """That of the process, of which BPF knows only those of its threads."""
    try:
        with open("/proc/%d/comm" % pid, "rb") as f:
            return f.read().rstrip(b"\n")
    except OSError:     # gone
        return None


class Summary:
    """Reads what BPF summed up, and prints it."""

    def __init__(self, bpf, output):
        self.bpf, self.output, self.period = bpf, output, 0
        self.sum_titles = ("PID", "COMM", "ADVICE", "CALLS", "FAILED", "LEN",
                           "AVG(us)", "MAX(us)", "TOTAL(ms)")
        self.bucket_titles = ("ADVICE", "LOW(ns)", "HIGH(ns)", "CALLS")
        if not args.csv:
            output.write("Tracing madvise() and process_madvise()... "
                         "Hit Ctrl-C to end.\n")
        else:
            titles = self.sum_titles if args.summary else self.bucket_titles
            output.write(csv_text([self.timed(titles, "TIME")]))

    def timed(self, row, now):
        return ((now,) if args.timestamp else ()) + tuple(row)

    def print(self):
        """All since the last time."""
        done, self.period = self.period, 1 - self.period
        self.bpf["period"][ctypes.c_int(0)] = ctypes.c_uint(self.period)
        time.sleep(SETTLE / 1e9)    # for the programs that run just now
        now = clock(time.time())
        if not args.csv and (args.summary or args.timestamp):
            self.output.write("\n" + args.timestamp * (now + "\n"))
        if args.summary:
            self.print_sums(self.taken_sums(done), now)
        if args.histogram:
            self.print_buckets(self.taken("buckets", done), now)

    def taken(self, name, period):
        """The entries of a period as pairs of key and value, which are
        removed from their table. A key can come once for each CPU."""
        table = self.bpf[name]
        entries = [(key, list(values)) for key, values in table.items()
                   if key.period == period]
        for key, _ in entries:
            del table[key]
        return [(key, value) for key, values in entries for value in values]

    def taken_sums(self, period):
        recent = self.bpf["recent"]
        half = len(recent) // 2
        sums = self.taken("sums", period)
        for i in range(half * period, half * (period + 1)):
            sums += [(value, value) for value in recent[i]]
            recent.clearitem(i)
        by_process = collections.defaultdict(list)
        for key, value in sums:
            if value.calls:
                by_process[key.pid, key.advice].append(value)
        return by_process

    def print_sums(self, by_process, now):
        rows = []
        for (pid, advice), values in by_process.items():
            calls, failed, total, ns = (
                sum(getattr(v, field) for v in values)
                for field in ("calls", "failed", "bytes", "ns"))
            comm = max(v.comm for v in values)  # that of some CPUs is empty
            rows.append((
                ns, pid, printable(process_name(pid) or comm),
                advice_name(advice), calls, failed, size(total),
                "%.2f" % (ns / calls / 1e3),
                "%.2f" % (max(v.max_ns for v in values) / 1e3),
                "%.3f" % (ns / 1e6)))
        rows = [row[1:] for row in sorted(rows, reverse=True)]
        if args.csv:
            return self.output.write(csv_text(
                self.timed(row, now) for row in rows))
        rows = [list(map(str, row)) for row in [self.sum_titles] + rows]
        widths = [max(least, *map(len, column)) for least, column in zip(
            (pid_width(), 15, 8, 7, 6, 5, 7, 7, 9), zip(*rows))]
        line = " ".join("%%-%ds" % width for width in widths[:3])
        line += "".join(" %%%ds" % width for width in widths[3:]) + "\n"
        self.output.write("".join(line % tuple(row) for row in rows))

    def print_buckets(self, entries, now):
        calls = collections.defaultdict(collections.Counter)
        for key, value in entries:
            calls[key.advice][key.bucket] += value
        for advice, buckets in sorted(calls.items()):
            rows = [(advice_name(advice), 1 << i >> 1 if i > 1 else 0,
                     (1 << i) - 1, buckets[i])
                    for i in range(min(buckets), max(buckets) + 1)]
            if args.csv:
                self.output.write(csv_text(self.timed(row, now)
                                           for row in rows if row[3]))
            else:
                self.output.write(histogram(rows))


def histogram(rows):
    """As bcc prints its power-of-two histograms."""
    most = max(calls for _, _, _, calls in rows)
    text = "\nadvice = %s\n     %-19s : count     distribution\n" % (
        rows[0][0], "nsecs")
    for _, low, high, calls in rows:
        text += "%10d -> %-10d : %-8d |%-40s|\n" % (
            low, high, calls, "*" * (40 * calls // most))
    return text


def trace(bpf):
    """Print events until there is a wish to stop."""
    gc.disable()    # it would look for cycles in all that waits, and find none
    stop = Stop()
    events = Events(bpf)
    printer = Printer(bpf, Output(stop))
    loss, tell_at = Loss(), 0
    last = False
    while not last:
        if not events.behind:
            stop.sleep(PAUSE)
        last = stop.wished()
        now = time.monotonic()
        printer.print(events.read(last))
        while last and events.behind and events.newest < now * 1e9:
            printer.print(events.read(last))
        if last:
            printer.print(events.waiting)
        if last or now >= tell_at:
            loss.tell(events.lost())
            tell_at = now + 1


def summarize(bpf):
    """Print a summary each interval, and at the end."""
    stop = Stop()
    summary = Summary(bpf, Output(stop))
    loss = Loss()
    due = time.monotonic()
    left = args.count or math.inf
    last = False
    while left and not last:
        due += args.interval or math.inf
        if due < time.monotonic():      # it was stopped for a while
            due = time.monotonic() + args.interval
        while time.monotonic() < due and not stop.wished():
            stop.sleep(max(0, min(PAUSE, due - time.monotonic())))
        last = stop.wished()
        summary.print()
        loss.tell(bpf["lost"][0].value + skipped_runs(bpf))
        left -= 1


def print_program():
    refusals = []
    for probe in wanted_probes():
        try:
            check(probe)
            print(program(probe, probe_points(probe)), flush=True)
            return
        except Unavailable as e:
            refusals.append("no %s: %s" % (probe, e))
    die("; ".join(refusals))


def main():
    if BPF is None:
        die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
            "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)" % no_bcc)
    if os.geteuid() != 0 and not args.ebpf:
        die("needs root, try: sudo %s" % " ".join(sys.argv))
    if args.mntnsmap and foreign_headers():
        die("--mntnsmap needs the headers of the running kernel, not those in "
            "BCC_KERNEL_SOURCE")
    try:
        if args.ebpf:
            print_program()
        elif aggregate:
            summarize(start())
        else:
            trace(start())
    except BrokenPipeError:
        pass    # the reader has seen enough
    except OSError as e:
        die("can't write: %s" % e.strerror)


main()
