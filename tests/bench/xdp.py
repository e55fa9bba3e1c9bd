"""What counting in XDP costs: countp and protostats beside nothing at all and
beside xdp-tools and tcpdump, on a veth pair made for that.

Nanoseconds per packet are BPF_PROG_TEST_RUN's, the lowest of a round. Packets
per second are those that arrive at the interface, by its own counter; the
kernel itself sends them (BPF_PROG_TEST_RUN with live frames, which is how
xdp-trafficgen does it too, Linux 5.18).
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import tempfile
import threading
import time

from bcc import BPF

from frames import MADE
from report import Workload
from toolrun import PYTHON, bpf, cpu_seconds, tool_path
from tracers import Failed, own_words, resident
from veth import (Network, Port, descriptor, inside, link_program,
                  load_xdp)

FRAMES = {"TCP": "TCP, v4", "UDP": "UDP, v4", "ping": "ping, v4",
          "UDP, VLAN, IPv6, extensions": "UDP, vlan, v6, extension headers"}
REPEAT = 200000         # packets of a frame for each time taken
TIMES = 10              # of which a round takes the least
SECONDS = 2             # of packets per second


# The floor of what counts: packets and bytes, whatever they are.
COUNTING = """
struct count {
    u64 packets;
    u64 bytes;
};

BPF_PERCPU_ARRAY(counts, struct count, 1);

int counting(struct xdp_md *ctx)
{
    int zero = 0;
    struct count *count = counts.lookup(&zero);

    if (count) {
        count->packets++;
        count->bytes += ctx->data_end - ctx->data;
    }
    return XDP_PASS;
}
"""


def drops():
    """A program that does nothing else: r0 = XDP_DROP; exit."""
    return load_xdp("bench", (0xb7, 0, 0, 1), (0x95, 0, 0, 0))


def passes():
    """The same with XDP_PASS."""
    return load_xdp("bench", (0xb7, 0, 0, 2), (0x95, 0, 0, 0))


def counting():
    """A program that counts all packets as one."""
    return os.dup(BPF(text="#include <uapi/linux/bpf.h>\n" + COUNTING)
                  .load_func("counting", BPF.XDP).fd)


def redirects(index):
    """A program that sends every frame out of an interface: r1 = index; r2 =
    0; call bpf_redirect; exit."""
    return load_xdp("bench", (0xb7, 1, 0, index), (0xb7, 2, 0, 0),
                    (0x85, 0, 0, 23), (0x95, 0, 0, 0))


def run_many(fd, frame, repeat, flags=0, batch=0):
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


@contextlib.contextmanager
def flood(port, frame):
    """Send frames out of a port during the block. BPF_F_TEST_XDP_LIVE_FRAMES
    is 2. Raises Failed if that does not go."""
    stop, errors = threading.Event(), []

    def send():
        try:
            with inside(port.namespace):
                program = redirects(port.index)
                while not stop.is_set():
                    with contextlib.suppress(InterruptedError):
                        run_many(program, frame, 65536, flags=2, batch=64)
                os.close(program)
        except OSError as e:
            errors.append(e)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()
    if errors:
        raise Failed("can't send: %s" % errors[0])


def received(port):
    """Packets that the interface counts."""
    shown = json.loads(port.ip("-j", "-s", "link", "show", "dev", port.name))
    return [link for link in shown if link][0]["stats64"]["rx"]["packets"]


class Subject:
    """A command on an interface, whose name stands for IFACE in it.

    stop    the command that ends it, if it ends at once; else it gets SIGINT
    seen    a pattern for the number of packets in what it prints; lost: for
            those that it missed
    sign    what it says once it is ready, if it is no XDP program
    """

    def __init__(self, name, start, stop=None, seen=None, lost=None,
                 sign=None):
        self.name, self.start, self.stop = name, start, stop
        self.seen, self.lost, self.sign = seen, lost, sign

    @contextlib.contextmanager
    def on(self, port):
        """Attached during the block, which gets a dict for its measures; some
        are there after the block only. Raises Failed."""
        enter = ["nsenter", "--net=/run/netns/" + port.namespace]
        values, begin = {}, time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                enter + [a.replace("IFACE", port.name) for a in self.start],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                self.wait(process, port, log)
                values["start"] = time.monotonic() - begin
                if not self.stop:
                    cpu = cpu_seconds(process.pid)
                yield values
                if not self.stop:
                    values["cpu"] = cpu_seconds(process.pid) - cpu
                    values["rss"], values["anonymous"] = resident(process.pid)
            finally:
                if self.stop and port.xdp():
                    subprocess.call(enter + [a.replace("IFACE", port.name)
                                             for a in self.stop])
                elif not self.stop:
                    process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise Failed("it does not end by SIGINT")
            for name, pattern in ("seen", self.seen), ("lost", self.lost):
                if pattern:
                    told = re.findall(pattern, read(log), re.M)
                    if not told:
                        raise Failed(own_words(read(log)))
                    values[name] = int(told[-1])

    def wait(self, process, port, log):
        end = time.monotonic() + 20
        while not (self.sign in read(log) if self.sign else port.xdp()):
            if time.monotonic() > end or process.poll():
                raise Failed(own_words(read(log)))
            time.sleep(0.01)


def read(file):
    """What other processes have written into an open file, as text."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size,
                    0).decode(errors="replace")


