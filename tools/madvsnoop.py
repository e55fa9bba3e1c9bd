#!/usr/bin/python3
#
# madvsnoop  Trace madvise(2), process_madvise(2): advice, result, latency.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: madvsnoop [-h] [-p PID] [-a LIST] [-S] [...] [interval] [count]
#
# Copyright (c) 2026 The madvsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 26-Nov-2026   The madvsnoop authors   Created this.

import argparse
import bisect
import contextlib
import csv
import ctypes
import errno
import functools
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
prog = os.path.basename(sys.argv[0])
warn = functools.partial(print, prog + ":", file=sys.stderr, flush=True)
try:
    from bcc import BPF
    from bcc.containers import filter_by_containers
    from bcc.libbcc import lib
except (ImportError, OSError, AttributeError) as e:
    sys.exit("%s: needs BCC's Python module (%s): install python3-bpfcc "
             "(Debian, Ubuntu), python3-bcc (Fedora), python-bcc (Arch)"
             % (prog, e))

BATCH = 10000       # events that are printed at once
# The arguments of enter(), by those of the call.
syscalls = {"madvise": "ARG(1), ARG(2), ARG(3), ANY",
            "process_madvise": "ARG(2), ARG(3), ARG(4), ARG(1)"}
ANY = -2**31    # no filter, or no pidfd

advices = dict(enumerate(       # asm-generic/mman-common.h, Linux 7.0
    "NORMAL RANDOM SEQUENTIAL WILLNEED DONTNEED 5 6 7 FREE REMOVE DONTFORK "
    "DOFORK MERGEABLE UNMERGEABLE HUGEPAGE NOHUGEPAGE DONTDUMP DODUMP "
    "WIPEONFORK KEEPONFORK COLD PAGEOUT POPULATE_READ POPULATE_WRITE "
    "DONTNEED_LOCKED COLLAPSE".split()))
advices.update(enumerate(
    "HWPOISON SOFT_OFFLINE GUARD_INSTALL GUARD_REMOVE".split(), 100))

examples = """examples:
    ./madvsnoop              # trace all calls
    ./madvsnoop -a FREE,25   # only these kinds of advice
    ./madvsnoop -m 1000      # only calls that took 1 ms or longer
    ./madvsnoop -MU -n redis # show the mapping, and the caller's stack
    ./madvsnoop -S           # summarize by process and advice until Ctrl-C
    ./madvsnoop -SH 1 10     # and histograms, every second, 10 times
"""

def advice_list(text):
    """Return the numbers of a list such as DONTNEED,FREE,25."""
    numbers = {name: number for number, name in advices.items()}
    names = text.upper().replace("MADV_", "").replace(" ", "").split(",")
    return [range(ANY, -ANY).index(int(numbers.get(name, name))) + ANY
            for name in names]      # in an int, or ValueError


