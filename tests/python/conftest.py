"""Fixtures for the tests of all tools."""

import os
import signal
import subprocess
import sys
import types

import pytest

from common import ATTACHMENTS, PROBES, TRACERS, Tool, kernel_supports
from frames import RECEIVER, SENDER
import signals
from veth import Port, inside


def pytest_configure(config):
    config.addinivalue_line("markers", "short: for kernels in emulation")


@pytest.hookimpl(trylast=True)      # last in a test's ID: see kernels/run
def pytest_generate_tests(metafunc):
    """Run a test for each tracer of its module, as its fixture says."""
    module = metafunc.module.__name__.replace("test_", "")
    for fixture, kinds in ("tracer", ATTACHMENTS), ("probe", PROBES):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [
                sys.intern(tool + "-" + kind)   # pytest compares by "is"
                for tool in TRACERS if module in (tool, "tracers")
                for kind in kinds], indirect=True)


@pytest.hookimpl(trylast=True)      # after pytest's own order
def pytest_collection_modifyitems(items):
    """Run those with the same shared tool one after another, and last."""
    items.sort(key=lambda item: item.callspec.params.get("tracer", "")
               if hasattr(item, "callspec") else "")


def require(probe):
    """Skip a test of a probe type that the kernel refuses."""
    if not kernel_supports(probe):
        pytest.skip("the kernel refuses also the smallest %s program" % probe)


@pytest.fixture(autouse=True)
def time_limit():
    """Fail a test that hangs."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("took 5 minutes"))
    signal.alarm(300)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def tracer(request, cgroup2):   # a mount that the tool's own namespace has
    """Return a running tool. Starting one takes 20 s on an emulated CPU."""
    name, how = request.param.split("-")
    options, prefix = ATTACHMENTS[how]
    if how != "perf_buffer":    # it takes any probe type
        require("kprobe" if how == "fallback" else how)
    tool = Tool(name, *options, TRACERS[name].all_columns, prefix=prefix)
    tool.start().attachment = how
    cpus = os.sched_getaffinity(0)
    if how == "perf_buffer":    # it keeps the order of events of one CPU
        os.sched_setaffinity(0, [min(cpus)])
    yield tool
    os.sched_setaffinity(0, cpus)
    if tool.process.poll() != -signal.SIGKILL:      # by a test
        assert tool.stop() == 0, tool.stderr


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


@pytest.fixture
def network():
    """Return two Ports joined by a veth pair: near, at which tools are, and
    far. Without addresses, the kernel sends no packet of its own."""
    ports = near, far = [Port("bcc-%s-%d" % (name, os.getpid()), name + "0")
                         for name in ("near", "far")]
    try:
        for port in ports:
            subprocess.check_call(["ip", "netns", "add", port.namespace])
            with inside(port.namespace), open(
                    "/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as f:
                f.write("1")
        near.ip(*("link add near0 address %s type veth peer name far0 address "
                  "%s netns %s" % (RECEIVER, SENDER, far.namespace)).split())
        for port in ports:
            port.ip("link", "set", "lo", "up")
            port.ip("link", "set", port.name, "up")
        yield types.SimpleNamespace(near=near, far=far)
    finally:
        for port in ports:
            subprocess.call(["ip", "netns", "del", port.namespace])
