"""Each tool says in one line what is missing or wrong, and ends well."""

import collections
import fcntl
import os
import re
import shutil
import signal
import subprocess
import termios
import time

import pytest

from common import (PYTHON, TRACERS, burst, hide, mounted, run, run_command,
                    tool_path, wait_until)

# always: arguments without which a tool does not start; soon: with which it
# ends soon; idle: with which it writes no row soon.
Edges = collections.namedtuple("Edges", "always soon idle bad_arguments")
TRACER = [], ["-d", "0.3"], ["-p", str(os.getpid())]
COUNTER = ["0.1", "2"], ["100"]
BAD_TRACER = [
    "-p x", "-p -2147483649", "-p 1;", "-p", "-p=", "-d 0", "-d x", "-d nan",
    "-d inf", "extra", "--probe x", "--cgroupmap", "--cgroupmap=",
    '--cgroupmap /x";int', "--cgroupmap /no/such", "--mntnsmap relative",
    "--nonesuch"]
BAD_COUNTER = ["x", "0", "-1", "nan", "inf", "1e99", "1 0", "1 -1", "1 x",
               "1 1 1", "-N -S", "-NS", "--nonesuch"]
TOOLS = {
    "killsnoop": Edges(*TRACER, [
        "-T a", "-T", "-T=1||1", "-s FOO", "-s 65", "-s -1", "-s=", "-s 9,",
        "-s RTMIN+99", "-s SIG", "-s RTMAX-31", "-e 65", "-e=", "-s 9 -e 9",
        "-u root", "-u 4294967296", *BAD_TRACER]),
    "madvsnoop": Edges(*TRACER, [
        "-t 1", "-n", "-R", "-H -n x", "-n 0123456789abcdef", "-a FOO", "-a=",
        "-a 4,", "-a MADV_", "-a 4294967296", "-m x", "-m=-1", "-m nan",
        "-m 0", "-m 1e300", "-d 1e300", "1", "-S 0", "-S x", "-S 1 0",
        "-S 1 -1", "-S 1 0.5", "-S 1 1 1", "-S 1 1" + 400 * "0", "-S -M",
        "-H -U", "-Hj", *BAD_TRACER]),
    "countp": Edges(["--other", "drop", "-dev", "lo"], *COUNTER, [
        "--tcp x", "--udp=", "--other PASS", "-k=", "-k 0x35", "-k 65536",
        "-k 9-8", "-k 53,", "-k 1)||(1", "-k -1", "-k 53" + 64 * ",53",
        *BAD_COUNTER]),
    "protostats": Edges(["-dev", "lo"], *COUNTER, [
        "-k 1", "-t ip", "-t=", "-mt src", "-wS", "-wN", *BAD_COUNTER])}
each_tool = pytest.mark.parametrize("tool", TOOLS)
QUIET = "(lo, .*generic mode.*\n)?"     # stderr of countp and protostats on lo


def check_refusal(done, *words, status=1):
    """The last line says what to do. BCC's own messages may precede it."""
    assert done.returncode == status, done.stderr
    assert "TIME" not in done.stdout
    assert "Traceback" not in done.stderr
    *others, last = done.stderr.splitlines()
    name = re.match(r"(killsnoop|madvsnoop|countp|protostats)\S*: ", last)[0]
    assert not any(line.startswith(name) for line in others)
    for word in words:
        assert word in done.stderr


def check_runs(done):
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(QUIET, done.stderr)
    assert re.match(r"PID +|TIME +(PID +|PASS.*\n(\d.*\n){2}\n)", done.stdout)


@each_tool
def test_standalone(tool, tmp_path):
    """It needs no other file, environment or name, and leaves no file."""
    name = tool + "-bpfcc"      # Debian's
    shutil.copy(tool_path(tool), str(tmp_path / name))

    def run_alone(*args, prefix=()):
        return run_command("unshare", "--net", "env", "-i", *prefix,
                           "./" + name, *TOOLS[tool].always, *args,
                           cwd=str(tmp_path))
    check_runs(run_alone(*TOOLS[tool].soon, prefix=[
        "%s=%s" % variable for variable in os.environ.items()
        if variable[0] == "BCC_KERNEL_SOURCE"]))
    for option, line in ("-h", "usage: %s [-h]" % name), (
            "--ebpf", "#include <uapi/"):
        done = run_alone(option)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\n" + line in "\n" + done.stdout
    check_refusal(run_alone("--nonesuch"), "usage: %s [-h]" % name,
                  "\n%s: error: " % name, status=2)
    from_stdin = 'exec setpriv --reuid=65534 %s - "$@" < "$0"' % PYTHON
    check_refusal(run_alone(prefix=["sh", "-c", from_stdin]),
                  tool + ": needs root: run it as root or with sudo\n")
    check_refusal(run_alone(prefix=[PYTHON, "-S"]),     # no bcc
                  name + ": needs BCC's Python module", "python3-bpfcc (Deb"
                  "ian, Ubuntu), python3-bcc (Fedora), python-bcc (Arch)\n")
    assert os.listdir(str(tmp_path)) == [name]


