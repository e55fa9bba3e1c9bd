"""killsnoop: known signals, exact rows."""

import collections
import contextlib
import ctypes
import os
import pathlib
import pty
import re
import resource
import signal
import subprocess
import tempfile
import time

import pytest

from common import (COUNT, PYTHON, Tool, cells, in_child, own_rows,
                    pinned_map, run_command)
import signals
from signals import CALLS, kill, pidfd_send_signal

ME, GROUP, NOBODY = str(os.getpid()), str(-os.getpgrp()), "65534"
RTMIN = int(signal.SIGRTMIN)


def rows_about(rows, *pids):
    """Return the rows that processes sent, or the kernel sent to them."""
    return [row for row in rows if (
        row["TPID" if row["PID"] == "0" else "PID"] in pids)]


@pytest.mark.short
def test_every_call(tracer, target):
    """Also of calls that do not return."""
    expected, pid = collections.Counter(), str(target.pid)
    with tracer.traced() as rows:
        for call in CALLS:
            known = "-" if call is pidfd_send_signal else pid
            for sig, shown in (
                    (0, ("0", known, "-", "0")),
                    (signal.SIGUSR1, ("SIGUSR1", pid, "sleep", "ignored")),
                    (65, ("65", known, "-", "EINVAL")),
                    (64, ("SIGRTMIN+30", pid, "sleep", "0"))):   # blocked
                for _ in range(COUNT):
                    call(target.pid, sig)
                expected[(call.__name__,) + shown] += COUNT
        kill(target.pid, signal.SIGKILL)
        expected["kill", "SIGKILL", pid, "sleep", "0"] += 1
        suicides = [in_child(lambda: call(os.getpid(), signal.SIGKILL))[0]
                    for call in CALLS]
    assert collections.Counter(cells(
        own_rows(rows), "SYSCALL SIG TPID TCOMM RESULT")) == expected
    for call, suicide in zip(CALLS, suicides):
        row, _ = own_rows(rows, suicide)    # the other is its SIGCHLD
        assert cells([row], "SYSCALL SIG TPID TCOMM RESULT") == [
            (call.__name__, "SIGKILL", str(suicide), row["COMM"], "0")]


@pytest.mark.short
def test_effects(tracer, target):
    """Of signals that the target ignores, or that are pending already."""
    with tracer.traced() as rows:
        for sig in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGUSR2,
                    signal.SIGCONT):
            for _ in range(COUNT):
                kill(target.pid, sig)
    assert cells(own_rows(rows), "SIG RESULT") == [
        *COUNT * [("SIGUSR1", "ignored")], *COUNT * [("SIGWINCH", "ignored")],
        ("SIGUSR2", "0"), *(COUNT - 1) * [("SIGUSR2", "pending")],
        *COUNT * [("SIGCONT", "0")]]


def test_results_as_the_call_said(tracer):
    nobody = signals.no_process()
    with tracer.traced() as rows:
        for arguments in (
                (0, 0), (int(GROUP), 0), (nobody, 15), (nobody, 31),
                (nobody, 32), (nobody, RTMIN), (1, 65), (1, -1), (-2**31, 0),
                (2**31 - 1, 2**31 - 1), (-1, 999)):
            kill(*arguments)
        signals.syscall("pidfd_send_signal", 999, 0, None, 0)
    assert cells(own_rows(rows), "SYSCALL TPID SIG RESULT") == [
        ("kill", "0", "0", "0"), ("kill", GROUP, "0", "0"),
        *[("kill", str(nobody), name, "ESRCH") for name in (
            "SIGTERM", "SIGSYS", "32", "SIGRTMIN+0")],
        ("kill", "1", "65", "EINVAL"), ("kill", "1", "-1", "EINVAL"),
        ("kill", "-", "0", "ESRCH"),
        ("kill", str(2**31 - 1), str(2**31 - 1), "ESRCH"),
        ("kill", "-1", "999", "EINVAL"),
        ("pidfd_send_signal", "-", "0", "EBADF")]


def test_process_group(tracer, target):
    """One row. TCOMM and RESULT are those of the member that came first."""
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                             preexec_fn=lambda: os.setpgid(0, target.pid))
    with tracer.traced() as rows:
        by_pidfd = pidfd_send_signal(target.pid, signal.SIGWINCH, flags=4)
        assert kill(-target.pid, signal.SIGUSR1) == 0
        assert other.wait(60) == -signal.SIGUSR1
    first, second = own_rows(rows)
    assert cells([first], "TPID RESULT") == [
        ("-", "EINVAL" if by_pidfd else "ignored")]     # before Linux 6.9
    assert cells([second], "SIG TPID") == [("SIGUSR1", str(-target.pid))]
    assert (second["TCOMM"], second["RESULT"]) in (
        ("sleep", "ignored"), ("cat", "0"))


