"""madvsnoop: known advice, exact rows and sums."""

import collections
import concurrent.futures
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from common import (COUNT, PYTHON, TOP, Tool, burst, cells, in_child, odd_name,
                    own_rows, run_command, wait_until)
import memory
from memory import ADVICES, PAGE, act, madvise, process_madvise
import signals

COLD, DONTNEED, RANDOM = (ADVICES[name]
                          for name in ("COLD", "DONTNEED", "RANDOM"))
ME = str(os.getpid())
ACTS = ["-a", "RANDOM"]


@pytest.fixture
def pages():
    """Return the address of four pages."""
    return memory.map_memory(4 * PAGE)


@pytest.fixture
def other():
    """Return a process with a stack to advise on, and a pidfd for it."""
    if process_madvise(-1, [(0, 0)], COLD) == -errno.ENOSYS:
        pytest.skip("process_madvise came with Linux 5.10")
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, bufsize=0)
    child.stdin.write(b"x")
    child.stdout.read(1)        # exec(2) is over
    fd = signals.pidfd_open(child.pid)
    yield child, fd
    os.close(fd)
    child.communicate(timeout=60)


@pytest.mark.short
def test_stack_of_a_known_function(tracer, tmp_path):
    """Its caller too, which walking the frame pointers alone misses. First of
    those with a shared tool: later a stack may have no place in its map."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    program = str(tmp_path / "stack")
    subprocess.check_call([
        "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o", program,
        os.path.join(TOP, "tests/workload/stack.c")])
    process = subprocess.Popen([program, str(COUNT)], stdin=subprocess.PIPE)
    wait_until(lambda: len(own_rows(tracer.table(), process.pid)) >= COUNT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    expected = ["known_function", "outer", "main"]
    with open("/proc/kallsyms") as f:
        if " bpf_task_pt_regs\n" not in f.read():       # Linux 5.15
            expected.remove("known_function")
    rows = own_rows(tracer.table(), process.pid)
    assert cells(rows, "ADVICE RET") == COUNT * [("DONTNEED", "0")]
    for row in rows:
        functions = [re.sub(r"(\+0x\w+)? .*", "", frame)
                     for frame in row["STACK"].split(";")]
        assert functions[0] in ("madvise", "__madvise")
        assert functions[1:1 + len(expected)] == expected


@pytest.mark.short
def test_every_advice(tracer):
    """Each that the kernel knows, and a failing call of each kind."""
    length, known = 8 * PAGE, memory.known_advices()
    assert len(known) > 15
    expected = collections.Counter()
    with tracer.traced() as rows:
        for name in known:
            address = memory.map_memory(length)
            size = 0 if name in memory.NOT_ON_REAL_PAGES else length
            for _ in range(COUNT):
                result = madvise(address, size, known[name])
                expected[name, "%x" % address, str(size),
                         errno.errorcode.get(-result, "0"), "-"] += 1
        for place, advice, name, error in (
                (address + 1, DONTNEED, "DONTNEED", "EINVAL"),
                (PAGE, DONTNEED, "DONTNEED", "ENOMEM"),
                (address, 99, "99", "EINVAL"), (address, -1, "-1", "EINVAL")):
            for _ in range(COUNT):
                assert madvise(place, PAGE, advice) < 0
            expected[name, "%x" % place, str(PAGE), error, "-"] = COUNT
    assert collections.Counter(cells(
        own_rows(rows), "ADVICE ADDR LEN RET TPID")) == expected


@pytest.mark.short
def test_process_madvise(tracer, other, pages):
    child, fd = other
    stack, _ = memory.mapping_of(child.pid, "[stack]")
    ranges = [(stack, PAGE), (stack + 2 * PAGE, PAGE),
              (stack + 4 * PAGE, 2 * PAGE)]
    with tracer.traced() as rows:
        for _ in range(COUNT):
            assert process_madvise(fd, ranges, COLD) == 4 * PAGE
            assert process_madvise(-1, ranges, COLD) < 0
        signals.syscall("process_madvise", fd, None, 2, COLD, 0)
        assert process_madvise(fd, 1025 * ranges, COLD) < 0
        assert memory.process_madvise_from_file(fd, ranges, COLD) == 4 * PAGE
        own = process_madvise(-10000, [(pages, PAGE)], COLD)
        madvise(pages, PAGE, COLD)
    where, target, own_where = "%x" % stack, str(child.pid), "%x" % pages
    first, advised = str(PAGE), str(4 * PAGE)
    assert collections.Counter(cells(
        own_rows(rows), "ADDR LEN RET TPID MAPPING")) == {
            (where, advised, advised, target, "[stack]"): COUNT + 1,
            (where, first, "EBADF", "?", "-"): COUNT,
            ("0", "0", "EFAULT", target, "-"): 1,
            (where, first, "EINVAL", target, "[stack]"): 1,
            # PIDFD_SELF, from Linux 6.14 on
            (own_where, first, first if own == PAGE else "EBADF", ME,
             "anon"): 1,
            (own_where, first, "0", "-", "anon"): 1}


def test_mapping(tracer, pages):
    with open(PYTHON, "rb") as file:
        text = memory.map_memory(PAGE, fd=file.fileno())
    with tempfile.NamedTemporaryFile(suffix='a,"%s\r\xff') as file:
        file.write(bytes(PAGE))
        file.flush()
        odd, name = memory.map_memory(PAGE, fd=file.fileno()), file.name
    stack, _ = memory.mapping_of(os.getpid(), "[stack]")
    heap, _ = memory.mapping_of(os.getpid(), "[heap]")
    shown = {text: os.path.realpath(PYTHON), stack: "[stack]", heap: "[heap]",
             pages: "anon", PAGE: "-",
             odd: name.replace("\r", "?") + " (deleted)"}
    with tracer.traced() as rows:
        for address in shown:
            for _ in range(COUNT):
                madvise(address, 0, RANDOM)
    memory.libc.munmap(ctypes.c_void_p(pages), ctypes.c_size_t(4 * PAGE))
    with tracer.traced() as later:
        madvise(pages, 0, RANDOM)
    assert [row["MAPPING"] for row in own_rows(rows)] == [
        name for name in shown.values() for _ in range(COUNT)]
    assert [row["MAPPING"] for row in own_rows(later)] == ["-"]


def dontneed(address, length):
    """Give memory back. Return the us that its caller sees."""
    begin = time.perf_counter()
    madvise(address, length, DONTNEED)
    return (time.perf_counter() - begin) * 1e6


@pytest.mark.short
def test_summary(probe, other):
    child, fd = other
    stack, _ = memory.mapping_of(child.pid, "[stack]")
    length = 16 << 20
    address = memory.map_memory(length)
    with Tool("madvsnoop", *probe, "-Sjp", ME) as tool:
        ctypes.memset(address, 1, length)
        times = [dontneed(address, length)]
        for _ in range(COUNT):
            times.append(dontneed(address, 3 * PAGE))
            times.append(dontneed(address + 1, PAGE))
            madvise(address, PAGE, COLD)
            assert process_madvise(fd, [(stack, PAGE)], COLD) == PAGE
    rows = {row["ADVICE"]: row for row in tool.table()}
    assert sorted(cells(rows.values(), "ADVICE CALLS FAILED LEN")) == [
        ("COLD", str(2 * COUNT), "0", str(2 * COUNT * PAGE)),
        ("DONTNEED", str(2 * COUNT + 1), str(COUNT),
         str(3 * PAGE * COUNT + length))]
    totals = [float(row["TOTAL(ms)"]) for row in tool.table()]
    assert totals == sorted(totals, reverse=True)
    for row in rows.values():
        average = float(row["TOTAL(ms)"]) * 1000 / int(row["CALLS"])
        assert 0 < average <= float(row["MAX-EVER"])
        assert abs(float(row["AVG(us)"]) - average) < 0.1
    # Not that of the last calls, which are far shorter; under emulation much
    # of what is measured here is not the call.
    assert times[0] / 50 < float(rows["DONTNEED"]["MAX-EVER"]) <= max(times)


def summed(tool, title):
    """Return the calls in the tables of -S, by the values of a column."""
    calls = collections.Counter()
    for line in tool.lines():
        if line.startswith("PID "):
            titles = line.split()
        elif re.match(r"\d+ +\D", line):
            row = dict(zip(titles, line.split()))
            calls[row[title]] += int(row["CALLS"])
    return calls


def in_histograms(tool):
    """Return the calls in the histograms of -H, by advice."""
    calls = collections.Counter()
    for line in tool.lines():
        if line.startswith("advice = "):
            advice = line.split()[2]
        count = re.fullmatch(r" *\d+ -> \d+ +: (\d+) +\|\** *\|", line)
        if count:
            calls[advice] += int(count[1])
    return calls


def test_sums_are_exact(probe):
    """Ten times with more processes than CPUs, read and printed every 50 ms.
    All add to the same sums in the histograms."""
    made, count, processes = [], 20011, 2 * os.cpu_count() + 1

    def acts(_):
        return in_child(lambda: [act(number) for number in range(count)])
    with concurrent.futures.ThreadPoolExecutor(processes) as parents, \
            Tool("madvsnoop", *probe, "-SH", *ACTS, "0.001") as tool:
        for _ in range(10):
            for pid, status in parents.map(acts, range(processes)):
                assert status == 0
                made.append(str(pid))
    counted = summed(tool, "PID")
    missed = tool.lost + sum(map(int, re.findall(
        r"skipped by the kernel: (\d+);", tool.stderr)))
    assert in_histograms(tool)["RANDOM"] == sum(counted.values())
    assert all(counted[pid] <= count for pid in made)
    assert sum(count - counted[pid] for pid in made) <= missed


def test_default_output(pages, other):
    """Byte for byte, and below 80 columns."""
    child, fd = other
    with open("/proc/sys/kernel/pid_max") as f:
        width = len(f.read().strip())
    lengths = {0: "0", 1: "1", 1023: "1023", 1024: "1K", 1536: "1.5K",
               102399: "99.9K", 1047552: "1023K", 1048575: "1023K",
               2 << 20: "2M", 5 << 29: "2.5G", 2**63: "8E"}
    name = "123456789012345"
    with odd_name(name.encode()), Tool("madvsnoop", "-p", ME) as tool:
        madvise(pages, PAGE, DONTNEED)
        madvise(pages + 1, 1023 << 20, ADVICES["DONTNEED_LOCKED"])
        process_madvise(fd, [(pages + 1, PAGE)], COLD)
        for length in lengths:
            madvise(0, length, 99)
    form = "%%-%ds %%-15s %%-13s %%-12s %%5s %%7s %%-6s %%s" % width
    assert tool.header == form % ("PID", "COMM", "ADVICE", "ADDR", "LEN",
                                  "LAT(us)", "RET", "TPID")
    latencies = [row["LAT(us)"] for row in tool.table()]
    assert all(re.fullmatch(r"\d+\.\d", latency) for latency in latencies)
    assert tool.rows == [
        form % (ME, name, advice, "%x" % address, length, lat, result, target)
        for lat, (advice, address, length, result, target) in zip(latencies, [
            ("DONTNEED", pages, "4K", "0", "-"),
            ("DONTNEED_LOCKED", pages + 1, "1023M", "EINVAL", "-"),
            ("COLD", pages + 1, "4K", "EINVAL", child.pid)] + [
            ("99", 0, length, "EINVAL", "-") for length in lengths.values()])]
    for line in tool.lines():       # PIDs can have 7 digits
        assert len(re.sub(r"^\d+ *| \d+$", " 7654321", line)) < 80
    assert tool.stderr == ""


def test_all_columns(pages):
    with Tool("madvsnoop", "-TvMUp", ME) as tool:
        times = [time.time()]
        madvise(pages, PAGE, DONTNEED)
        times.append(time.time())
    row, *frames = tool.table()
    assert tool.header.split() == list(row) == (
        "TIME PID TID COMM ADVICE ADDR LEN LAT(us) RET TPID MAPPING").split()
    assert cells([row], "PID TID ADVICE ADDR LEN RET TPID MAPPING") == [
        (ME, ME, "DONTNEED", "%x" % pages, "4K", "0", "-", "anon")]
    assert row["TIME"] in [time.strftime("%H:%M:%S", time.localtime(second))
                           for second in times]
    assert re.match(r"    (sys|__)?\w+\+0x\w+ \[libc", tool.rows[1])
    assert all(re.match(r"    \S", row) for row in tool.rows[1:])
    assert len(frames) > 1


Row = collections.namedtuple("Row", "TID COMM ADVICE RET")
NAMES = ["madv-tester", "adv-tester", "madv-t", "0123456789a\u00e9_9",
         "0123456789a\u00e9_"]
FILTERS = {
    "": lambda row: True,
    "-x": lambda row: row.RET != "0",
    "-t self": lambda row: row.TID == ME,
    "-m 1e6": lambda row: False,
    "-a 4,hugepage,MADV_COLD,99,-1": lambda row: row.ADVICE in (
        "DONTNEED", "HUGEPAGE", "COLD", "99", "-1"),
    "-n madv-te": lambda row: "madv-te" in row.COMM,
    "-n \u00e9_9": lambda row: "\u00e9_9" in row.COMM}


def do_a_mixture(worker):
    """Do something for each filter. Return the rows of this process."""
    names = {number: name for name, number in ADVICES.items()}
    rows = []

    def do(comm, *advices):
        with odd_name(comm.encode()):
            for advice in advices:
                result = errno.errorcode.get(-madvise(0, 0, advice), "0")
                rows.append(Row(str(threading.get_native_id()), comm,
                                names.get(advice, str(advice)), result))
    do("main", 0, 1, 4, 14, 20, 99, -1, 98)
    for name in NAMES:
        do(name, RANDOM)
    worker.submit(do, "worker", RANDOM, 99).result()
    in_child(act)
    return rows


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options):
    """Of rows, sums and histograms."""
    arguments = ["-p", ME, *options.replace("self", ME).split()]
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        worker.submit(int).result()     # a thread's start and end can advise
        with Tool("madvsnoop", "-v", *arguments) as rows, \
                Tool("madvsnoop", "-SH", *arguments) as sums:
            expected = list(filter(FILTERS[options], do_a_mixture(worker)))
    assert cells(rows.table(), "TID COMM ADVICE RET") == expected
    calls = collections.Counter(row.ADVICE for row in expected)
    assert summed(sums, "ADVICE") == in_histograms(sums) == calls


def test_mappings_are_read_once_a_batch():
    """For each batch of 10,000, and one more now and then."""
    with tempfile.NamedTemporaryFile("r") as log:
        with Tool("madvsnoop", "-M", *ACTS, prefix=[
                "strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=openat",
                "-o", log.name]) as tool:
            tool.send(signal.SIGSTOP)
            process = burst("madvsnoop", 50000)
            assert process.wait(60) == 0
            tool.send(signal.SIGCONT)
            wait_until(lambda: len(tool.rows) >= 50000)
        reads = sum('"/proc/%d/maps"' % process.pid in line for line in log)
    assert len(own_rows(tool.table(), process.pid)) == 50000
    assert 1 < reads < 50000 / 10000 + 5


def test_intervals():
    """Also while it is stopped: then it prints no table for each that is due.
    """
    tool = Tool("madvsnoop", "-SHTp", ME, "0.5", "5").start()
    tool.send(signal.SIGSTOP)
    time.sleep(1.5)
    begin = time.monotonic()
    tool.send(signal.SIGCONT)
    for total in COUNT, 2 * COUNT:
        for _ in range(COUNT):
            madvise(0, 0, 99)
            act()
        wait_until(lambda: in_histograms(tool)["RANDOM"] == total)
    assert tool.process.wait(60) == 0
    assert time.monotonic() - begin > 1.2
    assert tool.header == "Tracing madvise calls... Hit Ctrl-C to end."
    assert summed(tool, "ADVICE") == in_histograms(tool) == {
        "99": 2 * COUNT, "RANDOM": 2 * COUNT}
    for beginning in "PID +COMM ", r"\d\d:\d\d:\d\d$":
        assert sum(bool(re.match(beginning, row)) for row in tool.rows) == 5
    assert max(row.count("*") for row in tool.rows) == 40
    assert max(map(len, tool.rows)) <= 80


def test_summary_names_the_process():
    """Not the thread that called first, except if the process has ended."""
    def act_as(name):
        with odd_name(name):
            act()
    with Tool("madvsnoop", "-S", *ACTS) as tool:
        act_as(b"some-thread")
        act()
        in_child(act_as, b"a\r99")
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    assert summed(tool, "COMM") == {comm: 2, "a?99": 1}


def test_full_table_is_reported():
    """There is room for 10240 pairs of process and advice."""
    with Tool("madvsnoop", "-Sjp", ME) as tool:
        for advice in range(1000, 12000):
            madvise(0, 0, advice)
    shown = sum(int(row["CALLS"]) for row in tool.table())
    assert shown <= 10240
    assert shown + tool.lost == 11000


def test_agrees_with_strace():
    """Also in time, of which strace measures its own stops, too. Of what is
    too short no row is shown, except where an interrupt prolongs it."""
    with Tool("madvsnoop", "-j", "-m", "5", "-a", "DONTNEED,RANDOM") as tool:
        traced = run_command("strace", "-qq", "-T", "-e", "trace=madvise",
                             PYTHON, memory.__file__, "filled", str(COUNT))
    calls = re.findall(r"(?m)^madvise\(0x(\w+), (\d+), MADV_DONTNEED\) += "
                       r"(\d+) <([\d.]+)>$", traced.stderr)
    rows = [row for row in tool.table() if row["ADVICE"] == "DONTNEED"]
    assert cells(rows, "ADDR LEN RET") == [call[:3] for call in calls]
    assert traced.stderr.count("MADV_RANDOM") == len(calls) == COUNT
    assert len(tool.rows) < 1.5 * COUNT
    assert min(float(row["LAT(us)"]) for row in tool.table()) >= 5
    latencies = [(float(row["LAT(us)"]), float(call[3]) * 1e6)
                 for row, call in zip(rows, calls)]
    assert all(ours <= others for ours, others in latencies)
    assert min(others - 1.1 * ours for ours, others in latencies) < 1000
