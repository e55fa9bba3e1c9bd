"""Measures what system calls cost under each tracer. load.c makes them."""

import os
import subprocess
import tempfile

from report import Workload
from tracers import Failed, measure

HERE = os.path.dirname(os.path.abspath(__file__))
ENDLESS = 10**9             # calls; it is the time that ends
BURST = 1000000             # calls
STEADY = 100000             # calls a second
GROW = 1.5                  # s at each step
SENDERS = [1, 2, 4, 8, 16, 32, 64]
RATES = [10**3, 10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6]


class Load:
    """load.c's program, for one run; a context manager.

    pids    of its senders
    """

    def __init__(self, program, call, senders, calls, seconds, mode):
        self.command = [program, call] + [
            str(a) for a in (senders, calls, seconds, mode)]

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            universal_newlines=True)
        self.pids = [int(n) for n in self.process.stdout.readline().split()]
        return self

    def __exit__(self, *_):
        self.end()

    def begin(self):
        self.process.stdin.close()

    def end(self):
        """At once, what it does; its senders end with it."""
        self.process.kill()
        self.process.wait()

    def run(self):
        """Returns what it measured, a dict of report.MEASURES."""
        self.begin()
        calls, seconds, ns, getppid = map(
            float, self.process.stdout.read().split())
        values = {"call": ns, "asked": int(calls), "rate": calls / seconds}
        if getppid:
            values["getppid"] = getppid
        return values


def plan(tool):
    """Workloads, each with load.c's SENDERS CALLS SECONDS MODE as a function
    of the load."""
    cpus = os.cpu_count()
    common = ["asked", "seen", "lost", "cpu", "rss", "anonymous", "start"]

    def workload(title, measures, **more):
        return Workload(title, "call", measures + common, "none", tool, **more)
    return [
        (workload("One process, as fast as it can", ["getppid"]),
         lambda _: (1, ENDLESS, 0.7, "cost")),
        (workload("A process for each CPU, as fast as they can", ["getppid"]),
         lambda _: (cpus, ENDLESS, 0.7, "cost")),
        (workload("A burst of 1,000,000 calls, or what is done in 5 s",
                  ["rate"], floors=False), lambda _: (1, BURST, 5, "burst")),
        (workload("A burst of 1,000,000 calls that differ, or what is done "
                  "in 5 s", ["rate"], floors=False),
         lambda _: (1, BURST, 5, "differ")),
        (workload("100,000 calls a second for 20 s", ["rate"], floors=False,
                  rounds=1),
         lambda _: (1, ENDLESS, 20, STEADY)),
        (workload("More and more processes, as fast as they can, for 1.5 s",
                  ["rate"], loads=("SENDERS", SENDERS), rounds=1),
         lambda senders: (senders, ENDLESS, GROW, "burst")),
        (workload("A process for each CPU, more and more calls, for 1.5 s",
                  ["rate"], loads=("WANTED/s", RATES), rounds=1),
         lambda rate: (cpus, ENDLESS, GROW, rate))]


def measure_all(tool, call, tracers, rounds, tell):
    """Every tracer in turn, round by round. Returns the Workloads; tell is
    called with a line about what is going on."""
    workloads = plan(tool)
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "load")
        subprocess.check_call(["gcc", "-O2", "-o", program,
                               os.path.join(HERE, "load.c")])
        for number in range(rounds):
            for workload, arguments in workloads:
                if number >= (workload.rounds or rounds):
                    continue
                tell("round %d: %s" % (number + 1, workload.title))
                for load in workload.loads:
                    measure_each(workload, load, tracers, lambda: (
                        Load(program, call, *arguments(load)),
                        Load(program, call, 1, ENDLESS, 60, 200)))
    return [workload for workload, _ in workloads]


def measure_each(workload, load, tracers, make_loads):
    for tracer in tracers:
        if tracer.name in workload.errors or (
                workload.load_title and not tracer.scales) or (
                tracer.is_floor and not workload.floors):
            continue
        try:
            workload.add(tracer.name, measure(tracer, *make_loads()), load)
        except Failed as e:
            workload.errors[tracer.name] = str(e)
