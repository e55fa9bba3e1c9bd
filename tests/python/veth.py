"""Interfaces in network namespaces, raw frames, and XDP programs."""

import contextlib
import ctypes
import errno
import functools
import json
import socket
import struct
import subprocess
import time

from bcc.libbcc import lib

from common import Tool, run

MODES = {"native": 4, "generic": 2}     # XDP_FLAGS_* of linux/if_link.h
ATTACHED = {"native": 1, "generic": 2}  # XDP_ATTACHED_* there
libc = ctypes.CDLL(None, use_errno=True)
# Later versions of BCC declare it with a structure of their own.
test_run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(
    ("bpf_prog_test_run_opts", lib))


@contextlib.contextmanager
def inside(namespace):
    """Have this thread in a network namespace within the block."""
    CLONE_NEWNET = 0x40000000       # linux/sched.h
    with open("/proc/thread-self/ns/net") as home, \
            open("/run/netns/" + namespace) as other:
        assert libc.setns(other.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


class Port:
    """An interface in a namespace."""

    def __init__(self, namespace, name):
        self.namespace, self.name = namespace, name
        self.prefix = ["nsenter", "--net=/run/netns/" + namespace]

    def ip(self, *args):
        """Run ip(8). Return what it prints."""
        return subprocess.check_output(["ip", "-n", self.namespace, *args])

    def popen(self, *command, **popen):
        return subprocess.Popen([*self.prefix, *command], **popen)

    def run(self, tool, *args, prefix=()):
        """Run a tool that ends by itself. Return its CompletedProcess."""
        return run(tool, self.name, *args, prefix=[*self.prefix, *prefix])

    def tool(self, name, *args, prefix=()):
        """Return a Tool on this interface, to be started."""
        return Tool(name, self.name, *args, prefix=[*self.prefix, *prefix])

    def link(self):
        """Return what ip(8) shows of the interface."""
        shown = self.ip("-j", "link", "show", "dev", self.name)
        return next(filter(None, json.loads(shown)))

    def xdp(self):
        """Return {program ID: mode, a value of ATTACHED}."""
        xdp = self.link().get("xdp")
        return {one["prog"]["id"]: one["mode"]
                for one in xdp.get("attached", [xdp])} if xdp else {}


class Wire(socket.socket):
    """A packet socket on an interface, for whole frames."""

    def __init__(self, port):
        ETH_P_ALL, SO_RCVBUFFORCE = 3, 33
        SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
        with inside(port.namespace):
            super().__init__(socket.AF_PACKET, socket.SOCK_RAW)
            self.bind((port.name, ETH_P_ALL))
        self.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.settimeout(0.5)

    def send(self, *frames):
        """Send all. Try again while veth's ring is full."""
        for frame in frames:
            while True:
                try:
                    super().send(frame)
                    break
                except OSError as e:
                    assert e.errno == errno.ENOBUFS
                    time.sleep(0.001)
        time.sleep(0.2)     # the kernel receives them a little later

    def seen(self):
        """Return the frames that came in, until none comes for 0.5 s."""
        frames = []
        with contextlib.suppress(socket.timeout):
            while True:
                frames.append(self.recv(1 << 17))
        return frames


@functools.lru_cache(None)
def pass_program():
    """Return a descriptor of an XDP program that has no BTF."""
    BPF_PROG_TYPE_XDP = 6
    code = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 2,      # r0 = XDP_PASS
                       0x95, 0, 0, 0)                   # exit
    return lib.bcc_prog_load(BPF_PROG_TYPE_XDP, b"foreign", code, len(code),
                             b"GPL", 0, 0, None, 0)


@contextlib.contextmanager
def linked(program, port, mode="native"):
    """Have a program attached by a bpf_link within the block: yield that."""
    BPF_XDP = 37
    with inside(port.namespace):    # struct bpf_link_create_opts: sz, flags
        link = lib.bpf_link_create(
            program, socket.if_nametoindex(port.name), BPF_XDP, struct.pack(
                "NI0N", struct.calcsize("NI0N"), MODES[mode]))
    with open(link, "rb", 0) as file:
        yield file


def set_by_netlink(program, port, mode="native"):
    """Attach a program in place of what is there, or -1 for none."""
    with inside(port.namespace):
        assert not lib.bpf_attach_xdp(port.name.encode(), program, MODES[mode])


@contextlib.contextmanager
def netlinked(program, port, mode="native"):
    """Have a program attached by netlink within the block."""
    set_by_netlink(program, port, mode)
    yield
    set_by_netlink(-1, port, mode)


def run_program(program, frame):
    """Return an XDP program's verdict for a frame, and the frame after it."""
    given = ctypes.create_string_buffer(frame, len(frame))
    taken = ctypes.create_string_buffer(len(frame) + 256)
    # struct bpf_test_run_opts, with data_size_out at 28, retval at 56
    options = ctypes.create_string_buffer(struct.pack(
        "N2P2I", 72, ctypes.addressof(given), ctypes.addressof(taken),
        len(frame), len(taken)), 72)
    assert test_run(program, options) == 0
    size, verdict = struct.unpack_from("I24xI", options, 28)
    return verdict, taken.raw[:size]
