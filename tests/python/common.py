"""What the tests of all tools share: run a tool as a user does, read what it
prints, and ask the kernel what it supports."""

import collections
import contextlib
import ctypes
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from bcc import BPF
from bcc.libbcc import lib

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PYTHON = "/usr/bin/python3"     # the one that the distribution's BCC is for
sys.path.insert(0, os.path.join(TOP, "tests", "workload"))
import memory       # noqa: E402
import signals      # noqa: E402

# A shell starts background commands with these ignored; tools inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

COUNT = 23
START_SECONDS = 120     # to compile takes 20 s on an emulated CPU


def mounted(script):
    """Return a command prefix: a mount namespace, prepared by a script."""
    return ["unshare", "--mount", "sh", "-c",
            'set -e; %s; exec "$@"' % script, "sh"]


def hide(*paths):
    """Return a command prefix that hides files and what folders contain."""
    return mounted(
        "for path in %s; do if [ -d $path ]; then mount -t tmpfs none $path; "
        "elif [ -e $path ]; then mount --bind /dev/null $path; fi; done" %
        " ".join(paths))


# Ways to attach: a tool's options, and the command before it.
WAYS = {
    "fentry": (["--probe", "fentry"], []),
    "tracepoint": (["--probe", "tracepoint"], []),
    "kprobe": (["--probe", "kprobe"], []),
    "fallback": ([], hide(      # to kprobes, as nothing else is there
        "/sys/kernel/tracing/events/syscalls",
        "/sys/kernel/debug/tracing/events/syscalls", "/sys/kernel/btf",
        "/lib/modules/*/build/vmlinux")),
    # Without a ring buffer, its helper is not among the kernel's symbols.
    "perf_buffer": ([], mounted(
        "symbols=$(mktemp); grep -v bpf_ringbuf_output /proc/kallsyms "
        "> $symbols; mount --bind $symbols /proc/kallsyms; rm $symbols"))}

# What tests need to know of a tracer. Its workload is a module with act(),
# number(row) and, as a script, the arguments "numbered COUNT".
Tracer = collections.namedtuple("Tracer", [
    "workload",
    "call",         # a system call that the workload does
    "all_columns",  # options for all columns that tests read
    "only_acts",    # options to show only what act() does
    "nothing"])     # options to show nothing at all
TRACERS = {
    "killsnoop": Tracer(signals, "kill", ["-nvcagU"], ["-s", "0"],
                        ["-s", "63"]),
    "madvsnoop": Tracer(memory, "madvise", ["-TvM"], ["-a", "RANDOM"],
                        ["-a", "99"])}


def tool_path(name):
    """Return the path of a tool, or of a script by its path from TOP."""
    return os.path.join(TOP, name if "/" in name else "tools/%s.py" % name)


def run(name, *args, prefix=(), **popen):
    """Run a tool that ends by itself soon. Return its CompletedProcess."""
    return run_command(*prefix, PYTHON, tool_path(name), *map(str, args),
                       **popen)


def run_command(*command, timeout=60, **popen):
    """Run a command. Return its CompletedProcess, with text."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, timeout=timeout,
        **popen)


@contextlib.contextmanager
def started(name, *args, **popen):
    """Yield the Popen of a tool. Kill it after the block."""
    process = subprocess.Popen([PYTHON, tool_path(name), *args], **popen)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def burst(name, count, prefix=()):
    """Start a process that does as act() count times, numbered from 0."""
    return subprocess.Popen([*prefix, PYTHON, TRACERS[name].workload.__file__,
                             "numbered", str(count)])


def in_child(function, *args, group=None):
    """Run a function in a child, in a cgroup. Return its PID and status."""
    pid = os.fork()
    if pid == 0:
        try:
            enter(group)
            function(*args)
            os._exit(0)
        finally:
            os._exit(1)
    return pid, os.waitpid(pid, 0)[1]


def enter(group):
    """Move this process into a cgroup, a folder, or nowhere if it is None."""
    if group:
        with open(group + "/cgroup.procs", "w") as f:
            f.write("0")


def wait_until(condition, seconds=60):
    """Wait for a condition. Return its value; AssertionError if it is late."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "waited %d s" % seconds
        time.sleep(0.05)


