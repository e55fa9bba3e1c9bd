#!/usr/bin/python3
"""countp: what passes, what is dropped, what comes back, and the counts."""

import hashlib
import re
import socket
import subprocess
import threading
import unittest

from conduct import COUNT, Refusals
from frames import MADE, corpus, describe, sent_back
from veth import Network, attach_foreign, inside, run_program
from xdpconduct import (Attaching, Counting, Parsing, Rows, XdpSubject,
                        totals)

KEPT = {53, 67, 68}         # destination ports, and a source port:
KEPT_SOURCE = 123


class Case(XdpSubject, unittest.TestCase):

    name = "countp"
    classes = ["TCP", "UDP", "UDP-kept", "ARP/ND", "other", "bad-source"]
    made_class = 1
    options = ["-k", "53,67-68,src:123"]
    busy = "ip link show dev near0"
    harmless = ["--other", "drop"]
    ping_status = 1     # what pings lo then gets no answer
    fate = {"TCP": "pass", "UDP": "drop", "UDP-kept": "pass",
            "ARP/ND": "pass", "other": "tx", "bad-source": "drop"}

    def verdict(self, name):
        return self.fate[name]

    def expected(self, frame):
        kind, ports = describe(frame)
        if frame[6] & 1:
            return "bad-source"
        if kind == "UDP" and ports and (
                ports[0] == KEPT_SOURCE or ports[1] in KEPT):
            return "UDP-kept"
        return {"ARP": "ARP/ND", "ND": "ARP/ND", "ping": "other",
                "ICMP": "other"}.get(kind, kind)

    def after(self, name, frame):
        return sent_back(frame) if self.fate[name] == "tx" else frame

    tcp_column = "PASS/s"

    def udp_column(self, bits):
        return "DROPbit/s" if bits else "DROP/s"


class TestParsing(Parsing, Case):
    pass


class TestPolicies(Parsing, Case):
    """The same with other verdicts, and fewer frames."""

    def check_policy(self, fate, *args):
        self.fate = dict(Case.fate, **fate)
        self.check_frames(corpus(20000, 7), *(self.options + list(args)))

    def test_any_frame(self):
        self.check_policy({"TCP": "tx", "UDP": "pass", "other": "drop"},
                          "--tcp", "tx", "--udp", "pass", "--other", "drop")

    def test_all(self):
        self.check_policy({"ARP/ND": "tx"}, "-a")

    def test_all_as_all_else(self):
        self.check_policy({"ARP/ND": "pass", "other": "pass", "TCP": "drop"},
                          "--all", "--other=pass", "--tcp=drop")

    def test_kept_ports_pass_whatever_becomes_of_udp(self):
        self.check_policy({"UDP": "tx"}, "--udp=tx")

    def test_many_kept_ports(self):
        """As many as there may be."""
        ports = ",".join(str(port) for port in range(2000, 2063)) + ",53"
        program, fd = self.loaded("-k", ports)
        self.assertEqual(run_program(fd, MADE["DNS, query"][0])[0], 2)
        self.assertEqual(run_program(fd, MADE["UDP, v4"][0])[0], 1)

    def test_without_kept_ports(self):
        program, fd = self.loaded()
        for name in "DNS, query", "NTP, answer", "UDP, v4":
            self.assertEqual(run_program(fd, MADE[name][0])[0], 1)
        to_port_0 = bytearray(MADE["UDP, v4"][0])
        to_port_0[36:38] = 0, 0
        self.assertEqual(run_program(fd, bytes(to_port_0))[0], 1)
        self.assertEqual(self.counted(program)[1][0], 4)


