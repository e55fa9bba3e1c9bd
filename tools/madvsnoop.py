#!/usr/bin/python3
#
# madvsnoop  Trace madvise(2), process_madvise(2): advice, result, latency.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: madvsnoop [-h] [-p PID] [-a LIST] [-L] [-S] [-R] [...]
#                  [interval] [count]
#
# Copyright (c) 2026 The madvsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 28-Nov-2026   The madvsnoop authors   Created this.

import argparse
import bisect
import collections
import contextlib
import csv
import ctypes
import datetime
import errno
import functools
import io
import operator
import os
import re
import select
import signal
import struct
import sys
import time

signal.signal(signal.SIGINT, signal.SIG_DFL)    # no traceback while starting
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    from bcc import BPF, PerfSWConfig, PerfType
    from bcc.containers import filter_by_containers
    from bcc.libbcc import lib
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", lambda *_: 1)
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

prog = os.path.basename(sys.argv[0])
if prog == "-":
    prog = "madvsnoop"          # read from standard input

# The arguments of enter(), by those of the call.
SYSCALLS = {"madvise": "ARG(1), ARG(2), ARG(3), ANY",
            "process_madvise": "ARG(2), ARG(3), ARG(4), ARG(1)"}
PROBES = ["fentry", "tracepoint", "kprobe"]
ANY = -2**31            # no filter, or no pidfd
NEVER = float("inf")
BATCH = 10000           # events that are printed at once
LAST_BATCH = 1 << 19    # at the end: all that the buffer can hold
RING_BYTES = 32 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_FRAMES = 32
PIDFD_SELF = -10000, -10001, -20000             # linux/fcntl.h, Linux 6.14
BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACING = 2, 26             # linux/bpf.h
HOST_PID_INODE = 0xeffffffc     # PROC_PID_INIT_INO: the host's PID namespace
# Functions that call madvise() without a frame: in glibc and musl.
FRAMELESS = r"((__)?madvise|process_madvise|syscall)\+.* \[(libc|ld-musl)"
ADVICES = dict(enumerate((      # asm-generic/mman-common.h, Linux 7.0
    "NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED 5 6 7 FREE REMOVE DONTFORK "
    "DOFORK MERGEABLE UNMERGEABLE HUGEPAGE NOHUGEPAGE DONTDUMP DODUMP "
    "WIPEONFORK KEEPONFORK COLD PAGEOUT POPULATE_READ POPULATE_WRITE "
    "DONTNEED_LOCKED COLLAPSE").split()))
ADVICES.update({100: "HWPOISON", 101: "SOFT_OFFLINE", 102: "GUARD_INSTALL",
                103: "GUARD_REMOVE"})
advice_numbers = {name: number for number, name in ADVICES.items()}

def warn(message):
    print("%s: %s" % (prog, message), file=sys.stderr, flush=True)

def die(message):
    sys.exit("%s: %s" % (prog, message))

def advice_list(text):
    """Return the numbers of a list such as DONTNEED,FREE,25."""
    numbers = []
    for name in text.upper().replace("MADV_", "").replace(" ", "").split(","):
        number = advice_numbers.get(name, name)
        if not re.fullmatch("-?[0-9]+", str(number)) or (
                abs(int(number)) >= 2**31):
            raise argparse.ArgumentTypeError("no such advice in " + text)
        numbers.append(int(number))
    return numbers

def positive(text):
    """Return a positive number, of seconds or microseconds."""
    if not 0 < float(text) < 1e9:
        raise argparse.ArgumentTypeError("not a positive number below 1e9")
    return float(text)


