#!/usr/bin/python3
#
# madvsnoop  Trace madvise(2), process_madvise(2): advice, result, latency.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: madvsnoop [-h] [-T] [-p PID] [-t TID] [-n NAME] [-a LIST] [-x]
#                  [-m MIN_US] [-M] [-U] [-S] [-H] [...] [interval] [count]
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
try:
    from bcc import BPF
    from bcc.containers import filter_by_containers
    from bcc.libbcc import lib
except (ImportError, OSError, AttributeError) as e:
    sys.exit("%s: needs BCC's Python module (%s): install python3-bpfcc "
             "(Debian, Ubuntu), python3-bcc (Fedora), python-bcc (Arch)"
             % (prog, e))

BATCH_SIZE = 10000      # events
# The arguments of enter(), by those of the call.
syscalls = {"madvise": "ARG(1), ARG(2), ARG(3), NO_PIDFD",
            "process_madvise": "ARG(2), ARG(3), ARG(4), ARG(1)"}
ANY = -2**31    # no ID, no descriptor
FOREVER = float("inf")

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
    ./madvsnoop -S 1 10      # summarize every second, 10 times
    ./madvsnoop -H -d 30     # latency histograms of 30 seconds
"""

def positive(text):
    """Return a number above 0."""
    if not 0 < float(text) < 1e9:
        raise ValueError
    return float(text)

def advice_list(text):
    """Return the numbers of a list such as DONTNEED,FREE,25."""
    numbers = {name: number for number, name in advices.items()}
    names = text.upper().replace("MADV_", "").replace(" ", "").split(",")
    return [int(numbers.get(name, name)) for name in names]


parser = argparse.ArgumentParser(
    description="Trace madvise(2) and process_madvise(2)",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
option = parser.add_argument
number = functools.partial(option, type=int, default=ANY)
flag = functools.partial(option, action="store_true")
flag("-T", "--timestamp", help="show the time of calls and summaries")
number("-p", "--pid", help="trace only this process")
number("-t", "--tid", help="trace only this thread")
option("-n", "--name", type=os.fsencode, default=b"",
    help="trace only command names that contain this")
option("-a", "--advice", type=advice_list, default=[], metavar="LIST",
    help="trace only this advice: names or numbers, as DONTNEED,FREE,25")
flag("-x", "--failed", help="show only calls that failed")
option("-m", "--min-us", type=positive, default=0, help="minimum latency")
option("-d", "--duration", type=positive, default=0, help="seconds to trace")
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
option("interval", type=positive, nargs="?", default=FOREVER,
    help="seconds between two summaries, with -S or -H")
option("count", type=positive, nargs="?", default=FOREVER, help="how many")
args = parser.parse_args()
aggregate = args.summary or args.histogram
if aggregate and (args.mapping or args.user_stack) or (
        args.histogram and args.csv):
    parser.error("-S and -H do not go with -M and -U, nor -H with -j")
if args.interval < FOREVER and not aggregate:
    parser.error("an interval requires -S or -H")
for path in filter(None, (args.cgroupmap, args.mntnsmap)):  # for the C text
    if not (os.path.exists(path) and re.fullmatch(r"(?a)/[\w./:@+-]+", path)):
        parser.error("%s is not the plain path of a pinned map" % path)

event_struct = struct.Struct("=QQQQQIIiiii16s")
pid_format = "%%-%ds " % len(open("/proc/sys/kernel/pid_max").read().strip())
columns = {     # title: format, if shown
    "TIME": args.timestamp and "%-8s ", "PID": pid_format,
    "TID": args.verbose and pid_format, "COMM": "%-15s ",
    "ADVICE": "%-13s ", "ADDR": "%-12s ", "LEN": "%5s ", "LAT(us)": "%7s ",
    "RET": "%-6s ", "TPID": pid_format if args.mapping else "%s",
    "MAPPING": args.mapping and "%s",
    "STACK" if args.csv else "": args.user_stack and "%s"}
if args.summary:
    columns = {
        "TIME": args.timestamp and args.csv, "PID": pid_format,
        "COMM": "%-15s ", "ADVICE": "%-8s ", "CALLS": "%7s ",
        "FAILED": "%6s ", "LEN": "%5s ", "AVG(us)": "%7s ",
        "MAX-EVER": "%8s ", "TOTAL(ms)": "%9s"}
shown_values = operator.itemgetter(
    *[i for i, form in enumerate(columns.values()) if form])
titles = shown_values(list(columns))
line = "".join(map(str, shown_values(list(columns.values())))) + "\n"
reader = select.poll()
reader.register(1, 0)
batch, stopped, lost_by_perf = [], [], []

bpf_text = """
#include <uapi/linux/ptrace.h>

