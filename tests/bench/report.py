"""What the bench measured, as a table, as CSV and as a picture."""

import collections
import csv
import os
import statistics
import subprocess
import time

PACKAGES = ["python3-bpfcc", "bpfcc-tools", "bpftrace", "libbpf-tools",
            "linux-perf", "strace", "xdp-tools", "tcpdump"]

# What a table has of each measure: its heading, and how a value is shown. The
# units are those of the heading; a measure that is not here is a time in ns.
MEASURES = {
    "call": ("CALL(ns)", "%.0f"), "getppid": ("GETPPID(ns)", "%.0f"),
    "rate": ("CALLS/s", "%.0f"),
    "packets": ("PACKETS/s", "%.0f"),
    "asked": ("ASKED", "%d"), "seen": ("SEEN", "%d"), "lost": ("LOST", "%d"),
    "cpu": ("CPU(s)", "%.2f"),
    "rss": ("RSS(MB)", "%.0f"), "anonymous": ("ANON(MB)", "%.0f"),
    "start": ("START(s)", "%.2f"),
}


class Workload:
    """What all tracers are measured with, and what came of it.

    title       says what it is
    main        the measure that is compared: with base's, a tracer's that
                stands for no tracing at all, and with ours
    measures    the others, in their order
    loads       how much of it, from little to much, for one that is measured
                as cost grows: its heading, and numbers
    rounds      to measure, of those that are asked for
    floors      with what shows no events, too
    """

    def __init__(self, title, main, measures, base, ours, loads=("", [0]),
                 rounds=None, floors=True):
        self.title, self.main, self.measures = title, main, measures
        self.base, self.ours = base, ours
        self.rounds, self.floors = rounds, floors
        self.load_title, self.loads = loads
        self.found = collections.defaultdict(
            lambda: collections.defaultdict(list))
        self.errors = {}

    def add(self, tracer, values, load=0):
        """One round: a dict of the measures that there are."""
        for measure, value in values.items():
            self.found[tracer, load][measure].append(value)

    def median(self, tracer, measure, load=0):
        """None where there is none."""
        values = self.found.get((tracer, load), {}).get(measure)
        return statistics.median(values) if values else None

    def ratio(self, tracer, measure, load, to):
        value = self.median(tracer, measure, load)
        other = self.median(to, measure, load)
        return value / other if value is not None and other else None

    def seen_part(self, tracer, load):
        """From 0 to 1; None where it is not known."""
        seen = self.median(tracer, "seen", load)
        asked = self.median(tracer, "asked", load)
        return None if seen is None or not asked else seen / asked

    def tracers(self):
        """In the order of their first round."""
        return list(dict.fromkeys(
            [tracer for tracer, _ in self.found] + list(self.errors)))


def heading(measure):
    return MEASURES.get(measure, (measure + "(ns)",))[0]


def shown(measure, value):
    if value is None:
        return "-"
    return MEASURES.get(measure, ("", "%.0f"))[1] % value


def ratio_shown(value):
    return "-" if value is None else "%.2f" % value


def table(workload):
    """Lines for a person: medians of all rounds, and of the main measure the
    lowest and the highest, too."""
    measures = [m for m in workload.measures if any(
        m in found for found in workload.found.values())]
    rows = [["TRACER", workload.load_title, heading(workload.main),
             "LOW-HIGH", "/NONE", "/OURS", *map(heading, measures)]]
    for tracer in workload.tracers():
        for load in workload.loads:
            values = workload.found.get((tracer, load), {}).get(workload.main)
            if values:
                rows.append([
                    tracer, "%d" % load,
                    shown(workload.main, statistics.median(values)),
                    "-".join(shown(workload.main, edge(values))
                             for edge in (min, max))] + [
                    ratio_shown(workload.ratio(tracer, workload.main, load,
                                               to))
                    for to in (workload.base, workload.ours)] + [
                    shown(m, workload.median(tracer, m, load))
                    for m in measures])
    if not workload.load_title:
        rows = [row[:1] + row[2:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [workload.title + ":"]
    for row in rows:
        lines.append(row[0].ljust(widths[0]) + "".join(
            "  " + cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:])))
    lines += ["%s  does not run here: %s" % (tracer.ljust(widths[0]), error)
              for tracer, error in workload.errors.items()]
    return "\n".join(lines) + "\n"


def machine():
    """A line: when, which kernel, how many CPUs, which versions of what."""
    versions = []
    for package in PACKAGES:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            universal_newlines=True)
        if done.stdout:
            versions.append("%s %s" % (package, done.stdout))
    return "%s, Linux %s, %d CPUs; %s" % (
        time.strftime("%Y-%m-%d"), os.uname().release, os.cpu_count(),
        ", ".join(versions) or "versions unknown")


def write_csv(path, tool, workloads):
    """A line for each measure of each tracer. Raises OSError."""
    with open(path, "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["date", "kernel", "cpus", "tool", "workload", "load",
                         "tracer", "measure", "rounds", "median", "low",
                         "high", "to_none", "to_ours", "error"])
        place = [time.strftime("%Y-%m-%d"), os.uname().release,
                 os.cpu_count(), tool]
        for w in workloads:
            for (tracer, load), found in w.found.items():
                for measure, values in found.items():
                    writer.writerow(place + [
                        w.title, load or "", tracer, heading(measure),
                        len(values), round(statistics.median(values), 3),
                        round(min(values), 3), round(max(values), 3)] + [
                        ratio_shown(w.ratio(tracer, measure, load, to))
                        for to in (w.base, w.ours)] + [""])
            for tracer, error in w.errors.items():
                writer.writerow(place + [w.title, "", tracer, *[""] * 7,
                                         error])


def draw(path, tool, workloads):
    """A PNG with a chart for each workload. Raises OSError, ImportError."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(
        len(workloads), figsize=(10, 3.5 * len(workloads)), squeeze=False)
    for w, (ax,) in zip(workloads, axes):
        (draw_growth if w.load_title else draw_bars)(w, ax)
        ax.set_title(w.title, loc="left")
    figure.suptitle("%s: %s, Linux %s, %d CPUs" % (
        tool, time.strftime("%Y-%m-%d"), os.uname().release, os.cpu_count()))
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path)


def draw_bars(w, ax):
    """Of the main measure, with its lowest and highest value."""
    tracers = [t for t in w.tracers() if w.median(t, w.main) is not None]
    medians = [w.median(t, w.main) for t in tracers]
    values = [w.found[t, 0][w.main] for t in tracers]
    ax.barh(tracers, medians, xerr=[
        [m - min(v) for m, v in zip(medians, values)],
        [max(v) - m for m, v in zip(medians, values)]],
        color=["tab:orange" if t == w.ours else "tab:blue" for t in tracers])
    for i, m in enumerate(medians):
        ax.annotate(" " + shown(w.main, m), (m, i), va="bottom", fontsize=8)
    if medians and max(medians) > 20 * min(medians) > 0:
        ax.set_xscale("log")
    ax.invert_yaxis()
    ax.set_xlabel(heading(w.main))


def draw_growth(w, ax):
    """What part of the calls was seen, as the load grows."""
    for tracer in w.tracers():
        points = [(load, 100 * w.seen_part(tracer, load)) for load in w.loads
                  if w.seen_part(tracer, load) is not None]
        if points:
            ax.plot(*zip(*points), marker="o", label=tracer)
    ax.set_xscale("log")
    ax.set_ylim(0, 105)
    ax.set_xlabel(w.load_title)
    ax.set_ylabel("% of calls seen")
    ax.legend()