examples = """examples:
    ./madvsnoop              # trace all calls
    ./madvsnoop -Lm 1000     # calls of 1 ms or longer: waiting for a lock?
    ./madvsnoop -MU -n redis # show the mapping, and the caller's stack
    ./madvsnoop -a FREE,25   # only these kinds of advice
    ./madvsnoop -S           # summarize by process and advice until Ctrl-C
    ./madvsnoop -SR 1        # each second: what is returned, what comes back
    ./madvsnoop -SH 1 10     # and histograms, every second, 10 times
"""
parser = argparse.ArgumentParser(
    prog=prog, description="Trace madvise(2) and process_madvise(2)",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
parser.add_argument("-T", "--timestamp", action="store_true",
    help="show the time of calls and summaries")
parser.add_argument("-p", "--pid", type=int, default=ANY,
    help="trace only this process")
parser.add_argument("-n", "--name", type=os.fsencode, default=b"",
    help="show only command names that contain this")
parser.add_argument("-a", "--advice", type=advice_list, default=[],
    metavar="LIST", help="trace only this: names or numbers, DONTNEED,FREE,25")
parser.add_argument("-x", "--failed", action="store_true",
    help="show only calls that failed")
parser.add_argument("-m", "--min-us", type=positive, default=0,
    help="show only calls that took this many microseconds")
parser.add_argument("-d", "--duration", type=positive, default=NEVER,
    help="end after this many seconds")
parser.add_argument("-L", "--lock", action="store_true",
    help="show how long calls waited for mmap_lock (Linux 5.11)")
parser.add_argument("-M", "--mapping", action="store_true",
    help="show what is mapped at ADDR: file, [heap], anon")
parser.add_argument("-U", "--user-stack", action="store_true",
    help="show the caller's user-space stack")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values, in full")
parser.add_argument("-v", "--verbose", action="store_true",
    help="show thread IDs and the probe type")
parser.add_argument("-S", "--summary", action="store_true",
    help="summarize by process and advice")
parser.add_argument("-R", "--refaults", action="store_true",
    help="with -S, count faults on pages given back (Linux 5.12)")
parser.add_argument("-H", "--histogram", action="store_true",
    help="show a latency histogram for each advice")
parser.add_argument("--cgroupmap",
    help="trace cgroups in this BPF map only")
parser.add_argument("--mntnsmap",
    help="trace mount namespaces in this BPF map only")
parser.add_argument("--probe", choices=["auto"] + PROBES, default="auto",
    help="probe type to use (default: the first that works)")
parser.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
parser.add_argument("interval", type=positive, nargs="?", default=NEVER,
    help="seconds between two summaries, with -S or -H")
parser.add_argument("count", type=int, nargs="?",
    help="number of summaries")
args = getattr(parser, "parse_intermixed_args", parser.parse_args)()

aggregate = args.summary or args.histogram
if len(args.name) > 15:
    parser.error("-n: the kernel keeps 15 bytes of a command name")
if args.count is not None and not 0 < args.count < 1e9:
    parser.error("count: not a positive number below 1e9")
if aggregate and (args.mapping or args.user_stack):
    parser.error("-S and -H do not go with -M and -U")
if args.histogram and (args.csv or args.name):
    parser.error("-H does not go with -j and -n")
if args.refaults and (args.failed or not args.summary):
    parser.error("-R requires -S, and does not go with -x")
if args.interval != NEVER and not aggregate:
    parser.error("an interval requires -S or -H")
if not ANY <= args.pid < 2**32:
    parser.error("out of range: %d" % args.pid)
for path in args.cgroupmap, args.mntnsmap:      # they go into the C text
    if path is not None and not (os.path.exists(path) and re.fullmatch(
            "/[A-Za-z0-9_./:@+-]+", path)):
        parser.error("not the plain path of a pinned map: %s" % path)

bpf_text = """
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>

struct event {
    u64 ts, ns;         /* ts in ns, 0 outside a traced call */
    u64 lock_ts, lock_ns;       /* lock_ts: 0 if it waits for no lock */
    u64 addr, len, caller;
    u32 pid, tid;
    s32 advice, ret, pidfd, stack_bytes;        /* pidfd: ANY for madvise */
    u8 comm[16];
#ifdef MAX_FRAMES
    u64 stack[MAX_FRAMES];
#endif
};
/* By thread. Entries stay: deleting would cost 200 ns. CPUs take 128 each. */
BPF_TABLE("lru_hash", u32, struct event, calls, 65536);
BPF_PERCPU_ARRAY(lost, u64, 1);

/* Atomic: another thread can preempt the program, and run it on this CPU. */
static __always_inline void count_lost(void)
{
    int zero = 0;
    u64 *count = lost.lookup(&zero);

    if (count)
        __sync_fetch_and_add(count, 1);
}

static __always_inline void output(void *ctx, struct event *event);
static __always_inline void give_back(struct event *event);

static __always_inline int enter(u64 addr, u64 len, s32 advice, s32 pidfd)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id;
    struct event *event = calls.lookup(&tid);

    if (event && event->ts) {           /* the return was missed */
        event->ts = 0;
        count_lost();
    }
    if ((ONLY_PID != ANY && pid != ONLY_PID) || !(ONLY_ADVICES) ||
        container_should_be_filtered())
        return 0;
    struct event new = {
        .ts = bpf_ktime_get_ns(), .addr = addr, .len = len, .pid = pid,
        .tid = tid, .advice = advice, .pidfd = pidfd};
    if (event)
        *event = new;
    else if (calls.update(&tid, &new))
        count_lost();
    return 0;
}

/* Return the traced call that this thread is in, or 0. */
static __always_inline struct event *current_call(void)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct event *event = calls.lookup(&tid);

    return event && event->ts ? event : 0;
}

static __always_inline int leave(void *ctx, long ret)
{
    struct event *event = current_call();

    if (!event)
        return 0;
    event->ns = bpf_ktime_get_ns() - event->ts;
    event->ret = ret;
    if (event->pidfd != ANY)       /* first struct iovec, 0 on error */
        bpf_probe_read_user(&event->addr, 16, (void *)event->addr);
    if (event->pidfd != ANY && ret >= 0)
        event->len = ret;
    if (event->ns >= MIN_NS && (ret < 0 || !ONLY_FAILED))
        output(ctx, event);
    event->ts = 0;
    return 0;
}
"""

rows_text = """
#ifdef RING_PAGES
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif
#ifdef HAS_TASK_REGS    /* Linux 5.15; BCC 0.18 has no names for them */
static void *(*get_task)(void) = (void *)158;
static struct pt_regs *(*get_task_regs)(void *task) = (void *)175;
#endif

static __always_inline void output(void *ctx, struct event *event)
{
    bpf_get_current_comm(event->comm, sizeof(event->comm));
#ifdef MAX_FRAMES
    event->stack_bytes = bpf_get_stack(ctx, event->stack, sizeof(event->stack),
                                       BPF_F_USER_STACK);
#ifdef HAS_TASK_REGS
    /* A walk misses the caller of a frameless function: glibc's madvise(). */
    bpf_probe_read_kernel(&event->caller, sizeof(event->caller),
                          &PT_REGS_RET(get_task_regs(get_task())));
#ifdef bpf_target_x86
    bpf_probe_read_user(&event->caller, sizeof(event->caller),
                        (void *)event->caller);
#endif
#endif
#endif
#ifdef RING_PAGES
    if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
#else
    if (events.perf_submit(ctx, event, sizeof(*event)))
#endif
        count_lost();
}
"""

sums_text = """
struct process_advice { u32 pid; s32 advice; };
struct sum {
    u64 calls, failed, bytes, ns, lock_ns, refaults;
    u64 max_ns, error_ts;
    s64 error;          /* the latest, at error_ts */
    u8 comm[16];
};
/* User space deletes the entries of processes that have ended. Those of others
   stay: it takes what was added since the last reading. */
BPF_TABLE("percpu_hash", struct process_advice, struct sum, sums, 10240);

struct advice_slot { s32 advice, slot; };
BPF_TABLE("percpu_hash", struct advice_slot, u64, latencies,
          SHOW_HISTOGRAM ? 10240 : 1);
BPF_HISTOGRAM(histogram, struct advice_slot, SHOW_HISTOGRAM ? 10240 : 1);

static __always_inline void add(struct event *event)
{
    struct process_advice key = {event->pid, event->advice};
    struct sum empty = {}, *sum = sums.lookup_or_try_init(&key, &empty);

    if (!sum) {
        count_lost();
        return;
    }
    if (!sum->calls)
        bpf_get_current_comm(sum->comm, sizeof(sum->comm));
    __sync_fetch_and_add(&sum->ns, event->ns);
    if (event->lock_ns)
        __sync_fetch_and_add(&sum->lock_ns, event->lock_ns);
    if (event->ret < 0) {
        __sync_fetch_and_add(&sum->failed, 1);
        sum->error = -event->ret;
        sum->error_ts = event->ts + event->ns;
    } else {
        __sync_fetch_and_add(&sum->bytes, event->len);
    }
    if (event->ns > sum->max_ns)            /* may be lost when preempted */
        sum->max_ns = event->ns;
    __sync_fetch_and_add(&sum->calls, 1);   /* last: it makes a row */
}

static __always_inline void output(void *ctx, struct event *event)
{
    if (SHOW_SUMMARY)
        add(event);
    if (SHOW_HISTOGRAM) {
        struct advice_slot key = {event->advice, bpf_log2l(event->ns)};
        u64 zero = 0, *count = latencies.lookup_or_try_init(&key, &zero);

        if (count)
            __sync_fetch_and_add(count, 1);
        else
            count_lost();
    }
#ifdef PAGE_BITS
    if (event->ret == 0 && event->pidfd == ANY)
        give_back(event);
#endif
}
"""

lock_text = """
RAW_TRACEPOINT_PROBE(mmap_lock_start_locking)
{
    struct event *event = current_call();

    if (event)
        event->lock_ts = bpf_ktime_get_ns();
    return 0;
}

RAW_TRACEPOINT_PROBE(mmap_lock_acquire_returned)
{
    struct event *event = current_call();

    if (event && event->lock_ts) {
        event->lock_ns += bpf_ktime_get_ns() - event->lock_ts;
        event->lock_ts = 0;
    }
    return 0;
}
"""

refaults_text = """
#if __clang_major__ < 12
#error "-R requires LLVM 12"
#endif
/* DONTNEED, FREE, REMOVE, PAGEOUT, DONTNEED_LOCKED give pages back. */
#define GIVE_BACK (1 << 4 | 1 << 8 | 1 << 9 | 1 << 21 | 1 << 24)
#define ADVICES 25
#define MAX_BLOCKS 1025     /* 256 Mbytes of 4 Kbyte pages */
struct block { u64 pid, number; };              /* 64 pages */
/* A bit for each page that was given back, by advice. */
struct given_back { u64 pages[ADVICES]; };
BPF_HASH(blocks, struct block, struct given_back, 65536);

static __always_inline void give_back(struct event *event)
{
    u64 first = event->addr >> PAGE_BITS, bits = ~0ULL << (first & 63);
    u64 last = (event->addr + event->len - 1) >> PAGE_BITS;
    struct block block = {event->pid, first / 64};
    struct given_back empty = {}, *given;
    u32 advice = event->advice;

    if (!event->len || advice >= ADVICES || !(GIVE_BACK >> advice & 1))
        return;
    for (int i = 0; i < MAX_BLOCKS && block.number <= last / 64; i++) {
        if (block.number == last / 64)
            bits &= ~0ULL >> (63 - (last & 63));
        given = blocks.lookup_or_try_init(&block, &empty);
        if (given)
            __sync_fetch_and_or(&given->pages[advice], bits);
        else
            count_lost();
        bits = ~0ULL;
        block.number++;
    }
    if (block.number <= last / 64)
        count_lost();
}

static __always_inline int page_fault(u64 address)
{
    u64 pid = bpf_get_current_pid_tgid() >> 32, page = address >> PAGE_BITS;
    u64 bit = 1ULL << (page & 63);
    struct block block = {pid, page / 64};
    struct process_advice key = {.pid = pid};
    u32 advices[] = {8, 21, 9, 24, 4};  /* the last explains the fault best */
    struct given_back *given = 0;
    struct sum *sum = 0;

    if (ONLY_PID == ANY || pid == ONLY_PID)
        given = blocks.lookup(&block);
    if (!given)
        return 0;
#pragma unroll
    for (int i = 0; i < 5; i++) {
        u64 *pages = &given->pages[advices[i]];
        if ((*pages & bit) && (__sync_fetch_and_and(pages, ~bit) & bit)) {
            key.advice = advices[i];
            sum = sums.lookup(&key);
        }
    }
    if (sum)
        __sync_fetch_and_add(&sum->refaults, 1);
    return 0;
}

#ifdef HAS_PAGE_FAULT_USER      /* x86, RISC-V; costs half of a perf event */
RAW_TRACEPOINT_PROBE(page_fault_user) { return page_fault(ctx->args[0]); }
RAW_TRACEPOINT_PROBE(page_fault_kernel) { return page_fault(ctx->args[0]); }
#else
int on_page_fault(struct bpf_perf_event_data *ctx)
{ return page_fault(ctx->addr); }
#endif
"""

probe_text = {"fentry": """
#define ARG(n) PT_REGS_PARM##n##_SYSCALL(regs)
KFUNC_PROBE(%(function)s, struct pt_regs *regs) { return enter(%(args)s); }
KRETFUNC_PROBE(%(function)s, struct pt_regs *regs, long ret)
{ return leave(ctx, ret); }
""", "tracepoint": """
#define ARG(n) ((u64 *)args)[n + 1]
TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s) { return enter(%(args)s); }
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{ return leave(args, args->ret); }
""", "kprobe": """
#define ARG(n) a##n
int syscall__%(name)s(struct pt_regs *ctx, u64 a1, u64 a2, u64 a3, u64 a4)
{ return enter(%(args)s); }
int kretprobe__%(function)s(struct pt_regs *ctx)
{ return leave(ctx, PT_REGS_RC(ctx)); }
"""}

def kernel_symbols():
    """Return the text of /proc/kallsyms, or exit if it has no symbols."""
    with contextlib.suppress(OSError), open("/proc/kallsyms") as f:
        symbols = f.read()
        if "sys_madvise\n" in symbols:
            return symbols
    die("/proc/kallsyms has no symbols: run on the host, or with --privileged")

def program(probe):
    """Return the C text for a probe type."""
    symbols = kernel_symbols()
    wanted = ["advice == %d" % number for number in args.advice]
    macros = {
        "ANY": "(%d)" % ANY, "ONLY_PID": args.pid,
        "ONLY_ADVICES": " || ".join(wanted) or 1,
        "ONLY_FAILED": int(args.failed), "MIN_NS": int(args.min_us * 1000),
        "SHOW_SUMMARY": int(args.summary),
        "SHOW_HISTOGRAM": int(args.histogram)}
    if args.refaults:
        macros["PAGE_BITS"] = PAGE_BYTES.bit_length() - 1
    if args.user_stack:
        macros["MAX_FRAMES"] = MAX_FRAMES
    if "__traceiter_page_fault_user\n" in symbols:
        macros["HAS_PAGE_FAULT_USER"] = 1
    if "bpf_task_pt_regs\n" in symbols:
        macros["HAS_TASK_REGS"] = 1
    if "bpf_ringbuf_output\n" in symbols:
        macros["RING_PAGES"] = RING_BYTES // PAGE_BYTES
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    text += [filter_by_containers(args), bpf_text]
    text.append(sums_text if aggregate else rows_text)
    if args.lock:
        text.append(lock_text)
    if args.refaults:
        text.append(refaults_text)
    prefix = "sys_"             # of kprobes, BCC replaces it
    if probe == "fentry":
        prefix = BPF.get_syscall_prefix(BPF).decode()
    for name in SYSCALLS:
        if "sys_%s\n" % name in symbols:
            text.append(probe_text[probe] % {
                "name": name, "function": prefix + name,
                "args": SYSCALLS[name]})
    return "".join(text)

@contextlib.contextmanager
def silenced(silent):
    """Discard what the block prints on stderr, also from C, if silent."""
    saved = os.dup(2)
    if silent:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)

