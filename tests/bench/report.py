"""What was measured: as tables, as CSV and as pictures."""

import collections
import csv
import io
import re
import subprocess
import sys
from statistics import median

from matplotlib import rcParams
from matplotlib.figure import Figure

CALLS = {"killsnoop": "kill", "madvsnoop": "madvise"}
COST, SEEN = "one process, as fast as it can", "two processes, in steps"
SIGNAL = "the same with an ignored SIGUSR1 in place of signal 0"
FAULT = "a page fault on memory that was given back"
PAIR = "empty tracepoint programs"
PACKAGES = "python3-bpfcc bpftrace libbpf-tools linux-perf strace xdp-tools"
NOTES = """# Results of tests/bench/run %s

%s.

Medians of %d rounds or less (two processes: 1), for ns the lowest and highest
as well.
Compare within a table. CPU, memory (RSS) and start-up are the tracer's.
"""
GRAY = "#757d87"        # readable on white and on black
rcParams.update({
    "text.color": GRAY, "axes.labelcolor": GRAY, "axes.edgecolor": GRAY,
    "xtick.color": GRAY, "ytick.color": GRAY, "ytick.major.size": 0,
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "bench"})

# found[tool, work][tracer, load][measure] has a number of each round.
found = collections.defaultdict(lambda: collections.defaultdict(dict))
failed = set()      # of (tool, tracer)


def attempt(tool, work, tracer, load, function):
    """Return and keep what a function measures, {} if the tracer failed."""
    if (tool, tracer) in failed:
        return {}
    print("%s: %s: %s %s" % (tool, work, tracer, load), file=sys.stderr)
    try:
        measures = function() or {}
    except (AttributeError, OSError, RuntimeError, ValueError,
            subprocess.SubprocessError) as e:
        print("%s failed: %s" % (tracer, e), file=sys.stderr)
        failed.add((tool, tracer))
        return {}
    for name, value in measures.items():
        found[tool, work][tracer, load].setdefault(name, []).append(value)
    return measures


def text(tool):
    """Return a tool's tables as Markdown."""
    return "\n".join(table(*key) for key in found if key[0] == tool)


def table(tool, work):
    """Return a Markdown table, also readable as it is."""
    values = found[tool, work]
    names = list(dict.fromkeys(sum(map(list, values.values()), [])))
    rows = [["tracer", *names]] + [
        [tracer, *[cell(name, measures.get(name)) for name in names]]
        for (tracer, _), measures in values.items()]
    if (PAIR, "") in values:
        base, pair = [median(values[tracer, ""][names[0]])
                      for tracer in ("untraced", PAIR)]
        rows[0] += ["ns added", "relative to empty programs"]
        for row, measures in zip(rows[1:], values.values()):
            added = median(measures[names[0]]) - base
            row += ["{:,.0f}".format(added), "%.2f" % (added / (pair - base))]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "## %s: %s\n\n%s" % (tool, work, "".join(
        "| %s |\n" % " | ".join(map(str.rjust, row, widths)) for row in rows))


def cell(name, values):
    """Return the median as text, for ns with the lowest and the highest."""
    if not values:
        return "-"
    form = "{:,.2f}" if name.endswith(" s") else "{:,.0f}"
    if name.startswith("ns ") and len(values) > 1:
        form = "{:,.0f} ({:,.0f}-{:,.0f})"
    return form.format(median(values), min(values), max(values))


def write(tools, rounds, folder):
    """Write RESULTS.md, results.csv and, of tracers, cost.svg and seen.svg."""
    machine = subprocess.getoutput(
        "echo $(date +%%F), Linux $(uname -r), $(nproc) CPUs$(dpkg-query -W "
        "-f ', ${Package} ${Version}' %s 2>&-)" % PACKAGES)
    with open(folder + "/RESULTS.md", "w") as f:
        f.write(NOTES % (" ".join(tools), machine, rounds))
        f.writelines("\n" + text(tool) for tool in tools)
    with open(folder + "/results.csv", "w") as f:
        f.write("tool,work,tracer,load,measure,rounds,median,low,high\n")
        csv.writer(f, lineterminator="\n").writerows(
            [*key, *row, name, len(values), *["%.6g" % function(values)
             for function in (median, min, max)]]
            for key, rows in found.items()
            for row, measures in rows.items()
            for name, values in measures.items())
    for name, plot in ("cost.svg", plot_cost), ("seen.svg", plot_seen):
        panels = [tool for tool in tools if (tool, COST) in found]
        if panels:
            draw(panels, plot, folder + "/" + name)


def draw(tools, plot, path):
    """Draw a picture with a panel for each tool."""
    figure, f = Figure(figsize=(9.6, 3.2)), io.StringIO()
    for ax, tool in zip(figure.subplots(1, len(tools), squeeze=False)[0],
                        tools):
        ax.set_xscale("log")
        plot(tool, ax)
        ax.minorticks_off()
        ax.xaxis.set_major_formatter("{x:,.0f}")
    figure.tight_layout(w_pad=3)
    figure.savefig(f, format="svg", transparent=True, metadata={"Date": None})
    with open(path, "w") as out:
        out.write(re.sub(r"(?s)<metadata>.*?</metadata>|<!--.*?-->|<!DOC.*?>|"
                         r"'DejaVu[^;\"]*(?=sans-serif)|(?<=\n)\s+", "",
                         f.getvalue()))


def plot_cost(tool, ax):
    """Draw the ns that each tracer adds to a call."""
    ns = {tracer: median(measures["ns a call"])
          for (tracer, _), measures in found[tool, COST].items()}
    base = ns.pop("untraced")
    names = sorted(ns, key=ns.get)
    added = [ns[name] - base for name in names]
    bars = ax.barh(names, added, 0.7, color=[
        "C1" if name.startswith(tool) else "C0" for name in names])
    pair = ns[PAIR] - base
    ax.bar_label(bars, ["{:,.0f} ({:.1f}x)".format(value, value / pair)
                        for value in added], padding=4)
    ax.set_title("ns added to one %s(2)" % CALLS[tool])
    ax.set_xlabel("untraced: %.0f ns; x: relative to empty programs" % base)
    ax.set_xlim(10, 100 * max(added))
    ax.invert_yaxis()


def plot_seen(tool, ax):
    """Draw the share of calls seen against calls a second."""
    lines = collections.defaultdict(list)
    for (tracer, _), measures in found[tool, SEEN].items():
        lines[tracer].append((measures["calls/s"][0], measures["seen %"][0]))
    for number, name in enumerate(lines):       # wide lines below narrow ones
        ax.plot(*zip(*lines[name]), "C%d" % (number + 1), marker="o",
                markersize=3, linewidth=2 * (len(lines) - number), label=name)
    ax.legend(loc="lower left", frameon=False)
    ax.set_title("%% of %s(2) calls seen" % CALLS[tool])
    ax.set_xlabel("calls a second, in steps up to the tracer's limit")
    ax.set_ylim(0, 105)
