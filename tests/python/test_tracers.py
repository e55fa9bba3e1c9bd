"""Events come at once, whole and in order, or are reported as lost."""

import collections
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

from bcc import BPF
from bcc.libbcc import lib
import pytest

from common import (ATTACHMENTS, COUNT, TRACERS, Tool, bpf_programs, burst,
                    fdinfo, mounted, odd_name, own_rows, run, wait_until)

each_tool = pytest.mark.parametrize("tool", TRACERS)
PERF_BUFFER, RING_BUFFER = 4, 27    # enum bpf_map_type
_, WITH_PERF_BUFFER = ATTACHMENTS["perf_buffer"]


@pytest.mark.short
def test_attached_as_asked(tracer):
    how = tracer.attachment
    wait_until(lambda: "\n" in tracer.stderr)
    pattern = {"fallback": "kprobe; no fentry: .+; no tracepoint: .+",
               "perf_buffer": "(fentry|(tracepoint|kprobe); no fentry: .+)"}
    assert re.fullmatch(
        "%s.py: tracing by %s" % (tracer.name, pattern.get(how, how)),
        tracer.stderr.split("\n")[0])
    types = {PERF_BUFFER, RING_BUFFER} & set(
        fdinfo(tracer.process.pid, "map_type"))
    assert types == {PERF_BUFFER if how == "perf_buffer" else RING_BUFFER}


@pytest.mark.short
def test_threads(tracer):
    """Seven threads that act at once, under a name that CSV has to quote."""
    workload, pid, name = tracer.workload, tracer.process.pid, 'a,"b%s'
    all_started = threading.Barrier(7)

    def act(_):
        with odd_name(name.encode()):
            all_started.wait(60)
            for number in range(COUNT):
                workload.act(number)
    lost = tracer.lost
    skipped = sum(fdinfo(pid, "recursion_misses"))      # Linux 5.12
    with tracer.traced() as rows:
        with concurrent.futures.ThreadPoolExecutor(7) as threads:
            list(threads.map(act, range(7)))
    seen = collections.Counter(
        workload.number(row) for row in own_rows(rows) if row["COMM"] == name)
    if tracer.name == "madvsnoop" and tracer.attachment in (
            "kprobe", "fallback"):
        # A thread that waits in madvise() can take a kretprobe's only place.
        # A missed return is counted when its thread calls again.
        missed = 7 * COUNT - sum(seen.values())
        wait_until(lambda: tracer.lost - lost >= missed - 7)
    elif sum(fdinfo(pid, "recursion_misses")) == skipped:
        assert seen == {number: 7 for number in range(COUNT)}
    assert max(seen.values()) <= 7


@pytest.mark.short
def test_sigkill_leaves_no_program(tracer):
    """Last of those with a shared tool."""
    programs = set(fdinfo(tracer.process.pid, "prog_id"))
    assert programs and programs <= bpf_programs()
    tracer.process.kill()
    tracer.process.wait()
    wait_until(lambda: not programs & bpf_programs())


@each_tool
@pytest.mark.parametrize("prefix, count, too_many", [
    ([], 100000, 400000), (WITH_PERF_BUFFER, 4000, 50000)])
def test_bursts(tool, prefix, count, too_many):
    """Half of single rows come within 0.2 s. The last burst is more than the
    buffer holds, while the tool is stopped: it shows the first events."""
    delays, bursts = [], {}

    def run_bursts(processes, count):
        started = [burst(tool.name, count) for _ in range(processes)]
        for process in started:
            assert process.wait(60) == 0
            bursts[str(process.pid)] = count
    with Tool(tool, *TRACERS[tool].only_acts, prefix=prefix) as tool:
        for _ in range(5):
            delays.append(-time.monotonic())
            tool.mark()
            delays[-1] += time.monotonic()
        run_bursts(2, count)
        run_bursts(11, 101)
        wait_until(lambda: len(tool.rows) >= sum(bursts.values()))
        assert tool.lost == 0
        tool.send(signal.SIGSTOP)
        run_bursts(1, too_many)
        tool.send(signal.SIGCONT)
    assert sorted(delays)[2] < 0.2
    numbers, table = collections.defaultdict(list), tool.table()
    for row in table:
        numbers[row["PID"]].append(tool.workload.number(row))
    *whole, last = bursts
    if not prefix:
        assert numbers[last] == list(range(len(numbers[last])))
    for pid in whole:
        if prefix:      # rows are in order by CPU
            numbers[pid].sort()
        assert numbers[pid] == list(range(bursts[pid]))
    missing = too_many - len(numbers[last])
    assert 0 < missing <= tool.lost
    if len(table) < sum(bursts.values()) - missing + 100:
        assert tool.lost < missing + 100    # none of others' is lost


@each_tool
def test_skipped_runs_are_reported(tool, tmp_path):
    """The kernel counts them for each program: here it says 7 for all."""
    (tmp_path / "sitecustomize.py").write_text("""import builtins, io
real = open
builtins.open = lambda path, *args, **more: (
    io.StringIO("recursion_misses:\\t7\\n") if "/self/fdinfo/" in str(path)
    else real(path, *args, **more))""")
    done = run(tool, "-d", "0.3", env=dict(
        os.environ, PYTHONPATH=str(tmp_path)))
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert int(re.search(r"runs skipped by the kernel: (\d+)",
                         done.stderr)[1]) % 7 == 0