def load(text):
    """Return a BPF object, attached. Exception if the kernel refuses it."""
    bpf = BPF(text=text, cflags=["-w"])     # attaches all but the following
    for name in re.findall(r"int syscall__(\w+)", text):
        bpf.attach_kprobe(event=bpf.get_syscall_fnname(name.encode()),
                          fn_name="syscall__" + name)
    if args.refaults and "#define HAS_PAGE_FAULT_USER" not in text:
        bpf.attach_perf_event(
            ev_type=PerfType.SOFTWARE, ev_config=PerfSWConfig.PAGE_FAULTS,
            fn_name="on_page_fault", sample_period=1)
    return bpf

def remedy():
    """Return what to do if every probe type was refused, or None."""
    release = os.uname().release
    headers = os.environ.get("BCC_KERNEL_SOURCE",
                             "/lib/modules/%s/build" % release)
    if not supported(BPF_PROG_TYPE_KPROBE, 0):
        return ("requires CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON; in a "
                "container: --privileged")
    if not os.path.exists(headers + "/include"):
        return ("no kernel headers in %s: install linux-headers-%s (Debian, "
                "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or "
                "set BCC_KERNEL_SOURCE; in a container: -v /lib/modules:"
                "/lib/modules -v /usr/src:/usr/src" % (headers, release))
    if args.probe != "fentry" and not BPF.tracepoint_exists(
            "sched", "sched_switch"):
        return ("no tracepoints, try: mount -t tracefs tracefs /sys/kernel/"
                "tracing; mount -t debugfs debugfs /sys/kernel/debug")

