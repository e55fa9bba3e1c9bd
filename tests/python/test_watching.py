#!/usr/bin/python3
"""protostats: what another's XDP program does with packets, counted beside it
and without touching it."""

import argparse
import contextlib
import ctypes
import functools
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
import unittest
from collections import Counter

import bcc

import test_countp
import test_protostats
from conduct import COUNT
from frames import MADE
from toolrun import PYTHON, START_SECONDS, bpf, bpf_programs, run, tool_path
from veth import (MODES, Network, attach_foreign, descriptor, exit_refusal,
                  inside, link_program)
from xdpconduct import Parsing, totals

# Verdicts by what the last byte of the destination tells; else a pass.
WATCHED = b"""
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>

BPF_PROG_ARRAY(others, 1);

int watched(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

    if (data + 34 > end)
        return XDP_PASS;
    switch (data[5]) {
    case 0x10:
        data[5] = 2;
        data[23] = IPPROTO_TCP;     /* what it was is no longer to be seen */
        return XDP_TX;
    case 0x11:
        bpf_xdp_adjust_head(ctx, 6);
        return XDP_DROP;
    case 0x12:
        others.call(ctx, 0);
        return XDP_PASS;
    case 0x13:
        return 77;
    case 0x14:
        return XDP_ABORTED;
    case 0x15:
        return bpf_redirect(1, 0);  /* to lo */
    }
    return XDP_PASS;
}

int pass_all(struct xdp_md *ctx)
{
    return XDP_PASS;
}

int drop_all(struct xdp_md *ctx)
{
    return XDP_DROP;
}
"""
VERDICTS = {"pass": "PASS", "drop": "DROP", "tx": "TX"}
BPF_LINK_UPDATE, BPF_OBJ_GET_INFO_BY_FD = 29, 15


def to(last, frame):
    """The frame, to an address that ends with that byte."""
    return frame[:5] + bytes([last]) + frame[6:]


def matrix(tool):
    """The table at the end: {(class, action): packets} of what there was."""
    start = next(i for i, row in enumerate(tool.rows)
                 if row.startswith("CLASS "))
    titles, *rows = (row.split() for row in tool.rows[start:])
    return {(row[0], action): int(cell) for row in rows[:-1]
            for action, cell in zip(titles[2:], row[2:]) if cell != "0"}


def object_state(fd):
    """All that the kernel tells of a program or link, a program's maps with
    it: struct bpf_prog_info has nr_map_ids at 52, map_ids at 56."""
    maps, info, attr = map(ctypes.create_string_buffer, (64, 256, 128))
    if "bpf-prog" in os.readlink("/proc/self/fd/%d" % fd):
        struct.pack_into("=IQ", info, 52, 16, ctypes.addressof(maps))
    struct.pack_into("=IIQ", attr, 0, fd, len(info), ctypes.addressof(info))
    bpf(BPF_OBJ_GET_INFO_BY_FD, attr)
    info[56:64] = bytes(8)      # where we have maps
    return info.raw, maps.raw


@functools.lru_cache(None)
def compiled():
    watched = bcc.BPF(text=WATCHED)
    watched[b"others"][ctypes.c_int(0)] = ctypes.c_int(
        watched.load_func(b"drop_all", bcc.BPF.XDP).fd)
    return watched


def descriptors():
    """Return those that this process has open."""
    return {int(fd) for fd in os.listdir("/proc/self/fd")
            if os.path.exists("/proc/self/fd/" + fd)}


def program_name(number):
    """A program's name, at 64 in struct bpf_prog_info, or None if it is gone.
    """
    try:
        with open(descriptor(number), "rb", 0) as f:
            info = object_state(f.fileno())[0]
    except FileNotFoundError:
        return None
    return info[64:80].rstrip(b"\0").decode()


def program(name):
    """The descriptor of one of WATCHED's programs. They have BTF."""
    return compiled().load_func(name.encode(), bcc.BPF.XDP).fd


