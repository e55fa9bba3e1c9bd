"""Every tracer shows events at once, whole and in order, reports what it lost,
and ends well: however it attaches, where that matters."""

import collections
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from common import (ATTACHMENTS, COUNT, START_SECONDS, TRACERS, Tool,
                    bpf_programs, burst, fdinfo, odd_name, own_rows,
                    pinned_map, started, wait_until)

each_tool = pytest.mark.parametrize("tool", TRACERS)
PERF_BUFFER, RING_BUFFER = 4, 27    # enum bpf_map_type


def test_attached_as_asked(tracer, attachment):
    _, how = attachment
    wait_until(lambda: tracer.stderr.endswith("\n"))
    pattern = {"fallback": "kprobe; no fentry: .+; no tracepoint: .+",
               "perf_buffer": "(fentry|(tracepoint|kprobe); no fentry: .+)"}
    assert re.fullmatch("Tracing by %s.\n" % pattern.get(how, how),
                        tracer.stderr)
    types = fdinfo(tracer.process.pid, "map_type")
    assert (PERF_BUFFER in types) == (how == "perf_buffer")
    assert (RING_BUFFER in types) != (how == "perf_buffer")


def test_csv(tracer, attachment):
    """With a name that has to be quoted."""
    with tracer.traced() as rows, odd_name(b'a,"b%s'):
        TRACERS[attachment[0]].workload.act()
    assert [row["COMM"] for row in own_rows(rows)] == ['a,"b%s']


def test_threads(tracer, attachment):
    """Seven threads that act at once."""
    workload, pid = TRACERS[attachment[0]].workload, tracer.process.pid

    def act():
        for number in range(COUNT):
            workload.act(number)
    skipped = sum(fdinfo(pid, "recursion_misses"))      # Linux 5.12
    with tracer.traced() as rows:
        # Python 3.14 would name them, with a blank, for the kernel too.
        threads = [threading.Thread(target=act, name="actor")
                   for _ in range(7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = collections.Counter(map(workload.number, own_rows(rows)))
    seen = {number: numbers[number] for number in range(COUNT)}
    if sum(fdinfo(pid, "recursion_misses")) == skipped:
        assert seen == {number: 7 for number in range(COUNT)}
    assert max(seen.values()) <= 7


def test_sigkill_leaves_no_program(tracer):
    """Last of those by each way: another test would start the tool again."""
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

    def read_line(seconds):
        assert select.select([out], [], [], seconds)[0]
        return out.readline()
    with os.fdopen(reader, "rb", 0) as out, os.fdopen(writer) as stdout:
        with started(tool, "-p", str(os.getpid()), *tracer.only_acts,
                     stdout=stdout) as process:
            assert b"PID" in read_line(START_SECONDS)
            for number in range(9):
                begin = time.monotonic()
                tracer.workload.act(number)
                assert read_line(60)
                delays.append(time.monotonic() - begin)
                if number % 3 == 2:
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(0.2)
                    process.send_signal(signal.SIGCONT)
            assert sorted(delays)[4] < 0.2
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


@each_tool
@pytest.mark.parametrize("how", ["auto", "perf_buffer"])
def test_bursts(tool, how):
    """More than a batch, more than the ring buffer holds, many processes, and
    in the end more than it can hold while the tool is stopped."""
    workload, bursts = TRACERS[tool].workload, {}
    _, prefix = ATTACHMENTS.get(how, ([], []))
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
        for processes, count in (2, 100000), (2, 100000), (31, 101):
            run_bursts(processes, count)
            made = sum(bursts.values())
            wait_until(lambda: len(tool.rows) + tool.lost >= made)
        table, lost = check_whole(made), tool.lost
        assert not lost or how == "perf_buffer"
        for pid, count in bursts.items() if not lost else ():
            numbers = list(map(workload.number, own_rows(table, pid)))
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
    """Acts go on while it attaches: it sees entries without their returns,
    and each thread acts again later."""
    tracer, stop, actors = TRACERS[tool], threading.Event(), []

    def act(first):
        stop.wait(first)
        while not stop.wait(1.5):
            tracer.workload.act()
    try:
        for number in range(1501):
            actors.append(threading.Thread(target=act, args=(number / 1000,)))
            actors[-1].start()
        with Tool(tool, "-p", os.getpid(), *tracer.only_acts) as tool:
            wait_until(lambda: len(tool.rows) > 3001)   # two acts of each
    finally:
        stop.set()
        for actor in actors:
            actor.join()
    assert tool.stderr == ""


@each_tool
def test_duration_and_odd_names(tool):
    """No byte of a name does harm, also where output has ASCII only."""
    tracer = TRACERS[tool]
    tool = Tool(tool, "-p", os.getpid(), *tracer.only_acts, "-d", "1.5",
                env=dict(os.environ, LC_ALL="C", PYTHONUTF8="0",
                         PYTHONCOERCECLOCALE="0"))
    tool.start()
    began = time.monotonic()
    for name in b"%d\x1b[2J\n\xff", "sp\u00e9".encode():
        with odd_name(name):
            tracer.workload.act()
    assert tool.process.wait(60) == 0
    assert time.monotonic() - began > 1
    assert len(tool.rows) == 2
    assert " %d?[2J?? " in tool.rows[0]
    assert " sp? " in tool.rows[1]
    assert tool.stderr == ""


@each_tool
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_last_events_are_printed(tool, number):
    tracer = TRACERS[tool]
    with odd_name("sp\u00e9".encode()):
        tool = Tool(tool, "-p", os.getpid(), *tracer.only_acts,
                    env=dict(os.environ, LC_ALL="C.UTF-8")).start()
        for _ in range(COUNT):
            tracer.workload.act()
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
    with started(tool, *TRACERS[tool].no_rows, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE) as process:
        assert b"PID" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@each_tool
def test_full_disk(tool):
    with open("/dev/full", "w") as full:
        with started(tool, stdout=full, stderr=subprocess.PIPE) as process:
            assert process.wait(START_SECONDS) == 1
            assert re.fullmatch(
                tool + ".py: can't .*write: No space left on device\n",
                process.stderr.read().decode())


@each_tool
def test_cgroupmap(tool, cgroup, tmp_path):
    with pinned_map(tmp_path, 8, os.stat(cgroup).st_ino) as path:
        check_container_map(tool, path, "--cgroupmap",
                            ["sh", "-c", 'echo 0 > %s/cgroup.procs; exec "$@"'
                             % cgroup, "sh"])


@pytest.mark.short
@pytest.mark.parametrize("option", ["mntnsmap"])     # a column of kernels/run
@each_tool
def test_mntnsmap(tool, option, tmp_path):
    if "BCC_KERNEL_SOURCE" in os.environ:
        pytest.skip("requires the headers of the running kernel itself")
    with tempfile.NamedTemporaryFile() as link:
        subprocess.check_call(["unshare", "--mount=" + link.name, "true"])
        try:
            with pinned_map(tmp_path, 4, os.stat(link.name).st_ino) as path:
                check_container_map(tool, path, "--mntnsmap",
                                    ["nsenter", "--mount=" + link.name])
        finally:
            subprocess.check_call(["umount", link.name])


def check_container_map(tool, path, option, inside):
    """Check that only a burst from inside is shown."""
    tracer = TRACERS[tool]
    with Tool(tool, option, path, *tracer.only_acts) as tool:
        inner = burst(tool.name, COUNT, prefix=inside)
        tracer.workload.act()
        assert inner.wait(60) == 0
    assert [row["PID"] for row in tool.table()] == [str(inner.pid)] * COUNT
