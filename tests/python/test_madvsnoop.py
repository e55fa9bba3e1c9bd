"""madvsnoop: known advice, exact rows and sums."""

import collections
import csv
import ctypes
import errno
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from common import (COUNT, PYTHON, TOP, WAYS, Tool, burst, cells,
                    kernel_supports, lost, odd_name, own_rows, wait_until)
import memory
from memory import ADVICES, PAGE, act, madvise, process_madvise
import signals

COLD, DONTNEED, RANDOM = (ADVICES[name]
                          for name in ("COLD", "DONTNEED", "RANDOM"))
ME = str(os.getpid())
ACTS = ["-a", "RANDOM"]
each_way = pytest.mark.parametrize(
    "way", [("madvsnoop", how) for how in WAYS], indirect=True, ids="-".join)
each_probe = pytest.mark.parametrize(
    "probe", ["fentry", "tracepoint", "kprobe"], ids="madvsnoop-{}".format)


def error_name(result):
    """Return a result as RET has it."""
    return errno.errorcode.get(-result, "0")


def short(count):
    """Return a number of bytes as LEN has it, of those that are used here."""
    return "%dK" % (count // 1024) if count >= 1024 else str(count)


def csv_table(tool):
    """Return the rows of a tool that has -j, as dicts."""
    return [dict(row) for row in csv.DictReader(tool.lines())]


def by_probe(probe, *args):
    """Return a Tool with a probe type, or skip the test."""
    if not kernel_supports(probe, "madvise"):
        pytest.skip("the kernel refuses also the smallest %s program" % probe)
    return Tool("madvsnoop", "--probe", probe, *args)


@pytest.fixture
def pages():
    """Return the address of four pages."""
    return memory.map_memory(4 * PAGE)


@pytest.fixture
def own_pidfd():
    """Return a pidfd for this process."""
    fd = signals.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


@pytest.fixture
def other():
    """Return a process with a stack to advise on, and a pidfd for it."""
    if not memory.has_process_madvise():
        pytest.skip("process_madvise came with Linux 5.10")
    child = subprocess.Popen(["sleep", "60"])
    time.sleep(0.2)     # it replaces its memory
    fd = signals.pidfd_open(child.pid)
    yield child, fd
    os.close(fd)
    child.kill()
    child.wait()


@each_way
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
                expected[name, "%x" % address, short(size),
                         error_name(result), "-"] += 1
        for place, advice, name, error in (
                (address + 1, DONTNEED, "DONTNEED", "EINVAL"),
                (PAGE, DONTNEED, "DONTNEED", "ENOMEM"),
                (address, 99, "99", "EINVAL"), (address, -1, "-1", "EINVAL")):
            for _ in range(COUNT):
                assert madvise(place, PAGE, advice) < 0
            expected[name, "%x" % place, short(PAGE), error, "-"] = COUNT
    assert collections.Counter(cells(
        own_rows(rows), "ADVICE ADDR LEN RET TPID")) == expected


@each_way
def test_process_madvise(tracer, other, pages):
    child, fd = other
    stack, _ = memory.mapping_of(child.pid, "[stack]")
    ranges = [(stack, PAGE), (stack + 2 * PAGE, PAGE),
              (stack + 4 * PAGE, 2 * PAGE)]
    with tracer.traced() as rows:
        for _ in range(COUNT):
            assert process_madvise(fd, ranges, COLD) == 4 * PAGE
        for _ in range(COUNT):
            assert process_madvise(-1, ranges, COLD) < 0
        signals.syscall("process_madvise", fd, None, 2, COLD, 0)
        assert process_madvise(fd, 1025 * ranges, COLD) < 0
        assert memory.process_madvise_from_file(fd, ranges, COLD) == 4 * PAGE
        own = process_madvise(-10000, [(pages, PAGE)], COLD)
        madvise(pages, PAGE, COLD)
    where, first, target = "%x" % stack, short(PAGE), str(child.pid)
    own_where, advised = "%x" % pages, short(4 * PAGE)
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


@each_probe
def test_stack_of_a_known_function(probe, tmp_path):
    """Its caller too, which walking the frame pointers alone misses."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    program = str(tmp_path / "stack")
    subprocess.check_call([
        "gcc", "-O1", "-fno-omit-frame-pointer", "-rdynamic", "-o", program,
        os.path.join(TOP, "tests/workload/stack.c")])
    with by_probe(probe, "-U", "-j", "-n", "stack") as tool:
        assert subprocess.call([program, str(COUNT)]) == 0
    rows = [row for row in csv_table(tool) if row["ADVICE"] == "DONTNEED"]
    assert len(rows) == COUNT
    expected = ["known_function", "outer", "main"]
    with open("/proc/kallsyms") as f:
        if " bpf_task_pt_regs\n" not in f.read():       # Linux 5.15
            expected.remove("known_function")
    for row in rows:
        functions = [re.sub(r"(\+0x\w+)? .*", "", frame)
                     for frame in row["STACK"].split(";")]
        assert functions[0] in ("madvise", "__madvise")
        assert functions[1:1 + len(expected)] == expected


def seconds_of_dontneed(address, length):
    """Return how long the call takes, as its caller sees it."""
    begin = time.perf_counter()
    madvise(address, length, DONTNEED)
    return time.perf_counter() - begin


@each_probe
def test_summary(probe, own_pidfd):
    length = 16 << 20
    address = memory.map_memory(length)
    with by_probe(probe, "-S", "-j", "-p", ME) as tool:
        ctypes.memset(address, 1, length)
        times = [seconds_of_dontneed(address, length)]
        for _ in range(COUNT):
            times.append(seconds_of_dontneed(address, 3 * PAGE))
            madvise(address, PAGE, COLD)
            times.append(seconds_of_dontneed(address + 1, PAGE))
        both = sum(process_madvise(own_pidfd, [(address, PAGE)], COLD) == PAGE
                   for _ in range(COUNT))
    table = csv_table(tool)
    calls = 2 * COUNT if memory.has_process_madvise() else COUNT
    assert sorted(cells(table, "ADVICE CALLS FAILED LEN")) == [
        ("COLD", str(calls), str(calls - COUNT - both),
         str(PAGE * (COUNT + both))),
        ("DONTNEED", str(2 * COUNT + 1), str(COUNT),
         str(3 * PAGE * COUNT + length))]
    totals = [float(row["TOTAL(ms)"]) for row in table]
    assert totals == sorted(totals, reverse=True)
    for row, total in zip(table, totals):
        average = total * 1000 / int(row["CALLS"])
        assert 0 < average
        assert abs(float(row["AVG(us)"]) - average) < 0.1
        assert float(row["MAX-EVER"]) >= float(row["AVG(us)"])
    (longest,) = [float(row["MAX-EVER"]) / 1e6 for row in table
                  if row["ADVICE"] == "DONTNEED"]
    # Not that of the last calls, which are far shorter; under emulation much
    # of what is measured here is not the call.
    assert times[0] / 50 < longest <= max(times)


def calls_by_pid(rows):
    """Return the sum of CALLS of each process."""
    calls = collections.Counter()
    for row in rows:
        calls[int(row["PID"])] += int(row["CALLS"])
    return calls


@each_probe
def test_sums_are_exact(probe):
    """Ten times with more processes than CPUs, read again and again."""
    made, count = collections.Counter(), 20011
    with by_probe(probe, "-S", "-j", *ACTS, "0.2") as tool:
        for _ in range(10):
            processes = [burst("madvsnoop", count)
                         for _ in range(2 * os.cpu_count() + 1)]
            for process in processes:
                assert process.wait(60) == 0
                made[process.pid] += count
    counted = calls_by_pid(csv_table(tool))
    assert not counted - made
    missed = sum(map(int, re.findall(
        r"skipped by the kernel: (\d+);", tool.stderr))) + lost(tool.stderr)
    assert sum((made - counted).values()) <= missed


def test_default_output(pages):
    """Byte for byte."""
    with open("/proc/sys/kernel/pid_max") as f:
        width = len(f.read().strip())
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    with Tool("madvsnoop", "-p", ME) as tool:
        madvise(pages, PAGE, DONTNEED)
        madvise(pages + 1, PAGE, DONTNEED)
    form = "%-*s %-15s %-13s %-12s %5s %7s %-6s %s"
    assert tool.header == form % (width, "PID", "COMM", "ADVICE", "ADDR",
                                  "LEN", "LAT(us)", "RET", "TPID")
    latencies = [row["LAT(us)"] for row in tool.table()]
    assert all(re.fullmatch(r"\d+\.\d", latency) for latency in latencies)
    assert tool.rows == [
        form % (width, ME, comm, "DONTNEED", "%x" % address, "4K", latency,
                result, "-")
        for address, latency, result in zip((pages, pages + 1), latencies,
                                            ("0", "EINVAL"))]
    assert tool.stderr == ""


def test_rows_are_below_80_columns(pages, own_pidfd):
    with open("/proc/sys/kernel/pid_max") as f:
        room = 7 - len(f.read().strip())    # PIDs can have 7 digits
    with odd_name(b"123456789012345"), Tool("madvsnoop", "-p", ME) as tool:
        madvise(pages + 1, 1023 << 20, 101)
        madvise(pages + 1, PAGE, ADVICES["DONTNEED_LOCKED"])
        process_madvise(own_pidfd, [(pages, PAGE)], COLD)
        process_madvise(own_pidfd, [(pages + 1, PAGE)], COLD)
    assert len(tool.rows) >= 4
    for line in tool.lines():
        tpid = line.split()[-1]
        assert len(line) + room + 7 * tpid.isdigit() - len(tpid) < 80


def test_all_columns(pages):
    """As text, and as CSV with a command name that has everything."""
    titles = "TIME PID TID COMM ADVICE ADDR LEN LAT(us) RET TPID MAPPING"
    with Tool("madvsnoop", "-TvMp", ME) as text, \
            Tool("madvsnoop", "-TvMjp", ME) as csv_tool, odd_name(b'a,"b%s'):
        begin = time.time()
        madvise(pages, PAGE, DONTNEED)
    assert text.header.split() == titles.split()
    assert csv_tool.header == titles.replace(" ", ",")
    for tool, table, length in ((text, text.table(), "4K"),
                                (csv_tool, csv_table(csv_tool), "4096")):
        (row,) = table
        assert row["TIME"] in [
            time.strftime("%H:%M:%S", time.localtime(begin + second))
            for second in (0, 1)]
        assert re.fullmatch(r"\d+\.\d(\d\d)?", row["LAT(us)"])
        assert cells(table, "PID TID COMM ADVICE ADDR LEN RET TPID MAPPING"
                     ) == [(ME, ME, 'a,"b%s', "DONTNEED", "%x" % pages, length,
                            "0", "-", "anon")]


def test_readable_lengths():
    lengths = {0: "0", 1: "1", 1023: "1023", 1024: "1K", 1536: "1.5K",
               102399: "99.9K", 1047552: "1023K", 1048575: "1023K",
               2 << 20: "2M", 5 << 29: "2.5G", 2**63: "8E"}
    with Tool("madvsnoop", "-p", ME) as tool:
        for length in lengths:
            madvise(0, length, 99)
    assert [row["LEN"] for row in tool.table()] == list(lengths.values())


def test_pid_and_tid():
    tids, started = [], threading.Event()

    def actor():
        tids.append(threading.get_native_id())
        started.wait()
        act()
    thread = threading.Thread(target=actor, name="actor")
    thread.start()
    wait_until(lambda: tids)
    with Tool("madvsnoop", "-vp", ME, *ACTS) as by_pid, \
            Tool("madvsnoop", "-vt", tids[0], *ACTS) as by_tid:
        started.set()
        assert burst("madvsnoop", 3).wait(60) == 0
        thread.join()
        act()
    one, both = [(ME, str(tids[0]))], [(ME, str(tids[0])), (ME, ME)]
    assert cells(by_pid.table(), "PID TID") == both
    assert cells(by_tid.table(), "PID TID") == one


@pytest.mark.parametrize("part, name, other_name", [
    ("t", "madv-tester-of", "madv"), ("madv-te", "madv-tester-of", "madv-t"),
    ("v-tester-of", "madv-tester-of", "madv-tester-o"),
    ("madv-tester-of", "madv-tester-of", "adv-tester-of"),
    ("\u00e9_9", "0123456789a\u00e9_9", "0123456789a\u00e9_")])
def test_name(part, name, other_name):
    with Tool("madvsnoop", "-n", part, *ACTS) as tool:
        for comm in name, other_name:
            with odd_name(comm.encode()):
                act()
    assert [row["COMM"] for row in own_rows(tool.table())] == [name]


def test_advice_list():
    """Each way to write an advice."""
    with Tool("madvsnoop", "-p", ME, "-a",
              "4,hugepage, MADV_COLD,99,-1") as tool:
        for number in 0, 1, 4, 14, 20, 99, -1, 98:
            madvise(0, 0, number)
    assert [row["ADVICE"] for row in tool.table()] == [
        "DONTNEED", "HUGEPAGE", "COLD", "99", "-1"]


FILTERS = [(["-x"], COUNT), (["-a", "99"], COUNT), (["-m", "1e7"], 0),
           (["-n", "no-such-name"], 0), (["-t", ME], 3 * COUNT)]


@pytest.mark.parametrize("options, count", FILTERS,
                         ids=[options[0] for options, _ in FILTERS])
def test_filters(options, count):
    """Of rows, sums and histograms."""
    with Tool("madvsnoop", "-p", ME, *options) as rows, \
            Tool("madvsnoop", "-SHp", ME, *options) as sums:
        for _ in range(COUNT):
            for advice in 99, 0, 1:
                madvise(0, 0, advice)
    assert len(rows.rows) == count
    assert {row["RET"] for row in rows.table()} <= (
        {"EINVAL"} if count == COUNT else {"EINVAL", "0"})
    text = "\n".join(sums.rows)
    assert sum(map(int, re.findall(r"-> \d+ +: (\d+) ", text))) == count
    assert sum(calls_by_pid(tables(sums)[0]).values()) == count


def test_min_us():
    """Giving back 16 MiB takes long, to advise on no bytes does not; what lies
    between is measured first, since machines differ."""
    length = 16 << 20
    address = memory.map_memory(length)

    def dontneed():
        ctypes.memset(address, 1, length)
        return seconds_of_dontneed(address, length) * 1e6
    limit = min(dontneed() for _ in range(5)) / 8
    with Tool("madvsnoop", "-jp", ME, "-m", "%.3f" % limit) as tool:
        for _ in range(COUNT):
            dontneed()
            act()
    rows = csv_table(tool)
    assert all(float(row["LAT(us)"]) >= limit for row in rows)
    seen = collections.Counter(row["ADVICE"] for row in rows)
    assert seen["DONTNEED"] == COUNT
    assert seen["RANDOM"] < COUNT / 2       # what was interrupted


def test_mapping(pages):
    with open(PYTHON, "rb") as file:
        text = memory.map_memory(PAGE, fd=file.fileno())
    with tempfile.NamedTemporaryFile(suffix='a,"%s\r\xff') as file:
        file.write(bytes(PAGE))
        file.flush()
        odd, name = memory.map_memory(PAGE, fd=file.fileno()), file.name
    stack, _ = memory.mapping_of(os.getpid(), "[stack]")
    heap, _ = memory.mapping_of(os.getpid(), "[heap]")
    with Tool("madvsnoop", "-Mjp", ME, *ACTS) as tool:
        for address in text, stack, heap, pages, PAGE, odd:
            for _ in range(COUNT):
                madvise(address, 0, RANDOM)
    assert [row["MAPPING"] for row in csv_table(tool)] == [
        shown for shown in (
            os.path.realpath(PYTHON), "[stack]", "[heap]", "anon", "-",
            name.replace("\r", "?") + " (deleted)") for _ in range(COUNT)]


def test_mapping_that_changes():
    with Tool("madvsnoop", "-Mp", ME, *ACTS) as tool:
        address = memory.map_memory(PAGE)
        for number in 1, 2:
            madvise(address, 0, RANDOM)
            wait_until(lambda: len(tool.rows) == number)
            memory.libc.munmap(ctypes.c_void_p(address),
                               ctypes.c_size_t(PAGE))
    assert [row["MAPPING"] for row in tool.table()] == ["anon", "-"]


def test_mappings_are_read_once_a_batch():
    """For each batch of 10,000, and one more now and then."""
    with tempfile.NamedTemporaryFile("r") as log:
        with Tool("madvsnoop", "-M", *ACTS, prefix=[
                "strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e",
                "signal=none", "-e", "trace=openat", "-o", log.name]) as tool:
            tool.send(signal.SIGSTOP)
            process = burst("madvsnoop", 200000)
            assert process.wait(60) == 0
            tool.send(signal.SIGCONT)
            wait_until(lambda: len(tool.rows) >= 200000)
        reads = sum('"/proc/%d/maps"' % process.pid in line for line in log)
    assert len(own_rows(tool.table(), process.pid)) == 200000
    assert 1 < reads < 200000 / 10000 + 5


def test_stack_lines(pages):
    with Tool("madvsnoop", "-Up", ME, "-a", "DONTNEED") as tool:
        for _ in range(3):
            madvise(pages, PAGE, DONTNEED)
    assert tool.header.endswith(" TPID")
    calls = [row for row in tool.rows if not row.startswith("    ")]
    frames = [row for row in tool.rows if row.startswith("    ")]
    assert [row[-2:] for row in calls] == [" -"] * 3
    assert len(frames) >= 6
    assert re.match(r"    (sys|__)?\w+\+0x\w+ \[libc", frames[0])


def tables(tool):
    """Return the tables of -S as lists of dicts."""
    found = []
    for line in tool.lines():
        if line.startswith("PID "):
            titles = line.split()
            found.append([])
        elif re.match(r"\d+ +\D", line):
            found[-1].append(dict(zip(titles, line.split())))
        elif line.startswith("advice"):     # histograms
            break
    return found


def test_intervals():
    tool = Tool("madvsnoop", "-ST", *ACTS, "-p", ME, "0.5", "4").start()
    for _ in range(2):
        for _ in range(COUNT):
            act()
        time.sleep(0.7)
    assert tool.process.wait(60) == 0
    assert tool.header == "Tracing madvise calls... Hit Ctrl-C to end."
    found = tables(tool)
    assert len(found) == 4
    counts = [int(row["CALLS"]) for table in found for row in table]
    assert sum(counts) == 2 * COUNT and len(counts) >= 2
    assert len([row for row in tool.rows
                if re.fullmatch(r"\d\d:\d\d:\d\d", row)]) == 4


def test_histogram():
    with Tool("madvsnoop", "-Hp", ME) as tool:
        for _ in range(COUNT):
            madvise(0, 0, 99)
            madvise(0, 0, RANDOM)
    assert [row for row in tool.rows if row.startswith("adv")] == [
        "advice = RANDOM", "advice = 99"]
    body = [re.fullmatch(r" *(\d+) -> (\d+) +: (\d+) +\|(\**) *\|", row)
            for row in tool.rows if "->" in row]
    assert sum(int(match[3]) for match in body) == 2 * COUNT
    assert max(len(match[4]) for match in body) == 40
    assert max(map(len, tool.rows)) <= 80


@pytest.mark.parametrize("interval", ["0.001", "0.03"])
def test_stop_during_a_table(interval):
    tool = Tool("madvsnoop", "-Sjp", ME, *ACTS, interval).start()
    for _ in range(20011):
        act()
    assert tool.stop() == 0
    assert calls_by_pid(csv_table(tool)) == {os.getpid(): 20011}


def test_goes_on_after_a_stop():
    """Without the tables that were due in between."""
    with Tool("madvsnoop", "-S", *ACTS, "0.2") as tool:
        tool.send(signal.SIGSTOP)
        time.sleep(3)
        tool.send(signal.SIGCONT)
        time.sleep(0.5)
    assert len(tables(tool)) < 10


def test_summary_names_the_process():
    """Not the thread that called first, except if the process has ended."""
    def in_thread(function):
        thread = threading.Thread(target=function, name="actor")
        thread.start()
        thread.join()

    def act_as(name):
        with odd_name(name):
            act()
    with Tool("madvsnoop", "-S", *ACTS) as tool:
        in_thread(lambda: act_as(b"some-thread"))
        act()
        ended = os.fork()
        if not ended:
            act_as(b"a\r99")
            os._exit(0)
        os.waitpid(ended, 0)
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    (table,) = tables(tool)
    assert sorted(cells(table, "PID COMM CALLS")) == sorted([
        (ME, comm, "2"), (str(ended), "a?99", "1")])


def test_full_table_is_reported():
    """There is room for 10240 pairs of process and advice."""
    with Tool("madvsnoop", "-Sjp", ME) as tool:
        for advice in range(1000, 12000):
            madvise(0, 0, advice)
    reported = lost(tool.stderr)
    assert reported >= 11000 - 10240
    assert sum(calls_by_pid(csv_table(tool)).values()) + reported == 11000


def test_agrees_with_strace():
    """Also in time. Its own stops are in what it measures: up to 1 ms and a
    tenth a call."""
    if "POPULATE_WRITE" not in memory.known_advices():
        pytest.skip("MADV_POPULATE_WRITE came with Linux 5.14")
    with Tool("madvsnoop", "-j", "-a", "POPULATE_WRITE") as tool:
        traced = subprocess.run(
            ["strace", "-qq", "-T", "-e", "trace=madvise", PYTHON,
             memory.__file__, "populate", str(COUNT)],
            stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
    rows, calls = csv_table(tool), re.findall(
        r"(?m)^madvise\(0x(\w+), (\d+), (?:MADV_POPULATE_WRITE|0x17).*\) += "
        r"(\d+) <([\d.]+)>$", traced.stderr)
    assert len(rows) == COUNT
    assert cells(rows, "ADDR LEN RET") == [call[:3] for call in calls]
    ours = sum(float(row["LAT(us)"]) for row in rows)
    others = sum(float(call[3]) for call in calls) * 1e6
    assert 1000 < ours <= others * 1.02
    assert others <= ours * 1.1 + 1000 * COUNT


def test_jemalloc():
    """Memory that an allocator gives back by itself."""
    library = glob.glob("/usr/lib/*/libjemalloc.so.2")
    if not library:
        pytest.skip("needs libjemalloc2")
    with Tool("madvsnoop", "-Sj", "-a", "DONTNEED,FREE") as tool:
        process = subprocess.Popen(
            [PYTHON, "-c", "for _ in range(23):\n"
             "    blocks = [bytes(2**20) for _ in range(7)]\n"
             "    del blocks\n"],
            env=dict(os.environ, LD_PRELOAD=library[0],
                     MALLOC_CONF="dirty_decay_ms:0,muzzy_decay_ms:0"))
        assert process.wait(60) == 0
    rows = own_rows(csv_table(tool), process.pid)
    assert "DONTNEED" in [row["ADVICE"] for row in rows]
    assert sum(int(row["CALLS"]) for row in rows) >= 23
    assert {row["FAILED"] for row in rows} == {"0"}
    assert sum(int(row["LEN"]) for row in rows) >= 23 * 7 * 2**20
