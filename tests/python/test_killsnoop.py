"""killsnoop: known signals, exact rows."""

import collections
import ctypes
import os
import pathlib
import pty
import re
import resource
import signal
import subprocess
import threading
import time

import pytest

from common import (COUNT, PYTHON, Tool, cells, in_child, mounted, odd_name,
                    own_rows, wait_until)
import signals
from signals import CALLS, kill, send

ME, GROUP, NOBODY = str(os.getpid()), str(-os.getpgrp()), "65534"
RTMIN, NO_PROCESS = int(signal.SIGRTMIN), signals.no_process()
COMM = pathlib.Path("/proc/self/comm").read_text()[:-1]
Row = collections.namedtuple("Row", "PID UID SYSCALL SIG TPID RESULT")


def rows_about(rows, *pids):
    """Return the rows that processes sent, or the kernel sent to them."""
    return [row for row in rows if (
        row["TPID" if row["PID"] == "0" else "PID"] in pids)]


# Arguments of kill(2), and the SIG, TPID and RESULT shown.
ODD_CALLS = [
    (0, 0, 0, 0, "0"), (int(GROUP), 0, 0, GROUP, "0"),
    (1, 65, 65, 1, "EINVAL"), (1, -1, -1, 1, "EINVAL"),
    (-1, 999, 999, -1, "EINVAL"), (-2**31, 0, 0, "-", "ESRCH"),
    (2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1, "ESRCH"),
    *[(NO_PROCESS, sig, shown, NO_PROCESS, "ESRCH") for sig, shown in (
        (15, "SIGTERM"), (31, "SIGSYS"), (32, 32), (RTMIN, "SIGRTMIN+0"))]]


def end_by(call, by_thread):
    """Have this process or its second thread killed, if a call can do that."""
    thread = threading.Thread(target=signal.pause, name=COMM, daemon=True)
    thread.start()
    send(call, os.getpid(), signal.SIGKILL, by_thread and thread.native_id)


@pytest.mark.short
def test_every_call(tracer, target):
    """Also of calls that do not return, and what becomes of each signal. Of a
    thread, the process is shown."""
    expected, pid = collections.Counter(), str(target.pid)
    with tracer.traced() as rows:
        for call in CALLS:
            known = "-" if "pidfd" in call else pid
            for sig, *shown in (
                    (0, "0", known, "-", "0"),
                    (signal.SIGUSR1, "SIGUSR1", pid, "sleep", "ignored"),
                    (signal.SIGWINCH, "SIGWINCH", pid, "sleep", "ignored"),
                    (signal.SIGCONT, "SIGCONT", pid, "sleep", "0"),
                    (65, "65", known, "-", "EINVAL"),
                    (64, "SIGRTMIN+30", pid, "sleep", "0")):    # blocked
                for _ in range(COUNT):
                    send(call, target.pid, sig)
                expected[(call, *shown)] = COUNT
        for result in ["0"] + (COUNT - 1) * ["pending"]:
            kill(target.pid, signal.SIGUSR2)
            expected["kill", "SIGUSR2", pid, "sleep", result] += 1
        kill(target.pid, signal.SIGKILL)
        expected["kill", "SIGKILL", pid, "sleep", "0"] = 1
        for number, sig, shown, to, result in ODD_CALLS:
            kill(number, sig)
            expected["kill", str(shown), str(to), "-", result] = 1
        signals.syscall("pidfd_send_signal", 999, 0, None, 0)
        expected["pidfd_send_signal", "0", "-", "-", "EBADF"] = 1
        calls = [(call, False) for call in CALLS] + [
            (call, True) for call in signals.TO_THREAD]
        suicides = [in_child(end_by, *call) for call in calls]
    titles = "SYSCALL SIG TPID TCOMM RESULT"
    assert collections.Counter(cells(own_rows(rows), titles)) == expected
    for (call, _), (pid, status) in zip(calls, suicides):
        assert cells(own_rows(rows, pid), titles) == [
            (call, "SIGKILL", str(pid), COMM, "0")] * (status != 0)