class Tool:
    """A tool that traces until it is stopped.

        with Tool("killsnoop", "-p", 181) as tool:
            ...             # it has printed its header: it traces
        tool.table()        # its rows, a dict each

    Leaving the block stops it by SIGINT, and checks that it ended well.
    """

    def __init__(self, name, *args, prefix=(), **popen):
        self.name, self.popen = name, popen
        self.command = [*prefix, PYTHON, tool_path(name), *map(str, args)]
        self.marks = itertools.count(2**29)

    def start(self):
        """Start, and wait for the header. AssertionError if it ends."""
        self.out, self.err = (tempfile.TemporaryFile() for _ in range(2))
        self.process = subprocess.Popen(self.command, stdout=self.out,
                                        stderr=self.err, **self.popen)
        try:
            wait_until(lambda: self.header or self.process.poll() is not None,
                       START_SECONDS)
        except AssertionError:
            self.process.kill()
            raise
        assert self.header, self.stderr
        return self

    def lines(self):
        """Return the lines that are complete."""
        size = os.fstat(self.out.fileno()).st_size
        return os.pread(self.out.fileno(), size, 0).decode(
            errors="replace").split("\n")[:-1]

    @property
    def header(self):
        return "".join(self.lines()[:1])

    @property
    def rows(self):
        return self.lines()[1:]

    @property
    def stderr(self):
        size = os.fstat(self.err.fileno()).st_size
        return os.pread(self.err.fileno(), size, 0).decode()

    def table(self, start=0):
        """Return rows as dicts. Only names may have blanks, and none has."""
        titles, *rows = self.lines()
        titles = titles.split()
        return [dict(zip(titles, row.split())) for row in rows[start:]]

    @contextlib.contextmanager
    def traced(self):
        """Yield a list. After the block it has the rows printed meanwhile."""
        workload, rows = TRACERS[self.name].workload, []
        start, _ = self.mark(workload)
        yield rows
        _, mark = self.mark(workload)
        time.sleep(0.2)     # other CPUs' rows may come later
        rows += [row for row in self.table(start)
                 if workload.number(row) != mark]

    def mark(self, workload):
        """Do an act. Return the number of rows up to it, and its number."""
        mark, start = next(self.marks), len(self.rows)
        workload.act(mark)
        wait_until(lambda: any(workload.number(row) == mark
                               for row in own_rows(self.table(start))))
        return len(self.rows), mark

    def send(self, number):
        """Signal it by another process: this one may be traced."""
        subprocess.check_call(["sh", "-c", "kill -%d %d" % (
            number, self.process.pid)])

    def stop(self, number=signal.SIGINT):
        """Stop it by a signal. Return its status."""
        assert self.process.poll() is None, "it ended: " + self.stderr
        self.send(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind:
            self.process.kill()
            self.process.wait(60)
        else:
            assert self.stop() == 0, self.stderr


def own_rows(table, pid=None):
    """Return the rows of one process, this one by default."""
    return [row for row in table if row["PID"] == str(pid or os.getpid())]


def cells(rows, titles):
    """Return the values of some columns of each row."""
    return [tuple(row[title] for title in titles.split()) for row in rows]


def lost(stderr):
    """Return how many events a tool reported lost."""
    return sum(map(int, re.findall(r"lost (\d+) event", stderr)))


def fdinfo(pid, field):
    """Return a number of each descriptor: of BPF programs and maps."""
    found, folder = [], "/proc/%d/fdinfo/" % pid
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):    # closed by now
            with open(folder + fd) as f:
                found += re.findall(r"(?m)^%s:\s*(\d+)$" % field, f.read())
    return list(map(int, found))


def skipped_runs(pid):
    """Return how often the kernel skipped a process' programs (from 5.12)."""
    return sum(fdinfo(pid, "recursion_misses"))


def bpf_programs():
    """Return the IDs of all BPF programs in the kernel."""
    programs, number = set(), ctypes.c_uint32()
    while lib.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        programs.add(number.value)
    return programs


# The smallest program of each probe type on a system call.
SMALLEST = {
    "fentry": "KFUNC_PROBE(%(function)s) { return 0; }",
    "tracepoint": "TRACEPOINT_PROBE(syscalls, sys_enter_%(call)s) "
                  "{ return 0; }",
    "kprobe": "int kprobe__%(function)s(void *ctx) { return 0; }"}


def kernel_supports(probe, call):
    """Return whether the kernel takes such a probe on a system call."""
    function = BPF(text=b"").get_syscall_fnname(call.encode()).decode()
    text = "#include <uapi/linux/ptrace.h>\n" + SMALLEST[probe] % {
        "call": call, "function": function}
    try:
        BPF(text=text.encode()).cleanup()
    except Exception:
        return False
    return True


@contextlib.contextmanager
def pinned_map(folder, value_size, key):
    """Yield the path of a pinned BPF hash with one key, of 8 bytes."""
    subprocess.check_call(["mount", "-t", "bpf", "none", str(folder)])
    try:
        bpf = BPF(text=b'BPF_TABLE("hash", u64, u%d, keys, 1024);' % (
            8 * value_size))
        bpf[b"keys"][ctypes.c_uint64(key)] = bpf[b"keys"].Leaf(1)
        path = "%s/keys" % folder
        assert lib.bpf_obj_pin(bpf[b"keys"].map_fd, path.encode()) == 0
        yield path
    finally:
        subprocess.check_call(["umount", str(folder)])


@contextlib.contextmanager
def odd_name(name):
    """Give this thread another name within the block: at most 15 bytes."""
    PR_SET_NAME = 15    # linux/prctl.h
    with open("/proc/thread-self/comm", "rb") as f:
        old = f.read()[:-1]
    signals.libc.prctl(PR_SET_NAME, name)
    yield
    signals.libc.prctl(PR_SET_NAME, old)
