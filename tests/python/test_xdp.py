"""countp and protostats count, act, attach, end and refuse as they claim."""

import collections
import concurrent.futures
import ctypes
import itertools
import os
import re
import signal
import struct
import subprocess
import time

from bcc.libbcc import lib
from bcc.utils import get_possible_cpus
import pytest

from common import (COUNT, PYTHON, bpf_programs, fdinfo, hide, run, tool_path,
                    wait_until)
from frames import KNOWN, corpus
from reader import ACTIONS, OPTIONS, class_of, classify, field_of, sent_back
from test_common import check_refusal
from veth import (ATTACHED, Port, Wire, inside, linked, netlinked,
                  pass_program, run_program)

OPTION = {"native": "-N", "generic": "-S"}
each_tool = pytest.mark.parametrize("tool", ACTIONS)
each_mode = pytest.mark.parametrize("tool, mode", [
    (tool, mode) for mode in OPTION for tool in ACTIONS])
can_query = hasattr(lib, "bpf_xdp_query_id")        # libbpf 0.7
BPF_PROG_TYPE_TRACING = 26
can_watch = can_query and lib.libbpf_probe_bpf_prog_type(
    BPF_PROG_TYPE_TRACING, None)
TCP, UDP, DNS, NTP = (KNOWN[kind][0] for kind in ("TCP", "UDP", "DNS", "NTP"))


def table_at_end(tool):
    """Return {class: {column: number}} of the table at the end."""
    lines = tool.lines() + tool.stderr.splitlines()     # there with -j
    start = max(i for i, line in enumerate(lines) if line[:6] == "CLASS ")
    titles, *rows = map(str.split, lines[start:])
    return {row[0]: dict(zip(titles[1:], map(float, row[1:])))
            for row in rows if len(row) == len(titles)}


def totals(tool):
    """Return {class or "total": (packets, bytes)} of the table at the end."""
    return {name.replace("all", "total"): (
        row.get("PACKETS", sum(row.values()) - row["BYTES"]), row["BYTES"])
        for name, row in table_at_end(tool).items()}


def counted(tool):
    """Return {(class, action): packets} at protostats' end, without zeros."""
    return {(name, action): number
            for name, row in table_at_end(tool).items() if name != "all"
            for action, number in row.items() if number and action != "BYTES"}


def wait_for_rows(tool, number=1):
    """Wait for as many more rows."""
    number += len(tool.rows)
    wait_until(lambda: len(tool.rows) >= number)


def check_totals(tool, frames):
    """Check packets and bytes of each class in the table at the end."""
    sizes, found = collections.defaultdict(list), totals(tool)
    for frame in frames:
        sizes[classify(tool.name, frame)].append(len(frame))
    assert {name: found[name] for name in ACTIONS[tool.name]} == {
        name: (len(group), sum(group)) for name, group in sizes.items()}


def check_parser(tool, port, actions, frames):
    """Run a port's program on frames while a tool runs. Check what it returns
    and leaves of each, and the tool's counts."""
    verdicts = {"drop": 1, "pass": 2, "tx": 3}      # enum xdp_action
    with tool, inside(port.namespace):      # frames come in at lo there
        program = lib.bpf_prog_get_fd_by_id(*port.xdp())
        for frame in frames:
            action = actions[classify(tool.name, frame)]
            after = sent_back(frame) if action == "tx" else frame
            assert run_program(program, frame) == (
                verdicts[action], after), frame.hex()
        os.close(program)
    check_totals(tool, frames)


@pytest.mark.parametrize("tool, policy, count, changed", [
    ("protostats", "", 200000, {}), ("countp", "", 40000, {}),
    ("countp", "--tcp tx --udp pass --other drop --all", 40000, {
        "TCP": "tx", "UDP": "pass", "other": "drop", "ARP/ND": "drop"}),
    ("countp", "-a --other=pass --tcp=drop --udp=tx", 40000, {
        "TCP": "drop", "UDP": "tx", "other": "pass"})])
