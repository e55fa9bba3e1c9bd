#!/usr/bin/python3
#
# protostats  XDP: count packets by protocol and XDP action, or by source.
#             For Linux, uses BCC, XDP, fentry, eBPF. Embedded C.
#
# USAGE: protostats [-h] [-S | -N | -w] [-m | -t FIELD] [-b] [-j] [-dev]
#                   interface [interval [count]]
#
# Copyright (c) 2026 The protostats authors.
# Licensed under the Apache License, Version 2.0 (the "License")
#
# 23-Nov-2026   Created this.

import argparse
import collections
import ctypes
import errno
import os
import re
import select
import signal
import socket
import sys
import time
from ctypes import Structure, byref, c_size_t, c_uint32, c_uint64, sizeof

signal.signal(signal.SIGINT, signal.SIG_DFL)    # no traceback while starting
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    from bcc import BPF
    from bcc.libbcc import lib
    from bcc.utils import get_possible_cpus
    supported = getattr(lib, "libbpf_probe_bpf_prog_type", lambda *_: 1)
except (ImportError, OSError, AttributeError) as e:
    BPF, no_bcc = None, e

prog = os.path.basename(sys.argv[0])
if prog == "-":
    prog = "protostats"         # read from standard input

CLASSES = ["TCP", "UDP", "ping", "ICMP", "other"]
ACTIONS = ["ABORTED", "DROP", "PASS", "TX", "REDIRECT"]    # enum xdp_action
SHOWN_ACTIONS = ["PASS", "DROP", "TX", "REDIRECT", "ABORTED"]
TOP_ENTRIES = 16384     # values that -t counts in an interval
# Members of kernel structures that the C text reads.
MEMBERS = ["xdp_buff.data", "xdp_buff.data_end", "xdp_buff.rxq",
           "xdp_rxq_info.dev", "net_device.ifindex", "net_device.nd_net",
           "net.ns", "ns_common.inum"]
MODES = {"native": 4, "generic": 2}             # XDP_FLAGS_*, linux/if_link.h
BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_XDP = 24, 25, 37         # linux/bpf.h
BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_TRACING, BPF_LINK_TYPE_TRACING = 6, 26, 2
BTF_KIND_STRUCT = 4                             # linux/btf.h
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772          # linux/if_arp.h

def warn(message):
    print("%s: %s" % (prog, message), file=sys.stderr, flush=True)

def last_error():
    return os.strerror(ctypes.get_errno())

def die(message, status=1):
    warn(message)
    os._exit(status)    # sys.exit would write to a full disk again


examples = """examples:
    ./protostats eth0           # packets per second, until Ctrl-C
    ./protostats -m eth0        # protocols by action
    ./protostats -t src eth0    # the ten most frequent sources
    ./protostats -t dport eth0  # the ten most frequent destination ports
    ./protostats -w eth0        # watch the program that is there, or end
"""
parser = argparse.ArgumentParser(
    prog=prog, description="XDP: count packets by protocol and action",
    formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples)
by_mode = parser.add_mutually_exclusive_group()
by_mode.add_argument("-S", "--skb-mode", action="store_const", dest="modes",
    const=["generic"], default=["native", "generic"],
    help="generic mode only (default: native, else generic)")
by_mode.add_argument("-N", "--native-mode", action="store_const",
    dest="modes", const=["native"], help="native mode only: in the driver")
by_mode.add_argument("-w", "--watch-only", action="store_true",
    help="attach no XDP program, only watch one")
by_view = parser.add_mutually_exclusive_group()
by_view.add_argument("-m", "--table", action="store_true",
    help="show a table of protocols by actions each time")
by_view.add_argument("-t", "--top", choices=["src", "sport", "dport"],
    metavar="FIELD", help="show the most frequent src, sport or dport")
parser.add_argument("-b", "--bits", action="store_true",
    help="show bits per second, not packets")
parser.add_argument("-j", "--csv", action="store_true",
    help="print comma-separated values; totals go to stderr")
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
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>

/* A tracing program can copy from a packet, but not read it in place. */
#ifdef IFINDEX          /* of the interface whose program is watched */
#define LOAD(type, at) ({ type value; \\
    bpf_probe_read_kernel(&value, sizeof(value), at); value; })
