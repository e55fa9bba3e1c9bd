"""protostats watching another XDP program, which does not change."""

import ctypes
import os
import re
import shutil
import subprocess
import threading
import time

from bcc import BPF
from bcc.libbcc import lib
import pytest

from common import COUNT, bpf_programs, fdinfo, run_command, wait_until
from frames import KNOWN, corpus
from reader import ACTIONS, OPTIONS
from test_xdp import (can_query, can_watch, check_parser, check_top, counted,
                      replaced, totals, wait_for_rows)
from veth import Port, Wire, linked, netlinked, pass_program, set_by_netlink

pytestmark = pytest.mark.skipif(
    not can_watch, reason="the kernel refuses tracing programs" if can_query
    else "libbpf is older than 0.7 here")

# The last byte of the destination chooses what watched() does.
PROGRAMS = b"""
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>

BPF_PROG_ARRAY(others, 1);

int watched(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

    if (data + 34 > end || data[5] < 0x10)
        return XDP_PASS;
    if (data[5] >= 0x20)
        return data[5] - 0x20;
    if (data[5] == 0x11)
        return bpf_xdp_adjust_head(ctx, 6) ? XDP_PASS : XDP_DROP;
    if (data[5] == 0x12) {
        others.call(ctx, 0);        /* drop_all */
        return XDP_ABORTED;
    }
    data[5] = 2;
    data[23] = IPPROTO_TCP;         /* hides what it was */
    return XDP_TX;
}

int pass_all(struct xdp_md *ctx) { return XDP_PASS; }
int drop_all(struct xdp_md *ctx) { return XDP_DROP; }
"""


@pytest.fixture(scope="module")
def programs():
    """Yield the descriptors of these programs. They have BTF."""
    bpf = BPF(text=PROGRAMS)
    programs = {name: bpf.load_func(name.encode(), BPF.XDP).fd
                for name in ("watched", "pass_all", "drop_all")}
    bpf[b"others"][ctypes.c_int(0)] = ctypes.c_int(programs["drop_all"])
    yield programs      # they go with the BPF object


def udp(last=2):
    """Return a frame to an address that ends with that byte."""
    frame = KNOWN["UDP"][0]
    return frame[:5] + bytes([last]) + frame[6:]


def send(port, *frames):
    with Wire(port) as wire:
        wire.send(*[frame for frame in frames for _ in range(COUNT)])


def fdinfo_of(fd):
    """Return the fdinfo of a descriptor of this process."""
    with open("/proc/self/fdinfo/%d" % fd) as f:
        return f.read()


@pytest.mark.parametrize("field", [
    pytest.param("src", marks=pytest.mark.short),
    pytest.param("sport", marks=pytest.mark.short), "dport"])
def test_beside_countp(field, network):
    """protostats counts what was sent, and as countp itself does: also whose
    packets countp drops, and from and to which port."""
    with linked(pass_program(), network.far), network.near.tool(
            "countp", *OPTIONS["countp"]) as countp:
        before = network.near.xdp()
        tool = check_top(network, field, by="countp")
        assert network.near.xdp() == before
    title = "near0, watching countp (ID %d)" % list(before)[0]
    assert tool.stderr.startswith("%s\n\n%s, " % (title, title))
    assert totals(tool)["total"] == totals(countp)["total"]


def do(port, command, check=True):
    """Run a command in a port's namespace. Return what it prints."""
    done = run_command(*port.prefix, *command.split())
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout + done.stderr


def load_filter(port):
    """Have xdp-filter drop UDP to port 7."""
    do(port, "xdp-filter load near0 -m native -f udp")
    do(port, "xdp-filter port 7 -m dst -p udp")


@pytest.fixture
def filtered(network):
    """Return a port on which xdp-filter is, in libxdp's dispatcher."""
    if not shutil.which("xdp-filter", path="/usr/sbin:/usr/bin"):
        pytest.skip("this release has no xdp-tools")
    if not os.path.ismount("/sys/fs/bpf"):
        subprocess.check_call(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])
    load_filter(network.near)
    yield network.near
    do(network.near, "xdp-filter unload near0")     # its maps, too
    do(network.near, "xdp-loader unload near0 --all", check=False)


def check_filter(network, title):
    """Check protostats' counts, and that they are xdp-filter's own."""
    frames = KNOWN["UDP"][:2] + [KNOWN[kind][0] for kind in (
        "DNS", "TCP", "ping", "ICMP", "ARP")]
    before = network.near.xdp()
    with network.near.tool("protostats") as tool:
        send(network.far, *frames)
        assert network.near.xdp() == before
    assert title in tool.stderr
    assert counted(tool) == {("UDP", "DROP"): 2 * COUNT, **{
        (name, "PASS"): COUNT for name in ACTIONS["protostats"]}}
    # Its status is not 0 if there are programs that are not its own.
    assert dict(re.findall(r"XDP_(DROP|PASS) +(\d+) pkts", do(
        network.near, "xdp-filter status", check=False))) == {
            "DROP": str(2 * COUNT), "PASS": str(5 * COUNT)}


