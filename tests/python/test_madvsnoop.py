#!/usr/bin/env python3
"""Functional tests of madvsnoop: known advice, exact counts.

USAGE: ./test_madvsnoop.py [TestClass[.test]]       as root
"""

import csv
import ctypes
import glob
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from collections import Counter

from conduct import (COUNT, Conduct, Containers, Fallback, PerfBuffer, Probes,
                     Subject, TracingRefusals, mine, odd_name, works)
from toolrun import PYTHON, TOP, Tool, readable_copy, run, tool_path
import memory
import signals
from memory import ADVICES, PAGE, madvise, process_madvise

WORKLOAD = os.path.join(TOP, "tests", "workload", "memory.py")
COLD, DONTNEED, RANDOM = (ADVICES[name]
                          for name in ("COLD", "DONTNEED", "RANDOM"))


def error_name(result):
    """A result as RET has it."""
    return {-22: "EINVAL", -12: "ENOMEM", -9: "EBADF", -14: "EFAULT"}.get(
        result, str(result))


def short(count):
    """A number of bytes as LEN has it, of those that are used here."""
    return "%dK" % (count // 1024) if count >= 1024 else str(count)


class Case(Subject, unittest.TestCase):

    name, timed = "madvsnoop", ["-T"]
    storm, never = ["-a", "RANDOM"], ["-a", "99"]

    def act(self, number=0):
        madvise(number * PAGE, 0, RANDOM)

    def number(self, row):
        return int(row["ADDR"], 16) // PAGE

    def burst(self, count, wrapper=()):
        return subprocess.Popen(
            list(wrapper) + [PYTHON, WORKLOAD, "numbered", str(count)])

    def csv_table(self, tool):
        """The rows of a tool that has -j, as dicts."""
        return [dict(row) for row in csv.DictReader(io.StringIO(
            "\n".join([tool.header] + tool.rows)))]


class Calls(Probes):
    """What every probe type must show; made into a test case for each."""

    call, programs, waits = "madvise", 4, True
    options = ["-v", "-M"]

    def setUp(self):
        super().setUp()
        self.own = memory.map_memory(PAGE)

    def test_every_advice(self):
        """Each that the kernel knows, and a failing call of each kind."""
        length = 8 * PAGE
        known = memory.known_advices()
        self.assertGreater(len(known), 15)
        # Those two would take the page away from the machine.
        calls = [(name, 0 if name in ("HWPOISON", "SOFT_OFFLINE") else length)
                 for name in known]
        expected = Counter()
        with self.traced() as rows:
            for name, size in calls:
                address = memory.map_memory(length)
                for _ in range(COUNT):
                    result = madvise(address, size, known[name])
                    expected[name, "%x" % address, short(size),
                             error_name(result), "-"] += 1
            for place, advice, name, error in (
                    (address + 1, DONTNEED, "DONTNEED", "EINVAL"),
                    (PAGE, DONTNEED, "DONTNEED", "ENOMEM"),
                    (address, 99, "99", "EINVAL"),
                    (address, -1, "-1", "EINVAL")):
                for _ in range(COUNT):
                    self.assertLess(madvise(place, PAGE, advice), 0)
                expected[name, "%x" % place, short(PAGE), error, "-"] = COUNT
        seen = Counter(
            (row["ADVICE"], row["ADDR"], row["LEN"], row["RET"], row["TPID"])
            for row in rows)
        self.assertEqual(seen, expected)
        self.assertEqual(self.tool.stderr.strip(),
                         "Tracing by %s." % self.probe)

    def test_process_madvise(self):
        if not memory.has_process_madvise():
            self.skipTest("process_madvise came with Linux 5.10")
        child = subprocess.Popen(["sleep", "60"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        time.sleep(0.2)     # it replaces its memory
        stack, size = memory.mapping_of(child.pid, "[stack]")
        fd = signals.pidfd_open(child.pid)
        ranges = [(stack, PAGE), (stack + 2 * PAGE, PAGE),
                  (stack + 4 * PAGE, 2 * PAGE)]
        with self.traced() as rows:
            for _ in range(COUNT):
                self.assertEqual(process_madvise(fd, ranges, COLD), 4 * PAGE)
            for _ in range(COUNT):
                self.assertLess(process_madvise(-1, ranges, COLD), 0)
            signals.syscall("process_madvise", fd, None, 2, COLD, 0)
            self.assertLess(process_madvise(fd, 1025 * ranges, COLD), 0)
            self.assertEqual(
                memory.process_madvise_from_file(fd, ranges, COLD), 4 * PAGE)
            own = process_madvise(-10000, [(self.own, PAGE)], COLD)
            signals.syscall("process_madvise", fd, None, 2, COLD, 0)
            madvise(self.own, PAGE, COLD)
        os.close(fd)
        seen = Counter(
            (row["ADVICE"], row["ADDR"], row["LEN"], row["RET"], row["TPID"],
             row["MAPPING"]) for row in rows)
        where, first = "%x" % stack, short(PAGE)
        all_ranges = short(4 * PAGE)
        expected = {
            ("COLD", where, all_ranges, all_ranges, str(child.pid),
             "[stack]"): COUNT + 1,
            ("COLD", where, first, "EBADF", "?", "-"): COUNT,
            ("COLD", "0", "0", "EFAULT", str(child.pid), "-"): 2,
            ("COLD", "%x" % self.own, first, "0", "-", "anon"): 1,
            ("COLD", where, first, "EINVAL", str(child.pid), "[stack]"): 1}
        if own == PAGE:     # PIDFD_SELF, from Linux 6.14 on
            expected["COLD", "%x" % self.own, first, first,
                     str(os.getpid()), "anon"] = 1
        else:
            expected["COLD", "%x" % self.own, first, "EBADF",
                     str(os.getpid()), "anon"] = 1
        self.assertEqual(seen, expected)

    def test_stack_of_a_known_function(self):
        """Its caller too, which walking the frame pointers alone misses."""
        if not shutil.which("gcc"):
            self.skipTest("needs gcc")
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "stack")
            subprocess.check_call([
                "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o",
                program, os.path.join(TOP, "tests/workload/stack.c")])
            with Tool("madvsnoop", "--probe", self.probe, "-U", "-j", "-n",
                      "stack") as tool:
                self.assertEqual(subprocess.call([program, str(COUNT)]), 0)
        rows = [row for row in self.csv_table(tool)
                if row["ADVICE"] == "DONTNEED"]
        self.assertEqual(len(rows), COUNT)
        for row in rows:
            functions = [re.sub(r"(\+0x\w+)? .*", "", frame)
                         for frame in row["STACK"].split(";")]
            self.assertIn(functions[0], ("madvise", "__madvise"))
            expected = ["known_function", "outer", "main"]
            if not self.finds_caller():
                expected.remove("known_function")
            self.assertEqual(functions[1:1 + len(expected)], expected)

    def finds_caller(self):
        with open("/proc/kallsyms") as f:
            return " bpf_task_pt_regs\n" in f.read()    # Linux 5.15

    def seconds_of_dontneed(self, address, length):
        """How long the call takes, as its caller sees it."""
        begin = time.perf_counter()
        madvise(address, length, DONTNEED)
        return time.perf_counter() - begin

    def test_summary(self):
        length = 16 << 20
        address = memory.map_memory(length)
        fd = signals.pidfd_open(os.getpid())
        with Tool("madvsnoop", "--probe", self.probe, "-S", "-j", "-p",
                  os.getpid()) as tool:
            ctypes.memset(address, 1, length)
            times = [self.seconds_of_dontneed(address, length)]
            for _ in range(COUNT):
                times.append(self.seconds_of_dontneed(address, 3 * PAGE))
                madvise(address, PAGE, COLD)
                times.append(self.seconds_of_dontneed(address + 1, PAGE))
            both = sum(process_madvise(fd, [(address, PAGE)], COLD) == PAGE
                       for _ in range(COUNT))
        os.close(fd)
        calls = 2 * COUNT if memory.has_process_madvise() else COUNT
        table = self.check_sums(tool, {
            "DONTNEED": (2 * COUNT + 1, COUNT, 3 * PAGE * COUNT + length),
            "COLD": (calls, calls - COUNT - both, PAGE * (COUNT + both))})
        dontneed = next(float(row["MAX-EVER"]) for row in table
                        if row["ADVICE"] == "DONTNEED")
        self.assertLessEqual(dontneed, max(times) * 1e6)
        # Not the latest, which are far shorter; under emulation much of what
        # is measured here is not the call.
        self.assertGreater(dontneed, times[0] * 1e6 / 50)

    def check_sums(self, tool, expected):
        """The last table has these CALLS, FAILED and LEN, by advice, and
        times that go together."""
        table = self.csv_table(tool)
        self.assertEqual({row["ADVICE"]: (
            int(row["CALLS"]), int(row["FAILED"]), int(row["LEN"]))
            for row in mine(table)}, expected)
        totals = [float(row["TOTAL(ms)"]) for row in table]
        self.assertEqual(totals, sorted(totals, reverse=True))
        for row in table:
            average = float(row["TOTAL(ms)"]) * 1000 / int(row["CALLS"])
            self.assertAlmostEqual(float(row["AVG(us)"]), average, delta=0.1)
            self.assertGreaterEqual(float(row["MAX-EVER"]),
                                    float(row["AVG(us)"]))
            self.assertGreater(average, 0)
        return table


for _probe in ("fentry", "tracepoint", "kprobe"):
    _name = "Test" + _probe.capitalize()
    globals()[_name] = type(_name, (Calls, Case), {"probe": _probe})


class TestPerfBuffer(PerfBuffer, Case):

    call, programs = "madvise", 4


class TestFallback(Fallback, Case):

    call, programs, waits, options = "madvise", 4, True, ["-v"]

    def test_tells_why(self):
        self.assertRegex(self.tool.stderr, "^Tracing by kprobe; no fentry: "
                         ".*; no tracepoint: no tracepoints, try: mount .*\n$")


class TestOptions(Case):

    def setUp(self):
        self.address = memory.map_memory(4 * PAGE)

    def dontneed(self, count=1):
        for _ in range(count):
            madvise(self.address, PAGE, DONTNEED)

    def test_default_output(self):
        with open("/proc/sys/kernel/pid_max") as f:
            width = len(f.read().strip())
        with self.trace() as tool:
            self.dontneed()
            madvise(self.address + 1, PAGE, DONTNEED)
        self.assertEqual(tool.header, (
            "%-*s %-15s %-13s %-12s %5s %7s %-6s %s" % (
                width, "PID", "COMM", "ADVICE", "ADDR", "LEN", "LAT(us)",
                "RET", "TPID")))
        with open("/proc/self/comm") as f:
            comm = f.read().strip()
        self.assertEqual(len(tool.rows), 2)
        for row, ret, address in zip(tool.rows, ("0", "EINVAL"), (
                self.address, self.address + 1)):
            latency = row.split()[5]
            self.assertRegex(latency, r"^\d+\.\d$")
            self.assertEqual(row, "%-*d %-15s %-13s %-12x %5s %7s %-6s %s" % (
                width, os.getpid(), comm, "DONTNEED", address, "4K", latency,
                ret, "-"))
        self.assertEqual(tool.stderr, "")

    def test_rows_are_below_80_columns(self):
        with open("/proc/sys/kernel/pid_max") as f:
            width = len(f.read().strip())
        fd = signals.pidfd_open(os.getpid())
        with odd_name(b"123456789012345"):
            with self.trace() as tool:
                madvise(self.address + 1, 1023 << 20, 101)
                madvise(self.address + 1, PAGE, ADVICES["DONTNEED_LOCKED"])
                process_madvise(fd, [(self.address, PAGE)], COLD)
                process_madvise(fd, [(self.address + 1, PAGE)], COLD)
        os.close(fd)
        self.assertGreaterEqual(len(tool.rows), 4)
        room = 7 - width            # in PID: it can have 7 digits
        for row in [tool.header] + tool.rows:
            tpid = row.split()[-1]
            room_here = room + (7 - len(tpid) if tpid.isdigit() else 0)
            self.assertLess(len(row) + room_here, 80, row)

    def test_columns(self):
        for args, header in (
                (["-T"], "TIME PID COMM ADVICE ADDR LEN LAT(us) RET TPID"),
                (["-v"], "PID TID COMM ADVICE ADDR LEN LAT(us) RET TPID"),
                (["-M"], "PID COMM ADVICE ADDR LEN LAT(us) RET TPID MAPPING"),
                (["-TvM"], "TIME PID TID COMM ADVICE ADDR LEN LAT(us) RET "
                           "TPID MAPPING")):
            with self.subTest(args=args):
                with self.trace(*args) as tool:
                    begin = time.time()
                    self.dontneed()
                self.assertEqual(tool.header.split(), header.split())
                row = tool.table()[0]
                self.assertEqual(row["LEN"], "4K")
                self.assertEqual(row.get("TID", str(os.getpid())),
                                 str(os.getpid()))
                self.assertEqual(row.get("MAPPING", "anon"), "anon")
                if "TIME" in row:
                    self.assertIn(row["TIME"], [
                        time.strftime("%H:%M:%S", time.localtime(begin + s))
                        for s in (0, 1)])

    def test_readable_lengths(self):
        lengths = {0: "0", 1: "1", 1023: "1023", 1024: "1K", 1536: "1.5K",
                   102399: "99.9K", 1047552: "1023K", 1048575: "1023K",
                   2 << 20: "2M", 5 << 29: "2.5G", 2**63: "8E"}
        with self.trace() as tool:
            for length in lengths:
                madvise(0, length, 99)
        self.assertEqual([row["LEN"] for row in tool.table()],
                         list(lengths.values()))

    def test_pid_and_tid(self):
        tids = []
        started = threading.Event()

        def act():
            tids.append(threading.get_native_id())
            started.wait()
            for _ in range(COUNT):
                self.act()
        thread = threading.Thread(target=act, name="actor")
        thread.start()
        while not tids:
            time.sleep(0.01)
        with Tool("madvsnoop", "-t", tids[0], "-v", *self.storm) as tool:
            started.set()
            self.act()
            thread.join()
        self.assertEqual([(row["PID"], row["TID"]) for row in tool.table()],
                         [(str(os.getpid()), str(tids[0]))] * COUNT)
        with self.trace(*self.storm) as tool:
            self.assertEqual(self.burst(3).wait(), 0)
            self.act()
        self.assertEqual(len(mine(tool.table())), len(tool.rows))
        self.assertEqual(len(tool.rows), 1)

    def test_name(self):
        for part in ("t", "madv-te", "v-tester-of", "madv-tester-of"):
            with self.subTest(part=part):
                with Tool("madvsnoop", "-n", part, *self.storm) as tool:
                    with odd_name(b"madv-tester-of"):
                        self.act()
                    with odd_name(b"madvester"[:4]):
                        self.act()
                self.assertEqual([row["COMM"] for row in mine(tool.table())],
                                 ["madv-tester-of"])

    def test_name_at_the_end_of_all_bytes(self):
        with Tool("madvsnoop", "-n", "\u00e9_9", *self.storm) as tool:
            for name in ("0123456789a\u00e9_9", "0123456789a\u00e9_"):
                with odd_name(name.encode()):
                    self.act()
        self.assertEqual(len(mine(tool.table())), 1)

    def test_advice_list(self):
        used = [0, 1, 4, 14, 20, 99]
        for spec, expected in (
                ("4", {"DONTNEED"}), ("DONTNEED,14", {"DONTNEED", "HUGEPAGE"}),
                ("MADV_COLD, random", {"COLD", "RANDOM"}), ("99", {"99"})):
            with self.subTest(spec=spec):
                with self.trace("-a", spec) as tool:
                    for advice in used:
                        madvise(0, 0, advice)
                self.assertEqual({row["ADVICE"] for row in tool.table()},
                                 expected)

    def test_failed(self):
        with self.trace("-x") as tool:
            for _ in range(COUNT):
                self.dontneed()
                madvise(self.address + 1, PAGE, DONTNEED)
                process_madvise(-1, [(self.address, PAGE)], COLD)
        self.assertEqual(
            Counter(row["RET"] for row in tool.table()),
            {"EINVAL": COUNT, "EBADF": COUNT}
            if memory.has_process_madvise() else
            {"EINVAL": COUNT, "ENOSYS": COUNT})

    def test_min_us(self):
        """Giving back 16 MiB takes long, to advise on no bytes does not; what
        lies between is measured first, since machines differ."""
        length = 16 << 20
        address = memory.map_memory(length)

        def dontneed():
            ctypes.memset(address, 1, length)
            begin = time.perf_counter()
            madvise(address, length, DONTNEED)
            return (time.perf_counter() - begin) * 1e6
        limit = min(dontneed() for _ in range(5)) / 8
        with self.trace("-m", "%.3f" % limit, "-j") as tool:
            for _ in range(COUNT):
                dontneed()
                self.act()
        rows = self.csv_table(tool)
        for row in rows:
            self.assertGreaterEqual(float(row["LAT(us)"]), limit)
        seen = Counter(row["ADVICE"] for row in rows)
        self.assertEqual(seen["DONTNEED"], COUNT)
        self.assertLess(seen["RANDOM"], COUNT / 2)  # what was interrupted

    def test_mapping(self):
        with open(PYTHON, "rb") as file:
            text = memory.map_memory(PAGE, fd=file.fileno())
        with tempfile.NamedTemporaryFile(suffix='a,"%s') as file:
            file.write(bytes(PAGE))
            file.flush()
            odd, name = memory.map_memory(PAGE, fd=file.fileno()), file.name
        stack, _ = memory.mapping_of(os.getpid(), "[stack]")
        heap, _ = memory.mapping_of(os.getpid(), "[heap]")
        with self.trace("-M", "-j", *self.storm) as tool:
            for address in (text, stack, heap, self.address, PAGE, odd):
                for _ in range(COUNT):
                    madvise(address, 0, RANDOM)
        self.assertEqual(
            Counter(row["MAPPING"] for row in self.csv_table(tool)),
            {os.path.realpath(PYTHON): COUNT, "[stack]": COUNT,
             "[heap]": COUNT, "anon": COUNT, "-": COUNT,
             name + " (deleted)": COUNT})

    def test_mapping_that_changes(self):
        with open(PYTHON, "rb") as file:
            with self.trace("-M", *self.storm) as tool:
                address = memory.map_memory(PAGE, fd=file.fileno())
                madvise(address, 0, RANDOM)
                tool.next_row()
                memory.libc.munmap(ctypes.c_void_p(address),
                                   ctypes.c_size_t(PAGE))
                time.sleep(0.6)     # for so long it is not looked up again
                madvise(address, 0, RANDOM)
                tool.next_row()
                new = memory.map_memory(PAGE)   # but at once for what is new
                madvise(new, 0, RANDOM)
        self.assertEqual([row["MAPPING"] for row in tool.table()],
                         [os.path.realpath(PYTHON), "-", "anon"])

    def test_mappings_are_read_once_a_batch(self):
        """For each batch of 10,000, and one more now and then."""
        with tempfile.NamedTemporaryFile("r") as log:
            with Tool("madvsnoop", "-M", *self.storm, prefix=[
                    "strace", "-D", "-f", "--seccomp-bpf", "-qq", "-ttt", "-e",
                    "signal=none", "-e", "trace=openat", "-o",
                    log.name]) as tool:
                tool.send(signal.SIGSTOP)
                process = self.burst(200000)
                self.assertEqual(process.wait(), 0)
                tool.send(signal.SIGCONT)
            times = [float(line.split()[1]) for line in log
                     if '"/proc/%d/maps"' % process.pid in line]
        self.assertEqual(len(mine(tool.table(), process.pid)), 200000)
        self.assertGreater(len(times), 1)
        self.assertLess(len(times), 200000 / 10000 + 5)

    def test_stack_lines(self):
        with self.trace("-U", "-a", "DONTNEED") as tool:
            self.dontneed(3)
        self.assertEqual(tool.header.split()[-1], "TPID")
        calls = [row for row in tool.rows if not row.startswith("    ")]
        frames = [row for row in tool.rows if row.startswith("    ")]
        self.assertEqual(len(calls), 3)
        self.assertGreaterEqual(len(frames), 6)
        self.assertRegex(frames[0], r"^    (sys|__)?\w+\+0x\w+ \[libc")

    def test_csv(self):
        with self.trace("-j", "-TvM") as tool:
            with odd_name(b'a,"b%s'):
                self.dontneed()
        self.assertEqual(tool.header, "TIME,PID,TID,COMM,ADVICE,ADDR,LEN,"
                                      "LAT(us),RET,TPID,MAPPING")
        (row,) = self.csv_table(tool)
        self.assertRegex(row.pop("TIME"), r"^\d\d:\d\d:\d\d$")
        self.assertRegex(row.pop("LAT(us)"), r"^\d+\.\d\d\d$")
        self.assertEqual(row, {
            "PID": str(os.getpid()), "TID": str(os.getpid()), "COMM": 'a,"b%s',
            "ADVICE": "DONTNEED", "ADDR": "%x" % self.address, "LEN": "4096",
            "RET": "0", "TPID": "-", "MAPPING": "anon"})

    def test_ebpf(self):
        done = run("madvsnoop", "--ebpf", "-p", 181, "-a", "FREE,99", "-n",
                   'x"y')
        self.assertEqual(done.returncode, 0)
        self.assertIn("#define ONLY_PID 181\n", done.stdout)
        self.assertIn("advice == 8 || advice == 99", done.stdout)
        self.assertNotIn('x"y', done.stdout)
        self.assertIn("events", done.stdout)
        self.assertEqual(done.stderr, "")


class TestSummary(Case):

    def tables(self, rows):
        """A list for each table that begins with its titles, of dicts."""
        tables = []
        for row in rows:
            if row.startswith("PID "):
                titles = row.split()
                tables.append([])
            elif row.strip() and row[2:3] != ":" and tables:
                tables[-1].append(dict(zip(titles, row.split())))
        return tables

    def test_intervals(self):
        tool = Tool("madvsnoop", "-S", "-T", *self.storm, "-p", os.getpid(),
                    "0.5", "4").start()
        for _ in range(2):
            for _ in range(COUNT):
                self.act()
            time.sleep(0.7)
        self.assertEqual(tool.finish(), 0)
        tables = self.tables(tool.rows)
        self.assertEqual(len(tables), 4)
        counts = [int(row["CALLS"]) for table in tables for row in table]
        self.assertEqual(sum(counts), 2 * COUNT)
        self.assertGreaterEqual(len(counts), 2)
        times = [row for row in tool.rows if re.match(r"\d\d:\d\d:\d\d$", row)]
        self.assertEqual(len(times), 4)

    def test_loses_nothing_at_full_rate(self):
        """On all CPUs, while the numbers are read and reset again and again;
        with processes that take turns on a CPU."""
        with Tool("madvsnoop", "-S", *self.storm, "0.1") as tool:
            processes = [self.burst(300007) for _ in range(os.cpu_count() + 1)]
            for process in processes:
                self.assertEqual(process.wait(), 0)
            time.sleep(0.2)
        calls = Counter()
        for table in self.tables(tool.rows):
            for row in table:
                calls[int(row["PID"])] += int(row["CALLS"])
        for process in processes:
            self.assertEqual(calls[process.pid], 300007)
        self.assertEqual(tool.stderr, "")

    def test_filters(self):
        for args, count in ((["-x"], COUNT), (["-a", "99"], COUNT),
                            (["-m", "1e7"], 0), (["-n", "no-such-name"], 0),
                            (["-t", os.getpid()], 3 * COUNT)):
            with self.subTest(args=args):
                with self.trace("-S", "-H", *args) as tool:
                    for _ in range(COUNT):
                        madvise(0, 0, 99)
                        madvise(0, 0, 0)
                        madvise(0, 0, 1)
                (table,) = self.tables(
                    tool.rows[:next((i for i, row in enumerate(tool.rows)
                                     if row.startswith("advice")), None)])
                self.assertEqual(sum(int(row["CALLS"]) for row in table),
                                 count)
                in_buckets = sum(
                    int(n) for n in re.findall(r"-> \d+ +: (\d+) ",
                                               "\n".join(tool.rows)))
                self.assertEqual(in_buckets, count)

    def test_histogram(self):
        with self.trace("-H") as tool:
            for _ in range(COUNT):
                madvise(0, 0, 99)
                madvise(0, 0, RANDOM)
        self.assertEqual([row for row in tool.rows if row.startswith("adv")],
                         ["advice = RANDOM", "advice = 99"])
        body = [re.match(r" *(\d+) -> (\d+) +: (\d+) +\|(\**) *\|$", row)
                for row in tool.rows if "->" in row]
        self.assertTrue(all(body))
        self.assertEqual(sum(int(m.group(3)) for m in body), 2 * COUNT)
        self.assertEqual(max(len(m.group(4)) for m in body), 40)
        for row in tool.rows:
            self.assertLessEqual(len(row), 80)

    def test_csv(self):
        with self.trace("-S", "-j", *self.storm) as tool:
            for _ in range(COUNT):
                madvise(0, PAGE * 256, RANDOM)
        (row,) = self.csv_table(tool)
        self.assertEqual((row["CALLS"], row["FAILED"], row["LEN"]),
                         (str(COUNT), str(COUNT), "0"))

    def test_calls_during_the_last_print(self):
        """A stop can come while a table is under way."""
        for interval in ("0.001", "0.03"):
            with self.subTest(interval=interval):
                tool = self.trace("-S", "-j", *self.storm, interval).start()
                for _ in range(20011):
                    self.act()
                tool.send(2)
                self.assertEqual(tool.finish(), 0)
                self.assertEqual(sum(int(row["CALLS"]) for row in
                                     self.csv_table(tool)), 20011)

    def test_goes_on_after_a_stop(self):
        """Without the tables that were due in between."""
        tool = Tool("madvsnoop", "-S", *self.storm, "0.2").start()
        tool.send(19)
        time.sleep(3)
        tool.send(18)
        time.sleep(0.5)
        self.assertEqual(tool.stop(), 0)
        self.assertLess(len(self.tables(tool.rows)), 10)

    def test_names_the_process(self):
        """Not the thread that called first."""
        def act():
            with odd_name(b"some-thread"):
                self.act()
        with self.trace("-S", *self.storm) as tool:
            thread = threading.Thread(target=act, name="actor")
            thread.start()
            thread.join()
            self.act()
        with open("/proc/self/comm") as f:
            comm = f.read().strip()
        (table,) = self.tables(tool.rows)
        self.assertEqual([(row["COMM"], row["CALLS"]) for row in table],
                         [(comm, "2")])

    def test_last_calls_are_counted(self):
        tool = self.trace("-S", *self.storm).start()
        for _ in range(COUNT):
            self.act()
        tool.send(2)    # at once
        self.assertEqual(tool.finish(), 0)
        (table,) = self.tables(tool.rows)
        self.assertEqual([row["CALLS"] for row in table], [str(COUNT)])

    def test_full_disk(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [PYTHON, tool_path("madvsnoop"), "-S"], stdout=full,
                stderr=subprocess.PIPE, universal_newlines=True, timeout=120)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "madvsnoop.py: can't trace or write: "
                                      "No space left on device\n")


class TestConduct(Conduct, Containers, Case):

    # Deleted knowingly: rows in time order, writes with patience, guards for
    # closed descriptors, a stderr that nobody reads.
    test_time_and_order_under_backlog = None
    test_ends_while_nobody_reads = None
    test_closed_descriptors = test_stderr_that_nobody_reads = None
    # As killsnoop: tested anew on its fixtures.
    test_mntnsmap = test_c_locale = test_full_disk = None

    def test_order_of_a_storm(self):
        """Not by perf buffer, which is small: 1 Mbyte a CPU."""
        with Tool(self.name, *self.storm) as tool:
            processes = [self.burst(70001) for _ in range(2)]
            for process in processes:
                self.assertEqual(process.wait(), 0)
        self.assertEqual(tool.stderr, "")
        for process in processes:
            self.assertEqual(
                [self.number(row) for row in mine(tool.table(), process.pid)],
                list(range(70001)))


class TestSums(Case):
    """With more threads than CPUs, nothing is counted twice or never."""

    call = "madvise"

    def check_sums(self, probe):
        threads = 4 * os.cpu_count()
        with Tool("madvsnoop", "--probe", probe, "-S", "-j", *self.storm,
                  "0.2") as tool:
            processes = [self.burst(20011) for _ in range(threads)]
            for process in processes:
                self.assertEqual(process.wait(), 0)
        skipped = sum(map(int, re.findall(
            r"skipped by the kernel: (\d+)", tool.stderr)))
        counted = Counter()
        for row in self.csv_table(tool):
            counted[int(row["PID"])] += int(row["CALLS"])
        made = Counter({process.pid: 20011 for process in processes})
        self.assertEqual(counted - made, Counter())
        self.assertLessEqual(sum((made - counted).values()), skipped)

    def test_tracepoint(self):
        for _ in range(10):
            self.check_sums("tracepoint")

    def test_fentry(self):
        if not works("fentry", "madvise"):
            self.skipTest("the kernel refuses also the least fentry program")
        for _ in range(10):
            self.check_sums("fentry")


class TestPeers(Case):
    """The same calls, seen by madvsnoop and by others."""

    def populate_beside(self, *wrapper):
        """COUNT times 16 MiB filled, with a tracer around it that writes to
        stderr. Returns madvsnoop's rows and what the tracer wrote."""
        if "POPULATE_WRITE" not in memory.known_advices():
            self.skipTest("MADV_POPULATE_WRITE came with Linux 5.14")
        with Tool("madvsnoop", "-j", "-a", "POPULATE_WRITE") as tool:
            traced = subprocess.run(
                list(wrapper) + [PYTHON, WORKLOAD, "populate", str(COUNT)],
                stderr=subprocess.PIPE, universal_newlines=True)
        rows = self.csv_table(tool)
        self.assertEqual(len(rows), COUNT)
        return rows, traced.stderr

    def check_latency(self, rows, other):
        """Our sum of latencies is another's, in us. What it measures has the
        price of its own stops in it: up to 1 ms and a tenth a call."""
        ours = sum(float(row["LAT(us)"]) for row in rows)
        self.assertGreater(ours, 1000)
        self.assertLessEqual(ours, other * 1.02)
        self.assertLessEqual(other, ours * 1.1 + 1000 * COUNT)

    def test_strace(self):
        rows, output = self.populate_beside("strace", "-qq", "-T", "-e",
                                            "trace=madvise")
        told = re.findall(r"^madvise\((\w+), (\d+), (?:MADV_)?POPULATE_WRITE"
                          r".*\) += (\d+) <([\d.]+)>$", output, re.M)
        if not told:        # an strace that does not know its name
            told = re.findall(r"^madvise\((\w+), (\d+), 0x17.*\) += (\d+) "
                              r"<([\d.]+)>$", output, re.M)
        self.assertEqual(
            [("0x" + row["ADDR"], row["LEN"], row["RET"]) for row in rows],
            [call[:3] for call in told])
        self.check_latency(rows, sum(float(call[3]) for call in told) * 1e6)

    def test_perf_trace(self):
        if not shutil.which("perf"):
            self.skipTest("needs perf")
        rows, output = self.populate_beside("perf", "trace", "-s", "-e",
                                            "madvise")
        # syscall, calls, errors, total in ms
        told = re.search(r"^ +madvise +(\d+) +(\d+) +([\d.]+) ", output, re.M)
        if not told:
            self.skipTest("perf trace does not work here: %s" %
                          output.strip().split("\n")[0])
        self.assertEqual(told.group(2), "0")
        self.assertGreaterEqual(int(told.group(1)), COUNT)
        self.check_latency(rows, float(told.group(3)) * 1000)

    def test_jemalloc(self):
        """Memory that an allocator gives back by itself."""
        library = glob.glob("/usr/lib/*/libjemalloc.so.2")
        if not library:
            self.skipTest("needs libjemalloc2")
        env = dict(os.environ, LD_PRELOAD=library[0],
                   MALLOC_CONF="dirty_decay_ms:0,muzzy_decay_ms:0")
        with Tool("madvsnoop", "-S", "-j", "-a", "DONTNEED,FREE") as tool:
            process = subprocess.Popen([PYTHON, "-c", (
                "for _ in range(23):\n"
                "    blocks = [bytes(2**20) for _ in range(7)]\n"
                "    del blocks\n")], env=env)
            self.assertEqual(process.wait(), 0)
        rows = [row.split(",") for row in tool.rows
                if row.split(",")[:1] == [str(process.pid)]]
        self.assertIn("DONTNEED", [row[2] for row in rows])
        calls, failed, length = (sum(int(row[i]) for row in rows)
                                 for i in (3, 4, 5))
        self.assertGreaterEqual(calls, 23)
        self.assertEqual(failed, 0)
        self.assertGreaterEqual(length, 23 * 7 * 2**20)


class TestRefusals(TracingRefusals, unittest.TestCase):

    name = "madvsnoop"
    test_old_kernel = None      # kernels without bpf(2) are not told apart
    bad_arguments = [
        ["-p", "x"], ["-p", "1;"], ["-t", "x"], ["-u", "0"], ["-b"], ["-n"],
        ["-a", "FOO"], ["-a", ""], ["-a", "4,"], ["-a", "MADV_"],
        ["-m", "x"], ["-m", "-1"], ["-m", "nan"], ["-m", "0"], ["-d", "0"],
        ["-d", "inf"], ["--probe", "x"],
        ["--cgroupmap", '/x"; int i;'], ["--mntnsmap", "relative"],
        ["1"], ["-S", "0"], ["-S", "x"], ["-S", "1", "0"], ["-S", "-M"],
        ["-H", "-U"], ["-Hj"], ["-S", "1", "1", "1"],
        ["--nonesuch"]]


if __name__ == "__main__":
    unittest.main()
