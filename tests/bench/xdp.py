"""What counting in XDP costs: countp and protostats beside nothing at all and
beside xdp-tools, in one run. Called by tests/bench/run.

Nanoseconds per packet are BPF_PROG_TEST_RUN's, the lowest of all rounds.
Packets per second are those that are dropped of what goes over a veth pair,
the most of all rounds. The kernel itself sends them (BPF_PROG_TEST_RUN with
live frames, which is how xdp-trafficgen does it too, Linux 5.18), and the veth
driver counts them, not the programs.
"""

import contextlib
import ctypes
import os
import re
import signal
import struct
import subprocess
import threading
import time

from frames import MADE
from toolrun import PYTHON, bpf, cpu_seconds, tool_path
from veth import Network, inside, link_program, load_xdp

FRAMES = ["TCP, v4", "UDP, v4", "ping, v4", "TCP, v6",
          "UDP, vlan, v6, extension headers"]
REPEAT = 200000
SECONDS = 1             # of packets for each measurement
DROP, PASS = 1, 2       # enum xdp_action


def returns(verdict):
    """A program that does nothing else."""
    return load_xdp("bench", (0xb7, 0, 0, verdict), (0x95, 0, 0, 0))


def redirects(index):
    """A program that sends every frame out of an interface: r1 = index; r2 =
    0; call bpf_redirect; exit."""
    return load_xdp("bench", (0xb7, 1, 0, index), (0xb7, 2, 0, 0),
                    (0x85, 0, 0, 23), (0x95, 0, 0, 0))


def run_program(fd, frame, repeat, flags=0, batch=0):
    """BPF_PROG_TEST_RUN. Returns ns per packet. flags are at offset 64 of
    union bpf_attr, batch_size at 72; live frames need a context, of which
    data_end is all that counts (struct xdp_md)."""
    data = ctypes.create_string_buffer(frame, len(frame))
    ctx = ctypes.create_string_buffer(struct.pack("=6I", 0, len(frame), 0, 0,
                                                  0, 0))
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=IIIIQQII", attr, 0, fd, 0, len(frame), 0,
                     ctypes.addressof(data), 0, repeat, 0)
    if flags:
        struct.pack_into("=IIQQIII", attr, 40, 24, 0, ctypes.addressof(ctx), 0,
                         flags, 0, batch)
    bpf(10, attr)
    return struct.unpack_from("=I", attr, 36)[0]