def attach():
    """Return a BPF object, attached by the first probe type that works."""
    probes = PROBES if args.probe == "auto" else [args.probe]
    refusals = []
    for probe in probes:
        if probe == "fentry" and not supported(BPF_PROG_TYPE_TRACING, 0):
            refusals.append("no fentry: not supported by this kernel")
            continue
        text = program(probe)
        try:
            with silenced(probe != probes[-1]):
                bpf = load(text)
        except Exception as e:      # BCC raises no other class
            refusals.append("no %s: %s" % (probe, e))
            continue
        if args.verbose:
            warn("; ".join(["tracing by " + probe] + refusals))
        bpf["calls"].zero()     # in flight: the return may have been missed
        bpf["lost"].clear()
        return bpf
    if args.refaults:
        refusals.append("-R requires Linux 5.12 and LLVM 12")
    die("can't trace madvise: " + (remedy() or "; ".join(refusals)))

@functools.lru_cache(maxsize=4096)
def printable(name):
    """Return a name, which can have any bytes, as text."""
    text = name.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)

@functools.lru_cache(maxsize=4096)
def local_time(second):
    """Return a time in seconds since 1970 as text; in CSV it is ISO 8601."""
    local = datetime.datetime.fromtimestamp(second).astimezone()
    return local.isoformat() if args.csv else local.strftime("%H:%M:%S")

