#!/usr/bin/python3
"""The teaching examples: what they show, and what they refuse."""

import os
import re
import signal
import subprocess
import time
import unittest

from conduct import (COUNT, WITHOUT_RING_BUFFER, WITHOUT_TRACEPOINTS,
                     Surroundings)
from frames import MADE
from toolrun import PYTHON, Tool, run, tool_path
from veth import Network, attach_foreign
from xdpconduct import XdpSubject

NO_TRACEFS = ("for tracefs in /sys/kernel/tracing /sys/kernel/debug; do "
              '[ ! -d $tracefs ] || mount -t tmpfs none $tracefs; done; '
              'exec "$@"')


class TestSyscallFallback(Surroundings, unittest.TestCase):

    name = "examples/tracing/syscall_fallback.py"
    WAYS = {"fentry": 26, "tracepoint": 5, "kprobe": 2}  # enum bpf_prog_type

    def start(self, prefix=()):
        """The example, which traces or has ended, and what it says of each
        way: a dict."""
        tool, said = Tool(self.name, prefix=prefix).start(), {}
        line = tool.header
        while line and not line.startswith("Tracing kill(2)."):
            way, word = line.split(":", 1)
            said[way] = word.strip()
            if word.strip() == "chosen":
                self.assertEqual(tool.next_row(), "")
            try:
                line = tool.next_row()
            except AssertionError:  # it has ended
                return tool, said
        self.assertEqual(tool.next_row().split(), ["PID", "TARGET", "SIGNAL"])
        return tool, said

    def check_traces(self, tool, way):
        """By that way, known events."""
        folder, kinds = "/proc/%d/fdinfo/" % tool.process.pid, []
        for fd in os.listdir(folder):
            with open(folder + fd) as f:
                kinds += re.findall(r"^prog_type:\s*(\d+)$", f.read(), re.M)
        self.assertEqual(kinds, [str(self.WAYS[way])])
        for _ in range(COUNT):
            os.kill(os.getpid(), 0)
        end = time.monotonic() + 60
        while len(self.own_rows(tool)) < COUNT:
            self.assertLess(time.monotonic(), end)
            tool.next_row(60)
        self.assertEqual(tool.stop(), -signal.SIGINT)
        self.assertEqual(tool.stderr, "")
        self.assertEqual(self.own_rows(tool),
                         [[str(os.getpid()), "0"]] * COUNT)

    def own_rows(self, tool):
        """Target and signal, where this process is the sender."""
        return [row.split()[1:] for row in tool.rows
                if row.split()[:1] == [str(os.getpid())]]

    def check_reasons(self, said):
        """The ways were tried in order, and it is told why the others fail."""
        self.assertEqual(list(said), list(self.WAYS)[:len(said)])
        for reason in list(said.values())[:-1]:
            self.assertRegex(reason, r"^no: .*\w")

    def test_chosen_way_works(self):
        tool, said = self.start()
        self.check_reasons(said)
        way = list(said)[-1]
        self.assertEqual(said[way], "chosen")
        self.check_traces(tool, way)

    def test_without_tracepoints(self):
        tool, said = self.start(WITHOUT_TRACEPOINTS)
        self.check_reasons(said)
        self.assertEqual(list(said), list(self.WAYS))
        self.assertIn("tracefs", said["tracepoint"])
        if os.path.exists("/sys/bus/event_source/devices/kprobe"):
            self.assertEqual(said["kprobe"], "chosen")
            self.check_traces(tool, "kprobe")
        else:
            self.assertRegex(said["kprobe"], r"^no: .*\w")
            self.assertEqual(tool.finish(), 1)
            self.assertEqual(len(tool.stderr.splitlines()), 1, tool.stderr)
            self.assertIn("kill(2)", tool.stderr)


