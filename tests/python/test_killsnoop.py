#!/usr/bin/env python3
"""Functional tests of killsnoop: known signals, exact counts.

USAGE: ./test_killsnoop.py [TestClass[.test]]       as root
"""

import csv
import io
import os
import re
import signal
import subprocess
import threading
import time
import unittest
from collections import Counter

from conduct import (COUNT, Conduct, Containers, Fallback, PerfBuffer, Probes,
                     Subject, TracingRefusals, mine, odd_name)
from toolrun import PYTHON, TOP, Tool, readable_copy, run
import signals

WORKLOAD = os.path.join(TOP, "tests", "workload", "signals.py")
class Case(Subject, unittest.TestCase):
    """A test with a process to aim at."""

    name, storm, never = "killsnoop", ["-s", "0"], ["-s", "63"]

    def setUp(self):
        self.target = signals.start_target()
        self.addCleanup(self.target.wait)
        self.addCleanup(self.target.kill)

    def trace(self, *args, **popen):
        """killsnoop on the signals that this process sends."""
        return Tool("killsnoop", "-p", os.getpid(), *args, **popen)

    def act(self, number=0):
        """Ask for a process group that does not exist."""
        signals.kill(-2**30 - number, 0)

    def number(self, row):
        return -2**30 - int(row["TPID"])

    def burst(self, count, wrapper=()):
        return subprocess.Popen(
            list(wrapper) + [PYTHON, WORKLOAD, "numbered", str(count)])


class Calls(Probes):
    """What every probe type must show; made into a test case for each."""

    call, programs, options = "kill", 12, ["-v", "-c"]

    def test_every_call(self):
        expected = Counter()
        with self.traced() as rows:
            for call in list(signals.CALLS.values())[:6]:
                for sig in (0, signal.SIGUSR1, 65, 64):
                    for _ in range(COUNT):
                        result = call(self.target.pid, sig)
                    tpid = str(self.target.pid)
                    tcomm = "sleep" if sig in (signal.SIGUSR1, 64) else "-"
                    expected[call.__name__, str(int(sig)), tpid, tcomm,
                             str(result)] += COUNT
            signals.kill(self.target.pid, signal.SIGKILL)
            expected["kill", "9", str(self.target.pid), "sleep", "0"] += 1
        seen = Counter((row["SYSCALL"], row["SIG"], row["TPID"], row["TCOMM"],
                        row["RESULT"]) for row in rows)
        self.assertEqual(seen, expected)
        self.assertEqual(self.tool.stderr.strip(),
                         "Tracing by %s." % self.probe)

    def test_results_as_the_call_said(self):
        nobody = signals.no_process()
        arguments = [(0, 0), (-os.getpgrp(), 0), (nobody, 15), (1, 65),
                     (1, -1), (-2**31, 0), (2**31 - 1, 2**31 - 1), (-1, 999)]
        with self.traced() as rows:
            results = [signals.kill(*pair) for pair in arguments]
        self.assertEqual(
            [(int(row["TPID"]), int(row["SIG"]), int(row["RESULT"]))
             for row in rows],
            [pair + (result,) for pair, result in zip(arguments, results)])
        self.assertIn(-3, results)
        self.assertIn(-22, results)

    def test_suicide_is_shown(self):
        with self.traced():
            process = signals.burst("kill", signal.SIGKILL, 1)
            process.wait()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        rows = mine(self.tool.table(), process.pid)
        self.assertEqual(len(rows), 1)
        row = rows[0]
        self.assertEqual((row["TPID"], row["TCOMM"], row["RESULT"]),
                         (str(process.pid), row["COMM"], "0"))

    def test_32_bit_senders(self):
        if os.uname().machine != "x86_64":
            self.skipTest("int $0x80 is x86's")
        if signals.burst("ia32_kill", 0, 1).wait():
            self.skipTest("this kernel has no 32-bit system calls")
        with self.traced() as rows:
            for _ in range(COUNT):
                signals.ia32_kill(self.target.pid, signal.SIGUSR1)
            signals.ia32_kill(signals.no_process(), 0)
            signals.kill(self.target.pid, 0)
        seen = Counter((row["SYSCALL"], row["SIG"], row["RESULT"])
                       for row in rows)
        expected = Counter({("kill", "0", "0"): 1})
        if self.probe != "tracepoint":  # which can't see them: man page
            expected.update({("kill", "10", "0"): COUNT,
                             ("kill", "0", "-3"): 1})
        self.assertEqual(seen, expected)


