#!/usr/bin/python3
#
# protostats  XDP: count the packets that pass, are dropped and are bounced,
#             and how many of them are TCP, UDP, ping.
#             For Linux, uses BCC, XDP, fentry, eBPF. Embedded C.
#
# USAGE: protostats [-h] [-S | -N] [-w] [-m] [-b] [-j] [-dev]
#                   interface [interval [count]]
#
# Watches the XDP program that the interface has, without touching it. Where
# there is none, attaches its own, which lets everything pass: in the driver
# (native mode), else in generic mode.
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
import resource
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
    ./protostats -m eth0        # each protocol by what is done with it
    ./protostats -b eth0        # bits per second
    ./protostats -j eth0 > log  # comma-separated values
    ./protostats -w eth0        # attach nothing if there is no XDP program
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
    help="attach in generic mode only (default: native, else generic)")
mode.add_argument("-N", "--native", action="store_true",
    help="attach in native mode only: in the driver")
parser.add_argument("-w", "--watch-only", action="store_true",
    help="attach nothing, watch what is there")
parser.add_argument("-m", "--matrix", action="store_true",
    help="show a table of protocols by verdicts each time")
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

# What is counted, as it is shown: in the order of enum packet_class, and by
# number in enum xdp_action.
classes = ["TCP", "UDP", "ping", "ICMP", "other", "malformed"]
verdicts = {"PASS": 2, "DROP": 1, "TX": 3, "REDIRECT": 4, "ABORTED": 0}


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

/* A packet from the watched program's entry to its exit. One for each CPU will
   do: XDP ends on the CPU where it began, and what it calls by a tail call at
   its exit. Where a run gets into another one all the same (BPF_PROG_TEST_RUN,
   PREEMPT_RT), the outer one sees that this is not its packet, and takes that
   for what it is on exit. */
struct entered {
    u64 xdp;
    u32 class;
    u32 bytes;
};

BPF_PERCPU_ARRAY(counts, struct counts, 1);
BPF_PERCPU_ARRAY(entered, struct entered, 1);

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
    u32 rest;
};

/* A program that watches another may copy from a packet, but not touch it. */
struct packet {
    void *at;
    void *end;
    bool copy;
};

/* Take *to from the packet. Is it whole? */
static __always_inline bool take(struct packet *packet, void *to, u32 size)
{
    void *at = packet->at;

    if (at + size > packet->end)
        return false;
    packet->at += size;
    if (packet->copy)
        return !bpf_probe_read_kernel(to, size, at);
    __builtin_memcpy(to, __builtin_assume_aligned(at, 4), size);
    return true;
}

static __always_inline bool has(struct packet *packet, u32 size)
{
    return packet->at + size <= packet->end;
}

static __always_inline u64 icmp_class(struct packet *packet, u8 icmp)
{
    u8 request = icmp == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
    u8 reply = icmp == IPPROTO_ICMP ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY;
    u8 type;

    if (!take(packet, &type, sizeof(type)))
        return ICMP;
    return type == request || type == reply ? PING : ICMP;
}

/* Of the protocols, icmp is the one that goes with this kind of IP. */
static __always_inline u64 whole_class(struct packet *packet, u8 protocol,
                                       u8 icmp)
{
    if (protocol == IPPROTO_TCP)
        return has(packet, TCP_LEN) ? TCP : MALFORMED;
    if (protocol == IPPROTO_UDP)
        return has(packet, UDP_LEN) ? UDP : MALFORMED;
    if (protocol == icmp)
        return has(packet, ICMP_LEN) ? icmp_class(packet, icmp) : MALFORMED;
    return OTHER;
}

/* The first fragment may have but a part of the header, later ones none. */
static __always_inline u64 fragment_class(struct packet *packet, u8 protocol,
                                          u8 icmp, bool first)
{
    if (protocol == IPPROTO_TCP)
        return TCP;
    if (protocol == IPPROTO_UDP)
        return UDP;
    if (protocol == icmp)
        return first ? icmp_class(packet, icmp) : ICMP;
    return OTHER;
}

