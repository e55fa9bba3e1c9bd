"""Fixtures for the tests of all tools."""

import os
import signal
import subprocess
import sys

import pytest

from common import ATTACHMENTS, PROBES, TRACERS, Tool, kernel_supports
import signals

_shared = []    # the Tool that the tests of an attachment share


def pytest_configure(config):
    config.addinivalue_line("markers", "short: proves most in least time, for "
                            "kernels in emulation")


@pytest.hookimpl(trylast=True)      # these end a test's ID: see kernels/run
def pytest_generate_tests(metafunc):
    """Run a test for each tracer of its module, as its fixture says."""
    module = metafunc.module.__name__.replace("test_", "")
    for fixture, kinds in ("attachment", ATTACHMENTS), ("probe", PROBES):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [
                sys.intern(tool + "-" + kind)   # pytest compares identities
                for tool in TRACERS if module in (tool, "tracers")
                for kind in kinds], indirect=True)


def require(probe):
    """Skip a test of a probe type that the kernel refuses."""
    if not kernel_supports(probe, "kill"):
        pytest.skip("the kernel refuses also the smallest %s program" % probe)


@pytest.fixture(autouse=True)
def environment(request):
    """Limit the time of a test. Stop the shared tool if it is not used."""
    if "tracer" not in request.fixturenames:
        stop_shared()
    signal.signal(signal.SIGALRM,
                  lambda *_: pytest.fail("it took 5 minutes"))
    signal.alarm(300)
    yield
    signal.alarm(0)


def stop_shared():
    while _shared:
        tool = _shared.pop()
        if tool.process.poll() != -signal.SIGKILL:      # by a test
            assert tool.stop() == 0, tool.stderr


@pytest.fixture(scope="session")
def attachment(request):
    """Return (tool, how it attaches). Pytest groups tests by it."""
    yield request.param.split("-")
    stop_shared()


@pytest.fixture
def tracer(attachment):
    """Return a running tool. Starting one takes 20 s on an emulated CPU."""
    name, how = attachment
    options, prefix = ATTACHMENTS[how]
    if how != "perf_buffer":    # it takes any probe type
        require("kprobe" if how == "fallback" else how)
    if not _shared:
        _shared.append(Tool(name, *options, TRACERS[name].all_columns,
                            prefix=prefix).start())
    cpus = os.sched_getaffinity(0)
    if how == "perf_buffer":    # it keeps the order of events of one CPU
        os.sched_setaffinity(0, [min(cpus)])
    yield _shared[0]
    os.sched_setaffinity(0, cpus)


@pytest.fixture
def probe(request):
    """Return the options for a probe type. Each test starts its own tool."""
    _, probe = request.param.split("-")
    require(probe)
    return ATTACHMENTS[probe][0]


@pytest.fixture
def target():
    """Return a process to signal: see signals.start_target()."""
    with signals.start_target() as process:
        yield process
        process.kill()


@pytest.fixture(scope="session")
def cgroup2(tmp_path_factory):
    """Return where cgroup2 is mounted."""
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
    os.rmdir(folder)