class TestCounting(Counting, Case):

    def test_what_comes_back_has_this_address(self):
        """Also for what was sent to all, or to a group."""
        for option in "-N", "-S":
            with self.subTest(option=option):
                network = Network(self.addCleanup)
                attach_foreign(self, network.far)
                names = ["ping to all", "ping to a group", "ping, v4"]
                with network.far.wire() as far:
                    with network.near.tool("countp", option):
                        far.send(*[MADE[name][0] for name in names])
                    came = far.seen()
                self.assertEqual([frame[:12].hex() for frame in came],
                                 ["020000000001" "020000000002"] * 3)
                self.assertEqual([frame[12:] for frame in came],
                                 [MADE[name][0][12:] for name in names])

    def test_tcp_works_under_a_flood_of_udp(self):
        """A transfer arrives whole, no datagram does, and the counts are those
        of the kernel's own counter of what was sent."""
        network = Network(self.addCleanup, ["v4"])
        attach_foreign(self, network.far)
        size, digest = 256 << 20, hashlib.md5()
        with inside(network.near.namespace):
            listener = socket.create_server(("10.9.0.2", 0))
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind(("10.9.0.2", 0))
            datagrams.setblocking(False)

        def receive():
            with listener, listener.accept()[0] as stream:
                buffer, left = bytearray(1 << 20), size
                while left:
                    count = stream.recv_into(buffer)
                    if not count:
                        break
                    digest.update(buffer[:count])
                    left -= count
                stream.sendall(b"%d" % left)

        receiver = threading.Thread(target=receive)
        receiver.start()
        with network.near.tool("countp", "-N") as tool:
            sent = network.far.sent()
            flood = network.far.popen(
                "/usr/bin/python3", "-c",
                "import socket, time; s = socket.socket(2, 2); n = 0\n"
                "try:\n"
                " while True: s.sendto(b'x' * 64, ('10.9.0.2', %d)); n += 1\n"
                "except KeyboardInterrupt: print(n)"
                % datagrams.getsockname()[1], stdout=subprocess.PIPE)
            with inside(network.far.namespace):
                stream = socket.create_connection(listener.getsockname())
            part = bytes(range(256)) * 4096
            check = hashlib.md5()
            with stream:
                for _ in range(size // len(part)):
                    stream.sendall(part)
                    check.update(part)
                self.assertEqual(stream.recv(99), b"0")
            flood.send_signal(2)
            datagrams_sent = int(flood.communicate()[0])
            receiver.join()
        self.assertEqual(digest.digest(), check.digest())
        with self.assertRaises(BlockingIOError):
            datagrams.recv(1)
        datagrams.close()
        table = totals(tool)
        self.assertGreater(datagrams_sent, 10000)
        # It may be stopped between sending and counting.
        self.assertLessEqual(table["UDP"][0], datagrams_sent + 1)
        self.assertGreater(table["UDP"][0], datagrams_sent // 2)
        self.assertGreater(table["TCP"][1], size)
        self.assertEqual(table["total"][0], network.far.sent() - sent)

    def test_kept_dns(self):
        """A real answer passes with -k src:53, and not without."""
        for options, passes in (["-k", "src:53"], True), (["-k", "53"], False):
            with self.subTest(options=options):
                network = Network(self.addCleanup, ["v4"])
                with inside(network.near.namespace):
                    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                with inside(network.far.namespace):
                    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                near.settimeout(1)
                far.settimeout(5)
                near.bind(("10.9.0.2", 0))
                far.bind(("10.9.0.1", 53))
                with near, far, network.near.tool("countp", *options):
                    near.sendto(b"question", ("10.9.0.1", 53))
                    question, address = far.recvfrom(99)
                    far.sendto(b"answer", address)
                    if passes:
                        self.assertEqual(near.recv(99), b"answer")
                    else:
                        with self.assertRaises(socket.timeout):
                            near.recv(99)

    def test_flood_from_a_kept_port(self):
        """A sender chooses its source port: -k 53 keeps what is sent to 53."""
        frame = MADE["UDP, from a port to which UDP is kept"][0]
        for ports, name in ("53", "UDP"), ("src:53", "UDP-kept"):
            with self.subTest(ports=ports):
                network = Network(self.addCleanup)
                with network.far.wire() as far, network.near.wire() as near:
                    with network.near.tool("countp", "-k", ports) as tool:
                        far.send(*[frame] * 10007)
                    arrived = near.seen()
                self.assertEqual(totals(tool)[name],
                                 (10007, 10007 * len(frame)))
                self.assertEqual(totals(tool)["total"][0], 10007)
                self.assertEqual(len(arrived),
                                 10007 if name == "UDP-kept" else 0)

    def test_real_ping(self):
        """Requests are sent back unanswered; ARP passes."""
        network = Network(self.addCleanup, ["v4"])
        attach_foreign(self, network.far)
        with network.near.tool("countp") as tool:
            ping = network.far.popen("ping", "-c", str(COUNT), "-i", "0.02",
                                     "-W", "1", "10.9.0.2",
                                     stdout=subprocess.DEVNULL)
            self.assertEqual(ping.wait(), 1)
        table = totals(tool)
        self.assertGreaterEqual(table["other"][0], COUNT)
        self.assertGreaterEqual(table["ARP/ND"][0], 1)


class TestAttaching(Attaching, Case):

    def test_another_address(self):
        """Frames would be sent back with the old one."""
        network = Network(self.addCleanup)
        tool, program = self.start(network)
        network.near.ip("link", "set", "near0", "address", "02:00:00:00:00:03")
        self.assertEqual(tool.finish(), 1)
        self.assertIn("near0 is gone or its MAC address changed", tool.stderr)
        self.wait_until_clean(network, program)

    def test_loopback_would_loop_for_ever(self):
        network = Network(self.addCleanup)
        network.near.name = "lo"
        self.assertIn("for ever", self.refused(network)[0])
        self.assertIn("for ever", self.refused(
            network, "--other=drop", "--udp=tx")[0])

    def test_the_plan_is_reported(self):
        for options, line in (
                ([], "TCP pass, UDP drop, other tx"),
                (["--tcp", "tx", "--udp=pass", "--other=drop"],
                 "TCP tx, UDP pass, other drop")):
            with self.subTest(options=options):
                network = Network(self.addCleanup)
                with network.near.tool("countp", *options) as tool:
                    pass
                self.assertEqual(tool.stderr,
                                 "near0, native mode: %s\n" % line)


class TestRows(Rows, Case):

    def test_percentages(self):
        """Of known packets: 3 of 4 are dropped, of which one comes back."""
        network = Network(self.addCleanup)
        tool = network.near.tool("countp")
        tool.command.append("0.2")
        with tool, network.far.wire() as far:
            far.send(*[MADE[name][0] for name in COUNT * (
                ["UDP, v4"] * 6 + ["TCP, v4", "ping, v4"])])
        row = next(line for line in tool.rows if re.match("drop ", line))
        self.assertEqual(row.split(), [
            "drop", str(6 * COUNT),
            str(6 * COUNT * len(MADE["UDP, v4"][0])), "75.0"])
        self.assertTrue(any(re.search(r" 75\.0$", line)
                            for line in tool.rows[:tool.rows.index("")]))


class TestRefusals(Refusals, unittest.TestCase):

    name = "countp"
    always = ["lo", "--other", "drop"]
    soon = ["0.1", "2"]
    bad_arguments = [
        [], ["lo", "x"], ["lo", "0"], ["lo", "-1"], ["lo", "nan"],
        ["lo", "1e99"], ["lo", "1", "0"], ["lo", "1", "x"],
        ["lo", "1", "1", "1"], ["-N", "-S", "lo"], ["--tcp", "x", "lo"],
        ["--udp", "", "lo"], ["--other", "PASS", "lo"], ["-k", "", "lo"],
        ["-k", "0x35", "lo"], ["-k", "65536", "lo"], ["-k", "9-8", "lo"],
        ["-k", "53,", "lo"], ["-k", "1) || (1", "lo"], ["-k", "-1", "lo"],
        ["-k", ",".join(["53"] * 65), "lo"], ["-dev"], ["--nonesuch", "lo"]]


if __name__ == "__main__":
    unittest.main()
