"""killsnoop: known signals, exact rows."""

import collections
import contextlib
import csv
import ctypes
import os
import pty
import re
import resource
import signal
import subprocess
import time

import pytest

from common import (COUNT, PYTHON, WAYS, Tool, cells, in_child, odd_name,
                    own_rows, pinned_map)
import signals
from signals import kill, pidfd_send_signal

SIX = list(signals.CALLS.values())[:6]
ME, GROUP, NOBODY = str(os.getpid()), str(-os.getpgrp()), "65534"
each_way = pytest.mark.parametrize(
    "way", [("killsnoop", how) for how in WAYS], indirect=True, ids="-".join)


def rows_about(rows, pids):
    """Return the rows that processes sent, or the kernel sent to them."""
    return [row for row in rows if (
        row["TPID" if row["PID"] == "0" else "PID"] in pids)]


@each_way
def test_every_call(tracer, target):
    expected, pid = collections.Counter(), str(target.pid)
    with tracer.traced() as rows:
        for call in SIX:
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
    assert collections.Counter(cells(
        own_rows(rows), "SYSCALL SIG TPID TCOMM RESULT")) == expected


@each_way
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


@each_way
def test_results_as_the_call_said(tracer):
    nobody = signals.no_process()
    with tracer.traced() as rows:
        for arguments in ((0, 0), (int(GROUP), 0), (nobody, 15), (1, 65),
                          (1, -1), (-2**31, 0), (2**31 - 1, 2**31 - 1),
                          (-1, 999)):
            kill(*arguments)
        signals.syscall("pidfd_send_signal", 999, 0, None, 0)
    assert cells(own_rows(rows), "SYSCALL TPID SIG RESULT") == [
        ("kill", "0", "0", "0"), ("kill", GROUP, "0", "0"),
        ("kill", str(nobody), "SIGTERM", "ESRCH"),
        ("kill", "1", "65", "EINVAL"), ("kill", "1", "-1", "EINVAL"),
        ("kill", "-", "0", "ESRCH"),
        ("kill", str(2**31 - 1), str(2**31 - 1), "ESRCH"),
        ("kill", "-1", "999", "EINVAL"),
        ("pidfd_send_signal", "-", "0", "EBADF")]


@each_way
def test_suicide_is_shown(tracer):
    """By a call that does not return."""
    with tracer.traced() as rows:
        process = signals.burst("kill", signal.SIGKILL, 1)
        assert process.wait(60) == -signal.SIGKILL
    (row,) = [row for row in own_rows(rows, process.pid)
              if row["SYSCALL"] == "kill"]
    assert cells([row], "TPID TCOMM RESULT") == [
        (str(process.pid), row["COMM"], "0")]


@each_way
def test_process_group(tracer):
    """One row. TCOMM and RESULT are those of the member that came first."""
    PIDFD_SIGNAL_PROCESS_GROUP = 4      # Linux 6.9
    leader = signals.start_target(group=0)
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                             preexec_fn=lambda: os.setpgid(0, leader.pid))
    with tracer.traced() as rows:
        by_pidfd = pidfd_send_signal(leader.pid, signal.SIGWINCH,
                                     flags=PIDFD_SIGNAL_PROCESS_GROUP)
        assert kill(-leader.pid, signal.SIGUSR1) == 0
        assert other.wait(60) == -signal.SIGUSR1
    other.stdin.close()
    leader.kill()
    leader.wait()
    first, second = own_rows(rows)
    assert cells([first], "TPID RESULT") == [
        ("-", "EINVAL" if by_pidfd else "ignored")]
    assert cells([second], "SIG TPID") == [("SIGUSR1", str(-leader.pid))]
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
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    names = [call.__name__ for call in SIX]
    to_thread = ["tkill", "tgkill", "rt_tgsigqueueinfo"]
    if signals.pidfd_open(os.getpid(), signals.PIDFD_THREAD) > 0:
        to_thread.append("pidfd_send_signal")
    as_given = [(name, victim) for name in names]
    as_given += [(name, sender) for name in names]
    as_given += [(name, thread if name == "tkill" else victim)
                 for name in to_thread]
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


@each_way
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


