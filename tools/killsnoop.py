#!/usr/bin/python3
#
# killsnoop  Trace signals: who sends which signal to whom, and the result.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: killsnoop [-h] [-x] [-p PID] [-T TPID] [-s LIST] [-a] [-n] [...]
#
# Copyright (c) 2015 Brendan Gregg.
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 20-Sep-2015   Brendan Gregg           Created this.
# 19-Feb-2016   Allan McAleavy          Migrated to BPF_PERF_OUTPUT.
# 26-Nov-2026   The killsnoop authors   Rewritten for all signals.

import argparse
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
# Arguments as the tracepoints name them. The order is that of the C enum.
syscalls = [
    ("kill", "args->pid, args->sig, 0"),
    ("tkill", "args->pid, args->sig, 0"),
    ("tgkill", "args->tgid, args->pid, args->sig"),
    ("rt_sigqueueinfo", "args->pid, args->sig, 0"),
    ("rt_tgsigqueueinfo", "args->tgid, args->pid, args->sig"),
    ("pidfd_send_signal", "args->pidfd, args->sig, 0"),
]
names = [name for name, _ in syscalls] + ["-"]
effects = {2: "ignored", 3: "pending"}
ANY = -2**31    # no filter; kill(2) accepts no such PID

signal_names = {number: number.name for number in signal.Signals}
signal_numbers = dict(signal.Signals.__members__)
for i in range(signal.SIGRTMAX - signal.SIGRTMIN + 1):
    signal_names[signal.SIGRTMIN + i] = "SIGRTMIN+%d" % i
    signal_numbers["SIGRTMIN+%d" % i] = signal.SIGRTMIN + i
    signal_numbers["SIGRTMAX-%d" % i] = signal.SIGRTMAX - i

examples = """examples:
    ./killsnoop               # trace all signals that processes send
    ./killsnoop -x            # only failed calls
    ./killsnoop -p 181        # only signals that PID 181 sends
    ./killsnoop -T 189        # only signals sent to PID 189
    ./killsnoop -s KILL,15    # only SIGKILL and SIGTERM
    ./killsnoop -nc           # show names: of signals, results and targets
    ./killsnoop -nca          # and signals that the kernel sends
    ./killsnoop -ncg          # and the sender's cgroup: service, container
    ./killsnoop -e            # hide what processes send to themselves
"""

def signals(text):
    """Return the signal numbers of a list such as 9,TERM,RTMIN+3."""
    return [range(signal.NSIG).index(int(signal_numbers.get(    # or ValueError
        "SIG" + re.sub("^SIG", "", name), name)))
        for name in text.upper().replace(" ", "").split(",")]