@functools.lru_cache(maxsize=4096)
def size(count):
    """Return a number of bytes in 5 characters or less, in full for CSV."""
    if count < 1024 or args.csv:
        return str(count)
    unit = (count.bit_length() - 1) // 10
    tenths = count * 10 >> 10 * unit
    number = tenths // 10 if tenths >= 1000 else tenths / 10
    return "%g%s" % (number, " KMGTPE"[unit])

def advice_name(number):
    return ADVICES.get(number, number)

def error_name(number):
    return errno.errorcode.get(number, number)

def average(row, ns):
    """Return a sum of ns as us a call. Refaults can come without calls."""
    return "%.2f" % (ns / max(row.calls, 1) / 1e3)

def result(event):
    if event.ret < 0:
        return error_name(-event.ret)
    return size(event.ret)

@functools.lru_cache(maxsize=None)
def target(pid, pidfd):
    """Return the process that a call is for, or None if it is unknown."""
    if pidfd == ANY or pidfd in PIDFD_SELF:
        return pid
    with contextlib.suppress(OSError), open(
            "/proc/%d/fdinfo/%d" % (pid, pidfd), "rb") as f:
        found = re.search(rb"\nPid:\t([1-9]\d*)\n", f.read())
        if found and in_host_pids:
            return int(found.group(1))

