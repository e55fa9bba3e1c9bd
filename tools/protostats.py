#!/usr/bin/python3
#
# protostats  XDP: count the packets that pass, are dropped and are bounced,
#             and how many of them are TCP, UDP, ping.
#             For Linux, uses BCC, XDP, eBPF. Embedded C.
#
# USAGE: protostats [-h] [-S | -N] [-b] [-j] [-dev]
#                   interface [interval [count]]
#
# Attaches in the driver (native mode), else in generic mode.
#
# Copyright (c) 2026 The protostats authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 23-Nov-2026   Created this.

import argparse
import contextlib
import ctypes
import errno
import math
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import time

# Until the program is attached there is nothing to finish: end at once.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)

# A closed descriptor's number must not become that of something of BPF's.
for name in ("stdin", "stdout", "stderr"):
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, "r+"))

try:
    from bcc import BPF
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

examples = """examples:
    ./protostats eth0           # packets per second, until Ctrl-C
    ./protostats eth0 5 12      # every 5 seconds, for a minute
    ./protostats -b eth0        # bits per second
    ./protostats -j eth0 > log  # comma-separated values
    ./protostats -S lo          # generic mode, for what has no native one
"""


def whole_number(text):
    if re.fullmatch("[0-9]{1,9}", text) and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(
        "'%s' is not a number from 1 to 999999999" % text)


