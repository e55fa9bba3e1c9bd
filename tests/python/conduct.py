"""What every tool that shows events must do at the edges: order and time,
signals, pipes, loss, odd surroundings. A tool's own tests mix it in."""

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter

from toolrun import (PYTHON, SETTLE_SECONDS, Tool, bpf_programs,
                     readable_copy, run, tool_path)
import signals

COUNT = 23

# The tools leave a ring buffer to BCC on machines of which they do not know
# how Python reads a word.
ON_ANOTHER_MACHINE = ["setarch", "linux32"]
# A kernel that has no ring buffer does not list the helper among its symbols.
WITHOUT_RING_BUFFER = [
    "unshare", "--mount", "sh", "-c",
    "symbols=$(mktemp) && grep -v bpf_ringbuf_output /proc/kallsyms "
    "> $symbols && mount --bind $symbols /proc/kallsyms && rm $symbols && "
    'exec "$0" "$@"']


# What is tried before kprobes is not to be seen.
WITHOUT_TRACEPOINTS = [
    "unshare", "--mount", "sh", "-c",
    "for hidden in /sys/kernel/tracing/events/syscalls "
    "/sys/kernel/debug/tracing/events/syscalls /sys/kernel/btf; do "
    "[ ! -d $hidden ] || mount -t tmpfs none $hidden || exit; done; "
    'exec "$0" "$@"']


def mine(table, pid=None):
    """The rows of one process, this one by default."""
    return [row for row in table if row["PID"] == str(pid or os.getpid())]


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


# The least program of each probe type on a system call, or the function behind
# it. That BCC compiles at all is seen to first.
LEAST = {
    "fentry": "KFUNC_PROBE(%(function)s, struct pt_regs *regs) "
              "{ volatile u64 first = PT_REGS_PARM1(regs); return 0; }",
    "tracepoint": "TRACEPOINT_PROBE(syscalls, sys_enter_%(call)s) "
                  "{ return 0; }",
    "kprobe": "int kprobe__%(function)s(struct pt_regs *ctx) { return 0; }"}
TRY = """
import bcc, sys
function = bcc.BPF(text="").get_syscall_fnname(sys.argv[1].encode()).decode()
text = sys.argv[2] % {"call": sys.argv[1], "function": function}
try:
    bcc.BPF(text="#include <uapi/linux/ptrace.h>\\n" + text)
except Exception:
    print("refused")
else:
    print("works")
"""


def works(probe, call):
    """Does the kernel take such a probe on a system call? Without a tool.
    Raises AssertionError if BCC does not even compile nothing."""
    done = subprocess.run([PYTHON, "-c", TRY, call, LEAST[probe]],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.endswith("works\n")


def fdinfo(pid, pattern):
    """What a pattern finds in the lines that the kernel tells of a process'
    descriptors (fdinfo in proc(5)): of BPF programs and maps, what they are.
    """
    found, folder = [], "/proc/%d/fdinfo/" % pid
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):    # closed by now
            with open(folder + fd) as f:
                found += re.findall(pattern, f.read(), re.M)
    return found


def skipped_runs(pid):
    """How often the kernel skipped a BPF program of a process: see a tool's
    CAVEATS. Linux 5.12 and later tell."""
    return sum(map(int, fdinfo(pid, r"^recursion_misses:\s*(\d+)$")))


def lost(stderr):
    """How many events a tool said to have lost."""
    return sum(map(int, re.findall(r"lost (\d+) event", stderr)))


class Subject:
    """A tool, and events that it shows; a test case's base.

    name    of the tool
    timed   its options for a column TIME
    few_places  its options to keep threads in a table of 4096 places
    storm   its options to show nothing but what burst() and act() do
    never   its options to show nothing at all

    A test case also has these methods:

    act(number=0)           do one event that bears a number, 0 to 2^30
    number(row)             the number that a row of table() bears
    burst(count, wrapper)   start a process that does as act() count times,
                            numbered from 0, as fast as it can, by a command
                            before it if there is one; returns its Popen
    """

    name, timed, storm, never, few_places = None, [], [], [], []

    def trace(self, *args, **popen):
        """The tool on this process' events."""
        return Tool(self.name, "-p", os.getpid(), *args, **popen)