NAMESPACE = ["unshare", "-pf", "--mount-proc"]


@contextlib.contextmanager
def started_pair(prefix):
    """Yield a function that runs signals.pair(), the host's PIDs of its sender
    and victim, and the rows expected: SYSCALL, SIG, TPID, RESULT."""
    process = subprocess.Popen(
        [*prefix, PYTHON, signals.__file__, "pair"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, universal_newlines=True)
    sender, victim, thread = process.stdout.readline().split()
    host_sender = child_of(process.pid) if prefix else sender
    host_victim = child_of(host_sender)

    def go():
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n"
    as_given = [(call.__name__, pid) for pid in (victim, sender)
                for call in CALLS] + [("tkill", thread), ("tgkill", victim),
                                      ("rt_tgsigqueueinfo", victim)]
    if signals.pidfd_open(os.getpid(), signals.PIDFD_THREAD) > 0:
        as_given.append(("pidfd_send_signal", victim))
    expected = [(name, "0", "-" if "pidfd" in name else pid, "0")
                for name, pid in as_given]
    expected += [(name, "SIGUSR1", host_sender if pid == sender else
                  host_victim, "ignored") for name, pid in as_given]
    yield go, host_sender, host_victim, expected
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def child_of(pid):
    """Return the PID of a process' first child."""
    with open("/proc/%s/task/%s/children" % (pid, pid)) as f:
        return f.read().split()[0]


@pytest.mark.short
@pytest.mark.parametrize("prefix", [[], NAMESPACE], ids=["host", "namespace"])
def test_target_is_the_hosts(tracer, prefix):
    """By each call, to a process, itself, and a thread that leads none. Where
    no signal is generated it is what the call said."""
    with started_pair(prefix) as (go, sender, _, expected):
        with tracer.traced() as rows:
            go()
    assert cells(own_rows(rows, sender), "SYSCALL SIG TPID RESULT") == expected


def test_filters_in_a_namespace():
    with started_pair(NAMESPACE) as (go, sender, victim, expected):
        with Tool("killsnoop", "-evn") as external, \
                Tool("killsnoop", "-vnT", victim) as to_victim:
            go()
    own = ("1", sender)
    for tool, wanted in (
            (external, [row for row in expected if row[2] not in own]),
            (to_victim, [row for row in expected if row[2] == victim])):
        assert cells(own_rows(tool.table(), sender),
                     "SYSCALL SIG TPID RESULT") == wanted


def fault():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)   # not pytest's
    ctypes.string_at(1)


def break_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        os.write(writer, b"x")


def time_out():
    """Wait for setitimer(2)'s timer, then for one of a CPU clock."""
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not fired:
        time.sleep(0.01)
    timer, value = ctypes.c_int(), (ctypes.c_long * 4)(0, 0, 0, 10**7)
    signals.syscall("timer_create", time.CLOCK_PROCESS_CPUTIME_ID, None,
                    ctypes.byref(timer))
    signals.syscall("timer_settime", timer, 0, value, None)
    while len(fired) < 2:
        pass        # its signal comes in this process' context