def duration(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.01 <= value < 1e9:
        raise argparse.ArgumentTypeError(
            "'%s' is not a time from 0.01 to 1e9 seconds" % text)
    return value


parser = argparse.ArgumentParser(
    description="XDP: count packets by verdict and protocol",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog=examples)
mode = parser.add_mutually_exclusive_group()
mode.add_argument("-S", "--generic", action="store_true",
    help="generic mode only (default: native, else generic)")
mode.add_argument("-N", "--native", action="store_true",
    help="native mode only: in the driver")
parser.add_argument("-b", "--bits", action="store_true",
    help="show bits per second, not packets")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values; totals go to stderr")
parser.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
parser.add_argument("-dev", action="store_true",
    help="as in \"-dev eth0\", for those who are used to it")
parser.add_argument("interface", help="network interface")
parser.add_argument("interval", type=duration, nargs="?", default=1,
    help="seconds between two rows (default: 1)")
parser.add_argument("count", type=whole_number, nargs="?",
    help="end after this many rows")
# Options may stand anywhere, from Python 3.7 on.
args = getattr(parser, "parse_intermixed_args", parser.parse_args)()

# What is counted, in the order of enum packet_class and of enum xdp_action.
classes = ["TCP", "UDP", "ping", "ICMP", "other", "malformed"]
verdicts = ["ABORTED", "DROP", "PASS", "TX", "REDIRECT"]


def warn(message):
    try:    # with no buffer, which would be tried again at the end
        os.write(sys.stderr.fileno(), (message + "\n").encode(
            sys.stderr.encoding, "backslashreplace"))
    except OSError:
        pass    # there is nobody to tell


def die(message):
    warn("%s: %s" % (parser.prog, message))
    sys.exit(1)


bpf_text = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#define VLAN_TAGS 2
#define EXTENSIONS 8        /* of IPv6, that are looked through */

/* Lengths that make a header whole. */
#define ARP_LEN 28
#define TCP_LEN 20
#define UDP_LEN 8
#define ICMP_LEN 8

/* Of fragments' headers, in host byte order. */
#define IP_FRAGMENT 0x2000  /* more are to come */
#define IP_OFFSET 0x1fff
#define IP6_FRAGMENT 1
#define IP6_OFFSET 0xfff8

#define ICMP_ECHOREPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

enum packet_class { TCP, UDP, PING, ICMP, OTHER, MALFORMED, CLASSES };

#define VERDICTS (XDP_REDIRECT + 1)

struct count {
    u64 packets;
    u64 bytes;
};

struct counts {
    struct count of[VERDICTS * CLASSES];
};

/* Not packed, unlike the kernel's struct ethhdr, which is read bytewise. */
struct ethernet {
    u8 dest[ETH_ALEN];
    u8 source[ETH_ALEN];
    __be16 protocol;
};

struct vlan_tag {
    __be16 tci;
    __be16 protocol;
};

struct extension {
    u8 next;
    u8 len;
    __be16 fragment;
};

BPF_PERCPU_ARRAY(counts, struct counts, 1);

static __always_inline u64 icmp_class(u8 *type, void *end, u8 icmp)
{
    u8 request = icmp == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
    u8 reply = icmp == IPPROTO_ICMP ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;

    if ((void *)(type + 1) > end)
        return ICMP;
    return *type == request || *type == reply ? PING : ICMP;
}

/* Of the protocols, icmp is the one that goes with this kind of IP. */
static __always_inline u64 whole_class(void *at, void *end, u8 protocol,
                                       u8 icmp)
{
    if (protocol == IPPROTO_TCP)
        return at + TCP_LEN > end ? MALFORMED : TCP;
    if (protocol == IPPROTO_UDP)
        return at + UDP_LEN > end ? MALFORMED : UDP;
    if (protocol == icmp)
        return at + ICMP_LEN > end ? MALFORMED : icmp_class(at, end, icmp);
    return OTHER;
}

/* The first fragment may have but a part of the header, later ones none. */
static __always_inline u64 fragment_class(void *at, void *end, u8 protocol,
                                          u8 icmp, bool first)
{
    if (protocol == IPPROTO_TCP)
        return TCP;
    if (protocol == IPPROTO_UDP)
        return UDP;
    if (protocol == icmp)
        return first ? icmp_class(at, end, icmp) : ICMP;
    return OTHER;
}

static __always_inline u64 ipv4_class(struct iphdr *ip, void *end)
{
    void *at = ip;

    if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return MALFORMED;
    at += 4 * ip->ihl;
    if (at > end)
        return MALFORMED;
    if (ip->frag_off & htons(IP_FRAGMENT | IP_OFFSET))
        return fragment_class(at, end, ip->protocol, IPPROTO_ICMP,
                              !(ip->frag_off & htons(IP_OFFSET)));
    return whole_class(at, end, ip->protocol, IPPROTO_ICMP);
}

static __always_inline u64 ipv6_class(struct ipv6hdr *ip, void *end)
{
    bool fragment = false, later = false;
    u32 offset = sizeof(*ip);
    u8 protocol;
    void *at;
    int i;

    if ((void *)(ip + 1) > end || ip->version != 6)
        return MALFORMED;
    protocol = ip->nexthdr;
    for (i = 0; i < EXTENSIONS && !later; i++) {
        struct extension *ext = (void *)ip + offset;

        switch (protocol) {
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
            if ((void *)ext + 8 > end)
                return MALFORMED;
            offset += 8 * (ext->len + 1);
            break;
        case IPPROTO_AH:
            if ((void *)ext + 8 > end)
                return MALFORMED;
            offset += 4 * (ext->len + 2);
            break;
        case IPPROTO_FRAGMENT:
            if ((void *)ext + 8 > end)
                return MALFORMED;
            offset += 8;
            later = ext->fragment & htons(IP6_OFFSET);
            fragment |= ext->fragment & htons(IP6_OFFSET | IP6_FRAGMENT);
            break;
        default:
            goto found;
        }
        protocol = ext->next;
    }
found:
    at = (void *)ip + offset;
    if (at > end)
        return MALFORMED;
    if (fragment)
        return fragment_class(at, end, protocol, IPPROTO_ICMPV6, !later);
    return whole_class(at, end, protocol, IPPROTO_ICMPV6);
}

static __always_inline u64 class_of(void *at, void *end)
{
    struct ethernet *eth = at;
    __be16 protocol;
    int i;

    at += sizeof(*eth);
    if (at > end)
        return MALFORMED;
    protocol = eth->protocol;
#pragma unroll
    for (i = 0; i < VLAN_TAGS; i++) {
        struct vlan_tag *tag = at;

        if (protocol != htons(ETH_P_8021Q) && protocol != htons(ETH_P_8021AD))
            break;
        at += sizeof(*tag);
        if (at > end)
            return MALFORMED;
        protocol = tag->protocol;
    }
    switch (protocol) {
    case htons(ETH_P_IP):
        return ipv4_class(at, end);
    case htons(ETH_P_IPV6):
        return ipv6_class(at, end);
    case htons(ETH_P_ARP):
        return at + ARP_LEN > end ? MALFORMED : OTHER;
    default:
        return OTHER;
    }
}

int protostats(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    int zero = 0;
    struct counts *mine = counts.lookup(&zero);
    u64 class = class_of(data, end);
    struct count *count;

    if (!mine || class >= CLASSES)
        return XDP_PASS;
    count = &mine->of[XDP_PASS * CLASSES + class];
    count->packets++;
    count->bytes += end - data;
    return XDP_PASS;
}
"""
# bpf(2): its number, some commands, and a link's attach type.
BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280,
            "ppc64le": 361, "s390x": 351}.get(
    sys.maxsize > 2**32 and platform.machine())
BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_LINK_CREATE = 13, 15, 28
BPF_XDP = 37


def bpf_call(command, layout, *values):
    """bpf(2) with the attributes in that struct layout. Returns its result,
    or raises OSError."""
    attr = ctypes.create_string_buffer(struct.pack("=" + layout, *values), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(BPF_CALL, command, attr, len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def program_info(fd):
    """The ID and the name of a BPF program."""
    info = ctypes.create_string_buffer(128)     # struct bpf_prog_info
    bpf_call(BPF_OBJ_GET_INFO_BY_FD, "IIQ", fd, len(info),
             ctypes.addressof(info))
    number, name = struct.unpack_from("=4xI56x16s", info)
    return number, name.split(b"\0")[0].decode("ascii", "replace")


def program_name(number):
    try:
        fd = bpf_call(BPF_PROG_GET_FD_BY_ID, "I", number)
    except OSError:
        return "?"
    try:
        return program_info(fd)[1]
    finally:
        os.close(fd)


# Of linux/rtnetlink.h, linux/if_link.h and linux/if_arp.h.
RTMGRP_LINK, RTM_GETLINK, RTM_SETLINK = 1, 18, 19
IFLA_XDP = 43
IFLA_XDP_FD, IFLA_XDP_FLAGS, IFLA_XDP_EXPECTED_FD = 1, 3, 8
# Program IDs in IFLA_XDP, by what ip(8) calls their mode.
IFLA_XDP_PROG_IDS = {4: "xdp", 5: "xdpdrv", 6: "xdpgeneric", 7: "xdpoffload"}
XDP_ONLY_IF_NONE, XDP_ONLY_IF_EXPECTED = 1, 16
XDP_MODES = {"native": 4, "generic": 2}
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772


def attribute(kind, data):
    return struct.pack("=HH", len(data) + 4, kind) + data + bytes(
        -len(data) % 4)


def attributes(data):
    """Netlink attributes as a dict."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3fff] = data[4:length]
        data = data[max(4, length + 3 & ~3):]
    return found


def netlink_socket(groups=0):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    s.bind((0, groups))
    for option in (10, 11):     # NETLINK_CAP_ACK, NETLINK_EXT_ACK: its words
        with contextlib.suppress(OSError):
            s.setsockopt(270, option, 1)
    return s


def netlink(s, request, index, data=b""):
    """Ask or tell the kernel about an interface. Returns the answer's struct
    ifinfomsg and attributes, or raises OSError with the kernel's own words."""
    flags = 1 if request == RTM_GETLINK else 5      # NLM_F_REQUEST, _ACK
    s.send(struct.pack("=IHHIIBxHiII", 32 + len(data), request, flags,
                       0, 0, 0, 0, index, 0, 0) + data)
    answer = s.recv(1 << 17)
    kind, flags = struct.unpack_from("=4xHH", answer)
    if kind == 2:       # NLMSG_ERROR: an error, the request's header, words
        error = -struct.unpack_from("=i", answer, 16)[0]
        if error:
            words = attributes(answer[36:]).get(1) if flags & 0x200 else None
            raise OSError(error, words.rstrip(b"\0").decode("ascii", "replace")
                          if words else os.strerror(error))
    return answer[16:32], attributes(answer[32:])


class Gone(Exception):
    """The program is no longer where it was attached."""


class Interface:
    """An interface, by its number, for its name can change."""

    def __init__(self, name):
        self.name, self.program = name, None
        self.socket = netlink_socket()
        try:
            self.index = socket.if_nametoindex(name)
        except OSError:
            die("there is no network interface %s: see ip link" % name)
        self.look()

    def look(self):
        """Ask how things are. Raises Gone."""
        try:
            info, fields = netlink(self.socket, RTM_GETLINK, self.index)
        except OSError as e:
            if e.errno == errno.ENODEV:
                raise Gone("is gone")
            raise
        self.type = struct.unpack_from("=H", info, 2)[0]
        xdp = attributes(fields.get(IFLA_XDP, b""))
        self.programs = {struct.unpack("=I", xdp[kind])[0]: mode
                         for kind, mode in sorted(IFLA_XDP_PROG_IDS.items())
                         if kind in xdp}

    def check(self):
        """Is the program still there? Raises Gone."""
        self.look()
        if self.program not in self.programs:
            raise Gone("no longer has this program: somebody removed it")

    def refuse_to_replace(self):
        self.look()
        for number, mode in self.programs.items():
            die("%s already has the XDP program %s (ID %d): end what attached "
                "it, or try: ip link set dev %s %s off" % (
                    self.name, program_name(number), number, self.name, mode))


def attach_by_link(interface, program, mode):
    """The kernel detaches with the process' end, however that comes (5.9)."""
    return os.close, bpf_call(BPF_LINK_CREATE, "IIII", program,
                              interface.index, BPF_XDP, XDP_MODES[mode])


def set_xdp(interface, fd, flags, expected=None):
    data = attribute(IFLA_XDP_FD, struct.pack("=i", fd))
    data += attribute(IFLA_XDP_FLAGS, struct.pack("=I", flags))
    if expected is not None:
        data += attribute(IFLA_XDP_EXPECTED_FD, struct.pack("=i", expected))
    netlink(interface.socket, RTM_SETLINK, interface.index,
            attribute(IFLA_XDP, data))


def attach_by_netlink(interface, program, mode):
    set_xdp(interface, program, XDP_MODES[mode] | XDP_ONLY_IF_NONE)
    removal = "ip link set dev %s xdp%s off" % (
        interface.name, "drv" if mode == "native" else "generic")
    warn("%s: no bpf_link for XDP here; after a SIGKILL, do: %s" % (
        interface.name, removal))
    return detach_by_netlink, (interface, program, mode, removal)


def detach_by_netlink(attached):
    interface, program, mode, removal = attached
    try:
        try:
            set_xdp(interface, -1, XDP_MODES[mode] | XDP_ONLY_IF_EXPECTED,
                    program)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            interface.look()    # the best that there was before Linux 5.7
            if interface.program in interface.programs:
                set_xdp(interface, -1, XDP_MODES[mode])
    except (OSError, Gone) as e:
        if getattr(e, "errno", None) != errno.EEXIST:   # by now another's
            warn("%s: could not remove the program; if it is still there, "
                 "do: %s" % (interface.name, removal))


def attach(interface, program):
    """Returns the mode, and a function to detach with its argument."""
    reasons = []
    for mode in XDP_MODES:
        if args.generic and mode == "native" or (
                args.native and mode == "generic"):
            continue
        for attach_by in attach_by_link, attach_by_netlink:
            try:
                way = attach_by(interface, program, mode)
            except OSError as e:
                error = e       # netlink has the better words
                continue
            if reasons:
                warn("%s: generic mode (%s)" % (interface.name, reasons[0]))
            return (mode,) + way
        interface.refuse_to_replace()
        reasons.append(error.strerror)
    die("%s takes no XDP program: %s" % (
        interface.name, "; ".join(dict.fromkeys(reasons))))


# Those that do not end a process, or tell of a defect in it.
OTHER_SIGNALS = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG,
    signal.SIGWINCH, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL,
    signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}