def test_parser(tool, policy, count, changed, network):
    """Run the XDP program on many valid and broken frames, by each policy."""
    actions = dict(ACTIONS[tool], **changed)
    running = network.near.tool(tool, *OPTIONS[tool], *policy.split())
    check_parser(running, network.near, actions, corpus(count, policy))
    assert running.stderr == "near0, native mode%s\n" % (
        ": TCP %(TCP)s, UDP %(UDP)s, other %(other)s" % actions
        if tool == "countp" else "")


def untagged(frame):
    """Return a frame as a packet socket has it: without its first VLAN tag."""
    tagged = frame[12:14] in (b"\x81\0", b"\x88\xa8")
    return frame[:12] + frame[12 + 4 * tagged:]


@pytest.mark.short
@each_mode
def test_counts(tool, mode, network):
    """Known frames of each kind: counted, and passed, dropped or sent back."""
    frames = collections.defaultdict(list)      # by action
    for kind, group in KNOWN.items():
        name = class_of(tool, kind)
        assert {classify(tool, frame) for frame in group} == {name}
        frames[ACTIONS[tool][name]] += group * COUNT
    sent = sum(frames.values(), [])
    with linked(pass_program(), network.far), Wire(network.far) as far, \
            Wire(network.near) as near:
        with network.near.tool(tool, OPTION[mode], *OPTIONS[tool]) as running:
            assert list(network.near.xdp().values()) == [ATTACHED[mode]]
            far.send(*sent)
        assert near.seen() == list(map(untagged, frames["pass"]))
        assert far.seen() == [untagged(sent_back(frame))
                              for frame in frames["tx"]]
    check_totals(running, sent)
    assert network.near.xdp() == {}


@each_mode
def test_rates(tool, mode, network):
    """From all CPUs at once; in native mode packets, in generic mode bits. Of
    4 packets 3 are UDP."""
    cpus, bits = os.sched_getaffinity(0), mode == "generic"

    def send(cpu):
        os.sched_setaffinity(0, [cpu])      # of this thread
        with Wire(network.far) as far:
            far.send(*[UDP, UDP, UDP, TCP] * 5003)
    with network.near.tool(tool, OPTION[mode], "-jb" if bits else "-j",
                           "2") as running:
        with concurrent.futures.ThreadPoolExecutor(len(cpus)) as threads:
            list(threads.map(send, cpus))
        wait_for_rows(running, 2)
    number = 3 * 5003 * len(cpus)
    assert totals(running)["UDP"] == (number, number * len(UDP))
    column = {"countp": ("DROP/s", "DROPbit/s"),
              "protostats": ("UDP", "UDPbit/s")}[tool][bits]
    rows = running.table()
    rates = [float(row[column]) for row in rows]
    assert min(rates) >= 0
    # A row can be late: then a rate is lower, and the next one is higher.
    share = 2 * sum(rates) / (number * (8 * len(UDP) if bits else 1))
    assert 0.5 < share < 2
    percent = 75 if tool == "countp" else 0
    assert rows[rates.index(max(rates))]["DROP%"] == "%.1f" % percent
    if tool == "countp":
        assert table_at_end(running)["drop"] == {
            "PACKETS": number, "BYTES": number * len(UDP), "%": percent}


@each_tool
def test_signals(tool, network):
    """nohup(1), Ctrl-Z and fg, SIGTERM."""
    with Wire(network.far) as far:
        running = network.near.tool(tool, "0.3", prefix=["nohup"]).start()
        running.send(signal.SIGHUP)
        wait_for_rows(running)
        running.send(signal.SIGSTOP)
        rows = len(running.rows)
        far.send(*[TCP] * COUNT)
        time.sleep(3)
        running.send(signal.SIGCONT)
        wait_for_rows(running, 2)
        assert running.stop(signal.SIGTERM) == 0
    assert running.rows.index("") - rows < 9    # none for while it was stopped
    assert totals(running)["TCP"][0] == COUNT
    # Over more than 2 s, not over the interval.
    rates = [float(row.get("TCP") or row["PASS/s"])
             for row in running.table()[:running.rows.index("")]]
    assert 0 < max(rates) < COUNT / 2 + 1