@each_tool
def test_no_loss_from_before_it_traced(tool):
    """Threads act while it attaches, which takes long, and again later: it
    sees entries without their returns."""
    tracer, stop = TRACERS[tool], threading.Event()

    def act(number):
        stop.wait(number / 1202)
        while not stop.wait(0.5):
            tracer.workload.act()
    with concurrent.futures.ThreadPoolExecutor(601) as threads:
        threads.map(act, range(601))
        try:
            with Tool(tool, "-p", os.getpid(), *tracer.only_acts, prefix=[
                    "strace", "-D", "-f", "-o", "/dev/null", "-e",
                    "trace=perf_event_open", "-e",
                    "inject=perf_event_open:delay_exit=20000"]) as tool:
                wait_until(lambda: len(tool.rows) > 3 * 601)
        finally:
            stop.set()
    assert tool.stderr == ""


@each_tool
@pytest.mark.parametrize("prefix, locale, options, numbers, shown", [
    ([], "C", ["-d", "2"], [signal.SIGCONT], "%d?[2J?? sp?"),
    ([], "C.UTF-8", [], [signal.SIGTERM], "%d?[2J?\ufffd sp\u00e9"),
    (WITH_PERF_BUFFER, "C", [], [signal.SIGCONT, signal.SIGINT],
     "%d?[2J?? sp?")])
def test_last_events(tool, prefix, locale, options, numbers, shown):
    """All that the buffer holds is shown when -d is over, at a signal, and
    before. All others are reported as lost, also within a second of the last
    report. No byte of a name does harm, also where output has ASCII only."""
    tool = Tool(tool, "-p", os.getpid(), *TRACERS[tool].only_acts, *options,
                prefix=prefix, env=dict(
                    os.environ, LC_ALL=locale, PYTHONUTF8="0",
                    PYTHONCOERCECLOCALE="0")).start()
    for number in numbers:
        tool.send(signal.SIGSTOP)
        with odd_name(b"%d\x1b[2J\n\xff sp\xc3\xa9"):
            for _ in range(60000):
                tool.workload.act()
        time.sleep(len(options))        # -d is over
        tool.send(number)
        tool.send(signal.SIGCONT)
        wait_until(lambda: tool.lost or not prefix)
    assert tool.process.wait(60) == 0
    assert len(tool.rows) + tool.lost == 60000 * len(numbers)
    assert all(" %s " % shown in row for row in tool.rows)
    assert prefix or tool.stderr == ""


@pytest.mark.parametrize("tool, options, interval", [
    ("madvsnoop", ["-ST"], 0.05), ("countp", ["--other=drop", "lo"], 0.1),
    ("protostats", ["lo"], 0.1)])
def test_interval(tool, options, interval):
    """Each write takes 60% of an interval. This does not delay the next table:
    with drift, 3 s would hold only 1.9 s of intervals."""
    with Tool(tool, *options, interval, prefix=[
            "unshare", "--net", "strace", "-Df", "--seccomp-bpf", "-o",
            "/dev/null", "-e", "trace=write", "-e",
            "inject=write:delay_exit=%d" % (600000 * interval)],
            env=dict(os.environ, PYTHONUNBUFFERED="")) as tool:
        time.sleep(3)
        times = re.findall(r"(?m)^\d\d:\d\d:\d\d", tool.read(tool.out))
    assert 2.3 < interval * len(times) < 3.6


@pytest.mark.parametrize("option", [     # see kernels/run
    "cgroupmap", pytest.param("mntnsmap", marks=pytest.mark.short)])
@each_tool
def test_container(tool, option, cgroup, tmp_path, request):
    """Only processes of the cgroup or namespace in a pinned map are shown."""
    if option == "mntnsmap" and "BCC_KERNEL_SOURCE" in os.environ:
        pytest.skip("requires the headers of the running kernel itself")
    inner = burst(tool, COUNT, prefix=mounted("read line"),
                  stdin=subprocess.PIPE)
    namespace = "/proc/%d/ns/mnt" % inner.pid
    wait_until(lambda: not os.path.samefile(namespace, "/proc/self/ns/mnt"))
    pathlib.Path(cgroup, "cgroup.procs").write_text(str(inner.pid))
    bits, file = (64, cgroup) if option == "cgroupmap" else (32, namespace)
    subprocess.check_call(["mount", "-t", "bpf", "none", str(tmp_path)])
    request.addfinalizer(lambda: subprocess.call(["umount", str(tmp_path)]))
    keys = BPF(text=b"BPF_HASH(keys, u64, u%d);" % bits)[b"keys"]
    keys[keys.Key(os.stat(file).st_ino)] = keys.Leaf(1)
    assert lib.bpf_obj_pin(keys.map_fd, bytes(tmp_path / "keys")) == 0
    with Tool(tool, "--" + option, tmp_path / "keys",
              *TRACERS[tool].only_acts) as tool:
        tool.workload.act()
        inner.communicate(b"\n", timeout=60)
    assert [row["PID"] for row in tool.table()] == [str(inner.pid)] * COUNT
