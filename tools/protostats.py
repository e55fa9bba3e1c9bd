#!/usr/bin/python3
#
# protostats  XDP: count packets by protocol and XDP action.
#             For Linux, uses BCC, XDP, fentry, eBPF. Embedded C.
#
# USAGE: protostats [-h] [-S | -N] [-w] [-m] [-b] [-j] [-dev]
#                   interface [interval [count]]
#
# Copyright (c) 2026 The protostats authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 23-Nov-2026   Created this.

import argparse
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from itertools import product

try:
    from bcc import BPF
    from bcc.libbcc import lib
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

CLASSES = ["TCP", "UDP", "ping", "ICMP", "other"]
# Of enum xdp_action, in the order in which they are shown.
ACTIONS = {"PASS": 2, "DROP": 1, "TX": 3, "REDIRECT": 4, "ABORTED": 0}
MODES = {"native": 4, "generic": 2}     # XDP_FLAGS_* of linux/if_link.h
BPF_XDP = 37                            # enum bpf_attach_type
# Kernel structure members that the C text reads, at offsets from BTF.
MEMBERS = ["xdp_buff.data", "xdp_buff.data_end", "xdp_buff.rxq",
           "xdp_rxq_info.dev", "net_device.ifindex", "net_device.nd_net",
           "net.ns", "ns_common.inum"]