class Stop:
    """Waits, and knows of the wish to end: a signal, a reader that left, or
    that the time is over."""

    def __init__(self, interface):
        self.interface, self.end = interface, math.inf
        awake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for sig in range(1, signal.NSIG):
            if sig not in OTHER_SIGNALS and (
                    signal.getsignal(sig) == signal.SIG_DFL):
                signal.signal(sig, lambda *_: None)
        self.news = netlink_socket(RTMGRP_LINK)
        self.poll = select.poll()
        self.poll.register(awake, select.POLLIN)
        self.poll.register(sys.stdout.fileno(), 0)
        self.poll.register(self.news, select.POLLIN)

    def ready(self, seconds):
        return {fd for fd, _ in self.poll.poll(1000 * min(1e6, seconds))}

    def wished(self):
        return bool(self.ready(0) - {self.news.fileno()}) or (
            time.monotonic() > self.end)

    def wait(self, until):
        """Returns False at that time, True if there is a wish to end by then.
        Raises Gone."""
        while not self.wished():
            left = until - time.monotonic()
            if left <= 0:
                self.interface.check()
                return False
            if self.news.fileno() in self.ready(left):
                with contextlib.suppress(OSError):  # more than it could hold
                    self.news.recv(1 << 17)
                self.interface.check()
        return True


