"""madvsnoop: known advice, exact rows and sums."""

import collections
import concurrent.futures
import ctypes
import errno
import os
import re
import signal
import subprocess
import tempfile
import threading
import time

from bcc import BPF
import pytest

from common import (COUNT, PYTHON, TOP, Tool, burst, cells, in_child, odd_name,
                    own_rows, wait_until)
import memory
from memory import ADVICES, PAGE, act, madvise, process_madvise
import signals

COLD, DONTNEED, RANDOM = map(ADVICES.get, ["COLD", "DONTNEED", "RANDOM"])
NUMBERS = dict(ADVICES, **{"98": 98, "99": 99, "-1": -1})
ME = str(os.getpid())
ACTS = ["-a", "RANDOM"]
LARGE = 16 << 20


@pytest.fixture
def pages():
    """Return the address of LARGE bytes."""
    return memory.map_memory(LARGE)


@pytest.fixture
def other():
    """Return the PID of a process, a pidfd, and the address of its stack."""
    if process_madvise(-1, [(0, 0)], COLD) == -errno.ENOSYS:
        pytest.skip("process_madvise came with Linux 5.10")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, bufsize=0) as child:
        child.stdin.write(b"x")
        child.stdout.read(1)        # exec(2) is over
        fd = signals.pidfd_open(child.pid)
        yield child.pid, fd, memory.mapping_of(child.pid, "[stack]")[0]
        os.close(fd)


@pytest.mark.short
def test_stack_of_a_known_function(tracer, tmp_path):
    """With its caller, which a walk misses. First of those with a shared tool:
    later the map of stacks may have no room."""
    program = str(tmp_path / "stack")
    subprocess.check_call([
        "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o", program,
        os.path.join(TOP, "tests/workload/stack.c")])
    with subprocess.Popen([program, str(COUNT)],
                          stdin=subprocess.PIPE) as process:
        wait_until(lambda: len(own_rows(tracer.table(), process.pid)) >= COUNT)
    assert process.returncode == 0
    expected = ["known_function", "outer", "main"]
    if BPF.ksymname(b"bpf_task_pt_regs") == -1:         # Linux 5.15
        expected.remove("known_function")
    rows = own_rows(tracer.table(), process.pid)
    assert cells(rows, "ADVICE RET") == COUNT * [("DONTNEED", "0")]
    for row in rows:
        function, *callers = [re.sub(r"(\+0x\w+)? .*", "", frame)
                              for frame in row["STACK"].split(";")]
        assert function in ("madvise", "__madvise")
        assert callers[:len(expected)] == expected


@pytest.mark.short
def test_every_advice(tracer, pages):
    """Each that the kernel accepts, and a failing call of each kind."""
    accepted = [name for name in ADVICES if madvise(0, 0, ADVICES[name]) == 0]
    assert len(accepted) > 15
    expected = collections.Counter()
    with tracer.traced() as rows:
        calls = [(pages + 1, PAGE, "DONTNEED"), (PAGE, PAGE, "DONTNEED"),
                 (pages, PAGE, "99"), (pages, PAGE, "-1")]
        for name in accepted:
            calls.append((memory.map_memory(8 * PAGE), 0 if name in
                          memory.NOT_ON_REAL_PAGES else 8 * PAGE, name))
        for address, length, name in calls:
            for _ in range(COUNT):
                error = -madvise(address, length, NUMBERS[name])
                expected[name, "%x" % address, str(length),
                         errno.errorcode.get(error, "0"), "-"] += 1
    assert collections.Counter(cells(
        own_rows(rows), "ADVICE ADDR LEN RET TPID")) == expected
    assert {error for *_, error, _ in expected} >= {"0", "EINVAL", "ENOMEM"}


@pytest.mark.short
def test_process_madvise(tracer, other, pages):
    child, fd, stack = other
    ranges = [(stack, PAGE), (stack + 2 * PAGE, PAGE),
              (stack + 4 * PAGE, 2 * PAGE)]
    with tracer.traced() as rows:
        for _ in range(COUNT):
            assert process_madvise(fd, ranges, COLD) == 4 * PAGE
            assert process_madvise(-1, ranges, COLD) < 0
        signals.syscall("process_madvise", fd, None, 2, COLD, 0)
        assert process_madvise(fd, 1025 * ranges, COLD) < 0
        assert process_madvise(fd, ranges, COLD, from_file=True) == 4 * PAGE
        own = process_madvise(-10000, [(pages, PAGE)], COLD)
        madvise(pages, PAGE, COLD)
    where, target = "%x" % stack, str(child)
    first, advised = str(PAGE), str(4 * PAGE)
    with_self = first if own == PAGE else "EBADF"       # Linux 6.14
    assert collections.Counter(cells(
        own_rows(rows), "ADDR LEN RET TPID MAPPING")) == {
            (where, advised, advised, target, "[stack]"): COUNT + 1,
            (where, first, "EBADF", "?", "-"): COUNT,
            ("0", "0", "EFAULT", target, "-"): 1,
            (where, first, "EINVAL", target, "[stack]"): 1,
            ("%x" % pages, first, with_self, ME, "anon"): 1,
            ("%x" % pages, first, "0", "-", "anon"): 1}


