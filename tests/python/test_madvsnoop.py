"""madvsnoop: known advice, exact rows and sums."""

import collections
import concurrent.futures
import contextlib
import ctypes
import datetime
import errno
import os
import pathlib
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
import memory
from memory import ADVICES, PAGE, act, madvise, process_madvise
import signals

COLD, DONTNEED, RANDOM = map(ADVICES.get, ["COLD", "DONTNEED", "RANDOM"])
NUMBERS = dict(ADVICES, **{"98": 98, "99": 99, "-1": -1})
ME = str(os.getpid())
ACTS = ["-a", "RANDOM"]
LARGE = 16 << 20
FROM_5_12 = b"bpf_skb_check_mtu"        # as old as atomic operations in BPF


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


@pytest.fixture(scope="session")
def stack_program(tmp_path_factory):
    """Return a command: workload/stack.c."""
    program = str(tmp_path_factory.mktemp("stack") / "stack")
    subprocess.check_call([
        "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o", program,
        os.path.join(TOP, "tests/workload/stack.c")])
    return program


def functions(row):
    """Return the names in a row's stack, without offsets and modules."""
    return [re.sub(r"(\+0x\w+)? .*", "", frame)
            for frame in row["STACK"].split(";")]


@pytest.mark.short
def test_stack_of_a_known_function(tracer, stack_program):
    """With its caller, which a walk misses, and no other."""
    for mode in "same", "pushed":
        with subprocess.Popen([stack_program, mode, str(COUNT)],
                              stdin=subprocess.PIPE) as process:
            wait_until(lambda: len(own_rows(
                tracer.table(), process.pid)) >= COUNT)
        assert process.returncode == 0
        rows = own_rows(tracer.table(), process.pid)
        assert cells(rows, "ADVICE RET") == COUNT * [("DONTNEED", "0")]
        expected = ["known_function", "outer", "main"]
        if BPF.ksymname(b"bpf_task_pt_regs") == -1:     # Linux 5.15
            expected.remove("known_function")
        for row in rows:
            first, *callers = functions(row)
            if mode == "pushed":
                assert first == "pushed"
                assert "never_called" not in callers
            else:
                assert first in ("madvise", "__madvise")
                assert callers[:len(expected)] == expected


def resident(tool):
    """Return the kB that are resident, without the shared buffer."""
    status = pathlib.Path("/proc/%d/status" % tool.process.pid).read_text()
    return int(re.search(r"RssAnon:\s*(\d+)", status)[1])


def test_distinct_stacks(stack_program):
    """40,000: none is missed, and memory does not grow with their number."""
    sizes, stacks = [], set()
    with Tool("madvsnoop", "-jUa", "DONTNEED") as tool:
        for _ in range(3):
            before = len(tool.rows)
            with subprocess.Popen([stack_program, "distinct", "40000"],
                                  stdin=subprocess.PIPE) as process:
                wait_until(lambda: len(tool.rows) >= before + 40000)
            sizes.append(resident(tool))
        assert tool.lost == 0
        rows = own_rows(tool.table(), process.pid)
    for row in rows:
        assert functions(row)[-1] != "[unknown]"
        stacks.add(row["STACK"])
    assert len(rows) == len(stacks) == 40000
    assert sizes[2] - sizes[1] < 2000


def test_short_lived_processes(stack_program):
    """14,000 call once, more than the sums have room for. Memory does not grow
    with their number, and their entries in the kernel are deleted."""
    with Tool("madvsnoop", "-Sja", "DONTNEED", "0.5") as tool:
        sizes = []
        for _ in range(2):
            with subprocess.Popen([stack_program, "processes", "14000"],
                                  stdin=subprocess.PIPE) as process:
                process.communicate(b"\n", timeout=120)
            sizes.append(resident(tool))
        wait_until(lambda: sum(
            row["COMM"] == "stack" for row in tool.table()) >= 28000)
        assert tool.lost == 0
    rows = [row for row in tool.table() if row["COMM"] == "stack"]
    assert sum(int(row["CALLS"]) for row in rows) == 28000
    assert sizes[1] - sizes[0] < 2000


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
    cpus, times = os.sched_getaffinity(0), []
    with Tool("madvsnoop", *probe, "-Sjp", ME) as tool:
        for cpu in cpus:        # the longest of all, not the sum
            os.sched_setaffinity(0, [cpu])
            times.append(dontneed(pages, LARGE))
        os.sched_setaffinity(0, cpus)
        for _ in range(COUNT):
            times.append(dontneed(pages, 3 * PAGE))
            times.append(dontneed(pages + 1, PAGE))
            madvise(pages, PAGE, COLD)
            process_madvise(fd, [(stack, PAGE)], COLD)
        madvise(PAGE, PAGE, DONTNEED)
    table = tool.table()
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
    sums, histograms = summed(tool, "PID")
    assert histograms[str(advice)] == sum(sums.values())
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
               102399: "99.9K", 1048575: "1023K", 1 << 20: "1M",
               5 << 29: "2.5G", 2**63: "8E"}
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
    "-v -a 4,hugepage,MADV_COLD,99,-1": lambda row: row.ADVICE in (
        "DONTNEED", "HUGEPAGE", "COLD", "99", "-1"),
    "-v -n madv-te": lambda row: "madv-te" in row.COMM,
    '-v -n ";t': lambda row: '";t' in row.COMM,
    "-v -n \u00e9_9": lambda row: "\u00e9_9" in row.COMM,
    "-SH": lambda row: True,
    "-SH -x -a 1,4,99": lambda row: row.RET != "0" and (
        row.ADVICE in ("RANDOM", "DONTNEED", "99"))}


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
        with Tool("madvsnoop", "-p", ME, *options.split()) as tool:
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
    for only, expected in ([], {comm: 1, "a?99": 1}), (["-n9"], {"a?99": 1}):
        with Tool("madvsnoop", "-S", "--probe", cell[10:], *only,
                  *ACTS) as tool:
            act_as("some-thread", "RANDOM")
            in_child(act_as, "a\r99", "RANDOM")
        assert summed(tool, "COMM")[0] == expected


