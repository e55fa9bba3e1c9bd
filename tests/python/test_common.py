"""What every tool must do at the edges: on a machine that lacks something, or
with bad arguments, it says what to do in one line."""

import collections
import os
import re
import shutil

import pytest

from common import (PYTHON, START_SECONDS, TRACERS, hide, mounted, run,
                    run_command, tool_path)

# always: arguments without which a tool does not start; soon: arguments with
# which it ends soon.
Edges = collections.namedtuple("Edges", "always soon bad_arguments ebpf")
TOOLS = {
    "killsnoop": Edges(
        [], ["-d", "0.3"],
        ["-p x", "-p", "-p 1;", "-p=", "-T a", "-T", "-T=1||1", "-s FOO",
         "-s 65", "-s -1", "-s=", "-s 9,", "-s RTMIN+99", "-s SIG", "-u root",
         "-d 0", "-d x", "-d nan", "-d inf", "--probe x", "--cgroupmap",
         '--cgroupmap /x";int', "--cgroupmap /no/such", "--mntnsmap relative",
         "extra", "--nonesuch"],
        (["-p", "181", "-s", "9,TERM"],
         ["#define ONLY_PID 181\n", "sig == 9 || sig == 15"])),
    "madvsnoop": Edges(
        [], ["-d", "0.3"],
        ["-p x", "-p 1;", "-t x", "-n", "-a FOO", "-a=", "-a 4,", "-a MADV_",
         "-a 4294967296", "-m x", "-m=-1", "-m nan", "-m 0", "-m 1e300",
         "-d 0", "-d x", "-d nan", "-d inf", "-d 1e300", "--probe x",
         "--cgroupmap=", '--cgroupmap /x";int', "--mntnsmap relative", "1",
         "-S 0", "-S x", "-S 1 0", "-S 1 -1", "-S 1 0.5", "-S 1 1 1",
         "-S 1 1" + 400 * "0", "-S -M", "-H -U", "-Hj", "--nonesuch"],
        (["-p", "181", "-a", "FREE,99", "-n", '"; int'],
         ["#define ONLY_PID 181\n", "advice == 8 || advice == 99",
          "event->comm[0] == 34 && event->comm[1] == 59"])),
    "countp": Edges(
        ["lo", "--other", "drop"], ["0.1", "2"],
        ["x", "0", "-1", "nan", "1e99", "1 0", "1 x", "1 1 1", "-N -S",
         "--tcp x", "--udp=", "--other PASS", "-k=", "-k 0x35", "-k 65536",
         "-k 9-8", "-k 53,", "-k 1)||(1", "-k -1", "-k 53" + 64 * ",53",
         "--nonesuch"],
        (["-k", "53-54,src:9"],
         ["#define ADDRESS { 0, 0, 0, 0, 0, 0 }\n",
          "(ntohs(((__be16 *)at)[1]) >= 53 && ntohs(((__be16 *)at)[1]) <= 54)"
          " || (ntohs(((__be16 *)at)[0]) >= 9 "])),
    "protostats": Edges(
        ["lo"], ["0.1", "2"],
        ["x", "0", "-1", "inf", "1 0", "1 -1", "1 x", "1 1 1", "-NS", "-k 1"],
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
    os.chmod(str(tmp_path), 0o755)
    os.chmod(str(tmp_path.parent), 0o755)
    os.chmod(str(tmp_path.parent.parent), 0o755)

    def run_alone(*args, prefix=(), env=()):
        return run_command("unshare", "--net", "env", "-i", *env, *prefix,
                           "./" + name, *TOOLS[tool].always, *args,
                           cwd=str(tmp_path))
    run_alone.name = name
    yield run_alone
    assert os.listdir(str(tmp_path)) == [name]


@each_tool
def test_standalone(tool, standalone):
    headers = ["BCC_KERNEL_SOURCE=" + os.environ["BCC_KERNEL_SOURCE"]
               ] if "BCC_KERNEL_SOURCE" in os.environ else []
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


@each_tracer
def test_no_capabilities(tool):
    """Root without them: it says why each probe type is refused."""
    done = run(tool, prefix=["setpriv", "--bounding-set=-all",
                             "--inh-caps=-all"])
    check_refusal(done)
    assert re.search(": no fentry: .+; no tracepoint: .+; no kprobe: .+",
                     done.stderr)