def test_mapping(tracer, pages):
    with open(PYTHON, "rb") as file:
        text = memory.map_memory(PAGE, file.fileno())
    with tempfile.NamedTemporaryFile(suffix='a,"%s\r\xff') as file:
        file.write(bytes(PAGE))
        file.flush()
        odd = memory.map_memory(PAGE, file.fileno())
    heap, _ = memory.mapping_of(os.getpid(), "[heap]")
    shown = {text: os.path.realpath(PYTHON), heap: "[heap]", pages: "anon",
             PAGE: "-",
             odd: file.name.replace("\r", "?") + " (deleted)"}
    with tracer.traced() as rows:
        for address in shown:
            madvise(address, 0, RANDOM)
    assert [row["MAPPING"] for row in own_rows(rows)] == list(shown.values())


def dontneed(address, length):
    """Give memory back. Return the us that its caller sees."""
    ctypes.memset(address, 1, length)
    begin = time.perf_counter()
    madvise(address, length, DONTNEED)
    return (time.perf_counter() - begin) * 1e6


def test_summary(probe, other, pages):
    _, fd, stack = other
    with Tool("madvsnoop", *probe, "-Sjp", ME) as tool:
        times = [dontneed(pages, LARGE)]
        for _ in range(COUNT):
            times.append(dontneed(pages, 3 * PAGE))
            times.append(dontneed(pages + 1, PAGE))
            madvise(pages, PAGE, COLD)
            process_madvise(fd, [(stack, PAGE)], COLD)
    table = tool.table()
    assert sorted(cells(table, "ADVICE CALLS FAILED LEN")) == [
        ("COLD", str(2 * COUNT), "0", str(2 * COUNT * PAGE)),
        ("DONTNEED", str(2 * COUNT + 1), str(COUNT),
         str(3 * PAGE * COUNT + LARGE))]
    totals = [float(row["TOTAL(ms)"]) for row in table]
    assert totals == sorted(totals, reverse=True)
    for row in table:
        average = float(row["TOTAL(ms)"]) * 1000 / int(row["CALLS"])
        assert 0 < average <= float(row["MAX-EVER"])
        assert abs(float(row["AVG(us)"]) - average) < 0.1
        if row["ADVICE"] == "DONTNEED":     # the first call is the longest
            assert times[0] / 50 < float(row["MAX-EVER"]) <= max(times)


def summed(tool, title="ADVICE"):
    """Return the calls in the tables of -S, by the values of a column, and
    those in the histograms of -H, by advice."""
    sums, histograms = collections.Counter(), collections.Counter()
    for line in tool.lines():
        values = line.split()
        if line.startswith("PID "):
            titles = values
        elif line.startswith("advice = "):
            advice = values[2]
        elif re.match(r"\d+ +\D", line):
            row = dict(zip(titles, values))
            sums[row[title]] += int(row["CALLS"])
        elif re.fullmatch(r" *\d+ -> \d+ +: \d+ +\|\** *\|", line):
            histograms[advice] += int(values[4])
    return sums, histograms


def test_sums_are_exact(probe):
    """Of more processes than CPUs, printed every 50 ms. All add to the same
    sums in the histograms."""
    count, processes = 20011, 2 * os.cpu_count() + 1
    with concurrent.futures.ThreadPoolExecutor(processes) as parents, \
            Tool("madvsnoop", *probe, "-SH", *ACTS, "0.001") as tool:
        children = list(parents.map(
            lambda _: in_child(list, map(act, range(count))),
            range(10 * processes)))
    sums, histograms = summed(tool, "PID")
    assert histograms["RANDOM"] == sum(sums.values())
    missing = [count - sums[str(pid)] for pid, _ in children]
    skipped = re.findall(r"skipped by the kernel: (\d+);", tool.stderr)
    assert sum(missing) <= tool.lost + sum(map(int, skipped))
    assert min(missing) >= 0
    assert not any(status for _, status in children)


def test_default_output(pages, other):
    """Byte for byte."""
    child, fd, _ = other
    width = len(str(signals.no_process() - 1))
    lengths = {0: "0", 1023: "1023", 1024: "1K", 1536: "1.5K",
               102399: "99.9K", 1048575: "1023K", 5 << 29: "2.5G", 2**63: "8E"}
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
            ("COLD", pages + 1, "4K", "EINVAL", child)] + [
            ("99", 0, length, "EINVAL", "-") for length in lengths.values()])]
    assert tool.stderr == ""