examples = """examples:
    ./protostats eth0           # packets per second, until Ctrl-C
    ./protostats eth0 5 12      # every 5 seconds, for a minute
    ./protostats -m eth0        # protocols by action
    ./protostats -w eth0        # watch the program that is there, or end
    ./protostats -S lo          # generic mode, which every driver has
"""
parser = argparse.ArgumentParser(
    description="XDP: count packets by protocol and action",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
mode = parser.add_mutually_exclusive_group()
mode.add_argument("-S", "--skb-mode", action="store_const", dest="modes",
    const=["generic"], default=["native", "generic"],
    help="attach in generic mode only (default: native, else generic)")
mode.add_argument("-N", "--native-mode", action="store_const", dest="modes",
    const=["native"], help="attach in native mode only: in the driver")
for flags, text in (
        (("-w", "--watch-only"), "attach no XDP program, only watch one"),
        (("-m", "--table"), "show a table of protocols by actions each time"),
        (("-b", "--bits"), "show bits per second, not packets"),
        (("-j", "--csv"), "print comma-separated values; totals go to stderr"),
        (("--ebpf",), argparse.SUPPRESS),
        (("-dev",), "accepted for compatibility, as in -dev eth0")):
    parser.add_argument(*flags, action="store_true", help=text)
parser.add_argument("interface", help="network interface")
parser.add_argument("interval", type=float, nargs="?", default=1,
    help="seconds between two rows (default: 1)")
parser.add_argument("count", type=int, nargs="?", default=10**9,
    help="end after this many rows")

bpf_text = """
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>

/* A tracing program can copy from a packet, but not read it in place. */
#ifdef WATCH
#define LOAD(type, at) ({ type value; \\
    bpf_probe_read_kernel(&value, sizeof(value), at); value; })
#else
#define LOAD(type, at) (*(type *)(at))
#endif

enum { TCP, UDP, PING, ICMP, OTHER, CLASSES, ACTIONS = XDP_REDIRECT + 1 };
struct count { u64 packets, bytes; };
BPF_PERCPU_ARRAY(counts, struct count, ACTIONS * CLASSES);

static __always_inline void count_packet(u32 action, u32 class, u64 bytes)
{
    u32 cell = action * CLASSES + class;
    struct count *count = counts.lookup(&cell);

    if (count) {
        count->packets++;
        count->bytes += bytes;
    }
}

/* A fragment counts by its protocol; only the first one has an ICMP type. */
static __always_inline int payload_class(void *at, void *end, u8 protocol,
                                         bool fragment, bool later, bool v6)
{
    if (at + (fragment ? 0 : protocol == IPPROTO_TCP ? 20 : 8) > end)
        return OTHER;
    if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
        return protocol == IPPROTO_TCP ? TCP : UDP;
    if (protocol != (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return OTHER;
    if (later || at + 1 > end)
        return ICMP;
    u8 type = LOAD(u8, at);     /* echo request and reply are 8, 0; 128, 129 */
    return type == (v6 ? 128 : 8) || type == (v6 ? 129 : 0) ? PING : ICMP;
}

static __always_inline int ipv4_class(void *at, void *end)
{
    struct iphdr ip;

    if (at + sizeof(ip) > end)
        return OTHER;
    ip = LOAD(struct iphdr, at);
    if (ip.version != 4 || ip.ihl < 5)
        return OTHER;
    return payload_class(at + 4 * ip.ihl, end, ip.protocol,
                         ip.frag_off & htons(0x3fff),
                         ip.frag_off & htons(0x1fff), false);
}

static __always_inline int ipv6_class(void *at, void *end)
{
    struct { u8 next, len; __be16 fragment; } header;
    bool fragment = false, later = false;
    u32 offset = 40;            /* of struct ipv6hdr */
    u8 kind;

    if (at + offset > end || LOAD(u8, at) >> 4 != 6)
        return OTHER;
    kind = LOAD(u8, at + 6);
    for (int i = 0; i < 8 && !later; i++) {
        if (at + offset + 8 > end)
            break;
        header = LOAD(typeof(header), at + offset);
        if (kind == IPPROTO_FRAGMENT) {
            fragment |= header.fragment & htons(0xfff9);
            later = header.fragment & htons(0xfff8);
            offset += 8;
        } else if (kind == IPPROTO_AH) {
            offset += 4 * (header.len + 2);
        } else if (kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING ||
                   kind == IPPROTO_DSTOPTS) {
            offset += 8 * (header.len + 1);
        } else {
            break;
        }
        kind = header.next;
    }
    return payload_class(at + offset, end, kind, fragment, later, true);
}

static __always_inline int frame_class(void *at, void *end)
{
    __be16 type;

    at += ETH_HLEN;
    for (int tags = 0; ; tags++, at += 4) {
        if (at > end)
            return OTHER;
        type = LOAD(__be16, at - 2);
        if (tags == 2 || (type != htons(ETH_P_8021Q) &&
                          type != htons(ETH_P_8021AD)))
            break;
    }
    if (type == htons(ETH_P_IP))
        return ipv4_class(at, end);
    if (type == htons(ETH_P_IPV6))
        return ipv6_class(at, end);
    return OTHER;
}

#ifndef WATCH
int protostats(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

    count_packet(XDP_PASS, frame_class(data, end), end - data);
    return XDP_PASS;
}
#else
#define MEMBER(type, pointer, offset) (*(type *)((pointer) + (offset)))

/* A packet between the watched program's entry and exit, both on one CPU. */
struct entered { void *xdp; u32 class, bytes; };
BPF_PERCPU_ARRAY(entered, struct entered, 1);

int watch_entry(u64 *ctx)
{
    void *xdp = (void *)ctx[0];
    void *data = MEMBER(void *, xdp, xdp_buff_data);
    void *end = MEMBER(void *, xdp, xdp_buff_data_end);
    void *dev = MEMBER(void *, MEMBER(void *, xdp, xdp_buff_rxq),
                       xdp_rxq_info_dev);
    void *net = MEMBER(void *, dev, net_device_nd_net);
    int zero = 0;
    struct entered *packet = entered.lookup(&zero);

    if (!packet)
        return 0;
    packet->xdp = 0;
    /* The program can be on other interfaces, too. */
    if (MEMBER(u32, dev, net_device_ifindex) != IFINDEX ||
        MEMBER(u32, net, net_ns + ns_common_inum) != NETNS)
        return 0;
    packet->class = frame_class(data, end);
    packet->bytes = end - data;
    packet->xdp = xdp;
    return 0;
}

int watch_exit(u64 *ctx)
{
    u64 action = ctx[1];
    int zero = 0;
    struct entered *packet = entered.lookup(&zero);

    if (!packet || packet->xdp != (void *)ctx[0])
        return 0;
    packet->xdp = 0;
    asm volatile("" : "+r"(action));    /* no narrower load of ctx[1] */
    count_packet((u32)action < ACTIONS ? action : XDP_ABORTED, packet->class,
                 packet->bytes);
    return 0;
}
#endif
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

def find_program():
    """Return the ID and the mode of the interface's program, or (0, "")."""
    number = ctypes.c_uint32()
    for mode, flag in MODES.items():
        if query(index, flag, ctypes.byref(number)) == 0 and number.value:
            return number.value, mode
    return 0, ""

def program_info(fd):
    """Return a program's name, its function's BTF ID, and skipped runs."""
    info, function = ctypes.create_string_buffer(256), (ctypes.c_uint32 * 2)()
    # struct bpf_prog_info has func_info_rec_size, func_info and nr_func_info
    # at 132, name at 64, recursion_misses (Linux 5.12) at 208.
    struct.pack_into("=IQI", info, 132, 8, ctypes.addressof(function), 1)
    lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(ctypes.c_uint32(256)))
    name, misses = struct.unpack_from("16s128xQ", info, 64)
    return name.rstrip(b"\0").decode(), function[1], misses