class Output:
    """Standard output, which a reader that does not read can't block for good:
    a Ctrl-C or the count still ends the tool then, a second later."""

    def __init__(self, stop):
        self.stop = stop
        self.room = select.poll()
        self.room.register(sys.stdout.fileno(), select.POLLOUT)

    def write(self, text):
        data = memoryview(text.encode(sys.stdout.encoding, "replace"))
        patience = 10
        while data:
            if self.room.poll(100):     # ms; then there is room for PIPE_BUF
                try:
                    data = data[os.write(sys.stdout.fileno(),
                                         data[:select.PIPE_BUF]):]
                except BrokenPipeError:
                    raise
                except OSError as e:
                    die("can't write: %s" % e.strerror)
            elif self.stop.wished():
                patience -= 1
                if not patience:
                    die("can't write: nobody reads the output")


def screenful():
    """Rows that go with a header on the terminal; a file gets one header."""
    if not os.isatty(sys.stdout.fileno()):
        return math.inf
    lines = os.get_terminal_size(sys.stdout.fileno()).lines or 24
    return max(3, lines) - 2


def percent(part, whole):
    return "%.1f" % (100 * part / whole if whole else 0)


def read_counts(bpf):
    """(packets, bytes) by verdict and class since the start, on all CPUs."""
    cpus = bpf["counts"][0]
    sums = [(sum(cpu.of[i].packets for cpu in cpus),
             sum(cpu.of[i].bytes for cpu in cpus))
            for i in range(len(verdicts) * len(classes))]
    return [sums[i:i + len(classes)]
            for i in range(0, len(sums), len(classes))]