#else
#define LOAD(type, at) (*(type *)(at))
#endif

enum { TCP, UDP, PING, ICMP, OTHER, CLASSES, ACTIONS = XDP_REDIRECT + 1 };
struct count { u64 packets, bytes; };
BPF_PERCPU_ARRAY(counts, struct count, ACTIONS * CLASSES);

enum { NO_FIELD, SRC, SPORT, DPORT };   /* values of TOP, the field of -t */
struct key {
    u32 value[4];       /* an address or a port */
    u16 size;           /* its size in bytes, 0 if the packet has none */
    u8 protocol, action;
};
BPF_TABLE("percpu_hash", struct key, u64, top, TOP ? TOP_ENTRIES : 1);
BPF_PERCPU_ARRAY(no_room, u64, 1);

static __always_inline void count_packet(struct key *key, u64 bytes)
{
    u32 cell = key->action * CLASSES + key->protocol, zero = 0;
    u64 amount = BITS ? bytes : 1, *sum;
    struct count *count = counts.lookup(&cell);

    if (count) {
        count->packets++;
        count->bytes += bytes;
    }
    if (!TOP)
        return;
    sum = top.lookup(key);
    if (!sum && top.update(key, &amount))
        sum = no_room.lookup(&zero);
    if (sum)
        *sum += amount;
}