class Probes(Subject):
    """With each probe type; made into a test case for each."""

    probe = None
    call = None         # a system call that the tool traces
    waits = False       # in the call; then kprobes may miss others' returns
    programs = 0        # that a probe type has at least
    options = []        # of the tool that the tests of a class share
    prefix = []         # and the command before it

    @classmethod
    def setUpClass(cls):
        """To start a tool takes long on some machines: once for all tests. A
        probe type that the kernel refuses is skipped, and it is told why."""
        cls.tool = Tool(cls.name, "--probe", cls.probe, *cls.options,
                        prefix=cls.prefix)
        cls.refusal, cls.killed = None, False
        cls.marks = iter(range(2**29, 2**30))
        try:
            cls.tool.start()
        except AssertionError:
            cls.refusal = cls.tool.stderr.strip()
            probe = "kprobe" if cls.probe == "auto" else cls.probe
            if "no %s: " % probe not in cls.refusal or works(
                    probe, cls.call):
                raise       # it is the tool that does not work

    @classmethod
    def tearDownClass(cls):
        if not cls.refusal and not cls.killed:
            status = cls.tool.stop()
            assert status == 0, "status %d: %s" % (status, cls.tool.stderr)

    def setUp(self):
        if self.killed:
            self.setUpClass()
        if self.refusal:
            self.skipTest("the kernel refuses also the least %s program; %s" %
                          (self.probe, self.refusal))
        super().setUp()

    @contextlib.contextmanager
    def traced(self):
        """A list, which after the block has the rows of what this process did
        in it, as dicts. Acts of its own tell where they begin and end."""
        rows = []
        self.rows_up_to_mark()
        yield rows
        time.sleep(SETTLE_SECONDS)      # long calls may come out of order
        rows += self.rows_up_to_mark()

    def rows_up_to_mark(self):
        mark, rows = next(self.marks), []
        self.act(mark)
        while True:
            rows += mine([self.tool.cells(self.tool.next_row())])
            with contextlib.suppress(ValueError):   # not a number there
                if rows and self.number(rows[-1]) == mark:
                    return rows[:-1]

    def test_threads(self):
        def act():
            for number in range(COUNT):
                self.act(number)
        if self.waits:
            time.sleep(1.5)     # it tells once a second
        lost_before = lost(self.tool.stderr)
        skipped_before = skipped_runs(self.tool.process.pid)
        with self.traced() as rows:
            # Python 3.14 would name them, with a blank, for the kernel too.
            threads = [threading.Thread(target=act, name="actor")
                       for _ in range(7)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        numbers = map(self.number, rows)    # also of what ends a thread
        seen = Counter(n for n in numbers if 0 <= n < COUNT)
        expected = Counter({number: 7 for number in range(COUNT)})
        if not (self.waits and self.probe in ("kprobe", "auto")) and (
                skipped_runs(self.tool.process.pid) == skipped_before):
            self.assertEqual(seen, expected)
            return
        self.assertEqual(seen - expected, Counter())
        time.sleep(1.5)     # it tells once a second
        # Of a thread's last call, nobody tells that its return is missed.
        self.assertLessEqual(sum((expected - seen).values()),
                             lost(self.tool.stderr) - lost_before + 7)

    def test_vanishes_after_sigkill(self):
        """The last test, for they come by name: the others share this tool."""
        programs = {int(number) for number in fdinfo(
            self.tool.process.pid, r"^prog_id:\s*(\d+)$")}
        self.assertGreaterEqual(len(programs), self.programs)
        self.assertEqual(programs - bpf_programs(), set())
        type(self).killed = True
        self.tool.process.kill()
        self.tool.finish()
        for _ in range(50):     # programs are freed after a grace period
            if not bpf_programs() & programs:
                return
            time.sleep(0.1)
        self.fail("programs left behind: %s" % (bpf_programs() & programs))


class PerfBuffer(Probes):
    """As on a kernel before 5.8."""

    probe, prefix = "tracepoint", WITHOUT_RING_BUFFER

    def test_has_no_ring_buffer(self):
        """By the types of its maps (enum bpf_map_type): 4 is a perf buffer's,
        27 a ring buffer's."""
        types = fdinfo(self.tool.process.pid, r"^map_type:\s*(\d+)$")
        self.assertIn("4", types)
        self.assertNotIn("27", types)


class Fallback(Probes):
    """A kernel that has kprobes only: they are chosen, and it is told why."""

    probe, prefix = "auto", WITHOUT_TRACEPOINTS

    def test_tells_why(self):
        end = time.monotonic() + 10
        while not self.tool.stderr and time.monotonic() < end:
            time.sleep(0.1)     # another thread reads it
        self.assertRegex(self.tool.stderr, "^Tracing by kprobe; no fentry: "
                         "this kernel has no BTF; no tracepoint: .*\n$")


class Containers(Subject):
    """Filters that bcc's tools share."""

    def test_cgroupmap(self):
        unified = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, unified)
        mount = ["mount", "-t", "cgroup2", "none", unified]
        if subprocess.call(mount, stderr=subprocess.DEVNULL):
            self.skipTest("no cgroup2 on this kernel")
        self.addCleanup(subprocess.call, ["umount", unified])
        group = os.path.join(unified, "bcc-tool-test")
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        self.check_container_map(
            "--cgroupmap", 8, os.stat(group).st_ino,
            "echo $$ > %s/cgroup.procs; exec" % group)

    def test_mntnsmap(self):
        source = os.environ.get("BCC_KERNEL_SOURCE")
        if source:
            done = run(self.name, "--mntnsmap", "/dev/null")
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
        self.check_container_map("--mntnsmap", 4, os.stat(link).st_ino,
                                 "exec nsenter --mount=" + link)

    def check_container_map(self, option, value_size, key, enter):
        """A burst by a process that a shell became after it ran enter, others
        outside of it; the map is pinned where only the tool sees it."""
        pin = ("import os, sys; sys.path.insert(0, '%s'); import toolrun; "
               "toolrun.pin_map('/sys/fs/bpf/m', %d, %d); "
               "os.execv(sys.argv[1], sys.argv[1:])" % (
                   os.path.dirname(os.path.abspath(__file__)), key,
                   value_size))
        with Tool(self.name, option, "/sys/fs/bpf/m", *self.storm, prefix=[
                "unshare", "--mount", "sh", "-c",
                'mount -t bpf bpf /sys/fs/bpf && exec "$0" "$@"',
                PYTHON, "-c", pin]) as tool:
            inner = self.burst(COUNT, wrapper=[
                "sh", "-c", enter + ' "$0" "$@"'])
            self.act()
            self.assertEqual(inner.wait(), 0)
        self.assertEqual([row["PID"] for row in tool.table()],
                         [str(inner.pid)] * COUNT)