@pytest.mark.short
@each_mode
def test_sigkill(tool, mode, network):
    running = network.near.tool(tool, OPTION[mode]).start()
    programs = set(network.near.xdp())
    assert len(programs) == 1 and programs <= bpf_programs()
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not programs & bpf_programs())
    assert network.near.xdp() == {}


@each_tool
def test_killed_while_it_starts(tool, network):
    """By SIGKILL, a little later each time, until it is attached."""
    near, programs, seconds = network.near, set(), 0
    while not programs:
        process = near.popen(PYTHON, tool_path(tool), near.name,
                             stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        programs.update(near.xdp())
        process.kill()
        process.wait()
        seconds = 0.03 + 1.2 * seconds
    assert seconds > 0.15
    wait_until(lambda: not programs & bpf_programs())
    assert not near.xdp()


@each_tool
@pytest.mark.parametrize("mode, attached, options", [
    ("native", linked, []), ("native", netlinked, ["-N"]),
    ("generic", linked, ["-N"]), ("generic", netlinked, ["-S"])])
def test_busy(tool, mode, attached, options, network):
    """Another's program is there, and stays."""
    message, status = "it has no BTF", 1
    if tool == "countp":
        message = "without an XDP program: see ip link show dev near0\n"
    elif not can_query:
        message = "libbpf 0.7 can watch it\n"
    elif options:
        message, status = "near0 has an XDP program, which is watched: -S ", 2
    with attached(pass_program(), network.near, mode):
        before = network.near.xdp()
        assert list(before.values()) == [ATTACHED[mode]]
        done = network.near.run(tool, *options)
        check_refusal(done, message, status=status)
        assert done.stderr.count("\n") == 1
        assert network.near.xdp() == before


@pytest.mark.parametrize("tool, option, change", [
    (tool, option, change) for tool in ACTIONS for option, change in (
        ("-N", "del near1"), ("-S", "set near1 netns 1"))] + [
    ("countp", "-N", "set near1 address 02:00:00:00:00:03")])
def test_interface_goes(tool, option, change, network):
    """Rename the interface, which changes nothing. Then remove it, move it to
    another namespace, or change its address, which countp would send frames
    back with. An idle tool uses 2% of a CPU at most. The interface is given by
    an alternative name of up to 15 characters, as udev gives it."""
    port = Port(network.near.namespace, "enx020000000002")
    port.ip(*"link property add dev near0 altname".split(), port.name)
    with Wire(network.far) as far:
        running = port.tool(tool, option, "999999999").start()
        far.send(*[TCP] * COUNT)
    clock = ~running.process.pid << 3 | 2   # clock_getcpuclockid(3)
    before = time.clock_gettime(clock)
    network.near.ip("link", "set", "near0", "down")
    network.near.ip("link", "set", "near0", "name", "near1")
    time.sleep(1)
    assert time.clock_gettime(clock) - before < 0.02
    network.near.ip("link", *change.split())
    assert running.process.wait(5) == 1
    rest = " or its MAC address changed; run " if tool == "countp" else "\n"
    assert port.name + " is gone" + rest in running.stderr
    assert running.stderr.startswith(port.name + ", ")
    assert running.stderr.count("\n") == 2
    assert totals(running)["TCP"][0] == COUNT


@each_tool
def test_loopback(tool, network):
    """It has no native mode: generic mode is used, unless -N forbids that."""
    lo = Port(network.near.namespace, "lo")
    options = ["--other=drop"] if tool == "countp" else []
    running = lo.tool(tool, "0.01", "300", *options).start()
    assert list(lo.xdp().values()) == [ATTACHED["generic"]]
    ping = "ping -c %d -i 0.01 -W 1 127.0.0.1" % COUNT
    answered = lo.popen(*ping.split(), stdout=subprocess.DEVNULL).wait(60) == 0
    assert answered == (tool == "protostats")
    assert running.process.wait(60) == 0
    assert totals(running)["total"][0] == COUNT * (1 + answered)
    title = "lo, no native mode (Operation not supported)"
    assert running.stderr.startswith(title + ", generic mode")
    check_refusal(lo.run(tool, "-N", *options), title)
    if tool == "countp":
        for options in [], ["--other=drop", "--udp=tx"]:
            check_refusal(lo.run(tool, *options), "lo would loop for ever")


def replaced(function, result):
    """Return a command prefix: a function of BCC's library is replaced."""
    return [PYTHON, "-c", "import runpy, sys\nfrom bcc.libbcc import lib\n"
            "real = lib.%s\n"
            "lib.%s = lambda *args: %s\n"
            "sys.argv = sys.argv[2:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')" % (
                function, function, result)]


@each_tool
def test_refusals(tool, network):
    for name in "nosuch0", "", "a" * 99, "no\x7fsuch", "%s", '"; x':
        check_refusal(run(tool, "--", name, prefix=network.near.prefix),
                      "no network interface")
    for prefix, *words in (
            (replaced("bpf_link_create", "-1"), "requires Linux 5.9"),
            (replaced("bpf_module_create_c_from_string",
                      "real(b'bad', *args[1:])"),
             "/virtual/main.c:1:1: error: ", "can't load the program")):
        check_refusal(network.near.run(tool, prefix=prefix), *words)
    check_refusal(run(tool, "-dev"), "usage: ", "interface", status=2)
    tun = Port(network.near.namespace, "tun0")
    if tun.popen(*"ip tuntap add mode tun name tun0".split()).wait():
        pytest.skip("all but one: no tun interfaces on this kernel")
    check_refusal(tun.run(tool), "tun0 has no Ethernet frames")


TO_0 = UDP[:36] + bytes(2) + UDP[38:]
FLOOD = [UDP[:34] + b"\0\65\4\1" + UDP[38:]] * 10007    # from 53 to 1025


@pytest.mark.parametrize("options, kept", [
    ("", []), ("-k 0,src:53", [TO_0, *FLOOD]),
    ("-k " + "1-52," * 63 + "53", [DNS])], ids=[    # see kernels/run
        name + "-countp-native" for name in ("none", "two", "64 ranges")])
def test_kept_ports(options, kept, network):
    """A flood from port 53, which its sender chose, is kept by src:53 only."""
    with Wire(network.far) as far, Wire(network.near) as near:
        with network.near.tool("countp", *options.split()) as tool:
            far.send(DNS, NTP, TO_0, *FLOOD)
        assert near.seen() == kept
    assert totals(tool)["UDP"][0] == 3 + len(FLOOD) - len(kept)
    assert totals(tool)["UDP-kept"] == (len(kept), sum(map(len, kept)))


CLASSES = list(ACTIONS["protostats"])
COLUMNS = {"PASS": 2, "DROP": 1, "TX": 3, "REDIRECT": 4, "ABORTED": 0}
WIDE = {("TCP", "PASS"): 29 * 10**6, ("TCP", "DROP"): 3,
        ("UDP", "TX"): 95 * 10**8, ("ping", "REDIRECT"): 8765432,
        ("other", "ABORTED"): 1}


def show(network, options, numbers):
    """Run the tool, and write numbers into its map of counts: {(class,
    action): packets of 100 bytes}. Return the Tool."""
    with network.near.tool("protostats", *options.split()) as tool:
        pid = tool.process.pid
        _, number = max(zip(fdinfo(pid, "max_entries"), fdinfo(pid, "map_id")))
        counts = lib.bpf_map_get_fd_by_id(number)
        for (name, action), number in numbers.items():
            key = ctypes.c_uint32(
                COLUMNS[action] * len(CLASSES) + CLASSES.index(name))
            value = (ctypes.c_uint64 * (2 * len(get_possible_cpus())))(
                number, 100 * number)
            lib.bpf_update_elem(counts, ctypes.byref(key), value, 0)
        wait_for_rows(tool, 16 if "m" in options else 2)
    return tool


@pytest.mark.parametrize("option, factor", [("-j", 1), ("-jmb", 800)])
def test_columns(option, factor, network):
    """Each cell of the table at the end; in rows, each column."""
    numbers = {cell: int(1000 * 1.3 ** i) for i, cell in enumerate(
        itertools.product(CLASSES, COLUMNS))}
    tool, unit = show(network, option, numbers), "bit/s" * ("b" in option)
    sums, shown, shares = collections.Counter(), collections.Counter(), []
    for (name, action), number in numbers.items():
        for key in {name, name.upper(), action, name + "-" + action, "all"}:
            sums[key] += number
    for row in tool.table():
        prefix = row.pop("CLASS") + "-" if "CLASS" in row else ""
        assert row.pop("TIME")
        shares.append(row.pop("DROP%", ""))
        for title, cell in row.items():
            shown[prefix + title] += float(cell)
    titles = [*COLUMNS, *map(str.upper, CLASSES)]
    if "m" in option:
        titles = ["%s-%s" % cell for cell in numbers]
    else:
        assert "%.1f" % (100 * sums["DROP"] / sums["all"]) in shares
    assert list(shown) == [title + unit for title in titles]
    assert list(shown.values()) == pytest.approx(
        [factor * sums[title] for title in titles], rel=0.1)
    assert counted(tool) == numbers
    table = table_at_end(tool)
    assert [(name, row["BYTES"]) for name, row in table.items()] == [
        (name, 100 * sums[name]) for name in CLASSES + ["all"]]
    assert list(table["all"].items())[1:] == [
        (action, sums[action]) for action in COLUMNS]


@pytest.mark.parametrize("options", ["", "-b", "-m", "-mb"])
def test_columns_are_aligned(options, network):
    """In less than 80 columns, with numbers of any size. -b names its unit."""
    text = "\n".join(show(network, options, WIDE).lines())
    number = r" 7[2-6]\d\d\.\dG " if "b" in options else r" 9[0-5]\d\d\.\dM "
    (block,) = [part for part in text.split("\n\n") if re.search(number, part)]
    header, *rows = [line for line in block.split("\n") if " " in line]
    assert header.startswith("bit/s ") == ("b" in options)
    assert header.split()[1:] == [*COLUMNS] + (
        [] if "m" in options else ["TCP", "UDP", "PING", "DROP%"])
    ends = [match.end() for match in re.finditer(r"\S+", header)][1:]
    for row in rows:
        assert len(row) < 80
        assert [match.end() for match in re.finditer(r"\S+", row)][1:] == ends


def frames_for_top():
    """Return {frame: number}: all known frames, and others with more sources
    and ports, so that more than ten values are there."""
    frames = collections.Counter()
    for i, frame in enumerate(sum(KNOWN.values(), [])):
        frames[frame] += i % 4 + 1
    for frame in KNOWN["TCP"] + KNOWN["UDP"]:
        if field_of("sport", frame) == "-":     # later fragments
            frames[frame] += 7
    v6 = KNOWN["UDP"][1]
    assert UDP[12:15] == b"\x08\x00\x45" and v6[12:15] == b"\x86\xdd\x60"
    for i in range(12):
        number = bytes([0, i])
        frames[UDP[:28] + number + UDP[30:34] + number + UDP[36:]] += 9 + i
        frames[v6[:36] + number + v6[38:56] + number + v6[58:]] += 2 * i
    return +frames


def check_top(network, field, *options, by="protostats"):
    """Run protostats -jt for one interval and check what it prints. by: the
    tool whose program is on the interface. Return the Tool."""
    seconds = 6         # in which an emulated CPU sends all frames
    frames, values = frames_for_top(), collections.Counter()
    cells = collections.Counter()
    for frame, number in frames.items():
        cell = (classify("protostats", frame),
                ACTIONS[by][classify(by, frame)].upper())
        cells[cell] += number
        values[(field_of(field, frame), *cell)] += number
    with Wire(network.far) as far:
        tool = network.near.tool("protostats", "-jt", field, *options, seconds,
                                 1).start()
        far.send(*frames.elements())
    assert tool.process.wait(60) == 0
    assert tool.header == "TIME,%s,CLASS,ACTION,RATE" % field.upper()
    rates = {tuple(row.split(",")[1:4]): float(row.split(",")[4])
             for row in tool.rows}
    scale = sum(values.values()) / sum(rates.values())
    assert seconds - 0.1 < scale < seconds + 1.5
    numbers = sorted(values.values(), reverse=True)
    numbers[10:] = [sum(numbers[10:])]
    values["others", "-", "-"] = numbers[10]
    shown = {key: rate * scale for key, rate in rates.items()}
    assert shown == pytest.approx({key: values[key] for key in shown}, abs=0.1)
    assert list(map(round, shown.values())) == numbers
    assert counted(tool) == cells
    return tool


@pytest.mark.short
@pytest.mark.parametrize("field", ["src", "sport", "dport"],
                         ids="{}-protostats-native".format)  # see kernels/run
def test_top(field, network):
    """Sources and ports, IPv4 and IPv6, VLANs, fragments, options, ARP."""
    check_top(network, field, "-S" if field == "sport" else "-N")


def test_top_of_many_sources(network):
    """More than there is room for. The frequent one is exact, and all packets
    are there. The next interval starts with an empty table."""
    with network.near.tool("protostats", "-jt", "src", 2) as tool:
        program = lib.bpf_prog_get_fd_by_id(*network.near.xdp())
        assert max(fdinfo(tool.process.pid, "max_entries")) == 16384
        for _ in range(2):
            start = len(tool.rows)
            for i in range(50000):
                source = b"\300\0\2\1" if i % 10 == 0 else struct.pack("I", i)
                run_program(program, UDP[:26] + source + UDP[30:])
            wait_until(lambda: "others" in "".join(tool.rows[start:]))
            # It can be at the end of an interval, and go on in the next.
            time.sleep(2.5)
            rows = collections.Counter()
            for row in tool.table(start):
                rows[row["SRC"], row["CLASS"]] += 2 * float(row["RATE"])
            heavy, everything = rows["192.0.2.1", "UDP"], sum(rows.values())
            assert heavy / everything == pytest.approx(0.1, abs=1e-6)
            assert everything == pytest.approx(50000, rel=0.05)
            assert len(rows) in (11, 20)        # of one interval, or of two
        os.close(program)
    assert totals(tool)["UDP"][0] == 2 * 50000


def test_top_in_bits(network):
    """As text: bits of whole frames, in less than 80 columns."""
    tool = network.near.tool("protostats", "-bt", "dport", "1", "3").start()
    with Wire(network.far) as far:
        far.send(*[UDP] * COUNT)
    assert tool.process.wait(60) == 0
    rows = list(map(str.split, tool.rows))
    assert ["DPORT", "CLASS", "ACTION", "RATEbit/s"] in rows
    assert max(map(len, tool.lines())) < 80
    rates = [float(row[3]) for row in rows if row[1:3] == ["UDP", "PASS"]]
    assert 0.5 < sum(rates) / (COUNT * 8 * len(UDP)) < 2    # see test_rates


@pytest.mark.skipif(not can_query, reason="libbpf is older than 0.7 here")
def test_refuses_to_watch(network):
    """A program that BCC loaded, with BTF. Nothing has changed then."""
    near = network.near
    check_refusal(near.run("protostats", "-w"), "near0 has no XDP program to "
                  "watch, or libbpf is older than 0.7\n")
    with near.tool("countp"):
        before = near.xdp()
        for prefix, message in (
                (hide("/sys/kernel/btf", "/boot", "/lib/modules"),
                 "requires CONFIG_DEBUG_INFO_BTF"),
                (replaced("btf__find_by_name_kind", "-2"),
                 "the kernel's BTF has no xdp_buff.data\n"),
                (replaced("bpf_xdp_query_id",   # netlink is interrupted
                          "(__import__('ctypes').set_errno(4), -4)[1]"),
                 "can't query the XDP program of near0: Interrupted system"),
                (["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"],
                 "can't watch near0's program: requires CAP_BPF"),
                (replaced("bpf_prog_load", "-1") if can_watch else [],
                 "near0, watching countp (ID %d): the kernel refuses "
                 "to trace it (" % list(before)[0])):
            check_refusal(near.run("protostats", prefix=prefix), message)
            assert near.xdp() == before
