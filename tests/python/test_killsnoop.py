#!/usr/bin/env python3
"""Functional tests of killsnoop: known signals, exact counts.

USAGE: ./test_killsnoop.py [TestClass[.test]]       as root; see ../setup
"""

import csv
import io
import os
import pty
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from collections import Counter

from toolrun import PYTHON, TOP, Tool, bpf_programs, probes, run, tool_path
import signals

COUNT = 23
WORKLOAD = os.path.join(TOP, "tests", "workload", "signals.py")
ALLOWED = {}
DEFAULT_HEADER = ["TIME", "PID", "COMM", "SIG", "TPID", "RESULT"]


def setUpModule():
    ALLOWED.update(probes("killsnoop"))


def mine(table, pid=None):
    """The rows of one sender, this process by default."""
    return [row for row in table if row["PID"] == str(pid or os.getpid())]


def burst(call, sig, count, **popen):
    """Start a process that sends itself count signals; returns its Popen."""
    return subprocess.Popen([PYTHON, WORKLOAD, call, str(int(sig)),
                             str(count)], **popen)


def numbered_burst(count):
    """Start a process that asks for the process groups -2^30, -2^30 - 1, ...,
    which do not exist; returns its Popen."""
    return subprocess.Popen([PYTHON, "-c", (
        "import signals\n"
        "for i in range(%d): signals.kill(-2**30 - i, 0)" % count)],
        env=dict(os.environ, PYTHONPATH=os.path.dirname(WORKLOAD)))


class Case(unittest.TestCase):
    """A test with a process to aim at."""

    def setUp(self):
        self.target = signals.start_target()
        self.addCleanup(self.target.wait)
        self.addCleanup(self.target.kill)

    def trace(self, *args, **popen):
        """killsnoop on the signals that this process sends."""
        return Tool("killsnoop", "-p", os.getpid(), *args, **popen)