class Conduct(Subject):
    """Order, time, loss, and the ways to end."""

    def check_delays(self, next_line):
        """next_line() waits for a row; half of them come within 0.2 s."""
        delays = []
        for _ in range(5):
            begin = time.monotonic()
            self.act()
            next_line()
            delays.append(time.monotonic() - begin)
        self.assertLess(sorted(delays)[2], 0.2)

    def test_rows_come_at_once(self):
        with self.trace(*self.storm) as tool:
            self.check_delays(tool.next_row)

    def test_rows_come_at_once_to_a_terminal(self):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [PYTHON, tool_path(self.name), "-p", str(os.getpid()),
             *self.storm], stdout=slave)
        os.close(slave)
        with os.fdopen(master, "rb", 0) as terminal:
            self.assertIn(b"PID", terminal.readline())
            self.check_delays(terminal.readline)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 0)

    def test_goes_on_after_a_stop(self):
        """Ctrl-Z and fg, again and again."""
        tool = self.trace(*self.storm).start()
        for _ in range(3):
            tool.send(signal.SIGSTOP)
            time.sleep(0.5)
            tool.send(signal.SIGCONT)
            time.sleep(0.2)
            for _ in range(COUNT):
                self.act()
        self.assertEqual(tool.stop(), 0)
        self.assertEqual(len(tool.rows), 3 * COUNT)

    def test_ends_while_nobody_reads(self):
        for args, sig in ((["-d", "3"], None), ([], signal.SIGTERM)):
            with self.subTest(args=args):
                process = subprocess.Popen(
                    [PYTHON, tool_path(self.name)] + self.storm + args,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                process.stdout.readline()
                self.burst(20000).wait()
                time.sleep(0.5)
                if sig:
                    process.send_signal(sig)
                self.assertEqual(process.wait(10), 1)
                self.assertEqual(process.stderr.read().decode(), (
                    "%s.py: can't write: nobody reads the output\n" %
                    self.name))
                process.stdout.close()
                process.stderr.close()

    def test_order_of_a_storm(self):
        """More than one batch, from two CPUs, and in all more than the ring
        buffer holds (350,000 and 420,000), so that it goes round. What can be
        told of the order is that of each process' events, and that rows do not
        come apart in TIME."""
        for wrapper, storms in ((), 4), (ON_ANOTHER_MACHINE, 4), (
                WITHOUT_RING_BUFFER, 1):
            with self.subTest(wrapper=wrapper):
                processes = []
                with Tool(self.name, *self.storm, *self.timed,
                          prefix=wrapper) as tool:
                    for _ in range(storms):
                        processes += [self.burst(70001) for _ in range(2)]
                        for process in processes:
                            self.assertEqual(process.wait(), 0)
                        time.sleep(0.5)
                self.assertEqual(tool.stderr, "")
                table = tool.table()
                for process in processes:
                    self.assertEqual(
                        [self.number(row) for row in mine(table, process.pid)],
                        list(range(70001)))
                times = [row["TIME"] for row in table]
                self.assertEqual(times, sorted(times))

    def test_time_and_order_under_backlog(self):
        for wrapper in ((), WITHOUT_RING_BUFFER):
            with self.subTest(ring_buffer=not wrapper):
                self.check_backlog(wrapper)

    def check_backlog(self, wrapper):
        """Two processes in strict turn, on two CPUs, with the tool stopped."""
        cpus = sorted(os.sched_getaffinity(0))
        self.addCleanup(os.sched_setaffinity, 0, cpus)
        tool = Tool(self.name, *self.storm, *self.timed,
                    prefix=wrapper).start()
        tool.send(signal.SIGSTOP)
        begin = time.time()
        turns = 1009
        a, b = os.pipe(), os.pipe()
        os.sched_setaffinity(0, cpus[:1])
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, cpus[-1:])
            for i in range(1, turns, 2):
                os.read(a[0], 1)
                self.act(i)
                os.write(b[1], b"x")
            os._exit(0)
        for i in range(0, turns, 2):
            self.act(i)
            if i + 1 < turns:
                os.write(a[1], b"x")
                os.read(b[0], 1)
        os.waitpid(child, 0)
        os.sched_setaffinity(0, cpus)
        for fd in a + b:
            os.close(fd)
        time.sleep(3)
        tool.send(signal.SIGCONT)
        self.assertEqual(tool.stop(), 0)
        rows = [row for row in tool.table()
                if row["PID"] in (str(os.getpid()), str(child))]
        self.assertEqual([self.number(row) for row in rows],
                         list(range(turns)))
        times = {time.strftime("%H:%M:%S", time.localtime(begin + second))
                 for second in (0, 1)}
        self.assertLessEqual({row["TIME"] for row in rows}, times)

    def test_threads_whose_numbers_collide(self):
        """They ask for the same place in a table of 4096, at the same time."""
        last_pid = "/proc/sys/kernel/ns_last_pid"
        if not os.path.exists(last_pid):
            self.skipTest("this kernel lets nobody choose a PID")
        own, acts = os.getpid(), 1
        with open("/proc/sys/kernel/pid_max") as f:
            wanted = own + 4096 if own + 5000 < int(f.read()) else own - 4096
        with Tool(self.name, *self.storm, *self.few_places) as tool:
            self.act()
            for _ in range(100):
                with open(last_pid, "w") as f:
                    f.write(str(wanted - 1))
                child = self.burst(20011)
                while child.poll() is None:
                    self.act(acts)
                    acts += 1
                if child.pid == wanted:
                    break
            else:
                self.skipTest("no process got PID %d" % wanted)
        rows = [tool.cells(row) for row in tool.rows if row[0] != " "]
        for pid, count in (wanted, 20011), (own, acts):
            self.assertEqual([self.number(row) for row in mine(rows, pid)],
                             list(range(count)))
        self.assertEqual(tool.stderr, "")

    def test_no_loss_is_told_from_before_it_traced(self):
        """Calls go on while it attaches, to one program after another: it sees
        entries without their returns. Each thread's next call comes later."""
        stop = threading.Event()

        def act():
            while not stop.wait(1.5):
                self.act()
        actors = []
        try:
            for _ in range(3001):
                actors.append(threading.Thread(target=act, name="actor"))
                actors[-1].start()
            with self.trace(*self.storm) as tool:
                time.sleep(4)       # it looks for losses once a second
        finally:
            stop.set()
            for actor in actors:
                actor.join()
        self.assertGreater(len(tool.rows), 1000)
        self.assertEqual(tool.stderr, "")

    def test_full_speed(self):
        for wrapper in ((), WITHOUT_RING_BUFFER):
            with self.subTest(ring_buffer=not wrapper):
                with Tool(self.name, *self.storm, prefix=wrapper) as tool:
                    process = self.burst(100000)
                    self.assertEqual(process.wait(), 0)
                self.check_all_told(tool, process.pid, 100000)

    def test_lost_events_are_told(self):
        for wrapper in (), ON_ANOTHER_MACHINE, WITHOUT_RING_BUFFER:
            with self.subTest(wrapper=wrapper):
                tool = Tool(self.name, *self.storm, prefix=wrapper).start()
                tool.send(signal.SIGSTOP)
                process = self.burst(500000)
                self.assertEqual(process.wait(), 0)
                tool.send(signal.SIGCONT)
                time.sleep(1)
                self.assertEqual(tool.stop(), 0)
                self.assertGreater(
                    self.check_all_told(tool, process.pid, 500000), 0)

    def check_all_told(self, tool, pid, done):
        """Rows and lost events make up what was done. Returns the lost."""
        lost_events = lost(tool.stderr)
        others = len(tool.rows) - len(mine(tool.table(), pid))
        self.assertLess(others, 100)
        self.assertLessEqual(done, len(tool.rows) + lost_events)
        self.assertLessEqual(len(tool.rows) - others + lost_events, done + 100)
        if not lost_events:
            self.assertEqual(len(tool.rows) - others, done)
        return lost_events

    def test_many_processes(self):
        with Tool(self.name, *self.storm) as tool:
            processes = [self.burst(101) for _ in range(31)]
            for process in processes:
                self.assertEqual(process.wait(), 0)
        seen = Counter(int(row["PID"]) for row in tool.table())
        for process in processes:
            self.assertEqual(seen[process.pid], 101)
        self.assertEqual(tool.stderr, "")

    def test_duration(self):
        tool = self.trace(*self.storm, "-d", "1.5").start()
        began = time.monotonic()
        self.act()
        self.assertEqual(tool.finish(), 0)
        self.assertEqual(len(tool.rows), 1)
        self.assertLess(abs(tool.line_time - began - 1.5), 3)
        self.assertEqual(tool.stderr, "")

    def test_sigterm_ends_quietly(self):
        tool = self.trace(*self.storm).start()
        self.act()
        self.assertEqual(tool.stop(signal.SIGTERM), 0)
        self.assertEqual(len(tool.rows), 1)
        self.assertEqual(tool.stderr, "")

    def test_last_events_are_printed(self):
        tool = self.trace(*self.storm).start()
        for _ in range(COUNT):
            self.act()
        tool.send(signal.SIGINT)     # at once
        self.assertEqual(tool.finish(), 0)
        self.assertEqual(len(tool.rows), COUNT)

    def test_odd_names_do_no_harm(self):
        with self.trace(*self.storm) as tool:
            with odd_name(b"%d\x1b[2J\n\xff"):
                self.act()
        self.assertEqual(len(tool.rows), 1)
        self.assertIn(" %d?[2J?", tool.rows[0])

    def test_c_locale(self):
        env = dict(os.environ, LC_ALL="C", PYTHONIOENCODING="ascii")
        with self.trace(*self.storm, env=env) as tool:
            with odd_name("sp\u00e9".encode()):
                self.act()
        self.assertEqual([row["COMM"] for row in tool.table()], ["sp?"])

    def test_closed_descriptors(self):
        for closing in (">&-", "2>&-", "<&-"):
            with self.subTest(closing=closing):
                done = subprocess.run(
                    ["sh", "-c", '"$0" "$@" -d 0.3 ' + closing, PYTHON,
                     tool_path(self.name), "-v"], stderr=subprocess.PIPE,
                    stdout=subprocess.PIPE, universal_newlines=True)
                self.assertEqual(done.returncode, 0)
                self.assertNotIn("Traceback", done.stderr)

    def test_closed_pipe_ends_quietly(self):
        """Also when no event follows that would be written."""
        read, write = os.pipe()
        process = subprocess.Popen(
            [PYTHON, tool_path(self.name)] + self.never, stdout=write,
            stderr=subprocess.PIPE)
        os.close(write)
        self.assertIn(b"PID", os.read(read, 100))
        os.close(read)
        self.assertEqual(process.communicate(timeout=30)[1], b"")
        self.assertEqual(process.returncode, 0)

    def test_stderr_that_nobody_reads(self):
        """To tell of lost events fails then; the tool goes on."""
        read, write = os.pipe()
        process = subprocess.Popen(
            [PYTHON, tool_path(self.name), *self.storm],
            stdout=subprocess.PIPE, stderr=write)
        os.close(write)
        os.close(read)
        with process.stdout:
            process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            self.burst(600000).wait()
            os.kill(process.pid, signal.SIGCONT)
            lines = 0
            while lines < 1000:     # it writes, and tells of the loss
                self.assertTrue(process.stdout.readline())
                lines += 1
            reader = threading.Thread(target=process.stdout.read)
            reader.start()
            time.sleep(3)
            self.assertIsNone(process.poll())
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), 0)
            reader.join()

    def test_full_disk(self):
        with open("/dev/full", "w") as full:
            process = subprocess.Popen(
                [PYTHON, tool_path(self.name)], stdout=full,
                stderr=subprocess.PIPE, universal_newlines=True)
            errors = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 1)
        self.assertEqual(errors, "%s.py: can't write: "
                                 "No space left on device\n" % self.name)


