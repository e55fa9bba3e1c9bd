#!/usr/bin/python3
#
# killsnoop  Trace signals: who sends which signal to whom, and the result.
#            For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: killsnoop [-h] [-x] [-p PID] [-T TPID] [-s LIST | -e LIST] [-a] [...]
#
# Copyright (c) 2015 Brendan Gregg.
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 20-Sep-2015   Brendan Gregg           Created this.
# 19-Feb-2016   Allan McAleavy          Migrated to BPF_PERF_OUTPUT.
# 28-Nov-2026   The killsnoop authors   Rewritten for all signals.

import argparse
import collections
import contextlib
import csv
import ctypes
import datetime
import errno
import functools
import io
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
    from bcc import BPF
    from bcc.containers import filter_by_containers
    from bcc.libbcc import lib
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", lambda *_: 1)
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

prog = os.path.basename(sys.argv[0])
if prog == "-":
    prog = "killsnoop"          # read from standard input

SYSCALLS = ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
            "pidfd_send_signal"]        # numbered as in the C enum
PROBES = ["fentry", "tracepoint", "kprobe"]
BATCH, LAST_BATCH = 10000, 1 << 18      # events that are printed at once
RING_BYTES = 16 << 20
ANY = -2**31            # no filter, or no target: kill(2) accepts no such PID
MAX_PARENTS = 8
EFFECTS = {2: "ignored", 3: "pending"}          # see struct event
# By machine, in struct pt_regs after a call: its number, its first argument,
# and whether it is a 32-bit call. Only the first two machines are tested.
REGISTERS = {
    "x86_64": ("orig_ax", "di", "(u16)REGISTER(cs) == __USER32_CS"),
    "aarch64": ("syscallno", "orig_x0", "REGISTER(pstate) & PSR_MODE32_BIT"),
    "ppc64le": ("gpr[0]", "orig_gpr3", "0"),
    "riscv64": ("a7", "orig_a0", "0"), "s390x": ("int_code", "orig_gpr2", "0")}
BTF = "/sys/kernel/btf/vmlinux"
BTF_KIND_STRUCT = 4     # linux/btf.h
BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACING = 2, 26     # linux/bpf.h
HOST_CGROUP_INODE = 1   # of the root of the host's cgroup namespace

signal_names = {number: number.name for number in signal.Signals}
signal_numbers = {str(number): number for number in range(signal.NSIG)}
signal_numbers.update(signal.Signals.__members__)
for i in range(signal.SIGRTMAX - signal.SIGRTMIN + 1):
    signal_names[signal.SIGRTMIN + i] = "SIGRTMIN+%d" % i
    signal_numbers["SIGRTMIN+%d" % i] = signal.SIGRTMIN + i
    signal_numbers["SIGRTMAX-%d" % i] = signal.SIGRTMAX - i

def warn(message):
    print("%s: %s" % (prog, message), file=sys.stderr, flush=True)

def die(message):
    sys.exit("%s: %s" % (prog, message))

def signal_list(text):
    """Return the signal numbers of a list such as 9,TERM,RTMIN+3."""
    names = [name.strip().upper() for name in text.split(",")]
    numbers = [signal_numbers.get(name, signal_numbers.get("SIG" + name))
               for name in names]
    if None in numbers:
        raise argparse.ArgumentTypeError("no such signal in " + text)
    return numbers


