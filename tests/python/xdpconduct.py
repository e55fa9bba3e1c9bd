"""What every tool that attaches an XDP program must do: parse, count, attach,
leave nothing behind."""

import fcntl
import os
import re
import signal
import subprocess
import time
from collections import defaultdict

import bcc

from conduct import COUNT, Subject
from frames import MADE, corpus
from toolrun import PYTHON, bpf_programs, cpu_seconds, run, tool_path
from veth import (MODES, Network, attach_foreign, inside, pass_program,
                  run_program)

SEED = 20261123
CORPUS = 200000         # frames


def totals(tool):
    """Return the table at the end: {class or action: (packets, bytes)}, and
    "total"."""
    start = next(i for i, row in enumerate(tool.rows)
                 if row.startswith("CLASS "))
    titles, *rows = (row.split() for row in tool.rows[start:])
    if "PACKETS" in titles:
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}
    # protostats: CLASS, BYTES, and packets by action
    found = {row[0]: (sum(map(int, row[2:])), int(row[1])) for row in rows}
    found["total"] = found.pop("all")
    found.update((title, (int(number), None))
                 for title, number in zip(titles[2:], rows[-1][2:]))
    return found


class XdpSubject(Subject):
    """A test case also has:

    classes     what the tool counts, as in the first column of its last
                table, in the order of its C text's enum packet_class
    made_class  which of a frame's two classes in MADE is this tool's
    verdict(class_name)     pass, drop or tx
    expected(frame)         the class of any frame, by a plain reading
    """

    classes, made_class = [], None
    options = []        # with which the tool is run on made frames

    def after(self, _, frame):
        """The frame as the program leaves it."""
        return frame

    def loaded(self, *args):
        """The tool's C text, compiled and loaded: (bcc.BPF, descriptor)."""
        network = Network(self.addCleanup)
        text = subprocess.check_output(network.near.prefix + [
            PYTHON, tool_path(self.name), "--ebpf", *args, network.near.name])
        program = bcc.BPF(text=text)
        self.addCleanup(program.cleanup)
        return program, program.load_func(self.name.encode(), bcc.BPF.XDP).fd

    def run_with(self, replacement, *args):
        """Run the tool with a function of BCC's library replaced, as in
        "bpf_link_create = lambda *_: fails(errno.EINVAL)"."""
        return subprocess.run(
            [PYTHON, "-c", "import ctypes, errno, runpy, sys\n"
             "from bcc.libbcc import lib\n"
             "def fails(error):\n"
             "    ctypes.set_errno(error)\n"
             "    return -1\n"
             "lib.%s\n"
             "sys.argv = sys.argv[1:]\n"
             "runpy.run_path(sys.argv[0], run_name='__main__')" % replacement,
             tool_path(self.name), *args], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True)

    def start(self, network, *args, **popen):
        """The tool on the near port, and its program's ID as ip(8) has it."""
        tool = network.near.tool(self.name, *args, **popen).start()
        ids = list(network.near.xdp())
        self.assertEqual(len(ids), 1)
        self.assertIn(ids[0], bpf_programs())
        return tool, ids[0]

    def wait_until_clean(self, network, program):
        for _ in range(50):
            if not network.near.xdp() and program not in bpf_programs():
                return
            time.sleep(0.1)
        self.fail("still there: %s" % network.near.xdp())

    def check_sigkill(self, *options):
        network = Network(self.addCleanup)
        tool, program = self.start(network, *options)
        tool.process.kill()
        tool.finish()
        self.wait_until_clean(network, program)


