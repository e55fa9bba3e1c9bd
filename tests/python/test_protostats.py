#!/usr/bin/python3
"""protostats: what packets there were, of which kind, and that all pass."""

import argparse
import os
import re
import socket
import subprocess
import time
import unittest
from collections import Counter

from conduct import COUNT, Refusals
from frames import MADE, RECEIVER, SENDER, describe
from toolrun import PYTHON, START_SECONDS, tool_path
from veth import Network, descriptor, exit_refusal, inside
from xdpconduct import (Attaching, Counting, Parsing, Rows, XdpSubject,
                        totals)


class Case(XdpSubject, unittest.TestCase):

    name = "protostats"
    classes = ["TCP", "UDP", "ping", "ICMP", "other"]
    made_class = 2
    harmless = []
    busy = "can't|refuses"      # to watch, or with an old libbpf to attach
    ping_status = 0

    def verdict(self, _):
        return "pass"

    def expected(self, frame):
        kind = describe(frame)[0]
        return {"ND": "ICMP", "ARP": "other"}.get(kind, kind)

    tcp_column = "TCP"

    def udp_column(self, bits):
        return "UDP"


class TestParsing(Parsing, Case):
    pass


class TestCounting(Counting, Case):

    @classmethod
    def setUpClass(cls):
        """A network where nothing is sent but what a test sends: nobody has to
        look for a neighbor, and the reports with which IPv6 begins are over.
        """
        cls.network = Network(cls.addClassCleanup, ["v4", "v6"])
        for port, other, address in (
                (cls.network.near, 1, SENDER), (cls.network.far, 2, RECEIVER)):
            for prefix in "10.9.0.", "fd00:9::":
                port.ip("neigh", "replace", prefix + str(other), "lladdr",
                        address, "dev", port.name, "nud", "permanent")
        with cls.network.far.wire() as far:
            far.wait_for_silence(2.5)

    def check_real(self, option, traffic):
        """What goes out at the far end is counted at the near end, by kind."""
        network = self.network
        with network.far.wire() as far:
            with network.near.tool("protostats", option) as tool:
                traffic(network)
            kinds = Counter(map(self.expected, far.seen(outgoing=True)))
        table = totals(tool)
        self.assertEqual({name: table[name][0] for name in self.classes},
                         {name: kinds[name] for name in self.classes})
        self.assertEqual(table["PASS"][0], table["total"][0])
        return kinds

    def test_real_ping(self):
        for option in "-N", "-S":
            for target in "10.9.0.2", "fd00:9::2":
                with self.subTest(option=option, target=target):
                    def traffic(network):
                        ping = network.far.popen("ping", "-q", "-c",
                                                 str(COUNT), "-i", "0.02",
                                                 target, stdout=-3)
                        self.assertEqual(ping.wait(), 0)
                    kinds = self.check_real(option, traffic)
                    self.assertEqual(kinds["ping"], COUNT)

    def test_real_fragments(self):
        """Of 4 in a ping, the first is known as one, the others as ICMP."""
        for target in "10.9.0.2", "fd00:9::2":
            with self.subTest(target=target):
                def traffic(network):
                    ping = network.far.popen("ping", "-q", "-s", "5000", "-c",
                                             str(COUNT), "-i", "0.02",
                                             target, stdout=-3)
                    self.assertEqual(ping.wait(), 0)
                kinds = self.check_real("-N", traffic)
                self.assertEqual(kinds["ping"], COUNT)
                self.assertGreaterEqual(kinds["ICMP"], 3 * COUNT)

    def test_real_vlan(self):
        for port in self.network.near, self.network.far:
            try:
                port.ip("link", "add", "link", port.name, "name", "v", "type",
                        "vlan", "id", "5")
            except subprocess.CalledProcessError:
                self.skipTest("this kernel has no VLAN interfaces")

        def traffic(network):
            for port, last in (network.near, 2), (network.far, 1):
                port.ip("addr", "add", "10.8.0.%d/24" % last, "dev", "v")
                # Without IPv6, whose first packets come when they like.
                port.ip("link", "set", "v", "addrgenmode", "none")
                port.ip("link", "set", "v", "up")
            ping = network.far.popen("ping", "-q", "-c", str(COUNT), "-i",
                                     "0.02", "10.8.0.2", stdout=-3)
            self.assertEqual(ping.wait(), 0)
        self.assertEqual(self.check_real("-N", traffic)["ping"], COUNT)

    def test_real_udp(self):
        def traffic(network):
            with inside(network.near.namespace):
                near = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with inside(network.far.namespace):
                far = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with near, far:
                near.bind(("fd00:9::2", 0))
                for number in range(COUNT):
                    far.sendto(b"%d" % number, near.getsockname())
                near.settimeout(5)
                self.assertEqual([near.recv(9) for _ in range(COUNT)],
                                 [b"%d" % i for i in range(COUNT)])
        for option in "-N", "-S":
            with self.subTest(option=option):
                self.assertEqual(self.check_real(option, traffic)["UDP"],
                                 COUNT)

    def test_real_tcp(self):
        def traffic(network):
            with inside(network.near.namespace):
                listener = socket.socket()
                listener.bind(("10.9.0.2", 0))
                listener.listen()
            with inside(network.far.namespace):
                far = socket.create_connection(listener.getsockname())
            near = listener.accept()[0]
            with listener, near, far:
                for _ in range(COUNT):
                    far.sendall(b"x" * 10007)
                    left = 10007
                    while left:
                        left -= len(near.recv(left))
        for option in "-N", "-S":
            with self.subTest(option=option):
                kinds = self.check_real(option, traffic)
                self.assertGreater(kinds["TCP"], COUNT)


