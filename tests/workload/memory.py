#!/usr/bin/python3
"""A known number of madvise(2) and process_madvise(2) calls.

USAGE: memory.py                    the 23 calls that examples/demo shows
       memory.py ADVICE COUNT       COUNT times madvise() of no bytes
       memory.py numbered COUNT     COUNT times act(), numbered from 0
       memory.py populate COUNT     COUNT times 16 MiB that are then in use

ADVICE is a name of ADVICES, or a number.
"""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import time

from signals import NUMBERS, call_ia32, pidfd_open, syscall

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

PAGE = mmap.PAGESIZE
MAP_32BIT = 0x40    # below 2 GiB; x86's own (asm/mman.h)

# As those in signals.py.
NUMBERS.update({"madvise": (28, 233), "process_madvise": (440, 440)})

# From Linux 7.0's include/uapi/asm-generic/mman-common.h.
ADVICES = {
    "NORMAL": 0, "RANDOM": 1, "SEQUENTIAL": 2, "WILLNEED": 3, "DONTNEED": 4,
    "FREE": 8, "REMOVE": 9, "DONTFORK": 10, "DOFORK": 11, "MERGEABLE": 12,
    "UNMERGEABLE": 13, "HUGEPAGE": 14, "NOHUGEPAGE": 15, "DONTDUMP": 16,
    "DODUMP": 17, "WIPEONFORK": 18, "KEEPONFORK": 19, "COLD": 20,
    "PAGEOUT": 21, "POPULATE_READ": 22, "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24, "COLLAPSE": 25, "HWPOISON": 100,
    "SOFT_OFFLINE": 101, "GUARD_INSTALL": 102, "GUARD_REMOVE": 103,
}
NOT_ON_REAL_PAGES = {"HWPOISON", "SOFT_OFFLINE"}    # they do what they say


class Range(ctypes.Structure):
    """struct iovec (linux/uio.h)."""
    _fields_ = [("base", ctypes.c_uint64), ("len", ctypes.c_uint64)]


def madvise(address, length, advice):
    """Past the C library. Returns 0 or the error as a negative number."""
    return syscall("madvise", ctypes.c_uint64(address),
                   ctypes.c_uint64(length), advice)


def process_madvise(pidfd, ranges, advice):
    """For ranges, (address, length) each. Returns a number of bytes or the
    error, negative."""
    vector = (Range * len(ranges))(*ranges)
    return syscall("process_madvise", pidfd, vector, len(ranges), advice, 0)


def process_madvise_from_file(pidfd, ranges, advice):
    """The same with the array of ranges in memory that was never looked at,
    a new mapping of a file."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes((Range * len(ranges))(*ranges)))
        file.flush()
        vector = map_memory(PAGE, fd=file.fileno())
    return syscall("process_madvise", pidfd, ctypes.c_uint64(vector),
                   len(ranges), advice, 0)


def ia32_madvise(address, length, advice):
    """madvise(2), number 219, by x86's 32-bit entry from this 64-bit process.
    Returns 0 or the error, negative."""
    return call_ia32(219, address, length, advice)


def ia32_process_madvise(pidfd, ranges, advice):
    """process_madvise(2), number 440, by x86's 32-bit entry, which takes the
    ranges as pairs of 32-bit words (linux/compat.h: compat_iovec)."""
    vector = (ctypes.c_uint32 * (2 * len(ranges)))(
        *[word for one in ranges for word in one])
    low = map_memory(PAGE, MAP_32BIT)
    ctypes.memmove(low, vector, ctypes.sizeof(vector))
    return call_ia32(440, pidfd, low, len(ranges), advice, 0)


def act(number=0):
    """Advise on no bytes, at an address that bears a number, to 2^30."""
    madvise(number * PAGE, 0, ADVICES["RANDOM"])


def number(row):
    """Return the number of an act() from madvsnoop's row."""
    return int(row["ADDR"], 16) // PAGE


def map_memory(length, flags=0, fd=None):
    """The address of a new private mapping of length bytes, which lives as
    long as this process: of the file fd, read-only, or of nothing."""
    anonymous = mmap.MAP_ANONYMOUS if fd is None else 0
    writable = mmap.PROT_WRITE if fd is None else 0
    address = libc.mmap(None, ctypes.c_size_t(length),
                        mmap.PROT_READ | writable,
                        mmap.MAP_PRIVATE | anonymous | flags,
                        -1 if fd is None else fd, ctypes.c_long(0))
    assert address != ctypes.c_void_p(-1).value, os.strerror(
        ctypes.get_errno())
    return address


def known_advices():
    """Those of ADVICES that the running kernel knows: it refuses an unknown
    one before it looks at the length."""
    return {name: number for name, number in ADVICES.items()
            if madvise(0, 0, number) == 0}


def has_process_madvise():
    """Is it in this kernel, 5.10 and later?"""
    return process_madvise(-1, [(0, 0)], ADVICES["COLD"]) != -38   # ENOSYS


def scene():
    """23 calls: memory is read ahead, given back, and cooled down by
    this process, some of it for a child, and some of it not at all."""
    length = 512 * PAGE
    memory = map_memory(length)
    with open(sys.executable, "rb") as program:
        text = map_memory(length, fd=program.fileno())
    madvise(memory, length, ADVICES["HUGEPAGE"])
    madvise(memory, length, ADVICES["POPULATE_WRITE"])
    for i in range(7):
        madvise(memory + i * 16 * PAGE, 16 * PAGE, ADVICES["DONTNEED"])
    for i in range(5):
        madvise(memory + i * 32 * PAGE, 32 * PAGE, ADVICES["FREE"])
    madvise(text, length, ADVICES["SEQUENTIAL"])
    madvise(text, length, ADVICES["WILLNEED"])
    madvise(memory, length, ADVICES["COLD"])
    madvise(memory + 1, PAGE, ADVICES["DONTNEED"])
    madvise(0, PAGE, ADVICES["DONTNEED"])
    madvise(memory, PAGE, 99)
    child = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.1)     # it replaces its memory
        heap = mapping_of(child.pid, "[heap]")
        fd = pidfd_open(child.pid)
        process_madvise(fd, [heap], ADVICES["COLD"])
        process_madvise(fd, [heap], ADVICES["PAGEOUT"])
        process_madvise(-1, [heap], ADVICES["COLD"])
        time.sleep(0.2)     # for whoever looks at the descriptor
    finally:
        child.kill()
        child.wait()


def mapping_of(pid, name):
    """The (address, length) of the mapping that /proc calls so."""
    with open("/proc/%d/maps" % pid) as f:
        for line in f:
            if line.endswith(name + "\n"):
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                return start, end - start
    raise LookupError(name)


def populate(count):
    """Time after time 16 MiB new memory that the kernel fills at once."""
    length = 16 << 20
    for _ in range(count):
        with mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE) as memory:
            byte = ctypes.c_char.from_buffer(memory)
            madvise(ctypes.addressof(byte), length, ADVICES["POPULATE_WRITE"])
            del byte    # or it can't be unmapped


def main():
    if len(sys.argv) == 1:
        return scene()
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    what, count = sys.argv[1], int(sys.argv[2])
    if what == "populate":
        return populate(count)
    if what == "numbered":
        for i in range(count):
            act(i)
        return
    advice = ADVICES[what] if what in ADVICES else int(what)
    for _ in range(count):
        madvise(0, 0, advice)


if __name__ == "__main__":
    main()