static __always_inline u64 ipv4_class(struct packet *packet)
{
    void *start = packet->at;
    struct iphdr ip;

    if (!take(packet, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
        return MALFORMED;
    packet->at = start + 4 * ip.ihl;
    if (!has(packet, 0))
        return MALFORMED;
    if (ip.frag_off & htons(IP_FRAGMENT | IP_OFFSET))
        return fragment_class(packet, ip.protocol, IPPROTO_ICMP,
                              !(ip.frag_off & htons(IP_OFFSET)));
    return whole_class(packet, ip.protocol, IPPROTO_ICMP);
}

static __always_inline u64 ipv6_class(struct packet *packet)
{
    bool fragment = false, later = false;
    void *start = packet->at;
    struct ipv6hdr ip;
    u32 offset = sizeof(ip);
    u8 protocol;
    int i;

    if (!take(packet, &ip, sizeof(ip)) || ip.version != 6)
        return MALFORMED;
    protocol = ip.nexthdr;
    for (i = 0; i < EXTENSIONS && !later; i++) {
        struct extension ext;

        if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING &&
            protocol != IPPROTO_DSTOPTS && protocol != IPPROTO_AH &&
            protocol != IPPROTO_FRAGMENT)
            break;
        packet->at = start + offset;
        if (!take(packet, &ext, sizeof(ext)))
            return MALFORMED;
        if (protocol == IPPROTO_AH) {
            offset += 4 * (ext.len + 2);
        } else if (protocol == IPPROTO_FRAGMENT) {
            offset += 8;
            later = ext.fragment & htons(IP6_OFFSET);
            fragment |= ext.fragment & htons(IP6_OFFSET | IP6_FRAGMENT);
        } else {
            offset += 8 * (ext.len + 1);
        }
        protocol = ext.next;
    }
    packet->at = start + offset;
    if (!has(packet, 0))
        return MALFORMED;
    if (fragment)
        return fragment_class(packet, protocol, IPPROTO_ICMPV6, !later);
    return whole_class(packet, protocol, IPPROTO_ICMPV6);
}

static __always_inline u64 class_of(struct packet packet)
{
    struct ethernet eth;
    __be16 protocol;
    int i;

    if (!take(&packet, &eth, sizeof(eth)))
        return MALFORMED;
    protocol = eth.protocol;
#pragma unroll
    for (i = 0; i < VLAN_TAGS; i++) {
        struct vlan_tag tag;

        if (protocol != htons(ETH_P_8021Q) && protocol != htons(ETH_P_8021AD))
            break;
        if (!take(&packet, &tag, sizeof(tag)))
            return MALFORMED;
        protocol = tag.protocol;
    }
    switch (protocol) {
    case htons(ETH_P_IP):
        return ipv4_class(&packet);
    case htons(ETH_P_IPV6):
        return ipv6_class(&packet);
    case htons(ETH_P_ARP):
        return has(&packet, ARP_LEN) ? OTHER : MALFORMED;
    default:
        return OTHER;
    }
}

static __always_inline void count_packet(u32 verdict, u64 class, u64 bytes)
{
    int zero = 0;
    struct counts *mine = counts.lookup(&zero);
    u64 cell = verdict * CLASSES + class;
    struct count *count;

    asm volatile("" : "+r"(cell));      /* or the compiler drops the check */
    if (!mine || cell >= VERDICTS * CLASSES)
        return;
    count = &mine->of[cell];
    count->packets++;
    count->bytes += bytes;
}

int protostats(struct xdp_md *ctx)
{
    struct packet packet = {
        .at = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};

    count_packet(XDP_PASS, class_of(packet), packet.end - packet.at);
    return XDP_PASS;
}

#ifdef XDP_RXQ
/* What follows goes around another XDP program, whose struct xdp_buff the
   kernel hands over; where its members are, protostats looks up. */

#define MEMBER(type, pointer, offset) (*(type *)((pointer) + (offset)))

/* The same program can be on many interfaces. */
static __always_inline bool is_ours(void *xdp)
{
    void *dev = MEMBER(void *, MEMBER(void *, xdp, XDP_RXQ), RXQ_DEV);

    return MEMBER(u32, dev, DEV_IFINDEX) == IFINDEX &&
        MEMBER(u32, MEMBER(void *, dev, DEV_NET), NET_INUM) == NETNS;
}

static __always_inline struct packet packet_of(void *xdp)
{
    struct packet packet = {
        .at = MEMBER(void *, xdp, XDP_DATA),
        .end = MEMBER(void *, xdp, XDP_DATA_END), .copy = true};

    return packet;
}

int watch_entry(u64 *ctx)
{
    void *xdp = (void *)ctx[0];
    int zero = 0;
    struct entered *slot = entered.lookup(&zero);
    struct packet packet;

    if (!slot)
        return 0;
    slot->xdp = 0;      /* a packet whose exit the kernel has left out */
    if (!is_ours(xdp))
        return 0;
    packet = packet_of(xdp);
    slot->class = class_of(packet);
    slot->bytes = packet.end - packet.at;
    slot->xdp = (u64)xdp;
    return 0;
}

int watch_exit(u64 *ctx)
{
    void *xdp = (void *)ctx[0];
    u64 result = ctx[1];
    u32 verdict;
    int zero = 0;
    struct entered *slot = entered.lookup(&zero);
    struct packet packet;

    asm volatile("" : "+r"(result));    /* or it may be read in part */
    verdict = result;
    if (verdict >= VERDICTS)
        verdict = XDP_ABORTED;  /* as the kernel does */
    if (slot && slot->xdp == (u64)xdp) {
        count_packet(verdict, slot->class, slot->bytes);
        slot->xdp = 0;
    } else if (is_ours(xdp)) {
        packet = packet_of(xdp);
        count_packet(verdict, class_of(packet), packet.end - packet.at);
    }
    return 0;
}
#endif
"""
# bpf(2): its number, some commands and types, of linux/bpf.h.
BPF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280,
            "ppc64le": 361, "s390x": 351}.get(
    sys.maxsize > 2**32 and platform.machine())
BPF_PROG_LOAD, BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 5, 13, 15
BPF_RAW_TRACEPOINT_OPEN, BPF_LINK_CREATE = 17, 28
BPF_LINK_GET_FD_BY_ID, BPF_LINK_GET_NEXT_ID = 30, 31
BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, BPF_TRACE_FEXIT = 26, 24, 25
BPF_PROG_TYPE_EXT, BPF_LINK_TYPE_TRACING, BPF_LINK_TYPE_XDP = 28, 2, 6
BPF_XDP = 37


def bpf_call(command, layout, *values):
    """bpf(2) with the attributes in that struct layout. Returns its result, or
    if that is 0 the second attribute, which is the answer to some commands.
    Raises OSError."""
    attr = ctypes.create_string_buffer(struct.pack("=" + layout, *values), 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(BPF_CALL, command, attr, len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result or struct.unpack_from("=I", attr, 4)[0]


def object_info(fd, info=b""):
    """What the kernel tells of a program or link; info says what else to."""
    info = ctypes.create_string_buffer(info, 256)
    bpf_call(BPF_OBJ_GET_INFO_BY_FD, "IIQ", fd, len(info),
             ctypes.addressof(info))
    return info


def program_info(fd):
    """The ID and the name of a BPF program, and which type in its BTF its main
    function has: 0 if it has no BTF. From struct bpf_prog_info, that asks for
    one struct bpf_func_info."""
    function = ctypes.create_string_buffer(8)
    info = object_info(fd, struct.pack("=132xIQI", len(function),
                                       ctypes.addressof(function), 1))
    number, name = struct.unpack_from("=4xI56x16s", info)
    return (number, name.split(b"\0")[0].decode("ascii", "replace"),
            struct.unpack_from("=4xI", function)[0])


def program_name(number):
    try:
        fd = bpf_call(BPF_PROG_GET_FD_BY_ID, "I", number)
    except OSError:
        return "?"
    try:
        return program_info(fd)[1]
    finally:
        os.close(fd)


def load_tracer(code, kind, target, function):
    """Load a program that runs at the entry (BPF_TRACE_FENTRY) or the exit of
    a function of a loaded program, which BCC has no call for: code is what it
    has compiled. Returns a descriptor; raises OSError, with the verifier's
    last words if it had any."""
    code = ctypes.create_string_buffer(code, len(code))
    log = ctypes.create_string_buffer(1 << 20)
    license = ctypes.create_string_buffer(b"GPL")
    for level in 0, 1:      # the log takes time
        try:
            return bpf_call(
                BPF_PROG_LOAD, "IIQQIIQ8x16s4xI36xII", BPF_PROG_TYPE_TRACING,
                len(code) // 8, ctypes.addressof(code),
                ctypes.addressof(license), level, level * len(log),
                level * ctypes.addressof(log), b"protostats", kind, function,
                target)
        except OSError as e:
            error = e
    words = [line for line in log.value.decode("ascii", "replace").split("\n")
             if line and not line.startswith("processed ")]
    raise OSError(error.errno, "; ".join([error.strerror] + words[-1:]))


def links():
    """struct bpf_link_info of all bpf_links."""
    link = 0
    while True:
        try:
            link = bpf_call(BPF_LINK_GET_NEXT_ID, "II", link, 0)
        except OSError:     # there is no more
            return
        with contextlib.suppress(OSError):      # it is gone
            fd = bpf_call(BPF_LINK_GET_FD_BY_ID, "I", link)
            try:
                yield object_info(fd)
            finally:
                os.close(fd)


def link_of(program, index):
    """The ID of the bpf_link by which a program is on an interface, or None if
    that is by netlink."""
    for info in links():
        kind, link, number, where = struct.unpack_from("=III4xI", info)
        if (kind, number, where) == (BPF_LINK_TYPE_XDP, program, index):
            return link


def extension_of(program, function):
    """The descriptor of what runs in the place of a program's function, or
    None. libxdp puts there what is alone in its dispatcher. Linux 5.13 and
    later tell."""
    for info in links():
        kind, number, target, what = struct.unpack_from("=I4xI8xII", info)
        if (kind, target, what) == (BPF_LINK_TYPE_TRACING, program, function):
            with contextlib.suppress(OSError):      # it is gone
                fd = bpf_call(BPF_PROG_GET_FD_BY_ID, "I", number)
                if struct.unpack_from("=I", object_info(fd))[0] == (
                        BPF_PROG_TYPE_EXT):
                    return fd
                os.close(fd)


# What the C text has to know of the kernel's structs: sums of offsets.
LAYOUT = {
    "XDP_DATA": ["xdp_buff.data"], "XDP_DATA_END": ["xdp_buff.data_end"],
    "XDP_RXQ": ["xdp_buff.rxq"], "RXQ_DEV": ["xdp_rxq_info.dev"],
    "DEV_IFINDEX": ["net_device.ifindex"], "DEV_NET": ["net_device.nd_net"],
    "NET_INUM": ["net.ns", "ns_common.inum"]}


def offset(btf, member):
    """Of a struct's member in bytes, by BTF (the kernel's documentation has
    it as bpf/btf). A struct is found by its name, whose place among the names
    is nowhere else followed by that kind. Raises ValueError."""
    header, types, _, names, size = struct.unpack_from("=4x5I", btf)
    types, names = header + types, header + names
    structure, member = (
        btf.index(b"\0%s\0" % name.encode(), names, names + size) + 1 - names
        for name in member.split("."))
    at = types - 1
    while True:
        at = btf.index(struct.pack("=I", structure), at + 1, names)
        info, = struct.unpack_from("=I", btf, at + 4)
        if at % 4 == types % 4 and info >> 24 & 31 == 4:    # BTF_KIND_STRUCT
            break
    for at in range(at + 12, at + 12 + 12 * (info & 0xffff), 12):
        name, _, bits = struct.unpack_from("=III", btf, at)
        if name == member:      # kind_flag: the upper bits are for bit fields
            return (bits & 0xffffff if info >> 31 else bits) // 8
    raise ValueError("no such member")


def definitions(index):
    """What the C text has to know, as {name: number}, or {} if the kernel does
    not tell."""
    try:
        with open("/sys/kernel/btf/vmlinux", "rb") as f:
            btf = f.read()
        numbers = {name: sum(offset(btf, member) for member in members)
                   for name, members in LAYOUT.items()}
        numbers["NETNS"] = os.stat("/proc/thread-self/ns/net").st_ino
    except (OSError, ValueError, struct.error):
        return {}
    return dict(numbers, IFINDEX=index)


# Of linux/rtnetlink.h, linux/if_link.h and linux/if_arp.h.
RTMGRP_LINK, RTM_GETLINK, RTM_SETLINK = 1, 18, 19
IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_XDP = 18, 1, 43
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


class Trouble(Exception):
    """Ends the counting, in words that go after the interface's name."""