def run_here(tool, *args, prefix=(), **popen):
    """Run a tool in a network namespace. Return its CompletedProcess."""
    return run(tool, *TOOLS[tool].always, *args, **popen,
               prefix=["unshare", "--net", *prefix])


# What is missing: a command prefix, and words of the message, if it is needed.
# Containers can have few capabilities, and /proc/kallsyms masked.
HEADERS = "linux-headers-" + os.uname().release
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set"]
MISSING = {
    "headers": (
        ["env", "-u", "BCC_KERNEL_SOURCE", *hide("/lib/modules")],
        [HEADERS + " (Debian, Ubuntu)", "kernel-devel (Fedora)",
         "linux-headers (Arch)", "BCC_KERNEL_SOURCE"]),
    "right headers": (["env", "BCC_KERNEL_SOURCE=/sys"],
                      ["no kernel headers in /sys: ", HEADERS]),
    "capabilities": ([*UNPRIVILEGED, "-all"], ["CAP_BPF", "--privileged"]),
    "CAP_BPF": ([*UNPRIVILEGED, "-all,+net_admin,+net_raw,+sys_ptrace"],
                ["CAP_BPF", "--privileged"]),
    "temporary folders": (mounted(
        "for folder in /tmp /var/tmp /usr/tmp; do [ ! -d $folder ] || { mount "
        "--bind $folder $folder; mount -o remount,ro,bind $folder; }; done"),
        None),
    "symbols": (hide("/proc/kallsyms"), ["/proc/kallsyms", "--privileged"]),
    "tracefs": (hide("/sys/kernel/tracing", "/sys/kernel/debug"),
                ["mount -t debugfs"]),
    "debugfs": (hide("/sys/kernel/debug"), ["mount -t debugfs"])}


@pytest.mark.parametrize("tool, missing", [
    (tool, missing) for tool in TOOLS for missing in MISSING
    if tool in TRACERS or missing not in ("symbols", "tracefs", "debugfs")])
def test_missing(tool, missing):
    if missing == "headers" and os.path.exists("/sys/kernel/kheaders.tar.xz"):
        pytest.skip("this kernel has its headers in itself")
    prefix, words = MISSING[missing]
    by_tracepoint = ["--probe", "tracepoint"] * (missing[-2:] == "fs")
    done = run_here(tool, *by_tracepoint, *TOOLS[tool].soon, prefix=prefix,
                    cwd="/proc")
    if not words or missing == "debugfs" and done.returncode == 0:
        check_runs(done)        # only BCC 0.18 requires debugfs
    else:
        check_refusal(done, *words)


@each_tool
def test_bad_arguments(tool):
    for arguments in TOOLS[tool].bad_arguments:
        done = run_here(tool, *arguments.split(), timeout=20)
        check_refusal(done, "usage: ", status=2)
        assert done.stderr.splitlines()[-1].count("error: ") == 1


@each_tool
def test_second_signal_ends_it_at_once(tool):
    """While nobody reads what it writes."""
    # A tracer's next batch of rows can wait before the pipe is full.
    options, least = ([], 0) if tool in TRACERS else (["0.01"], 3900)
    process = subprocess.Popen([
        "setpriv", "--pdeathsig", "KILL", "unshare", "--net", PYTHON,
        tool_path(tool), *TOOLS[tool].always, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    fcntl.fcntl(process.stdout, 1031, 4096)     # F_SETPIPE_SZ
    assert process.stdout.readline().split()[0] in (b"TIME", b"PID")
    if tool in TRACERS:
        assert burst(tool, 1000).wait(60) == 0
    wait_until(lambda: int.from_bytes(fcntl.ioctl(
        process.stdout, termios.FIONREAD, bytes(4)), "little") > least)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == -signal.SIGINT
    assert re.fullmatch(QUIET, process.communicate()[1].decode())


@each_tool
def test_closed_pipe_ends_it_quietly(tool):
    """Also when no row follows that would be written."""
    done = run_here(tool, *TOOLS[tool].idle, prefix=[
        "bash", "-o", "pipefail", "-c",
        'setpriv --pdeathsig KILL "$@" | head -n 1', "bash"])
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert re.fullmatch(QUIET, done.stderr)


@each_tool
@pytest.mark.parametrize("output, option, error", [
    ("&-", [], ""), ("/dev/full", [], "No space left on device\n"),
    ("/dev/full", ["--ebpf"], "No space left on device\n")])
def test_no_output(tool, output, option, error):
    """stdout is closed, or the disk is full."""
    check_refusal(run_here(tool, *option, prefix=[
        "sh", "-c", 'exec "$@" >' + output, "sh"]), "can't ",
        "write: " + error)
