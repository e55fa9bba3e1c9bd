"""What every tool must do at the edges: on a machine that lacks something, or
with bad arguments, it says what to do in one line."""

import collections
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import termios
import time

import pytest

from common import (PYTHON, START_SECONDS, TRACERS, burst, hide, mounted, run,
                    run_command, tool_path, wait_until)

# always: arguments without which a tool does not start; soon: with which it
# ends soon; idle: with which it writes no row soon.
Edges = collections.namedtuple("Edges", "always soon idle bad_arguments ebpf")
IDLE = ["-p", str(os.getpid())]
BAD_TRACER = [
    "-p x", "-p 1;", "-p", "-p=", "-d 0", "-d x", "-d nan", "-d inf", "extra",
    "--probe x", "--cgroupmap", "--cgroupmap=", '--cgroupmap /x";int',
    "--cgroupmap /no/such", "--mntnsmap relative", "--nonesuch"]
BAD_COUNTER = ["x", "0", "-1", "nan", "inf", "1e99", "1 0", "1 -1", "1 x",
               "1 1 1", "-N -S", "-NS", "--nonesuch"]
TOOLS = {
    "killsnoop": Edges(
        [], ["-d", "0.3"], IDLE,
        ["-T a", "-T", "-T=1||1", "-s FOO", "-s 65", "-s -1", "-s=", "-s 9,",
         "-s RTMIN+99", "-s SIG", "-u root", *BAD_TRACER],
        (["-p", "181", "-s", "9,TERM"],
         ["#define ONLY_PID 181\n", "sig == 9 || sig == 15"])),
    "madvsnoop": Edges(
        [], ["-d", "0.3"], IDLE,
        ["-t x", "-n", "-n 0123456789abcdef", "-a FOO", "-a=", "-a 4,",
         "-a MADV_", "-a 4294967296", "-m x", "-m=-1", "-m nan", "-m 0",
         "-m 1e300", "-d 1e300", "1",
         "-S 0", "-S x", "-S 1 0", "-S 1 -1", "-S 1 0.5", "-S 1 1 1",
         "-S 1 1" + 400 * "0", "-S -M", "-H -U", "-Hj", *BAD_TRACER],
        (["-p", "181", "-a", "FREE,99", "-n", '"; int'],
         ["#define ONLY_PID 181\n", "advice == 8 || advice == 99",
          "event->comm[0] == 34 && event->comm[1] == 59"])),
    "countp": Edges(
        ["lo", "--other", "drop"], ["0.1", "2"], ["100"],
        ["--tcp x", "--udp=", "--other PASS", "-k=", "-k 0x35", "-k 65536",
         "-k 9-8", "-k 53,", "-k 1)||(1", "-k -1", "-k 53" + 64 * ",53",
         *BAD_COUNTER],
        (["-k", "53-54,src:9"],
         ["#define ADDRESS { 0, 0, 0, 0, 0, 0 }\n",
          "(ntohs(((__be16 *)at)[1]) >= 53 && ntohs(((__be16 *)at)[1]) <= 54)"
          " || (ntohs(((__be16 *)at)[0]) >= 9 "])),
    "protostats": Edges(
        ["lo"], ["0.1", "2"], ["100"], ["-k 1", *BAD_COUNTER],
        ([], ["int protostats(struct xdp_md *ctx)"]))}
each_tool = pytest.mark.parametrize("tool", TOOLS)
each_tracer = pytest.mark.parametrize("tool", TRACERS)


def check_refusal(done, *words, status=1):
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 or status == 2, done.stderr
    for word in words:
        assert word in done.stderr


def check_runs(done):
    assert done.returncode == 0, done.stderr
    assert re.fullmatch("(lo, .*generic mode.*\n)?", done.stderr)
    assert re.search(r"(?m)^(TIME|PID) +\w", done.stdout)


@pytest.fixture(params=["%s.py", "%s-bpfcc"])   # as it is here, and in Debian
def standalone(request, tool, tmp_path):
    """Return what runs the tool alone in a folder, with nothing in the
    environment, after a command. Check that it leaves nothing there."""
    name = request.param % tool
    shutil.copy(tool_path(tool), str(tmp_path / name))
    for folder in tmp_path, tmp_path.parent, tmp_path.parent.parent:
        folder.chmod(0o755)

    def run_alone(*args, prefix=(), env=()):
        return run_command("unshare", "--net", "env", "-i", *env, *prefix,
                           "./" + name, *TOOLS[tool].always, *args,
                           cwd=str(tmp_path))
    run_alone.name = name
    yield run_alone
    assert os.listdir(str(tmp_path)) == [name]


@each_tool
def test_standalone(tool, standalone):
    headers = ["%s=%s" % variable for variable in os.environ.items()
               if variable[0] == "BCC_KERNEL_SOURCE"]
    python = [PYTHON, "-I"] if "-" in standalone.name else []
    check_runs(standalone(*TOOLS[tool].soon, prefix=python, env=headers))