class Interface:
    """An interface, by its number, for its name can change."""

    def __init__(self, name):
        self.name, self.program = name, None
        self.socket = netlink_socket()
        try:
            self.index = socket.if_nametoindex(name)
        except OSError:
            die("there is no network interface %s: see ip link" % name)
        self.known = definitions(self.index)
        self.look()

    def look(self):
        """Ask how things are. Raises Trouble."""
        try:
            info, fields = netlink(self.socket, RTM_GETLINK, self.index)
        except OSError as e:
            if e.errno == errno.ENODEV:
                raise Trouble("is gone")
            raise
        self.type = struct.unpack_from("=H", info, 2)[0]
        kind = attributes(fields.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)
        self.is_bond = kind == b"bond\0"
        xdp = attributes(fields.get(IFLA_XDP, b""))
        self.programs = {struct.unpack("=I", xdp[kind])[0]: mode
                         for kind, mode in sorted(IFLA_XDP_PROG_IDS.items())
                         if kind in xdp}

    def refuse_to_replace(self):
        """Raises Trouble if there is a program."""
        self.look()
        for number, mode in self.programs.items():
            raise self.in_the_way(number, mode)

    def in_the_way(self, number, mode, why=""):
        text = "already has the XDP program %s (ID %d)%s" % (
            program_name(number), number, why)
        if not args.watch_only:
            text += (": end what attached it, or try: "
                     "ip link set dev %s %s off" % (self.name, mode))
        return Trouble(text)

    def tell(self, text):
        warn("%s: %s" % (self.name, text))


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
    except (OSError, Trouble) as e:
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
    raise Trouble("takes no XDP program: %s" % (
        "; ".join(dict.fromkeys(reasons))))