def total(counts):
    """The sum of some (packets, bytes)."""
    return tuple(map(sum, zip(*counts)))


def columns(counts):
    """The (packets, bytes) that go into each column of a row."""
    by_verdict = dict(zip(verdicts, map(total, counts)))
    by_class = [total(count) for count in zip(*counts)]
    return [by_verdict["PASS"], by_verdict["DROP"], by_verdict["TX"],
            *by_class[:4], total(by_class[4:])]


class Rows:
    """Prints a row for each interval."""

    titles = ("TIME", "PASS", "DROP", "TX", "TCP", "UDP", "PING", "ICMP",
              "OTHER", "DROP%")

    def __init__(self, output):
        self.output = output

    def write(self, row):
        if args.csv:
            self.output.write(",".join(row) + "\n")
        else:
            self.output.write(("%-8s" + " %7s" * 8 + " %6s\n") % tuple(row))

    def start(self, counts):
        self.then, self.before = time.monotonic(), columns(counts)
        self.header()

    def header(self):
        self.write(self.titles)
        self.left = screenful()

    def print(self, counts):
        now, sums = time.monotonic(), columns(counts)
        new = [(packets - packets_before, size - size_before)
               for (packets, size), (packets_before, size_before)
               in zip(sums, self.before)]
        if self.left <= 0:
            self.header()
        self.left -= 1
        self.write([time.strftime("%H:%M:%S")] + [
            rate((8 * size if args.bits else packets) / (now - self.then))
            for packets, size in new] + [
            percent(new[1][0], total(new[3:])[0])])
        self.then, self.before = now, sums


def rate(value):
    """In at most 7 characters, exact enough to tell few from none."""
    if args.csv:
        return "%.3f" % value
    if value < 9.95:
        return "%.2g" % value
    if value < 9999999.5:
        return "%.0f" % value
    for unit in "MGT":
        value /= 1e6 if unit == "M" else 1e3
        if value < 9999.95:
            break
    return "%.1f%s" % (value, unit)