class Bare(Subject):
    """A program of this file, which load() returns."""

    def __init__(self, name, load):
        self.name, self.load = name, load

    @contextlib.contextmanager
    def on(self, port):
        program = self.load()
        link = link_program(program, port, "native")
        try:
            yield {}
        finally:
            os.close(link)
            os.close(program)


class Nothing(Subject):
    """No program at all. The veth driver takes redirected frames only if
    there is one, or GRO (which it always has while tcpdump is measured)."""

    def __init__(self, name):
        self.name = name

    @contextlib.contextmanager
    def on(self, port):
        yield {}


def ours(tool, *options):
    return Subject(" ".join([tool, *options]),
                   [PYTHON, tool_path(tool), *options, "IFACE"],
                   seen=r"^total +(\d+)" if tool == "countp" else
                   r"^all +\d+ +(\d+)")


def xdp_filter(policy):
    return Subject("xdp-filter, %s all" % policy,
                   ["xdp-filter", "load", "-p", policy, "IFACE"],
                   ["xdp-filter", "unload", "IFACE"])


def subjects_of_costs(tool):
    more = [ours(tool, "-k", "53,67-68")] if tool == "countp" else []
    return [Bare("return XDP_PASS", passes),
            Bare("count, do not look", counting), ours(tool), *more,
            xdp_filter("allow"), xdp_filter("deny")]


def subjects_of_drops():
    return [Bare("return XDP_DROP", drops), ours("countp"), xdp_filter("deny"),
            Subject("xdp-bench drop", ["xdp-bench", "drop", "IFACE"])]


def subjects_of_passes():
    return [Nothing("no program"), Bare("return XDP_PASS", passes),
            ours("protostats"), xdp_filter("allow"),
            Subject("xdp-bench pass", ["xdp-bench", "pass", "IFACE"]),
            Subject("tcpdump, counting", [
                "tcpdump", "-i", "IFACE", "-w", "/dev/null"],
                seen=r"^(\d+) packets? captured",
                lost=r"^(\d+) packets? dropped by kernel",
                sign="listening on")]


def measure_costs(workload, subjects, network, rounds):
    """ns per packet by frame. All programs stay loaded, to be run in turn."""
    programs = {}
    for subject in subjects:
        try:
            with subject.on(network.near):
                number, = network.near.xdp()
                programs[subject.name] = descriptor(number)
        except Failed as e:
            workload.errors[subject.name] = str(e)
    for _ in range(rounds):
        least = {}
        for _ in range(TIMES):
            for name, program in programs.items():
                for kind, frame in FRAMES.items():
                    ns = run_many(program, MADE[frame][0], REPEAT)
                    least[name, kind] = min(ns, least.get((name, kind), ns))
        for name in programs:
            workload.add(name, {kind: least[name, kind] for kind in FRAMES})
    for program in programs.values():
        os.close(program)