def test_process_group(tracer, target):
    """One row. TCOMM and RESULT are those of the member that came first."""
    other = subprocess.Popen(["cat"], stdin=subprocess.PIPE,
                             preexec_fn=lambda: os.setpgid(0, target.pid))
    with tracer.traced() as rows:
        by_pidfd = send("pidfd_send_signal", target.pid, signal.SIGWINCH,
                        flags=4)
        assert kill(-target.pid, signal.SIGUSR1) == 0
        assert other.wait(60) == -signal.SIGUSR1
        pid, _ = in_child(lambda: (signals.guard(), kill(0, signal.SIGUSR1)))
    (row,) = own_rows(rows, pid)
    assert cells([row], "SIG TPID RESULT") == [("SIGUSR1", "0", "ignored")]
    first, second = own_rows(rows)
    assert cells([first], "TPID RESULT") == [
        ("-", "EINVAL" if by_pidfd else "ignored")]     # before Linux 6.9
    assert cells([second], "SIG TPID TCOMM RESULT") in (
        [("SIGUSR1", str(-target.pid), "sleep", "ignored")],
        [("SIGUSR1", str(-target.pid), "cat", "0")])


def start_pair():
    """Start signals.pair(). Return its Popen, the PIDs of sender and victim,
    and the rows expected: SYSCALL, SIG, TPID, RESULT."""
    process = subprocess.Popen(
        ["unshare", "-pf", PYTHON, signals.__file__, "pair"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
    sender, victim = process.stdout.readline().split()
    as_given = [(call, pid) for pid in "21" for call in CALLS] + [
        (call, "3" if call == "tkill" else "2") for call in signals.TO_THREAD]
    if signals.pidfd_open(os.getpid(), signals.PIDFD_THREAD) < 0:
        as_given.pop()
    expected = [(name, "0", "-" if "pidfd" in name else pid, "0")
                for name, pid in as_given]
    expected += [(name, "SIGUSR1", sender if pid == "1" else victim, "ignored")
                 for name, pid in as_given]
    return process, sender, victim, expected


def ancestors(pid):
    """Return what PARENTS shows for a process, by proc(5)."""
    texts = []
    while pid != 0 and len(texts) < 8:
        status = pathlib.Path("/proc/%d/status" % pid).read_text()
        name, parent = re.findall(r"(?m)^(?:Name|PPid):\t(.*)", status)
        texts.append("%s:%d" % (name.replace(" < ", " ? "), pid))
        pid = int(parent)
    return " < ".join(texts)


@pytest.mark.short
def test_ids_are_the_hosts(tracer):
    """By each call, to a process, itself, and a thread that leads none. Where
    no signal is generated it is what the call said. When PID 1 ends, the
    kernel kills the other, as if out of memory (SEND_SIG_PRIV)."""
    process, sender, victim, expected = start_pair()
    parents = ancestors(int(sender))
    with tracer.traced() as rows:
        process.communicate("\n", timeout=60)
    titles = "PID PARENTS SYSCALL SIG TPID RESULT"
    assert cells(rows_about(rows, sender, victim), titles) == [
        (sender, parents, *row) for row in expected] + [
        ("0", "-", "-", "SIGKILL", victim, "0")]


def send_from_below(depth, leave, target, writer):
    """Fork depth times. The last process writes its ancestors() to a pipe, and
    sends by a thread with another name. leave: its parent ends first."""
    def act():
        with odd_name(b"messenger"):
            kill(target, signal.SIGUSR1)
    for link in range(depth):
        parent = os.getpid()
        if os.fork():
            if not leave:
                os.wait()
            os._exit(0)
        pathlib.Path("/proc/self/comm").write_bytes(b"%d < \xc3\xa9" % link)
    wait_until(lambda: not leave or os.getppid() != parent)
    text = ancestors(os.getpid())
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    os.write(writer, text.encode())


@pytest.mark.short
def test_parents(tracer, target):
    """Of a sender that has ended. Below more than 8 others, and as an orphan,
    it has the parents that the kernel shows elsewhere, by process."""
    expected = []
    with tracer.traced() as rows:
        for depth, leave in (9, False), (1, True):
            reader, writer = os.pipe()
            in_child(send_from_below, depth, leave, target.pid, writer)
            text = os.read(reader, 1000).decode()
            expected.append((re.search(r":(\d+)", text)[1], text))
    assert cells([row for row in rows if row["COMM"] == "messenger"],
                 "PID PARENTS") == expected
    assert expected[0][1].count(" < ") == 7


@pytest.mark.short
def test_no_signal_is_anothers(tracer, target):
    """A call does not show as its own what an untraced one has generated. A
    sender is shown as itself even if rt_sigqueueinfo(2) has the code of the
    kernel or of a timer."""
    def act():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for to, code in (target.pid, -2), (os.getpid(), 1):
            siginfo = (ctypes.c_int * 32)(signal.SIGUSR1, 0, code)
            signals.syscall("rt_sigqueueinfo", to, signal.SIGUSR1, siginfo)
        if not no_ia32:
            signals.ia32_kill(target.pid, signal.SIGUSR1)
        kill(os.getpid(), signal.SIGUSR1)
        break_pipe()
        kill(NO_PROCESS, signal.SIGPIPE)
        kill(target.pid, signal.SIGPIPE)
    _, no_ia32 = in_child(signals.ia32_kill, target.pid, 0)
    with tracer.traced() as rows:
        pid, to = str(in_child(act)[0]), str(target.pid)
    expected = [
        ("rt_sigqueueinfo", "SIGUSR1", to, "sleep", "ignored"),
        ("rt_sigqueueinfo", "SIGUSR1", pid, COMM, "ignored"),
        *[("-", "SIGUSR1", to, "sleep", "ignored")] * (no_ia32 == 0),
        ("kill", "SIGUSR1", pid, COMM, "ignored"),
        ("-", "SIGPIPE", pid, COMM, "ignored"),
        ("kill", "SIGPIPE", str(NO_PROCESS), "-", "ESRCH"),
        ("kill", "SIGPIPE", to, "sleep", "0")]
    rows = rows_about(rows, pid, to)
    assert cells(rows, "SYSCALL SIG TPID TCOMM RESULT") == expected
    assert {row["PID"] for row in rows} == {pid}


def test_filters_in_a_namespace():
    process, sender, victim, expected = start_pair()
    with Tool("killsnoop", "-Evn") as external, \
            Tool("killsnoop", "-vnT", victim) as to_victim:
        process.communicate("\n", timeout=60)
    for tool, wanted in (
            (external, [row for row in expected if row[2] != sender]),
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
    signals.libc.write(writer, b"x", 1)


def time_out():
    """Let setitimer(2)'s timer expire, then one of a CPU clock."""
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    timer, value = ctypes.c_int(), (ctypes.c_long * 4)(0, 0, 0, 10**8)
    signals.syscall("timer_create", time.CLOCK_PROCESS_CPUTIME_ID, None,
                    ctypes.byref(timer))
    signals.syscall("timer_settime", timer, 0, value, None)
    while len(fired) < 2:
        pass


def interrupt_terminal():
    """Type Ctrl-C on a terminal. Return the PID of the process there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execlp("yes", "yes")
    assert os.read(terminal, 1) == b"y"
    os.write(terminal, b"\x03")
    assert os.waitpid(pid, 0)[1] == signal.SIGINT
    os.close(terminal)
    return pid


def end_parent(end):
    """Start a child that gets SIGUSR1 when this process ends, and end it."""
    subprocess.Popen(["sleep", "60"], preexec_fn=lambda: signals.libc.prctl(
        1, signal.SIGUSR1))     # PR_SET_PDEATHSIG
    end()


@pytest.mark.short
def test_signals_that_no_call_explains(tracer, target, cgroup):
    """The kernel's; PR_SET_PDEATHSIG's, also if the parent kills itself; and
    that of cgroup.kill."""
    with tracer.traced() as rows:
        pids = faulted, timed, typed = [str(pid) for pid in (
            in_child(fault)[0], in_child(time_out)[0], interrupt_terminal())]
        parents = [str(in_child(end_parent, end)[0]) for end in (
            lambda: os._exit(0), os.abort,
            lambda: os.kill(os.getpid(), signal.SIGKILL))]
        killer = pathlib.Path(cgroup, "cgroup.kill")    # Linux 5.14
        if killer.exists():
            pathlib.Path(cgroup, "cgroup.procs").write_text(str(target.pid))
            killer.write_text("1")
            assert target.wait(60) == -signal.SIGKILL
    kernels = [row for row in rows_about(rows, *pids)
               if row["SIG"] not in ("SIGHUP", "SIGCONT")]      # a terminal's
    assert sorted(cells(kernels, "SIG TPID")) == sorted([
        ("SIGSEGV", faulted), ("SIGALRM", timed), ("SIGALRM", timed),
        ("SIGINT", typed)])
    assert set(cells(kernels, "PID COMM SYSCALL RESULT CGROUP PARENTS")) == {
        ("0", "kernel", "-", "0", "-", "-")}
    others = [row for row in rows if row["SYSCALL"] == "-"]
    assert [row["PID"] for row in others
            if row["SIG"] == "SIGUSR1" and row["PID"] in parents] == parents
    assert [row["SIG"] for row in own_rows(others)
            if row["TPID"] == str(target.pid)] == ["SIGKILL"] * killer.exists()


def test_cgroup(tracer, target, cgroup):
    """Of senders that have ended; the second one's cgroup, too."""
    gone = cgroup + "/gone"
    with tracer.traced() as rows:
        tracer.send(signal.SIGSTOP)
        os.mkdir(gone)
        inode = os.stat(gone).st_ino
        senders = [in_child(kill, target.pid, 0, group=group)[0]
                   for group in (cgroup, gone)]
        os.rmdir(gone)
        tracer.send(signal.SIGCONT)
    shown = [{row["CGROUP"] for row in own_rows(rows, pid)} for pid in senders]
    assert shown == [{"/" + os.path.basename(cgroup)}, {str(inode)}]


def test_cgroup_namespace(target, cgroup):
    """With no mount of the host's cgroups: numbers, and one line says why."""
    script = "umount -at cgroup2; mount -t cgroup2 none /mnt"
    enter = pathlib.Path(cgroup, "cgroup.procs").write_text
    with Tool("killsnoop", "-gT", target.pid, preexec_fn=lambda: enter("0"),
              prefix=["unshare", "--cgroup", *mounted(script)]) as tool:
        in_child(kill, target.pid, 0, group=cgroup)
    assert cells(tool.table(), "CGROUP") == [(str(os.stat(cgroup).st_ino),)]
    assert re.fullmatch(".*--cgroupns=host\n", tool.stderr)


def do_a_mixture(target):
    """Do something for each filter. Return what killsnoop -avU shows."""
    def send_as_nobody():
        os.setuid(int(NOBODY))
        kill(target.pid, 0)
        kill(os.getpid(), 0)
    rows = [(ME, 0, call, sig, "-" if "pidfd" in call and not sig else pid,
             send(call, pid, sig)) for call, pid, sig in [
        *[(call, pid, sig) for call in ("kill", "pidfd_send_signal")
          for pid, sig in ((target.pid, 0), (target.pid, 10), (int(ME), 18))],
        *[("kill", pid, 0) for pid in (0, int(GROUP), int(ME))],
        *[("kill", NO_PROCESS, sig)
          for sig in (9, 15, RTMIN, RTMIN + 3, 63, 64)]]]
    nobody, faulted, broken = [in_child(function)[0] for function in (
        send_as_nobody, fault, break_pipe)]
    rows += [(nobody, NOBODY, "kill", 0, target.pid, -1),
             (nobody, NOBODY, "kill", 0, nobody, 0),
             (nobody, NOBODY, "-", 17, ME, 0),
             (0, 0, "-", 11, faulted, 0), (faulted, 0, "-", 17, ME, 0),
             (broken, 0, "-", 13, broken, 0), (broken, 0, "-", 17, ME, 0)]
    return [Row(*map(str, row)) for row in rows]


FILTERS = {
    "-as CHLD": lambda row: row.SIG == "17",
    "-ae 0,SIGUSR1": lambda row: row.SIG not in ("0", "10"),
    "-e 9,cont": lambda row: row.SYSCALL != "-" and row.SIG not in ("9", "18"),
    "-ax": lambda row: row.RESULT < "0",
    "-ap self": lambda row: row.PID == ME,
    "-aT self": lambda row: row.TPID == ME and row.SIG != "17",
    "-aT group": lambda row: row.TPID == GROUP,
    "-aT 0": lambda row: row.TPID == "0",
    "-as 0,9,SEGV,term,RTMIN+3,SIGRTMIN,rtmax-1,SIGRTMAX":
        lambda row: int(row.SIG) in (0, 9, 11, 15, RTMIN + 3, RTMIN, 63, 64),
    "-au " + NOBODY: lambda row: row.UID == NOBODY and row.SIG != "17",
    "-aE": lambda row: row.PID != row.TPID and row.SIG != "17"}


@pytest.mark.parametrize("options", FILTERS)
def test_filters(options, target):
    with Tool("killsnoop", "-vU", *options.replace("self", ME).replace(
            "group", GROUP).split()) as tool:
        expected = do_a_mixture(target)
    pids = {row.PID for row in expected} - {"0"}
    assert cells(rows_about(tool.table(), *pids), " ".join(Row._fields)) == (
        list(filter(FILTERS[options], expected)))


def test_columns(target):
    """Byte for byte, in a zone with an odd offset. TIME is that of the signal,
    not of the printing; in CSV it is ISO 8601."""
    pid_form = "%%-%ds" % (len(str(NO_PROCESS - 1)) + 1)
    nepal = {"env": dict(os.environ, TZ="NPT-5:45")}
    with Tool("killsnoop", "-p", ME, **nepal) as plain, \
            Tool("killsnoop", "-jp", ME, **nepal) as csv, \
            Tool("killsnoop", "-ncUvgp", ME, **nepal) as verbose:
        plain.send(signal.SIGSTOP)
        times = [time.time()]
        send("tgkill", target.pid, signal.SIGTERM)
        times.append(time.time())
        time.sleep(1.1)
        plain.send(signal.SIGCONT)
    few = "TIME PID COMM SIG TPID RESULT", (ME, COMM, 15, target.pid, 0)
    for tool, time_form, form, titles, values in (
            (plain, "%H:%M:%S", "%-9s PID %-16s %-4s PID %s", *few),
            (csv, "%Y-%m-%dT%H:%M:%S+05:45", ",".join(6 * ["%s"]), *few),
            (verbose, "%H:%M:%S",
             "%-9s %-6s PID %-16s %-17s %-11s PID %-16s %-7s %s",
             "TIME UID PID COMM SYSCALL SIG TPID TCOMM RESULT CGROUP",
             (0, ME, COMM, "tgkill", "SIGTERM", target.pid, "sleep", "ignored",
              verbose.table()[0]["CGROUP"]))):
        form = form.replace("PID", pid_form)
        assert tool.header == form % tuple(titles.split())
        (row,) = tool.rows
        assert row in [form % (time.strftime(time_form, time.gmtime(
            second + (5 * 60 + 45) * 60)), *values) for second in times]
    assert plain.stderr == ""