class TestRingbufBatch(Surroundings, unittest.TestCase):

    name = "examples/tracing/ringbuf_batch.py"
    CALLS = 200003

    def test_counts_and_costs(self):
        done = run(self.name)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        self.assertTrue(lines[0].startswith("%d calls" % self.CALLS))
        self.assertEqual(re.split("  +", lines[1].strip()),
                         ["EVENTS", "NS PER CALL", "SEEN", "LOST"])
        table = {}
        for line in lines[2:]:
            way, *cells = re.split("  +", line.strip())
            table[way] = [int(cell) for cell in cells]
        untraced, = table.pop("not traced")
        woken, batches = table["a wake-up each"], table["in batches"]
        # The buffer holds all of them.
        self.assertEqual(woken[1:], [self.CALLS, 0])
        self.assertEqual(batches[1:], [self.CALLS, 0])
        self.assertLess(0, untraced)
        self.assertLess(untraced, batches[0])
        self.assertLess(batches[0], woken[0])
        _, seen, lost = table.pop("in batches, buffer too small")
        self.assertEqual(seen + lost, self.CALLS)
        # A full buffer at least: 64 kB, of 16 bytes with the record's header.
        self.assertGreaterEqual(seen, 4095)
        self.assertGreater(lost, 0)
        self.assertEqual(len(table), 2)

    def test_no_ring_buffer(self):
        done = subprocess.run(
            WITHOUT_RING_BUFFER + [PYTHON, tool_path(self.name)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.check_one_line(done, "Linux 5.8")

    def test_no_tracefs(self):
        self.check_one_line(self.run_in(NO_TRACEFS), "mount -t tracefs")


class TestXdpLinkCount(Surroundings, XdpSubject, unittest.TestCase):

    name = "examples/networking/xdp/xdp_link_count.py"
    always = ["lo"]

    def run_on(self, network, **popen):
        return subprocess.run(
            network.near.prefix + [PYTHON, tool_path(self.name), "near0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, **popen)

    def test_counts(self):
        """All pass, in the driver, and are counted."""
        network = Network(self.addCleanup)
        frames = [MADE[name][0] for name in ("UDP, v4", "TCP, v4", "ping, v4")]
        attach_foreign(self, network.far)
        tool, program = self.start(network)
        self.assertIn("near0", tool.header)
        self.assertEqual(list(network.near.xdp().values()), [1])
        self.assertEqual(tool.next_row().split(),
                         ["TIME", "PACKETS/s", "TOTAL"])
        with network.far.wire() as far, network.near.wire() as near:
            far.send(*COUNT * frames)
            self.assertEqual(near.seen(), COUNT * frames)
        rates, total = [], 0
        while total < 3 * COUNT:
            _, rate, total = map(lambda cell: int(cell.replace(":", "")),
                                 tool.next_row(10).split())
            rates.append(rate)
        self.assertEqual(total, 3 * COUNT)
        self.assertLess(0, sum(rates))      # over at least a second each
        self.assertLessEqual(sum(rates), 3 * COUNT)
        self.assertEqual(tool.stop(), -signal.SIGINT)
        self.assertEqual(tool.stderr, "")
        self.wait_until_clean(network, program)

    def test_sigkill(self):
        self.check_sigkill()

    def test_another_program(self):
        network = Network(self.addCleanup)
        attach_foreign(self, network.near)
        before = network.near.xdp()
        self.check_one_line(self.run_on(network), "near0 ", "busy")
        self.assertEqual(network.near.xdp(), before)

    def test_no_links(self):
        self.check_one_line(self.run_with(
            "bpf_link_create = lambda *_: fails(errno.EINVAL)", "lo"),
            "lo takes no XDP program", "Linux 5.9")

    def test_usage(self):
        for args in [], ["lo", "lo"]:
            self.check_refusal(run(self.name, *args), 2, "usage: ",
                               "INTERFACE")

    def test_no_such_interface(self):
        for name in "nosuch0", "", "a" * 99, "%s":
            with self.subTest(name=name):
                self.check_one_line(run(self.name, name), "no network "
                                    "interface")


if __name__ == "__main__":
    unittest.main()
