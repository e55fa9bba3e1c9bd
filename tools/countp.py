#!/usr/bin/python3
#
# countp  XDP: pass TCP, drop UDP, send everything else back, and count it.
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
import collections
import ctypes
import os
import re
import select
import signal
import socket
import sys
import time

signal.signal(signal.SIGINT, signal.SIG_DFL)    # no traceback while starting
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    from bcc import BPF
    from bcc.libbcc import lib
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", lambda *_: 1)
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

prog = os.path.basename(sys.argv[0])
if prog == "-":
    prog = "countp"             # read from standard input

ACTIONS = ["pass", "drop", "tx"]
SUMS = ACTIONS + ["total"]
MODES = {"native": 4, "generic": 2}             # XDP_FLAGS_*, linux/if_link.h
BPF_XDP, BPF_PROG_TYPE_XDP = 37, 6              # linux/bpf.h
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772          # linux/if_arp.h

def die(message):
    print("%s: %s" % (prog, message), file=sys.stderr, flush=True)
    os._exit(1)         # sys.exit would write to a full disk again

def ports(text):
    """Return a C condition for 53,67-68,src:53, up to 64 ports or ranges."""
    conditions = []
    for part in text.split(","):
        match = re.fullmatch("(src:)?([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None:
            raise ValueError
        port = "ntohs(ports[%d])" % (0 if match.group(1) else 1)
        first = int(match.group(2))
        last = int(match.group(3) or first)
        if not first <= last < 65536 or len(conditions) == 64:
            raise ValueError
        conditions.append("(%s >= %d && %s <= %d)" % (port, first, port, last))
    return " || ".join(conditions)


examples = """examples:
    ./countp eth0               # pass TCP, drop UDP, send the rest back
    ./countp eth0 1 30          # the same for 30 seconds, then end
    ./countp -k 53,src:53 eth0  # but pass UDP to and from port 53
    ./countp --other pass eth0  # only drop UDP
"""
parser = argparse.ArgumentParser(
    prog=prog, description="XDP: pass TCP, drop UDP, send all else back",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
by_mode = parser.add_mutually_exclusive_group()
by_mode.add_argument("-S", "--skb-mode", action="store_const", dest="modes",
    const=["generic"], default=["native", "generic"],
    help="generic mode only (default: native, else generic)")
by_mode.add_argument("-N", "--native-mode", action="store_const",
    dest="modes", const=["native"], help="native mode only: in the driver")
parser.add_argument("-b", "--bits", action="store_true",
    help="show bits per second, not packets")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values; totals go to stderr")
parser.add_argument("--tcp", choices=ACTIONS, default="pass",
    help="action for TCP (default: pass)")
parser.add_argument("--udp", choices=ACTIONS, default="drop",
    help="action for UDP (default: drop)")
parser.add_argument("--other", choices=ACTIONS, default="tx",
    help="action for other (default: tx)")
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
args = getattr(parser, "parse_intermixed_args", parser.parse_args)()
if not 0.01 <= args.interval < 1e9 or args.count < 1:
    parser.error("interval must be from 0.01 to 1e9, count at least 1")

bpf_text = """
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
    __be16 *ports = (void *)at;

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
    u8 *at = data + ETH_HLEN;
    struct iphdr *ip;
    __be16 type = 0;

    if (at <= end && data[ETH_ALEN] & 1)        /* multicast */
        return BAD_SOURCE;
    for (int tags = 0; tags < 3; tags++, at += 4) {
        if (at > end)
            return OTHER;
        type = *(__be16 *)(at - 2);
        if (type != htons(ETH_P_8021Q) && type != htons(ETH_P_8021AD))
            break;
    }
    if (type == htons(ETH_P_IPV6))
        return ipv6_class((void *)at, end);
    if (type == htons(ETH_P_ARP) && at + 28 <= end)
        return NEIGHBOR;
    ip = (void *)at;
    if (type != htons(ETH_P_IP) || at + sizeof(*ip) > end ||
        ip->version != 4 || ip->ihl < 5)
        return OTHER;
    return payload_class(at + 4 * ip->ihl, end, ip->protocol,
                         ip->frag_off & htons(0x3fff),
                         ip->frag_off & htons(0x1fff), false);
}

int countp(struct xdp_md *ctx)
{
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
    int class = frame_class(data, end);
    int action = class == TCP ? TCP_ACTION : OTHER_ACTION;
    struct count *count = counts.lookup(&class);

    if (class == UDP)
        action = UDP_ACTION;
    else if (class == UDP_KEPT || (class == NEIGHBOR && PASS_NEIGHBORS))
        action = XDP_PASS;
    else if (class == BAD_SOURCE)
        action = XDP_DROP;
    if (!count || data + ETH_HLEN > end)
        return XDP_ABORTED;
    count->packets++;
    count->bytes += end - data;
    if (action == XDP_TX) {     /* our MAC as source, even of a multicast */
        __builtin_memcpy(data, data + ETH_ALEN, ETH_ALEN);
        __builtin_memcpy(data + ETH_ALEN, (u8 [])ADDRESS, ETH_ALEN);
    }
    return action;
}
"""

CLASSES = [("TCP", args.tcp), ("UDP", args.udp), ("UDP-kept", "pass"),
           ("ARP/ND", args.other if args.all else "pass"),
           ("other", args.other), ("bad-source", "drop")]

class LinkCreateOpts(ctypes.Structure):         # struct bpf_link_create_opts
    _fields_ = [("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32)]

def program(address):
    """Return the C text for an interface with this MAC address."""
    return """#define ADDRESS { %s }
#define TCP_ACTION XDP_%s
#define UDP_ACTION XDP_%s
#define OTHER_ACTION XDP_%s
#define PASS_NEIGHBORS %d
#define KEEP %s
""" % (", ".join(map(str, address)), args.tcp.upper(), args.udp.upper(),
       args.other.upper(), not args.all, args.keep) + bpf_text

def remedy(error):
    """Return what to do about an error, or the error."""
    headers = "/lib/modules/%s/build" % os.uname().release
    headers = os.environ.get("BCC_KERNEL_SOURCE", headers)
    denied = re.search("not permitted|super-user", str(error))
    if denied or not supported(BPF_PROG_TYPE_XDP, 0):
        return ("requires CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW;"
                " in a container: --privileged")
    if not os.path.exists(headers + "/include"):
        return ("no kernel headers in %s: install linux-headers-%s (Debian, "
                "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or "
                "set BCC_KERNEL_SOURCE" % (headers, os.uname().release))
    return error

def attach(fd, index):
    """Attach by a bpf_link, which ends with the process. Return a title."""
    title = args.interface
    for mode in args.modes:
        options = LinkCreateOpts(ctypes.sizeof(LinkCreateOpts), MODES[mode])
        if lib.bpf_link_create(fd, index, BPF_XDP, ctypes.byref(options)) >= 0:
            return "%s, %s mode" % (title, mode)
        title += ", no %s mode (%s)" % (mode, os.strerror(ctypes.get_errno()))
    die("can't attach to %s; requires Linux 5.9, and an interface without an "
        "XDP program: see ip link show dev %s" % (title, args.interface))

def read_counts(bpf):
    """Return packets and bytes so far by class, by action, and of all."""
    counts = collections.Counter()
    for i, (name, action) in enumerate(CLASSES):
        for cpu in bpf["counts"][i]:
            for key in name, action, "total":
                counts[key, "packets"] += cpu.packets
                counts[key, "bytes"] += cpu.bytes
    return counts

def percent(counts, key):
    whole = max(1, counts["total", "packets"])
    return 100 * counts[key, "packets"] / whole

def write(text, file=sys.stdout):
    try:
        print(text, file=file, flush=True)
    except OSError as e:
        die("can't write: %s" % e.strerror)

def write_totals(title, counts):
    file = sys.stderr if args.csv else sys.stdout
    write("\n%s:\n%-10s %15s %18s %6s" % (
        title, "CLASS", "PACKETS", "BYTES", "%"), file)
    for key in [*dict(CLASSES), *SUMS]:
        write("%-10s %15d %18d %6.1f" % (
            key, counts[key, "packets"], counts[key, "bytes"],
            percent(counts, key)), file)

def stop(signum, _):
    global stop_requested
    stop_requested = True
    signal.signal(signum, signal.SIG_DFL)       # a second one kills the tool

def trace(bpf, port, title):
    """Print rates until a signal, the count, or until nobody reads stdout."""
    found = port.getsockname()[3:]
    stdout = select.poll()
    stdout.register(1, 0)
    begin = then = now = time.monotonic()
    due, rows, before = begin + args.interval, 0, read_counts(bpf)
    while rows < args.count and not stop_requested:
        if stdout.poll(min(100, 1000 * (due - now))):
            sys.exit()          # the reader left
        now = time.monotonic()
        if port.getsockname()[3:] != found:
            break
        if now >= due:
            counts = read_counts(bpf)
            new = counts - before
            rates = [new[key, amount] * factor / (now - then) for key in SUMS]
            write(line % (
                time.strftime("%H:%M:%S"), *rates, percent(new, "drop")))
            then, before = now, counts
            rows += 1
            due += args.interval * (1 + (now - due) // args.interval)
    write_totals("%s, %.1f s" % (title, time.monotonic() - begin),
                 read_counts(bpf))
    if port.getsockname()[3:] != found:
        die("%s is gone or its MAC address changed; run %s again" % (
            args.interface, prog))

def main():
    if BPF is None:
        die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
            "Ubuntu), python3-bcc (Fedora), python-bcc (Arch)" % no_bcc)
    if os.geteuid() != 0:
        die("needs root: run it as root or with sudo")
    if sys.stdout is None:
        die("can't write: stdout is closed")
    try:
        index = socket.if_nametoindex(args.interface)
        # It receives nothing, and knows the interface's type and address.
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        port.bind((socket.if_indextoname(index), 0))
    except PermissionError as e:
        die(remedy(e))
    except (OSError, ValueError):
        die("no network interface %s: see ip link" % args.interface)
    kind, address = port.getsockname()[3:]
    if kind not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        die("%s has no Ethernet frames" % args.interface)
    if kind == ARPHRD_LOOPBACK and "tx" in dict(CLASSES).values():
        die("%s would loop for ever: no action can be tx there, see --other" %
            args.interface)
    if args.ebpf:
        write(program(address))
        return
    try:
        bpf = BPF(text=program(address), cflags=["-w"])
        fd = bpf.load_func("countp", BPF.XDP).fd
    except Exception as e:      # BCC raises no other class
        die("can't load the program: %s" % remedy(e))
    title = attach(fd, index)
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    write("%s: TCP %s, UDP %s, other %s" % (
        title, args.tcp, args.udp, args.other), sys.stderr)
    titles = [key.upper() + unit for key in SUMS]
    write(header % ("TIME", *titles, "DROP%"))
    trace(bpf, port, title)


amount, factor, unit = "packets", 1, "/s"
if args.bits:
    amount, factor, unit = "bytes", 8, "bit/s"
header = "%-8s %12s %12s %12s %12s %6s"
line = "%-8s %12.1f %12.1f %12.1f %12.1f %6.1f"
if args.csv:
    header = "%s,%s,%s,%s,%s,%s"
    line = "%s,%.3f,%.3f,%.3f,%.3f,%.1f"
stop_requested = False
main()