def test_full_table_is_reported():
    """There is room for 10240 pairs of process and advice."""
    with Tool("madvsnoop", "-Sjp", ME) as tool:
        for advice in range(1000, 12000):
            madvise(0, 0, advice)
    shown = sum(int(row["CALLS"]) for row in tool.table())
    assert shown <= 10240
    assert shown + tool.lost == 11000


def refused(option, release, symbol):
    """Return whether the kernel lacks what an option requires. Then the tool
    says so in one line of its own, the last one."""
    if BPF.ksymname(symbol) != -1:
        return False
    done = run("madvsnoop", "-S", option)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert re.search(r"\nmadvsnoop.py: .*\%s requires .*Linux %s.*\n$" % (
        option, release), "\n" + done.stderr)
    return True


@contextlib.contextmanager
def mapping_thread():
    """Map, touch and unmap 64 Mbytes all the time: mmap_lock is taken."""
    done, size = threading.Event(), ctypes.c_size_t(64 << 20)

    def map_and_unmap():
        while not done.is_set():
            address = memory.map_memory(64 << 20, populate=True)
            signals.libc.munmap(ctypes.c_void_p(address), size)
    thread = threading.Thread(target=map_and_unmap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
def test_lock_wait(cell, pages):
    """A call's wait for mmap_lock is a part of its latency: most of it beside
    a thread that holds the lock, little if no other does."""
    if refused("-L", "5.11", b"__traceiter_mmap_lock_start_locking"):
        return

    def toggle(count, pause):
        for i in range(count):
            madvise(pages, PAGE, [RANDOM, ADVICES["SEQUENTIAL"]][i % 2])
            time.sleep(pause)
    options = ["-jLp", ME, "-a1,2", "--probe", cell[10:]]
    with Tool("madvsnoop", *options) as tool, \
            Tool("madvsnoop", *options, "-S") as summary:
        toggle(101, 0)
        wait_until(lambda: len(tool.rows) == 101)
        with mapping_thread():
            toggle(101, 0.005)
    times = [(float(row["LAT(us)"]), float(row["LOCK(us)"]))
             for row in tool.table()]
    assert len(times) == 202
    assert all(0 < lock <= latency for latency, lock in times)
    alone, contended = times[:101], times[101:]
    assert sorted(lock / latency for latency, lock in alone)[50] < 1 / 3
    assert sum(lock for _, lock in contended) > sum(
        latency for latency, _ in contended) / 2
    for row in summary.table():
        assert 0 < float(row["LOCK(us)"]) <= float(row["AVG(us)"])


def touch(address, count):
    for page in range(count):
        ctypes.memset(address + page * PAGE, 1, 1)


def touch_by_threads(address, count, threads):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: touch(address, count), range(threads)))


def give_back_and_touch():
    """Do what test_refaults counts. The page numbers are odd: a block of the
    tool is 64 pages, of 64 times their size."""
    pages = memory.map_memory(4096 * PAGE)
    madvise(pages, 4096 * PAGE, ADVICES["NOHUGEPAGE"])
    touch(pages, 4096)
    madvise(0, 0, -2**31)                       # 0: gives nothing back
    madvise(pages + 5 * PAGE, 101 * PAGE - 123, DONTNEED)
    for _ in range(2):
        touch(pages, 42)                        # 37 of 101
    madvise(pages + 5 * PAGE, 100 * PAGE + 1, DONTNEED)
    touch(pages, 4096)                          # 101
    madvise(pages + 61 * PAGE, 1009 * PAGE, DONTNEED)
    touch_by_threads(pages, 4096, 2)            # 1009
    madvise(pages + 3000 * PAGE, 211 * PAGE, DONTNEED)
    in_child(touch, pages, 4096)                # 0
    touch_by_threads(pages, 3100, 1)            # 100
    madvise(pages + 63 * PAGE, 2 * PAGE, ADVICES["FREE"])
    touch(pages, 3000)                          # 0
    madvise(pages + 63 * PAGE, PAGE, ADVICES["FREE"])
    madvise(pages + 63 * PAGE, PAGE, DONTNEED)
    touch(pages, 3000)                          # 1
    file = os.memfd_create("pages")
    os.ftruncate(file, 64 * PAGE)
    shared = memory.map_memory(64 * PAGE, file, shared=True)
    touch(shared, 64)
    madvise(shared + 3 * PAGE, 11 * PAGE, ADVICES["REMOVE"])
    touch(shared, 64)                           # 11