parser = argparse.ArgumentParser(
    description="Trace madvise(2) and process_madvise(2)",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
option = parser.add_argument
flag = functools.partial(option, action="store_true")
flag("-T", "--timestamp", help="show the time of calls and summaries")
option("-p", "--pid", type=int, default=ANY, help="trace only this process")
option("-t", "--tid", type=int, default=ANY, help="trace only this thread")
option("-n", "--name", type=os.fsencode, default=b"",
    help="trace only command names that contain this")
option("-a", "--advice", type=advice_list, default=[], metavar="LIST",
    help="trace only this advice: names or numbers, as DONTNEED,FREE,25")
flag("-x", "--failed", help="show only calls that failed")
option("-m", "--min-us", type=float, help="minimum latency")
option("-d", "--duration", type=float, help="seconds to trace")
flag("-M", "--mapping", help="show what is mapped at ADDR: file, [heap], anon")
flag("-U", "--user-stack", help="show the caller's user-space stack")
flag("-j", "--csv", help="print comma-separated values, in full")
flag("-v", "--verbose", help="show thread IDs and the probe type")
flag("-S", "--summary", help="summarize by process and advice")
flag("-H", "--histogram", help="show a latency histogram for each advice")
option("--cgroupmap", help="trace cgroups in this BPF map only")
option("--mntnsmap", help="trace mount namespaces in this BPF map only")
option("--probe", choices=("auto", "fentry", "tracepoint", "kprobe"),
    default="auto", help="probe type to use (default: the first that works)")
flag("--ebpf", help=argparse.SUPPRESS)
option("interval", type=float, nargs="?",
    help="seconds between two summaries, with -S or -H")
option("count", type=int, nargs="?", help="number of summaries")
args = parser.parse_args()
aggregate = args.summary or args.histogram
if aggregate and (args.mapping or args.user_stack) or (
        args.histogram and args.csv):
    parser.error("-S and -H do not go with -M and -U, nor -H with -j")
if args.interval is not None and not aggregate:
    parser.error("an interval requires -S or -H")
if len(args.name) > 15:
    parser.error("-n: the kernel keeps 15 bytes of a command name")
for number in args.min_us, args.duration, args.interval, args.count:
    if number is not None and not 0 < number < 1e9:
        parser.error("%s is not a positive number below 1e9" % number)
for path in args.cgroupmap, args.mntnsmap:
    if path is not None and not (os.path.exists(path) and re.fullmatch(
            "/[A-Za-z0-9_./:@+-]+", path)):     # it goes into the C text
        parser.error("%s is not the plain path of a pinned map" % path)

event_struct = struct.Struct("=QQQQQIIiiii16s")
pid_format = "%%-%ds" % len(open("/proc/sys/kernel/pid_max").read().strip())
columns = [
    ("TIME", "%-8s", args.timestamp), ("PID", pid_format, True),
    ("TID", pid_format, args.verbose), ("COMM", "%-15s", True),
    ("ADVICE", "%-13s", True), ("ADDR", "%-12s", True), ("LEN", "%5s", True),
    ("LAT(us)", "%7s", True), ("RET", "%-6s", True),
    ("TPID", pid_format if args.mapping else "%s", True),
    ("MAPPING", "%s", args.mapping),
    ("STACK" if args.csv else "", "\b%s", args.user_stack)]
if args.summary:
    columns = [("TIME", "", args.timestamp and args.csv)] + list(zip(
        "PID COMM ADVICE CALLS FAILED LEN AVG(us) MAX-EVER TOTAL(ms)".split(),
        (pid_format + " %-15s %-8s %7s %6s %5s %7s %8s %9s").split(),
        [True] * 9))
line = " ".join(form for _, form, shown in columns if shown) + "\n"
line = line.replace(" \b", "")      # a stack begins with a line end
shown_values = operator.itemgetter(
    *[i for i, (_, _, shown) in enumerate(columns) if shown])
titles = shown_values([title for title, _, _ in columns])
batch, stopped, lost_by_perf, sums_shown = [], [], [], {}

bpf_text = """
#include <uapi/linux/ptrace.h>

struct event {
    u64 ts, ns;         /* ts in ns, 0 outside a traced call */
    u64 addr, len, caller;
    u32 pid, tid;
    s32 advice, ret, pidfd, stack;      /* pidfd is ANY for madvise */
    u8 comm[16];
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

static __always_inline int enter(u64 addr, u64 len, s32 advice, s32 pidfd)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id;
    struct event *event = calls.lookup(&tid);

    if (event && event->ts) {           /* the return was missed */
        event->ts = 0;
        count_lost();
    }
    if ((ONLY_PID != ANY && pid != ONLY_PID) ||
        (ONLY_TID != ANY && tid != ONLY_TID) ||
        !(ONLY_ADVICES) || container_should_be_filtered())
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

static __always_inline int leave(void *ctx, long ret)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct event *event = calls.lookup(&tid);

    if (!event || !event->ts)
        return 0;
    event->ns = bpf_ktime_get_ns() - event->ts;
    event->ret = ret;
    if (event->pidfd != ANY)       /* first struct iovec, 0 on error */
        bpf_probe_read_user(&event->addr, 16, (void *)event->addr);
    if (event->pidfd != ANY && ret >= 0)
        event->len = ret;
    if (event->ns >= MIN_NS && (ret < 0 || !ONLY_FAILED) && (ONLY_NAMES))
        output(ctx, event);
    event->ts = 0;
    return 0;
}
"""

output_text = {"rows": """
#ifdef RING_PAGES
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif
BPF_STACK_TRACE(stacks, USER_STACK ? 16384 : 1);
static void *(*get_task)(void) = (void *)158;   /* named since BCC 0.22 */
static struct pt_regs *(*get_task_regs)(void *task) = (void *)175;

static __always_inline void output(void *ctx, struct event *event)
{
    bpf_get_current_comm(event->comm, sizeof(event->comm));
    event->stack = USER_STACK ? stacks.get_stackid(ctx, BPF_F_USER_STACK) : 0;
    /* A walk misses the caller of a frameless function: glibc's madvise(). */
    if (USER_STACK && TASK_REGS) {
        bpf_probe_read_kernel(&event->caller, sizeof(event->caller),
                              &PT_REGS_RET(get_task_regs(get_task())));
#ifdef bpf_target_x86
        bpf_probe_read_user(&event->caller, sizeof(event->caller),
                            (void *)event->caller);
#endif
    }
#ifdef RING_PAGES
    if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
#else
    if (events.perf_submit(ctx, event, sizeof(*event)))
#endif
        count_lost();
}
""", "sums": """
struct sum_key {
    s32 advice, number; /* -PID, or the slot of a histogram */
};
struct sum {
    u64 calls, ns, failed, bytes, max_ns;
    u8 comm[16];
};

/* Never cleared: user space prints what was added since the last table. */
BPF_TABLE("percpu_hash", struct sum_key, struct sum, sums, 10240);
BPF_HISTOGRAM(printed, struct sum_key, HISTOGRAM ? 10240 : 1);  /* for -H */

static __always_inline void add(struct event *event, s32 number)
{
    struct sum_key key = {event->advice, number};
    struct sum *sum = sums.lookup(&key);
    if (!sum) {
        struct sum empty = {};
        bpf_get_current_comm(empty.comm, sizeof(empty.comm));
        sum = sums.lookup_or_try_init(&key, &empty);
    }
    if (!sum) {
        count_lost();
        return;
    }
    __sync_fetch_and_add(&sum->ns, event->ns);
    __sync_fetch_and_add(event->ret < 0 ? &sum->failed : &sum->bytes,
                         event->ret < 0 ? 1 : event->len);
    __sync_fetch_and_add(&sum->calls, 1);   /* last: a new call is printed */
    if (event->ns > sum->max_ns)            /* may be lost when preempted */
        sum->max_ns = event->ns;
}

static __always_inline void output(void *ctx, struct event *event)
{
    if (SUMMARY)
        add(event, -event->pid);
    if (HISTOGRAM)
        add(event, bpf_log2l(event->ns));
}
"""}

probe_text = {"fentry": """
#define ARG(n) PT_REGS_PARM##n##_SYSCALL(regs)
KFUNC_PROBE(%(fn)s, struct pt_regs *regs) { return enter(%(args)s); }
KRETFUNC_PROBE(%(fn)s, struct pt_regs *regs, long ret)
{ return leave(ctx, ret); }
""", "tracepoint": """
#define ARG(n) ((u64 *)args)[n + 1]
TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s) { return enter(%(args)s); }
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{ return leave(args, args->ret); }
""", "kprobe": """
#define ARG(n) a##n
int syscall__%(fn)s(struct pt_regs *ctx, u64 a1, u64 a2, u64 a3, u64 a4)
{ return enter(%(args)s); }
int leave_%(fn)s(struct pt_regs *ctx) { return leave(ctx, PT_REGS_RC(ctx)); }
"""}

def program(probe):
    """Return the C text for a probe type."""
    symbols = open("/proc/kallsyms", "rb").read()
    names = "({ bpf_get_current_comm(event->comm, 16); %s; })" % " || ".join(
        " && ".join("event->comm[%d] == %d" % (start + i, byte)
                    for i, byte in enumerate(args.name))
        for start in range(16 - len(args.name)))
    macros = {
        "ANY": "(%d)" % ANY, "ONLY_PID": args.pid, "ONLY_TID": args.tid,
        "ONLY_FAILED": int(args.failed), "SUMMARY": int(args.summary),
        "ONLY_ADVICES": " || ".join(
            "advice == %d" % n for n in args.advice) or 1,
        "ONLY_NAMES": names if args.name else 1,
        "MIN_NS": int((args.min_us or 0) * 1000),
        "USER_STACK": int(args.user_stack), "HISTOGRAM": int(args.histogram),
        "TASK_REGS": int(b" bpf_task_pt_regs\n" in symbols)}
    if b" bpf_ringbuf_output\n" in symbols:
        macros["RING_PAGES"] = (32 << 20) // os.sysconf("SC_PAGE_SIZE")
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    text += [filter_by_containers(args), bpf_text,
             output_text["sums" if aggregate else "rows"]]
    prefix = "" if probe == "tracepoint" else (     # takes 0.2 s
        BPF.__new__(BPF).get_syscall_prefix().decode())
    for name, arguments in syscalls.items():
        if b"sys_%s\n" % name.encode() in symbols:
            text.append(probe_text[probe] % {
                "name": name, "fn": prefix + name, "args": arguments})
    return "".join(text)

def reason(error, log):
    """Return the line that says why BCC failed. Exit without headers."""
    if "kernel headers" in log:
        sys.exit("%s: BCC needs kernel headers: install linux-headers-%s "
                 "(Debian, Ubuntu), kernel-devel (Fedora) or linux-headers "
                 "(Arch), or set BCC_KERNEL_SOURCE" % (prog, os.uname()[2]))
    if "struct tracepoint__" in log:
        return ("no tracepoints, try: mount -t tracefs tracefs /sys/"
                "kernel/tracing; mount -t debugfs debugfs /sys/kernel/debug")
    return (re.findall("bpf: .*|error: .*", log) + [str(error)])[0]

def start():
    """Return a BPF object, attached with the first probe type that works."""
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", lambda *_: 1)
    refusals = []
    saved = [os.dup(1), os.dup(2)]
    reader, writer = os.pipe2(os.O_NONBLOCK)    # 64 Kbytes: enough with -w
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    try:
        for probe in probe_text if args.probe == "auto" else [args.probe]:
            try:
                os.write(writer, b"\n")         # read() requires data
                if probe == "fentry" and not supported(26, None):
                    raise RuntimeError("not supported by this kernel")
                text = program(probe)
                bpf = BPF(text=text, cflags=["-w"])  # attaches all but kprobes
                for name in re.findall(r"int leave_(\w+)", text):
                    bpf.attach_kretprobe(event=name, fn_name="leave_" + name)
                    bpf.attach_kprobe(event=name, fn_name="syscall__" + name)
                break
            except Exception as e:
                ctypes.CDLL(None).fflush(None)
                log = os.read(reader, 1 << 16).decode(errors="replace")
                refusals.append("no %s: %s" % (probe, reason(e, log)))
        else:
            sys.exit(prog + ": can't trace madvise: " + "; ".join(refusals))
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in [reader, writer] + saved:
            os.close(fd)
    bpf["calls"].zero()     # in flight: the return may have been missed
    bpf["lost"].clear()
    if args.verbose:
        sys.stderr.write("Tracing by %s.\n" % "; ".join([probe] + refusals))
    return bpf

@functools.lru_cache(maxsize=4096)
def printable(name):
    """Return a name, which can have any bytes, as text."""
    text = name.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)

