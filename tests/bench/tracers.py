"""Measure what a system call costs under tracers, and how many are seen."""

import collections
import contextlib
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from report import CALLS, COST, FAULT, PAIR, SEEN, SIGNAL, attempt

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = HERE + "/../../tools/"
# Calls a second of two processes (0: as many as they can), and seconds.
STEPS = {1000: 1.5, 10000: 1.5, 30000: 1.5, 100000: 2, 150000: 2, 200000: 2,
         300000: 1.5, 500000: 1.5, 1000000: 1.5, 0: 1.5}

# row       pattern of the line for a call; its groups, if any: pid, count
# ready     pattern of a line that says that it traces, if rows do not show it
# steps     measured with more and more calls, too
Tracer = collections.namedtuple("Tracer", "name command row ready steps",
                                defaults=[None, None, False])


def own(name, *pattern, **more):
    """Return the Tracer for a tool of ours, from its name and options."""
    tool, *options = name.split()
    return Tracer(name, [sys.executable, TOOLS + tool + ".py", *options],
                  *pattern, **more)


KILL, PID = r"\b(?P<pid>\d+) +\S+ +(0|10) ", r"^(?P<pid>\d+) "
SUMMARY = r"^(?P<pid>\d+) +\S+ +DONTNEED +(?P<count>\d+)"
BASELINE = """import bcc, signal
bpf = bcc.BPF(text='''
TRACEPOINT_PROBE(syscalls, sys_enter_%s) { return 0; }
TRACEPOINT_PROBE(syscalls, sys_exit_%s) { return 0; }''')
print("Attached", flush=True)
signal.pause()"""
ROWS = """t:syscalls:sys_enter_madvise { @t[tid] = nsecs; }
t:syscalls:sys_exit_madvise /@t[tid]/ {
    printf("%d %s %d\\n", pid, comm, nsecs - @t[tid]); delete(@t[tid]); }"""
SUMS = """t:syscalls:sys_enter_madvise {
    @t[tid] = nsecs; @advice[tid] = args->behavior; }
t:syscalls:sys_exit_madvise /@t[tid]/ {
    @[pid, comm, @advice[tid]] = stats(nsecs - @t[tid]);
    delete(@t[tid]); delete(@advice[tid]); }"""
TRACERS = {"killsnoop": [
    own("killsnoop", KILL, steps=True),
    own("killsnoop -P", KILL),
    own("killsnoop -s 63", ready="TIME"),
    Tracer("sigsnoop", "stdbuf -oL sigsnoop -k".split(), KILL, steps=True),
    Tracer("bpftrace killsnoop.bt", ["killsnoop.bt"], KILL, steps=True),
], "madvsnoop": [
    own("madvsnoop", PID, steps=True),
    own("madvsnoop -m 1000000", ready="PID"),
    own("madvsnoop -S", SUMMARY, "Tracing", True),
    own("madvsnoop -SL", SUMMARY, "Tracing"),
    own("madvsnoop -SR", SUMMARY, "Tracing"),
    Tracer("perf trace -s", ["perf", "trace", "-a", "-s", "-e", "madvise"]),
    Tracer("bpftrace, rows", ["bpftrace", "-e", ROWS], PID, steps=True),
    Tracer("bpftrace, sums", ["bpftrace", "-e", SUMS],
           r"^@\[(?P<pid>\d+), load, 4\]: count (?P<count>\d+),", "Attach",
           True)]}