class Parsing(XdpSubject):

    XDP = {"drop": 1, "pass": 2, "tx": 3}       # enum xdp_action

    def counted(self, program):
        """Packets and bytes of each class, summed over verdicts and CPUs."""
        sums = [[0, 0] for _ in self.classes]
        for i, cpus in program[b"counts"].items():
            for cpu in cpus:
                sums[i.value % len(sums)][0] += cpu.packets
                sums[i.value % len(sums)][1] += cpu.bytes
        return sums

    def check_frames(self, frames, *args):
        """Run frames class by class, so that the counters tell of each one
        what it was taken for."""
        program, fd = self.loaded(*args)
        by_class = defaultdict(list)
        for frame in frames:
            by_class[self.expected(frame)].append(frame)
        wrong = []
        for name in self.classes:
            before = self.counted(program)
            verdict = self.XDP[self.verdict(name)]
            for frame in by_class[name]:
                leaves = self.after(name, frame)
                if run_program(fd, frame) != (verdict, leaves):
                    wrong.append((name, frame.hex(), run_program(fd, frame)))
                    break
            after = self.counted(program)
            difference = [[a - b for a, b in zip(*pair)]
                          for pair in zip(after, before)]
            sizes = [len(frame) for frame in by_class[name]]
            expected = [[0, 0] for _ in self.classes]
            expected[self.classes.index(name)] = [len(sizes), sum(sizes)]
            if difference != expected:
                wrong.append((name, difference, expected))
        self.assertEqual(wrong, [])
        self.assertEqual(set(by_class), set(self.classes))

    def test_made_frames_are_read_as_meant(self):
        """The reading that the next tests trust, against what is known."""
        for name, made in MADE.items():
            with self.subTest(frame=name):
                self.assertEqual(self.expected(made[0]),
                                 made[self.made_class])

    def test_any_frame(self):
        frames = corpus(CORPUS, SEED)
        self.assertEqual(len(frames), CORPUS)
        self.check_frames(frames, *self.options)


class Counting(XdpSubject):
    """Frames on a real interface."""

    def check_made(self, mode, option):
        network = Network(self.addCleanup)
        attach_foreign(self, network.far)
        expected = {name: [0, 0] for name in self.classes}
        arrive, return_ = [], []
        cut_tag = MADE["cut, tag"][0]   # which the kernel shows to nobody
        with network.far.wire() as far, network.near.wire() as near:
            with network.near.tool(self.name, option,
                                   *self.options) as tool:
                self.assertEqual(list(network.near.xdp().values()), [mode])
                for made in MADE.values():
                    frame, name = made[0], made[self.made_class]
                    far.send(*[frame] * COUNT)
                    expected[name][0] += COUNT
                    expected[name][1] += COUNT * len(frame)
                    if self.verdict(name) == "pass" and frame != cut_tag:
                        arrive += [frame] * COUNT
                    elif self.verdict(name) == "tx" and frame != cut_tag:
                        return_ += [self.after(name, frame)] * COUNT
            self.assertEqual(near.seen(), arrive)
            self.assertEqual(far.seen(), return_)
        table = totals(tool)
        self.assertEqual({name: list(table[name]) for name in self.classes},
                         expected)
        self.assertEqual(network.near.xdp(), {})

    def test_native(self):
        self.check_made(1, "-N")

    def test_generic(self):
        self.check_made(2, "-S")

    def test_many_cpus(self):
        """Senders on all CPUs at once."""
        network = Network(self.addCleanup)
        frame = MADE["UDP, v4"][0]
        sender = ("import socket; s = socket.socket(17, 3); "
                  "s.bind(('%s', 3)); f = bytes.fromhex('%s')\n"
                  "for _ in range(20011):\n"
                  " try: s.send(f)\n"
                  " except OSError: pass    # veth's ring is full" % (
                      network.far.name, frame.hex()))
        for option in ("-S", "-N"):
            with self.subTest(option=option):
                sent = network.far.sent()
                with network.near.tool(self.name, option, "-j") as tool:
                    senders = [network.far.popen(
                        "taskset", "-c", str(cpu), PYTHON, "-c",
                        sender) for cpu in os.sched_getaffinity(0)]
                    for process in senders:
                        self.assertEqual(process.wait(), 0)
                tool.rows += tool.stderr.splitlines()
                packets = totals(tool)["UDP"][0]
                self.assertEqual(packets, network.far.sent() - sent)
                self.assertGreater(packets, 10000)
                self.assertNotIn(",-", "".join(tool.rows))  # never backwards