@each_way
def test_signals_that_no_call_explains(tracer, target):
    kernel = ("0", "kernel")
    with tracer.traced() as rows:
        pids = [in_child(function)[0]
                for function in (fault, break_pipe, time_out)]
        pids.append(interrupt_terminal())
        sender, status = in_child(signals.ia32_kill, target.pid,
                                  signal.SIGUSR1)
        pids.append(sender)
    pids = list(map(str, pids))
    comm = own_rows(rows, pids[0])[0]["COMM"]
    expected = {
        pids[0]: [kernel + ("SIGSEGV", pids[0], "0")],
        pids[1]: [(pids[1], comm, "SIGPIPE", pids[1], "ignored")],
        pids[2]: [kernel + ("SIGALRM", pids[2], "0")] * 2,
        pids[3]: [kernel + ("SIGINT", pids[3], "0")],
        pids[4]: [(pids[4], comm, "SIGUSR1", str(target.pid), "ignored")]}
    if status:      # no 32-bit system calls here
        expected.pop(pids[4])
    for pid, first in expected.items():
        seen = [row for row in rows_about(rows, [pid])
                if row["SIG"] not in ("SIGHUP", "SIGCONT")]     # a terminal's
        assert cells(seen, "PID COMM SIG TPID RESULT") == first + [
            (pid, comm, "SIGCHLD", ME, "ignored")]
        assert {row["SYSCALL"] for row in seen} == {"-"}
        assert {row["CGROUP"] for row in seen if row["PID"] == "0"} <= {"-"}


@pytest.fixture(scope="module")
def memory_cgroup(tmp_path_factory):
    """Return the folder of a cgroup that has 16 MB of memory."""
    folder = top = str(tmp_path_factory.mktemp("memory"))
    with open("/proc/self/mounts") as f:
        mounts = f.read()
    version1 = re.findall(r"(?m)^\S+ (\S+) cgroup \S*\bmemory\b", mounts)
    version2 = re.findall(r"(?m)^\S+ (\S+) cgroup2 ", mounts)[:1]
    with contextlib.suppress(OSError, IndexError):
        with open(version2[0] + "/cgroup.subtree_control", "w") as f:
            f.write("+memory")
        version1 = version2
    if version1:
        top = version1[0]
    elif subprocess.call(["mount", "-t", "cgroup", "-o", "memory", "none",
                          folder]):
        pytest.skip("no memory cgroup can be had here")
    group = top + "/bcc-tool-test-memory"
    os.mkdir(group)
    for name, limit in (
            ("memory.limit_in_bytes", 16 << 20), ("memory.max", 16 << 20),
            ("memory.memsw.limit_in_bytes", 16 << 20),
            ("memory.swap.max", 0)):
        if os.path.exists("%s/%s" % (group, name)):
            with open("%s/%s" % (group, name), "w") as f:
                f.write(str(limit))
    yield group
    os.rmdir(group)
    if top == folder:
        subprocess.check_call(["umount", folder])


@each_way
def test_out_of_memory(tracer, memory_cgroup):
    with tracer.traced() as rows:
        pid, status = in_child(lambda: b"x" * (64 << 20), group=memory_cgroup)
    assert status == signal.SIGKILL
    (row,) = [row for row in rows if row["TPID"] == str(pid)]
    assert cells([row], "PID COMM SYSCALL SIG RESULT CGROUP") == [
        ("0", "kernel", "-", "SIGKILL", "0", "-")]


@each_way
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
    rows, nobody = [], int(NOBODY)

    def send(call, pid, sig, shown=None):
        rows.append((ME, 0, call.__name__, sig, shown or pid, call(pid, sig)))

    def send_as_nobody():
        os.setuid(nobody)
        kill(target.pid, 0)
        kill(os.getpid(), 0)
    send(kill, target.pid, 0)
    send(kill, target.pid, int(signal.SIGUSR1))
    send(kill, signals.no_process(), int(signal.SIGTERM))
    send(kill, int(GROUP), 0)
    send(kill, 0, 0, "0")
    send(kill, int(ME), 0)
    send(pidfd_send_signal, target.pid, 0, "-")
    send(pidfd_send_signal, target.pid, int(signal.SIGUSR1))
    send(pidfd_send_signal, int(ME), int(signal.SIGCONT))
    for function, first in (
            (send_as_nobody, [("PID", NOBODY, "kill", 0, target.pid, -1),
                              ("PID", NOBODY, "kill", 0, "PID", 0)]),
            (fault, [(0, 0, "-", 11, "PID", 0)]),
            (break_pipe, [("PID", 0, "-", 13, "PID", 0)])):
        pid, _ = in_child(function)
        uid = NOBODY if function is send_as_nobody else 0
        rows += [tuple(pid if cell == "PID" else cell for cell in row)
                 for row in first + [("PID", uid, "-", 17, ME, 0)]]
    return [Row(*map(str, row)) for row in rows]