class Own:
    """The tool's own program, which lets everything pass."""

    def __init__(self, interface):
        self.interface = interface

    def start(self, bpf):
        """Raises Trouble."""
        program = quietly(lambda: bpf.load_func("protostats", BPF.XDP).fd)
        self.number = self.interface.program = program_info(program)[0]
        mode, self.detach, self.attached = attach(self.interface, program)
        self.title = mode + " mode"

    def stop(self):
        self.detach(self.attached)


class Watch:
    """Programs at the entry and the exit of the XDP program that is there."""

    RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")   # insns
    REASONS = {errno.EINVAL: "it takes Linux 5.5",
               errno.EBUSY: "another program runs in its place",
               524: "not on this machine"}      # ENOTSUPP of linux/errno.h

    def __init__(self, interface):
        """Find it, and ask the kernel whether it can be watched, before all
        that takes time. Raises Trouble, or FileNotFoundError if it is gone
        again."""
        self.interface = interface
        self.number, self.mode = next(iter(interface.programs.items()))
        self.opened = []        # descriptors
        self.open(bpf_call(BPF_PROG_GET_FD_BY_ID, "I", self.number))
        _, self.name, self.function = program_info(self.opened[0])
        extension = extension_of(self.number, self.function)
        if extension:
            self.open(extension)
            _, name, self.function = program_info(extension)
            self.name = "%s in %s" % (name, self.name)
        self.target = self.opened[-1]
        if not self.function:
            raise self.trouble("it has no BTF")
        if not interface.known:
            raise self.trouble("the kernel's BTF does not tell what it takes")
        if interface.is_bond and self.mode != "xdpgeneric":
            raise self.trouble("a bond's program runs on its members: watch "
                               "these")
        self.attach(self.load(self.RETURN_0, BPF_TRACE_FEXIT))
        for _ in range(2):      # of that attempt
            os.close(self.opened.pop())

    def open(self, fd):
        self.opened.append(fd)
        return fd

    def trouble(self, why):
        self.stop()
        return self.interface.in_the_way(
            self.number, self.mode, ", which can't be watched (%s)" % why)

    @contextlib.contextmanager
    def refusal(self):
        try:
            yield
        except OSError as e:
            raise self.trouble("the kernel refuses to trace it: %s" % (
                "; ".join(filter(None, [e.strerror,
                                        self.REASONS.get(e.errno)]))))

    def load(self, code, kind):
        with self.refusal():
            return self.open(load_tracer(code, kind, self.target,
                                         self.function))

    def attach(self, program):
        with self.refusal():
            self.open(bpf_call(BPF_RAW_TRACEPOINT_OPEN, "QI", 0, program))

    def start(self, bpf):
        """The entry comes first, and goes last: no exit that is counted is
        without it. Raises Trouble."""
        entry = self.load(bpf.dump_func(b"watch_entry"), BPF_TRACE_FENTRY)
        self.exit = self.load(bpf.dump_func(b"watch_exit"), BPF_TRACE_FEXIT)
        self.attach(entry)
        self.attach(self.exit)
        mode = "generic" if self.mode == "xdpgeneric" else "native"
        link = link_of(self.number, self.interface.index)
        self.title = "watching %s (ID %d)" % (self.name, self.number)
        self.interface.tell("watching %s (ID %d, %s, %s)" % (
            self.name, self.number, mode,
            "netlink" if link is None else "link %d" % link))

    def lost(self):
        """How often the kernel left out the program at the exit, because it
        ran already. From struct bpf_prog_info of Linux 5.12 and later."""
        return struct.unpack_from("=208xQ", object_info(self.exit))[0]

    def stop(self):
        """The kernel ends this with the process, too, however that ends."""
        while self.opened:
            os.close(self.opened.pop())


