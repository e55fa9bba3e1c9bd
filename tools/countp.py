#!/usr/bin/python3
#
# countp  XDP: pass TCP, drop UDP, send everything else back, and count it:
#         packets (or bits) per second, percent dropped.
#         For Linux, uses BCC, XDP, eBPF. Embedded C.
#
# USAGE: countp [-h] [-S | -N] [-b] [-j] [--tcp|--udp|--other ACTION]
#               [-k PORTS] [-a] [-dev] interface [interval [count]]
#
# Copyright (c) 2026 The countp authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 23-Nov-2026   Created this.

import argparse
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter

try:
    from bcc import BPF
    from bcc.libbcc import lib
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

ACTIONS = {"pass": 2, "drop": 1, "tx": 3}       # enum xdp_action
MODES = {"native": 4, "generic": 2}     # XDP_FLAGS_* of linux/if_link.h
BPF_XDP = 37                            # enum bpf_attach_type

examples = """examples:
    ./countp eth0               # pass TCP, drop UDP, send the rest back
    ./countp eth0 1 30          # the same for 30 seconds, then end
    ./countp -k 53,67-68 eth0   # but pass UDP to these ports
    ./countp -k src:53 eth0     # but pass UDP that claims to come from DNS
    ./countp --other pass eth0  # only drop UDP
"""

