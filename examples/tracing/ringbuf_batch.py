#!/usr/bin/python3
#
# ringbuf_batch.py  Read ring buffer events in batches, count lost events, and
#                   compare the cost with a wake-up per event.
#                   For Linux, uses BCC, eBPF. Embedded C.
#
# USAGE: ringbuf_batch.py      as root; requires Linux 5.8
#
# A wake-up schedules the reader, and the traced process pays for it. In
# batches, a timer replaces the wake-ups: events arrive up to 100 ms later, and
# the buffer must hold what is sent in that time. The last buffer is too small.
#
# Copyright (c) 2026 The killsnoop authors.
# Licensed under the Apache License, Version 2.0 (the "License")

import ctypes
import os
import select
import statistics
import time

from bcc import BPF

CALLS, CHUNKS = 1009, 199       # calls in a chunk; chunks
BAD_FD = 2**30 + 3              # not open in any process

bpf_text = """
BPF_RINGBUF_OUTPUT(events, PAGES);
BPF_ARRAY(lost, u64, 1);

TRACEPOINT_PROBE(syscalls, sys_enter_close)
{
    u64 ts = bpf_ktime_get_ns();

    /* Filter here: an event that Python drops costs as much as any other. */
    if (args->fd != BAD_FD)
        return 0;
    /* With 0 in place of WAKEUP, the kernel wakes the reader if it is idle. */
    if (events.ringbuf_output(&ts, sizeof(ts), WAKEUP))
        /* It is full. Unlike a perf buffer, it does not count lost events. */
        lost.increment(0);
    return 0;
}
"""


def start_workload():
    """Fork a child that calls close(2). Return a pipe for ns per call."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        close, times = ctypes.CDLL(None).close, [time.perf_counter()]
        for _ in range(CHUNKS):
            for _ in range(CALLS):
                close(BAD_FD)
            times.append(time.perf_counter())
        # The median omits chunks during which other processes had the CPU.
        chunk = statistics.median(b - a for a, b in zip(times, times[1:]))
        os.write(writer, b"%d" % (1e9 * chunk / CALLS))
        os._exit(0)
    os.close(writer)
    return reader


def measure(title, wakeup, size):
    """Run the workload traced, with a ring buffer of size bytes."""
    b = BPF(text=bpf_text, cflags=[
        "-DWAKEUP=" + wakeup, "-DBAD_FD=%d" % BAD_FD,
        "-DPAGES=%d" % (size // os.sysconf("SC_PAGE_SIZE"))])
    seen = []
    b["events"].open_ring_buffer(lambda ctx, data, size: seen.append(size))
    batches = wakeup == "BPF_RB_NO_WAKEUP"
    result = start_workload()
    # select() returns the pipe when the child is done. It is also the timer.
    while not select.select([result], [], [], 0.1 if batches else 0)[0]:
        if batches:
            b.ring_buffer_consume()     # does not wait
        else:
            b.ring_buffer_poll(100)     # waits up to 100 ms for a wake-up
    b.ring_buffer_consume()             # events since the last read
    print("%-30s %11d %9d %9d" % (title, int(os.read(result, 20)), len(seen),
                                  b["lost"][0].value), flush=True)
    b.cleanup()     # detach: do not slow the next workload


print("%d calls of close(2) for each row" % (CALLS * CHUNKS))
print("%-30s %11s %9s %9s" % ("READ", "NS PER CALL", "SEEN", "LOST"))
print("%-30s %11d" % ("untraced", int(os.read(start_workload(), 20))))
measure("on a wake-up per event", "BPF_RB_FORCE_WAKEUP", 16 << 20)
measure("in batches", "BPF_RB_NO_WAKEUP", 16 << 20)
measure("in batches, 64 KB buffer", "BPF_RB_NO_WAKEUP", 64 << 10)