class Counter:
    """Counts by the interface's program, as these come and go, or by the
    tool's own."""

    PATIENCE = 3        # seconds with nothing there, until it attaches its own

    def __init__(self, interface):
        self.interface, self.way, self.title = interface, None, None
        self.alone = -math.inf      # since then there is no program
        self.next = self.find()
        if not self.next:
            raise Trouble("has no XDP program to watch")

    def find(self):
        """How to count now: a Watch, an Own, or None. Raises Trouble."""
        while self.interface.programs:
            try:
                return Watch(self.interface)
            except FileNotFoundError:
                self.interface.look()
        if not args.watch_only and (
                time.monotonic() > self.alone + self.PATIENCE):
            return Own(self.interface)

    def start(self, bpf):
        """Raises Trouble."""
        self.bpf = bpf
        try:
            self.next.start(bpf)
        except Trouble:
            if not isinstance(self.next, Own) or not self.interface.programs:
                raise
            self.next = self.find()     # one came meanwhile
            self.next.start(bpf)
        self.way = self.next
        self.title = self.way.title + (
            ", and others before" if self.title else "")

    def stop(self):
        if self.way:
            if isinstance(self.way, Watch) and self.way.lost():
                self.interface.tell("lost %d packets" % self.way.lost())
            self.way.stop()

    def check(self):
        """Go on with what is there now. Raises Trouble."""
        self.interface.look()
        if self.way:
            if self.way.number in self.interface.programs:
                return
            if isinstance(self.way, Own):
                raise Trouble(
                    "no longer has this program: somebody removed it")
            self.stop()
            self.alone = time.monotonic()
            self.interface.tell("%s (ID %d) was %s" % (
                self.way.name, self.way.number,
                "replaced" if self.interface.programs else "removed"))
            self.way = None
        self.next = self.find()
        if self.next:
            self.start(self.bpf)
            if isinstance(self.way, Own):
                self.interface.tell("counting by a program of its own: all "
                                    "pass, no other can be attached")