def interrupt_terminal():
    """Type Ctrl-C on a terminal. Return the PID of the process there."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(1, b"ready")
        time.sleep(60)
        os._exit(0)
    assert os.read(terminal, 5) == b"ready"
    os.write(terminal, b"\x03")
    assert os.waitpid(pid, 0)[1] == signal.SIGINT
    os.close(terminal)
    return pid


@pytest.mark.short
def test_signals_that_no_call_explains(tracer, target):
    with tracer.traced() as rows:
        pids = [in_child(function)[0]
                for function in (fault, break_pipe, time_out)]
        pids.append(interrupt_terminal())
        sender, failed = in_child(signals.ia32_kill, target.pid,
                                  signal.SIGUSR1)
    pids = list(map(str, pids))
    expected = [
        ("0", "SIGSEGV", pids[0], "0"), ("0", "SIGALRM", pids[2], "0"),
        ("0", "SIGALRM", pids[2], "0"), ("0", "SIGINT", pids[3], "0"),
        (pids[1], "SIGPIPE", pids[1], "ignored")]
    if not failed:      # or there are no 32-bit system calls here
        pids.append(str(sender))
        expected.append((pids[4], "SIGUSR1", str(target.pid), "ignored"))
    expected += [(pid, "SIGCHLD", ME, "ignored") for pid in pids]
    seen = [row for row in rows_about(rows, *pids)
            if row["SIG"] not in ("SIGHUP", "SIGCONT")]     # a terminal's
    assert sorted(cells(seen, "PID SIG TPID RESULT")) == sorted(expected)
    assert {row["SYSCALL"] for row in seen} == {"-"}
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    assert set(cells(seen, "COMM")) == {("kernel",), (comm,)}
    assert {row["CGROUP"] for row in seen if row["COMM"] == "kernel"} == {"-"}


@pytest.fixture(scope="module")
def memory_cgroup(cgroup2, tmp_path_factory):
    """Return the folder of a cgroup that has 16 MB of memory."""
    top, limits = cgroup2, ["memory.max", "memory.swap.max"]
    try:
        pathlib.Path(top, "cgroup.subtree_control").write_text("+memory")
    except OSError:     # it is in cgroup version 1
        top = str(tmp_path_factory.mktemp("memory"))
        limits = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        if subprocess.call(["mount", "-t", "cgroup", "-o", "memory", "none",
                            top]):
            pytest.skip("no memory cgroup can be had here")
    group = pathlib.Path(tempfile.mkdtemp(dir=top))
    for limit in limits:    # swap may not be accounted for
        if (group / limit).exists():
            (group / limit).write_text(str(16 << 20))
    yield str(group)
    group.rmdir()
    if top != cgroup2:
        subprocess.check_call(["umount", top])


def test_out_of_memory(tracer, memory_cgroup):
    with tracer.traced() as rows:
        pid, status = in_child(lambda: b"x" * (64 << 20), group=memory_cgroup)
    assert status == signal.SIGKILL
    (row,) = [row for row in rows if row["TPID"] == str(pid)]
    assert cells([row], "PID COMM SYSCALL SIG RESULT CGROUP") == [
        ("0", "kernel", "-", "SIGKILL", "0", "-")]


def test_cgroup(tracer, target, cgroup):
    """Of senders that have ended; the second one's cgroup, too."""
    gone = cgroup + "/gone"
    with tracer.traced() as rows:
        tracer.send(signal.SIGSTOP)
        os.mkdir(gone)
        inode = os.stat(gone).st_ino
        first, _ = in_child(kill, target.pid, 0, group=cgroup)
        second, _ = in_child(kill, target.pid, 0, group=gone)
        os.rmdir(gone)
        tracer.send(signal.SIGCONT)
    (path,) = {row["CGROUP"] for row in own_rows(rows, first)}
    assert path == "/" + os.path.basename(cgroup)
    assert {row["CGROUP"] for row in own_rows(rows, second)} == {str(inode)}


Row = collections.namedtuple("Row", "PID UID SYSCALL SIG TPID RESULT")


def do_a_mixture(target):
    """Do something for each filter. Return what killsnoop -avU shows."""
    def send_as_nobody():
        os.setuid(int(NOBODY))
        kill(target.pid, 0)
        kill(os.getpid(), 0)
    rows = [(ME, 0, call.__name__, sig, "-" if call != kill and not sig else
             pid, call(pid, sig)) for call, pid, sig in (
        (kill, target.pid, 0), (kill, target.pid, 10), (kill, int(GROUP), 0),
        *[(kill, signals.no_process(), sig) for sig in (
            9, 15, RTMIN, RTMIN + 3, 63, 64)],
        (kill, 0, 0), (kill, int(ME), 0),
        (pidfd_send_signal, target.pid, 0),
        (pidfd_send_signal, target.pid, 10),
        (pidfd_send_signal, int(ME), int(signal.SIGCONT)))]
    for function, uid, sent in (
            (send_as_nobody, NOBODY, [
                ("PID", NOBODY, "kill", 0, target.pid, -1),
                ("PID", NOBODY, "kill", 0, "PID", 0)]),
            (fault, 0, [(0, 0, "-", 11, "PID", 0)]),
            (break_pipe, 0, [("PID", 0, "-", 13, "PID", 0)])):
        pid, _ = in_child(function)
        rows += [[pid if cell == "PID" else cell for cell in row]
                 for row in sent + [("PID", uid, "-", 17, ME, 0)]]
    return [Row(*map(str, row)) for row in rows]


