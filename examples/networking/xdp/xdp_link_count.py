#!/usr/bin/python3
#
# xdp_link_count.py  Count packets in XDP, attached by a bpf_link: the program
#                    is detached when this process ends, even by SIGKILL.
#                    For Linux, uses BCC, XDP, eBPF. Embedded C.
#
# USAGE: xdp_link_count.py INTERFACE      as root; requires Linux 5.9
#
# A program that BPF.attach_xdp() attaches belongs to the interface: after a
# crash or SIGKILL it stays there. A bpf_link is a file descriptor: the kernel
# closes it when the process ends, and then detaches the program. BCC's Python
# API has no function for it, but BCC's library contains libbpf's.
#
# Try: kill -9 its PID, then: ip link show dev INTERFACE
#
# Copyright (c) 2026 The countp authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import ctypes
import os
import signal
import socket
import sys
import time

from bcc import BPF
from bcc.libbcc import lib

if len(sys.argv) != 2:
    sys.exit("usage: xdp_link_count.py INTERFACE")
interface = sys.argv[1]
BPF_XDP = 37        # enum bpf_attach_type of linux/bpf.h

bpf_text = """
#include <uapi/linux/bpf.h>

/* A counter for each CPU: CPUs need no atomic add, and share no cache line. */
BPF_PERCPU_ARRAY(packets, u64, 1);

int count_packets(struct xdp_md *ctx)
{
    int zero = 0;
    u64 *count = packets.lookup(&zero);

    /* Index 0 always exists, but the verifier requires the check. */
    if (count)
        (*count)++;
    return XDP_PASS;    /* the kernel handles the packet as usual */
}
"""

b = BPF(text=bpf_text)
# The verifier checks the program here. It does not run before it is attached.
program = b.load_func("count_packets", BPF.XDP)
# No options: the kernel uses native mode if the driver has it, else generic.
if lib.bpf_link_create(program.fd, socket.if_nametoindex(interface), BPF_XDP,
                       None) < 0:
    # EBUSY: the interface has an XDP program. EINVAL: Linux before 5.9.
    sys.exit("can't attach to %s: %s" % (
        interface, os.strerror(ctypes.get_errno())))

signal.signal(signal.SIGINT, signal.SIG_DFL)    # there is nothing to clean up
print("Counting packets on %s. Hit Ctrl-C to end." % interface)
print("%-9s %12s %14s" % ("TIME", "PACKETS/s", "TOTAL"), flush=True)
before = 0
while True:
    time.sleep(1)
    total = b["packets"].sum(0).value       # of all CPUs
    print("%-9s %12d %14d" % (time.strftime("%H:%M:%S"), total - before,
                              total), flush=True)
    before = total