def test_all_columns(pages):
    """Also the latency, and that calls shorter than -m asks are not shown."""
    with Tool("madvsnoop", "-TvMUp", ME, "-m", "20") as tool:
        times = [time.time()]
        seen = dontneed(pages, LARGE)
        times.append(time.time())
        act()
    row, *frames = tool.table()
    assert tool.header.split() == list(row) == (
        "TIME PID TID COMM ADVICE ADDR LEN LAT(us) RET TPID MAPPING").split()
    assert cells([row], "PID TID ADVICE ADDR LEN RET TPID MAPPING") == [
        (ME, ME, "DONTNEED", "%x" % pages, "16M", "0", "-", "anon")]
    assert row["TIME"] in [time.strftime("%H:%M:%S", time.localtime(second))
                           for second in times]
    assert max(20, seen / 5) < float(row["LAT(us)"]) <= seen
    assert re.match(r"    (sys|__)?\w+\+0x\w+ \[libc", tool.rows[1])
    assert all(re.match(r"    \S", row) for row in tool.rows[1:])
    assert len(frames) > 1


Row = collections.namedtuple("Row", "TID COMM ADVICE RET")
FILTERS = {
    "-v -x": lambda row: row.RET != "0",
    "-v -t self": lambda row: row.TID == ME,
    "-v -a 4,hugepage,MADV_COLD,99,-1": lambda row: row.ADVICE in (
        "DONTNEED", "HUGEPAGE", "COLD", "99", "-1"),
    "-v -n madv-te": lambda row: "madv-te" in row.COMM,
    '-v -n ";t': lambda row: '";t' in row.COMM,
    "-v -n \u00e9_9": lambda row: "\u00e9_9" in row.COMM,
    "-SH": lambda row: True,
    "-SH -x -n e -a 1,4,99": lambda row: row.RET != "0" and (
        "e" in row.COMM and row.ADVICE in ("RANDOM", "DONTNEED", "99"))}


def act_as(comm, *advices):
    """Give advice under a name. Return the rows."""
    with odd_name(comm.encode()):
        return [Row(str(threading.get_native_id()), comm, advice,
                    errno.errorcode.get(-madvise(0, 0, NUMBERS[advice]), "0"))
                for advice in advices]


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options):
    """Of rows, or of sums and histograms."""
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        worker.submit(int).result()     # a thread's start and end can advise
        with Tool("madvsnoop", "-p", ME,
                  *options.replace("self", ME).split()) as tool:
            made = act_as("main", "RANDOM", "DONTNEED", "HUGEPAGE", "COLD",
                          "99", "-1", "98")
            for name in ("madv-tester", "adv-tester", 'madv-";t',
                         "0123456789a\u00e9_9", "0123456789a\u00e9_"):
                made += act_as(name, "RANDOM")
            made += worker.submit(act_as, "worker", "RANDOM", "98",
                                  "99").result()
            in_child(act)
    expected = list(filter(FILTERS[options], made))
    if "-v" in options:
        assert cells(tool.table(), "TID COMM ADVICE RET") == expected
    else:
        calls = collections.Counter(row.ADVICE for row in expected)
        assert summed(tool) == (calls, calls)


def test_mappings_are_read_once_a_batch():
    """Of up to 10,000 events. Each has what was mapped then."""
    with tempfile.NamedTemporaryFile("r") as log:
        with Tool("madvsnoop", "-M", *ACTS, prefix=[
                "strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=openat",
                "-o", log.name]) as tool:
            process = burst("madvsnoop", 30000)
            assert process.wait(60) == 0
        reads = sum('"/proc/%d/maps"' % process.pid in line for line in log)
    assert len(own_rows(tool.table(), process.pid)) == 30000
    assert 1 < reads < 300


def test_intervals():
    """Five of 0.5 s. Stopped for all of them, it prints none in a hurry."""
    tool = Tool("madvsnoop", "-SHTp", ME, "0.5", "5").start()
    tool.send(signal.SIGSTOP)
    time.sleep(2.5)
    begin = time.monotonic()
    tool.send(signal.SIGCONT)
    for total in COUNT, 2 * COUNT:
        for _ in range(COUNT):
            act()
        calls = {"RANDOM": total}
        wait_until(lambda: summed(tool) == (calls, calls))
    assert tool.process.wait(60) == 0
    assert time.monotonic() - begin > 1.2
    assert tool.header == "Tracing madvise calls... Hit Ctrl-C to end."
    assert summed(tool) == (calls, calls)
    for beginning in "PID +COMM ", r"\d\d:\d\d:\d\d$":
        assert sum(bool(re.match(beginning, row)) for row in tool.rows) == 5
    assert max(map(len, tool.rows)) <= 80


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
def test_summary_names_the_process(cell):
    """Not the thread that called first, except if the process has ended."""
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    with Tool("madvsnoop", "-S", "--probe", cell[10:], *ACTS) as tool:
        act_as("some-thread", "RANDOM")
        in_child(act_as, "a\r99", "RANDOM")
    assert summed(tool, "COMM")[0] == {comm: 1, "a?99": 1}


def test_full_table_is_reported():
    """There is room for 10240 pairs of process and advice."""
    with Tool("madvsnoop", "-Sjp", ME) as tool:
        for advice in range(1000, 12000):
            madvise(0, 0, advice)
    shown = sum(int(row["CALLS"]) for row in tool.table())
    assert shown <= 10240
    assert shown + tool.lost == 11000