parser = argparse.ArgumentParser(
    description="Trace signals: who sends which signal to whom",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
option = parser.add_argument
integer = functools.partial(option, type=int, default=ANY)
flag = functools.partial(option, action="store_true")
flag("-x", "--failed", help="show only calls that failed")
integer("-p", "--pid", help="show only signals from this process")
integer("-T", "--tpid", help="show only signals to this process")
option("-s", "--signal", type=signals, default=[], metavar="LIST",
    help="show only these signals: numbers or names, as 9,TERM,RTMIN+3")
integer("-u", "--uid", help="show only senders with this user ID")
flag("-e", "--external", help="hide signals that a process sends to itself")
flag("-a", "--all", help="show also signals that no traced call explains")
flag("-n", "--names", help="show names of signals and results, not numbers")
flag("-c", "--tcomm", help="show the command name of the target")
flag("-U", "--print-uid", help="show the user ID of the sender")
flag("-g", "--cgroup", help="show the sender's cgroup: service or container")
flag("-v", "--verbose", help="show the system call and the probe type")
flag("-j", "--csv", help="print rows as comma-separated values")
option("-d", "--duration", type=float, help="end after this many seconds")
option("--cgroupmap", help="trace cgroups in this BPF map only")
option("--mntnsmap", help="trace mount namespaces in this BPF map only")
option("--probe", choices=("auto", "fentry", "tracepoint", "kprobe"),
    default="auto", help="probe type to use (default: the first that works)")
flag("--ebpf", help=argparse.SUPPRESS)
args = parser.parse_args()
if args.duration is not None and not 0 < args.duration < float("inf"):
    parser.error("argument -d/--duration: not a positive time")
for path in args.cgroupmap, args.mntnsmap:
    if path is not None and not (os.path.exists(path) and re.fullmatch(
            "/[A-Za-z0-9_./:@+-]+", path)):     # it goes into the C text
        parser.error("%s is not the plain path of a pinned map" % path)

event_struct = struct.Struct("=QQIIiiiBBH16s16s")
pid_format = "%%-%ds" % len(open("/proc/sys/kernel/pid_max").read())
columns = [
    ("TIME", "%-9s", True), ("UID", "%-6s", args.print_uid),
    ("PID", pid_format, True), ("COMM", "%-16s", True),
    ("SYSCALL", "%-17s", args.verbose),
    ("SIG", "%-11s" if args.names else "%-4s", True),
    ("TPID", pid_format, True), ("TCOMM", "%-16s", args.tcomm),
    ("RESULT", "%-7s" if args.cgroup else "%s", True),
    ("CGROUP", "%s", args.cgroup)]
line = " ".join(form for _, form, shown in columns if shown) + "\n"
shown_values = operator.itemgetter(
    *[i for i, (_, _, shown) in enumerate(columns) if shown])
batch, stopped, lost_by_perf, cgroups = [], [], [], {0: 0}  # 0: without -g

bpf_text = """
#include <uapi/linux/ptrace.h>
#include <uapi/asm/siginfo.h>

struct event {
    u64 ts, cgroup;     /* ts in ns, 0 outside a traced call */
    u32 pid, uid;
    s32 target, sig;    /* target is ANY if unknown */
    s32 ret;            /* before the return: the TID argument of tgkill */
    u8 syscall, is_thread;  /* target is a TID: look up its process */
    u16 effect;         /* 1 + signal_generate's result; 1 for SIGCONT */
    char comm[16], tcomm[16];
};

/* By thread. Entries stay: inserting and deleting would cost 200 ns a call. */
BPF_TABLE("lru_hash", u32, struct event, calls, 10240);
BPF_PERCPU_ARRAY(lost, u64, 1);
#ifdef RING_PAGES
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif

static __always_inline void count_lost(void)
{
    int zero = 0;
    u64 *count = lost.lookup(&zero);

    if (count)
        __sync_fetch_and_add(count, 1);     /* it can be preempted */
}

static __always_inline int wanted(u32 pid, u32 uid, s32 sig)
{
    return (ONLY_PID == ANY || pid == ONLY_PID) &&
           (ONLY_UID == ANY || uid == ONLY_UID) &&
           (ONLY_SIGNALS) && !container_should_be_filtered();
}

static __always_inline void fill(struct event *event, u32 pid, u32 uid,
                                 s32 target, s32 thread, s32 sig, u8 syscall)
{
    *event = (struct event) {
        .ts = bpf_ktime_get_ns(), .cgroup = SENDER_CGROUP, .pid = pid,
        .uid = uid, .sig = sig, .ret = thread, .syscall = syscall,
        .target = syscall == PIDFD_SEND_SIGNAL ? ANY : target};
    bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline void submit(void *ctx, struct event *event)
{
    if ((ONLY_FAILED && event->ret >= 0) ||
        (ONLY_EXTERNAL && event->target == event->pid) ||
        (ONLY_TPID != ANY && event->target != ONLY_TPID && !event->is_thread))
        return;
#ifdef RING_PAGES
    if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
#else
    if (events.perf_submit(ctx, event, sizeof(*event)))
#endif
        count_lost();
}

static __always_inline int enter(u8 syscall, s32 target, s32 arg2, s32 arg3)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id, uid = bpf_get_current_uid_gid();
    int has_thread = syscall == TGKILL || syscall == RT_TGSIGQUEUEINFO;
    s32 sig = has_thread ? arg3 : arg2;
    struct event *event = calls.lookup(&tid), new;

    if (event && event->ts) {           /* the return was missed */
        event->ts = 0;
        count_lost();
    }
    if (!wanted(pid, uid, sig))
        return 0;
    fill(&new, pid, uid, target, has_thread ? arg2 : 0, sig, syscall);
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

    if (event && event->ts) {
        event->ret = ret;
        submit(ctx, event);
        event->ts = 0;
    }
    return 0;
}

/* Fires in the sender's context, between entry and return of its call. */
TRACEPOINT_PROBE(signal, signal_generate)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id, uid = bpf_get_current_uid_gid();
    s32 sig = args->sig;
    struct event *event = calls.lookup(&tid), single;
    int in_call = event && event->ts && event->sig == sig;

    if (in_call && event->effect) {     /* next member of a process group */
        if (event->syscall == PIDFD_SEND_SIGNAL)
            event->target = ANY;
        return 0;
    }
    if (!in_call) {
        if ((args->code > 0 && sig != SIGCHLD) || args->code == SI_TIMER)
            pid = uid = 0;              /* the kernel itself */
        if (!ALL_SIGNALS || !wanted(pid, uid, sig))
            return 0;
        event = &single;
        fill(event, pid, uid, 0, 0, sig, NO_CALL);
    }
    event->effect = sig == SIGCONT ? 1 : 1 + args->result;
    bpf_probe_read_kernel(event->tcomm, 16, args->comm);    /* zero on error */
    if (event->syscall == KILL && event->target <= 0)
        return 0;                       /* a process group, as given */
    if (args->pid == tid) {
        event->target = id >> 32;
    } else if (args->pid != event->ret) {       /* else keep what was given */
        event->target = args->pid;
        event->is_thread = !args->group;
    }
    if (!in_call)
        submit(args, event);
    return 0;
}
"""

probe_text = {"fentry": """
KFUNC_PROBE(%(fn)s, struct pt_regs *regs)
{ return enter(%(id)s, PT_REGS_PARM1(regs), PT_REGS_PARM2(regs),
               PT_REGS_PARM3(regs)); }
KRETFUNC_PROBE(%(fn)s, struct pt_regs *regs, long ret)
{ return leave(ctx, ret); }
""", "tracepoint": """
TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s)
{ return enter(%(id)s, %(args)s); }
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{ return leave(args, args->ret); }
""", "kprobe": """
int syscall__%(fn)s(struct pt_regs *ctx, int arg1, int arg2, int arg3)
{ return enter(%(id)s, arg1, arg2, arg3); }
int leave_%(fn)s(struct pt_regs *ctx) { return leave(ctx, PT_REGS_RC(ctx)); }
"""}

def program(probe):
    """Return the C text for a probe type."""
    macros = {
        "ANY": "(%d)" % ANY, "ONLY_PID": args.pid, "ONLY_UID": args.uid,
        "ONLY_TPID": args.tpid, "ONLY_FAILED": int(args.failed),
        "ONLY_EXTERNAL": int(args.external), "ALL_SIGNALS": int(args.all),
        "SIGCHLD": int(signal.SIGCHLD), "SIGCONT": int(signal.SIGCONT),
        "ONLY_SIGNALS": " || ".join("sig == %d" % n for n in args.signal) or 1,
        "SENDER_CGROUP": "bpf_get_current_cgroup_id()" if args.cgroup else 0}
    symbols = open("/proc/kallsyms", "rb").read()
    if b" bpf_ringbuf_output\n" in symbols:
        macros["RING_PAGES"] = (16 << 20) // os.sysconf("SC_PAGE_SIZE")
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    text += ["enum { %s, NO_CALL };\n" % ", ".join(names[:-1]).upper(),
             filter_by_containers(args), bpf_text]
    prefix = "" if probe == "tracepoint" else (     # takes 0.2 s
        BPF.__new__(BPF).get_syscall_prefix().decode())
    for name, arguments in syscalls:
        if b"sys_%s\n" % name.encode() in symbols:
            text.append(probe_text[probe] % {
                "name": name, "id": name.upper(), "args": arguments,
                "fn": prefix + name})
    return "".join(text)

def reason(error, log):
    """Return the line that says why BCC failed. Exit without headers."""
    if "kernel headers" in log:
        sys.exit("%s: BCC needs kernel headers: install linux-headers-%s "
                 "(Debian, Ubuntu), kernel-devel (Fedora) or linux-headers "
                 "(Arch), or set BCC_KERNEL_SOURCE" % (prog, os.uname()[2]))
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
            sys.exit(prog + ": can't trace signals: " + "; ".join(refusals))
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

@functools.lru_cache(maxsize=None)
def status_number(pid, field):
    """Return the last number in a line of /proc/PID/status, or None."""
    with contextlib.suppress(OSError, TypeError):
        with open("/proc/%d/status" % pid, "rb") as f:
            return int(re.search(b"\n%s:.*\t(\\d+)\n" % field, f.read())[1])

def cgroup_path(cgroup):
    """Return a cgroup's path, or its number if it is gone, "-" if unknown."""
    inode = cgroup & 0xffffffff     # before Linux 5.5 a generation is above it
    if inode not in cgroups:
        top = re.findall(rb"^\S+ (\S+) cgroup2 ",
                         open("/proc/self/mounts", "rb").read(), re.M)[:1]
        for folder, _, _ in os.walk(*top) if top else ():
            with contextlib.suppress(OSError):
                path = printable(folder[len(top[0]):] or b"/")
                cgroups[os.stat(folder).st_ino & 0xffffffff] = path
        cgroups.setdefault(inode, cgroup if top else "-")
    return cgroups[inode]

@functools.lru_cache(maxsize=4096)
def printable(comm):
    """Return a command name, which can have any bytes, as text."""
    text = comm.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)