# Those that do not end a process, or tell of a defect in it.
OTHER_SIGNALS = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG,
    signal.SIGWINCH, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL,
    signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}


class Stop:
    """Waits, and knows of the wish to end: a signal, a reader that left, or
    that the time is over."""

    LOOK = 1    # seconds at most; who updates a link makes no news by netlink

    def __init__(self, check):
        self.check, self.end = check, math.inf
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
        return {fd for fd, _ in self.poll.poll(1000 * seconds)}

    def wished(self):
        return bool(self.ready(0) - {self.news.fileno()}) or (
            time.monotonic() > self.end)

    def wait(self, until):
        """Returns False at that time, True if there is a wish to end by then.
        Raises Trouble."""
        while not self.wished():
            left = until - time.monotonic()
            if left > 0 and self.news.fileno() in self.ready(
                    min(left, self.LOOK)):
                with contextlib.suppress(OSError):  # more than it could hold
                    self.news.recv(1 << 17)
            self.check()
            if left <= 0:
                return False
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
    return [[(sum(cpu.of[number * len(classes) + i].packets for cpu in cpus),
              sum(cpu.of[number * len(classes) + i].bytes for cpu in cpus))
             for i in range(len(classes))] for number in verdicts.values()]


def total(counts):
    """The sum of some (packets, bytes)."""
    return tuple(map(sum, zip(*counts)))


