"""Measure what XDP programs cost a packet, by BPF_PROG_TEST_RUN."""

import ctypes
import socket
import struct
import subprocess

from bcc import BPF
from bcc.libbcc import lib

from report import attempt
from tracers import Process, Tracer, own

RUNS, PACKETS = 10, 200000
WORK = "a packet, the fastest of %d runs of %d" % (RUNS, PACKETS)
PROGRAMS = {"countp": [own("countp"), own("countp -k 53,67-68")],
            "protostats": [own("protostats"), own("protostats -t src")]}
PEERS = [Tracer("xdp-filter " + policy, ["xdp-filter", "load", "-p", policy])
         for policy in ("allow", "deny")]
HEADERS = 12 * "00" + "0800 4500003c 00000000 40 %02x 0000 0a090001 0a090002"
FRAMES = {name: bytes.fromhex(HEADERS % protocol + start).ljust(74, b"\0")
          for name, protocol, start in [
              ("TCP", 6, "0fa00050 00000000 00000000 50"),
              ("UDP", 17, "0fa00009 0028"), ("ping", 1, "08")]}
EMPTY = "return XDP_PASS"
EXTRA = b"""
#include <uapi/linux/bpf.h>
BPF_PROG_ARRAY(measured, 1);

int pass(void *ctx) { return XDP_PASS; }

int random_source(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

    if (data + 30 > end)
        return XDP_ABORTED;
    *(u32 *)(data + 26) = bpf_get_prandom_u32();
    measured.call(ctx, 0);
    return XDP_ABORTED;
}
"""


def time_of(program, data):
    """Return the ns a packet of a run."""
    packet = ctypes.create_string_buffer(data, len(data))
    # struct bpf_test_run_opts: sz, data_in, data_size_in, repeat, duration
    options = ctypes.create_string_buffer(struct.pack(
        "N2P2I2P6I", 72, ctypes.addressof(packet), 0, len(data), *[0] * 6,
        PACKETS, 0, 0))
    if lib.bpf_prog_test_run_opts(program, options):
        raise RuntimeError("BPF_PROG_TEST_RUN is refused")
    return struct.unpack_from("I", options, 64)[0]


def attached():
    """Return the ID of the XDP program on the interface, or 0."""
    index, number = socket.if_nametoindex("near"), ctypes.c_uint32()
    lib.bpf_xdp_query_id(index, 0, ctypes.byref(number))
    return number.value


def load(tracer, programs):
    """Put the descriptor of a tool's program into programs."""
    # CLONE_NEWNET, CLONE_NEWNS: nothing has to be removed at the end.
    if ctypes.CDLL(None).unshare(0x40020000):
        raise OSError("no new namespaces")
    for command in ("mount --make-rprivate /", "mount -t bpf bpf /sys/fs/bpf",
                    "ip link add near type veth peer name far"):
        subprocess.check_call(command.split())
    with Process([*tracer.command, "near"]) as process:
        process.wait_for(attached)
        programs[tracer.name] = lib.bpf_prog_get_fd_by_id(attached())


def measure(program, own_program, extra):
    """Return the measures of a program: of one source, and of ours of random
    sources, too, by a program before it, which calls it."""
    measures = {"ns a %s packet" % kind: min(
        time_of(program, data) for _ in range(RUNS))
        for kind, data in FRAMES.items()}
    if own_program:
        extra["measured"][ctypes.c_int(0)] = ctypes.c_int(program)
        caller = extra.load_func("random_source", BPF.XDP).fd
        measures["ns with another that sets a random source"] = min(
            time_of(caller, FRAMES["UDP"]) for _ in range(RUNS))
    return measures


def measure_all(tool, rounds):
    """Load all programs; then run each in turn, round by round."""
    extra = BPF(text=EXTRA)
    programs = {EMPTY: extra.load_func("pass", BPF.XDP).fd}
    for tracer in PROGRAMS[tool] + PEERS:
        attempt(tool, WORK, tracer.name, "", lambda: load(tracer, programs))
    peers = [peer.name for peer in PEERS]
    for _ in range(rounds):
        for name, program in programs.items():
            attempt(tool, WORK, name, "", lambda: measure(
                program, name not in peers, extra))
