"""Two network namespaces joined by a veth pair, raw frames between them, and
XDP programs by bpf(2)."""

import contextlib
import ctypes
import errno
import itertools
import json
import os
import socket
import struct
import subprocess
import time

from frames import RECEIVER, SENDER
from toolrun import Tool, bpf

CLONE_NEWNET = 0x40000000       # linux/sched.h
MODES = {"native": 4, "generic": 2}     # XDP_FLAGS_* of linux/if_link.h
numbers = itertools.count()


@contextlib.contextmanager
def inside(namespace):
    """This thread is in a network namespace, by name. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter("/run/netns/" + namespace)
        try:
            yield
        finally:
            enter("/proc/self/fd/%d" % home)
    finally:
        os.close(home)


def ip(*args, **popen):
    """ip(8). Returns what it prints; raises CalledProcessError."""
    return subprocess.check_output(["ip"] + [str(a) for a in args],
                                   universal_newlines=True, **popen)


class Port:
    """An interface in a namespace, with what can be done there."""

    def __init__(self, namespace, name):
        self.namespace, self.name = namespace, name
        self.prefix = ["ip", "netns", "exec", namespace]

    def ip(self, *args):
        return ip("-n", self.namespace, *args)

    def popen(self, *command, **popen):
        return subprocess.Popen(self.prefix + list(command), **popen)

    def tool(self, name, *args, **popen):
        """A Tool on this interface."""
        return Tool(name, *(list(args) + [self.name]), prefix=self.prefix,
                    **popen)

    @property
    def index(self):
        with inside(self.namespace):
            return socket.if_nametoindex(self.name)

    def xdp(self):
        """As ip(8) sees it: {program ID: mode}, with modes as in linux/
        if_link.h's XDP_ATTACHED_*: 1 native, 2 generic."""
        shown = json.loads(self.ip("-j", "link", "show", "dev", self.name))
        xdp = [link for link in shown if link][0].get("xdp")
        if not xdp:
            return {}
        return {one["prog"]["id"]: one["mode"]
                for one in xdp.get("attached", [xdp])}

    def sent(self):
        """Packets that the kernel counts as sent by this interface."""
        shown = json.loads(self.ip("-j", "-s", "link", "show", "dev",
                                   self.name))
        return [link for link in shown if link][0]["stats64"]["tx"]["packets"]

    def wire(self):
        return Wire(self)


class Wire:
    """A packet socket on an interface, for whole frames."""

    SOL_PACKET, PACKET_AUXDATA, SO_RCVBUFFORCE = 263, 8, 33
    OUTGOING = 4                # PACKET_OUTGOING of linux/if_packet.h

    def __init__(self, port):
        with inside(port.namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                        socket.htons(3))    # ETH_P_ALL
            self.socket.bind((port.name, 3))
        self.socket.setsockopt(socket.SOL_SOCKET, self.SO_RCVBUFFORCE,
                               64 << 20)
        self.socket.setsockopt(self.SOL_PACKET, self.PACKET_AUXDATA, 1)
        self.socket.settimeout(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *frames):
        """Each for sure: where veth's ring is full, again. Raises OSError."""
        for frame in frames:
            while True:
                try:
                    self.socket.send(frame)
                    break
                except OSError as e:
                    if e.errno != errno.ENOBUFS:
                        raise
                time.sleep(0.001)

    def wait_for_silence(self, seconds):
        """Until nothing came or went for so long; drops what did."""
        self.socket.settimeout(seconds)
        self.seen()
        self.socket.settimeout(0.5)

    def seen(self, outgoing=False):
        """The frames that came in, or went out, until none comes for 0.5 s,
        each with the VLAN tag that the kernel takes off (struct
        tpacket_auxdata: tp_vlan_tci at 16, tp_vlan_tpid at 18)."""
        frames = []
        while True:
            try:
                frame, extra, _, address = self.socket.recvmsg(1 << 17, 256)
            except socket.timeout:
                return frames
            if (address[2] == self.OUTGOING) != outgoing:
                continue
            status, tci, kind = struct.unpack_from("=I12xHH", extra[0][2])
            if status & 16:         # TP_STATUS_VLAN_VALID
                frame = b"".join((frame[:12], struct.pack("!HH", kind, tci),
                                  frame[12:]))
            frames.append(frame)


