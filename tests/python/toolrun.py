"""Runs a tool or an example as a user does, and reads what it prints."""

import contextlib
import ctypes
import os
import platform
import queue
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PYTHON = "/usr/bin/python3"     # the one that the distribution's BCC is for

sys.path.insert(0, os.path.join(TOP, "tests", "workload"))

# Also in the background, where a shell has them ignored: much ends by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Under software emulation a compile can take minutes.
START_SECONDS = 300
SETTLE_SECONDS = 0.3            # after the last event, before the end


def tool_path(name):
    """Of a tool by its name, or of any other script by its path from TOP."""
    return os.path.join(TOP, name if "/" in name else "tools/%s.py" % name)


def readable_copy(case, path):
    """A copy of a file and its neighbours where every user can read it, also
    if this tree is in a folder that is root's alone. Returns the file's path;
    the copy is removed after the test case."""
    folder = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, folder)
    os.chmod(folder, 0o755)
    copy = os.path.join(folder, "copy")
    shutil.copytree(os.path.dirname(path), copy)
    return os.path.join(copy, os.path.basename(path))


def run(name, *args, **popen):
    """Run a tool that is expected to end by itself, for at most START_SECONDS.
    Returns its CompletedProcess, with text in stdout and stderr."""
    return subprocess.run(
        [PYTHON, tool_path(name)] + [str(a) for a in args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True,
        timeout=START_SECONDS, **popen)


class Tool:
    """A tool that traces until it is told to stop.

        with Tool("killsnoop", "-p", 181) as tool:
            ...                 # it has printed its header: it traces
        tool.rows               # what it printed after that, a str a line

    Leaving the block waits until events under way are printed, ends the tool
    by SIGINT and checks that it ended well. Raises AssertionError otherwise.
    """

    def __init__(self, name, *args, prefix=(), **popen):
        self.command = list(prefix) + [PYTHON, tool_path(name)]
        self.command += [str(a) for a in args]
        self.popen = popen
        self.lines = queue.Queue()
        self.rows = []

    def start(self):
        """Start and wait for the header. Sets process, header."""
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True, **self.popen)
        self.errors = []
        self.readers = [
            threading.Thread(target=self._read_rows, daemon=True),
            threading.Thread(target=lambda: self.errors.extend(
                self.process.stderr), daemon=True)]
        for reader in self.readers:
            reader.start()
        self.header = self._line(START_SECONDS)
        if self.header is None:
            self.process.wait(START_SECONDS)
            for reader in self.readers:
                reader.join()
            raise AssertionError("no header: " + self.stderr)
        return self

    def _read_rows(self):
        for line in self.process.stdout:
            self.lines.put((time.monotonic(), line.rstrip("\n")))
        self.lines.put((time.monotonic(), None))

    def _line(self, seconds):
        """The next line, None at the end. Raises queue.Empty in time."""
        self.line_time, line = self.lines.get(timeout=seconds)
        return line

    def next_row(self, seconds=START_SECONDS):
        """Wait for the next row and return it. Raises queue.Empty."""
        row = self._line(seconds)
        if row is None:
            self.lines.put((self.line_time, None))      # for finish()
            raise AssertionError("ended: " + self.stderr)
        self.rows.append(row)
        return row

    def finish(self):
        """Wait for the tool's end. Reads all rows; returns its status."""
        status = self.process.wait(START_SECONDS)
        for reader in self.readers:
            reader.join()
        while True:
            row = self._line(1)
            if row is None:
                return status
            self.rows.append(row)

    def send(self, sig):
        """Signal the tool, by a process of its own: this one may be traced."""
        subprocess.check_call(["sh", "-c", "kill -%d %d" % (
            sig, self.process.pid)])

    def stop(self, sig=signal.SIGINT):
        """Let events under way be printed, send sig, and finish()."""
        time.sleep(SETTLE_SECONDS)
        status = self.process.poll()
        assert status is None, "ended by itself, status %d: %s" % (
            status, self.stderr)
        self.send(sig)
        return self.finish()

    @property
    def stderr(self):
        return "".join(self.errors)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind:
            self.process.kill()
            self.finish()
            return
        status = self.stop()
        assert status == 0, "status %d: %s" % (status, self.stderr)

    def cells(self, row):
        """A row as a dict by the header's column titles; a column ends where
        white space begins, so no name in it may have any."""
        return dict(zip(self.header.split(), row.split()))

    def table(self):
        """All rows as such dicts."""
        return [self.cells(row) for row in self.rows]


def cpu_seconds(pid):
    """What a process has used, to 0.01 s: utime and stime of proc(5)."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def bpf(command, attr):
    """bpf(2), with its attributes in a ctypes buffer of 128 bytes, laid out as
    union bpf_attr of linux/bpf.h. Returns its result; raises OSError."""
    call = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    result = ctypes.CDLL(None, use_errno=True).syscall(
        call, command, attr, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def bpf_programs():
    """The IDs of all BPF programs in the kernel."""
    programs, attr = set(), ctypes.create_string_buffer(128)
    try:
        while True:
            bpf(11, attr)       # BPF_PROG_GET_NEXT_ID: start_id, next_id
            last = struct.unpack_from("=I", attr, 4)[0]
            programs.add(last)
            struct.pack_into("=II", attr, 0, last, 0)
    except FileNotFoundError:
        return programs


def pin_map(path, key, value_size):
    """Make a BPF hash map with one entry, a key of 8 bytes and a value of 1,
    and pin it on a BPF file system. Raises OSError."""
    with contextlib.suppress(ValueError):   # it counts before Linux 5.11 only
        resource.setrlimit(resource.RLIMIT_MEMLOCK,
                           [resource.RLIM_INFINITY] * 2)
    attr = ctypes.create_string_buffer(128)
    # BPF_MAP_CREATE: map_type (hash), key_size, value_size, max_entries
    struct.pack_into("=IIII", attr, 0, 1, 8, value_size, 1024)
    fd = bpf(0, attr)
    pair = ctypes.create_string_buffer(struct.pack("=QQ", key, 1))
    attr = ctypes.create_string_buffer(128)
    # BPF_MAP_UPDATE_ELEM: map_fd, key, value, flags
    struct.pack_into("=I4xQQQ", attr, 0, fd, ctypes.addressof(pair),
                     ctypes.addressof(pair) + 8, 0)
    bpf(2, attr)
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = ctypes.create_string_buffer(128)
    # BPF_OBJ_PIN: pathname, bpf_fd
    struct.pack_into("=QI", attr, 0, ctypes.addressof(name), fd)
    bpf(6, attr)