def totals(counts, interface, mode, seconds):
    """A table of all since the start, as text."""
    line = "%-9s %15s %18s %6s\n"
    everything = [total(count) for count in zip(*counts)]
    rows = list(zip(classes, everything))
    rows += [(verdict, total(count))
             for verdict, count in zip(verdicts, counts) if any(total(count))]
    rows.append(("all", total(everything)))
    return "\n%s, %s mode, %.1f s:\n" % (interface.name, mode, seconds) + (
        line % ("CLASS", "PACKETS", "BYTES", "%")) + "".join(
        line % (name, packets, size, percent(packets, rows[-1][1][0]))
        for name, (packets, size) in rows)


def log_file():
    try:
        return tempfile.TemporaryFile(mode="w+", errors="replace")
    except OSError:     # a full disk
        return open(os.devnull, "r+")


@contextlib.contextmanager
def output_into(file):
    """What BCC's C++ parts print is for us, in case that they fail."""
    saved = os.dup(1), os.dup(2)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])


def load(text):
    """Returns the BPF object and the program's descriptor."""
    with log_file() as log:
        try:
            with output_into(log):
                bpf = BPF(text=text)
                bpf["counts"][0]    # can it be read?
                program = bpf.load_func("protostats", BPF.XDP).fd
        except Exception as e:
            log.seek(0)
            die(reason(e, log.read()))
    give_back_memory()
    return bpf, program


def give_back_memory():
    """What the compiler took and freed: glibc would keep it, some 30 Mbytes,
    for a next time."""
    with contextlib.suppress(AttributeError):   # another C library
        ctypes.CDLL(None).malloc_trim(0)


def if_too_old(words):
    """What to look at when the kernel refuses what it does not know."""
    if not any(os.strerror(number) in words
               for number in (errno.EINVAL, errno.ENOSYS)):
        return ""
    return ("; %s takes Linux 5.3 or later with CONFIG_BPF_SYSCALL, this "
            "is %s" % (parser.prog, os.uname().release))


def reason(error, log):
    """The one line that tells most of why BCC failed."""
    if "kernel headers" in log:
        return ("BCC needs kernel headers: install linux-headers-%s (Debian, "
                "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or "
                "set BCC_KERNEL_SOURCE" % os.uname().release)
    words = next((line.split("error:")[-1].strip()
                  for line in log.splitlines()
                  if "error:" in line or line.startswith("bpf: ")), str(error))
    return "no BPF program: " + words + if_too_old(words)


def check(interface):
    """Refuse what can't work."""
    if interface.type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        die("%s has no Ethernet frames" % interface.name)


def count_packets(interface):
    bpf, program = load(bpf_text)
    interface.program = program_info(program)[0]
    stop = Stop(interface)
    rows = Rows(Output(stop))
    mode, detach, attached = attach(interface, program)
    begin, gone = time.monotonic(), None
    try:
        rows.start(read_counts(bpf))
        left = args.count or math.inf
        stop.end = begin + left * args.interval + 1
        due = begin + args.interval
        while left and not stop.wait(due):
            rows.print(read_counts(bpf))
            left -= 1
            due += args.interval
            if due < time.monotonic():      # it was stopped for a while
                due = time.monotonic() + args.interval
    except Gone as e:
        gone = e
    finally:
        detach(attached)
    text = totals(read_counts(bpf), interface, mode, time.monotonic() - begin)
    if args.csv:
        warn(text[1:-1])
    else:
        rows.output.write(text)
    if gone:
        die("%s %s" % (interface.name, gone))


def main():
    if BPF is None:
        die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
            "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)" % no_bcc)
    if not BPF_CALL:
        die("does not know bpf(2)'s number on this machine")
    if os.geteuid() != 0 and not args.ebpf:
        die("needs root, try: sudo %s" % " ".join(sys.argv))
    try:
        interface = Interface(args.interface)
        if args.ebpf:
            print(bpf_text, flush=True)
            return
        check(interface)
        interface.refuse_to_replace()
        count_packets(interface)
    except BrokenPipeError:
        pass    # the reader has seen enough
    except Gone as e:
        die("%s %s" % (args.interface, e))
    except OSError as e:
        die("%s: %s" % (args.interface, e.strerror))


main()
