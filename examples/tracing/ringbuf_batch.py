#!/usr/bin/python3
#
# ringbuf_batch.py  Send events without a wake-up for each, drain them on a
#                   timer, count what is lost; and see what that saves.
#                   For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: ringbuf_batch.py      as root; needs Linux 5.8, takes a few seconds
#
# A perf buffer wakes its reader for each event by default, a ring buffer for
# each when the reader has caught up, and the traced process pays for that. In
# batches, rows come a tenth of a second later, which nobody sees. But nobody
# tells the reader when to read, hence the timer; and the buffer must hold what
# comes between two looks: see the last row.
#
# The workload is a child that calls close(2) on a descriptor that is not open.
#
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import ctypes
import os
import resource
import signal
import statistics
import subprocess
import sys
import time

try:
    from bcc import BPF
except (ImportError, OSError):
    sys.exit("needs BCC's Python module: install python3-bpfcc (Debian, "
             "Ubuntu), python3-bcc (Fedora) or python-bcc (Arch)")
if os.geteuid() != 0:
    sys.exit("needs root, try: sudo " + sys.argv[0])
if BPF.ksymname(b"bpf_ringbuf_output") == -1:
    sys.exit("sees no BPF ring buffer: needs Linux 5.8 or later, and root "
             "with all of its capabilities")
if not BPF.tracepoint_exists("syscalls", "sys_enter_close"):
    sys.exit("needs tracefs, try: mount -t tracefs tracefs /sys/kernel/tracing"
             " or, for an old BCC: mount -t debugfs debugfs /sys/kernel/debug")
signal.signal(signal.SIGINT, signal.SIG_DFL)    # Ctrl-C ends it at once
trial = subprocess.run([sys.executable, "-c", "import bcc; bcc.BPF(text='')"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
if b"kernel headers" in trial.stdout:
    sys.exit("BCC needs kernel headers: install linux-headers-%s (Debian, "
             "Ubuntu), kernel-devel (Fedora) or linux-headers (Arch), or set "
             "BCC_KERNEL_SOURCE" % os.uname().release)

CALLS = 200003
NOT_OPEN = 1073741827       # no process has so many descriptors

text = """
BPF_RINGBUF_OUTPUT(events, PAGES);
BPF_ARRAY(lost, u64, 1);

TRACEPOINT_PROBE(syscalls, sys_enter_close)
{
    u64 now = bpf_ktime_get_ns();
    int zero = 0;
    u64 *count;

    /* Filtering here costs least: all other calls end here. */
    if (args->fd != NOT_OPEN)
        return 0;
    /* The flags say if this wakes the reader; with 0 the kernel chooses. */
    if (!events.ringbuf_output(&now, sizeof(now), FLAGS))
        return 0;
    /* It is full. Nobody else counts that: only perf buffers have lost_cb. */
    count = lost.lookup(&zero);
    if (count)
        __sync_fetch_and_add(count, 1);
    return 0;
}
"""


def start_workload():
    """Returns a descriptor: the child writes there how many ns a call took."""
    read, write = os.pipe()
    if os.fork() == 0:
        close, times = ctypes.CDLL(None).close, []
        for i in range(CALLS):
            if i % 500 == 0:
                times.append(time.perf_counter())
            close(NOT_OPEN)
        # The median, because other processes had the CPU now and then.
        took = statistics.median(b - a for a, b in zip(times, times[1:]))
        os.write(write, b"%.0f" % (1e9 * took / 500))
        os._exit(0)
    os.close(write)
    return read


def result(done):
    """Wait for the child. Returns the nanoseconds."""
    os.wait()
    return int(os.read(done, 20))


def show(way, ns, seen="", lost=""):
    print("%-30s %11s %9s %9s" % (way, ns, seen, lost), flush=True)


def measure(way, flags, size, read):
    """Print a row of the table: what a call costs while it is traced.

    flags   of ringbuf_output()
    size    of the buffer, in bytes; a power of two, as it must be
    read    waits, and takes what is in the buffer
    """
    b = BPF(text=text.replace("FLAGS", flags)
            .replace("PAGES", str(size // resource.getpagesize()))
            .replace("NOT_OPEN", str(NOT_OPEN)),
            cflags=["-w"])      # BCC 0.18 warns of the kernel's headers
    seen = 0

    def count_event(ctx, data, size):
        nonlocal seen
        seen += 1

    b["events"].open_ring_buffer(count_event)
    done = start_workload()
    # Until the child has ended, which result() then asks for.
    while not os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        read(b)
    b.ring_buffer_consume()     # what came after the last look
    show(way, result(done), seen, b["lost"][0].value)
    b.cleanup()     # detached, it does not slow the next one


def read_when_woken(b):
    b.ring_buffer_poll(100)     # ms, to find out that the child has ended


def read_on_timer(b):
    time.sleep(0.1)
    b.ring_buffer_consume()


print("%d calls of close(2), each way" % CALLS)
show("EVENTS", "NS PER CALL", "SEEN", "LOST")
show("not traced", result(start_workload()))
measure("a wake-up each", "BPF_RB_FORCE_WAKEUP", 16 << 20, read_when_woken)
measure("in batches", "BPF_RB_NO_WAKEUP", 16 << 20, read_on_timer)
measure("in batches, buffer too small", "BPF_RB_NO_WAKEUP", 1 << 16,
        read_on_timer)