def measure_watching(workload, network, rounds):
    """ns per packet of countp alone and with protostats beside it: for packets
    of the interface that it is told, and of another one. What bpf(2) runs
    comes in at lo of the namespace where that is done."""
    lo = Port(network.near.namespace, "lo")
    watch = ours("protostats", "--watch-only")
    watch.sign = "watching countp"
    names = ["countp", "countp, watched", "countp, watched elsewhere"]
    try:
        with ours("countp", "-S", "--other", "drop").on(lo):
            program = descriptor(list(lo.xdp())[0])
            with open(program, "rb", 0):
                for _ in range(rounds):
                    with inside(lo.namespace):
                        workload.add(names[0], least_times(program))
                    with watch.on(lo):
                        with inside(lo.namespace):
                            workload.add(names[1], least_times(program))
                        workload.add(names[2], least_times(program))
    except Failed as e:
        workload.errors.update(dict.fromkeys(
            names[bool(workload.found):], str(e)))


def least_times(program):
    return {kind: min(run_many(program, MADE[frame][0], REPEAT)
                      for _ in range(TIMES))
            for kind, frame in FRAMES.items()}


def measure_rates(workload, subjects, network, rounds):
    """Packets per second, UDP."""
    for _ in range(rounds):
        for subject in subjects:
            if subject.name in workload.errors:
                continue
            try:
                workload.add(subject.name, rate(subject, network))
            except Failed as e:
                workload.errors[subject.name] = str(e)


def rate(subject, network):
    with subject.on(network.near) as values:
        first = received(network.near)
        with flood(network.far, MADE["UDP, v4"][0]):
            time.sleep(0.3)
            begin, before = time.monotonic(), received(network.near)
            time.sleep(SECONDS)
            values["packets"] = (received(network.near) - before) / (
                time.monotonic() - begin)
        time.sleep(0.2)
        values["asked"] = received(network.near) - first
    return values


def measure_idle(workload, tool, network):
    """What it costs while nothing arrives, for 20 s."""
    with ours(tool).on(network.near) as values:
        time.sleep(20)
    workload.add(tool, values)


def measure_all(tool, rounds, tell):
    """Returns the Workloads."""
    kinds = list(FRAMES)
    costs = Workload("ns per packet", kinds[0], kinds[1:], "return XDP_PASS",
                     tool)
    measures = ["asked", "seen", "lost", "cpu", "rss", "anonymous", "start"]
    if tool == "countp":
        rates = Workload("UDP that is dropped", "packets", measures,
                         "return XDP_DROP", tool)
        subjects = subjects_of_drops()
    else:
        rates = Workload("UDP that passes, to a host that has no use for it",
                         "packets", measures, "no program", tool)
        subjects = subjects_of_passes()
    idle = Workload("20 s without packets", "cpu",
                    ["rss", "anonymous", "start"], "", tool)
    watching = Workload("ns per packet of a program that is watched",
                        kinds[0], kinds[1:], "countp", "countp, watched")
    with contextlib.ExitStack() as cleanup:
        if not os.path.ismount("/sys/fs/bpf"):      # xdp-filter pins its maps
            subprocess.check_call(["mount", "-t", "bpf", "bpf",
                                   "/sys/fs/bpf"])
            cleanup.callback(subprocess.call, ["umount", "/sys/fs/bpf"])
        network = Network(cleanup.callback)
        cleanup.enter_context(Bare("", passes).on(network.far))
        network.near.popen("ethtool", "-K", network.near.name, "gro",
                           "on").wait()
        tell("ns per packet")
        measure_costs(costs, subjects_of_costs(tool), network, rounds)
        if tool == "protostats":
            tell("ns per packet, watched")
            measure_watching(watching, network, rounds)
        tell("packets per second")
        measure_rates(rates, subjects, network, rounds)
        tell("no packets")
        measure_idle(idle, tool, network)
    return [costs, *([watching] if tool == "protostats" else []), rates, idle]