class Calls:
    """What every probe type must show; made into a test case for each."""

    probe = None

    def setUp(self):
        if ALLOWED[self.probe]:
            self.skipTest("%s does not work here: %s" % (
                self.probe, ALLOWED[self.probe]))
        super().setUp()

    def test_every_call(self):
        expected = Counter()
        with self.trace("--probe", self.probe, "-v", "-c") as tool:
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
                        row["RESULT"]) for row in mine(tool.table()))
        self.assertEqual(seen, expected)
        self.assertEqual(tool.stderr.strip(), "Tracing by %s." % self.probe)

    def test_results_as_the_call_said(self):
        nobody = signals.no_process()
        arguments = [(0, 0), (-os.getpgrp(), 0), (nobody, 15), (1, 65),
                     (1, -1), (-2**31, 0), (2**31 - 1, 2**31 - 1), (-1, 999)]
        with self.trace("--probe", self.probe) as tool:
            results = [signals.kill(*pair) for pair in arguments]
        self.assertEqual(
            [(int(row["TPID"]), int(row["SIG"]), int(row["RESULT"]))
             for row in mine(tool.table())],
            [pair + (result,) for pair, result in zip(arguments, results)])
        self.assertIn(-3, results)
        self.assertIn(-22, results)

    def test_suicide_is_shown(self):
        with Tool("killsnoop", "--probe", self.probe, "-c") as tool:
            process = burst("kill", signal.SIGKILL, 1)
            process.wait()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        rows = mine(tool.table(), process.pid)
        self.assertEqual(len(rows), 1)
        row = rows[0]
        self.assertEqual((row["TPID"], row["TCOMM"], row["RESULT"]),
                         (str(process.pid), row["COMM"], "0"))

    def test_32_bit_senders(self):
        if os.uname().machine != "x86_64":
            self.skipTest("int $0x80 is x86's")
        if burst("ia32_kill", 0, 1).wait():
            self.skipTest("this kernel has no 32-bit system calls")
        with self.trace("--probe", self.probe, "-v") as tool:
            for _ in range(COUNT):
                signals.ia32_kill(self.target.pid, signal.SIGUSR1)
            signals.ia32_kill(signals.no_process(), 0)
            signals.kill(self.target.pid, 0)
        seen = Counter((row["SYSCALL"], row["SIG"], row["RESULT"])
                       for row in mine(tool.table()))
        expected = Counter({("kill", "0", "0"): 1})
        if self.probe != "tracepoint":  # which can't see them: man page
            expected.update({("kill", "10", "0"): COUNT,
                             ("kill", "0", "-3"): 1})
        self.assertEqual(seen, expected)

    def test_threads(self):
        def send():
            for _ in range(COUNT):
                signals.tgkill(self.target.pid, 0)
        with self.trace("--probe", self.probe) as tool:
            threads = [threading.Thread(target=send) for _ in range(7)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(len(mine(tool.table())), 7 * COUNT)

    def test_nothing_outlives_sigkill(self):
        before = bpf_programs()
        tool = self.trace("--probe", self.probe).start()
        added = bpf_programs() - before
        self.assertGreaterEqual(len(added), 12)
        tool.process.kill()
        tool.finish()
        for _ in range(50):     # programs are freed after a grace period
            if not bpf_programs() & added:
                return
            time.sleep(0.1)
        self.fail("programs left behind: %s" % (bpf_programs() & added))


for _probe in ("fentry", "tracepoint", "kprobe"):
    _name = "Test" + _probe.capitalize()
    globals()[_name] = type(_name, (Calls, Case), {"probe": _probe})


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
            self.assertEqual(burst("kill", 0, 3).wait(), 0)
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
            process = burst("kill", 0, COUNT,
                            preexec_fn=lambda: os.setuid(nobody))
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
            with odd_name(b'a,"b'):
                signals.kill(self.target.pid, signal.SIGUSR1)
        self.assertEqual(tool.header, "TIME,PID,COMM,SIG,TPID,TCOMM,RESULT")
        (row,) = csv.DictReader(io.StringIO(
            "\n".join([tool.header] + tool.rows)))
        self.assertRegex(row.pop("TIME"), r"^\d\d:\d\d:\d\d$")
        self.assertEqual(dict(row), {
            "PID": str(os.getpid()), "COMM": 'a,"b', "SIG": "SIGUSR1",
            "TPID": str(self.target.pid), "TCOMM": "sleep", "RESULT": "0"})

    def test_duration(self):
        tool = self.trace("-d", "1.5").start()
        began = time.monotonic()
        signals.kill(self.target.pid, 0)
        self.assertEqual(tool.finish(), 0)
        self.assertEqual(len(tool.rows), 1)
        self.assertLess(abs(tool.line_time - began - 1.5), 3)
        self.assertEqual(tool.stderr, "")

    def test_odd_names_do_no_harm(self):
        with self.trace() as tool:
            with odd_name(b"\x1b[2J\n\xff"):
                signals.kill(self.target.pid, 0)
        self.assertEqual(len(tool.rows), 1)
        self.assertIn(" ?[2J?", tool.rows[0])

    def test_cgroupmap(self):
        unified = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, unified)
        mount = ["mount", "-t", "cgroup2", "none", unified]
        if subprocess.call(mount, stderr=subprocess.DEVNULL):
            self.skipTest("no cgroup2 on this kernel")
        self.addCleanup(subprocess.call, ["umount", unified])
        group = os.path.join(unified, "killsnoop-test")
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        self.check_container_map(
            "--cgroupmap", "u64", os.stat(group).st_ino,
            "echo $$ > %s/cgroup.procs; exec" % group)

    def test_mntnsmap(self):
        source = os.environ.get("BCC_KERNEL_SOURCE")
        if source:
            done = run("killsnoop", "--mntnsmap", "/dev/null")
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn("headers", done.stderr)
            self.skipTest("refused without the running kernel's own headers; "
                          "the refusal was tested")
        handle, link = tempfile.mkstemp()
        os.close(handle)
        self.addCleanup(os.remove, link)
        subprocess.check_call(["unshare", "--mount=" + link, "true"])
        self.addCleanup(subprocess.call, ["umount", link])
        self.check_container_map("--mntnsmap", "u32", os.stat(link).st_ino,
                                 "exec nsenter --mount=" + link)

    def check_container_map(self, option, value, key, enter):
        """COUNT signals by a shell that ran enter, others outside of it; the
        map is pinned in a file system that only the tool sees."""
        pin = ("import sys, os, ctypes; from bcc import BPF; "
               "b = BPF(text='BPF_TABLE_PINNED(\"hash\", u64, %s, m, 1024, "
               "\"/sys/fs/bpf/m\");'); "
               "b['m'][ctypes.c_uint64(%d)] = b['m'].Leaf(1); "
               "os.execv(sys.argv[1], sys.argv[1:])" % (value, key))
        with Tool("killsnoop", option, "/sys/fs/bpf/m", prefix=[
                "unshare", "--mount", "sh", "-c",
                'mount -t bpf bpf /sys/fs/bpf && exec "$0" "$@"',
                PYTHON, "-c", pin]) as tool:
            inner = subprocess.Popen(
                ["sh", "-c", "%s %s %s kill 0 %d" % (
                    enter, PYTHON, WORKLOAD, COUNT)])
            signals.kill(self.target.pid, 0)
            self.assertEqual(inner.wait(), 0)
        self.assertEqual([row["PID"] for row in tool.table()],
                         [str(inner.pid)] * COUNT)

    def test_ebpf(self):
        done = run("killsnoop", "--ebpf", "-p", 181, "-s", "9,TERM")
        self.assertEqual(done.returncode, 0)
        self.assertIn("#define ONLY_PID (181)\n", done.stdout)
        self.assertIn("(sig) == 9 || (sig) == 15", done.stdout)
        self.assertIn("events", done.stdout)
        self.assertEqual(done.stderr, "")