class Case(unittest.TestCase):
    """Tests on a kernel that takes fexit."""

    def setUp(self):
        if not hasattr(bcc.lib, "bpf_xdp_query_id"):
            self.skipTest("libbpf is older than 0.7 here")
        refusal = exit_refusal(program("pass_all"))
        if refusal:
            self.skipTest("the kernel refuses also the least fexit program: "
                          "%s" % refusal)
        self.network = Network(self.addCleanup)
        self.near, self.far = self.network.near, self.network.far

    def link(self, name, port, mode="native"):
        """Attach such a program by a link, which is returned as a file."""
        link = open(link_program(program(name), port, mode), "rb", 0)
        self.addCleanup(link.close)
        return link

    def netlink(self, fd, port, mode="native"):
        """Attach a program instead of what is there, or with -1 none."""
        with inside(port.namespace):
            self.assertEqual(bcc.lib.bpf_attach_xdp(
                port.name.encode(), fd, MODES[mode]), 0)

    def wait_for(self, tool, text):
        """Until the tool has told that on stderr."""
        end = time.monotonic() + 30
        while text not in tool.stderr:
            self.assertLess(time.monotonic(), end, tool.stderr)
            time.sleep(0.1)

    def send(self, frames):
        """COUNT of each to the near port; for veth, the far one takes what
        comes back."""
        with self.far.wire() as far:
            for frame in frames:
                far.send(*[frame] * COUNT)

    def udp(self, last=2):
        return to(last, MADE["UDP, v4"][0])


class TestCountp(Case):
    """countp's own counts, protostats', and what was sent are the same."""

    def check_mode(self, mode, option):
        attach_foreign(self, self.far)      # or veth takes nothing back
        expected = Counter()
        fate = test_countp.Case.fate
        for _, countp_class, name in MADE.values():
            expected[name, VERDICTS[fate[countp_class]]] += COUNT
        with self.near.tool("countp", option,
                            *test_countp.Case.options) as countp:
            before = self.near.xdp()
            with self.near.tool("protostats") as tool:
                self.assertEqual(self.near.xdp(), before)
                self.send(made[0] for made in MADE.values())
            self.assertEqual(self.near.xdp(), before)
        number, = before
        title = "near0, watching countp (ID %d, %s)" % (number, mode)
        self.assertEqual(tool.stderr, title + "\n")
        self.assertIn(title + ", ", "".join(tool.rows))
        self.assertEqual(matrix(tool), expected)
        watched, counted = totals(tool), totals(countp)
        for name, title in VERDICTS.items():
            self.assertEqual(watched[title][0], counted[name][0])
        self.assertEqual(watched["total"], counted["total"])

    def test_native(self):
        self.check_mode("native", "-N")

    def test_generic(self):
        self.check_mode("generic", "-S")