for _probe in ("fentry", "tracepoint", "kprobe"):
    _name = "Test" + _probe.capitalize()
    globals()[_name] = type(_name, (Calls, Case), {"probe": _probe})


class TestPerfBuffer(PerfBuffer, Case):

    call, programs = "kill", 12


class TestFallback(Fallback, Case):

    call, programs, options = "kill", 12, ["-v"]


class TestOptions(Case):

    def test_default_output(self):
        with open("/proc/sys/kernel/pid_max") as f:
            width = len(f.read().strip()) + 1
        with self.trace() as tool:
            sent = time.time()
            signals.kill(self.target.pid, signal.SIGTERM)
        self.assertEqual(tool.header, "%-9s %-*s %-16s %-4s %-*s %s" % (
            "TIME", width, "PID", "COMM", "SIG", width, "TPID", "RESULT"))
        with open("/proc/self/comm") as f:
            comm = f.read().strip()
        rows = ["%-9s %-*d %-16s %-4d %-*d %d" % (
            time.strftime("%H:%M:%S", time.localtime(sent + second)), width,
            os.getpid(), comm, 15, width, self.target.pid, 0)
            for second in (0, 1)]
        self.assertEqual(len(tool.rows), 1)
        self.assertIn(tool.rows[0], rows)
        self.assertEqual(tool.stderr, "")

    def test_columns(self):
        for args, header in (
                (["-U"], "TIME UID PID COMM SIG TPID RESULT"),
                (["-v"], "TIME PID COMM SYSCALL SIG TPID RESULT"),
                (["-c"], "TIME PID COMM SIG TPID TCOMM RESULT"),
                (["-ncUv"], "TIME UID PID COMM SYSCALL SIG TPID TCOMM RESULT")
        ):
            with self.subTest(args=args):
                with self.trace(*args) as tool:
                    signals.tgkill(self.target.pid, signal.SIGUSR1)
                self.assertEqual(tool.header.split(), header.split())
                row = tool.table()[0]
                self.assertEqual(row.get("UID", "0"), "0")
                self.assertEqual(row.get("SYSCALL", "tgkill"), "tgkill")
                self.assertEqual(row.get("TCOMM", "sleep"), "sleep")
                self.assertEqual(row["RESULT"], "0")
                for title in header.split():    # titles stand over values
                    at = tool.header.index(title)
                    self.assertEqual(tool.rows[0][at - 1:at].strip(), "")
                    self.assertNotEqual(tool.rows[0][at], " ")

    def test_failed(self):
        with self.trace("-x") as tool:
            for _ in range(COUNT):
                signals.kill(signals.no_process(), 0)
                signals.kill(self.target.pid, 0)
                signals.pidfd_send_signal(self.target.pid, 999)
        self.assertEqual(Counter(row["RESULT"] for row in tool.table()),
                         {"-3": COUNT, "-22": COUNT})

    def test_pid(self):
        with self.trace() as tool:
            self.assertEqual(signals.burst("kill", 0, 3).wait(), 0)
            for _ in range(COUNT):
                signals.kill(self.target.pid, 0)
        self.assertEqual([row["PID"] for row in tool.table()],
                         [str(os.getpid())] * COUNT)

    def test_target(self):
        group = -os.getpgrp()
        for target in (self.target.pid, group, 0):
            with self.subTest(target=target):
                with Tool("killsnoop", "-T", target) as tool:
                    for _ in range(COUNT):
                        signals.kill(self.target.pid, 0)
                        signals.kill(group, 0)
                        signals.kill(0, 0)
                self.assertEqual([row["TPID"] for row in mine(tool.table())],
                                 [str(target)] * COUNT)

    def test_target_of_pidfd(self):
        """Known in the kernel where a signal is generated, from the caller's
        fdinfo otherwise."""
        other = signals.start_target()
        with self.trace("-T", self.target.pid) as tool:
            for target in (self.target, other):
                for sig in (0, signal.SIGUSR1):
                    for _ in range(COUNT):
                        signals.pidfd_send_signal(target.pid, sig)
            signals.syscall("pidfd_send_signal", 999, 0, None, 0)
        other.kill()
        other.wait()
        self.assertEqual(
            Counter((row["TPID"], row["SIG"]) for row in tool.table()),
            {(str(self.target.pid), "0"): COUNT,
             (str(self.target.pid), "10"): COUNT})

    def test_pidfd_that_no_one_can_tell(self):
        with self.trace() as tool:
            fd = signals.pidfd_open(self.target.pid)
            signals.syscall("pidfd_send_signal", fd, 0, None, 0)
            os.close(fd)
            signals.syscall("pidfd_send_signal", fd, 0, None, 0)
        self.assertEqual([(row["TPID"], row["RESULT"])
                          for row in tool.table()], [("-", "0"), ("-", "-9")])

    def test_signal_list(self):
        sent = [1, 9, 10, 15, 34, 37, 63, 64]
        rtmin = int(signal.SIGRTMIN)
        for spec, expected in (
                ("9", {9}), ("9,15", {9, 15}), ("KILL,SIGTERM", {9, 15}),
                ("kill,RTMIN+3,10", {9, rtmin + 3, 10}), ("RTMAX-1", {63}),
                ("SIGRTMIN,64", {rtmin, 64}), ("0", {0})):
            with self.subTest(spec=spec):
                with self.trace("-s", spec) as tool:
                    for sig in sent + [0]:
                        signals.kill(signals.no_process(), sig)
                self.assertEqual({int(r["SIG"]) for r in tool.table()},
                                 expected)

    def test_uid(self):
        nobody = 65534
        with Tool("killsnoop", "-u", nobody, "-U") as tool:
            signals.kill(self.target.pid, 0)
            process = subprocess.Popen(
                [PYTHON, readable_copy(self, WORKLOAD), "kill", "0",
                 str(COUNT)], preexec_fn=lambda: os.setuid(nobody))
            self.assertEqual(process.wait(), 0)
        self.assertEqual({row["UID"] for row in tool.table()}, {str(nobody)})
        self.assertEqual(len(mine(tool.table(), process.pid)), COUNT)

    def test_names(self):
        rtmin = int(signal.SIGRTMIN)
        sent = [0, 9, 17, 31, 32, rtmin, rtmin + 3, 64, 65, -1]
        with self.trace("-n") as tool:
            for sig in sent:
                signals.kill(signals.no_process(), sig)
        shown = ["0", "SIGKILL", "SIGCHLD", "SIGSYS", "32", "SIGRTMIN+0",
                 "SIGRTMIN+3", "SIGRTMIN+%d" % (64 - rtmin), "65", "-1"]
        table = tool.table()
        self.assertEqual([row["SIG"] for row in table], shown)
        self.assertEqual([row["RESULT"] for row in table],
                         ["ESRCH"] * len(sent))

    def test_external(self):
        """Own process by each call, another thread, a PID namespace's own."""
        peer = threading.Thread(target=time.sleep, args=(2,))
        with Tool("killsnoop", "-e") as tool:
            peer.start()
            for call in list(signals.CALLS.values())[:6]:
                call(os.getpid(), 0)
            for thread in os.listdir("/proc/self/task"):
                signals.tkill(int(thread), 0)
            inside = subprocess.Popen(
                ["unshare", "--fork", "--pid", PYTHON, "-c",
                 "import os, time\n"
                 "for _ in range(23): os.kill(os.getpid(), 0)\n"
                 "time.sleep(1)"])
            time.sleep(0.5)
            init = self.child_of(inside.pid)
            for _ in range(COUNT):
                signals.kill(self.target.pid, 0)
            inside.wait()
        peer.join()
        self.assertEqual(
            [(row["PID"], row["TPID"]) for row in tool.table()
             if row["PID"] in (str(os.getpid()), init)],
            [(str(os.getpid()), str(self.target.pid))] * COUNT)

    def child_of(self, pid):
        """The PID of a process' first child, as a str."""
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return f.read().split()[0]

    def test_csv(self):
        with self.trace("-j", "-nc") as tool:
            with odd_name(b'a,"b%s'):
                signals.kill(self.target.pid, signal.SIGUSR1)
        self.assertEqual(tool.header, "TIME,PID,COMM,SIG,TPID,TCOMM,RESULT")
        (row,) = csv.DictReader(io.StringIO(
            "\n".join([tool.header] + tool.rows)))
        self.assertRegex(row.pop("TIME"), r"^\d\d:\d\d:\d\d$")
        self.assertEqual(dict(row), {
            "PID": str(os.getpid()), "COMM": 'a,"b%s', "SIG": "SIGUSR1",
            "TPID": str(self.target.pid), "TCOMM": "sleep", "RESULT": "0"})

    def test_ebpf(self):
        done = run("killsnoop", "--ebpf", "-p", 181, "-s", "9,TERM")
        self.assertEqual(done.returncode, 0)
        self.assertIn("#define ONLY_PID (181)\n", done.stdout)
        self.assertIn("(sig) == 9 || (sig) == 15", done.stdout)
        self.assertIn("events", done.stdout)
        self.assertEqual(done.stderr, "")