def difference(counts, before):
    return [[(packets - packets_before, size - size_before)
             for (packets, size), (packets_before, size_before) in zip(*pair)]
            for pair in zip(counts, before)]


def matrix(title, counts, width, cell):
    """Counts by class and verdict as lines of text. No packets are a dot, for
    the eye to find the others."""
    line = "%-9s" + len(verdicts) * (" %%%ds" % width)
    yield line % (title, *verdicts)
    for name, by_verdict in zip(classes, zip(*counts)):
        yield line % (name, *(cell(count) if count[0] else "."
                              for count in by_verdict))


def bars(counts, width):
    """For each class a bar by verdict, one letter for each: the longest one is
    as wide as that, or has one letter more for what is too little for one."""
    def amount(count):
        return count[1 if args.bits else 0]
    most = max(amount(total(count)) for count in zip(*counts)) or 1
    for by_verdict in zip(*counts):
        bar, so_far = "", 0
        for verdict, count in zip(verdicts, by_verdict):
            so_far += amount(count)
            bar = bar.ljust(max(round(width * so_far / most),
                                len(bar) + bool(count[0])), verdict[0])
        yield bar


class Rows:
    """Prints a row, or with -m a table, for each interval."""

    def __init__(self, output):
        self.output, self.left, self.gap = output, 0, ""

    def columns(self, counts):
        """[(title, (packets, bytes)), ...] of a row."""
        by_verdict = dict(zip(verdicts, map(total, counts)))
        by_class = [total(count) for count in zip(*counts)]
        if args.matrix:
            return [("%s-%s" % (name, verdict), count)
                    for name, row in zip(classes, zip(*counts))
                    for verdict, count in zip(verdicts, row)]
        return [*((name, by_verdict[name]) for name in ("PASS", "DROP", "TX")),
            *zip(("TCP", "UDP", "PING", "ICMP"), by_class),
            ("OTHER", total(by_class[4:]))]

    def write(self, row):
        if args.csv:
            self.output.write(",".join(row) + "\n")
        else:
            self.output.write(("%-8s" + " %7s" * 8 + " %6s\n") % tuple(row))

    def start(self, counts):
        self.then, self.before = time.monotonic(), counts
        self.header()

    def header(self):
        if args.csv or not args.matrix:
            self.write(["TIME", *(title for title, _ in self.columns(
                self.before)), "DROP%"])
        self.left = screenful()

    def print(self, counts):
        now, new = time.monotonic(), difference(counts, self.before)
        self.seconds, self.then, self.before = now - self.then, now, counts
        if args.matrix and not args.csv:
            return self.print_matrix(new)
        if self.left <= 0:
            self.header()
        self.left -= 1
        sums = dict(zip(verdicts, map(total, new)))
        self.write([time.strftime("%H:%M:%S"),
                    *(self.rate(count) for _, count in self.columns(new)),
                    percent(sums["DROP"][0], total(sums.values())[0])])

    def print_matrix(self, new):
        lines = matrix(time.strftime("%H:%M:%S"), new, 8, self.rate)
        self.output.write(self.gap + "".join(
            (line + "  " + bar).rstrip() + "\n"
            for line, bar in zip(lines, ["", *bars(new, 19)])))
        self.gap = "\n"

    def rate(self, count):
        return rate((8 * count[1] if args.bits else count[0]) / self.seconds)


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