@functools.lru_cache(maxsize=4096)
def clock(second):
    return time.strftime("%H:%M:%S", time.localtime(second))

def rows(batch):
    """Yield the values of the shown columns for each event of a batch."""
    to_wall_clock = int((time.time() - time.monotonic()) * 1e9)
    for (ts, cgroup, pid, uid, target, sig, ret, syscall, is_thread, effect,
         comm, tcomm) in event_struct.iter_unpack(b"".join(batch)):
        if is_thread:
            target = status_number(target, b"Tgid") or target
        if args.tpid not in (ANY, target) or args.external and target in (
                pid, None if effect else status_number(pid, b"NStgid")):
            continue
        if args.names:
            ret = errno.errorcode.get(-ret, ret) or effects.get(effect, 0)
            sig = signal_names.get(sig, sig)
        yield shown_values((
            clock((ts + to_wall_clock) // 10**9), uid, pid,
            printable(comm) if pid else "kernel", names[syscall], sig,
            "-" if target == ANY else target,
            printable(tcomm) or "-", ret, cgroup_path(cgroup) if pid else "-"))

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
    return -1 if len(batch) >= (1 << 18 if stopped else BATCH) else 0

def main():
    bpf = start()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    if hasattr(bpf["events"], "open_ring_buffer"):
        bpf["events"].open_ring_buffer(collect)
        consume = bpf.ring_buffer_consume
    else:
        bpf["events"].open_perf_buffer(collect, 256, lost_by_perf.append)
        consume = functools.partial(bpf.perf_buffer_poll, 0)
    end = time.monotonic() + (args.duration or float("inf"))
    reader = select.poll()
    reader.register(1, 0)
    last = reported = report_at = 0
    write([shown_values([title for title, _, _ in columns])])
    while not last:
        if len(batch) < BATCH and reader.poll(50) or time.monotonic() >= end:
            stopped.append("-d expired, or stdout closed")
        last = bool(stopped)
        batch.clear()
        consume()
        write(rows(batch))
        status_number.cache_clear()
        if last or time.monotonic() >= report_at:
            lost = max(bpf["lost"].sum(0).value, sum(lost_by_perf))
            if lost > reported:
                warn("lost %d events" % (lost - reported))
            reported, report_at = lost, time.monotonic() + 1
    skipped = re.findall(r"misses:\s*([1-9]\d*)", "".join(     # Linux 5.12
        open("/proc/self/fdinfo/%d" % function.fd).read()
        for function in bpf.funcs.values()))
    if skipped:
        warn("program runs skipped by the kernel: %d; rows may be missing"
             % sum(map(int, skipped)))


if os.geteuid() != 0 and not args.ebpf:
    sys.exit("%s: needs root, try: sudo %s" % (prog, " ".join(sys.argv)))
if not args.ebpf and not BPF.tracepoint_exists("signal", "signal_generate"):
    sys.exit(prog + ": no tracepoints, try: mount -t tracefs tracefs /sys/"
             "kernel/tracing; mount -t debugfs debugfs /sys/kernel/debug")
try:
    sys.stdout = open(1, "w", 1 << 20, errors="replace")
    if args.ebpf:
        print(program(args.probe.replace("auto", "tracepoint")), flush=True)
    else:
        main()
except Exception as e:
    warn("can't trace or write:", getattr(e, "strerror", None) or e)
    os._exit(1)     # skip the flush at exit, which would fail again
