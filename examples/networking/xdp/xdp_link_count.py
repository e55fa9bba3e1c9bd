#!/usr/bin/python3
#
# xdp_link_count.py  Count packets in XDP, with a program that is attached by a
#                    bpf_link: when this process ends, it is gone.
#                    For Linux, uses BCC, XDP, eBPF. Embedded C.
#
# USAGE: xdp_link_count.py INTERFACE      as root; needs Linux 5.9
#
# BPF.attach_xdp() asks by netlink, and the program then belongs to the
# interface: after a SIGKILL, or a crash, it stays there, at work. A link is a
# file descriptor. The kernel closes it with the process, however that ends,
# and detaches the program when its link has no descriptor left. BCC's Python
# has no function for that, but the libbpf in BCC's library has.
#
# Try: kill -9 this, then: ip link show dev INTERFACE
#
# Copyright (c) 2026 The countp authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

if len(sys.argv) != 2:
    print("usage: %s INTERFACE" % sys.argv[0], file=sys.stderr)
    sys.exit(2)
try:
    from bcc import BPF
    from bcc.libbcc import lib
except (ImportError, OSError):
    sys.exit("needs BCC's Python module: install python3-bpfcc (Debian, "
             "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)")
if os.geteuid() != 0:
    sys.exit("needs root, try: sudo %s %s" % tuple(sys.argv))
interface = sys.argv[1]
try:
    index = socket.if_nametoindex(interface)
except OSError:
    sys.exit("there is no network interface %s: see ip link" % interface)
signal.signal(signal.SIGINT, signal.SIG_DFL)    # nothing to undo at the end
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
trial = subprocess.run([sys.executable, "-c", "import bcc; bcc.BPF(text='')"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
if b"kernel headers" in trial.stdout:
    sys.exit("BCC needs kernel headers: install linux-headers-%s (Debian, "
             "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or set "
             "BCC_KERNEL_SOURCE" % os.uname().release)

text = """
#include <uapi/linux/bpf.h>

/* Each CPU has a number of its own: no two write to the same one. */
BPF_PERCPU_ARRAY(packets, u64, 1);

int count_packets(struct xdp_md *ctx)
{
    int zero = 0;
    u64 *count = packets.lookup(&zero);

    if (count)      /* it is always there, but the verifier wants to know */
        (*count)++;
    return XDP_PASS;
}
"""

BPF_XDP = 37        # of enum bpf_attach_type in linux/bpf.h

try:
    b = BPF(text=text, cflags=["-w"])   # BCC 0.18 warns of kernel headers
    # Loading makes the verifier look at it; the program is not in use yet.
    program = b.load_func("count_packets", BPF.XDP)
except Exception as e:
    sys.exit("the kernel takes no BPF program: %s (has root all of its "
             "capabilities?)" % e)
# Without options: in the driver if that can do it, else in generic mode.
if lib.bpf_link_create(program.fd, index, BPF_XDP, None) < 0:
    # EBUSY: there is another program. EINVAL: a kernel before 5.9.
    sys.exit("%s takes no XDP program by a link (Linux 5.9): %s" % (
        interface, os.strerror(ctypes.get_errno())))

print("Counting packets that %s receives. Hit Ctrl-C to end." % interface)
print("%-9s %12s %14s" % ("TIME", "PACKETS/s", "TOTAL"), flush=True)
counts = b["packets"]
then, before = time.monotonic(), 0
while True:
    time.sleep(1)
    now, total = time.monotonic(), counts.sum(0).value      # over all CPUs
    print("%-9s %12.0f %14d" % (time.strftime("%H:%M:%S"), (
        total - before) / (now - then), total), flush=True)
    then, before = now, total