class odd_name:
    """Within it, this thread's command name is some bytes, at most 15."""

    PR_SET_NAME = 15    # linux/prctl.h

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        with open("/proc/thread-self/comm", "rb") as f:
            self.old = f.read().rstrip(b"\n")
        signals.libc.prctl(self.PR_SET_NAME, self.name)

    def __exit__(self, *_):
        signals.libc.prctl(self.PR_SET_NAME, self.old)


class TestBehaviour(Case):

    def test_rows_come_at_once(self):
        delays = []
        with self.trace() as tool:
            for _ in range(5):
                sent = time.monotonic()
                signals.kill(self.target.pid, 0)
                tool.next_row()
                delays.append(tool.line_time - sent)
        self.assertLess(sorted(delays)[2], 0.2)

    def test_rows_come_at_once_to_a_terminal(self):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [PYTHON, tool_path("killsnoop"), "-p", str(os.getpid())],
            stdout=slave)
        os.close(slave)
        with os.fdopen(master, "rb", 0) as terminal:
            self.assertTrue(terminal.readline().startswith(b"TIME"))
            delays = []
            for _ in range(5):
                sent = time.monotonic()
                signals.kill(self.target.pid, 0)
                terminal.readline()
                delays.append(time.monotonic() - sent)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 0)
        self.assertLess(sorted(delays)[2], 0.2)

    def test_goes_on_after_a_stop(self):
        """Ctrl-Z and fg, again and again."""
        tool = self.trace().start()
        for _ in range(3):
            tool.send(signal.SIGSTOP)
            time.sleep(0.5)
            tool.send(signal.SIGCONT)
            time.sleep(0.2)
            for _ in range(COUNT):
                signals.kill(self.target.pid, 0)
        self.assertEqual(tool.stop(), 0)
        self.assertEqual(len(tool.rows), 3 * COUNT)

    def test_ends_while_nobody_reads(self):
        for args, sig in ((["-d", "3"], None), ([], signal.SIGTERM)):
            with self.subTest(args=args):
                process = subprocess.Popen(
                    [PYTHON, tool_path("killsnoop"), "-s", "0"] + args,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                process.stdout.readline()
                burst("kill", 0, 20000).wait()
                time.sleep(0.5)
                if sig:
                    process.send_signal(sig)
                self.assertEqual(process.wait(10), 1)
                self.assertEqual(process.stderr.read(), (
                    b"killsnoop.py: can't write: nobody reads the output\n"))
                process.stdout.close()
                process.stderr.close()

    def test_order_of_a_storm(self):
        """More than one batch, from two CPUs. Both senders number their calls
        by the process group that they ask for; what can be told of the order
        is that of each, and that their rows do not come apart in TIME."""
        for wrapper in ((), WITHOUT_RING_BUFFER):
            with self.subTest(ring_buffer=not wrapper):
                with Tool("killsnoop", "-s", 0, prefix=wrapper) as tool:
                    senders = [numbered_burst(70001) for _ in range(2)]
                    for sender in senders:
                        self.assertEqual(sender.wait(), 0)
                self.assertEqual(tool.stderr, "")
                table = tool.table()
                for sender in senders:
                    numbers = [int(row["TPID"])
                               for row in mine(table, sender.pid)]
                    self.assertEqual(numbers, sorted(numbers, reverse=True))
                    self.assertEqual(len(numbers), 70001)
                times = [row["TIME"] for row in table]
                self.assertEqual(times, sorted(times))

    def test_c_locale(self):
        env = dict(os.environ, LC_ALL="C", PYTHONIOENCODING="ascii")
        with self.trace(env=env) as tool:
            with odd_name("sp\u00e9".encode()):
                signals.kill(self.target.pid, 0)
        self.assertEqual([row["COMM"] for row in tool.table()], ["sp?"])

    def test_closed_descriptors(self):
        for closing in (">&-", "2>&-", "<&-"):
            with self.subTest(closing=closing):
                done = subprocess.run(
                    ["sh", "-c", '"$0" "$@" -d 0.3 ' + closing, PYTHON,
                     tool_path("killsnoop"), "-v"], stderr=subprocess.PIPE,
                    stdout=subprocess.PIPE, universal_newlines=True)
                self.assertEqual(done.returncode, 0)
                self.assertNotIn("Traceback", done.stderr)

    def test_time_and_order_under_backlog(self):
        """Two processes in strict turn, on all CPUs, with the tool stopped."""
        tool = Tool("killsnoop", "-s", 0).start()
        tool.send(signal.SIGSTOP)
        sent = time.time()
        turns = 1009
        first = signals.no_process()
        a, b = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            for i in range(1, turns, 2):
                os.read(a[0], 1)
                signals.kill(first + i, 0)
                os.write(b[1], b"x")
            os._exit(0)
        for i in range(0, turns, 2):
            signals.kill(first + i, 0)
            if i + 1 < turns:
                os.write(a[1], b"x")
                os.read(b[0], 1)
        os.waitpid(child, 0)
        for fd in a + b:
            os.close(fd)
        time.sleep(3)
        tool.send(signal.SIGCONT)
        self.assertEqual(tool.stop(), 0)
        rows = [row for row in tool.table()
                if row["PID"] in (str(os.getpid()), str(child))]
        self.assertEqual([int(row["TPID"]) for row in rows],
                         list(range(first, first + turns)))
        times = {time.strftime("%H:%M:%S", time.localtime(sent + second))
                 for second in (0, 1)}
        self.assertLessEqual({row["TIME"] for row in rows}, times)

    def test_full_speed(self):
        for wrapper in ((), WITHOUT_RING_BUFFER):
            with self.subTest(ring_buffer=not wrapper):
                with Tool("killsnoop", "-s", 0, prefix=wrapper) as tool:
                    process = burst("kill", 0, 100000)
                    self.assertEqual(process.wait(), 0)
                self.check_all_told(tool, process.pid, 100000)

    def test_lost_events_are_told(self):
        for wrapper in ((), WITHOUT_RING_BUFFER):
            with self.subTest(ring_buffer=not wrapper):
                tool = Tool("killsnoop", "-s", 0, prefix=wrapper).start()
                tool.send(signal.SIGSTOP)
                process = burst("kill", 0, 500000)
                self.assertEqual(process.wait(), 0)
                tool.send(signal.SIGCONT)
                time.sleep(1)
                self.assertEqual(tool.stop(), 0)
                lost = self.check_all_told(tool, process.pid, 500000)
                self.assertGreater(lost, 0)

    def check_all_told(self, tool, pid, sent):
        """Rows and lost events make up what was sent. Returns the lost."""
        lost = sum(int(n) for n in re.findall(r"lost (\d+) event",
                                              tool.stderr))
        others = len(tool.rows) - len(mine(tool.table(), pid))
        self.assertLess(others, 100)
        self.assertLessEqual(sent, len(tool.rows) + lost)
        self.assertLessEqual(len(tool.rows) - others + lost, sent + 100)
        if not lost:
            self.assertEqual(len(tool.rows) - others, sent)
        return lost

    def test_many_senders(self):
        with Tool("killsnoop", "-s", "URG") as tool:
            processes = [burst("tgkill", signal.SIGURG, 101)
                         for _ in range(31)]
            for process in processes:
                self.assertEqual(process.wait(), 0)
        seen = Counter(int(row["PID"]) for row in tool.table())
        for process in processes:
            self.assertEqual(seen[process.pid], 101)
        self.assertEqual(tool.stderr, "")

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

    def test_sigterm_ends_quietly(self):
        tool = self.trace().start()
        signals.kill(self.target.pid, 0)
        self.assertEqual(tool.stop(signal.SIGTERM), 0)
        self.assertEqual(len(tool.rows), 1)
        self.assertEqual(tool.stderr, "")

    def test_last_events_are_printed(self):
        tool = self.trace().start()
        for _ in range(COUNT):
            signals.kill(self.target.pid, 0)
        tool.send(signal.SIGINT)     # at once
        self.assertEqual(tool.finish(), 0)
        self.assertEqual(len(tool.rows), COUNT)

    def test_closed_pipe_ends_quietly(self):
        """Also when no event follows that would be written."""
        read, write = os.pipe()
        process = subprocess.Popen(
            [PYTHON, tool_path("killsnoop"), "-s", "63"], stdout=write,
            stderr=subprocess.PIPE)
        os.close(write)
        self.assertTrue(os.read(read, 100).startswith(b"TIME"))
        os.close(read)
        self.assertEqual(process.communicate(timeout=30)[1], b"")
        self.assertEqual(process.returncode, 0)

    def test_full_disk(self):
        with open("/dev/full", "w") as full:
            process = subprocess.Popen(
                [PYTHON, tool_path("killsnoop")], stdout=full,
                stderr=subprocess.PIPE, universal_newlines=True)
            errors = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 1)
        self.assertEqual(errors, "killsnoop.py: can't write: "
                                 "No space left on device\n")


