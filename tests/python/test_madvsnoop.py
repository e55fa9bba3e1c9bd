"""madvsnoop: known advice, exact rows and sums."""

import collections
import concurrent.futures
import ctypes
import datetime
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

from common import (COUNT, PYTHON, TOP, Tool, burst, cells, in_child, mounted,
                    odd_name, own_rows, run, wait_until)
from memory import (ADVICES, NOT_ON_REAL_PAGES, PAGE, act, madvise, map_memory,
                    mapping_of, process_madvise)
import signals
from test_common import check_refusal

ME = str(os.getpid())
STACK = "stack" + ME    # a name that no other suite has
LARGE = 16 << 20
FROM_5_12 = b"bpf_skb_check_mtu"        # as old as atomic operations in BPF
PAGES = map_memory(LARGE)


@pytest.fixture
def other(target):
    """Return the PID of a process, a pidfd, and the address of its stack."""
    if process_madvise(-1, [(0, 0)], "COLD") == -errno.ENOSYS:
        pytest.skip("process_madvise came with Linux 5.10")
    fd = signals.pidfd_open(target.pid)
    yield target.pid, fd, mapping_of(target.pid, "[stack]")[0]
    os.close(fd)


@pytest.fixture(scope="session")
def start_stack(tmp_path_factory):
    """Return a function that starts workload/stack.c, by mode and count."""
    program = str(tmp_path_factory.mktemp("stack") / STACK)
    subprocess.check_call([
        "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o", program,
        os.path.join(TOP, "tests/workload/stack.c")])
    return lambda mode, count: subprocess.Popen(
        [program, mode, str(count)], stdin=subprocess.PIPE)


@pytest.mark.short
def test_stack_of_a_known_function(tracer, start_stack):
    """With its caller, which a walk misses, and no other."""
    expected = ["known_function", "outer", "main"]
    if BPF.ksymname(b"bpf_task_pt_regs") == -1:     # Linux 5.15
        expected.remove("known_function")
    for mode in "same", "pushed":
        with start_stack(mode, COUNT) as process:
            wait_until(lambda: len(own_rows(
                tracer.table(), process.pid)) >= COUNT)
        assert process.returncode == 0
        rows = own_rows(tracer.table(), process.pid)
        assert cells(rows, "ADVICE RET") == COUNT * [("DONTNEED", "0")]
        for row in rows:
            first, *callers = re.findall(r"(?:^|;)(\w+)", row["STACK"])
            if mode == "pushed":
                assert first == "pushed"
                assert "never_called" not in callers
            else:
                assert first in ("madvise", "__madvise")
                assert callers[:len(expected)] == expected


@pytest.mark.parametrize("options, mode, count", [
    ("-jUa DONTNEED", "distinct", 40000),
    ("-Sja DONTNEED 0.5", "processes", 14000)])
def test_memory_does_not_grow(options, mode, count, start_stack):
    """None of 40,000 stacks, or of more processes than have room, is lost."""
    sizes = []
    with Tool("madvsnoop", *options.split()) as tool:
        for _ in range(2):
            before = len(tool.rows)
            with start_stack(mode, count):
                wait_until(lambda: len(tool.rows) >= before + count, 120)
            with open("/proc/%d/status" % tool.process.pid) as f:
                sizes.append(int(re.search(r"RssAnon:\s*(\d+)", f.read())[1]))
        assert tool.lost == 0
    rows = [row for row in tool.table() if row["COMM"] == STACK]
    assert len(rows) == 2 * count
    if mode == "distinct":
        assert len({row["STACK"] for row in rows[count:]}) == count
        assert all(row["STACK"] != "[unknown]" for row in rows)
    else:
        assert {row["CALLS"] for row in rows} == {"1"}
    assert sizes[1] - sizes[0] < 2000


