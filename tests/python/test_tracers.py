"""Every tracer shows events at once, whole and in order, reports what it lost,
and ends well: however it attaches, where that matters."""

import collections
import concurrent.futures
import os
import pathlib
import pty
import re
import signal
import subprocess
import threading
import time

import pytest

from common import (ATTACHMENTS, COUNT, START_SECONDS, TRACERS, Tool,
                    bpf_programs, burst, fdinfo, mounted, odd_name, own_rows,
                    pinned_map, run, started, wait_until)

each_tool = pytest.mark.parametrize("tool", TRACERS)
PERF_BUFFER, RING_BUFFER = 4, 27    # enum bpf_map_type


@pytest.mark.short
def test_attached_as_asked(tracer):
    how = tracer.attachment
    wait_until(lambda: "\n" in tracer.stderr)
    pattern = {"fallback": "kprobe; no fentry: .+; no tracepoint: .+",
               "perf_buffer": "(fentry|(tracepoint|kprobe); no fentry: .+)"}
    assert re.fullmatch("Tracing by %s." % pattern.get(how, how),
                        tracer.stderr.split("\n")[0])
    types = fdinfo(tracer.process.pid, "map_type")
    assert (PERF_BUFFER in types) == (how == "perf_buffer")
    assert (RING_BUFFER in types) != (how == "perf_buffer")