FILTERS = {
    "": lambda row: row.SYSCALL != "-",
    "-a": lambda row: True,
    "-ax": lambda row: row.RESULT < "0",
    "-ap self": lambda row: row.PID == ME,
    "-aT self": lambda row: row.TPID == ME,
    "-aT group": lambda row: row.TPID == GROUP,
    "-aT 0": lambda row: row.TPID == "0",
    "-as 0,SEGV,term": lambda row: row.SIG in ("0", "11", "15"),
    "-au " + NOBODY: lambda row: row.UID == NOBODY,
    "-ae": lambda row: row.PID != row.TPID}


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options, target):
    words = options.replace("self", ME).replace("group", GROUP).split()
    with Tool("killsnoop", "-vU", *words) as tool:
        expected = do_a_mixture(target)
    pids = {row.PID for row in expected} - {"0"}
    seen = [Row(*row) for row in cells(rows_about(tool.table(), pids),
                                       " ".join(Row._fields))]
    assert seen == list(filter(FILTERS[options], expected))


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


def test_signal_list():
    """Each way to write a signal."""
    rtmin = int(signal.SIGRTMIN)
    with Tool("killsnoop", "-p", ME, "-s",
              "9,term,SIGUSR1,RTMIN+3,SIGRTMIN,rtmax-1,SIGRTMAX,0") as tool:
        for sig in range(65):
            kill(signals.no_process(), sig)
    assert [int(row["SIG"]) for row in tool.table()] == [
        0, 9, 10, 15, rtmin, rtmin + 3, 63, 64]


def test_names():
    rtmin = int(signal.SIGRTMIN)
    with Tool("killsnoop", "-np", ME) as tool:
        for sig in 0, 9, 17, 31, 32, rtmin, rtmin + 3, 64, 65, -1:
            kill(signals.no_process(), sig)
    assert cells(tool.table(), "SIG RESULT") == [
        (name, "ESRCH") for name in (
            "0", "SIGKILL", "SIGCHLD", "SIGSYS", "32", "SIGRTMIN+0",
            "SIGRTMIN+3", "SIGRTMIN+%d" % (64 - rtmin), "65", "-1")]


def test_default_output(target):
    """Byte for byte. TIME is that of the signal, not of the printing."""
    with open("/proc/sys/kernel/pid_max") as f:
        width = len(f.read().strip()) + 1
    with Tool("killsnoop", "-p", ME) as tool:
        tool.send(signal.SIGSTOP)
        sent = time.time()
        kill(target.pid, signal.SIGTERM)
        time.sleep(2.1)
        tool.send(signal.SIGCONT)
    assert tool.header == "%-9s %-*s %-16s %-4s %-*s %s" % (
        "TIME", width, "PID", "COMM", "SIG", width, "TPID", "RESULT")
    with open("/proc/self/comm") as f:
        comm = f.read().strip()
    (row,) = tool.rows
    assert row in ["%-9s %-*s %-16s %-4d %-*d %d" % (
        time.strftime("%H:%M:%S", time.localtime(sent + second)), width, ME,
        comm, 15, width, target.pid, 0) for second in (0, 1)]
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


def test_csv(target):
    with Tool("killsnoop", "-jnc", "-p", ME) as tool:
        with odd_name(b'a,"b%s'):
            kill(target.pid, signal.SIGUSR1)
    assert tool.header == "TIME,PID,COMM,SIG,TPID,TCOMM,RESULT"
    (row,) = csv.reader(tool.rows)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", row[0])
    assert row[1:] == [ME, 'a,"b%s', "SIGUSR1", str(target.pid), "sleep",
                       "ignored"]


def test_agrees_with_strace():
    calls = ",".join(call.__name__ for call in SIX)
    with Tool("killsnoop", "-vn") as tool:
        traced = subprocess.run(
            ["strace", "-qq", "-e", "signal=none", "-e", "trace=" + calls,
             PYTHON, signals.__file__], stderr=subprocess.PIPE,
            universal_newlines=True, timeout=60)
    expected = []
    for line in traced.stderr.splitlines():
        name, arguments, result, error = re.match(
            r"(\w+)\((.*)\) += (-?\d+)(?: (\w+))?", line).groups()
        sig = arguments.split(", ")[2 if "tg" in name else 1]
        expected.append((name, sig, error or result))
    assert len(expected) == COUNT
    table = tool.table()
    (sender,) = {row["PID"] for row in table if (
        row["SYSCALL"] == "tkill" and row["COMM"] != "strace")}
    seen = cells([row for row in own_rows(table, sender)
                  if row["COMM"] != "strace"], "SYSCALL SIG RESULT")
    assert [(name, sig, result.replace("ignored", "0"))
            for name, sig, result in seen] == expected
