"""Run a tool as a user does, read what it prints, and ask the kernel."""

import collections
import contextlib
import csv
import ctypes
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from bcc import BPF
from bcc.libbcc import lib

TOP = str(pathlib.Path(__file__).resolve().parents[2])
PYTHON = "/usr/bin/python3"     # the one that the distribution's BCC is for
sys.path.insert(0, os.path.join(TOP, "tests", "workload"))
import memory       # noqa: E402
import signals      # noqa: E402

# A shell's background commands start with this ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

COUNT = 23
START_SECONDS = 120     # compiling takes 20 s on an emulated CPU


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


PROBES = ["fentry", "tracepoint", "kprobe"]
# How a tool attaches: its options, and the command before it.
ATTACHMENTS = {probe: (["--probe", probe], []) for probe in PROBES}
ATTACHMENTS["fallback"] = [], hide(     # leaves kprobes only
    "/sys/kernel/tracing/events/syscalls", "/lib/modules/*/build/vmlinux",
    "/sys/kernel/debug/tracing/events/syscalls", "/sys/kernel/btf")
# A kernel without the ring buffer's helper, and with kptr_restrict=2.
ATTACHMENTS["perf_buffer"] = [], mounted(
    "symbols=$(mktemp); sed 's/^[0-9a-f]*/0000000000000000/; "
    "/bpf_ringbuf_output/d' /proc/kallsyms > $symbols; "
    "mount --bind $symbols /proc/kallsyms; rm $symbols")

# only_acts: options that select what workload.act() does.
Tracer = collections.namedtuple("Tracer", "workload all_columns only_acts")
TRACERS = {
    "killsnoop": Tracer(signals, "-jnvcagUP", ["-s", "0"]),
    "madvsnoop": Tracer(memory, "-jTvMU", ["-a", "RANDOM"])}


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


def burst(name, count, prefix=(), **popen):
    """Start a process that does a numbered act() count times."""
    return subprocess.Popen([*prefix, PYTHON, TRACERS[name].workload.__file__,
                             "numbered", str(count)], **popen)


def in_child(function, *args, group=None):
    """Run a function in a child, in a cgroup. Return its PID and status."""
    pid = os.fork()
    if pid == 0:
        try:
            if group:
                pathlib.Path(group, "cgroup.procs").write_text("0")
            function(*args)
            os._exit(0)
        finally:
            os._exit(1)
    return pid, os.waitpid(pid, 0)[1]


def wait_until(condition, seconds=60):
    """Wait for a condition. AssertionError if it is late."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited %d s" % seconds
        time.sleep(0.05)


class Tool:
    """A tool. A with block starts it, stops it by SIGINT, and checks it. It
    does not outlive the thread that started it."""

    def __init__(self, name, *args, prefix=(), **popen):
        self.name, self.popen, self.marks = name, popen, []
        self.workload = name in TRACERS and TRACERS[name].workload
        self.command = ["setpriv", "--pdeathsig", "KILL", *prefix, PYTHON,
                        tool_path(name), *map(str, args)]

    def start(self):
        """Start, and wait for the header. AssertionError if it ends."""
        self.out, self.err = (tempfile.NamedTemporaryFile() for _ in "oe")
        self.process = subprocess.Popen(self.command, stdout=self.out,
                                        stderr=self.err, **self.popen)
        with contextlib.ExitStack() as failed:
            failed.callback(self.process.kill)
            wait_until(lambda: self.header or self.process.poll() is not None,
                       START_SECONDS)
            assert self.header, self.stderr
            failed.pop_all()
        return self

    __enter__ = start

    def read(self, file):
        """Return what the tool has written to a file."""
        return pathlib.Path(file.name).read_bytes().decode(errors="replace")

    def lines(self):
        """Return the lines that are complete."""
        return self.read(self.out).split("\n")[:-1]

    header = property(lambda self: "".join(self.lines()[:1]))
    rows = property(lambda self: self.lines()[1:])
    stderr = property(lambda self: self.read(self.err))
    lost = property(lambda self: sum(map(int, re.findall(
        r"lost (\d+) event", self.stderr))))

    def table(self, start=0):
        """Return the rows from one on as dicts."""
        lines = [self.header] + self.rows[start:]
        titles, *rows = (csv.reader(lines) if "," in self.header
                         else map(str.split, lines))
        return [dict(zip(titles, row)) for row in rows]

    @contextlib.contextmanager
    def traced(self):
        """Yield a list. After the block it has the rows printed meanwhile."""
        rows = []
        self.mark()
        start = len(self.rows)
        yield rows
        self.mark()
        self.mark()     # meanwhile other CPUs' rows have been printed
        rows += [row for row in self.table(start)
                 if self.workload.number(row) not in self.marks]

    def mark(self):
        """Do an act() with a number of its own, and wait for its row."""
        start = len(self.rows)
        self.marks.append(2**29 + len(self.marks))
        self.workload.act(self.marks[-1])
        wait_until(lambda: self.marks[-1] in map(
            self.workload.number, own_rows(self.table(start))))

    def send(self, number):
        """Signal it by another process: this one may be traced."""
        subprocess.check_call("kill -%d %d" % (number, self.process.pid),
                              shell=True)

    def stop(self, number=signal.SIGINT):
        """Stop it by a signal. Return its status."""
        assert self.process.poll() is None, "it ended: " + self.stderr
        self.send(number)
        return self.process.wait(60)

    def __exit__(self, kind, *_):
        try:
            assert kind or self.stop() == 0, self.stderr
        finally:
            self.process.kill()


def own_rows(table, pid=None):
    """Return the rows of one process, this one by default."""
    return [row for row in table if row["PID"] == str(pid or os.getpid())]


def cells(rows, titles):
    """Return the values of some columns of each row."""
    return [tuple(row[title] for title in titles.split()) for row in rows]


def fdinfo(pid, field):
    """Return a number of each descriptor: of BPF programs and maps."""
    text = run_command("sh", "-c", "cat /proc/%d/fdinfo/*" % pid).stdout
    return list(map(int, re.findall(r"(?m)^%s:\s*(\d+)$" % field, text)))


def bpf_programs():
    """Return the IDs of all BPF programs in the kernel."""
    programs, number = set(), ctypes.c_uint32()
    while lib.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        programs.add(number.value)
    return programs


@functools.lru_cache(maxsize=None)
def kernel_supports(probe):
    """Return whether the kernel takes such a probe on kill(2)."""
    function = BPF(text=b"").get_syscall_fnname(b"kill").decode()
    smallest = {
        "fentry": "KFUNC_PROBE(%s)" % function,
        "tracepoint": "TRACEPOINT_PROBE(syscalls, sys_enter_kill)",
        "kprobe": "int kprobe__%s(void *ctx)" % function}[probe]
    text = "#include <uapi/linux/ptrace.h>\n%s { return 0; }" % smallest
    with contextlib.suppress(Exception):
        BPF(text=text.encode()).cleanup()
        return True
    return False


@contextlib.contextmanager
def odd_name(name):
    """Give this thread another name within the block: at most 15 bytes."""
    comm = pathlib.Path("/proc/thread-self/comm")
    old = comm.read_bytes()[:-1]
    comm.write_bytes(name)
    try:
        yield
    finally:
        comm.write_bytes(old)
