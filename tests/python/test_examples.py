"""The teaching examples and the demo print what they claim."""

import os
import re
import subprocess

from common import (COUNT, PYTHON, TOP, Tool, kernel_supports, run,
                    run_command, started, wait_until)

# Without IPv6, the kernel sends no packets of its own.
VETH = """echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add near0 type veth peer name far0
ip link set near0 up; ip link set far0 up"""
SEND = """import socket
far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
far.bind(("far0", 0))
for _ in range(%d): far.send(bytes(60))""" % COUNT


def test_syscall_fallback():
    """The first probe type that the kernel supports shows each call."""
    probes, me = ["fentry:", "tracepoint:", "kprobe:"], str(os.getpid())
    used = [kernel_supports(p[:-1], "kill") for p in probes].index(True)
    with started("examples/tracing/syscall_fallback.py",
                 stdout=subprocess.PIPE, universal_newlines=True) as process:
        lines = map(str.split, process.stdout)
        head = [next(lines)[:2] for _ in range(used + 2)]
        for sig in [0] * COUNT + [18]:      # SIGCONT
            os.kill(os.getpid(), sig)
        rows = list(iter(lambda: next(lines), [me, me, "18"]))
    assert head == [[probe, "refused"] for probe in probes[:used]] + [
        [probes[used], "attached."], ["PID", "TARGET"]]
    assert [row for row in rows if row[0] == me] == [[me, me, "0"]] * COUNT


def test_ringbuf_batch():
    """Each event is seen, or counted as lost if the buffer is too small."""
    done = run("examples/tracing/ringbuf_batch.py")
    calls = int(done.stdout.split()[0])
    untraced, woken, batches, small = [list(map(int, row[30:].split()))
                                       for row in done.stdout.splitlines()[2:]]
    assert woken[1:] == batches[1:] == [calls, 0]
    assert 0 < untraced[0] < batches[0] < woken[0]
    assert small[1] + small[2] == calls and small[2] > 0


def test_xdp_link_count(request):
    """Each packet is counted. After SIGKILL nothing is attached."""
    inside = ["ip", "netns", "exec", "bcc-examples-%d" % os.getpid()]
    subprocess.check_call(["ip", "netns", "add", inside[-1]])
    request.addfinalizer(lambda: subprocess.call(
        ["ip", "netns", "del", inside[-1]]))
    subprocess.check_call([*inside, "sh", "-ec", VETH])
    tool = Tool("examples/networking/xdp/xdp_link_count.py", "near0",
                prefix=inside).start()
    request.addfinalizer(tool.process.kill)
    assert "prog/xdp" in run_command(*inside, "ip", "link").stdout
    subprocess.check_call([*inside, PYTHON, "-c", SEND])
    wait_until(lambda: tool.rows[-1].endswith(" %d" % COUNT))
    tool.process.kill()
    wait_until(lambda: "prog/xdp" not in run_command(
        *inside, "ip", "link").stdout)


def test_demo():
    """A signal sent, one refused, one ignored, and one from the kernel."""
    shown = subprocess.check_output(TOP + "/examples/demo").decode()
    for row in (r"SIGKILL +\d+ +sleep +0\n", r"SIGTERM +\d+ +- +ESRCH\n",
                r"SIGUSR1 +\d+ +sleep +ignored\n", r" 0 +kernel +SIGSEGV "):
        assert re.search(row, shown)