def ports(text):
    """Return a C condition for 53,67-68,src:53, up to 64 ports or ranges."""
    terms = []
    for part in text.split(","):
        match = re.fullmatch("(src:)?([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        port = "ntohs(((__be16 *)at)[%d])" % (not match[1])
        first, last = int(match[2]), int(match[3] or match[2])
        if not first <= last < 65536 or len(terms) == 64:
            raise ValueError
        terms.append("(%s >= %d && %s <= %d)" % (port, first, port, last))
    return " || ".join(terms)


parser = argparse.ArgumentParser(
    description="XDP: pass TCP, drop UDP, send all else back, and count it",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
mode = parser.add_mutually_exclusive_group()
mode.add_argument("-S", "--skb-mode", action="store_const", dest="modes",
    const=["generic"], default=["native", "generic"],
    help="generic mode only (default: native, else generic)")
mode.add_argument("-N", "--native-mode", action="store_const", dest="modes",
    const=["native"], help="native mode only: in the driver")
parser.add_argument("-b", "--bits", action="store_true",
    help="show bits per second, not packets")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values; totals go to stderr")
for name, default in ("TCP", "pass"), ("UDP", "drop"), ("other", "tx"):
    parser.add_argument("--" + name.lower(), choices=list(ACTIONS),
        default=default, help="action for %s (default: %s)" % (name, default))
parser.add_argument("-k", "--keep", type=ports, default=0, metavar="PORTS",
    help="pass UDP to these ports, as 53,67-68, or from one, as src:53")
parser.add_argument("-a", "--all", action="store_true",
    help="treat ARP and IPv6 neighbor discovery as other")
parser.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
parser.add_argument("-dev", action="store_true",
    help="accepted for compatibility, as in -dev eth0")
parser.add_argument("interface", help="network interface")
parser.add_argument("interval", type=float, nargs="?", default=1,
    help="seconds between two rows (default: 1)")
parser.add_argument("count", type=int, nargs="?", default=10**9,
    help="end after this many rows")

bpf_text = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

enum { TCP, UDP, UDP_KEPT, NEIGHBOR, OTHER, BAD_SOURCE, CLASSES };
struct count { u64 packets, bytes; };
BPF_PERCPU_ARRAY(counts, struct count, CLASSES);

/* A fragment counts by its protocol; only the first one has the ports. */
static __always_inline int payload_class(u8 *at, u8 *end, u8 protocol,
                                         bool fragment, bool later, bool v6)
{
    if (at + (fragment ? 0 : protocol == IPPROTO_TCP ? 20 : 8) > end)
        return OTHER;
    if (protocol == IPPROTO_TCP)
        return TCP;
    if (protocol == IPPROTO_UDP)
        return !later && at + 4 <= end && (KEEP) ? UDP_KEPT : UDP;
    /* ICMPv6 from router solicitation to redirect */
    return v6 && protocol == IPPROTO_ICMPV6 && !fragment && at + 8 <= end &&
        *at >= 133 && *at <= 137 ? NEIGHBOR : OTHER;
}

static __always_inline int ipv4_class(struct iphdr *ip, u8 *end)
{
    if ((u8 *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
        return OTHER;
    return payload_class((u8 *)ip + 4 * ip->ihl, end, ip->protocol,
                         ip->frag_off & htons(0x3fff),
                         ip->frag_off & htons(0x1fff), false);
}

static __always_inline int ipv6_class(struct ipv6hdr *ip, u8 *end)
{
    bool fragment = false, later = false;
    u32 offset = sizeof(*ip);
    u8 kind, *at = (u8 *)ip;

    if (at + offset > end || ip->version != 6)
        return OTHER;
    kind = ip->nexthdr;
    for (int i = 0; i < 8 && !later; i++) {
        at = (u8 *)ip + offset;
        if (at + 8 > end)
            break;
        if (kind == IPPROTO_FRAGMENT) {
            fragment |= *(__be16 *)(at + 2) & htons(0xfff9);
            later = *(__be16 *)(at + 2) & htons(0xfff8);
            offset += 8;
        } else if (kind == IPPROTO_AH) {
            offset += 4 * (at[1] + 2);
        } else if (kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING ||
                   kind == IPPROTO_DSTOPTS) {
            offset += 8 * (at[1] + 1);
        } else {
            break;
        }
        kind = at[0];
    }
    return payload_class((u8 *)ip + offset, end, kind, fragment, later, true);
}

static __always_inline int frame_class(u8 *data, u8 *end)
{
    __be16 *type = (__be16 *)(data + 2 * ETH_ALEN);
    u8 *at = (u8 *)(type + 1);

    if (at > end)
        return OTHER;
    if (data[ETH_ALEN] & 1)     /* a multicast source: no host to send to */
        return BAD_SOURCE;
#pragma unroll
    for (int i = 0; i < 2 && (*type == htons(ETH_P_8021Q) ||
                              *type == htons(ETH_P_8021AD)); i++) {
        type += 2;
        at += 4;
        if (at > end)
            return OTHER;
    }
    if (*type == htons(ETH_P_IP))
        return ipv4_class((void *)at, end);
    if (*type == htons(ETH_P_IPV6))
        return ipv6_class((void *)at, end);
    return *type == htons(ETH_P_ARP) && at + 28 <= end ? NEIGHBOR : OTHER;
}

int countp(struct xdp_md *ctx)
{
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
    u8 address[ETH_ALEN] = ADDRESS;
    int class = frame_class(data, end), action = ACTION(class);
    struct count *count = counts.lookup(&class);

    if (!count || data + ETH_HLEN > end)
        return XDP_ABORTED;
    count->packets++;
    count->bytes += end - data;
    if (action == XDP_TX) {     /* our MAC as source, even of a multicast */
        __builtin_memcpy(data, data + ETH_ALEN, ETH_ALEN);
        __builtin_memcpy(data + ETH_ALEN, address, ETH_ALEN);
    }
    return action;
}
"""

def die(message):
    sys.exit("%s: %s" % (parser.prog, message))

def hardware():
    """Return the interface's type and address, or None if it is gone."""
    try:
        name = os.fsencode(socket.if_indextoname(index))
        with socket.socket() as s:
            return struct.unpack_from("16xH6s", fcntl.ioctl(
                s, 0x8927, struct.pack("40s", name)))   # SIOCGIFHWADDR
    except OSError:
        return None

def read_counts():
    """Return packets and bytes so far, by class and by action, and of all."""
    packets, size = Counter(), Counter()
    for i, row in enumerate(classes):
        for cpu in bpf["counts"][i]:
            for key in (*row, "total"):
                packets[key] += cpu.packets
                size[key] += cpu.bytes
    return packets, size

def write(fd, text):
    try:
        with open(fd, "wb", closefd=False) as f:
            f.write(os.fsencode(text))
    except OSError as e:
        die("can't write: %s" % e.strerror)

def stop(sig, _):
    signal.signal(sig, signal.SIG_DFL)      # a second signal kills the tool
    stopped.append(sig)


for sig in signal.SIGINT, signal.SIGPIPE:   # no traceback while starting
    signal.signal(sig, signal.SIG_DFL)
args = getattr(parser, "parse_intermixed_args", parser.parse_args)()
if not 0.01 <= args.interval < 1e9 or not 0 < args.count <= 10**9:
    parser.error("interval must be from 0.01 to 1e9, count from 1 to 1e9")
if BPF is None:
    die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
        "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)" % no_bcc)
if os.geteuid() and not args.ebpf:
    die("needs root, try: sudo %s" % " ".join(sys.argv))
index = {name: i for i, name in socket.if_nameindex()}.get(args.interface, 0)
kind, address = hardware() or die(
    "no network interface %s: see ip link" % args.interface)
classes = [("TCP", args.tcp), ("UDP", args.udp), ("UDP-kept", "pass"),
           ("ARP/ND", args.other if args.all else "pass"),
           ("other", args.other), ("bad-source", "drop")]
if kind not in (1, 772):        # ARPHRD_ETHER, ARPHRD_LOOPBACK
    die("%s has no Ethernet frames" % args.interface)
if kind == 772 and "tx" in dict(classes).values():
    die("%s would loop for ever, try: --other pass" % args.interface)

bpf_text = """#define ADDRESS { %s }
#define ACTION(class) ((0x%x >> (4 * (class))) & 15)
#define KEEP %s""" % (", ".join(map(str, address)), sum(
    ACTIONS[action] << 4 * i for i, (_, action) in enumerate(classes)),
    args.keep) + bpf_text
if args.ebpf:
    print(bpf_text)
    sys.exit()
saved, (log, pipe) = (os.dup(1), os.dup(2)), os.pipe2(os.O_NONBLOCK)
for fd in 1, 2:
    os.dup2(pipe, fd)       # captures BCC's messages, which are few with -w
try:
    bpf, error = BPF(text=bpf_text, cflags=["-w"]), None
    program = bpf.load_func("countp", BPF.XDP).fd
except Exception as e:
    error = e
lib.fflush(None)
for fd in 1, 2:
    os.dup2(saved[fd - 1], fd)
os.close(pipe)
messages = os.read(log, 65536).decode(errors="replace")
if "kernel headers" in messages:
    die("BCC needs kernel headers: install linux-headers-%s (Debian, Ubuntu), "
        "kernel-devel (Fedora) or linux-headers (Arch), or set "
        "BCC_KERNEL_SOURCE" % os.uname().release)
if error:
    die("no BPF program: %s" % next((
        line for line in messages.splitlines() if "error:" in line), error))
title = args.interface
for mode in args.modes:
    # struct bpf_link_create_opts: sz, flags. The link ends with the process.
    options = struct.pack("NI0N", struct.calcsize("NI0N"), MODES[mode])
    if lib.bpf_link_create(program, index, BPF_XDP, options) >= 0:
        break
    error = ctypes.get_errno()
    if error in (errno.EBUSY, errno.EEXIST):
        die("%s has an XDP program already: see ip link show dev %s" % (
            args.interface, args.interface))
    title += ", no %s mode (%s)" % (mode, os.strerror(error))
else:
    die("can't attach to %s; requires Linux 5.9" % title)
title += ", %s mode" % mode
write(2, "%s: TCP %s, UDP %s, other %s\n" % (
    title, args.tcp, args.udp, args.other))
begin = then = time.monotonic()
line, number = ("%s,%s,%s,%s,%s,%s\n", "%.3f") if args.csv else (
    "%-8s %12s %12s %12s %12s %6s\n", "%.1f")
unit, factor = ("bit/s", 8) if args.bits else ("/s", 1)
columns = [*ACTIONS, "total"]
write(1, line % ("TIME", *(key.upper() + unit for key in columns), "DROP%"))
due, before, problem = begin + args.interval, read_counts(), None
stdout = select.poll()
stdout.register(1, 0)
stopped = []
for sig in signal.SIGINT, signal.SIGTERM:
    signal.signal(sig, stop)
while args.count and not stopped:
    now = time.monotonic()
    if stdout.poll(max(0, min(100, 1000 * (due - now)))):
        sys.exit()      # the reader left
    if hardware() != (kind, address):
        problem = "%s is gone or its MAC address changed; run %s again" % (
            args.interface, parser.prog)
        break
    if now < due:
        continue
    counts = read_counts()
    packets, size = (new - old for new, old in zip(counts, before))
    amount = size if args.bits else packets
    rates = [number % (factor * amount[key] / (now - then)) for key in columns]
    write(1, line % (time.strftime("%H:%M:%S"), *rates,
        "%.1f" % (100 * packets["drop"] / max(1, packets["total"]))))
    then, due, before = now, now + args.interval, counts
    args.count -= 1

packets, size = read_counts()
table = "\n%s, %.1f s:\n%-10s %15s %18s %6s\n" % (
    title, time.monotonic() - begin, "CLASS", "PACKETS", "BYTES", "%")
for key in [*dict(classes), *columns]:
    table += "%-10s %15d %18d %6.1f\n" % (
        key, packets[key], size[key],
        100 * packets[key] / max(1, packets["total"]))
write(2 if args.csv else 1, table)
if problem:
    die(problem)