@functools.lru_cache(maxsize=None)
def memory_map(pid):
    """Return the (end, start, name) of each mapping of a process."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/%s/maps" % pid, "rb") as f:
        lines = re.findall(rb"(\w+)-(\w+)(?: +\S+){4} *(.*)", f.read())
    return [(int(end, 16), int(start, 16), name) for start, end, name in lines]

def mapping(event):
    """Return the name of what is mapped at the event's address."""
    found = memory_map(target(event.pid, event.pidfd))
    i = bisect.bisect(found, (event.addr + 1,))     # the first that ends later
    if i == len(found) or event.addr < found[i][1]:
        return "-"
    return printable(found[i][2]) or "anon"

def symbol(address, pid):
    """Return the text of an address, or None if it is in no file."""
    name = printable(BPF.sym(address, pid, show_module=True, show_offset=True))
    if " [" in name:
        return name.replace("[unknown]", "%x" % address)

def stack(event):
    """Return the symbols of a user-space stack as text."""
    count = max(event.stack_bytes, 0) // 8
    addresses = struct.unpack_from("=%dQ" % count, event.stack)
    frames = [symbol(address, event.pid) for address in addresses]
    if frames and re.match(FRAMELESS, frames[0] or ""):
        if event.caller not in addresses[:2]:
            frames.insert(1, symbol(event.caller, event.pid))
    frames = [frame for frame in frames if frame] or ["[unknown]"]
    return ";".join(frames) if args.csv else "\n    ".join([""] + frames)


Event = collections.namedtuple(
    "Event", "ts ns lock_ts lock_ns addr len caller pid tid advice ret pidfd "
    "stack_bytes comm stack")
event_struct = struct.Struct("=QQQQQQQIIiiii16s%ds" % (
    args.user_stack * MAX_FRAMES * 8))
COUNTERS = ["calls", "failed", "bytes", "ns", "lock_ns", "refaults"]
Row = collections.namedtuple(
    "Row", COUNTERS + ["pid", "advice", "comm", "error", "max_ns"])

pid_form = "%%-%ds" % len(open("/proc/sys/kernel/pid_max").read().strip())
all_columns = [     # title, format, whether it is shown, value of an event
    ("TIME", "%-8s", args.timestamp, lambda e:
     local_time(int(time.time() - time.monotonic() + e.ts / 1e9))),
    ("PID", pid_form, True, lambda e: e.pid),
    ("TID", pid_form, args.verbose, lambda e: e.tid),
    ("COMM", "%-15s", True, lambda e: printable(e.comm)),
    ("ADVICE", "%-10s" if args.lock else "%-13s", True,
     lambda e: advice_name(e.advice)),
    ("ADDR", "%-12s", True, lambda e: "%x" % e.addr),
    ("LEN", "%5s", True, lambda e: size(e.len)),
    ("LAT(us)", "%7.1f", True, lambda e: e.ns / 1e3),
    ("LOCK(us)", "%8.1f", args.lock, lambda e: e.lock_ns / 1e3),
    ("RET", "%-6s", True, result),
    ("TPID", pid_form if args.mapping else "%s", True, lambda e:
     "-" if e.pidfd == ANY else target(e.pid, e.pidfd) or "?"),
    ("MAPPING", "%s", args.mapping, mapping),
    ("STACK" if args.csv else "", "%s", args.user_stack, stack)]
