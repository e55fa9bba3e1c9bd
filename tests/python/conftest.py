"""Fixtures for the tests of all tools."""

import os
import re
import signal
import subprocess

import pytest

from common import TRACERS, WAYS, Tool, kernel_supports
import signals

_shared = []    # the Tool that the tests of a way to attach share
_refused = {}   # (tool, way): the reason


@pytest.fixture(autouse=True)
def time_limit():
    """Fail a test that hangs."""
    def fail(*_):
        pytest.fail("it took 5 minutes")
    signal.signal(signal.SIGALRM, fail)
    signal.alarm(300)
    yield
    signal.alarm(0)


def stop_shared():
    while _shared:
        tool = _shared.pop()
        if tool.process.poll() != -signal.SIGKILL:      # by a test
            assert tool.stop() == 0, tool.stderr


@pytest.fixture(scope="session")
def way(request):
    """Return (tool, way to attach). Pytest groups tests by it."""
    yield request.param
    stop_shared()


@pytest.fixture
def tracer(way):
    """Return a tool attached in a way: starting one takes long in a guest."""
    name, how = way
    if way in _refused:
        pytest.skip(_refused[way])
    if _shared and _shared[0].process.poll() == -signal.SIGKILL:
        _shared.clear()
    if not _shared:
        options, prefix = WAYS[how]
        tool = Tool(name, *options, *TRACERS[name].all_columns, prefix=prefix)
        probe = "kprobe" if how == "fallback" else how
        try:
            tool.start()
        except AssertionError:
            if "no %s: " % probe not in tool.stderr or kernel_supports(
                    probe, TRACERS[name].call):
                raise       # it is the tool that does not work
            _refused[way] = "the kernel refuses also the smallest %s " \
                "program" % probe
            pytest.skip(_refused[way])
        _shared.append(tool)
    return _shared[0]


@pytest.fixture(autouse=True)
def alone(request):
    """Stop the shared tool before a test that does not use it."""
    if "tracer" not in request.fixturenames:
        stop_shared()


@pytest.fixture
def target():
    """Return a process to signal: see signals.start_target()."""
    process = signals.start_target()
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def cgroup2(tmp_path_factory):
    """Return where cgroup2 is mounted."""
    with open("/proc/self/mounts") as f:
        mounts = re.findall(r"(?m)^\S+ (\S+) cgroup2 ", f.read())
    if mounts:
        yield mounts[0]
        return
    folder = str(tmp_path_factory.mktemp("cgroup2"))
    if subprocess.call(["mount", "-t", "cgroup2", "none", folder]):
        pytest.skip("the kernel has no cgroup2")
    yield folder
    subprocess.check_call(["umount", folder])


@pytest.fixture
def cgroup(cgroup2):
    """Return the folder of a new cgroup."""
    folder = "%s/bcc-tool-test-%d" % (cgroup2, os.getpid())
    os.mkdir(folder)
    yield folder
    if os.path.exists(folder):
        os.rmdir(folder)
