"""Scripts and documents have bcc's style and agree, and examples work."""

import ast
import os
import pathlib
import re
import signal
import subprocess

import pytest

from common import (COUNT, PROBES, PYTHON, TOP, Tool, kernel_supports, run,
                    run_command, tool_path, wait_until)
from frames import KNOWN
from veth import Wire

ROOT = pathlib.Path(TOP)
README = (ROOT / "README.md").read_text()
TOOLS = sorted(ROOT.glob("tools/*.py"))
EXAMPLES = sorted(ROOT.glob("examples/**/*.py"))
LINES = {"killsnoop": 640, "madvsnoop": 920, "countp": 370, "protostats": 660}
# For system call numbers; for offsets, if the kernel has no BTF.
OTHER_HEADERS = ["<asm/unistd.h>", "<linux/sched.h>",
                 "<generated/utsrelease.h>"]


def output(*command):
    """Return what a command prints on stdout and stderr."""
    done = run_command(*map(str, command), env=dict(
        os.environ, COLUMNS="80", LC_ALL="C.UTF-8"))
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", EXAMPLES + TOOLS, ids=os.path.basename)
def test_script(path):
    text = path.read_text()
    assert os.access(str(path), os.X_OK)
    assert text.startswith("#!/usr/bin/python3\n")
    assert len(text.splitlines()) <= LINES.get(path.stem, 149)
    ast.parse(text, feature_version=(3, 6))
    # Other headers differ from kernel to kernel, and take long to compile.
    headers = re.findall(r"(?m)^[ \w=\"]*#\s*include\s+(.*)$", text)
    assert all(header.startswith("<uapi/") for header in headers
               if header not in OTHER_HEADERS)
    assert "(%s)" % path.relative_to(ROOT) in README


@pytest.mark.parametrize("tool", [path.stem for path in TOOLS])
def test_documents(tool):
    """No line is over 80 columns. The man page has the tool's options, and the
    example file ends with -h."""
    names = ["man/man8/%s.8" % tool, "tools/%s_example.txt" % tool]
    assert all(name in README for name in names)
    page, example = [(ROOT / name).read_text() for name in names]
    for check in "groff -man -ww -z -Tutf8", "mandoc -T lint -W warning":
        assert output(*check.split(), ROOT / names[0]) == ""
    assert set(re.findall(r"(?m)^\.SH (.*)$", page)) >= {
        "NAME", "SYNOPSIS", "DESCRIPTION", "REQUIREMENTS", "OPTIONS",
        "EXAMPLES", "FIELDS", "OVERHEAD", "SOURCE", "OS", "STABILITY",
        "AUTHOR", "SEE ALSO"}
    formatted = re.sub(".\b", "", output(       # overstruck, for bold
        "mandoc", "-T", "utf8", "-O", "width=78", ROOT / names[0]))
    usage = output("sh", "-c", "%s - -h < %s" % (PYTHON, tool_path(tool)))
    for line in "\n".join([example, usage, formatted]).splitlines():
        assert len(line) <= 80
    section = re.search(r"(?ms)^\.SH OPTIONS\n(.*?)^\.SH ",
                        page)[1].replace("\\-", "-")
    in_page, in_usage = [       # all names of an option, or an argument
        {frozenset(re.findall(r"(?<![\w-])--?[\w-]+", line)) or line
         for line in re.findall(pattern, text)} for pattern, text in (
            (r"(?m)^\.TP\n(.*)$", section),
            (r"(?m)^  (-.*?|[a-z]+)(?:  |$)", usage))]
    assert len(in_page) > 2 and in_page == in_usage
    # Python 3.10 changed a title, 3.13 "-p PID, --pid PID" and line breaks.
    shown, printed = [
        re.sub(r"(-\w) [A-Z]+, (--)", r"\1, \2", text).replace(
            "optional arguments:", "options:").split()
        for text in (example.split("# ./%s -h\n" % tool)[1], usage)]
    assert shown == printed


def test_style():
    """As bcc's scripts/py-style-check.sh runs it, on tests as well. codespell
    finds common misspellings; ND is neighbor discovery."""
    scripts = [path for path in ROOT.glob("tests/*/*") if (
        path.is_file() and b"python3\n" in path.read_bytes()[:20])]
    assert output("pycodestyle", "--ignore=E123,E125,E126,E127,E128,E302",
                  ROOT, *scripts) == ""
    assert output("codespell", "--ignore-words-list=nd", "--skip=*.svg,*.csv",
                  *ROOT.glob("[!.]*")) == ""


def test_syscall_fallback():
    """The first probe type that the kernel supports shows each call."""
    used, me = [*map(kernel_supports, PROBES)].index(True), str(os.getpid())
    tool = Tool("examples/tracing/syscall_fallback.py").start()
    wait_until(lambda: len(tool.rows) > used)
    for sig in [0] * COUNT + [18]:      # SIGCONT
        os.kill(os.getpid(), sig)
    wait_until(lambda: sum(row.split()[0] == me for row in tool.rows) > COUNT)
    lines = list(map(str.split, tool.lines()))
    assert [line[:2] for line in lines[:used + 2]] == [
        [probe + ":", "refused"] for probe in PROBES[:used]] + [
        [PROBES[used] + ":", "attached."], ["PID", "TARGET"]]
    assert sorted(row for row in lines if row[0] == me) == (
        [[me, me, "0"]] * COUNT + [[me, me, "18"]])
    assert tool.stop() == -signal.SIGINT


def test_ringbuf_batch():
    """Each event is seen, or counted as lost if the buffer is too small."""
    done = run("examples/tracing/ringbuf_batch.py")
    calls = int(done.stdout.split()[0])
    untraced, woken, batches, small = [list(map(int, row[30:].split()))
                                       for row in done.stdout.splitlines()[2:]]
    assert woken[1:] == batches[1:] == [calls, 0]
    assert 0 < untraced[0] < batches[0] < woken[0]
    assert small[1] + small[2] == calls and small[2] > 0


def test_xdp_link_count(network):
    """Each packet is counted. After SIGKILL nothing is attached."""
    tool = network.near.tool("examples/networking/xdp/xdp_link_count.py")
    with Wire(network.far) as far:
        tool.start()
        assert network.near.xdp()
        far.send(*[KNOWN["TCP"][0]] * COUNT)
        wait_until(lambda: tool.rows[-1].endswith(" %d" % COUNT))
    tool.process.kill()
    wait_until(lambda: not network.near.xdp())


@pytest.mark.parametrize("options, rows", [
    ("", [r"SIGKILL +\d+ +sleep +0 +python3:\d+ < demo:\d+ < ",
          r"SIGTERM +\d+ +- +ESRCH +python3:",
          r"SIGUSR1 +\d+ +sleep +ignored ", " 0 +kernel +SIGSEGV .*-\n"]),
    ("madvsnoop -S", [r"FREE +5 +0 +- +640K ", r"TNEED +9 +2 +E\w+ +448K "]),
    ("countp", [r"TCP +\d+ +2[34]\d{6} ", r"drop +[12]\d{3} ",
                r"tx +[12]\d "]),
    ("protostats -S", [r"TCP +2[34]\d{6} +\d+ +0 ",
                       r"UDP +\d+ +[12]\d{3} +0 "])])
def test_demo(options, rows):
    """Rows of each workload. What finds veth's queue full is not counted."""
    shown = subprocess.check_output([TOP + "/examples/demo", *options.split()])
    for row in rows:
        assert re.search(row, shown.decode())