if args.summary:    # the value of a Row; print_table() completes the format
    all_columns = [
        ("TIME", "%-", args.timestamp and args.csv, lambda _:
         local_time(int(time.time()))),
        ("PID", "%-", True, lambda row: row.pid),
        ("COMM", "%-", True, lambda row: printable(row.comm)),
        ("ADVICE", "%-", True, lambda row: advice_name(row.advice)),
        ("CALLS", "%", True, lambda row: row.calls),
        ("FAILED", "%", True, lambda row: row.failed),
        ("ERROR", "%-", True, lambda row:
         error_name(row.error) if row.failed else "-"),
        ("LEN", "%", True, lambda row: size(row.bytes)),
        ("AVG(us)", "%", True, lambda row: average(row, row.ns)),
        ("LOCK(us)", "%", args.lock, lambda row: average(row, row.lock_ns)),
        ("MAX-EVER", "%", True, lambda row: "%.2f" % (row.max_ns / 1e3)),
        ("TOTAL(ms)", "%", True, lambda row: "%.3f" % (row.ns / 1e6)),
        ("REFAULTS", "%", args.refaults, lambda row: row.refaults)]
columns = [(title, form, value)
           for title, form, shown, value in all_columns if shown]
titles, forms, values = zip(*columns)

def table(rows, forms):
    """Return rows as text or CSV."""
    if not args.csv:
        line = " ".join(forms) + "\n"
        lines = "".join(line % tuple(row) for row in rows)
        return lines.replace(" \n", "\n")       # before a stack
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

def write(text):
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as e:
        warn("can't write: %s" % e.strerror)
        os._exit(1)     # at exit, Python would write again

def print_events():
    target.cache_clear()
    memory_map.cache_clear()
    events = map(Event._make, event_struct.iter_unpack(b"".join(batch)))
    if args.name:
        events = [event for event in events if args.name in event.comm]
    rows = ([value(event) for value in values] for event in events)
    write(table(rows, forms))

def process_name(pid):
    """Return the command name of a process, or None if it has ended."""
    with contextlib.suppress(OSError), open("/proc/%d/comm" % pid, "rb") as f:
        return f.read()[:-1]

def read_row(key, cpus, comm):
    """Return what a process and an advice added since their last row."""
    pair = key.pid, key.advice
    totals = [sum(getattr(cpu, name) for cpu in cpus) for name in COUNTERS]
    added = map(operator.sub, totals, read_before[pair])
    read_before[pair] = totals
    comm = comm or max(bytes(cpu.comm) for cpu in cpus)     # some have none
    latest = max(cpus, key=lambda cpu: cpu.error_ts)
    longest = max(cpu.max_ns for cpu in cpus)
    return Row(*added, *pair, comm, latest.error, longest)

def read_sums(bpf, all_rows):
    """Add to the next table all rows, or those of processes that ended."""
    sums = bpf["sums"]
    ended = set()
    for key in list(sums.keys()):
        # Ask first: the sums of a process that has ended are final.
        comm = process_name(key.pid) if in_host_pids else b""
        if comm is None or all_rows:
            row = read_row(key, sums[key], comm)
            if (row.calls or row.refaults) and args.name in row.comm:
                pending_rows.append(row)
        if comm is None:
            del sums[key], read_before[key.pid, key.advice]
            ended.add(key.pid)
    if args.refaults and ended:
        for block in list(bpf["blocks"].keys()):
            if block.pid in ended:
                del bpf["blocks"][block]

def print_table():
    """Print what was added since the last table, most total time first."""
    rows, sized = [], []
    if not args.csv:
        rows.append(titles)
    for row in sorted(pending_rows, key=lambda row: -row.ns):
        rows.append([value(row) for value in values])
    pending_rows.clear()
    for form, cells in zip(forms, zip(*rows)):
        width = max(len(str(cell)) for cell in cells)
        sized.append("%s%ds" % (form, width))
    write(table(rows, sized))

def print_histograms(bpf):
    """Print the latencies since the last time, by advice."""
    histogram = bpf["histogram"]
    for key, cpus in bpf["latencies"].items():
        slot = key.advice, key.slot
        count = sum(cpus)
        if count > counted[slot]:
            histogram[key] = ctypes.c_uint64(count - counted[slot])
            counted[slot] = count
    histogram.print_log2_hist(
        "nsecs", "advice", advice_name, strip_leading_zero=True,
        bucket_sort_fn=sorted)
    histogram.clear()
    write("")           # flush

