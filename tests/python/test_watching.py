#!/usr/bin/python3
"""protostats: what another's XDP program does with packets, counted beside it
and without touching it."""

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
from conduct import COUNT, fdinfo
from frames import MADE
from toolrun import (PYTHON, START_SECONDS, bpf, bpf_programs, old_kernel,
                     run, tool_path)
from veth import (MODES, Network, Port, attach_foreign, exit_refusal, inside,
                  link_program)
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
    """The last table: {(class, verdict): packets} of what there was."""
    start = max(i for i, row in enumerate(tool.rows)
                if row.startswith("PACKETS "))
    verdicts = tool.rows[start].split()[1:]
    return {(row.split()[0], verdict): int(cell)
            for row in tool.rows[start + 1:]
            for verdict, cell in zip(verdicts, row.split()[1:])
            if cell != "."}


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


def program(name):
    """The descriptor of one of WATCHED's programs. They have BTF."""
    return compiled().load_func(name.encode(), bcc.BPF.XDP).fd


class Case(unittest.TestCase):
    """Tests on a kernel that takes fexit."""

    def setUp(self):
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
        self.assertIn("near0: watching countp (ID %d, %s, link " % (
            number, mode), tool.stderr)
        self.assertIn("near0, watching countp (ID %d), " % number,
                      "".join(tool.rows))
        self.assertEqual(matrix(tool), expected)
        watched, counted = totals(tool), totals(countp)
        sums = re.findall(r"^all +(\w+) +(\d+) +(\d+) ",
                          "\n".join(countp.rows), re.M)
        self.assertEqual({VERDICTS[name]: (int(packets), int(size))
                          for name, packets, size in sums},
                         {name: watched[name] for name in VERDICTS.values()})
        self.assertEqual(watched["all"], counted["all"])

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

    def check_filter(self, *commands):
        """Commands come while the tool watches: the same packets before and
        after."""
        fates = {"UDP, v4": "DROP", "UDP, v6": "DROP", "DNS, query": "PASS",
                 "TCP, v4": "PASS", "ping, v6": "PASS", "ICMP, v4": "PASS",
                 "ARP, request": "PASS", "malformed, v6 version": "PASS"}
        expected = Counter()
        with self.near.tool("protostats") as tool:
            for command in [None, *commands]:
                if command:
                    self.do(*command)
                number, = self.near.xdp()
                self.wait_for(tool, "xdp_dispatcher (ID %d, native" % number)
                self.send(MADE[name][0] for name in fates)
                for name, verdict in fates.items():
                    expected[MADE[name][2], verdict] += COUNT
            self.assertEqual(list(self.near.xdp()), [number])
        self.assertEqual(matrix(tool), expected)
        # With status 254 if there are programs that are not its own.
        status = self.do("xdp-filter", "status", check=False)
        self.assertEqual(
            dict(re.findall(r"XDP_(DROP|PASS) +(\d+) pkts", status)),
            {name: str(totals(tool)[name][0]) for name in ("DROP", "PASS")})

    def test_filter(self):
        self.check_filter()

    def test_dispatcher_with_two_programs(self):
        """And with one before the other comes."""
        self.check_filter(["xdp-loader", "load", "-m", "native", "near0",
                           self.OBJECTS + "xdpfilt_alw_eth.o"])
        status = self.do("xdp-loader", "status", "near0")
        self.assertEqual(status.count(" =>"), 2, status)


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
            for _ in range(2 * 8):      # lines of two tables
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

    def test_follows(self):
        """An update of a link, a removal after which soon another comes, and
        one for good: then it counts by its own program."""
        link = self.link("pass_all", self.near)
        with self.near.tool("protostats", "-m", "-j") as tool:
            self.assertEqual(len(tool.header.split(",")), 1 + 6 * 5 + 1)
            self.send([self.udp()])
            attr = ctypes.create_string_buffer(128)
            struct.pack_into("=II", attr, 0, link.fileno(),
                             program("drop_all"))
            bpf(BPF_LINK_UPDATE, attr)
            self.wait_for(tool, "pass_all (ID %d) was replaced" % self.ids(
                "pass_all"))
            self.wait_for(tool, "watching drop_all")
            descriptors = fdinfo(tool.process.pid, "^pos:")
            self.send([self.udp()] * 2)
            link.close()
            self.wait_for(tool, "was removed")
            self.netlink(program("pass_all"), self.near)
            self.wait_for(tool, "(ID %d, native, netlink)" % self.ids(
                "pass_all"))
            self.send([self.udp()] * 4)
            before = self.near.xdp()
            self.netlink(program("drop_all"), self.near)
            self.wait_for(tool, "(ID %d, native, netlink)" % self.ids(
                "drop_all"))
            self.assertNotEqual(self.near.xdp(), before)
            self.assertEqual(fdinfo(tool.process.pid, "^pos:"), descriptors)
            self.send([self.udp()] * 8)
            self.netlink(-1, self.near)
            self.wait_for(tool, "counting by a program of its own")
            self.wait_for_program()
            self.send([self.udp()] * 16)
        self.assertEqual(self.near.xdp(), {})
        found = dict(re.findall(r"^(PASS|DROP) +(\d+) ", tool.stderr, re.M))
        self.assertEqual(found, {"PASS": str(21 * COUNT),
                                 "DROP": str(10 * COUNT)})

    def ids(self, name):
        """A program's ID: at 4 in struct bpf_prog_info."""
        return struct.unpack_from("=4xI", object_state(program(name))[0])

    def wait_for_program(self):
        end = time.monotonic() + 30
        while not self.near.xdp():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)

    def test_watch_only(self):
        """Attaches nothing, and counts again when something is there."""
        link = self.link("drop_all", self.near)
        with self.near.tool("protostats", "--watch-only") as tool:
            self.send([self.udp()])
            link.close()
            self.wait_for(tool, "was removed")
            time.sleep(5)
            self.assertEqual(self.near.xdp(), {})
            self.send([self.udp()] * 2)
            self.link("pass_all", self.near)
            self.wait_for(tool, "watching pass_all")
            self.send([self.udp()] * 4)
        self.assertEqual(matrix(tool), {("UDP", "DROP"): COUNT,
                                        ("UDP", "PASS"): 4 * COUNT})
        self.assertIn(", and others before, ", "".join(tool.rows))

    def test_program_without_btf_comes(self):
        """The totals, and then why that is the end."""
        link = self.link("drop_all", self.near)
        tool = self.near.tool("protostats").start()
        self.send([self.udp()])
        link.close()
        attach_foreign(self, self.near)
        self.assertEqual(tool.finish(), 1)
        self.assertRegex(tool.stderr.splitlines()[-1], r"foreign \(ID \d+\), "
                         r"which can't be watched \(it has no BTF\)")
        self.assertEqual(totals(tool)["UDP"][0], COUNT)

    def test_bond(self):
        """Whose program is on its members, as the kernel has it since 5.15."""
        self.near.ip("link", "set", "near0", "down")
        try:
            self.near.ip("link", "add", "bond0", "type", "bond")
            self.near.ip("link", "set", "near0", "master", "bond0")
            bond = Port(self.near.namespace, "bond0")
            self.netlink(program("pass_all"), bond)
        except (subprocess.CalledProcessError, AssertionError):
            self.skipTest("the kernel has no native XDP on bonds")
        done = subprocess.run(
            bond.prefix + [PYTHON, tool_path("protostats"), "bond0", "1", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("on its members", done.stderr)

    def test_comes_during_the_start(self):
        """What is there by the time that it would attach its own program."""
        tool = self.near.tool("protostats", env=old_kernel(self, XDP_WAIT="3"))
        starting = threading.Thread(target=tool.start)
        starting.start()
        end = time.monotonic() + START_SECONDS
        while not (hasattr(tool, "process") and fdinfo(
                tool.process.pid, r"^prog_type:\s*6$")):     # XDP
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)
        self.link("pass_all", self.near)
        starting.join()
        self.wait_for(tool, "watching pass_all")
        self.send([self.udp()])
        self.assertEqual(tool.stop(), 0)
        self.assertEqual(totals(tool)["UDP"][0], COUNT)

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

    def test_sigkill_link(self):
        self.check_end("native", True, signal.SIGKILL)

    def test_sigkill_netlink(self):
        self.check_end("generic", False, signal.SIGKILL)


class TestParsing(Parsing, test_protostats.Case):
    """Any frame, by the tool's own programs around one that passes all. A run
    by bpf(2) counts for lo."""

    traced = ["watch_entry", "watch_exit"]

    setUp = Case.setUp

    def loaded(self, *args):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(inside(self.near.namespace))
        text = subprocess.check_output([PYTHON, tool_path(self.name), "--ebpf",
                                        *args, "lo"])
        counter, watched = bcc.BPF(text=text), program("pass_all")
        self.addCleanup(counter.cleanup)
        for name in self.traced:
            self.addCleanup(os.close, self.trace(counter, name, watched))
        return counter, watched

    def trace(self, counter, name, target):
        """As the tool does it, by its own functions."""
        with open(tool_path(self.name)) as f:
            text = f.read()
        start, end = text.index("\nBPF_CALL = "), text.index("\ndef link_of(")
        scope = {}
        exec("import ctypes, os, platform, struct, sys\n" + text[start:end],
             scope)
        kind = scope["BPF_TRACE_FENTRY" if name == "watch_entry" else
                     "BPF_TRACE_FEXIT"]
        tracer = scope["load_tracer"](
            counter.dump_func(name.encode()), kind, target,
            scope["program_info"](target)[2])
        link = scope["bpf_call"](scope["BPF_RAW_TRACEPOINT_OPEN"], "QI", 0,
                                 tracer)
        os.close(tracer)
        return link

    def test_any_frame_on_exit(self):
        """Without the program at the entry, as for a packet that it missed."""
        self.traced = ["watch_exit"]
        self.check_frames(MADE[name][0] for name in MADE)


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
        for word in ("already has the XDP program pass_all (ID %d), which "
                     "can't be watched (" % list(state[0])[0],) + words:
            self.assertIn(word, done.stderr)
        self.assertEqual(state, [network.near.xdp(), object_state(fd),
                                 object_state(link)])

    def test_kernel_refuses(self):
        if not exit_refusal(program("pass_all")):
            self.skipTest("this kernel takes fexit")
        self.check_refused("the kernel refuses to trace it: ")

    def test_kernel_knows_no_fexit(self):
        """As before Linux 5.5."""
        self.check_refused(
            "the kernel refuses to trace it: Invalid argument; it takes "
            "Linux 5.5",
            env=old_kernel(self, OLD_XDP="5.4"))

    def test_kernel_without_btf(self):
        self.check_refused("the kernel's BTF does not tell", before=[
            "unshare", "--mount", "sh", "-c", "[ ! -d /sys/kernel/btf ] || "
            'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"])

    def test_nothing_to_watch(self):
        done = run("protostats", "--watch-only", "lo")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr,
                         "protostats.py: lo has no XDP program to watch\n")


if __name__ == "__main__":
    unittest.main()