# A kernel that has no ring buffer does not list the helper among its symbols.
WITHOUT_RING_BUFFER = [
    "unshare", "--mount", "sh", "-c",
    "symbols=$(mktemp) && grep -v bpf_ringbuf_output /proc/kallsyms "
    "> $symbols && mount --bind $symbols /proc/kallsyms && rm $symbols && "
    'exec "$0" "$@"']


class TestRefusals(unittest.TestCase):
    """One clear line, no traceback."""

    def check_refusal(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNotIn("Traceback", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def run_in(self, script, *args, env=None):
        """Run killsnoop from a shell script with a mount namespace of its
        own, where it is "$@"."""
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", PYTHON,
             tool_path("killsnoop")] + list(args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
            universal_newlines=True, env=env)

    def test_bad_arguments(self):
        for args in (
                ["-p", "x"], ["-p", ""], ["-p", "0"], ["-p", "-1"],
                ["-p", "1;"], ["-p", "99999999999"], ["-T", ""], ["-T", "a"],
                ["-T", "1 || 1"], ["-s", "FOO"], ["-s", "65"], ["-s", "-1"],
                ["-s", ""], ["-s", "9,"], ["-s", "RTMIN+99"], ["-s", "SIG"],
                ["-u", "root"], ["-u", "-1"], ["-d", "0"], ["-d", "x"],
                ["-d", "nan"], ["-d", "inf"], ["--probe", "x"], ["-p"],
                ["--cgroupmap", '/x"; int i;'], ["--cgroupmap", "/no/such"],
                ["--mntnsmap", "relative"], ["extra"], ["--nonesuch"]):
            with self.subTest(args=args):
                done = run("killsnoop", *args)
                self.check_refusal(done, 2, "usage: ", "error: ")
                self.assertEqual(
                    done.stderr.splitlines()[-1].count("error: "), 1)

    def check_one_line(self, done, *words):
        self.check_refusal(done, 1, *words)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_not_root(self):
        done = run("killsnoop", preexec_fn=lambda: os.setuid(65534))
        self.check_one_line(done, "root")

    def test_no_bcc(self):
        done = subprocess.run(      # -S: without the distribution's modules
            [PYTHON, "-S", tool_path("killsnoop")], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)
        self.check_one_line(done, "python3-bpfcc", "python3-bcc")

    def test_no_headers(self):
        env = dict(os.environ)
        env.pop("BCC_KERNEL_SOURCE", None)
        if os.path.exists("/sys/kernel/kheaders.tar.xz"):
            self.skipTest("this kernel has its headers in itself")
        done = self.run_in(
            "[ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules && "
            'exec "$@"', env=env)
        self.check_one_line(done, "headers", "BCC_KERNEL_SOURCE")

    def test_no_tracefs(self):
        done = self.run_in("mount -t tmpfs none /sys/kernel/tracing; "
                           "mount -t tmpfs none /sys/kernel/debug; "
                           'exec "$@"', "--probe", "tracepoint")
        self.check_refusal(done, 1, "mount -t tracefs")

    def test_no_bpf_at_all(self):
        """Root without the capabilities: every probe type says why."""
        done = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", PYTHON,
             tool_path("killsnoop")], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)
        self.check_refusal(done, 1)
        lines = done.stderr.splitlines()
        self.assertEqual([line.split(":")[0].strip() for line in lines[1:]],
                         ["no fentry", "no tracepoint", "no kprobe"])


if __name__ == "__main__":
    unittest.main()