def test_dispatcher_with_two_programs(network, filtered):
    do(filtered, "xdp-loader load -m native near0 "
       "/usr/lib/%s-linux-gnu/bpf/xdpfilt_alw_eth.o" % os.uname().machine)
    assert do(filtered, "xdp-loader status near0").count(" =>") == 2
    check_filter(network, "near0, watching xdp_dispatcher (ID %d)" %
                 list(filtered.xdp())[0])


@pytest.mark.parametrize("seconds", [
    pytest.param(0, marks=pytest.mark.short), 6])
def test_firewall_restarts(seconds, network, filtered):
    """protostats ends, and never has a program there that the firewall would
    find when it loads."""
    programs, stop = set(filtered.xdp()), threading.Event()

    def sample():
        while not stop.wait(0.01):
            programs.update(filtered.xdp())
    tool = filtered.tool("protostats").start()
    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        send(network.far, udp(), udp(7))
        do(filtered, "xdp-filter unload near0")
        if seconds:
            assert tool.process.wait(60) == 1
            time.sleep(seconds)
            assert filtered.xdp() == {}
        load_filter(filtered)
        assert tool.process.wait(60) == 1
    finally:
        stop.set()
        sampler.join()
    assert "replaced or removed; run protostats.py again\n" in tool.stderr
    assert totals(tool)["total"][0] == 2 * COUNT
    assert len(programs | set(filtered.xdp())) == 2     # two dispatchers
    # Alone in the dispatcher, it replaces a function there.
    check_filter(network, "near0, watching xdpfilt_")


def test_any_program(network, programs):
    """Any action, changed headers, a tail call. The program is on other
    interfaces, too: one of them has the same index in another namespace."""
    near, far = network.near, network.far
    lo, watched = Port(near.namespace, "lo"), programs["watched"]
    assert near.link()["ifindex"] == far.link()["ifindex"]
    with linked(watched, far), linked(watched, near), linked(
            watched, lo, "generic"):
        with near.tool("protostats", "-m") as tool:
            send(far, *map(udp, (2, 0x10, 0x11, 0x12, 0x20, 0x24, 0x6d)))
            send(near, udp(0x21))
            do(lo, "ping -c 3 -i 0.1 127.0.0.1")
            wait_for_rows(tool, 2 * 8)      # of two tables
    assert counted(tool) == {
        ("UDP", "TX"): COUNT, ("UDP", "DROP"): 2 * COUNT,
        ("UDP", "ABORTED"): 2 * COUNT, ("UDP", "REDIRECT"): COUNT,
        ("UDP", "PASS"): COUNT}
    assert totals(tool)["UDP"] == (7 * COUNT, 7 * COUNT * len(udp()))


@pytest.mark.parametrize("attached", [linked, netlinked])
@pytest.mark.parametrize("other", ["drop_all", None])
def test_ends_with_the_program(attached, other, network, programs, tmp_path):
    """It is replaced by another, or removed. As long as the kernel does not
    answer, protostats goes on."""
    near, program = network.near, programs.get(other, -1)
    silent = tmp_path / "silent"
    query = replaced("bpf_xdp_query_id", "-4 if __import__('os').path.exists("
                     "%r) else real(*args)" % str(silent))
    with attached(programs["pass_all"], near) as link:
        tool = near.tool("protostats", "-w", "0.3", prefix=query).start()
        send(network.far, udp())
        silent.touch()
        if attached == netlinked:
            set_by_netlink(program, near)
        elif other:
            lib.bpf_link_update(link.fileno(), program, None)
        else:
            link.close()
        wait_for_rows(tool, 3)
        assert tool.process.poll() is None
        silent.unlink()
        assert tool.process.wait(60) == 1
        assert ["prog_id:\t%d\n" % number in fdinfo_of(program)
                for number in near.xdp()] == [True] * bool(other)
    assert tool.stderr.count("\n") == 2
    assert "the program was replaced or removed" in tool.stderr
    assert counted(tool) == {("UDP", "PASS"): COUNT}


@pytest.mark.parametrize("attached", [linked, netlinked])
def test_sigkill(attached, network, programs):
    """Program and link are as before. Of links it keeps its two
    only, though it looks at each link in the kernel."""
    near, program = network.near, programs["watched"]
    with linked(program, network.far), attached(program, near) as link:
        def state():
            return near.xdp(), fdinfo_of(program), link and fdinfo_of(
                link.fileno())
        before, loaded = state(), bpf_programs()
        tool = near.tool("protostats").start()
        send(network.far, udp(0x12))
        assert state() == before
        assert len(fdinfo(tool.process.pid, "link_id")) == 2
        tool.process.kill()
        tool.process.wait()
        assert state() == before
        wait_until(lambda: bpf_programs() == loaded)
        assert state() == before


def test_parser(network, programs):
    """Any frame. The kernel has test runs come in at lo."""
    lo = Port(network.near.namespace, "lo")
    with linked(programs["pass_all"], lo, "generic"):
        tool = lo.tool("protostats", "-w")
        check_parser(tool, lo, ACTIONS["protostats"], corpus(200000, 20261123))
        assert tool.stderr == "lo, watching pass_all (ID %d)\n" % list(
            lo.xdp())[0]