@pytest.mark.short
def test_threads(tracer):
    """Seven threads that act at once, under a name that CSV has to quote."""
    workload, pid, name = tracer.workload, tracer.process.pid, 'a,"b%s'

    def act():
        with odd_name(name.encode()):
            for number in range(COUNT):
                workload.act(number)
    skipped = sum(fdinfo(pid, "recursion_misses"))      # Linux 5.12
    with tracer.traced() as rows:
        threads = [threading.Thread(target=act) for _ in range(7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = collections.Counter(
        workload.number(row) for row in own_rows(rows) if row["COMM"] == name)
    if sum(fdinfo(pid, "recursion_misses")) == skipped:
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
@pytest.mark.parametrize("channel", [os.pipe, pty.openpty])
def test_rows_come_at_once(tool, channel):
    """Also after Ctrl-Z and fg. Half of the rows come within 0.2 s."""
    tracer, delays = TRACERS[tool], []
    reader, writer = channel()
    with os.fdopen(reader, "rb", 0) as out, os.fdopen(writer) as stdout:
        with started(tool, "-p", str(os.getpid()), *tracer.only_acts,
                     stdout=stdout) as process:
            assert b"PID" in out.readline()
            for number in range(9):
                begin = time.monotonic()
                tracer.workload.act(number)
                assert out.readline()
                delays.append(time.monotonic() - begin)
                if number % 3 == 2:
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(0.2)
                    process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    assert sorted(delays)[4] < 0.2


@each_tool
@pytest.mark.parametrize("how", ["auto", "perf_buffer"])
def test_bursts(tool, how):
    """More than a batch, more than the ring buffer holds, many processes, and
    in the end more than it can hold while the tool is stopped."""
    bursts, (_, prefix) = {}, ATTACHMENTS.get(how, ([], []))
    tool = Tool(tool, *TRACERS[tool].only_acts, prefix=prefix)

    def run_bursts(processes, count):
        started = [burst(tool.name, count) for _ in range(processes)]
        for process in started:
            assert process.wait(60) == 0
            bursts[str(process.pid)] = count

    def check_whole(made):
        table = tool.table()
        shown = sum(row["PID"] in bursts for row in table)
        assert shown + tool.lost >= made
        if len(table) < shown + 100:    # or others' events are lost, too
            assert shown + tool.lost < made + 100
            assert own_rows(table, list(bursts)[-1])
        return table
    with tool:
        for processes, count in (2, 100000), (2, 100000), (11, 101):
            run_bursts(processes, count)
            made = sum(bursts.values())
            wait_until(lambda: len(tool.rows) + tool.lost >= made)
        table, lost = check_whole(made), tool.lost
        assert not lost or how == "perf_buffer"
        for pid, count in bursts.items() if not lost else ():
            numbers = list(map(tool.workload.number, own_rows(table, pid)))
            if how == "perf_buffer":    # rows are in order by CPU
                numbers.sort()
            assert numbers == list(range(count))
        tool.send(signal.SIGSTOP)
        run_bursts(1, 400000)
        tool.send(signal.SIGCONT)
    check_whole(made + 400000)
    assert tool.lost > lost


@each_tool
def test_no_loss_from_before_it_traced(tool):
    """Acts go on while it attaches, which takes long: it sees entries without
    their returns, and each thread acts again later."""
    tracer, stop = TRACERS[tool], threading.Event()

    def act(first):
        stop.wait(first)
        while not stop.wait(0.5):
            tracer.workload.act()
    with concurrent.futures.ThreadPoolExecutor(601) as actors:
        actors.map(act, [number / 1202 for number in range(601)])
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
def test_duration_and_odd_names(tool):
    """No byte of a name does harm, also where output has ASCII only."""
    tool = Tool(tool, "-p", os.getpid(), *TRACERS[tool].only_acts, "-d", "1.5",
                env=dict(os.environ, LC_ALL="C", PYTHONUTF8="0",
                         PYTHONCOERCECLOCALE="0")).start()
    began = time.monotonic()
    for name in b"%d\x1b[2J\n\xff", "sp\u00e9".encode():
        with odd_name(name):
            tool.workload.act()
    assert tool.process.wait(60) == 0
    assert time.monotonic() - began > 1
    first, second = tool.rows
    assert " %d?[2J?? " in first and " sp? " in second
    assert tool.stderr == ""


@each_tool
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_last_events_are_printed(tool, number):
    tool = Tool(tool, "-p", os.getpid(), *TRACERS[tool].only_acts,
                env=dict(os.environ, LC_ALL="C.UTF-8")).start()
    with odd_name("sp\u00e9".encode()):
        for _ in range(COUNT):
            tool.workload.act()
    assert tool.stop(number) == 0
    assert [row["COMM"] for row in tool.table()] == ["sp\u00e9"] * COUNT
    assert tool.stderr == ""


@each_tool
def test_second_signal_ends_it_at_once(tool):
    """While nobody reads what it writes: more than a pipe holds."""
    with started(tool, *TRACERS[tool].only_acts, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        assert burst(tool, 20000).wait(60) == 0
        process.send_signal(signal.SIGINT)
        with open("/proc/%d/status" % process.pid) as f:
            wait_until(lambda: f.seek(0) or not int(re.search(
                r"SigCgt:\s*(\w+)", f.read())[1], 16) & 1 << signal.SIGINT - 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
        assert process.stderr.read() == b""


@each_tool
def test_closed_pipe_ends_it_quietly(tool):
    """Also when no event follows that would be written."""
    with started(tool, "-p", str(os.getpid()), stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as process:
        assert b"PID" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@each_tool
def test_full_disk(tool):
    done = run(tool, prefix=["sh", "-c", 'exec "$@" > /dev/full', "sh"],
               timeout=START_SECONDS)
    assert done.returncode == 1
    assert re.fullmatch(tool + ".py: can't .*write: No space left on device\n",
                        done.stderr)


@pytest.mark.parametrize("option", [     # see kernels/run
    "cgroupmap", pytest.param("mntnsmap", marks=pytest.mark.short)])
@each_tool
def test_container(tool, option, cgroup, tmp_path):
    """Only a process in it is shown."""
    if option == "mntnsmap" and "BCC_KERNEL_SOURCE" in os.environ:
        pytest.skip("requires the headers of the running kernel itself")
    inner = burst(tool, COUNT, prefix=mounted("read line"),
                  stdin=subprocess.PIPE)
    namespace = "/proc/%d/ns/mnt" % inner.pid
    wait_until(lambda: not os.path.samefile(namespace, "/proc/self/ns/mnt"))
    pathlib.Path(cgroup, "cgroup.procs").write_text(str(inner.pid))
    size, file = (8, cgroup) if option == "cgroupmap" else (4, namespace)
    with pinned_map(tmp_path, size, os.stat(file).st_ino) as path:
        with Tool(tool, "--" + option, path, *TRACERS[tool].only_acts) as tool:
            tool.workload.act()
            inner.communicate(b"\n", timeout=60)
    assert [row["PID"] for row in tool.table()] == [str(inner.pid)] * COUNT
