#!/usr/bin/python3
"""A known number of madvise(2) and process_madvise(2) calls.

USAGE: memory.py                    the 23 calls that examples/demo shows
       memory.py numbered COUNT     COUNT times act(), numbered from 0
"""

import ctypes
import mmap
import sys
import tempfile
import time

from signals import libc, pidfd_open, start_target, syscall

libc.mmap.restype = ctypes.c_void_p
PAGE = mmap.PAGESIZE
MAP_POPULATE = 0x8000       # asm-generic/mman.h

# From Linux 7.0's include/uapi/asm-generic/mman-common.h.
ADVICES = dict(
    NORMAL=0, RANDOM=1, SEQUENTIAL=2, WILLNEED=3, DONTNEED=4, FREE=8, REMOVE=9,
    DONTFORK=10, DOFORK=11, MERGEABLE=12, UNMERGEABLE=13, HUGEPAGE=14,
    NOHUGEPAGE=15, DONTDUMP=16, DODUMP=17, WIPEONFORK=18, KEEPONFORK=19,
    COLD=20, PAGEOUT=21, POPULATE_READ=22, POPULATE_WRITE=23,
    DONTNEED_LOCKED=24, COLLAPSE=25, HWPOISON=100, SOFT_OFFLINE=101,
    GUARD_INSTALL=102, GUARD_REMOVE=103)
NOT_ON_REAL_PAGES = {"HWPOISON", "SOFT_OFFLINE"}    # they do what they say


def madvise(address, length, advice):
    """Call madvise(2) past the C library, with the name or the number of an
    advice. Return 0 or -errno."""
    return syscall("madvise", ctypes.c_uint64(address),
                   ctypes.c_uint64(length), int(ADVICES.get(advice, advice)))


def process_madvise(pidfd, ranges, advice, from_file=False):
    """Advise on (address, length) ranges. Return a number of bytes or -errno.
    Their array can be in a file's mapping that is not in memory yet."""
    vector = (ctypes.c_uint64 * 2 * len(ranges))(*ranges)
    if from_file:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(vector))
            file.flush()
            vector = ctypes.c_uint64(map_memory(PAGE, file.fileno()))
    return syscall("process_madvise", pidfd, vector, len(ranges),
                   ADVICES[advice], 0)


def act(number=0):
    """Advise on no bytes, at an address that has a number, to 2^30."""
    madvise(number * PAGE, 0, "RANDOM")


def number(row):
    """Return the number of an act() from madvsnoop's row."""
    return int(row["ADDR"], 16) // PAGE


def map_memory(length, fd=-1, populate=False, shared=False,
               protection=mmap.PROT_READ | mmap.PROT_WRITE):
    """Return the address of a new mapping: anonymous, or of a file."""
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    flags |= (fd < 0) * mmap.MAP_ANONYMOUS | populate * MAP_POPULATE
    address = libc.mmap(None, ctypes.c_size_t(length), protection, flags, fd,
                        ctypes.c_long(0))
    assert address != ctypes.c_void_p(-1).value
    return address


def scene():
    """Do 23 calls: memory is read ahead, given back, and cooled down by this
    process, some of it for a child, and some of it not at all."""
    length = 512 * PAGE
    memory = map_memory(length)
    with open(sys.executable, "rb") as program:
        text = map_memory(length, program.fileno())
    for advice in "HUGEPAGE", "POPULATE_WRITE":
        madvise(memory, length, advice)
    for i in range(7):
        madvise(memory + i * 16 * PAGE, 16 * PAGE, "DONTNEED")
    for i in range(5):
        madvise(memory + i * 32 * PAGE, 32 * PAGE, "FREE")
    for advice in "SEQUENTIAL", "WILLNEED":
        madvise(text, length, advice)
    madvise(memory, length, "COLD")
    madvise(memory + 1, PAGE, "DONTNEED")
    madvise(0, PAGE, "DONTNEED")
    madvise(memory, PAGE, 99)
    with start_target() as child:
        heap, fd = mapping_of(child.pid, "[heap]"), pidfd_open(child.pid)
        for target, advice in (fd, "COLD"), (fd, "PAGEOUT"), (-1, "COLD"):
            process_madvise(target, [heap], advice)
        time.sleep(0.2)     # a tracer looks the descriptor up
        child.kill()


def mapping_of(pid, name):
    """Return the (address, length) of a mapping in /proc/PID/maps."""
    with open("/proc/%d/maps" % pid) as f:
        for line in f:
            if line.endswith(name + "\n"):
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                return start, end - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["numbered"]:
        for i in range(int(sys.argv[2])):
            act(i)
    else:
        scene()