FILTERS = {
    "": lambda row: row.SYSCALL != "-",
    "-a": lambda row: True,
    "-ax": lambda row: row.RESULT < "0",
    "-ap self": lambda row: row.PID == ME,
    "-aT self": lambda row: row.TPID == ME,
    "-aT group": lambda row: row.TPID == GROUP,
    "-aT 0": lambda row: row.TPID == "0",
    "-as 0,9,SEGV,term": lambda row: row.SIG in ("0", "9", "11", "15"),
    "-as RTMIN+3,SIGRTMIN,rtmax-1,SIGRTMAX":
        lambda row: int(row.SIG) in (RTMIN + 3, RTMIN, 63, 64),
    "-au " + NOBODY: lambda row: row.UID == NOBODY,
    "-ae": lambda row: row.PID != row.TPID}


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options, target):
    options_here = options.replace("self", ME).replace("group", GROUP).split()
    with Tool("killsnoop", "-vU", *options_here) as tool:
        expected = do_a_mixture(target)
    pids = {row.PID for row in expected} - {"0"}
    assert cells(rows_about(tool.table(), *pids), " ".join(Row._fields)) == (
        list(filter(FILTERS[options], expected)))


def test_cgroupmap_and_all(cgroup, tmp_path):
    with pinned_map(tmp_path, 8, os.stat(cgroup).st_ino) as path:
        with Tool("killsnoop", "-av", "--cgroupmap", path) as tool:
            in_child(fault)
            inside = [in_child(function, group=cgroup)[0]
                      for function in (fault, break_pipe)]
    first, second = map(str, inside)
    assert cells(tool.table(), "PID SYSCALL SIG TPID") == [
        ("0", "-", "11", first), (first, "-", "17", ME),
        (second, "-", "13", second), (second, "-", "17", ME)]


def test_default_output(target):
    """Byte for byte. TIME is that of the signal, not of the printing."""
    with open("/proc/sys/kernel/pid_max") as f:
        width = len(f.read().strip()) + 1
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    form = "%%-9s %%-%ds %%-16s %%-4s %%-%ds %%s" % (width, width)
    with Tool("killsnoop", "-p", ME) as tool:
        tool.send(signal.SIGSTOP)
        times = [time.time()]
        kill(target.pid, signal.SIGTERM)
        times.append(time.time())
        time.sleep(1.1)
        tool.send(signal.SIGCONT)
    assert tool.header == form % ("TIME", "PID", "COMM", "SIG", "TPID",
                                  "RESULT")
    (row,) = tool.rows
    assert row in [form % (time.strftime("%H:%M:%S", time.localtime(second)),
                           ME, comm, 15, target.pid, 0) for second in times]
    assert tool.stderr == ""


def test_all_columns(target):
    with Tool("killsnoop", "-ncUvg", "-p", ME) as tool:
        signals.tgkill(target.pid, signal.SIGUSR1)
    assert tool.header.split() == ("TIME UID PID COMM SYSCALL SIG TPID TCOMM "
                                   "RESULT CGROUP").split()
    (row,) = tool.rows
    assert cells(tool.table(), "UID PID SYSCALL SIG TPID TCOMM RESULT") == [
        ("0", ME, "tgkill", "SIGUSR1", str(target.pid), "sleep", "ignored")]
    for title in tool.header.split()[1:]:   # titles stand over values
        at = tool.header.index(" " + title)
        assert row[at] == " " and row[at + 1] != " "


def test_agrees_with_strace():
    with Tool("killsnoop", "-vn") as tool:
        traced = run_command(
            "strace", "-qq", "-e", "signal=none", "-e", "trace=" + ",".join(
                call.__name__ for call in CALLS), PYTHON, signals.__file__)
    expected = []
    for line in traced.stderr.splitlines():
        name, arguments, result, error = re.match(
            r"(\w+)\((.*)\) += (-?\d+)(?: (\w+))?", line).groups()
        sig = arguments.split(", ")[2 if "tg" in name else 1]
        expected.append((name, sig, error or result))
    assert len(expected) == COUNT
    rows = [row for row in tool.table() if row["COMM"] != "strace"]
    (sender,) = {row["PID"] for row in rows if row["SYSCALL"] == "tkill"}
    assert [(name, sig, result.replace("ignored", "0")) for name, sig, result
            in cells(own_rows(rows, sender), "SYSCALL SIG RESULT")] == expected