class Surroundings(Subject):
    """What a machine may lack: one clear line, no traceback."""

    always = []             # arguments without which it does not start

    def check_refusal(self, done, status, *words):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNotIn("Traceback", done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def check_one_line(self, done, *words):
        self.check_refusal(done, 1, *words)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def run_in(self, script, *args, env=None):
        """Run the tool from a shell script with a mount namespace of its own,
        where it is "$@"."""
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", PYTHON,
             tool_path(self.name)] + self.always + list(args),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
            universal_newlines=True, env=env)

    def test_not_root(self):
        done = subprocess.run(
            [PYTHON, readable_copy(self, tool_path(self.name))] + self.always,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, preexec_fn=lambda: os.setuid(65534))
        self.check_one_line(done, "root")

    def test_no_bcc(self):
        done = subprocess.run(      # -S: without the distribution's modules
            [PYTHON, "-S", tool_path(self.name)] + self.always,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.check_one_line(done, "python3-bpfcc (Debian, Ubuntu)",
                            "python3-bcc (Fedora)", "python-bcc (Arch)")

    def test_no_headers(self):
        env = dict(os.environ)
        env.pop("BCC_KERNEL_SOURCE", None)
        if os.path.exists("/sys/kernel/kheaders.tar.xz"):
            self.skipTest("this kernel has its headers in itself")
        done = self.run_in(
            "[ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules && "
            'exec "$@"', env=env)
        self.check_one_line(
            done, "linux-headers-%s (Debian, Ubuntu)" % os.uname().release,
            "kernel-devel (Fedora)", "linux-headers (Arch)",
            "BCC_KERNEL_SOURCE")


class Alone(Surroundings):
    """A tool that is copied to some machine, under either of the names that
    it goes by, or meets an odd one there."""

    soon = []       # arguments with which it ends by itself in a moment

    def alone(self, name, *command, env=()):
        """Run a command in a folder that has only the tool, under a name, with
        nothing in the environment but env, and in a network of its own. Checks
        that it leaves nothing there."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            shutil.copy(tool_path(self.name), os.path.join(folder, name))
            done = subprocess.run(
                ["unshare", "--net", "env", "-i", *env, *command],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, universal_newlines=True)
            self.assertEqual(os.listdir(folder), [name])
            return done

    def names(self):
        """As it is here, and as Debian installs it."""
        for name in self.name + ".py", self.name + "-bpfcc":
            with self.subTest(name=name):
                yield name

    def test_works_alone(self):
        headers = ["%s=%s" % item for item in os.environ.items()
                   if item[0] == "BCC_KERNEL_SOURCE"]
        for name in self.names():
            for python in [], [PYTHON, "-I"]:
                done = self.alone(name, *python, "./" + name, *self.always,
                                  *self.soon, env=headers)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotIn("Traceback", done.stderr)
                self.assertRegex(done.stdout, r"(?m)^(TIME|PID) +\w")

    def test_goes_by_its_name(self):
        for name in self.names():
            done = self.alone(name, "./" + name, "-h")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.startswith("usage: %s [-h]" % name))
            done = self.alone(name, "./" + name, "--nonesuch", *self.always)
            self.check_refusal(done, 2, "usage: %s [-h]" % name,
                               "\n%s: error: " % name)
            command = ["./" + name] + self.always
            done = self.alone(name, "setpriv", "--reuid=65534", *command)
            self.check_one_line(done, "%s: needs root, try: sudo %s\n" % (
                name, " ".join(command)))
            done = self.alone(name, PYTHON, "-S", *command)
            self.check_one_line(done, name + ": needs BCC's Python module")

    def test_nowhere_to_write(self):
        """No folder for temporary files, as on a full or broken disk."""
        done = self.run_in(
            "for folder in /tmp /var/tmp /usr/tmp; do [ ! -d $folder ] || "
            "{ mount --bind $folder $folder && "
            "mount -o remount,ro,bind $folder; } || exit; done; "
            'cd /proc && exec "$@"', *self.soon)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class Refusals(Alone):
    """Those of tools, which also read arguments."""

    bad_arguments = []      # a list of options each

    def test_bad_arguments(self):
        self.assertGreater(len(self.bad_arguments), 10)
        for args in self.bad_arguments:
            with self.subTest(args=args):
                done = run(self.name, *args)
                self.check_refusal(done, 2, "usage: ", "error: ")
                self.assertEqual(
                    done.stderr.splitlines()[-1].count("error: "), 1)


class TracingRefusals(Refusals):
    """Those of tools that have a choice of probe types."""

    soon = ["-d", "0.3"]

    def test_no_tracefs(self):
        done = self.run_in("mount -t tmpfs none /sys/kernel/tracing; "
                           "mount -t tmpfs none /sys/kernel/debug; "
                           'exec "$@"', "--probe", "tracepoint")
        self.check_one_line(done, "mount -t tracefs")

    def test_no_debugfs(self):
        """Without it BCC 0.18 does not find tracefs, and later ones do."""
        done = self.run_in("mount -t tmpfs none /sys/kernel/debug; "
                           'exec "$@"', "--probe", "tracepoint", *self.soon)
        if done.returncode:
            self.check_one_line(done, "mount -t debugfs")

    def test_no_bpf_at_all(self):
        """Root without the capabilities: every probe type says why."""
        done = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", PYTHON,
             tool_path(self.name)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)
        self.check_one_line(done)
        self.assertRegex(done.stderr, ": no fentry: .*; no tracepoint: .*; "
                                      "no kprobe: ")