def iso_time():
    """Return the time now as CSV has it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


@pytest.mark.short
def test_every_call(tracer, other):
    """Each advice that the kernel accepts, each error, mapping, and target."""
    child, fd, stack = other
    ranges = [(stack, PAGE), (stack + 2 * PAGE, PAGE),
              (stack + 4 * PAGE, 2 * PAGE)]
    calls = [(name, map_memory(8 * PAGE), "anon",
              0 if name in NOT_ON_REAL_PAGES else 8 * PAGE)
             for name in ADVICES if madvise(0, 0, name) == 0]
    assert len(calls) > 15
    calls += [("RANDOM", mapping_of(os.getpid(), name)[0], name, 0)
              for name in ("[heap]", os.path.realpath(PYTHON))]
    with tempfile.NamedTemporaryFile(suffix='a,"%s\r\xff') as file:
        calls.append(("RANDOM", map_memory(PAGE, file.fileno()),
                      file.name.replace("\r", "?") + " (deleted)", 0))
    calls += [("DONTNEED", PAGES + 1, "anon", PAGE), ("99", 0, "-", PAGE),
              ("-1", PAGES, "anon", PAGE), ("DONTNEED", PAGE, "-", PAGE)]
    begin, expected = iso_time(), []
    with tracer.traced() as rows:
        for advice, address, name, length in calls * COUNT:
            error = errno.errorcode.get(-madvise(address, length, advice), 0)
            expected.append((advice, address, length, error, "-", name))
        for _ in range(COUNT):
            assert process_madvise(fd, ranges, "COLD") == 4 * PAGE
            assert process_madvise(-1, ranges, "COLD") < 0
        signals.syscall("process_madvise", fd, None, 2, ADVICES["COLD"], 0)
        assert process_madvise(fd, 1025 * ranges, "COLD") < 0
        assert process_madvise(fd, ranges, "COLD", from_file=True) == 4 * PAGE
        own = process_madvise(-10000, [(PAGES, PAGE)], "COLD")
    rows = own_rows(rows)
    assert all(begin <= row["TIME"] <= iso_time() for row in rows)
    assert {call[3] for call in expected} >= {0, "EINVAL", "ENOMEM"}
    own = PAGE if own == PAGE else "EBADF"      # Linux 6.14
    good = "COLD", stack, 4 * PAGE, 4 * PAGE, child, "[stack]"
    expected += COUNT * [good, ("COLD", stack, PAGE, "EBADF", "?", "-")]
    expected += [("COLD", 0, 0, "EFAULT", child, "-"),
                 ("COLD", stack, PAGE, "EINVAL", child, "[stack]"),
                 good, ("COLD", PAGES, PAGE, own, ME, "anon")]
    assert cells(rows, "ADVICE ADDR LEN RET TPID MAPPING") == [
        (advice, "%x" % address, *map(str, results))
        for advice, address, *results in expected]


def dontneed(address, length):
    """Give memory back. Return the us that its caller sees."""
    ctypes.memset(address, 1, length)
    begin = time.perf_counter()
    madvise(address, length, "DONTNEED")
    return (time.perf_counter() - begin) * 1e6


def test_summary(probe, other):
    _, fd, stack = other
    begin, cpus, times = iso_time(), os.sched_getaffinity(0), []
    with Tool("madvsnoop", *probe, "-SjTp", ME) as tool:
        for cpu in cpus:        # the longest of all, not the sum
            os.sched_setaffinity(0, [cpu])
            times.append(dontneed(PAGES, LARGE))
        os.sched_setaffinity(0, cpus)
        for _ in range(COUNT):
            times.append(dontneed(PAGES, 3 * PAGE))
            times.append(dontneed(PAGES + 1, PAGE))
            madvise(PAGES, PAGE, "COLD")
            process_madvise(fd, [(stack, PAGE)], "COLD")
        madvise(PAGE, PAGE, "DONTNEED")
    table = tool.table()
    assert all(begin <= row["TIME"] <= iso_time() for row in table)
    assert sorted(cells(table, "ADVICE CALLS FAILED ERROR LEN")) == [
        ("COLD", str(2 * COUNT), "0", "-", str(2 * COUNT * PAGE)),
        ("DONTNEED", str(2 * COUNT + 1 + len(cpus)), str(COUNT + 1), "ENOMEM",
         str(3 * PAGE * COUNT + LARGE * len(cpus)))]
    totals = [float(row["TOTAL(ms)"]) for row in table]
    assert totals == sorted(totals, reverse=True)
    for row in table:
        average = float(row["TOTAL(ms)"]) * 1000 / int(row["CALLS"])
        assert 0 < average <= float(row["MAX-EVER"])
        assert abs(float(row["AVG(us)"]) - average) < 0.1
        if row["ADVICE"] == "DONTNEED":
            assert times[0] / 50 < float(row["MAX-EVER"]) <= max(times)


def summed(tool, column=2):
    """Return the calls in the tables of -S, by PID, COMM or ADVICE, and those
    in the histograms of -H, by advice."""
    sums, histograms = collections.Counter(), collections.Counter()
    for line in tool.lines():
        values = line.split()
        if line.startswith("advice = "):
            advice = values[2]
        elif re.match(r"\d+ +\D", line):
            sums[values[column]] += int(values[3])
        elif re.fullmatch(r" *\d+ -> \d+ +: \d+ +\|\** *\|", line):
            histograms[advice] += int(values[4])
    return sums, histograms


def test_sums_are_exact(probe):
    """Of more processes than CPUs, printed every 50 ms. All add to the same
    sums in the histograms. The advice is one that nobody else gives."""
    count, processes = 20011, 2 * os.cpu_count() + 1
    advice = 10**6 + os.getpid()

    def give_advice():
        for _ in range(count):
            madvise(0, PAGE, advice)
    with concurrent.futures.ThreadPoolExecutor(processes) as parents, \
            Tool("madvsnoop", *probe, "-SH", "-a", advice, "0.001") as tool:
        children = list(parents.map(lambda _: in_child(give_advice),
                                    range(10 * processes)))
    sums, histograms = summed(tool, 0)
    assert histograms[str(advice)] == sum(sums.values())
    missing = [count - sums[str(pid)] for pid, _ in children]
    skipped = re.findall(r"skipped by the kernel: (\d+);", tool.stderr)
    assert sum(missing) <= tool.lost + sum(map(int, skipped))
    assert min(missing) >= 0


def test_default_output(other):
    """Byte for byte."""
    child, fd, _ = other
    lengths = {0: "0", 1023: "1023", 1024: "1K", 1536: "1.5K",
               102399: "99.9K", 1048575: "1023K", 1 << 20: "1M",
               5 << 29: "2.5G", 2**63: "8E"}
    with odd_name(15 * b"9"), Tool("madvsnoop", "-p", ME) as tool:
        madvise(PAGES, PAGE, "DONTNEED")
        madvise(PAGES + 1, 1023 << 20, "DONTNEED_LOCKED")
        process_madvise(fd, [(PAGES + 1, PAGE)], "COLD")
        for length in lengths:
            madvise(0, length, 99)
    form = "%%-%ds %%-15s %%-13s %%-12s %%5s %%7s %%-6s %%s" % len(
        str(signals.no_process() - 1))
    assert tool.header == form % ("PID", "COMM", "ADVICE", "ADDR", "LEN",
                                  "LAT(us)", "RET", "TPID")
    latencies = [row["LAT(us)"] for row in tool.table()]
    assert all(re.fullmatch(r"\d+\.\d", latency) for latency in latencies)
    expected = [("DONTNEED", PAGES, "4K", "0", "-"),
                ("DONTNEED_LOCKED", PAGES + 1, "1023M", "EINVAL", "-"),
                ("COLD", PAGES + 1, "4K", "EINVAL", child)] + [
        ("99", 0, length, "EINVAL", "-") for length in lengths.values()]
    assert tool.rows == [
        form % (ME, 15 * "9", advice, "%x" % address, length, lat, *results)
        for lat, (advice, address, length, *results) in zip(
            latencies, expected)]
    assert tool.stderr == ""


def test_all_columns():
    """Also the latency, and that calls shorter than -m asks are not shown."""
    with Tool("madvsnoop", "-TvMUp", ME, "-m", "20") as tool:
        times = [time.strftime("%H:%M:%S")]
        seen = dontneed(PAGES, LARGE)
        times.append(time.strftime("%H:%M:%S"))
        act()
    row, *frames = tool.table()
    assert tool.header.split() == list(row) == (
        "TIME PID TID COMM ADVICE ADDR LEN LAT(us) RET TPID MAPPING").split()
    assert cells([row], "PID TID ADVICE ADDR LEN RET TPID MAPPING") == [
        (ME, ME, "DONTNEED", "%x" % PAGES, "16M", "0", "-", "anon")]
    assert row["TIME"] in times
    assert max(20, seen / 5) < float(row["LAT(us)"]) <= seen
    assert re.match(r"    (sys|__)?\w+\+0x\w+ \[libc", tool.rows[1])
    assert all(re.match(r"    \S", row) for row in tool.rows[1:])
    assert len(frames) > 1
    assert " MIN_NS 250\n" in run("madvsnoop", "--ebpf", "-m", "0.25").stdout


NAME = '9";\u00e9'
Row = collections.namedtuple("Row", "TID COMM ADVICE RET")
FILTERS = {
    "-v -a 4,hugepage,MADV_COLD,99,-1": lambda row: row.ADVICE in (
        "DONTNEED", "HUGEPAGE", "COLD", "99", "-1"),
    "-v -x -n " + NAME: lambda row: row.RET != "0" and NAME in row.COMM,
    "-SH -x": lambda row: row.RET != "0"}


def act_as(comm, *advices):
    """Give advice under a name. Return the rows."""
    with odd_name(comm.encode()):
        return [Row(str(threading.get_native_id()), comm, advice,
                    errno.errorcode.get(-madvise(0, 0, advice), "0"))
                for advice in advices]


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options):
    """Of rows, or of sums and histograms."""
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        worker.submit(int).result()     # a thread's start and end can advise
        with Tool("madvsnoop", "-p", ME, *options.split()) as tool:
            made = act_as("main", "RANDOM", "DONTNEED", "HUGEPAGE", "COLD",
                          "99", "-1", "98")
            for name in NAME + "9", "0123456789" + NAME, NAME[:-1], NAME[1:]:
                made += act_as(name, "RANDOM", "99")
            made += worker.submit(act_as, "worker", "RANDOM", "99").result()
            in_child(act)
    expected = list(filter(FILTERS[options], made))
    if "-v" in options:
        assert cells(tool.table(), "TID COMM ADVICE RET") == expected
    else:
        calls = collections.Counter(row.ADVICE for row in expected)
        assert summed(tool) == (calls, calls)


def test_mappings_are_read_once_a_batch(tmp_path):
    """Of up to 10,000 events. Each has what was mapped then."""
    log = tmp_path / "log"
    with Tool("madvsnoop", "-Ma1", prefix=[
            "strace", "-Df", "--seccomp-bpf", "-e", "trace=openat", "-o",
            str(log)]) as tool:
        process = burst("madvsnoop", 30000)
        assert process.wait(60) == 0
    assert len(own_rows(tool.table(), process.pid)) == 30000
    assert 1 < log.read_text().count('"/proc/%d/maps"' % process.pid) < 300


def test_intervals():
    """Five of 0.5 s. Stopped for all of them, it prints none in a hurry."""
    tool = Tool("madvsnoop", "0.5", "-SHTp", ME, "5").start()
    tool.send(signal.SIGSTOP)
    time.sleep(2.5)
    begin = time.monotonic()
    tool.send(signal.SIGCONT)
    for _ in range(COUNT):
        act()
    assert tool.process.wait(60) == 0
    assert time.monotonic() - begin > 1.2
    assert tool.header == "Tracing madvise calls... Hit Ctrl-C to end."
    assert summed(tool) == ({"RANDOM": COUNT}, {"RANDOM": COUNT})
    for beginning in "PID +COMM +ADVICE +CALLS ", r"\d\d:\d\d:\d\d$":
        assert sum(bool(re.match(beginning, row)) for row in tool.rows) == 5
    assert max(map(len, tool.rows)) <= 80


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
def test_summary_names_the_process(cell):
    """Not the thread that called first, except if the process has ended."""
    with odd_name(b"process9"), Tool(
            "madvsnoop", "-S", "-n9", "--probe", cell[10:], "-a1") as tool:
        act_as("some-thread", "RANDOM")
        for name in "a\r99", "child":
            in_child(act_as, name, "RANDOM")
    assert summed(tool, 1)[0] == {"process9": 1, "a?99": 1}


def test_full_table_is_reported():
    """There is room for 10240 pairs of process and advice. -d ends it."""
    tool = Tool("madvsnoop", "-Sjp", ME, "-d", "3", "1000").start()
    for advice in range(1000, 12000):
        madvise(0, 0, advice)
    assert tool.process.wait(60) == 0
    shown = sum(int(row["CALLS"]) for row in tool.table())
    assert shown <= 10240
    assert shown + tool.lost == 11000


def refused(option, release, symbol):
    """Return whether the kernel lacks what an option requires, and whether the
    tool says so."""
    if BPF.ksymname(symbol) != -1:
        return False
    check_refusal(run("madvsnoop", "-S", option),
                  option + " requires ", "Linux " + release)
    return True


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
def test_lock_wait(cell):
    """A call's wait for mmap_lock is a part of its latency: most of it beside
    a thread that holds the lock, little if no other does."""
    if refused("-L", "5.11", b"__traceiter_mmap_lock_start_locking"):
        return
    done = threading.Event()

    def hold_lock():
        while not done.wait(0):
            address = ctypes.c_void_p(map_memory(64 << 20, populate=True))
            signals.libc.munmap(address, ctypes.c_size_t(64 << 20))

    def toggle(pause):
        for i in range(101):
            madvise(PAGES, PAGE, ["RANDOM", "SEQUENTIAL"][i % 2])
            time.sleep(pause)
    options = ["-jLp", ME, "-a1,2", "--probe", cell[10:]]
    with Tool("madvsnoop", *options) as tool, \
            Tool("madvsnoop", *options, "-S") as summary, \
            concurrent.futures.ThreadPoolExecutor(1) as thread:
        toggle(0)
        thread.submit(hold_lock)
        try:
            toggle(0.005)
        finally:
            done.set()
    times = [(float(row["LAT(us)"]), float(row["LOCK(us)"]))
             for row in tool.table()]
    assert len(times) == 202
    assert all(0 < lock <= latency for latency, lock in times)
    assert sorted(lock / latency for latency, lock in times[:101])[50] < 1 / 3
    latencies, locks = map(sum, zip(*times[101:]))
    assert locks > latencies / 2
    for row in summary.table():
        assert 0 < float(row["LOCK(us)"]) <= float(row["AVG(us)"])


def touch(address, count):
    ctypes.memset(address, 1, count * PAGE)


def give_back_and_touch():
    """Do what test_refaults counts. The page numbers are odd: a block of the
    tool is 64 pages, of 64 times their size."""
    pages = map_memory(4096 * PAGE)

    def advise(first, length, advice, touched=4096):
        madvise(pages + first * PAGE, length, advice)
        touch(pages, touched)
    advise(0, 4096 * PAGE, "NOHUGEPAGE")                # 0
    advise(0, 0, -2**31)                                # 0
    advise(5, 101 * PAGE - 123, "DONTNEED", 42)         # 37
    touch(pages, 42)                                    # 0
    advise(5, 100 * PAGE + 1, "DONTNEED")               # 101
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        advise(61, 1009 * PAGE, "DONTNEED", 0)
        list(threads.map(touch, [pages] * 2, [4096] * 2))       # 1009
        advise(3000, 211 * PAGE, "DONTNEED", 0)
        advise(1001, 17 * PAGE, "PAGEOUT", 0)   # fork: faults without swap
        in_child(touch, pages, 4096)                    # 0
        threads.submit(touch, pages, 3100).result()     # 100, 17
    advise(63, 2 * PAGE, "FREE", 3000)                  # 0
    advise(63, PAGE, "FREE", 0)
    advise(63, PAGE, "DONTNEED", 3000)                  # 1
    where, size = ctypes.c_void_p(pages), ctypes.c_size_t(99 * PAGE)
    assert signals.libc.mlock(where, size) == 0
    advise(60, 13 * PAGE, "DONTNEED_LOCKED", 3000)      # 13
    file = os.memfd_create("pages")
    os.ftruncate(file, 64 * PAGE)
    pages = map_memory(64 * PAGE, file, shared=True)
    touch(pages, 64)
    advise(3, 11 * PAGE, "REMOVE", 64)                  # 11


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
@pytest.mark.parametrize("hide", [[], mounted(      # perf event, as on arm64
    "sed /__traceiter_page_fault_user/d /proc/kallsyms > /run/symbols; "
    "mount --bind /run/symbols /proc/kallsyms; rm /run/symbols")])
def test_refaults(cell, hide):
    if refused("-R", "5.12", FROM_5_12):
        return
    with Tool("madvsnoop", "-SRj", "--probe", cell[10:], prefix=hide) as tool:
        child, status = in_child(give_back_and_touch)
        assert status == 0
    has_locked = madvise(0, 0, "DONTNEED_LOCKED") == 0  # Linux 5.18
    expected = {"DONTNEED": 37 + 101 + 1009 + 100 + 1, "REMOVE": 11, "FREE": 0,
                "NOHUGEPAGE": 0, "-2147483648": 0, "PAGEOUT": 17,
                "DONTNEED_LOCKED": 13 * has_locked}
    counted = {row["ADVICE"]: int(row["REFAULTS"])
               for row in own_rows(tool.table(), child)}
    assert {advice: counted[advice] for advice in expected} == expected
    assert tool.lost == 0


def test_refaults_without_room():
    """What does not fit is reported, and there is room again when the process
    has ended."""
    if refused("-R", "5.12", FROM_5_12):
        return
    large, small = 65536 * PAGE, map_memory(2 * PAGE)   # large: 1024 blocks
    address = map_memory(69 * large, protection=0)
    with Tool("madvsnoop", "-SRj", "-a", "DONTNEED", "1") as tool:
        assert madvise(address + PAGE, large + 64 * PAGE, "DONTNEED") == 0
        wait_until(lambda: tool.lost == 1)
        in_child(lambda: [madvise(address + i * large, large, "DONTNEED")
                          for i in range(69)])
        wait_until(lambda: tool.lost > 69 * 1024 - 65536)
        time.sleep(2)
        lost = tool.lost
        touch(small, 2)
        madvise(small, 2 * PAGE, "DONTNEED")
        touch(small, 2)
        wait_until(lambda: len(own_rows(tool.table())) >= 2)
    assert sum(int(row["REFAULTS"]) for row in own_rows(tool.table())) == 2
    assert tool.lost == lost


def test_other_pid_namespace(other):
    """/proc has other processes there: nothing of them is shown."""
    _, fd, stack = other
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for option in "-M", "-U":
        done = run("madvsnoop", option, prefix=prefix)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch("madvsnoop.py: .*--pid=host\n", done.stderr)
    tool = Tool("madvsnoop", "-a", "COLD", prefix=prefix).start()
    process_madvise(fd, [(stack, PAGE)], "COLD")
    wait_until(lambda: own_rows(tool.table()))
    assert cells(own_rows(tool.table()), "ADVICE RET TPID") == [
        ("COLD", "4K", "?")]
    assert re.fullmatch("madvsnoop.py: TPID .*--pid=host\n", tool.stderr)
    tool.process.kill()