class TestAttaching(Attaching, Case):

    def test_two_instances(self):
        """A second one watches the first, or is refused."""
        network = Network(self.addCleanup)
        with network.near.tool("protostats"):
            program = descriptor(list(network.near.xdp())[0])
            self.addCleanup(os.close, program)
            if not exit_refusal(program):
                self.skipTest("it watches, for which test_watching.py has the "
                              "test")
        super().test_two_instances()


class TestRows(Rows, Case):

    def test_table(self):
        """The longest bar has 19 letters; one packet has one nevertheless."""
        network = Network(self.addCleanup)
        process = network.near.popen(
            PYTHON, tool_path("protostats"), "-m", "near0", "3", "1",
            stdout=subprocess.PIPE, universal_newlines=True)
        end = time.monotonic() + START_SECONDS
        while not network.near.xdp():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)
        with network.far.wire() as far:
            far.send(*[MADE["TCP, v4"][0]] * 3001, MADE["UDP, v4"][0])
        lines = process.communicate()[0].splitlines()
        for line, pattern in zip(lines, (
                r"\d\d:\d\d:\d\d +PASS +DROP +TX +REDIRECT +ABORTED",
                r"TCP +\d+( +\.){4}  P{19}", r"UDP +0\.3\d?( +\.){4}  P",
                r"ping( +\.){5}", r"ICMP( +\.){5}", r"other( +\.){5}",
                "", "near0, native mode, .*:")):
            self.assertRegex(line, "^%s$" % pattern)
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertRegex("\n".join(lines), r"\nTCP +\d+ +3001( +0){4}\n")

    def test_columns(self):
        """Each made kind in its column."""
        network = Network(self.addCleanup)
        tool = network.near.tool("protostats", "-j")
        tool.command.append("0.5")
        numbers = {"TCP": 2, "UDP": 3, "ping": 5, "ICMP": 7, "other": 11}
        with tool, network.far.wire() as far:
            tool.next_row()
            for name, number in numbers.items():
                frame = next(made[0] for made in MADE.values()
                             if made[2] == name)
                far.send(*[frame] * (number * 100))
            tool.next_row()
            tool.next_row()
        rates = {title: sum(float(row.split(",")[i]) for row in tool.rows)
                 for i, title in enumerate(tool.header.split(",")) if i}
        for title, number in (("TCP", 2), ("UDP", 3), ("PING", 5), ("ICMP", 7),
                              ("OTHER", 11), ("PASS", 28), ("DROP", 0),
                              ("TX", 0), ("DROP%", 0)):
            self.assertAlmostEqual(rates[title], number * 200,
                                   delta=0.1 * number * 200)

    def test_rates_fit(self):
        """By the tool's own function, up to what no network has."""
        with open(tool_path("protostats")) as f:
            text = re.search(r"^def rate\(.*?\n\n\n", f.read(), re.M | re.S)[0]
        args = argparse.Namespace(csv=False)
        scope = {"args": args}
        exec(text, scope)
        self.assertEqual(
            [scope["rate"](value) for value in (
                0, 0.04, 0.3, 3, 9.94, 9.96, 22.99, 9999999, 9999999.6,
                148809524, 9999.9e6, 98.76e9, 9999e9)],
            ["0", "0.04", "0.3", "3", "9.9", "10", "23", "9999999", "10.0M",
             "148.8M", "9999.9M", "98.8G", "9999.0G"])
        args.csv = True
        self.assertEqual(scope["rate"](1.5e9), "1500000000.000")

    def test_totals(self):
        """Packets by class and action, and their bytes."""
        network = Network(self.addCleanup)
        frames = [MADE["TCP, v4"][0]] * 3 * COUNT
        frames += [MADE["ping, v4"][0]] * COUNT
        with network.near.tool("protostats") as tool:
            with network.far.wire() as far:
                far.send(*frames)
        rows = [row.split() for row in tool.rows[tool.rows.index("") + 2:]]
        tcp, ping = (str(count * len(frame)) for count, frame in (
            (69, frames[0]), (23, frames[-1])))
        self.assertEqual(rows, [
            ["CLASS", "BYTES", "PASS", "DROP", "TX", "REDIRECT", "ABORTED"],
            ["TCP", tcp, "69", *"0000"], ["UDP", *"000000"],
            ["ping", ping, "23", *"0000"], ["ICMP", *"000000"],
            ["other", *"000000"],
            ["all", str(int(tcp) + int(ping)), "92", *"0000"]])


class TestRefusals(Refusals, unittest.TestCase):

    name = "protostats"
    always = ["lo"]
    soon = ["0.1", "2"]
    bad_arguments = [
        [], ["lo", "x"], ["lo", "0"], ["lo", "-1"], ["lo", "nan"],
        ["lo", "inf"], ["lo", "1", "0"], ["lo", "1", "-1"], ["lo", "1", "x"],
        ["lo", "1", "1", "1"], ["-N", "-S", "lo"], ["-dev"], ["-k", "1", "lo"],
        ["--nonesuch", "lo"]]


if __name__ == "__main__":
    unittest.main()