def totals(counts, title):
    """A table of all since the start, and unless all has passed one by class
    and verdict, as text."""
    line = "%-9s %15s %18s %6s\n"
    everything = [total(count) for count in zip(*counts)]
    rows = list(zip(classes, everything))
    rows += [(verdict, total(count))
             for verdict, count in zip(verdicts, counts) if any(total(count))]
    rows.append(("all", total(everything)))
    text = "\n" + title + ":\n" + line % ("CLASS", "PACKETS", "BYTES", "%")
    text += "".join(line % (name, packets, size,
                            percent(packets, rows[-1][1][0]))
                    for name, (packets, size) in rows)
    not_passed = counts[1:]     # PASS is the first one
    if args.matrix or any(count[0] for row in not_passed for count in row):
        text += "\n" + "".join(each + "\n" for each in matrix(
            "PACKETS", counts, 12, lambda count: count[0]))
    return text


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


def quietly(action):
    """What BCC does, or one line on why it can't."""
    with log_file() as log:
        try:
            with output_into(log):
                return action()
        except Exception as e:
            log.seek(0)
            die(reason(e, log.read()))


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


def load(text):
    bpf = BPF(text=text)
    bpf["counts"][0]    # can it be read?
    return bpf


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


def count_packets(counter, text):
    bpf = quietly(lambda: load(text))
    stop = Stop(counter.check)
    rows = Rows(Output(stop))
    counter.start(bpf)
    give_back_memory()
    begin, trouble = time.monotonic(), None
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
    except Trouble as e:
        trouble = e
    finally:
        counter.stop()
    text = totals(read_counts(bpf), "%s, %s, %.1f s" % (
        counter.interface.name, counter.title, time.monotonic() - begin))
    if args.csv:
        warn(text[1:-1])
    else:
        rows.output.write(text)
    if trouble:
        raise trouble


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
        text = "".join("#define %s %d\n" % definition
                       for definition in interface.known.items()) + bpf_text
        if args.ebpf:
            print(text, flush=True)
            return
        if interface.type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            die("%s has no Ethernet frames" % interface.name)
        # Before Linux 5.11, what BPF takes was locked memory of the user's.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK,
                               [resource.RLIM_INFINITY] * 2)
        count_packets(Counter(interface), text)
    except BrokenPipeError:
        pass    # the reader has seen enough
    except Trouble as e:
        die("%s %s" % (args.interface, e))
    except OSError as e:
        die("%s: %s" % (args.interface, e.strerror))


main()