struct event {
    u64 ts, ns;         /* ts is 0 while the thread is in no traced call */
    u64 addr, len, caller;
    u32 pid, tid;
    s32 advice, ret, pidfd, stack;
    u8 comm[16];
};

/* By thread. Entries stay: inserting and deleting would cost 200 ns a call. */
BPF_TABLE("lru_hash", u32, struct event, calls, 10240);
BPF_ARRAY(lost, u64, 1);

static __always_inline int count_lost(void)
{
    int zero = 0;
    u64 *n = lost.lookup(&zero);
    if (n)
        __sync_fetch_and_add(n, 1);
    return 0;
}

static __always_inline void output(void *ctx, struct event *event);

static __always_inline int enter(u64 addr, u64 len, s32 advice, s32 pidfd)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id;
    struct event empty = {}, *event = calls.lookup_or_try_init(&tid, &empty);
    if (!event)
        return count_lost();
    if (event->ts)                      /* the return was missed */
        count_lost();
    event->ts = 0;
    if ((ONLY_PID != ANY && pid != ONLY_PID) ||
        (ONLY_TID != ANY && tid != ONLY_TID) ||
        !(ONLY_ADVICES) || container_should_be_filtered())
        return 0;
    *event = (struct event) {
        .ts = bpf_ktime_get_ns(), .addr = addr, .len = len, .pid = pid,
        .tid = tid, .advice = advice, .pidfd = pidfd};
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
    if (event->pidfd != NO_PIDFD)       /* first struct iovec, 0 on error */
        bpf_probe_read_user(&event->addr, 16, (void *)event->addr);
    if (event->pidfd != NO_PIDFD && ret >= 0)
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
#if USER_STACK
BPF_STACK_TRACE(stacks, 16384);
static void *(*current_task)(void) = (void *)158;   /* named since BCC 0.22 */
static struct pt_regs *(*task_regs)(void *task) = (void *)175;
#endif