def print_summary(bpf):
    if args.timestamp and not args.csv:
        print("\n" + local_time(int(time.time())))
    elif args.summary and not args.csv:
        print()
    if args.summary:
        print_table()
    if args.histogram:
        print_histograms(bpf)

def stop(signum, _):
    global stop_requested
    stop_requested = True
    signal.signal(signum, signal.SIG_DFL)       # a second one kills the tool

def collect(_, data, size):
    """Add an event to the batch. When it is full, libbpf keeps its place."""
    batch.append(ctypes.string_at(data, event_struct.size))
    return -1 if len(batch) >= (LAST_BATCH if stop_requested else BATCH) else 0

def open_events(bpf):
    """Return a function that collects the pending events."""
    if hasattr(bpf["events"], "open_ring_buffer"):
        bpf["events"].open_ring_buffer(collect)
        return bpf.ring_buffer_consume
    bpf["events"].open_perf_buffer(collect, 256, lost_by_perf.append)
    return functools.partial(bpf.perf_buffer_poll, 0)

def report_lost(bpf, reported):
    """Report the events lost since the last report. Return the total."""
    lost = max(bpf["lost"].sum(0).value, sum(lost_by_perf))
    if lost > reported:
        warn("lost %d events" % (lost - reported))
    return lost

def report_skipped(bpf):
    """Report how often the kernel skipped a program (Linux 5.12)."""
    skipped = 0
    for function in bpf.funcs.values():
        with open("/proc/self/fdinfo/%d" % function.fd) as f:
            skipped += sum(map(int, re.findall(r"misses:\s*(\d+)", f.read())))
    if skipped:
        warn("program runs skipped by the kernel: %d; calls may be missing"
             % skipped)

def trace(bpf):
    """Print rows until a signal, -d, count, or until nobody reads stdout."""
    global stop_requested
    consume = None if aggregate else open_events(bpf)
    report_due = now = time.monotonic()
    end = now + args.duration
    due = now + args.interval
    stdout = select.poll()
    stdout.register(1, 0)
    done = reported = tables = 0
    if aggregate and not args.csv:
        write("Tracing madvise calls... Hit Ctrl-C to end.\n")
    else:
        write(table([titles], [form.replace(".1f", "s") for form in forms]))
    while not done:
        wait = 0 if len(batch) >= BATCH else min(0.05, due - now, end - now)
        reader_left = stdout.poll(1000 * max(0, wait))
        now = time.monotonic()
        done = stop_requested or bool(reader_left) or now >= end
        stop_requested = done           # collect all that is pending
        if not aggregate:
            batch.clear()
            consume()
            print_events()
        elif done or now >= due:
            read_sums(bpf, True)
            print_summary(bpf)
            due = max(due + args.interval, now)
            tables += 1
            done = done or tables == args.count
        elif now >= report_due:
            read_sums(bpf, False)
        if done or now >= report_due:
            reported = report_lost(bpf, reported)
            report_due = now + 1
    report_skipped(bpf)

def check_system():
    """Exit, or warn, if something is missing that an option requires."""
    symbols = kernel_symbols()
    if args.lock and "__traceiter_mmap_lock_start_locking\n" not in symbols:
        die("-L requires the tracepoints of mmap_lock: Linux 5.11")
    if (args.mapping or args.user_stack) and not in_host_pids:
        die("-M and -U require the host's PID namespace; in a container: "
            "--pid=host")
    if not aggregate and not in_host_pids:
        warn("TPID is unknown in this PID namespace; in a container: "
             "--pid=host")

def main():
    if BPF is None:
        die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
            "Ubuntu), python3-bcc (Fedora), python-bcc (Arch)" % no_bcc)
    if os.geteuid() != 0:
        die("needs root: run it as root or with sudo")
    try:
        sys.stdout = open(1, "w", 1 << 20, errors="replace")
    except OSError as e:        # it is closed
        die("can't write: %s" % e.strerror)
    if args.ebpf:
        write(program(args.probe.replace("auto", "tracepoint")))
        return
    check_system()
    bpf = attach()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    trace(bpf)


batch, lost_by_perf = [], []
pending_rows = []       # of -S
read_before = collections.defaultdict(lambda: [0] * len(COUNTERS))
counted = collections.Counter()         # in latencies, by (advice, slot)
in_host_pids = not os.path.exists("/proc/self/ns/pid") or (
    os.stat("/proc/self/ns/pid").st_ino == HOST_PID_INODE)
stop_requested = False
main()
