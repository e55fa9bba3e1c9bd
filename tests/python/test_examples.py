"""The teaching examples and the demo print what they claim."""

import os
import re
import signal
import subprocess

import pytest

from common import COUNT, PROBES, TOP, Tool, kernel_supports, run, wait_until
from frames import KNOWN
from veth import Wire


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
    ("madvsnoop -S", [
        r"FREE +5 +0 +- +640K ", r"DONTNEED +9 +2 +E\w+ +448K "]),
    ("countp", [
        r"TCP +\d+ +2[34]\d{6} ", r"drop +[12]\d{3} ", r"tx +[12]\d "]),
    ("protostats -S", [
        r"TCP +2[34]\d{6} +\d+ +0 ", r"UDP +\d+ +[12]\d{3} +0 "])])
def test_demo(options, rows):
    """Rows of each workload. What finds veth's queue full is not counted."""
    shown = subprocess.check_output([TOP + "/examples/demo", *options.split()])
    for row in rows:
        assert re.search(row, shown.decode())
