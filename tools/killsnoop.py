#!/usr/bin/python3
#
# killsnoop  Trace the system calls that send signals: who sends what to whom.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: killsnoop [-h] [-x] [-p PID] [-T TPID] [-s LIST] [-u UID] [-e] [-n]
#                  [-c] [-U] [-v] [-j] [-d SECONDS] [--cgroupmap PATH]
#                  [--mntnsmap PATH] [--probe {auto,fentry,tracepoint,kprobe}]
#
# Traces kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo and
# pidfd_send_signal by fentry, else syscall tracepoints, else kprobes.
#
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 22-Nov-2026   Written anew, after the killsnoop that Brendan Gregg created on
#               20-Sep-2015: the same options and columns, and more of both.

import argparse
import bisect
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
BATCH = 10000       # events to print before the next look at signals
BACKLOG = 1000000   # events that may wait to be printed, beside the buffer
BUFFER = 16 << 20   # bytes
THREADS = 4096      # that have a place of their own; a power of 2

try:
    from bcc import BPF
    from bcc.containers import filter_by_containers
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

examples = """examples:
    ./killsnoop               # trace all signals that processes send
    ./killsnoop -x            # only failed calls
    ./killsnoop -p 181        # only signals that PID 181 sends
    ./killsnoop -T 189        # only signals sent to PID 189
    ./killsnoop -s 9          # only SIGKILL
    ./killsnoop -s KILL,TERM  # only SIGKILL and SIGTERM, by name
    ./killsnoop -nc           # names: of signals, errors and targets
    ./killsnoop -e            # hide what processes send to themselves
    ./killsnoop -j -d 60      # CSV for one minute
"""


def whole_number(least, most):
    """An argparse type: a decimal number from least to most."""
    def number(text):
        if re.fullmatch("-?[0-9]+", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            "'%s' is not a number from %d to %d" % (text, least, most))
    return number


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("'%s' is not a time above 0" % text)
    return value