class TestXdpTools(Case):
    """Debian's xdp-filter and xdp-loader, whose dispatcher is watched."""

    OBJECTS = "/usr/lib/%s-linux-gnu/bpf/" % os.uname().machine

    def setUp(self):
        super().setUp()
        if not shutil.which("xdp-filter", path="/usr/sbin:/usr/bin"):
            self.skipTest("this release has no xdp-tools")
        if not os.path.ismount("/sys/fs/bpf"):
            subprocess.check_call(["mount", "-t", "bpf", "bpf",
                                   "/sys/fs/bpf"])
        self.do("xdp-filter", "load", "near0", "-m", "native", "-f", "udp")
        self.addCleanup(self.do, "xdp-loader", "unload", "near0", "--all",
                        check=False)
        self.addCleanup(self.do, "xdp-filter", "unload", "near0")   # its maps
        self.do("xdp-filter", "port", "7", "-m", "dst", "-p", "udp")

    def do(self, *command, check=True):
        """In the near namespace, but with this mount namespace's bpffs, which
        ip netns would replace. Returns what it prints."""
        done = subprocess.run(
            ["nsenter", "--net=/run/netns/" + self.near.namespace, *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True)
        if check:
            self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def check_filter(self):
        fates = {"UDP, v4": "DROP", "UDP, v6": "DROP", "DNS, query": "PASS",
                 "TCP, v4": "PASS", "ping, v6": "PASS", "ICMP, v4": "PASS",
                 "ARP, request": "PASS", "other, v6 version": "PASS"}
        expected, before = Counter(), self.near.xdp()
        with self.near.tool("protostats") as tool:
            self.send(MADE[name][0] for name in fates)
            self.assertEqual(self.near.xdp(), before)
        for name, verdict in fates.items():
            expected[MADE[name][2], verdict] += COUNT
        self.assertEqual(matrix(tool), expected)
        # With status 254 if there are programs that are not its own.
        status = self.do("xdp-filter", "status", check=False)
        self.assertEqual(
            dict(re.findall(r"XDP_(DROP|PASS) +(\d+) pkts", status)),
            {name: str(totals(tool)[name][0]) for name in ("DROP", "PASS")})
        return tool

    def test_filter(self):
        """Alone it replaces the dispatcher's function."""
        self.assertIn("near0, watching xdpfilt_", self.check_filter().stderr)

    def test_dispatcher_with_two_programs(self):
        self.do("xdp-loader", "load", "-m", "native", "near0",
                self.OBJECTS + "xdpfilt_alw_eth.o")
        status = self.do("xdp-loader", "status", "near0")
        self.assertEqual(status.count(" =>"), 2, status)
        self.assertIn("near0, watching xdp_dispatcher (ID %d, native)" %
                      list(self.near.xdp())[0], self.check_filter().stderr)

    def check_restart(self, seconds):
        """Unload the filter that is watched, and load it that much later."""
        names, stop = set(), threading.Event()

        def look():
            while not stop.wait(0.05):
                names.update(map(program_name, self.near.xdp()))
        looking = threading.Thread(target=look)
        tool = self.near.tool("protostats").start()
        looking.start()
        try:
            self.send([self.udp(), to(7, MADE["TCP, v4"][0])])
            self.do("xdp-filter", "unload", "near0")
            if seconds:
                self.assertEqual(tool.finish(), 1)
                time.sleep(seconds)
                self.assertEqual(self.near.xdp(), {})
            self.do("xdp-filter", "load", "near0", "-m", "native", "-f", "udp")
            self.assertEqual(len(self.near.xdp()), 1)
            self.assertEqual(tool.finish() if not seconds else 1, 1)
        finally:
            stop.set()
            looking.join()
        self.assertEqual(
            tool.stderr.splitlines()[-1], "protostats.py: the program was "
            "replaced or removed; run protostats again")
        self.assertEqual(totals(tool)["total"][0], 2 * COUNT)
        self.assertEqual(names - {None}, {"xdp_dispatcher"})
        self.do("xdp-filter", "port", "7", "-m", "dst", "-p", "udp")
        self.check_filter()

    def test_restart_at_once(self):
        self.check_restart(0)

    def test_restart_after_a_while(self):
        """Longer than protostats once waited to attach its own program."""
        self.check_restart(6)


class TestPrograms(Case):
    """Programs of which there is something to get wrong."""

    def test_all_that_programs_do(self):
        """One that is on other interfaces as well, one of them with the same
        number in another namespace; that changes headers; that tail-calls;
        and that returns anything."""
        self.assertEqual(self.near.index, self.far.index)
        self.link("watched", self.far)
        self.link("watched", self.near)
        lo = Network(self.addCleanup).near      # of a third namespace
        lo.name = "lo"
        self.link("watched", lo, "generic")
        with self.near.tool("protostats", "-m") as tool:
            self.send([self.udp(last) for last in range(0x10, 0x17)])
            self.send([to(0x13, MADE["TCP, v6"][0])])
            with self.near.wire() as near:
                near.send(*[self.udp(0x14)] * 5)
            ping = lo.popen("ping", "-c", "3", "-i", "0.1", "127.0.0.1",
                            stdout=subprocess.DEVNULL)
            self.assertEqual(ping.wait(), 0)
            for _ in range(2 * 7):      # lines of two tables
                tool.next_row()
        self.assertEqual(matrix(tool), {
            ("UDP", "TX"): COUNT, ("UDP", "DROP"): 2 * COUNT,
            ("UDP", "ABORTED"): 2 * COUNT, ("UDP", "REDIRECT"): COUNT,
            ("UDP", "PASS"): COUNT, ("TCP", "ABORTED"): COUNT})
        sizes = [COUNT * len(frame) for frame in (
            self.udp(), MADE["TCP, v6"][0])]
        self.assertEqual(totals(tool)["UDP"][1], 7 * sizes[0])
        self.assertEqual(totals(tool)["TCP"][1], sizes[1])
        bars = "".join(row.split()[-1] for row in tool.rows
                       if re.match("UDP .*[A-Z]$", row))
        self.assertEqual(set(bars), set("PDTRA"))

    def check_ends(self, tool, change, after):
        """It ends by a change, and has counted what came before."""
        tool.start()
        self.send([self.udp()])
        change()
        self.assertEqual(tool.finish(), 1)
        self.assertEqual(len(tool.stderr.splitlines()), 2, tool.stderr)
        self.assertIn("the program was replaced or removed", tool.stderr)
        self.assertEqual(sum(matrix(tool).values()), COUNT)
        time.sleep(4)
        self.assertEqual(set(map(program_name, self.near.xdp())), after)

    def test_ends_with_the_program(self):
        """When its link is updated or closed; with one attached by netlink,
        when that is replaced or removed."""
        link = self.link("pass_all", self.near)
        attr = ctypes.create_string_buffer(128)
        struct.pack_into("=II", attr, 0, link.fileno(), program("drop_all"))
        self.check_ends(self.near.tool("protostats", "-m"),
                        lambda: bpf(BPF_LINK_UPDATE, attr), {"drop_all"})
        self.check_ends(self.near.tool("protostats"), link.close, set())
        self.netlink(program("pass_all"), self.near)
        self.check_ends(self.near.tool("protostats", "-w"), lambda:
                        self.netlink(program("drop_all"), self.near),
                        {"drop_all"})
        self.check_ends(self.near.tool("protostats"), lambda: self.netlink(
            -1, self.near), set())

    def test_two_instances(self):
        """The second one watches the first one's program."""
        with self.near.tool("protostats") as first:
            with self.near.tool("protostats") as second:
                self.send([self.udp()])
            self.send([self.udp()])
        self.assertEqual(totals(first)["PASS"][0], 2 * COUNT)
        self.assertEqual(totals(second)["PASS"][0], COUNT)


class TestLeaving(Case):
    """The watched program, its maps and its link are as they were."""

    def check_end(self, mode, by_link, sig):
        objects = [program("watched")]
        if by_link:
            objects.append(self.link("watched", self.near, mode).fileno())
        else:
            self.netlink(program("watched"), self.near, mode)
        before = [self.near.xdp(), *map(object_state, objects)]
        programs = bpf_programs()
        tool = self.near.tool("protostats").start()
        self.send([self.udp(0x12)])
        during = [self.near.xdp(), *map(object_state, objects)]
        tool.send(sig)
        tool.process.wait(10)
        self.assertEqual(during, before)
        self.assertEqual(before, [self.near.xdp(),
                                  *map(object_state, objects)])
        self.send([self.udp()])
        tool.finish()
        end = time.monotonic() + 5      # they are freed after a grace period
        while bpf_programs() != programs:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)

    def test_keeps_no_links_of_others(self):
        """It looks at each link in the kernel. Those of a tool that ends while
        it watches go with that tool."""
        other = subprocess.Popen(
            [PYTHON, "-c", "import bcc; b = bcc.BPF(text='''" + "".join(
                "RAW_TRACEPOINT_PROBE(%s) { return 0; }" % name for name in (
                    "sched_process_exit", "sched_process_fork",
                    "sched_process_exec")) + "'''); print(1); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONUNBUFFERED="1"))
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.assertEqual(other.stdout.readline(), b"1\n")
        self.link("pass_all", self.near)
        with self.near.tool("protostats") as tool:
            folder, links = "/proc/%d/fd" % tool.process.pid, []
            for fd in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    links.append(os.readlink(folder + "/" + fd))
            # fentry and fexit
            self.assertEqual(sum("bpf" in name and "link" in name
                                 for name in links), 2, links)

    def test_sigkill_link(self):
        self.check_end("native", True, signal.SIGKILL)

    def test_sigkill_netlink(self):
        self.check_end("generic", False, signal.SIGKILL)


class TestParsing(Parsing, test_protostats.Case):
    """Any frame, by the tool's own programs around one that passes all. A run
    by bpf(2) counts for lo."""

    setUp = Case.setUp

    def loaded(self, *args):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(inside(self.near.namespace))
        text = subprocess.check_output([PYTHON, tool_path(self.name), "--ebpf",
                                        "-w", *args, "lo"])
        counter, watched = bcc.BPF(text=text), program("pass_all")
        self.addCleanup(counter.cleanup)
        self.trace(counter, struct.unpack_from("=4xI", object_state(watched)[
            0])[0])
        return counter, watched

    def trace(self, counter, number):
        """As the tool does it, by its own functions."""
        with open(tool_path(self.name)) as f:
            text = f.read()
        start, end = text.index("\ndef program_info("), text.index(
            "\ndef attach(")
        scope = {"bpf": counter, "args": argparse.Namespace(interface="lo"),
                 "die": self.fail, "lib": bcc.lib}
        exec("import ctypes, os, struct\n" + text[start:end], scope)
        before = descriptors()
        scope["watch"](number, "native")
        for fd in descriptors() - before:
            self.addCleanup(os.close, fd)


class TestRefusals(unittest.TestCase):
    """One clear line, and nothing has changed."""

    def check_refused(self, *words, before=(), options=(), **run):
        network = Network(self.addCleanup)
        fd = program("pass_all")
        link = link_program(fd, network.near, "native")
        self.addCleanup(os.close, link)
        state = [network.near.xdp(), object_state(fd), object_state(link)]
        done = subprocess.run(
            ["nsenter", "--net=/run/netns/" + network.near.namespace, *before,
             PYTHON, tool_path("protostats"), *options, "near0", "1", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=START_SECONDS, **run)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(state, [network.near.xdp(), object_state(fd),
                                 object_state(link)])

    def test_kernel_refuses(self):
        if not exit_refusal(program("pass_all")):
            self.skipTest("this kernel takes fexit")
        self.check_refused("near0, watching pass_all (ID ", ", native): the "
                           "kernel refuses to trace it (Operation not ")

    def test_kernel_without_btf(self):
        if not hasattr(bcc.lib, "bpf_xdp_query_id"):
            self.skipTest("libbpf is older than 0.7 here")
        self.check_refused("requires CONFIG_DEBUG_INFO_BTF", before=[
            "unshare", "--mount", "sh", "-c", "[ ! -d /sys/kernel/btf ] || "
            'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"])

    def test_nothing_to_watch(self):
        done = run("protostats", "--watch-only", "lo")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr,
                         "protostats.py: lo has no XDP program to watch, or "
                         "libbpf is older than 0.7\n")

    def test_program_without_btf(self):
        network = Network(self.addCleanup)
        attach_foreign(self, network.near)
        before = network.near.xdp()
        done = subprocess.run(
            network.near.prefix + [PYTHON, tool_path("protostats"), "near0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=START_SECONDS)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertEqual(network.near.xdp(), before)
        if hasattr(bcc.lib, "bpf_xdp_query_id"):
            self.assertIn("it has no BTF", done.stderr)
        else:
            self.assertIn("libbpf 0.7 can watch it", done.stderr)


if __name__ == "__main__":
    unittest.main()