examples = """examples:
    ./killsnoop -nc           # trace signals; show names, also of targets
    ./killsnoop -ncaP         # and the kernel's; show the sender's parents
    ./killsnoop -p 181        # only signals that PID 181 sends
    ./killsnoop -T 189        # only signals sent to PID 189
    ./killsnoop -s KILL,15    # only SIGKILL and SIGTERM
    ./killsnoop -x            # only failed calls
"""
parser = argparse.ArgumentParser(
    prog=prog, description="Trace signals: who sends which signal to whom",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
parser.add_argument("-x", "--failed", action="store_true",
    help="show only calls that failed")
parser.add_argument("-p", "--pid", type=int, default=ANY,
    help="show only signals from this process")
parser.add_argument("-T", "--tpid", type=int, default=ANY,
    help="show only signals to this process")
by_signal = parser.add_mutually_exclusive_group()
by_signal.add_argument("-s", "--signal", type=signal_list, default=[],
    metavar="LIST", help="show only these: numbers or names, 9,TERM,RTMIN+3")
by_signal.add_argument("-e", "--exclude-signal", type=signal_list, default=[],
    metavar="LIST", help="show all signals but these")
parser.add_argument("-u", "--uid", type=int, default=ANY,
    help="show only senders with this user ID")
parser.add_argument("-E", "--external", action="store_true",
    help="hide signals that a process sends to itself")
parser.add_argument("-a", "--all", action="store_true",
    help="also show signals not sent by a traced call, except SIGCHLD")
parser.add_argument("-n", "--names", action="store_true",
    help="show names of signals and results, not numbers")
parser.add_argument("-c", "--tcomm", action="store_true",
    help="show the command name of the target")
parser.add_argument("-P", "--parents", action="store_true",
    help="show the sender's process, its parent, and so on")
parser.add_argument("-U", "--print-uid", action="store_true",
    help="show the user ID of the sender")
parser.add_argument("-g", "--cgroup", action="store_true",
    help="show the sender's cgroup: service or container")
parser.add_argument("-v", "--verbose", action="store_true",
    help="show the system call and the probe type")
parser.add_argument("-j", "--csv", action="store_true",
    help="print rows as comma-separated values")
parser.add_argument("-d", "--duration", type=float,
    help="end after this many seconds")
parser.add_argument("--cgroupmap",
    help="trace cgroups in this BPF map only")
parser.add_argument("--mntnsmap",
    help="trace mount namespaces in this BPF map only")
parser.add_argument("--probe", choices=["auto"] + PROBES, default="auto",
    help="probe type to use (default: the first that works)")
parser.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
args = parser.parse_args()
PARENTS = MAX_PARENTS if args.parents else 0
if args.duration is not None and not 0 < args.duration < 1e9:
    parser.error("argument -d/--duration: not a positive number below 1e9")
for number in args.pid, args.tpid, args.uid:
    if not ANY <= number < 2**32:
        parser.error("out of range: %d" % number)
for path in args.cgroupmap, args.mntnsmap:      # they go into the C text
    if path is not None and not (os.path.exists(path) and re.fullmatch(
            "/[A-Za-z0-9_./:@+-]+", path)):
        parser.error("not the plain path of a pinned map: %s" % path)

bpf_text = """
#include <uapi/linux/ptrace.h>
#include <uapi/asm/siginfo.h>
#include <uapi/asm/signal.h>
#include <asm/unistd.h>
#define PF_EXITING 4    /* linux/sched.h */

struct name { u64 words[2]; };          /* char comm[TASK_COMM_LEN] */
struct event {
    u64 ts, cgroup;     /* ts in ns */
    u32 pid, uid;       /* 0 if the kernel is the sender */
    s32 target, sig, ret;
    u8 syscall, effect; /* effect: 0 no signal was generated, 1 delivered,
                           2 ignored, 3 pending */
    struct name comm, tcomm;
    struct { struct name comm; u64 pid; } parents[PARENTS];
};
/* A signal that signal_generate saw, for the return of the call. */
struct generated {
    s32 call, first_arg, sig;   /* call: its number; 0 after the return */
    s32 target;                 /* ANY if there are more than one */
    u64 effect;
    struct name tcomm;
};
/* By TID. Entries stay: deleting would cost 200 ns. Each CPU caches 128. */
BPF_TABLE("lru_hash", u32, struct generated, generated, 65536);
BPF_PERCPU_ARRAY(lost, u64, 1);
#ifdef RING_PAGES
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif

/* Read a member of a kernel structure. It is zero if that fails. */
#define PROBE_READ(type, base, offset) ({ type value; \\
    bpf_probe_read_kernel(&value, sizeof(value), (void *)(base) + (offset)); \\
    value; })
#define REGISTER(name) READ(typeof(regs->name), &regs->name, 0)

#ifdef HAS_TASK_REGS    /* Linux 5.15. BCC has names for these since 0.22. */
static void *(*get_task)(void) = (void *)158;
static struct pt_regs *(*get_task_regs)(void *task) = (void *)175;
/* The verifier knows what they return, and accepts loads. */
#define READ(type, base, offset) (*(type *)((void *)(base) + (offset)))
#else
#define READ(type, base, offset) PROBE_READ(type, base, offset)
#define get_task() ((void *)bpf_get_current_task())
#define get_task_regs(task) \\
    ((struct pt_regs *)(READ(u64, task, task_struct_stack) + THREAD_SIZE) - 1)
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

static __always_inline void submit(void *ctx, struct event *event)
{
    if ((ONLY_FAILED && event->ret >= 0) ||
        (ONLY_EXTERNAL && event->target == event->pid) ||
        (ONLY_TPID != ANY && event->target != ONLY_TPID))
        return;
    event->ts = bpf_ktime_get_ns();
    event->cgroup = SENDER_CGROUP;
    bpf_get_current_comm(&event->comm, sizeof(event->comm));
    void *task = get_task(), *leader;   /* the first parent is the sender's */
#pragma unroll
    for (int i = 0; i < PARENTS; i++) {
        event->parents[i].pid = READ(u32, task, task_struct_tgid);
        if (!event->parents[i].pid)
            break;              /* the parent of PID 1 */
        leader = READ(void *, task, task_struct_group_leader);
        event->parents[i].comm = READ(struct name, leader, task_struct_comm);
        task = READ(void *, task, task_struct_real_parent);
    }
#ifdef RING_PAGES
    if (events.ringbuf_output(event, sizeof(*event), BPF_RB_NO_WAKEUP))
#else
    if (events.perf_submit(ctx, event, sizeof(*event)))
#endif
        count_lost();
}

/* At the return of a call, whose arguments are still in the registers. */
static __always_inline int leave(void *ctx, u8 syscall, long ret)
{
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32, tid = id, uid = bpf_get_current_uid_gid();
    struct pt_regs *regs = get_task_regs(get_task());
    s32 first_arg = REGISTER(FIRST_ARG);
    s32 sig = READ(u64, &PT_REGS_PARM2(regs), 0);
    struct generated *signal;

    if (syscall == TGKILL || syscall == RT_TGSIGQUEUEINFO)
        sig = READ(u64, &PT_REGS_PARM3(regs), 0);
    if ((IS_32BIT) || !wanted(pid, uid, sig))
        return 0;
    struct event event = {
        .pid = pid, .uid = uid, .sig = sig, .ret = ret, .syscall = syscall,
        .target = syscall == PIDFD_SEND_SIGNAL ? ANY : first_arg};
    signal = generated.lookup(&tid);
    if (signal && signal->call == (u16)REGISTER(SYSCALL_NUMBER) &&
        signal->first_arg == first_arg && signal->sig == sig) {
        signal->call = 0;
        event.effect = signal->effect;
        event.tcomm = signal->tcomm;
        if (syscall != KILL || first_arg > 0)   /* else a process group */
            event.target = signal->target;
    }
    submit(ctx, &event);
    return 0;
}

/* Fires in the sender's context, before its call returns. args: sig, struct
   kernel_siginfo *info, struct task_struct *task, group, result */
RAW_TRACEPOINT_PROBE(signal_generate)
{
    u64 id = bpf_get_current_pid_tgid(), info = ctx->args[1];
    u32 pid = id >> 32, tid = id, uid = bpf_get_current_uid_gid();
    struct pt_regs *regs = get_task_regs(get_task());
    s32 sig = ctx->args[0], code = SI_USER, first_arg = REGISTER(FIRST_ARG);
    u16 call = REGISTER(SYSCALL_NUMBER);
    struct generated *signal;
    bool in_call, from_user;

    if (info == 1)              /* SEND_SIG_PRIV; 0 is SEND_SIG_NOINFO */
        code = SI_KERNEL;
    else if (info)
        code = PROBE_READ(s32, info, offsetof(struct siginfo, si_code));
    /* sigqueue(3) can have any code. Its siginfo is on the caller's stack. */
    from_user = (code <= 0 && code != SI_TIMER) ||
        info - READ(u64, get_task(), task_struct_stack) < THREAD_SIZE;
    in_call = from_user && (IS_TRACED) && !(IS_32BIT) &&
        !(READ(u32, get_task(), task_struct_flags) & PF_EXITING);
    if (!in_call && ((code > 0 && sig != SIGCHLD) || code == SI_TIMER))
        pid = uid = 0;          /* the kernel itself */
    if (!wanted(pid, uid, sig) || (!in_call && (
            !ALL_SIGNALS || (HIDE_SIGCHLD && sig == SIGCHLD))))
        return 0;
    signal = generated.lookup(&tid);
    if (in_call && signal && signal->call == call && signal->sig == sig &&
        signal->first_arg == first_arg) {
        signal->target = ANY;   /* one more member of a process group */
        return 0;
    }
    struct generated new = {
        .call = call, .first_arg = first_arg, .sig = sig,
        .target = PROBE_READ(s32, ctx->args[2], task_struct_tgid),
        .effect = sig == SIGCONT ? 1 : 1 + ctx->args[4],    /* resumes */
        .tcomm = PROBE_READ(struct name, ctx->args[2], task_struct_comm)};
    if (!in_call) {
        struct event event = {
            .pid = pid, .uid = uid, .target = new.target, .sig = sig,
            .syscall = NO_CALL, .effect = new.effect, .tcomm = new.tcomm};
        submit(ctx, &event);
    } else if (signal) {
        *signal = new;
    } else if (generated.update(&tid, &new)) {
        count_lost();
    }
    return 0;
}
"""

probe_text = {"fentry": """
KRETFUNC_PROBE(%(function)s, struct pt_regs *regs, long ret)
{ return leave(ctx, %(id)s, ret); }
""", "tracepoint": """
TRACEPOINT_PROBE(syscalls, sys_exit_%(name)s)
{ return leave(args, %(id)s, args->ret); }
""", "kprobe": """
int kretprobe__%(function)s(struct pt_regs *ctx)
{ return leave(ctx, %(id)s, PT_REGS_RC(ctx)); }
"""}

class BtfType(ctypes.Structure):        # struct btf_type, linux/btf.h
    _fields_ = [(name, ctypes.c_uint32) for name in ("name", "info", "size")]

class BtfMember(ctypes.Structure):      # struct btf_member
    _fields_ = [(name, ctypes.c_uint32) for name in ("name", "type", "offset")]

def member_offsets(structure):
    """Return offsets in bytes in a kernel structure, from BTF; {} without."""
    lib.libbpf_find_kernel_btf.restype = ctypes.c_void_p
    lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    if not os.path.exists(BTF):
        return {}
    btf = ctypes.c_void_p(lib.libbpf_find_kernel_btf())
    start = lib.btf__type_by_id(
        btf, lib.btf__find_by_name_kind(btf, structure, BTF_KIND_STRUCT))
    count = BtfType.from_address(start).info & 0xffff
    members = (BtfMember * count).from_address(start + ctypes.sizeof(BtfType))
    return {lib.btf__name_by_offset(btf, member.name).decode():
            (member.offset & 0xffffff) // 8 for member in members}

def task_struct_text():
    """Return the C text that defines the offsets of task_struct's members."""
    text, offsets = "", member_offsets(b"task_struct")
    if not offsets:     # only the running kernel's own headers have them
        text = """#include <linux/sched.h>
#include <generated/utsrelease.h>
_Static_assert(!__builtin_strcmp(UTS_RELEASE, "%s"),
    "without BTF, the headers of this kernel itself are required");
""" % os.uname().release
    for name in "tgid comm flags group_leader real_parent stack".split():
        offset = offsets.get(name, "offsetof(struct task_struct, %s)" % name)
        text += "#define task_struct_%s %s\n" % (name, offset)
    return text

def kernel_symbols():
    """Return the text of /proc/kallsyms, or exit if it has no symbols."""
    with contextlib.suppress(OSError), open("/proc/kallsyms") as f:
        symbols = f.read()
        if "sys_kill\n" in symbols:
            return symbols
    die("/proc/kallsyms has no symbols: run on the host, or with --privileged")

def program(probe):
    """Return the C text for a probe type."""
    symbols = kernel_symbols()
    if os.uname().machine not in REGISTERS:
        die("not supported on this machine: " + os.uname().machine)
    number, first_arg, is_32bit = REGISTERS[os.uname().machine]
    syscalls = [name for name in SYSCALLS if "sys_%s\n" % name in symbols]
    selected = " || ".join("sig == %d" % sig for sig in args.signal)
    if args.exclude_signal:
        selected = " && ".join("sig != %d" % n for n in args.exclude_signal)
    macros = {
        "ANY": "(%d)" % ANY, "PARENTS": PARENTS,
        "ONLY_PID": args.pid, "ONLY_TPID": args.tpid, "ONLY_UID": args.uid,
        "ONLY_FAILED": int(args.failed), "ALL_SIGNALS": int(args.all),
        "ONLY_EXTERNAL": int(args.external),
        "ONLY_SIGNALS": selected or 1, "HIDE_SIGCHLD": int(not selected),
        "SYSCALL_NUMBER": number, "FIRST_ARG": first_arg, "IS_32BIT": is_32bit,
        "IS_TRACED": " || ".join("call == __NR_" + name for name in syscalls),
        "SENDER_CGROUP": "bpf_get_current_cgroup_id()" if args.cgroup else 0}
    if "bpf_task_pt_regs\n" in symbols:
        macros["HAS_TASK_REGS"] = 1
    if "bpf_ringbuf_output\n" in symbols:
        macros["RING_PAGES"] = RING_BYTES // os.sysconf("SC_PAGE_SIZE")
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    text += ["enum { %s, NO_CALL };\n" % ", ".join(SYSCALLS).upper(),
             task_struct_text(), filter_by_containers(args), bpf_text]
    prefix = "sys_"             # of kprobes, BCC replaces it
    if probe == "fentry":       # it uses no BPF object, which takes 0.2 s
        prefix = BPF.get_syscall_prefix(BPF).decode()
    for name in syscalls:
        text.append(probe_text[probe] % {
            "name": name, "id": name.upper(), "function": prefix + name})
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
                bpf = BPF(text=text, cflags=["-w"])
        except Exception as e:      # BCC raises no other class
            refusals.append("no %s: %s" % (probe, e))
            continue
        if args.verbose:
            warn("; ".join(["tracing by " + probe] + refusals))
        return bpf
    die("can't trace signals: " + (remedy() or "; ".join(refusals)))

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

def signal_name(event):
    return signal_names.get(event.sig, event.sig) if args.names else event.sig

def result(event):
    if not args.names:
        return event.ret
    if event.ret < 0:
        return errno.errorcode.get(-event.ret, event.ret)
    return EFFECTS.get(event.effect, 0)

def parents(event):
    """Return the sender's process and its ancestors as text."""
    texts = ["%s:%d" % (printable(comm).replace(" < ", " ? "), pid)
             for comm, pid in process_struct.iter_unpack(event.parents)
             if pid and event.pid]
    return " < ".join(texts) or "-"

def find_cgroups():
    """Add to cgroups the paths of those that exist now, by inode number."""
    with open("/proc/self/mounts", "rb") as f:
        mounts = re.findall(rb"(?m)^\S+ (\S+) cgroup2 ", f.read())
    for mount in mounts:
        if os.stat(mount).st_ino != HOST_CGROUP_INODE:
            continue
        for folder, _, _ in os.walk(mount):
            with contextlib.suppress(OSError):      # removed meanwhile
                inode = os.stat(folder).st_ino & 0xffffffff
                cgroups[inode] = printable(folder[len(mount):]) or "/"
    if HOST_CGROUP_INODE not in cgroups:
        warn("CGROUP shows numbers: the host's cgroup2 tree is not mounted "
             "here; in a container: --cgroupns=host")

def cgroup(event):
    """Return the path of the sender's cgroup, or its number if unknown."""
    inode = event.cgroup & 0xffffffff   # Linux 5.4 has a generation above it
    if inode not in cgroups and HOST_CGROUP_INODE in cgroups:
        find_cgroups()
    return cgroups.setdefault(inode, event.cgroup) if event.pid else "-"


Event = collections.namedtuple("Event", "ts cgroup pid uid target sig ret "
                               "syscall effect comm tcomm parents")
process_struct = struct.Struct("=16sQ")
event_struct = struct.Struct(
    "=QQIIiiiBB2x16s16s%ds" % (PARENTS * process_struct.size))
pid_form = "%%-%ds" % len(open("/proc/sys/kernel/pid_max").read())
CALLS = SYSCALLS + ["-"]
all_columns = [     # title, format, whether it is shown, value of an event
    ("TIME", "%-9s", True, lambda e:
     local_time(int(time.time() - time.monotonic() + e.ts / 1e9))),
    ("UID", "%-6s", args.print_uid, lambda e: e.uid),
    ("PID", pid_form, True, lambda e: e.pid),
    ("COMM", "%-16s", True,
        lambda e: printable(e.comm) if e.pid else "kernel"),
    ("SYSCALL", "%-17s", args.verbose, lambda e: CALLS[e.syscall]),
    ("SIG", "%-11s" if args.names else "%-4s", True, signal_name),
    ("TPID", pid_form, True, lambda e: "-" if e.target == ANY else e.target),
    ("TCOMM", "%-16s", args.tcomm, lambda e: printable(e.tcomm) or "-"),
    ("RESULT", "%-7s", True, result),
    ("CGROUP", "%-30s", args.cgroup, cgroup),
    ("PARENTS", "%s", args.parents, parents)]
columns = [(title, form, value)
           for title, form, shown, value in all_columns if shown]
line = " ".join([form for _, form, _ in columns[:-1]] + ["%s\n"])

def table(rows):
    """Return rows as text or CSV."""
    if not args.csv:
        return "".join(line % tuple(row) for row in rows)
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
    events = map(Event._make, event_struct.iter_unpack(b"".join(batch)))
    write(table([value(event) for _, _, value in columns] for event in events))

def stop(signum, _):
    global stop_requested
    stop_requested = True
    signal.signal(signum, signal.SIG_DFL)       # a second one kills the tool

def collect(_, data, size):
    """Add an event to the batch. If it is full, the next call goes on here."""
    batch.append(ctypes.string_at(data, event_struct.size))
    return -1 if len(batch) >= (LAST_BATCH if stop_requested else BATCH) else 0

def open_events(bpf):
    """Return a function that collects the pending events."""
    if hasattr(bpf["events"], "open_ring_buffer"):
        bpf["events"].open_ring_buffer(collect)
        return bpf.ring_buffer_consume
    bpf["events"].open_perf_buffer(collect, 256, lost_by_perf.append)
    return functools.partial(bpf.perf_buffer_poll, 0)

def report_skipped(bpf):
    """Report how often the kernel skipped a program (Linux 5.12)."""
    infos = [open("/proc/self/fdinfo/%d" % function.fd).read()
             for function in bpf.funcs.values()]
    skipped = sum(map(int, re.findall(r"misses:\s*(\d+)", "".join(infos))))
    if skipped:
        warn("program runs skipped by the kernel: %d; rows may be missing"
             % skipped)

def trace(bpf):
    """Print events until a signal, -d, or until nobody reads stdout."""
    global stop_requested
    consume = open_events(bpf)
    bpf["lost"].clear()         # nothing was read until now
    end = time.monotonic() + (args.duration or float("inf"))
    stdout = select.poll()
    stdout.register(1, 0)
    done, reported, report_due = False, 0, 0
    write(table([[title for title, _, _ in columns]]))
    while not done:
        if stdout.poll(50 if len(batch) < BATCH else 0):
            stop_requested = True       # the reader left
        now = time.monotonic()
        stop_requested = done = stop_requested or now >= end
        batch.clear()
        consume()
        print_events()
        # Before Linux 5.1, only the perf buffer itself knows what it lost.
        lost = max(bpf["lost"].sum(0).value, sum(lost_by_perf))
        if lost > reported and (done or now >= report_due):
            warn("lost %d events" % (lost - reported))
            reported, report_due = lost, now + 1
    report_skipped(bpf)

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
    bpf = attach()
    if args.cgroup:
        find_cgroups()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    trace(bpf)


batch, lost_by_perf, cgroups = [], [], {}
stop_requested = False
main()