class Network:
    """Two Ports, near and far. add_cleanup is a test case's addCleanup or the
    like, and is given what removes them.

    They have addresses 10.9.0.2 and .1, fd00:9::2 and ::1 for the kinds of IP
    that are asked for. Without these, the kernel sends no packet of its own.
    """

    def __init__(self, add_cleanup, kinds=(), mtu=1500):
        number = "%d-%d" % (os.getpid(), next(numbers))
        self.near = Port("bcc-near-" + number, "near0")
        self.far = Port("bcc-far-" + number, "far0")
        for port in self.near, self.far:
            ip("netns", "add", port.namespace)
            add_cleanup(ip, "netns", "del", port.namespace)
            with inside(port.namespace):
                for name, value in (("router_solicitations", 0),
                                    ("disable_ipv6", "v6" not in kinds)):
                    with open("/proc/sys/net/ipv6/conf/default/" + name,
                              "w") as f:
                        f.write("%d" % value)
        self.near.ip("link", "add", "near0", "address", RECEIVER, "mtu", mtu,
                     "type", "veth", "peer", "name", "far0", "address", SENDER,
                     "mtu", mtu, "netns", self.far.namespace)
        for port, last in (self.near, 2), (self.far, 1):
            if "v4" in kinds:
                port.ip("addr", "add", "10.9.0.%d/24" % last, "dev", port.name)
            if "v6" in kinds:
                port.ip("addr", "add", "fd00:9::%d/64" % last, "dev",
                        port.name, "nodad")
            port.ip("link", "set", "lo", "up")
            port.ip("link", "set", port.name, "up")


def load_xdp(name, *insns):
    """An XDP program's descriptor, from (code, registers, offset, immediate)
    for each instruction. BPF_PROG_LOAD is 5, BPF_PROG_TYPE_XDP 6; prog_name is
    at 48 in union bpf_attr."""
    code = b"".join(struct.pack("=BBhi", *insn) for insn in insns)
    buffer = ctypes.create_string_buffer(code, len(code))
    text = ctypes.create_string_buffer(b"GPL")
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=IIQQ", attr, 0, 6, len(insns), ctypes.addressof(buffer),
                     ctypes.addressof(text))
    struct.pack_into("16s", attr, 48, name.encode())
    return bpf(5, attr)


def pass_program():
    """A descriptor of a program "foreign" that passes all: r0 = 2; exit."""
    return load_xdp("foreign", (0xb7, 0, 0, 2), (0x95, 0, 0, 0))


def descriptor(number):
    """Of a loaded program. BPF_PROG_GET_FD_BY_ID is 13."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=I", attr, 0, number)
    return bpf(13, attr)


def exit_refusal(fd):
    """Why the kernel takes no program at the exit of an XDP program that has
    BTF, or None if it does; asked by the least one: r0 = 0; exit. Its type is
    26 (TRACING), expected_attach_type (25, FEXIT) is at 68, attach_btf_id at
    108, attach_prog_fd at 112. That BTF ID is in the second half of struct
    bpf_func_info, for which struct bpf_prog_info has its size at 132, where it
    shall go at 136 and how many at 144."""
    function, info, attr, license = map(ctypes.create_string_buffer, (
        8, 256, 128, b"GPL"))
    struct.pack_into("=IQI", info, 132, 8, ctypes.addressof(function), 1)
    struct.pack_into("=IIQ", attr, 0, fd, len(info), ctypes.addressof(info))
    bpf(15, attr)       # BPF_OBJ_GET_INFO_BY_FD
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0,
                                                   0x95, 0, 0, 0))
    struct.pack_into("=IIQQ44xI36xII", attr, 0, 26, 2, ctypes.addressof(code),
                     ctypes.addressof(license), 25,
                     struct.unpack_from("=4xI", function)[0], fd)
    try:
        os.close(bpf(5, attr))      # BPF_PROG_LOAD
    except OSError as e:
        return e.strerror


def link_program(fd, port, mode):
    """Attach a program by a bpf_link, which is returned as a descriptor.
    BPF_LINK_CREATE is 28, attach type BPF_XDP 37."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=IIII", attr, 0, fd, port.index, 37, MODES[mode])
    with inside(port.namespace):
        return bpf(28, attr)


def attach_foreign(case, port, mode="native"):
    """A pass_program() by a link that is closed after the test case."""
    program = pass_program()
    case.addCleanup(os.close, link_program(program, port, mode))
    os.close(program)


def run_program(fd, frame):
    """What an XDP program returns for a frame, and the frame as it leaves.
    BPF_PROG_TEST_RUN is 10."""
    given = ctypes.create_string_buffer(frame, len(frame))
    taken = ctypes.create_string_buffer(len(frame) + 256)
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=IIIIQQ", attr, 0, fd, 0, len(frame), len(taken),
                     ctypes.addressof(given), ctypes.addressof(taken))
    bpf(10, attr)
    verdict, size = struct.unpack_from("=I4xI", attr, 4)
    return verdict, taken.raw[:size]