@pytest.mark.short
@pytest.mark.parametrize("cell", ["madvsnoop-tracepoint"])  # see kernels/run
@pytest.mark.parametrize("hide", [[], mounted(      # perf event, as on arm64
    "sed /__traceiter_page_fault_user/d /proc/kallsyms > /run/symbols; "
    "mount --bind /run/symbols /proc/kallsyms; rm /run/symbols")],
    ids=["tracepoint", "perf_event"])
def test_refaults(cell, hide):
    if refused("-R", "5.12", FROM_5_12):
        return
    with Tool("madvsnoop", "-SRj", "--probe", cell[10:], prefix=hide) as tool:
        child, status = in_child(give_back_and_touch)
        assert status == 0
    counted = {row["ADVICE"]: row["REFAULTS"]
               for row in own_rows(tool.table(), child)}
    assert counted["REMOVE"] == "11"
    assert counted["DONTNEED"] == str(37 + 101 + 1009 + 100 + 1)
    for advice in "FREE", "NOHUGEPAGE", "-2147483648":
        assert counted[advice] == "0"
    assert tool.lost == 0


def test_refaults_without_room():
    """What does not fit is reported, and there is room again when the process
    has ended."""
    if refused("-R", "5.12", FROM_5_12):
        return
    block = 64 * PAGE

    def give_back(address, blocks):
        for start in range(address, address + blocks * block, 1024 * block):
            assert madvise(start, 1024 * block, DONTNEED) == 0
    address = memory.map_memory(69 * 1024 * block, protection=0)
    small = memory.map_memory(2 * PAGE)
    with Tool("madvsnoop", "-SRjp", ME, "1") as tool:
        assert madvise(address + PAGE, 1025 * block, DONTNEED) == 0
        wait_until(lambda: tool.lost == 1)
    with Tool("madvsnoop", "-SRj", "-a", "DONTNEED", "1") as tool:
        assert in_child(give_back, address, 69 * 1024)[1] == 0
        wait_until(lambda: tool.lost >= 69 * 1024 - 65536)
        time.sleep(2)
        lost = tool.lost
        touch(small, 2)
        madvise(small, 2 * PAGE, DONTNEED)
        touch(small, 2)
        wait_until(lambda: own_rows(tool.table()))
    assert sum(int(row["REFAULTS"]) for row in own_rows(tool.table())) == 2
    assert tool.lost == lost


def test_duration_of_a_summary():
    begin = time.monotonic()
    done = run("madvsnoop", "-S", "-p", ME, "-d", "0.5", "1000")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begin < 30


def test_least_latency():
    """In fractions of a microsecond."""
    def latencies(*options):
        with Tool("madvsnoop", "-jp", ME, *ACTS, *options) as tool:
            for number in range(1000):
                act(number)
        return sorted(float(row["LAT(us)"]) for row in tool.table())
    least = latencies()[900] + 0.1
    least += least == int(least)
    rest = latencies("-m", least)
    assert all(latency >= round(least - 0.06, 1) for latency in rest)
    assert len(rest) < 900


@pytest.mark.parametrize("arguments", [
    "0.01 100 -S", "-S 0.01 100", "0.01 -S 100"])
def test_intervals_keep_their_time(arguments):
    tool = Tool("madvsnoop", "-jp", ME, *arguments.split()).start()
    begin = time.monotonic()
    assert tool.process.wait(60) == 0
    assert 0.5 < time.monotonic() - begin < 1.7


@pytest.mark.parametrize("options", ["-jT", "-SjT"])
def test_time_in_csv(options):
    with Tool("madvsnoop", options, "-p", ME) as tool:
        begin = int(time.time())
        act()
    (row,) = tool.table()
    shown = datetime.datetime.strptime(
        re.sub(r":(\d\d)$", r"\1", row["TIME"]), "%Y-%m-%dT%H:%M:%S%z")
    assert begin <= shown.timestamp() <= time.time()


def test_other_pid_namespace(other):
    """/proc has other processes there: nothing of them is shown."""
    child, fd, stack = other
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for option in "-M", "-U":
        done = run("madvsnoop", option, prefix=prefix)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch("madvsnoop.py: .*--pid=host\n", done.stderr)
    tool = Tool("madvsnoop", "-a", "COLD", prefix=prefix).start()
    process_madvise(fd, [(stack, PAGE)], COLD)
    wait_until(lambda: own_rows(tool.table()))
    tool.process.kill()
    assert cells(own_rows(tool.table()), "ADVICE RET TPID") == [
        ("COLD", "4K", "?")]
    assert re.fullmatch("madvsnoop.py: TPID .*--pid=host\n", tool.stderr)
    tool.process.wait(60)