def descriptor(number):
    """Of a loaded program. BPF_PROG_GET_FD_BY_ID is 13."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=I", attr, 0, number)
    return bpf(13, attr)


def flood(port, frame, stop):
    """Send frames out of a port until told to stop. BPF_F_TEST_XDP_LIVE_FRAMES
    is 2."""
    with inside(port.namespace):
        program = redirects(port.index)
        while not stop.is_set():
            run_program(program, frame, 65536, flags=2, batch=64)
        os.close(program)


def driver_count(port):
    """Packets that the veth driver gave to its XDP program."""
    shown = subprocess.check_output(
        port.prefix + ["ethtool", "-S", port.name], universal_newlines=True)
    return sum(map(int, re.findall(r"rx_queue_\d+_xdp_packets: (\d+)",
                                   shown)))


class Command:
    """A tool or peer on a port, until the end of the block; its program's
    descriptor is what the block gets. Raises OSError with its own words."""

    def __init__(self, start, stop=None):
        self.start, self.stop = start, stop

    @contextlib.contextmanager
    def on(self, port):
        enter = ["nsenter", "--net=/run/netns/" + port.namespace]
        process = subprocess.Popen(
            enter + [a.replace("IFACE", port.name) for a in self.start],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, universal_newlines=True)
        try:
            yield self.wait(process, port)
        finally:
            if self.stop:
                subprocess.call(enter + [a.replace("IFACE", port.name)
                                         for a in self.stop])
            else:
                process.send_signal(signal.SIGINT)
            process.wait()

    def wait(self, process, port):
        end = time.monotonic() + 20
        while time.monotonic() < end and not port.xdp():
            if process.poll() and not port.xdp():
                lines = process.stderr.read().split("\n")
                raise OSError(next((line.strip() for line in reversed(lines)
                                    if line.strip()), "it ended"))
            time.sleep(0.05)
        return descriptor(list(port.xdp())[0])


class Bare(Command):
    """A program of this file."""

    def __init__(self, verdict):
        self.verdict = verdict

    @contextlib.contextmanager
    def on(self, port):
        program = returns(self.verdict)
        link = link_program(program, port, "native")
        try:
            yield program
        finally:
            os.close(link)
            os.close(program)


def tool(name, *options):
    return Command([PYTHON, tool_path(name), *options, "IFACE"])


def xdp_filter(policy):
    return Command(["xdp-filter", "load", "-p", policy, "IFACE"],
                   ["xdp-filter", "unload", "IFACE"])


def measure_cost(network, rounds):
    """Prints ns per packet by program and frame."""
    commands = {
        "return XDP_PASS": Bare(PASS), "countp": tool("countp"),
        "countp -k 53,67-68": tool("countp", "-k", "53,67-68"),
        "protostats": tool("protostats"),
        "xdp-filter, allows all": xdp_filter("allow"),
        "xdp-filter, denies all": xdp_filter("deny")}
    best, errors = {}, {}
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            try:
                with command.on(network.near) as program:
                    best[name] = (os.dup(program),
                                  [float("inf")] * len(FRAMES))
            except OSError as e:
                errors[name] = e
        for _ in range(20 * rounds):
            for program, times in best.values():
                for i, frame in enumerate(FRAMES):
                    times[i] = min(times[i], run_program(
                        program, MADE[frame][0], REPEAT))
    print("%-26s %7s %7s %7s %7s %9s" % (
        "NS PER PACKET", "TCP", "UDP", "PING", "TCP v6", "UDP v6 *"))
    for name in commands:
        if name in errors:
            print("%-26s %s" % (name, errors[name]))
        else:
            print("%-26s %7d %7d %7d %7d %9d" % (name, *best[name][1]))
    print("* behind a VLAN tag and two extension headers\n")


def measure_drops(network, rounds):
    """Prints the most UDP packets per second that a program dropped."""
    commands = {
        "return XDP_DROP": Bare(DROP), "countp": tool("countp"),
        "xdp-filter, denies all": xdp_filter("deny"),
        "xdp-bench drop": Command(["xdp-bench", "drop", "IFACE"])}
    rates, errors = {}, {}
    for _ in range(3 * rounds):
        for name, command in commands.items():
            try:
                with command.on(network.near):
                    rates[name] = max(rates.get(name, 0), drop_rate(
                        network, MADE["UDP, v4"][0]))
            except OSError as e:
                errors[name] = e
    print("%-26s %14s %14s" % ("DROPPED PER SECOND", "PACKETS", "/BEST"))
    for name in commands:
        if name in rates:
            print("%-26s %14d %14.2f" % (
                name, rates[name], rates[name] / max(rates.values())))
        else:
            print("%-26s %s" % (name, errors[name]))
    print()


def drop_rate(network, frame):
    stop = threading.Event()
    sender = threading.Thread(target=flood, args=(network.far, frame, stop))
    sender.start()
    time.sleep(0.3)
    begin, before = time.monotonic(), driver_count(network.near)
    time.sleep(SECONDS)
    after, end = driver_count(network.near), time.monotonic()
    stop.set()
    sender.join()
    return (after - before) / (end - begin)


def measure_idle(network):
    """Prints a tool's CPU seconds in 20 s in which it prints 20 rows."""
    for name in "countp", "protostats":
        process = network.near.popen(
            PYTHON, tool_path(name), network.near.name, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        for _ in range(2):
            process.stdout.readline()
        before = cpu_seconds(process.pid)
        for _ in range(20):
            process.stdout.readline()
        print("%-26s %.2f s of CPU in 20 s, %d MB resident" % (
            name, cpu_seconds(process.pid) - before,
            resident(process.pid) >> 20))
        process.send_signal(signal.SIGINT)
        process.communicate()


def resident(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(rounds):
    if not os.path.ismount("/sys/fs/bpf"):      # xdp-filter pins its maps
        subprocess.check_call(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])
    with contextlib.ExitStack() as cleanup:
        network = Network(cleanup.callback)
        cleanup.enter_context(Bare(PASS).on(network.far))
        measure_cost(network, rounds)
        measure_drops(network, rounds)
        measure_idle(network)