class Process(subprocess.Popen):
    """A tracer whose output goes to a file."""
    def __init__(self, command):
        self.log, self.begin = tempfile.TemporaryFile(), time.monotonic()
        super().__init__(command, stdin=subprocess.DEVNULL, stdout=self.log,
                         stderr=self.log)
        self.pidfd = os.pidfd_open(self.pid)

    def __exit__(self, *error):
        os.close(self.pidfd)
        self.kill()
        super().__exit__(*error)

    def output(self):
        fd = self.log.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def fail(self):
        raise RuntimeError("ended, or not ready: " + self.output()[-300:])

    def wait_for(self, condition):
        """Return the seconds from its start until a condition holds."""
        while True:
            ended = self.poll() is not None
            seconds = time.monotonic() - self.begin
            if condition():
                return seconds
            if ended or seconds > 30:
                self.fail()
            os.kill(os.getpid(), 0)     # calls for it to show
            mmap.mmap(-1, mmap.PAGESIZE).madvise(mmap.MADV_DONTNEED)
            time.sleep(0.002)

    def drain(self):
        """Wait until it prints nothing for 0.3 s, for at most 15 s."""
        sizes = [-1, 0]
        while sizes[-1] != sizes[-2] and len(sizes) < 50:
            time.sleep(0.3)
            sizes.append(len(self.output()))

    def usage(self):
        """Return the CPU seconds that it used, and its memory in MB (RSS)."""
        with open("/proc/%d/stat" % self.pid) as f:
            fields = f.read().rpartition(")")[2].split()    # see proc(5)
        ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
        return ticks / os.sysconf("SC_CLK_TCK"), pages * mmap.PAGESIZE / 1e6

    def stop(self):
        """Stop it by SIGINT. trace ignores one while it prints a kill(2)."""
        if self.poll() is not None:
            self.fail()
        for _ in range(6):      # bpftrace can miss one
            signal.pidfd_send_signal(self.pidfd, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(5)
                return
        raise RuntimeError("does not end by SIGINT")


def run(loads, seconds):
    """Let processes of load.c run at the same time. Return the measures."""
    for load in loads:
        print(file=load.stdin, flush=True)
    calls, ns = zip(*[map(int, load.stdout.readline().split())
                      for load in loads])
    return {"ns a call": sum(ns) / len(ns), "calls": sum(calls),
            "calls/s": sum(calls) / seconds}


def measure(tracer, loads, seconds):
    """Return the measures of loads under a tracer."""
    if not tracer.command:
        return run(loads, seconds)
    pids = [load.pid for load in loads]
    sign = tracer.ready or tracer.row or ""
    with Process([str(pids[0]) if word == "PID" else word
                  for word in tracer.command]) as process:
        start = process.wait_for(
            lambda: re.search(sign, process.output(), re.M))
        time.sleep(1)   # bpftrace says it early, perf trace -s never
        cpu_before, _ = process.usage()
        measures = run(loads, seconds)
        process.drain()
        cpu, rss = process.usage()
        process.stop()
        output = process.output()
    if tracer.row:
        rows = (match.groupdict()
                for match in re.finditer(tracer.row, output, re.M))
        measures["seen"] = sum(int(row.get("count", 1)) for row in rows
                               if int(row.get("pid", pids[0])) in pids)
        measures["seen %"] = 100 * measures["seen"] / measures["calls"]
        measures["lost"] = sum(map(int, re.findall(
            r"(?i)\blost (\d+) (?:event|sample)", output)))
    measures.update({"CPU s": cpu - cpu_before, "RSS MB": rss})
    if sign:
        measures["start s"] = start
    return measures


def measure_all(tool, rounds):
    """Measure each tracer in turn, round by round; then step by step."""
    call = CALLS[tool]
    tracers = [
        Tracer("untraced", []), *TRACERS[tool],
        Tracer(PAIR, [sys.executable, "-c", BASELINE % (call, call)],
               ready="Attached"),
        Tracer("trace-bpfcc", ["trace-bpfcc", "t:syscalls:sys_exit_" + call],
               PID),
        Tracer("perf trace", ["perf", "trace", "-a", "-e", call],
               r"/(?P<pid>\d+) %s\(" % call),
        Tracer("strace", ["strace", "-e", "trace=" + call, "-p", "PID"],
               r"^%s\(" % call, "attached")]
    folder = tempfile.TemporaryDirectory()
    program = folder.name + "/load"
    subprocess.check_call(["gcc", "-O2", "-o", program, HERE + "/load.c"])

    def measure_one(tracer, processes, seconds, rate, work=call):
        command = [program, work, str(seconds), str(rate / processes)]
        with contextlib.ExitStack() as stack:
            return measure(tracer, [stack.enter_context(subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                universal_newlines=True)) for _ in range(processes)], seconds)
    for _ in range(rounds):
        for tracer in tracers:
            attempt(tool, COST, tracer.name, "",
                    lambda: measure_one(tracer, 1, 0.7, 0))
            if call == "kill":
                attempt(tool, SIGNAL, tracer.name, "",
                        lambda: measure_one(tracer, 1, 0.7, 0, "signal"))
            elif re.match("untraced|madvsnoop -S", tracer.name):
                attempt(tool, FAULT, tracer.name, "", lambda: measure_one(
                    tracer._replace(row=None), 1, 0.7, 0, "fault"))
    for tracer in tracers:
        for rate, seconds in STEPS.items() if tracer.steps else ():
            measures = attempt(tool, SEEN, tracer.name, rate or "unlimited",
                               lambda: measure_one(tracer, 2, seconds, rate))
            if measures.get("calls/s", 0) < 0.9 * rate:
                break       # the tracer is the limit