def extension_of(program, function):
    """Return the ID of the program that replaces another's function, or 0."""
    number = ctypes.c_uint32()
    while lib.bpf_link_get_next_id(number, ctypes.byref(number)) == 0:
        info = (ctypes.c_uint32 * 32)()     # zeroed: the kernel reads it, too
        fd = lib.bpf_link_get_fd_by_id(number)
        lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(
            ctypes.c_uint32(ctypes.sizeof(info))))
        if fd >= 0:             # else the link is gone
            os.close(fd)
        # struct bpf_link_info: type, id, prog_id, padding, attach_type,
        # target_obj_id, target_btf_id. BPF_LINK_TYPE_TRACING is 2.
        if [info[0], *info[4:7]] == [2, 0, program, function]:
            return info[2]
    return 0

def definitions():
    """Return C definitions for watching, with offsets by the kernel's BTF."""
    load = getattr(lib, "btf__load_vmlinux_btf", lambda: None)  # libbpf 0.5
    load.restype = ctypes.c_void_p
    lib.btf__type_by_id.restype = ctypes.POINTER(ctypes.c_uint32)
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    btf = os.path.exists("/sys/kernel/btf/vmlinux") and load() or -1
    if btf % 2**64 >= 2**64 - 4096:     # NULL, or an error as a pointer
        die("can't watch: requires CONFIG_DEBUG_INFO_BTF, and a libbpf that "
            "can read it")
    btf = ctypes.c_void_p(btf)
    text = "#define WATCH\n#define IFINDEX %d\n#define NETNS %d\n" % (
        index, os.stat("/proc/self/ns/net").st_ino)
    for name in MEMBERS:
        structure, member = name.encode().split(b".")
        words = lib.btf__type_by_id(btf, lib.btf__find_by_name_kind(
            btf, structure, 4))     # BTF_KIND_STRUCT
        # struct btf_type: name_off, info, size; struct btf_member, for each:
        # name_off, type, offset in bits
        for i in range(3, 3 + 3 * (words[1] & 0xffff), 3):
            if lib.btf__name_by_offset(btf, words[i]) == member:
                text += "#define %s %d\n" % (
                    name.replace(".", "_"), (words[i + 2] & 0xffffff) // 8)
    return text

def watch(program, mode):
    """Trace the interface's program. Return a title, and the tracers."""
    target = lib.bpf_prog_get_fd_by_id(program)
    name, function, _ = program_info(target)
    extension = extension_of(program, function)
    if extension:       # libxdp does so with one that is alone
        return watch(extension, mode)
    title = "%s, watching %s (ID %d, %s)" % (
        args.interface, name, program, mode)
    if not function:
        die("%s: can't be traced, it has no BTF or was unloaded" % title)
    tracers = []
    for name, kind in (b"watch_entry", 24), (b"watch_exit", 25):
        code = bpf.dump_func(name)
        # struct bpf_prog_load_opts: sz, attempts, expected_attach_type
        # (fentry or fexit), four unused, attach_btf_id, attach_prog_fd
        options = struct.pack("N8I", struct.calcsize("N8I"), 0, kind, 0, 0, 0,
                              0, function, target)
        fd = lib.bpf_prog_load(26, name, b"GPL", code, ctypes.c_size_t(
            len(code) // 8), options)       # BPF_PROG_TYPE_TRACING
        if fd < 0 or lib.bpf_raw_tracepoint_open(None, fd) < 0:
            die("%s: the kernel refuses to trace it (%s)" % (
                title, os.strerror(ctypes.get_errno())))
        tracers.append(fd)
    return title, tracers

def attach(program):
    """Attach by a bpf_link until the process ends. Return a title."""
    title = args.interface
    for mode in args.modes:
        # struct bpf_link_create_opts: sz, flags
        options = struct.pack("NI0N", struct.calcsize("NI0N"), MODES[mode])
        if lib.bpf_link_create(program, index, BPF_XDP, options) >= 0:
            return "%s, %s mode" % (title, mode)
        title += ", no %s mode (%s)" % (mode, os.strerror(ctypes.get_errno()))
    die("can't attach to %s; requires Linux 5.9. If it has an XDP program (ip "
        "link show dev %s), libbpf 0.7 can watch it" % (title, args.interface))

def read_counts():
    """Return packets and bytes so far by (class, action), "" for all."""
    packets, size = Counter(), Counter()
    for action, number in ACTIONS.items():
        for i, name in enumerate(CLASSES):
            for cpu in bpf["counts"][number * len(CLASSES) + i]:
                for key in product((name, ""), (action, "")):
                    packets[key] += cpu.packets
                    size[key] += cpu.bytes
    return packets, size

def rate(value):
    """Return a number per second in at most 7 characters, or exact as CSV."""
    return ("%.3f" % value if args.csv else "%.2g" % value if value < 9.95 else
            "%.0f" % value if value < 9999999.5 else
            "%.1fM" % (value / 1e6) if value < 9999.95e6 else
            "%.1fG" % (value / 1e9))

def table(now, rates):
    """Return classes by actions as text, with bars of up to 19 letters."""
    line = "%-8s" + " %8s" * len(ACTIONS) + "%s\n"
    text = line % (now, *ACTIONS, "")
    most = max(rates[name, ""] for name in CLASSES) or 1
    for name in CLASSES:
        bar, so_far, cells = "  ", 0, []
        for action in ACTIONS:
            value = rates[name, action]
            so_far += value
            bar = bar.ljust(max(2 + round(19 * so_far / most),
                                len(bar) + bool(value)), action[0])
            cells.append(rate(value) if value else ".")
        text += line % (name, *cells, bar.rstrip())
    return text + "\n"

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
kind, _ = hardware() or die(
    "no network interface %s: see ip link" % args.interface)
if kind not in (1, 772):        # ARPHRD_ETHER, ARPHRD_LOOPBACK
    die("%s has no Ethernet frames" % args.interface)
query = getattr(lib, "bpf_xdp_query_id", lambda *_: -1)     # libbpf 0.7
watched, mode = find_program()
if args.watch_only and not watched and not args.ebpf:
    die("%s has no XDP program to watch, or libbpf is older than 0.7" %
        args.interface)
if watched or args.watch_only:
    bpf_text = definitions() + bpf_text
if args.ebpf:
    print(bpf_text)
    sys.exit()

saved, (log, pipe) = (os.dup(1), os.dup(2)), os.pipe2(os.O_NONBLOCK)
for fd in 1, 2:
    os.dup2(pipe, fd)       # captures BCC's messages, which are few with -w
try:
    bpf, error = BPF(text=bpf_text, cflags=["-w"]), None
    program = watched or bpf.load_func("protostats", BPF.XDP).fd
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

title, tracers = watch(watched, mode) if watched else (attach(program), [])
write(2, title + "\n")
columns = {action: ("", action) for action in ("PASS", "DROP", "TX")}
columns.update((name.upper(), (name, "")) for name in CLASSES)
if args.table:
    columns = {"%s-%s" % key: key for key in product(CLASSES, ACTIONS)}
line = "%s" + ",%s" * (1 + len(columns)) + "\n" if args.csv else (
    "%-8s" + " %7s" * len(columns) + " %6s\n")
if args.csv or not args.table:
    write(1, line % ("TIME", *columns, "DROP%"))
begin = then = time.monotonic()
due, before, problem = begin + args.interval, read_counts(), None
stdout = select.poll()
stdout.register(1, 0)
stopped = []
for sig in signal.SIGINT, signal.SIGTERM:
    signal.signal(sig, stop)
while args.count and not stopped and not problem:
    now = time.monotonic()
    if stdout.poll(max(0, min(300 if watched else 100, 1000 * (due - now)))):
        sys.exit()      # the reader left
    if not hardware():
        problem = "%s is gone" % args.interface
    # A signal can interrupt the query: that is no answer.
    elif watched and find_program()[0] != watched and not stopped:
        problem = "the program was replaced or removed; run %s again" % (
            parser.prog)
    elif now >= due:
        counts = read_counts()
        packets, size = (new - old for new, old in zip(counts, before))
        factor, amounts = (8, size) if args.bits else (1, packets)
        rates = Counter({key: factor * amounts[key] / (now - then)
                         for key in amounts})
        cells = [time.strftime("%H:%M:%S"), *map(rate, (
            rates[key] for key in columns.values()))]
        write(1, table(cells[0], rates) if args.table and not args.csv else
              line % (*cells, "%.1f" % (
                  100 * packets["", "DROP"] / max(1, packets["", ""]))))
        then, due, before = now, now + args.interval, counts
        args.count -= 1

packets, size = read_counts()
line = "%-5s %14s" + " %11s" * len(ACTIONS) + "\n"
text = "\n" * (not args.table) + "%s, %.1f s:\n" % (
    title, time.monotonic() - begin) + line % ("CLASS", "BYTES", *ACTIONS)
for name in [*CLASSES, ""]:
    text += line % (name or "all", size[name, ""], *(
        packets[name, action] for action in ACTIONS))
write(2 if args.csv else 1, text)
missed = max((program_info(fd)[2] for fd in tracers), default=0)
if missed:
    write(2, "%s: the kernel skipped at least %d packets\n" % (
        args.interface, missed))
if problem:
    die(problem)
