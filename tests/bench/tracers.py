"""The tools that trace system calls, their peers, and what there is below
them, as commands that can be started, asked how they are, and ended."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

from toolrun import PYTHON, TOP, cpu_seconds, tool_path

START_SECONDS = 30
DRAIN_SECONDS = 15      # for rows that are still to come, after the last call
SILENCE = 0.3           # s without a row: there are none to come
LOST = re.compile(rb"(?i)\blost (\d+) (?:event|sample)")


class Failed(Exception):
    """A tracer does not run here; it tells why in its own words."""


def own_words(text):
    """The line of a program's output that tells most of an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(
        "(?i)error|exception|fail|cannot|can't|invalid", line)]
    return (telling or lines or ["it says nothing"])[-1]


def resident(pid):
    """A process' memory in MB: all, and what is its own alone, no file's and
    no buffer's shared with the kernel. VmRSS and RssAnon of proc(5)."""
    with open("/proc/%d/status" % pid) as f:
        text = f.read()
    return [int(re.search(r"^%s:\s*(\d+) kB" % field, text, re.M)[1]) / 1000
            for field in ("VmRSS", "RssAnon")]


class Tracer:
    """A command that traces the whole system, or the processes it is told.

    name        as the table shows it
    command     None for no tracer at all
    row         a pattern for a line that stands for a call. Its groups, where
                it has them: pid, of the caller; count, of calls. None: it
                shows no calls
    ready       a pattern for what it says once it traces, if its rows come
                at the end only; None for one that has neither: it is given 3 s
    attaches    it wants "-p PID" for each process
    scales      it is measured with growing loads, too
    """

    def __init__(self, name, command, row=None, ready=None, attaches=False,
                 scales=False):
        self.name, self.command, self.row = name, command, row
        self.ready, self.attaches, self.scales = ready, attaches, scales
        self.is_floor = bool(command and not row)