class TestConduct(Conduct, Containers, Case):

    def test_agrees_with_strace(self):
        calls = ",".join(list(signals.CALLS)[:6])
        with Tool("killsnoop", "-v", "-n") as tool:
            traced = subprocess.run(
                ["strace", "-qq", "-e", "signal=none", "-e", "trace=" + calls,
                 PYTHON, WORKLOAD],
                stderr=subprocess.PIPE, universal_newlines=True)
        told = []
        for line in traced.stderr.splitlines():
            name, args, result, error = re.match(
                r"(\w+)\((.*)\) += (-?\d+)(?: (\w+))?", line).groups()
            sig = args.split(", ")[2 if "tg" in name else 1]
            told.append((name, sig, error or result))
        self.assertEqual(len(told), COUNT)
        table = tool.table()
        sender = next(row["PID"] for row in table if (
            row["SYSCALL"], row["COMM"]) == ("tkill", "python3"))
        self.assertEqual(
            [(row["SYSCALL"], row["SIG"], row["RESULT"]) for row in table
             if row["PID"] == sender and row["COMM"] != "strace"], told)


class TestRefusals(TracingRefusals, unittest.TestCase):

    name = "killsnoop"
    bad_arguments = [
        ["-p", "x"], ["-p", ""], ["-p", "0"], ["-p", "-1"], ["-p", "1;"],
        ["-p", "99999999999"], ["-T", ""], ["-T", "a"], ["-T", "1 || 1"],
        ["-s", "FOO"], ["-s", "65"], ["-s", "-1"], ["-s", ""], ["-s", "9,"],
        ["-s", "RTMIN+99"], ["-s", "SIG"], ["-u", "root"], ["-u", "-1"],
        ["-d", "0"], ["-d", "x"], ["-d", "nan"], ["-d", "inf"],
        ["--probe", "x"], ["-p"], ["--cgroupmap", '/x"; int i;'],
        ["--cgroupmap", "/no/such"], ["--mntnsmap", "relative"], ["extra"],
        ["--nonesuch"]]


if __name__ == "__main__":
    unittest.main()