def signal_number(text):
    """9, KILL, SIGKILL, RTMIN+3 or RTMAX-1 as a number."""
    name = text.upper()
    if re.fullmatch("[0-9]+", name) and int(name) < signal.NSIG:
        return int(name)
    name = name[3:] if name.startswith("SIG") else name
    realtime = re.fullmatch("RT(MIN|MAX)([+-][0-9]+)?", name)
    if realtime:
        number = signal.Signals["SIGRT" + realtime.group(1)]
        number += int(realtime.group(2) or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    elif "SIG" + name in signal.Signals.__members__:
        return int(signal.Signals["SIG" + name])
    raise argparse.ArgumentTypeError("'%s' is not a signal" % text)


def signal_list(text):
    return sorted({signal_number(part.strip()) for part in text.split(",")})


def pinned_map(path):
    """A path that may stand in a C string."""
    if not re.fullmatch("/[A-Za-z0-9_./:@+-]+", path):
        raise argparse.ArgumentTypeError("'%s' is not a plain path" % path)
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError("'%s' does not exist" % path)
    return path


parser = argparse.ArgumentParser(
    description="Trace the system calls that send signals",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog=examples)
parser.add_argument("-x", "--failed", action="store_true",
    help="show only calls that failed")
parser.add_argument("-p", "--pid", type=whole_number(1, 2**31 - 1),
    help="show only signals that this process sends")
parser.add_argument("-T", "--tpid", type=whole_number(-2**31, 2**31 - 1),
    help="show only signals sent to this process, as TPID has it")
parser.add_argument("-s", "--signal", type=signal_list, metavar="LIST",
    help="show only these signals: numbers or names, as 9,TERM,RTMIN+3")
parser.add_argument("-u", "--uid", type=whole_number(0, 2**32 - 2),
    help="show only senders with this user ID")
parser.add_argument("-e", "--external", action="store_true",
    help="hide signals that a process sends to itself")
parser.add_argument("-n", "--names", action="store_true",
    help="show names of signals and errors instead of numbers")
parser.add_argument("-c", "--tcomm", action="store_true",
    help="show the command name of the target")
parser.add_argument("-U", "--print-uid", action="store_true",
    help="show the user ID of the sender")
parser.add_argument("-v", "--verbose", action="store_true",
    help="show the system call, and which probe type is in use")
parser.add_argument("-j", "--csv", action="store_true",
    help="print rows as comma-separated values")
parser.add_argument("-d", "--duration", type=seconds, metavar="SECONDS",
    help="end after this time")
parser.add_argument("--cgroupmap", type=pinned_map, metavar="PATH",
    help="show only senders in the cgroups of this pinned BPF map")
parser.add_argument("--mntnsmap", type=pinned_map, metavar="PATH",
    help="show only senders in the mount namespaces of this map")
parser.add_argument("--probe", default="auto",
    choices=("auto", "fentry", "tracepoint", "kprobe"),
    help="probe type to use (default: the first that works)")
parser.add_argument("--ebpf", action="store_true",
    help=argparse.SUPPRESS)
args = parser.parse_args()


def warn(message):
    try:    # with no buffer, which would be tried again at the end
        os.write(sys.stderr.fileno(), (message + "\n").encode(
            sys.stderr.encoding, "backslashreplace"))
    except OSError:
        pass    # there is nobody to tell


def die(message):
    warn("%s: %s" % (parser.prog, message))
    sys.exit(1)


# Name; what its tracepoint calls the target, the first argument; which
# argument is the signal.
syscalls = [
    ("kill", "pid", 2),
    ("tkill", "pid", 2),
    ("tgkill", "tgid", 3),
    ("rt_sigqueueinfo", "pid", 2),
    ("rt_tgsigqueueinfo", "tgid", 3),
    ("pidfd_send_signal", "pidfd", 2),
]
names = [name for name, _, _ in syscalls]

# The kernel functions behind a system call, and where they find its arguments.
entry_points = [
    ("__x64_sys_", "NATIVE"),
    ("__arm64_sys_", "NATIVE"),
    ("sys_", "NATIVE"),
    ("__ia32_sys_", "IA32"),
    ("__ia32_compat_sys_", "IA32"),
    ("__arm64_compat_sys_", "NATIVE"),
    ("compat_sys_", "NATIVE"),
]

bpf_text = """
#include <uapi/linux/ptrace.h>
#include <uapi/asm/siginfo.h>  /* a type in the tracepoints' formats */

#define COMM_LEN 16

struct event {
    u64 ts;
    s32 target;
    u32 pid;
    s32 sig;
    s16 ret;                /* 0 or an error number, which fits */
    u8 syscall;
    u8 target_is_fd;        /* a pidfd whose process is not known */
    char comm[COMM_LEN];
#ifdef WITH_UID
    u32 uid;
#endif
#ifdef WITH_TCOMM
    char tcomm[COMM_LEN];
#endif
};

struct call {
    struct event event;
    u32 tid;
    u32 active;
};

/*
 * A thread's latest call. Most threads find their place by their number in an
 * array, who finds it taken by another thread in a hash table, which costs a
 * call some 60 ns more. Entries stay, inactive between two calls: to insert
 * and delete them would cost more than all the rest.
 */
BPF_ARRAY(threads, struct call, THREADS);
BPF_TABLE("lru_hash", u32, struct call, other_threads, 10240);
BPF_ARRAY(unused, struct call, 1);      /* what an entry there begins as */
BPF_ARRAY(lost, u64, 1);
BPF_ARRAY(since, u64, 1);       /* when all was attached */
#ifdef RING_PAGES
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif

static __always_inline void count_lost(void)
{
    int zero = 0;
    u64 *n = lost.lookup(&zero);

    if (n)
        __sync_fetch_and_add(n, 1);
}

/* Of a call that was under way then, the return may have gone by before. */
static __always_inline void count_missed_return(u64 entered)
{
    int zero = 0;
    u64 *begin = since.lookup(&zero);

    if (begin && *begin && entered > *begin)
        count_lost();
}

static __always_inline struct call *find_thread(u32 tid)
{
    u32 i = tid & (THREADS - 1);
    struct call *call = threads.lookup(&i);

    if (!call || !call->tid)
        return NULL;
    return call->tid == tid ? call : other_threads.lookup(&tid);
}

static __always_inline struct call *add_thread(u32 tid)
{
    u32 i = tid & (THREADS - 1);
    int zero = 0;
    struct call *call = threads.lookup(&i), *first = unused.lookup(&zero);

    if (!call || !first)
        return NULL;
    /* After 10 s without a call the place is free again. */
    if (call->tid && (call->active ||
                      bpf_ktime_get_ns() - call->event.ts < 10000000000ULL))
        call = other_threads.lookup_or_try_init(&tid, first);
    if (call)
        call->tid = tid;
    return call;
}

static __always_inline int wanted_target(u8 syscall, s32 target)
{
    u64 id = bpf_get_current_pid_tgid();

#ifdef ONLY_TARGET
    if (target != ONLY_TARGET)
        return 0;
#endif
#ifdef ONLY_EXTERNAL
    if (target == id >> 32)
        return 0;
    /* These two can have a thread's number, here at least this one's. */
    if (target == (u32)id &&
        (syscall == TKILL || syscall == PIDFD_SEND_SIGNAL))
        return 0;
#endif
    return 1;
}

static __always_inline int enter(u8 syscall, s32 target, s32 sig)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id;
    struct call *call = find_thread(tid);
    struct event *event;

    if (call && call->active) {
        count_missed_return(call->event.ts);
        call->active = 0;
    }

#ifdef ONLY_PID
    if (pid != ONLY_PID)
        return 0;
#endif
#ifdef ONLY_UID
    if ((u32)bpf_get_current_uid_gid() != ONLY_UID)
        return 0;
#endif
#ifdef ONLY_SIGNALS
    if (!ONLY_SIGNALS(sig))
        return 0;
#endif
#ifdef ONLY_CONTAINERS
    if (container_should_be_filtered())
        return 0;
#endif
    if (syscall != PIDFD_SEND_SIGNAL && !wanted_target(syscall, target))
        return 0;

    if (!call)
        call = add_thread(tid);
    if (!call) {
        count_lost();
        return 0;
    }
    call->active = 1;
    event = &call->event;
    event->ts = bpf_ktime_get_ns();
    event->pid = pid;
    event->target = target;
    event->sig = sig;
    event->syscall = syscall;
    event->target_is_fd = syscall == PIDFD_SEND_SIGNAL;
    if (bpf_get_current_comm(event->comm, COMM_LEN))
        event->comm[0] = 0;
#ifdef WITH_UID
    event->uid = bpf_get_current_uid_gid();
#endif
#ifdef WITH_TCOMM
    event->tcomm[0] = 0;
#endif
    return 0;
}

static __always_inline struct call *current_call(void)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct call *call = find_thread(tid);

    return call && call->active ? call : NULL;
}

static __always_inline int leave(void *ctx, long ret)
{
    struct call *call = current_call();
    struct event *event;

    if (!call)
        return 0;
    event = &call->event;
    event->ret = ret;
#ifdef ONLY_FAILED
    if (ret >= 0)
        goto out;
#endif
    if (event->syscall == PIDFD_SEND_SIGNAL && !event->target_is_fd &&
        !wanted_target(event->syscall, event->target))
        goto out;
#ifdef RING_PAGES
    /* Waking the reader for each event would cost more than all the rest. */
    if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
        count_lost();
#else
    if (events.perf_submit(ctx, event, sizeof(*event)))
        count_lost();
#endif
out:
    call->active = 0;
    return 0;
}

#ifdef SIGNAL_GENERATE
/* Runs in the sender, between entry and return, where the target is known. */
TRACEPOINT_PROBE(signal, signal_generate)
{
    struct call *call = current_call();
    struct event *event;

    if (!call)
        return 0;
    event = &call->event;
    if (event->sig != args->sig)
        return 0;
    if (event->target_is_fd) {
        event->target = args->pid;
        event->target_is_fd = 0;
    }
#ifdef WITH_TCOMM
    /* Of a process group, the first member. */
    if (!event->tcomm[0] &&
        bpf_probe_read_kernel(event->tcomm, COMM_LEN, args->comm))
        event->tcomm[0] = 0;
#endif
    return 0;
}
#endif

/* A system call's wrapper is handed the registers of its caller. */
#ifdef CONFIG_ARCH_HAS_SYSCALL_WRAPPER
#define CALLER_REGS(ctx) ((void *)PT_REGS_PARM1(ctx))
#else
#define CALLER_REGS(ctx) ((void *)(ctx))
#endif
#define NATIVE_ARG1(regs) PT_REGS_PARM1(regs)
#define NATIVE_ARG2(regs) PT_REGS_PARM2(regs)
#define NATIVE_ARG3(regs) PT_REGS_PARM3(regs)
#define IA32_ARG1(regs) ((regs)->bx)
#define IA32_ARG2(regs) ((regs)->cx)
#define IA32_ARG3(regs) ((regs)->dx)
"""

# The programs for one entry point of one system call.
probe_text = {"fentry": """
KRETFUNC_PROBE(%(function)s, struct pt_regs *regs, long ret)
{
    return leave(ctx, ret);
}

KFUNC_PROBE(%(function)s, struct pt_regs *regs)
{
    return enter(%(id)s, %(abi)s_ARG1(regs), %(abi)s_ARG%(sig)d(regs));
}
""", "tracepoint": """
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{
    return leave(args, args->ret);
}

TRACEPOINT_PROBE(syscalls, sys_enter_%(name)s)
{
    return enter(%(id)s, args->%(target)s, args->sig);
}
""", "kprobe": """
int leave_%(function)s(struct pt_regs *ctx)
{
    return leave(ctx, PT_REGS_RC(ctx));
}

int enter_%(function)s(struct pt_regs *ctx)
{
    struct pt_regs regs;

    if (bpf_probe_read_kernel(&regs, sizeof(regs), CALLER_REGS(ctx)))
        return 0;
    return enter(%(id)s, %(abi)s_ARG1(&regs), %(abi)s_ARG%(sig)d(&regs));
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
        if not os.path.exists("/sys/kernel/btf/vmlinux"):
            raise Unavailable("this kernel has no BTF")
        if refuses_tracing():
            raise Unavailable(os.strerror(errno.EPERM))
    elif probe == "kprobe":
        if not os.path.exists("/sys/bus/event_source/devices/kprobe"):
            raise Unavailable("this kernel has no kprobes")


def probe_points(probe):
    """A dict for each place to attach to, with what the C text needs."""
    points = []
    for name, target, sig in syscalls:
        point = {"name": name, "id": name.upper(), "target": target,
                 "sig": sig}
        if probe == "tracepoint":
            path = tracefs() + "/events/syscalls/sys_enter_" + name
            if os.path.exists(path):
                points.append(point)
            continue
        for prefix, abi in entry_points:
            if probe == "fentry" and not prefix.startswith("__"):
                continue    # no wrapper that has the caller's registers
            if kernel_has(prefix + name):
                points.append(dict(point, function=prefix + name, abi=abi))
    if not points:
        raise Unavailable("this kernel does not show the system calls")
    return points


def defines():
    """The options, as checked, and the kernel's features for the C text."""
    lines = ["THREADS %d" % THREADS]
    lines += ["%s %d" % (name.upper(), i) for i, name in enumerate(names)]
    for macro, value in (("ONLY_PID", args.pid), ("ONLY_UID", args.uid),
                         ("ONLY_TARGET", args.tpid)):
        if value is not None:
            lines.append("%s (%d)" % (macro, value))
    if args.signal:
        lines.append("ONLY_SIGNALS(sig) (%s)" % " || ".join(
            "(sig) == %d" % number for number in args.signal))
    for macro, wanted in (
            ("ONLY_FAILED", args.failed), ("ONLY_EXTERNAL", args.external),
            ("ONLY_CONTAINERS", args.cgroupmap or args.mntnsmap),
            ("WITH_UID", args.print_uid), ("WITH_TCOMM", args.tcomm)):
        if wanted:
            lines.append(macro)
    return "".join("#define %s\n" % line for line in lines)


def program(probe, points):
    """The whole C text."""
    text = defines()
    if kernel_has("bpf_ringbuf_output"):
        text += "#define RING_PAGES %d\n" % (BUFFER // resource.getpagesize())
    try:
        if os.path.exists(tracefs() + "/events/signal/signal_generate"):
            text += "#define SIGNAL_GENERATE\n"
    except Unavailable:
        if args.tcomm:
            raise
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
    return ("; %s takes Linux 4.14 or later with CONFIG_BPF_SYSCALL, this "
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
    as (ts, target, the bytes that follow them)."""

    # What follows target in struct event. It comes again and again: who takes
    # it does not unpack it each time.
    fields = struct.Struct("=IihBB16s%s%s" % (
        "I" if args.print_uid else "0s", "16s" if args.tcomm else "0s"))
    layout = "Qi%ds" % fields.size

    def __init__(self, bpf):
        self.bpf, self.waiting, self.behind, self.newest = bpf, [], False, 0
        self.ring, self.full = None, BATCH
        self.dropped, self.lost_by_perf, self.lost_map = 0, 0, bpf["lost"]
        if not hasattr(bpf["events"], "open_ring_buffer"):
            self.open_perf_buffer(bpf)
        elif platform.machine() in Ring.MACHINES:
            self.ring = Ring(bpf["events"].map_fd, self.layout)
            self.consume = lambda: self.waiting.extend(self.ring.take(BATCH))
        else:
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
                self.waiting.append(record.unpack(at(data)))
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
    """The process behind another process' descriptor, or None."""
    try:
        with open("/proc/%d/fdinfo/%d" % (pid, fd)) as f:
            return int(re.search(r"^Pid:\s*([1-9]\d*)$", f.read(), re.M)[1])
    except (OSError, TypeError):    # gone, or no pidfd
        return None


def is_own(pid, target, syscall):
    """Does process pid mean itself by target? BPF knows neither the numbers of
    a PID namespace nor the threads of a process."""
    if syscall == "tkill" and os.path.exists("/proc/%d/task/%d" % (
            pid, target)):
        return True
    try:
        with open("/proc/%d/status" % pid) as f:
            own = re.search(r"^NStgid:.*\t(\d+)$", f.read(), re.M)[1]
    except (OSError, TypeError):
        return False
    return target == int(own)


def real_target(ts, target, pid, syscall, is_fd):
    """The process that a call at ts meant, "-" if that is not known, or None
    if nobody wants to know."""
    if is_fd:
        # Later than this the number may well be another descriptor's.
        age = time.monotonic() - ts / 1e9
        target = pidfd_target(pid, target) if age < 1 else None
        if args.tpid not in (None, target):
            return None
    if args.external and is_own(pid, target, syscall):
        return None
    return "-" if target is None else target


@functools.lru_cache(maxsize=4096)
def printable(comm):
    """A command name, whose bytes can be any, as text."""
    text = comm.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def signal_name(number):
    if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
        return "SIGRTMIN+%d" % (number - signal.SIGRTMIN)
    try:
        return signal.Signals(number).name
    except ValueError:
        return number


def pid_width():
    try:
        with open("/proc/sys/kernel/pid_max") as f:
            return len(f.read().strip()) + 1
    except OSError:
        return 6


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


class Printer:
    """Prints events as rows, with a header. The rows of calls that come fast
    differ in time and target: the rest is kept, for one second at most."""

    def __init__(self, output):
        self.output = output
        pid = "%%-%ds" % pid_width()
        self.formats = {
            "TIME": "%-9s", "UID": args.print_uid and "%-6s", "PID": pid,
            "COMM": "%-16s", "SYSCALL": args.verbose and "%-17s",
            "SIG": "%-11s" if args.names else "%-4s", "TPID": pid,
            "TCOMM": args.tcomm and "%-16s", "RESULT": "%s"}
        self.gap = " "
        if args.csv:
            self.gap = ","
            self.formats = {title: form and "%s"
                            for title, form in self.formats.items()}
        titles = {title: title for title in self.formats}
        output.write(self.text(titles) + "\n")

    def text(self, values):
        """Those columns of a row that are shown."""
        shown = [title for title in values if self.formats[title]]
        row = tuple(values[title] for title in shown)
        if args.csv:
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(row)
            return line.getvalue()
        return " ".join(self.formats[title] for title in shown) % row

    def row(self, clock, data):
        """A row with a place for the target, and what it takes to find out
        about that in /proc, if it has to be."""
        (pid, sig, ret, syscall, is_fd, comm, uid,
         tcomm) = Events.fields.unpack(data)
        if args.names:
            sig = signal_name(sig)
            ret = errno.errorcode.get(-ret, ret)
        left = clock + self.text({
            "UID": uid, "PID": pid, "COMM": printable(comm),
            "SYSCALL": names[syscall], "SIG": sig})
        right = self.text({"TCOMM": args.tcomm and (printable(tcomm) or "-"),
                           "RESULT": ret})
        left, right = (text.replace("%", "%%") for text in (left, right))
        return (self.gap.join([left, self.formats["TPID"], right]) + "\n",
                (is_fd or args.external) and (pid, names[syscall], is_fd))

    def print(self, events):
        to_wall_clock = int((time.time() - time.monotonic()) * 1e9)
        begin = 0
        while begin < len(events):
            second = (events[begin][0] + to_wall_clock) // 10**9
            end = bisect.bisect(events, (
                (second + 1) * 10**9 - to_wall_clock,))
            self.print_second(second, events[begin:end])
            begin = end

    def print_second(self, second, events):
        clock = self.text({"TIME": time.strftime(
            "%H:%M:%S", time.localtime(second))}) + self.gap
        rows, known, targets = [], {}, {}
        for ts, target, data in events:
            try:
                text, look_up = known[data]
            except KeyError:
                text, look_up = known[data] = self.row(clock, data)
            if look_up:
                key = target, data
                if key not in targets:
                    targets[key] = real_target(ts, target, *look_up)
                target = targets[key]
                if target is None:
                    continue
            rows.append(text % target)
        self.output.write("".join(rows))


def trace(bpf):
    """Print events until there is a wish to stop."""
    gc.disable()    # it would look for cycles in all that waits, and find none
    stop = Stop()
    events = Events(bpf)
    printer = Printer(Output(stop))
    told, tell_at = 0, 0
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
            lost = events.lost()
            if lost > told:
                warn("%s: lost %d events" % (parser.prog, lost - told))
            told, tell_at = lost, now + 1


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
        else:
            trace(start())
    except BrokenPipeError:
        pass    # the reader has seen enough
    except OSError as e:
        die("can't write: %s" % e.strerror)


main()