class Running:
    """A tracer while it runs; a context manager. Raises Failed."""

    def __init__(self, tracer, pids, tick_pid):
        self.tracer = tracer
        command = list(tracer.command)
        if tracer.attaches:
            for pid in [*pids, tick_pid]:
                command += ["-p", str(pid)]
        self.log = tempfile.TemporaryFile()
        self.begin = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self.log,
                stderr=self.log)
        except OSError as e:    # not installed
            raise Failed(e.strerror)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def text(self, offset=0):
        """What it has printed, as bytes."""
        return os.pread(self.log.fileno(), self.size() - offset, offset)

    def size(self):
        return os.fstat(self.log.fileno()).st_size

    def wait_for_start(self):
        """Returns the seconds until its first row, or until it said that it
        traces; None for what shows neither."""
        sign = self.tracer.ready or self.tracer.row
        while True:
            passed = time.monotonic() - self.begin
            if sign and re.search(sign.encode(), self.text(), re.M):
                return passed
            if self.process.poll() is not None or passed > START_SECONDS:
                raise Failed(own_words(self.text().decode(errors="replace")))
            if not sign and passed > 3:
                return None
            time.sleep(0.002)

    def drain(self):
        """Wait until no more rows come."""
        size, end = -1, time.monotonic() + DRAIN_SECONDS
        while size != self.size() and time.monotonic() < end:
            size = self.size()
            time.sleep(SILENCE)

    def stop(self):
        """End it by SIGINT."""
        if self.process.poll() is not None:
            raise Failed(own_words(self.text().decode(errors="replace")))
        # A BCC tool may overlook it while it handles an event, and kill(2)
        # itself can be one.
        pidfd = os.pidfd_open(self.process.pid)
        try:
            for _ in range(6):
                signal.pidfd_send_signal(pidfd, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
                    return
        finally:
            os.close(pidfd)
        raise Failed("it does not end by SIGINT")

    def seen(self, pids, offset):
        """The calls of these processes that it showed from there on; all, if
        it names no process."""
        row = re.compile(self.tracer.row.encode(), re.M)
        found, text = collections.Counter(), self.text(offset)
        for match in row.finditer(text):
            groups = match.groupdict()
            found[int(groups.get("pid") or 0)] += int(groups.get("count") or 1)
        return sum(found[pid] for pid in [0, *pids])

    def lost(self, offset):
        """As it told from there on."""
        return sum(map(int, LOST.findall(self.text(offset))))


def measure(tracer, load, ticks):
    """A dict of report.MEASURES for one round of a calls.Load. ticks, a second
    one, makes the calls that show when the tracer has started, if that needs
    any; else it waits, so that strace is not left without a process."""
    with load, ticks:
        if not tracer.command:
            return load.run()
        if not tracer.ready:
            ticks.begin()
        with Running(tracer, load.pids, ticks.pids[0]) as running:
            start = running.wait_for_start()
            if not tracer.ready:
                ticks.end()
                running.drain()
            offset = running.size()
            cpu = cpu_seconds(running.process.pid)
            values = load.run()
            running.drain()
            values["cpu"] = cpu_seconds(running.process.pid) - cpu
            values["rss"], values["anonymous"] = resident(running.process.pid)
            running.stop()
            if start is not None:
                values["start"] = start
            if tracer.row:
                values["seen"] = running.seen(load.pids, offset)
                values["lost"] = running.lost(offset)
            return values


def ours(name, options=(), row=None, **more):
    return Tracer(" ".join([name, *options]),
                  [PYTHON, tool_path(name), *options], row, **more)


def floor(name, *arguments):
    return Tracer(name, [PYTHON, os.path.join(
        TOP, "tests", "bench", "floor.py"), *arguments], ready="Attached")


def strace(call, *options, row):
    return Tracer(" ".join(["strace", *options]),
                  ["strace", "-f", *options, "-e", "trace=" + call], row,
                  ready="attached", attaches=True)


def perf_trace(call, *options, row):
    return Tracer(" ".join(["perf trace", *options]),
                  ["perf", "trace", "-a", *options, "-e", call], row)


def floors(call, tool):
    return [floor("BCC, attached to nothing", "nothing"),
            floor("tracepoints, do nothing", "pair", call),
            floor("tracepoints, never submit", "unsent", tool)]


def killsnoop():
    by_pid = r"^\S+ +(?P<pid>\d+) "
    return [
        Tracer("none", None, scales=True),
        ours("killsnoop", row=by_pid, scales=True),
        ours("killsnoop", ["-s", "63"], ready="TIME"),
        *floors("kill", "killsnoop"),
        Tracer("libbpf-tools sigsnoop",
               ["stdbuf", "-oL", "sigsnoop", "-k"], by_pid, scales=True),
        Tracer("bpftrace killsnoop.bt", ["killsnoop.bt"], by_pid),
        Tracer("killsnoop-bpfcc", ["killsnoop-bpfcc"], by_pid),
        Tracer("trace-bpfcc", [
            "trace-bpfcc", "t:syscalls:sys_exit_kill"], r"^(?P<pid>\d+) "),
        perf_trace("kill", row=r"/(?P<pid>\d+) kill\("),
        strace("kill", row=r"^(\[pid +\d+\] )?kill\(")]


def madvsnoop():
    by_pid = r"^(?P<pid>\d+) "
    bpftrace_rows = (
        "tracepoint:syscalls:sys_enter_madvise { @t[tid] = nsecs; } "
        "tracepoint:syscalls:sys_exit_madvise /@t[tid]/ { printf("
        '"%d %s %d\\n", pid, comm, nsecs - @t[tid]); delete(@t[tid]); } '
        "END { clear(@t); }")
    bpftrace_sums = (
        "tracepoint:syscalls:sys_enter_madvise "
        "{ @t[tid] = nsecs; @b[tid] = args->behavior; } "
        "tracepoint:syscalls:sys_exit_madvise /@t[tid]/ "
        "{ @[pid, comm, @b[tid]] = stats(nsecs - @t[tid]); "
        "delete(@t[tid]); delete(@b[tid]); } "
        "END { clear(@t); clear(@b); }")
    return [
        Tracer("none", None, scales=True),
        ours("madvsnoop", row=by_pid, scales=True),
        ours("madvsnoop", ["-m", "1000000"], ready="PID"),
        ours("madvsnoop", ["-S"], r"^(?P<pid>\d+) +\S+ +DONTNEED +"
             r"(?P<count>\d+) ", ready="Tracing", scales=True),
        *floors("madvise", "madvsnoop"),
        floor("tracepoints, read the clock", "clock", "madvise"),
        Tracer("trace-bpfcc, no latency, result",
               ["trace-bpfcc", "t:syscalls:sys_enter_madvise "
                '"%lx %d", args->start, args->behavior'], by_pid),
        Tracer("bpftrace, rows", ["bpftrace", "-e", bpftrace_rows], by_pid),
        Tracer("bpftrace, sums", ["bpftrace", "-e", bpftrace_sums],
               r"^@\[(?P<pid>\d+), load, 4\]: count (?P<count>\d+),",
               ready="Attach", scales=True),
        perf_trace("madvise", row=r"/(?P<pid>\d+) madvise\("),
        perf_trace("madvise", "-s", row=None),
        strace("madvise", row=r"^(\[pid +\d+\] )?madvise\("),
        strace("madvise", "-c", row=r"^ *\d\S+ +\S+ +\S+ +(?P<count>\d+) .*"
               r"madvise$")]