class Attaching(XdpSubject):

    def test_sigkill_native(self):
        self.check_sigkill("-N")

    def test_sigkill_generic(self):
        self.check_sigkill("-S")

    def test_signals(self):
        """By SIGINT and SIGTERM it prints the totals; others end it at once.
        """
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
                    signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM):
            with self.subTest(signal=sig):
                network = Network(self.addCleanup)
                tool, program = self.start(     # under nohup(1), too
                    network, preexec_fn=lambda: signal.signal(
                        signal.SIGHUP, signal.SIG_DFL))
                asked = sig in (signal.SIGINT, signal.SIGTERM)
                self.assertEqual(tool.stop(sig), 0 if asked else -sig)
                self.assertEqual("native mode" in "".join(tool.rows), asked)
                self.wait_until_clean(network, program)

    def test_sigkill_100_times(self):
        """Also while it starts. Nothing stays on the interface."""
        network = Network(self.addCleanup)
        programs = set()
        for attempt in range(100):
            process = network.near.popen(
                PYTHON, tool_path(self.name), network.near.name,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if attempt % 10:
                process.stdout.readline()       # attached
                number, = network.near.xdp()
                programs.add(number)
            else:
                time.sleep(attempt / 200)
            process.kill()
            process.wait()
            process.stdout.close()
        for _ in range(50):
            if not network.near.xdp() and not programs & bpf_programs():
                return self.assertEqual(len(programs), 90)
            time.sleep(0.1)
        self.fail("still there: %s" % network.near.xdp())

    def test_nohup(self):
        network = Network(self.addCleanup)
        tool, program = self.start(
            network, preexec_fn=lambda: signal.signal(signal.SIGHUP,
                                                      signal.SIG_IGN))
        tool.send(signal.SIGHUP)
        tool.next_row(5)
        self.assertEqual(tool.stop(), 0)
        self.wait_until_clean(network, program)

    def test_without_links(self):
        """As before Linux 5.9: one line that says so."""
        done = self.run_with(
            "bpf_link_create = lambda *_: fails(errno.EINVAL)", "lo",
            *self.harmless)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("Invalid argument", done.stderr)
        self.assertIn("requires Linux 5.9", done.stderr)

    def foreign(self, network, mode, by_link):
        """Another's program on the near port: its ID."""
        if by_link:
            attach_foreign(self, network.near, mode)
        else:
            self.replace(network, MODES[mode])
        return list(network.near.xdp())[0]

    def replace(self, network, flags):
        """By netlink, and whatever was there. Returns the program's ID."""
        before, program = bpf_programs(), pass_program()
        number, = bpf_programs() - before
        with inside(network.near.namespace):
            self.assertEqual(bcc.lib.bpf_attach_xdp(
                network.near.name.encode(), program, flags), 0)
        os.close(program)
        return number

    def refused(self, network, *args, status=1):
        """The lines of the tool's refusal."""
        done = subprocess.run(
            network.near.prefix + [PYTHON, tool_path(self.name), *args,
                                   network.near.name, "1", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNotIn("Traceback", done.stderr)
        return done.stderr.splitlines()

    def test_another_program_is_left_alone(self):
        for mode in "native", "generic":
            for by_link in True, False:
                for options in [], ["-S"], ["-N"]:
                    with self.subTest(mode=mode, by_link=by_link,
                                      options=options):
                        network = Network(self.addCleanup)
                        program = self.foreign(network, mode, by_link)
                        before = network.near.xdp()
                        lines = self.refused(network, *options)
                        self.assertEqual(len(lines), 1, lines)
                        self.assertRegex(lines[0], self.busy)
                        self.assertEqual(network.near.xdp(), before)

    def test_two_instances(self):
        network = Network(self.addCleanup)
        tool, program = self.start(network)
        self.assertRegex(self.refused(network)[0], self.busy)
        with network.far.tool(self.name) as second:
            self.assertEqual(list(network.near.xdp()), [program])
        self.assertIn("far0, native mode,", "".join(second.rows))
        self.assertEqual(list(network.near.xdp()), [program])
        self.assertEqual(tool.stop(), 0)

    def check_gone(self, change):
        for option in [], ["-S"]:
            with self.subTest(option=option):
                network = Network(self.addCleanup)
                tool = network.near.tool(self.name, *option)
                tool.command.append("1000")     # s: it does not wait for a row
                tool.start()
                begin = time.monotonic()
                change(network)
                self.assertEqual(tool.finish(), 1)
                self.assertLess(time.monotonic() - begin, 5)
                lines = tool.stderr.splitlines()
                self.assertIn("near0 is gone", lines[-1])
                self.assertIn("near0, ", "".join(tool.rows))

    def test_interface_is_removed(self):
        self.check_gone(lambda network: network.near.ip(
            "link", "del", "near0"))

    def test_interface_moves_to_another_namespace(self):
        self.check_gone(lambda network: network.near.ip(
            "link", "set", "near0", "netns", network.far.namespace))

    def test_renamed_interface(self):
        network = Network(self.addCleanup)
        tool, program = self.start(network)
        network.near.ip("link", "set", "near0", "down")
        network.near.ip("link", "set", "near0", "name", "near1")
        tool.next_row(5)
        tool.next_row(5)
        self.assertEqual(tool.stop(), 0)

    def test_generic_mode_of_loopback(self):
        """Both when it is asked for and when native mode is not there."""
        network = Network(self.addCleanup)
        network.near.name = "lo"
        for options in ["-S"], []:
            with self.subTest(options=options):
                with network.near.tool(self.name, *(
                        options + self.harmless)) as tool:
                    ping = network.near.popen(
                        "ping", "-c", str(COUNT), "-i", "0.01", "-W", "1",
                        "127.0.0.1", stdout=subprocess.DEVNULL)
                    self.assertEqual(ping.wait(), self.ping_status)
                self.assertIn("generic mode, ", "".join(tool.rows))
                self.assertEqual(
                    "lo, no native mode (Operation not supported), generic "
                    "mode" in tool.stderr, not options)
                self.assertEqual(totals(tool)["total"][0],
                                 (1 + (not self.ping_status)) * COUNT)
        lines = self.refused(network, "-N", *self.harmless)
        self.assertIn("no native mode (Operation not supported)", lines[-1])

    def test_jumbo_frames(self):
        """Native mode is refused, and generic mode used instead."""
        network = Network(self.addCleanup, mtu=9000)
        refusal = r"near0, no native mode \(Numerical result out of range\)"
        self.assertRegex(self.refused(network, "-N")[-1], refusal)
        with network.near.tool(self.name) as tool:
            self.assertEqual(list(network.near.xdp().values()), [2])
        self.assertRegex(tool.stderr, refusal + ", generic mode")

    def test_no_ethernet(self):
        network = Network(self.addCleanup)
        network.near.name = "tun0"
        try:
            network.near.ip("tuntap", "add", "mode", "tun", "name", "tun0")
        except subprocess.CalledProcessError:
            self.skipTest("no tun interfaces on this kernel")
        self.assertIn("no Ethernet", self.refused(network)[0])

    def test_no_such_interface(self):
        for name in "nosuch0", "", "a" * 99, "no\x7fsuch", "%s", '"; x':
            with self.subTest(name=name):
                done = run(self.name, "--", name)
                self.assertEqual(done.returncode, 1)
                self.assertEqual(len(done.stderr.splitlines()), 1)
                self.assertIn("no network interface", done.stderr)

    def test_dev_before_the_interface(self):
        network = Network(self.addCleanup)
        done = subprocess.run(
            network.near.prefix + [PYTHON, tool_path(self.name), "-dev",
                                   network.near.name, "0.1", "3"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.split("\n\n")[0].count("\n"), 3)

    def test_no_capabilities(self):
        """Root without any, and root that may load but not attach."""
        network = Network(self.addCleanup)
        for drop in "-all", "-net_admin,-sys_admin":
            with self.subTest(drop=drop):
                done = subprocess.run(
                    network.near.prefix + [
                        "setpriv", "--bounding-set=" + drop,
                        "--inh-caps=" + drop, PYTHON, tool_path(self.name),
                        network.near.name], stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, universal_newlines=True)
                self.assertEqual(done.returncode, 1)
                self.assertNotIn("Traceback", done.stderr)
                self.assertRegex(done.stderr.splitlines()[-1],
                                 "not permitted|super-user")
        self.assertEqual(network.near.xdp(), {})


class Rows(XdpSubject):
    """The output, and the ways to end."""

    def test_intervals(self):
        network = Network(self.addCleanup)
        begin = time.monotonic()
        tool = network.near.tool(self.name)
        tool.command += ["0.5", "3"]
        tool.start()
        begin = time.monotonic()
        self.assertEqual(tool.finish(), 0)
        self.assertGreater(time.monotonic() - begin, 1.2)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual(tool.rows.index(""), 3)

    def test_rates(self):
        """What the rows show, times the seconds, is what was sent."""
        frame = MADE["UDP, v4"][0]
        for options, unit in ([], 1), (["-b"], 8 * len(frame)):
            with self.subTest(options=options):
                network = Network(self.addCleanup)
                tool = network.near.tool(self.name, "-j", *options)
                tool.command.append("0.5")
                with tool, network.far.wire() as far:
                    for _ in range(3):
                        tool.next_row()
                        far.send(*[frame] * 2309)
                    tool.next_row()
                    tool.next_row()
                column = tool.header.split(",").index(
                    self.udp_column(bool(options)))
                shown = sum(float(row.split(",")[column])
                            for row in tool.rows)
                self.assertAlmostEqual(0.5 * shown, 3 * 2309 * unit,
                                       delta=0.1 * 3 * 2309 * unit)

    def test_stop_and_continue(self):
        """Ctrl-Z and fg: no row is made up, and none of the counts is lost."""
        network = Network(self.addCleanup)
        tool = network.near.tool(self.name)
        tool.command.append("0.3")
        with tool, network.far.wire() as far:
            tool.next_row()
            tool.send(signal.SIGSTOP)
            far.send(*[MADE["TCP, v4"][0]] * COUNT)
            time.sleep(2)
            rows = len(tool.rows)
            tool.send(signal.SIGCONT)
            time.sleep(1)
        self.assertLess(tool.rows.index("") - rows, 8)
        self.assertEqual(totals(tool)["TCP"][0], COUNT)
        # Over more than 2 s, not over the interval.
        title = self.tcp_column
        most = max(float(row[title]) for row in tool.table()
                   if re.match(r"\d\d:", row.get("TIME", "")))
        self.assertGreater(most, 0)
        self.assertLess(most, COUNT / 2 + 1)

    def test_reader_leaves(self):
        network = Network(self.addCleanup)
        process = network.near.popen(
            PYTHON, tool_path(self.name), network.near.name, "100",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(5), 0)
        self.assertNotIn(b"Traceback", process.stderr.read())
        process.stderr.close()
        self.assertEqual(network.near.xdp(), {})

    def test_full_disk(self):
        network = Network(self.addCleanup)
        with open("/dev/full", "w") as full:
            process = network.near.popen(
                PYTHON, tool_path(self.name), network.near.name,
                stdout=full, stderr=subprocess.PIPE, universal_newlines=True)
            errors = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 1)
        self.assertEqual(errors.splitlines()[-1], "%s.py: can't write: "
                         "No space left on device" % self.name)
        self.assertEqual(network.near.xdp(), {})

    def test_ends_while_nobody_reads(self):
        """A first signal waits for the reader, a second one does not."""
        network = Network(self.addCleanup)
        process = network.near.popen(
            PYTHON, tool_path(self.name), network.near.name, "0.01",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        fcntl.fcntl(process.stdout, 1031, 4096)     # F_SETPIPE_SZ
        process.stdout.readline()
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(10), -signal.SIGTERM)
        process.stdout.close()
        self.assertEqual(network.near.xdp(), {})

    def test_longest_interval(self):
        tool = Network(self.addCleanup).near.tool(self.name)
        tool.command.append("999999999")
        with tool:
            pass

    def test_idle_cost(self):
        """No more than 1% of a CPU, of which it takes far less."""
        network = Network(self.addCleanup)
        with network.near.tool(self.name) as tool:
            tool.next_row()
            before = cpu_seconds(tool.process.pid)
            for _ in range(3):
                tool.next_row()
            used = cpu_seconds(tool.process.pid) - before
        self.assertLess(used, 0.03)