@each_tool
def test_name(tool, standalone):
    name = standalone.name
    done = standalone("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: %s [-h]" % name)
    check_refusal(standalone("--nonesuch"), "usage: %s [-h]" % name,
                  "\n%s: error: " % name, status=2)
    command = " ".join(["./" + name] + TOOLS[tool].always)
    check_refusal(standalone(prefix=["setpriv", "--reuid=65534"]),
                  "%s: needs root, try: sudo %s\n" % (name, command))
    check_refusal(standalone(prefix=[PYTHON, "-S"]),    # no bcc
                  name + ": needs BCC's Python module",
                  "python3-bpfcc (Debian, Ubuntu)", "python3-bcc (Fedora)",
                  "python-bcc (Arch)")


@each_tool
def test_no_headers(tool):
    if os.path.exists("/sys/kernel/kheaders.tar.xz"):
        pytest.skip("this kernel has its headers in itself")
    done = run(tool, *TOOLS[tool].always, prefix=[
        "env", "-u", "BCC_KERNEL_SOURCE", *hide("/lib/modules")])
    check_refusal(done, "linux-headers-%s (Debian, Ubuntu)" %
                  os.uname().release, "kernel-devel (Fedora)",
                  "linux-headers (Arch)", "BCC_KERNEL_SOURCE")


@each_tool
def test_nowhere_to_write(tool):
    """No folder for temporary files, as on a full or broken disk."""
    check_runs(run(tool, *TOOLS[tool].always, *TOOLS[tool].soon, cwd="/proc",
                    prefix=["unshare", "--net"] + mounted(
        "for folder in /tmp /var/tmp /usr/tmp; do [ ! -d $folder ] || { mount "
        "--bind $folder $folder; mount -o remount,ro,bind $folder; }; done")))


@each_tool
def test_bad_arguments(tool):
    for arguments in TOOLS[tool].bad_arguments:
        done = run(tool, *TOOLS[tool].always, *arguments.split(), timeout=20)
        check_refusal(done, "usage: ", status=2)
        assert done.stderr.splitlines()[-1].count("error: ") == 1


@each_tool
def test_ebpf(tool):
    arguments, words = TOOLS[tool].ebpf
    done = run(tool, *TOOLS[tool].always, "--ebpf", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


@contextlib.contextmanager
def piped(tool, *args):
    """Yield the Popen of a tool that traces, with a small pipe for rows. After
    the block it has ended, without a message."""
    F_SETPIPE_SZ = 1031
    process = subprocess.Popen(
        ["unshare", "--net", PYTHON, tool_path(tool), *TOOLS[tool].always,
         *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    fcntl.fcntl(process.stdout, F_SETPIPE_SZ, 4096)
    with process:
        try:
            assert process.stdout.readline().split()[0] in (b"TIME", b"PID")
            yield process
            assert re.fullmatch(b"(lo, .*\n)?", process.stderr.read())
        finally:
            process.kill()


@each_tool
def test_second_signal_ends_it_at_once(tool):
    """While nobody reads what it writes."""
    with piped(tool, *[] if tool in TRACERS else ["0.01"]) as process:
        if tool in TRACERS:
            assert burst(tool, 1000).wait(60) == 0
        wait_until(lambda: int.from_bytes(fcntl.ioctl(
            process.stdout, termios.FIONREAD, bytes(4)), "little") > 3900)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert process.returncode == -signal.SIGINT


@each_tool
def test_closed_pipe_ends_it_quietly(tool):
    """Also when no row follows that would be written."""
    with piped(tool, *TOOLS[tool].idle) as process:
        process.stdout.close()
        assert process.wait(60) == 0


@each_tool
def test_full_disk(tool):
    done = run(tool, *TOOLS[tool].always, timeout=START_SECONDS, prefix=[
        "unshare", "--net", "sh", "-c", 'exec "$@" > /dev/full', "sh"])
    assert done.returncode == 1
    assert re.search("(?m)^%s.py: can't .*write: No space left on device\n$" %
                     tool, done.stderr)


@each_tracer
def test_no_tracefs(tool):
    done = run(tool, "--probe", "tracepoint", prefix=hide(
        "/sys/kernel/tracing", "/sys/kernel/debug"))
    check_refusal(done, "mount -t tracefs", "mount -t debugfs")


@each_tracer
def test_no_debugfs(tool):
    """Without it BCC 0.18 does not find tracefs, and later ones do."""
    done = run(tool, "--probe", "tracepoint", *TOOLS[tool].soon,
               prefix=hide("/sys/kernel/debug"))
    if done.returncode:
        check_refusal(done, "mount -t debugfs")
    else:
        check_runs(done)


@each_tool
def test_no_capabilities(tool):
    """Root without them: it says why each probe type is refused."""
    done = run(tool, *TOOLS[tool].always, prefix=[
        "unshare", "--net", "setpriv", "--bounding-set=-all",
        "--inh-caps=-all"])
    check_refusal(done)
    assert re.search("no fentry: .+; no tracepoint: .+; no kprobe: .+" if (
        tool in TRACERS) else "Operation not permitted", done.stderr)