@functools.lru_cache(maxsize=4096)
def clock(second):
    return time.strftime("%H:%M:%S", time.localtime(second))

@functools.lru_cache(maxsize=4096)
def size(count):
    """Return a number of bytes in 5 characters or less, in full for CSV."""
    if count < 1024 or args.csv:
        return str(count)
    unit = (count.bit_length() - 1) // 10
    tenths = count * 10 >> 10 * unit
    return "%g%s" % (tenths / 10 if tenths < 1000 else tenths // 10,
                     " KMGTPE"[unit])

@functools.lru_cache(maxsize=None)
def pidfd_target(pid, fd):
    """Return the process that a pidfd of another one is for, or None."""
    if fd in (-10000, -10001, -20000):      # PIDFD_SELF, Linux 6.14
        return pid
    with contextlib.suppress(OSError, TypeError):
        with open("/proc/%d/fdinfo/%d" % (pid, fd), "rb") as f:
            return int(re.search(rb"\nPid:\t([1-9]\d*)\n", f.read())[1])

@functools.lru_cache(maxsize=None)
def memory_map(pid):
    """Return the (end, start, name) of each mapping of a process."""
    with contextlib.suppress(OSError):
        lines = open("/proc/%d/maps" % pid, "rb").read()
        return [(int(end, 16), int(start, 16), name) for start, end, name
                in re.findall(rb"(\w+)-(\w+)(?: +\S+){4} *(.*)", lines)]