/* A fragment counts by its protocol; only the first one has what follows. */
static __always_inline int payload_class(void *at, void *end, struct key *key,
                                         u8 protocol, bool fragment,
                                         bool later, bool v6)
{
    if (at + (fragment ? 0 : protocol == IPPROTO_TCP ? 20 : 8) > end)
        return OTHER;
    if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
        if (TOP >= SPORT && !later && at + 4 <= end) {
            key->size = 2;
            key->value[0] = ntohs(LOAD(__be16, at + 2 * (TOP - SPORT)));
        }
        return protocol == IPPROTO_TCP ? TCP : UDP;
    }
    if (protocol != (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return OTHER;
    if (later || at + 1 > end)
        return ICMP;
    u8 type = LOAD(u8, at);     /* echo request and reply are 8, 0; 128, 129 */
    return type == (v6 ? 128 : 8) || type == (v6 ? 129 : 0) ? PING : ICMP;
}

static __always_inline int ipv6_class(void *at, void *end, struct key *key)
{
    struct { u8 next, len; __be16 fragment; } header;
    bool fragment = false, later = false;
    u32 offset = 40;            /* of struct ipv6hdr; its source is at 8 */
    u8 kind;

    if (at + offset > end || LOAD(u8, at) >> 4 != 6)
        return OTHER;
    if (TOP == SRC) {
        key->size = 16;
        *(struct in6_addr *)key->value = LOAD(struct in6_addr, at + 8);
    }
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
    return payload_class(at + offset, end, key, kind, fragment, later, true);
}

static __always_inline int frame_class(void *at, void *end, struct key *key)
{
    struct iphdr ip;
    __be16 type = 0;

    at += ETH_HLEN;
    for (int tags = 0; tags < 3; tags++, at += 4) {
        if (at > end)
            return OTHER;
        type = LOAD(__be16, at - 2);
        if (type != htons(ETH_P_8021Q) && type != htons(ETH_P_8021AD))
            break;
    }
    if (type == htons(ETH_P_IPV6))
        return ipv6_class(at, end, key);
    if (type != htons(ETH_P_IP) || at + sizeof(ip) > end)
        return OTHER;
    ip = LOAD(struct iphdr, at);
    if (ip.version != 4 || ip.ihl < 5)
        return OTHER;
    if (TOP == SRC) {
        key->size = 4;
        key->value[0] = ip.saddr;
    }
    return payload_class(at + 4 * ip.ihl, end, key, ip.protocol,
                         ip.frag_off & htons(0x3fff),
                         ip.frag_off & htons(0x1fff), false);
}

#ifndef IFINDEX
int protostats(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct key key = {.action = XDP_PASS};

    key.protocol = frame_class(data, end, &key);
    count_packet(&key, end - data);
    return XDP_PASS;
}
#else
#define MEMBER(type, pointer, offset) (*(type *)((pointer) + (offset)))

/* A packet between the watched program's entry and exit, both on one CPU. */
struct entered { void *xdp; u64 bytes; struct key key; };
BPF_PERCPU_ARRAY(entered, struct entered, 1);

int watch_entry(u64 *ctx)
{
    void *xdp = (void *)ctx[0];
    void *data = MEMBER(void *, xdp, xdp_buff_data);
    void *end = MEMBER(void *, xdp, xdp_buff_data_end);
    void *rxq = MEMBER(void *, xdp, xdp_buff_rxq);
    void *dev = MEMBER(void *, rxq, xdp_rxq_info_dev);
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
    *packet = (struct entered){.xdp = xdp, .bytes = end - data};
    packet->key.protocol = frame_class(data, end, &packet->key);
    return 0;
}

int watch_exit(u64 *ctx)
{
    u32 action = *(volatile u64 *)&ctx[1];      /* no narrower load */
    int zero = 0;
    struct entered *packet = entered.lookup(&zero);

    if (!packet || packet->xdp != (void *)ctx[0])
        return 0;
    packet->xdp = 0;
    packet->key.action = action < ACTIONS ? action : XDP_ABORTED;
    count_packet(&packet->key, packet->bytes);
    return 0;
}
#endif
"""

def u32s(names):
    return [(name, c_uint32) for name in names.split()]

class LinkCreateOpts(Structure):        # struct bpf_link_create_opts
    _fields_ = [("sz", c_size_t)] + u32s("flags")
class ProgLoadOpts(Structure):          # struct bpf_prog_load_opts
    _fields_ = [("sz", c_size_t)] + u32s(
        "attempts expected_attach_type prog_btf_fd prog_flags prog_ifindex "
        "kern_version attach_btf_id attach_prog_fd")
class FuncInfo(Structure):              # struct bpf_func_info
    _fields_ = u32s("insn_off type_id")
class ProgInfo(Structure):              # struct bpf_prog_info
    _fields_ = [("type_to_map_ids", c_uint64 * 8),
                ("name", ctypes.c_char * 16),
                ("ifindex_to_jited_func_lens", c_uint64 * 6),
                *u32s("btf_id func_info_rec_size"), ("func_info", c_uint64),
                *u32s("nr_func_info nr_line_info")]
class LinkInfo(Structure):              # struct bpf_link_info, with .tracing
    _fields_ = u32s("type id prog_id padding attach_type target_obj_id "
                    "target_btf_id")
class BtfType(Structure):               # struct btf_type
    _fields_ = u32s("name_off info size")
class BtfMember(Structure):             # struct btf_member
    _fields_ = u32s("name_off type offset")

def member_offset(btf, name):
    """Return the offset in bytes of a "structure.member" of the kernel."""
    structure, wanted = name.encode().split(b".")
    number = lib.btf__find_by_name_kind(btf, structure, BTF_KIND_STRUCT)
    address = lib.btf__type_by_id(btf, number)
    if address:
        members = BtfMember * (BtfType.from_address(address).info & 0xffff)
        for member in members.from_address(address + sizeof(BtfType)):
            if lib.btf__name_by_offset(btf, member.name_off) == wanted:
                return (member.offset & 0xffffff) // 8
    die("can't watch: the kernel's BTF has no " + name)

def program(index, watched):
    """Return the C text, for watching or for a program of its own."""
    macros = {"TOP": (args.top or "no_field").upper(), "BITS": int(args.bits),
              "TOP_ENTRIES": TOP_ENTRIES}
    if watched:
        lib.libbpf_find_kernel_btf.restype = ctypes.c_void_p
        lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        btf = ctypes.c_void_p(lib.libbpf_find_kernel_btf())
        if not btf or lib.libbpf_get_error(btf):
            die("can't watch: requires CONFIG_DEBUG_INFO_BTF")
        macros["IFINDEX"] = index
        macros["NETNS"] = os.stat("/proc/self/ns/net").st_ino
        for name in MEMBERS:
            macros[name.replace(".", "_")] = member_offset(btf, name)
    text = ["#define %s %s\n" % macro for macro in macros.items()]
    return "".join(text) + bpf_text

def remedy(error):
    """Return what to do about an error, or the error."""
    headers = "/lib/modules/%s/build" % os.uname().release
    headers = os.environ.get("BCC_KERNEL_SOURCE", headers)
    denied = re.search("not permitted|super-user", str(error))
    if denied or not supported(BPF_PROG_TYPE_XDP, 0):
        return ("requires CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW; to"
                " watch a program CAP_SYS_ADMIN; in a container: --privileged")
    if not os.path.exists(headers + "/include"):
        return ("no kernel headers in %s: install linux-headers-%s (Debian, "
                "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or "
                "set BCC_KERNEL_SOURCE" % (headers, os.uname().release))
    return error

def find_program(index):
    """Return the ID of the interface's XDP program, 0 if it has none, None if
    the kernel does not say."""
    number = c_uint32()
    if hasattr(lib, "bpf_xdp_query_id"):        # libbpf 0.7
        if lib.bpf_xdp_query_id(index, 0, byref(number)):
            return None
    return number.value

def find_watched(index):
    """Return the ID of the program to watch, 0 for none, or exit."""
    watched = find_program(index)
    if watched is None:
        die("can't query the XDP program of %s: %s" % (
            args.interface, last_error()))
    if watched and len(args.modes) == 1:
        die("%s has an XDP program, which is watched: -S and -N are for "
            "protostats' own" % args.interface, 2)
    if args.watch_only and not watched:
        die(args.interface + " has no XDP program to watch, or libbpf is older"
            " than 0.7")
    return watched

def program_info(fd):
    """Return the ProgInfo of a program and the FuncInfo of its function."""
    function = FuncInfo()
    info, size = ProgInfo(), c_uint32(sizeof(ProgInfo))
    info.func_info_rec_size = sizeof(function)
    info.func_info = ctypes.addressof(function)
    info.nr_func_info = 1
    lib.bpf_obj_get_info_by_fd(fd, byref(info), byref(size))
    return info, function

def extension_of(number, function):
    """Return the ID of the program that replaces another's function, or 0."""
    link = c_uint32()
    while lib.bpf_link_get_next_id(link, byref(link)) == 0:
        info, size = LinkInfo(), c_uint32(sizeof(LinkInfo))
        fd = lib.bpf_link_get_fd_by_id(link)
        if fd < 0:
            continue            # it is gone
        lib.bpf_obj_get_info_by_fd(fd, byref(info), byref(size))
        os.close(fd)
        if info.type != BPF_LINK_TYPE_TRACING or info.attach_type:
            continue            # 0: it replaces, else it traces
        if info.target_obj_id == number and info.target_btf_id == function:
            return info.prog_id
    return 0

def watch(bpf, number):
    """Trace the interface's program. Return a title."""
    target = lib.bpf_prog_get_fd_by_id(number)
    if target < 0:
        error = last_error()
        die("can't watch %s's program: %s" % (args.interface, remedy(error)))
    info, function = program_info(target)
    extension = extension_of(number, function.type_id)
    if extension:       # libxdp does so with one that is alone
        return watch(bpf, extension)
    title = "%s, watching %s (ID %d)" % (
        args.interface, info.name.decode(errors="replace"), number)
    if not function.type_id:
        die("%s: can't be traced, it has no BTF" % title)
    for name, kind in ((b"watch_entry", BPF_TRACE_FENTRY),
                       (b"watch_exit", BPF_TRACE_FEXIT)):
        code = bpf.dump_func(name)
        options = ProgLoadOpts(
            sz=sizeof(ProgLoadOpts), expected_attach_type=kind,
            attach_btf_id=function.type_id, attach_prog_fd=target)
        fd = lib.bpf_prog_load(BPF_PROG_TYPE_TRACING, name, b"GPL", code,
            c_size_t(len(code) // 8), byref(options))
        if fd < 0 or lib.bpf_raw_tracepoint_open(None, fd) < 0:
            die("%s: the kernel refuses to trace it (%s)" % (
                title, last_error()))
        tracers.append(fd)
    return title

def attach(fd, index):
    """Attach by a bpf_link, which ends with the process. Return a title."""
    title = args.interface
    for mode in args.modes:
        options = LinkCreateOpts(sizeof(LinkCreateOpts), MODES[mode])
        if lib.bpf_link_create(fd, index, BPF_XDP, byref(options)) >= 0:
            return "%s, %s mode" % (title, mode)
        title += ", no %s mode (%s)" % (mode, last_error())
    die("can't attach to %s; requires Linux 5.9. If it has an XDP program (ip "
        "link show dev %s), libbpf 0.7 can watch it" % (title, args.interface))

def read_counts(bpf):
    """Return packets and bytes so far by class, by action and by both."""
    counts = collections.Counter()
    for number, action in enumerate(ACTIONS):
        for i, name in enumerate(CLASSES):
            for cpu in bpf["counts"][number * len(CLASSES) + i]:
                for key in (name, action, (name, action), "all",
                            ("all", action)):
                    counts["packets", key] += cpu.packets
                    counts["bytes", key] += cpu.bytes
    counts["no_room"] = bpf["no_room"].sum(0).value
    return counts

def read_top(bpf):
    """Return [(number, key)] that -t counted, most first, and remove them."""
    cpus, top = len(get_possible_cpus()), bpf["top"]
    keys = (top.Key * TOP_ENTRIES)()
    values = (c_uint64 * (cpus * TOP_ENTRIES))()
    number, batch = c_uint32(TOP_ENTRIES), c_uint32()
    failed = lib.bpf_map_lookup_and_delete_batch(
        top.map_fd, None, byref(batch), keys, values, byref(number), None)
    if failed and ctypes.get_errno() != errno.ENOENT:   # the table's end
        die("can't read what -t counts: " + last_error())
    sums = []
    for i in range(number.value):
        of_cpus = values[cpus * i:cpus * (i + 1)]
        sums.append((sum(of_cpus), keys[i]))
    return sorted(sums, key=lambda pair: -pair[0])

def value_text(key):
    """Return an address or a port as text."""
    if key.size < 4:
        return str(key.value[0]) if key.size else "-"
    family = socket.AF_INET if key.size == 4 else socket.AF_INET6
    return socket.inet_ntop(family, bytes(key.value)[:key.size])

def rate(value):
    """Return a number per second in at most 7 characters, or exact as CSV."""
    if args.csv:
        return "%.3f" % value
    if value < 9.95:
        return "%.2g" % value
    if value < 9999999.5:
        return "%.0f" % value
    if value < 9999.95e6:
        return "%.1fM" % (value / 1e6)
    return "%.1fG" % (value / 1e9)

def count_rows(new, scale):
    """Return rows of cells: what was counted as rates."""
    def cells(keys):
        return [rate(scale * new[amount, key]) for key in keys]
    if args.table:
        return [[name] + cells([(name, action) for action in SHOWN_ACTIONS])
                for name in CLASSES]
    whole = max(1, new["packets", "all"])
    dropped = 100 * new["packets", "DROP"] / whole
    return [cells(columns) + ["%.1f" % dropped]]

def top_rows(sums, rest, scale):
    """Return rows of cells: the ten most frequent values, and all others."""
    rows = []
    for number, key in sums[:10]:
        rows.append([value_text(key), CLASSES[key.protocol],
                     ACTIONS[key.action], rate(scale * number)])
    rest += sum(number for number, _ in sums[10:])
    if rest:
        rows.append(["others", "-", "-", rate(scale * rest)])
    return rows

def write(text, file=sys.stdout):
    try:
        print(text, file=file, flush=True)
    except OSError as e:
        die("can't write: %s" % e.strerror)

def write_totals(title, counts):
    form = "%-5s %14s %11s %11s %11s %11s %10s"
    file = sys.stderr if args.csv else sys.stdout
    write("\n" + title, file)
    write(form % ("CLASS", "BYTES", *SHOWN_ACTIONS), file)
    for name in CLASSES + ["all"]:
        packets = [counts["packets", (name, action)]
                   for action in SHOWN_ACTIONS]
        write(form % (name, counts["bytes", name], *packets), file)

def report_skipped():
    """Report how often the kernel skipped a tracer (Linux 5.12)."""
    infos = [open("/proc/self/fdinfo/%d" % fd).read() for fd in tracers]
    misses = re.findall(r"misses:\s*(\d+)", "".join(infos))
    skipped = max(map(int, misses), default=0)
    if skipped:
        warn("the kernel skipped at least %d packets" % skipped)

def stop(signum, _):
    global stop_requested
    stop_requested = True
    signal.signal(signum, signal.SIG_DFL)       # a second one kills the tool

def show(bpf, new, seconds):
    """Write the rates of what is new."""
    scale = factor / seconds
    if args.top:
        rows = top_rows(read_top(bpf), new["no_room"], scale)
    else:
        rows = count_rows(new, scale)
    now = time.strftime("%H:%M:%S")
    if block:
        write("%s\n%s" % (now, line % tuple(titles)))
    for cells in rows:
        if not block:
            cells = [now] + cells
        write(line % tuple(cells))
    if block:
        write("")

def trace(bpf, index, port, watched):
    """Show rates until the end. Return why counting can't go on, or None."""
    stdout = select.poll()
    stdout.register(1, 0)
    then = now = time.monotonic()
    due, before, rows = now + args.interval, read_counts(bpf), 0
    pause = 300 if watched else 100     # ms; a query can take 10
    while rows < args.count and not stop_requested:
        if stdout.poll(min(pause, 1000 * (due - now))):
            sys.exit()          # the reader left
        if not port.getsockname()[3]:
            return "%s is gone" % args.interface
        if watched and find_program(index) not in (watched, None):
            return "the program was replaced or removed; run %s again" % prog
        now = time.monotonic()
        if now >= due:
            after = read_counts(bpf)
            show(bpf, after - before, now - then)
            then, before = now, after
            due += args.interval * (1 + (now - due) // args.interval)
            rows += 1

def open_port():
    """Return the interface's index and a socket that knows its type."""
    try:
        index = socket.if_nametoindex(args.interface)
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)     # silent
        port.bind((socket.if_indextoname(index), 0))
    except PermissionError as e:
        die(remedy(e))
    except (OSError, ValueError):
        die("no network interface %s: see ip link" % args.interface)
    if port.getsockname()[3] not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        die("%s has no Ethernet frames" % args.interface)
    return index, port

def main():
    if BPF is None:
        die("needs BCC's Python module (%s): install python3-bpfcc (Debian, "
            "Ubuntu), python3-bcc (Fedora), python-bcc (Arch)" % no_bcc)
    if os.geteuid() != 0:
        die("needs root: run it as root or with sudo")
    if sys.stdout is None:
        die("can't write: stdout is closed")
    index, port = open_port()
    if args.ebpf:
        write(program(index, args.watch_only))
        return
    watched = find_watched(index)
    text = program(index, watched)
    try:
        bpf = BPF(text=text, cflags=["-w"])
        fd = None if watched else bpf.load_func("protostats", BPF.XDP).fd
    except Exception as e:      # BCC raises no other class
        die("can't load the program: %s" % remedy(e))
    title = watch(bpf, watched) if watched else attach(fd, index)
    begin = time.monotonic()
    for signum in signal.SIGINT, signal.SIGTERM:
        signal.signal(signum, stop)
    write(title, sys.stderr)
    if not block:
        write(line % tuple(titles))
    problem = trace(bpf, index, port, watched)
    title += ", %.1f s:" % (time.monotonic() - begin)
    write_totals(title, read_counts(bpf))
    report_skipped()
    if problem:
        die(problem)


block = not args.csv and (args.top or args.table)    # titles each time
amount, factor, unit = "packets", 1, ""
if args.bits:
    amount, factor, unit = "bytes", 8, "bit/s"
suffix = unit if args.csv else ""
columns = [*SHOWN_ACTIONS, *CLASSES]
if not args.csv:
    del columns[-2:]            # a line of text has no room for them
titles = [name.upper() + suffix for name in columns] + ["DROP%"]
line = "%-8s %7s %7s %7s %8s %7s %7s %7s %7s %5s"
if args.table:
    titles = ["CLASS"] + [name + suffix for name in SHOWN_ACTIONS]
    line = "%-5s %9s %9s %9s %9s %9s"
if args.top:
    titles = [args.top.upper(), "CLASS", "ACTION", "RATE" + unit]
    line = "%-39s %-5s %-8s %9s"
if not block:
    titles.insert(0, "TIME")
if args.csv:
    line = "%s" + ",%s" * (len(titles) - 1)
elif unit and not args.top:
    titles[0] = unit
tracers, stop_requested = [], False
main()