static __always_inline void output(void *ctx, struct event *event)
{
    bpf_get_current_comm(event->comm, sizeof(event->comm));
#if USER_STACK
    event->stack = stacks.get_stackid(ctx, BPF_F_USER_STACK);
#if TASK_REGS
    /* A walk misses the caller of a frameless function: glibc's madvise(). */
    bpf_probe_read_kernel(&event->caller, sizeof(event->caller),
                          &PT_REGS_RET(task_regs(current_task())));
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
""", "sums": """
struct key {
    s32 advice, number; /* -PID, or the slot of a histogram */
};
struct sum {
    u64 calls, ns, failed, bytes, max_ns;
    u8 comm[16];
};

/* Never cleared: user space prints what was added since it last looked. */
BPF_TABLE("percpu_hash", struct key, struct sum, sums, 10240);

/* Atomic: another thread can preempt the program, and run it on this CPU. */
static __always_inline int add(struct event *event, s32 number)
{
    struct key key = {event->advice, number};
    struct sum empty = {}, *sum = sums.lookup(&key);
    if (!sum) {
        bpf_get_current_comm(empty.comm, sizeof(empty.comm));
        sum = sums.lookup_or_try_init(&key, &empty);
    }
    if (!sum)
        return count_lost();
    __sync_fetch_and_add(&sum->ns, event->ns);
    if (event->ret < 0)
        __sync_fetch_and_add(&sum->failed, 1);
    else
        __sync_fetch_and_add(&sum->bytes, event->len);
    __sync_fetch_and_add(&sum->calls, 1);
    if (event->ns > sum->max_ns)
        sum->max_ns = event->ns;
    return 0;
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
int kretprobe__%(fn)s(struct pt_regs *c) { return leave(c, PT_REGS_RC(c)); }
"""}

def program(probe):
    """Return the C text for a probe type. Raise RuntimeError without one."""
    macros = {
        "ANY": "(%d)" % ANY, "NO_PIDFD": "ANY", "ONLY_PID": args.pid,
        "ONLY_TID": args.tid, "ONLY_FAILED": int(args.failed),
        "ONLY_ADVICES": " || ".join(
            "advice == %d" % n for n in args.advice) or 1,
        "ONLY_NAMES": "({ bpf_get_current_comm(event->comm, 16); %s; })" % (
            " || ".join(" && ".join(
                "event->comm[%d] == %d" % (start + i, byte)
                for i, byte in enumerate(args.name))
                for start in range(16 - len(args.name))) or 0)
        if args.name else 1,
        "MIN_NS": int(args.min_us * 1000), "USER_STACK": int(args.user_stack),
        "TASK_REGS": int(BPF.ksymname(b"bpf_task_pt_regs") != -1),
        "SUMMARY": int(args.summary), "HISTOGRAM": int(args.histogram)}
    if BPF.ksymname(b"bpf_ringbuf_output") != -1:
        macros["RING_PAGES"] = (32 << 20) // os.sysconf("SC_PAGE_SIZE")
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    text += [filter_by_containers(args), bpf_text,
             output_text["sums" if aggregate else "rows"]]
    if args.histogram:      # a table that user space fills
        text.append("BPF_HISTOGRAM(printed, struct key, 10240);")
    prefix = BPF.__new__(BPF).get_syscall_prefix().decode()
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", None)
    if probe == "fentry" and supported and not supported(26, None):  # TRACING
        raise RuntimeError("not supported by this kernel")
    for name in syscalls:
        if BPF.ksymname((prefix + name).encode()) != -1:
            text.append(probe_text[probe] % {
                "name": name, "fn": prefix + name, "args": syscalls[name]})
    return "".join(text)

def reason(error, log):
    """Return in one line why BCC failed, which its libraries print."""
    if "kernel headers" in log:
        sys.exit("%s: BCC needs kernel headers: install linux-headers-%s "
                 "(Debian, Ubuntu), kernel-devel (Fedora) or linux-headers "
                 "(Arch), or set BCC_KERNEL_SOURCE" % (prog, os.uname()[2]))
    if "struct tracepoint__" in log:
        return ("no tracepoints, try: mount -t tracefs tracefs /sys/kernel/"
                "tracing; mount -t debugfs debugfs /sys/kernel/debug")
    return (re.findall("^bpf: .*", log, re.M) + [str(error)])[0]

def start():
    """Return a BPF object, attached with the first probe type that works."""
    refusals = []
    saved, (log_end, writer) = [os.dup(1), os.dup(2)], os.pipe()
    os.set_blocking(writer, False)      # the first 64 Kbytes will do
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    try:
        for probe in probe_text if args.probe == "auto" else [args.probe]:
            try:
                text = program(probe)
                bpf = BPF(text=text)            # attaches all but these
                for name in re.findall(r"int syscall__(\w+)", text):
                    bpf.attach_kprobe(event=name, fn_name="syscall__" + name)
                break
            except Exception as e:
                ctypes.CDLL(None).fflush(None)
                os.write(writer, b"\n")         # or read() may wait
                log = os.read(log_end, 1 << 16).decode(errors="replace")
                refusals.append("no %s: %s" % (probe, reason(e, log)))
        else:
            sys.exit(prog + ": can't trace madvise: " + "; ".join(refusals))
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
    bpf["calls"].clear()    # in flight: the return may have been missed
    bpf["lost"].clear()
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGALRM:
        signal.signal(number, stop)
    if args.verbose:
        sys.stderr.write("Tracing by %s.\n" % "; ".join([probe] + refusals))
    return bpf

@functools.lru_cache(maxsize=4096)
def printable(data):
    """Return a name, which can have any bytes, as text."""
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
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
        text = open("/proc/%d/fdinfo/%d" % (pid, fd)).read()
        return int(re.search(r"^Pid:\s*([1-9]\d*)$", text, re.M)[1])

@functools.lru_cache(maxsize=None)
def memory_map(pid):
    """Return the (end, start, name) of each mapping of a process."""
    with contextlib.suppress(OSError):
        return [(int(end, 16), int(start, 16), printable(name) or "anon")
                for start, end, name in re.findall(
                    rb"(\w+)-(\w+)(?: +\S+){4} *(.*)",
                    open("/proc/%d/maps" % pid, "rb").read())]

def mapping(pid, address):
    """Return the name of what is mapped at an address."""
    found = memory_map(pid) or []
    i = bisect.bisect(found, (address, FOREVER))    # ends after the address
    return found[i][2] if found[i:] and found[i][1] <= address else "-"

def stack(bpf, pid, number, caller):
    """Return the symbols of a user-space stack as text."""
    frames = list(bpf["stacks"].walk(number)) if number >= 0 else []
    frames[1:1] = [caller] * (caller not in frames[:2])
    symbols = [printable(bpf.sym(
        address, pid, show_module=True, show_offset=True)).replace(
        "[unknown]", "%x" % address) for address in frames]
    symbols = [text for text in symbols if " [" in text] or ["[unknown]"]
    return ";".join(symbols) if args.csv else "\n    ".join([""] + symbols)

def rows(bpf, batch):
    """Yield the values of the shown columns for each event of a batch."""
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

def print_tables(bpf, shown={}):
    """Print what was added to the sums since the last time."""
    now, found = clock(int(time.time())), []
    for key, cpus in bpf["sums"].items():
        place, pid = bytes(key), -key.number
        sums = [sum(getattr(cpu, field) for cpu in cpus)
                for field in ("calls", "ns", "failed", "bytes")]
        calls, ns, failed, length = map(
            operator.sub, sums, shown.get(place, [0] * 4))
        if not calls:
            continue
        shown[place] = sums
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

def stop(number, _):
    stopped.append(number)
    signal.signal(number, signal.SIG_DFL)   # a second one ends it at once

def collect(_, data, size):
    batch.append(ctypes.string_at(data, event_struct.size))
    # libbpf keeps its place. At the end, take all that the buffer can hold.
    return -1 if len(batch) >= (1 << 19 if stopped else BATCH_SIZE) else 0

def events_reader(bpf):
    """Return a function that collects the events that are there."""
    if hasattr(bpf["events"], "open_ring_buffer"):
        bpf["events"].open_ring_buffer(collect)
        return bpf.ring_buffer_consume
    bpf["events"].open_perf_buffer(collect, 256, lost_by_perf.append)
    return functools.partial(bpf.perf_buffer_poll, 0)

def main():
    bpf = start()
    consume = None if aggregate else events_reader(bpf)
    signal.setitimer(signal.ITIMER_REAL, args.duration)
    if aggregate and not args.csv:
        print("Tracing madvise calls... Hit Ctrl-C to end.", flush=True)
    else:
        write([titles])
    last = full = reported = report_at = 0
    due = time.monotonic() + args.interval
    while not last:
        if not full and reader.poll(50):        # ms; nobody reads stdout
            stopped.append("reader")
        last, now = bool(stopped), time.monotonic()
        if not aggregate:
            consume()
            full = len(batch) >= BATCH_SIZE
            write(rows(bpf, batch))
            batch.clear()
            pidfd_target.cache_clear()
            memory_map.cache_clear()
        elif last or now >= due:
            print_tables(bpf)
            due = max(now, due + args.interval)
            args.count -= 1
            last = last or args.count <= 0
        if last or now >= report_at:
            lost = max(bpf["lost"][0].value, sum(lost_by_perf))
            if lost > reported:
                sys.stderr.write("%s: lost %d events%s\n" % (
                    prog, lost - reported, aggregate * ": is a table full?"))
            reported, report_at = lost, now + 1
    skipped = sum(int(n) for program in bpf.funcs.values() for n in re.findall(
        r"misses:\s*(\d+)", open("/proc/self/fdinfo/%d" % program.fd).read()))
    if skipped:     # known since Linux 5.12
        sys.stderr.write("%s: the kernel skipped %d runs of a program\n" % (
            prog, skipped))


if os.geteuid() != 0:
    sys.exit("%s: needs root, try: sudo %s" % (prog, " ".join(sys.argv)))
if args.mntnsmap and "BCC_KERNEL_SOURCE" in os.environ:
    sys.exit(prog + ": --mntnsmap needs the running kernel's own headers: "
             "unset BCC_KERNEL_SOURCE")
if args.ebpf:
    print(program("tracepoint" if args.probe == "auto" else args.probe))
    sys.exit()
sys.stdout = open(1, "w", 1 << 20, sys.stdout.encoding, "replace")
try:
    main()
except OSError as e:
    sys.stderr.write("%s: can't write: %s\n" % (prog, e.strerror))
    os._exit(1)     # without another try at the end