def mapping(pid, address):
    """Return the name of what is mapped at an address."""
    found = memory_map(pid) or []
    i = bisect.bisect(found, (address + 1,))    # the first that ends later
    is_in = i < len(found) and found[i][1] <= address
    return printable(found[i][2]) or "anon" if is_in else "-"

def stack(bpf, pid, number, caller):
    """Return the symbols of a user-space stack as text."""
    frames = list(bpf["stacks"].walk(number)) if number >= 0 else []
    frames[1:1] = [caller] * (caller not in frames[:2])     # 0: unreadable
    symbols = [printable(bpf.sym(
        address, pid, show_module=True, show_offset=True)).replace(
        "[unknown]", "%x" % address) for address in frames]
    symbols = [text for text in symbols if " [" in text] or ["[unknown]"]
    symbols += ["[missed: no room]"] * (number < 0)
    return ";".join(symbols) if args.csv else "\n    ".join([""] + symbols)

def rows(bpf, batch):
    """Yield the values of the shown columns for each event of a batch."""
    pidfd_target.cache_clear()
    memory_map.cache_clear()
    to_wall_clock = int((time.time() - time.monotonic()) * 1e9)
    for (ts, ns, addr, length, caller, pid, tid, advice, ret, pidfd, number,
         comm) in event_struct.iter_unpack(b"".join(batch)):
        target = pid if pidfd == ANY else pidfd_target(pid, pidfd)
        yield shown_values((
            clock((ts + to_wall_clock) // 10**9), pid, tid, printable(comm),
            advices.get(advice, advice), "%x" % addr, size(length),
            "%.*f" % (3 if args.csv else 1, ns / 1e3),
            size(ret) if ret >= 0 else errno.errorcode.get(-ret, ret),
            "-" if pidfd == ANY else target or "?",
            mapping(target, addr) if args.mapping and target else "-",
            stack(bpf, pid, number, caller) if args.user_stack else ""))

def print_tables(bpf):
    """Print what was added to the sums since the last time."""
    now, found = clock(int(time.time())), []
    for key, cpus in bpf["sums"].items():
        raw_key, pid = bytes(key), -key.number
        sums = [sum(getattr(cpu, field) for cpu in cpus)
                for field in ("calls", "ns", "failed", "bytes")]
        calls, ns, failed, length = map(
            operator.sub, sums, sums_shown.get(raw_key, [0] * 4))
        if not calls:
            continue
        sums_shown[raw_key] = sums
        if pid <= 0:
            bpf["printed"][key] = ctypes.c_uint64(calls)
            continue
        comm = max(bytes(cpu.comm) for cpu in cpus)     # of a thread
        with contextlib.suppress(OSError):
            comm = open("/proc/%d/comm" % pid, "rb").read()[:-1]
        found.append(shown_values((
            now, pid, printable(comm), advices.get(key.advice, key.advice),
            calls, failed, size(length), "%.2f" % (ns / calls / 1e3),
            "%.2f" % (max(cpu.max_ns for cpu in cpus) / 1e3),
            "%.3f" % (ns / 1e6))))
    found.sort(key=lambda row: float(row[-1]), reverse=True)
    if not args.csv and (args.summary or args.timestamp):
        print("\n" + now if args.timestamp else "")
    write([titles] * (args.summary and not args.csv) + found)
    if args.histogram:
        bpf["printed"].print_log2_hist(
            "nsecs", "advice", lambda n: advices.get(n, n),
            strip_leading_zero=True, bucket_sort_fn=sorted)
        bpf["printed"].clear()
        sys.stdout.flush()

def write(table):
    """Write rows to stdout, as text or CSV."""
    if args.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(table)
    else:
        sys.stdout.writelines(line % row for row in table)
    sys.stdout.flush()

def stop(signum, _):
    stopped.append(signum)
    signal.signal(signum, signal.SIG_DFL)   # a second one ends it at once

def collect(_, data, size):
    batch.append(ctypes.string_at(data, event_struct.size))
    # libbpf keeps its place. At the end, take all that the buffer can hold.
    return -1 if len(batch) >= (1 << 19 if stopped else BATCH) else 0

def events_reader(bpf):
    """Return a function that collects the pending events."""
    if hasattr(bpf["events"], "open_ring_buffer"):
        bpf["events"].open_ring_buffer(collect)
        return bpf.ring_buffer_consume
    bpf["events"].open_perf_buffer(collect, 256, lost_by_perf.append)
    return functools.partial(bpf.perf_buffer_poll, 0)

def main():
    bpf = start()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    consume = None if aggregate else events_reader(bpf)
    end, due = (time.monotonic() + (seconds or float("inf"))
                for seconds in (args.duration, args.interval))
    reader = select.poll()
    reader.register(1, 0)
    last = reported = report_at = tables = 0
    if aggregate and not args.csv:
        print("Tracing madvise calls... Hit Ctrl-C to end.", flush=True)
    else:
        write([titles])
    while not last:
        if len(batch) < BATCH and reader.poll(50) or time.monotonic() >= end:
            stopped.append("-d expired, or stdout closed")
        batch.clear()
        last, now = bool(stopped), time.monotonic()
        if not aggregate:
            consume()
            write(rows(bpf, batch))
        elif last or now >= due:
            print_tables(bpf)
            due = max(now, due + (args.interval or 0))
            tables += 1
            last = last or tables == args.count
        if last or now >= report_at:
            lost = max(bpf["lost"].sum(0).value, sum(lost_by_perf))
            if lost > reported:
                warn("lost %d events" % (lost - reported))
            reported, report_at = lost, now + 1
    skipped = re.findall(r"misses:\s*([1-9]\d*)", "".join(     # Linux 5.12
        open("/proc/self/fdinfo/%d" % function.fd).read()
        for function in bpf.funcs.values()))
    if skipped:
        warn("program runs skipped by the kernel: %d; calls may be missing"
             % sum(map(int, skipped)))


if os.geteuid() != 0 and not args.ebpf:
    sys.exit("%s: needs root, try: sudo %s" % (prog, " ".join(sys.argv)))
try:
    sys.stdout = open(1, "w", 1 << 20, errors="replace")
    if args.ebpf:
        print(program(args.probe.replace("auto", "tracepoint")), flush=True)
    else:
        main()
except Exception as e:
    warn("can't trace or write:", getattr(e, "strerror", None) or e)
    os._exit(1)     # skip the flush at exit, which would fail again
