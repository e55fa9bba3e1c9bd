"""countp and protostats: counts, actions, attachment, errors."""

import collections
import concurrent.futures
import ctypes
import itertools
import os
import re
import signal
import subprocess
import time

from bcc import BPF
from bcc.libbcc import lib
from bcc.utils import get_possible_cpus
import pytest

from common import (COUNT, PYTHON, bpf_programs, fdinfo, hide, run,
                    run_command, tool_path, wait_until)
from frames import KNOWN, corpus
from reader import (ACTIONS, OPTIONS, class_of, classify, field_of,
                    sent_back)
from test_common import TOOLS as EDGES, check_refusal
from veth import (ATTACHED, Port, Wire, inside, linked, netlinked,
                  pass_program, run_program)

OPTION = {"native": "-N", "generic": "-S"}
each_tool = pytest.mark.parametrize("tool", ACTIONS)
each_mode = pytest.mark.parametrize("tool, mode", [
    (tool, mode) for mode in OPTION for tool in ACTIONS])
TCP, UDP, DNS, NTP = (KNOWN[kind][0] for kind in ("TCP", "UDP", "DNS", "NTP"))


def table_at_end(tool):
    """Return the rows of the table at the end, titles first, as lists."""
    lines = tool.lines() + tool.stderr.splitlines()     # there with -j
    start = next(i for i, line in enumerate(lines) if line[:6] == "CLASS ")
    rows = [line.split() for line in lines[start:]]
    return [row for row in rows if len(row) == len(rows[0])]


def totals(tool):
    """Return {class or "total": (packets, bytes)} of the table at the end."""
    titles, *rows = table_at_end(tool)
    if "PACKETS" in titles:
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}
    # protostats: CLASS, BYTES, and packets by action
    return {row[0].replace("all", "total"): (
        sum(map(int, row[2:])), int(row[1])) for row in rows}


def counted(tool):
    """Return {(class, action): packets} at protostats' end, without zeros."""
    titles, *rows = table_at_end(tool)
    return {(row[0], action): int(cell) for row in rows[:-1]
            for action, cell in zip(titles[2:], row[2:]) if cell != "0"}


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
    column = {"countp": "DROP/s", "protostats": "UDP"}[tool]
    if bits:
        column = column.replace("/s", "") + "bit/s"
    rows = running.table()
    rates = [float(row[column]) for row in rows]
    assert min(rates) >= 0
    # A row can be late: then a rate is lower, and the next one is higher.
    share = 2 * sum(rates) / (number * (8 * len(UDP) if bits else 1))
    assert 0.5 < share < 2
    percent = "75.0" if tool == "countp" else "0.0"
    assert rows[rates.index(max(rates))]["DROP%"] == percent
    if tool == "countp":
        assert ["drop", str(number), str(number * len(UDP)), percent] in (
            table_at_end(running))


@each_tool
def test_signals(tool, network):
    """nohup(1), Ctrl-Z and fg, SIGTERM."""
    with Wire(network.far) as far:
        running = network.near.tool(
            tool, "0.3", preexec_fn=lambda: signal.signal(
                signal.SIGHUP, signal.SIG_IGN)).start()
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
        seconds += 0.03
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
    elif not hasattr(lib, "bpf_xdp_query_id"):
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
    back with. An idle tool uses 2% of a CPU at most."""
    with Wire(network.far) as far:
        running = network.near.tool(tool, option, "999999999").start()
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
    assert "near0 is gone" + rest in running.stderr
    assert running.stderr.count("\n") == 2
    assert totals(running)["TCP"][0] == COUNT


@each_tool
def test_loopback(tool, network):
    """It has no native mode: generic mode is used, unless -N forbids that."""
    lo, options = Port(network.near.namespace, "lo"), EDGES[tool].always[:-2]
    with lo.tool(tool, *options) as running:
        assert list(lo.xdp().values()) == [ATTACHED["generic"]]
        ping = lo.popen("ping", "-c", str(COUNT), "-i", "0.01", "-W", "1",
                        "127.0.0.1", stdout=subprocess.DEVNULL)
        answered = ping.wait(60) == 0
    assert answered == (tool == "protostats")
    assert totals(running)["total"][0] == COUNT * (1 + answered)
    title = "lo, no native mode (Operation not supported)"
    assert running.stderr.startswith(title + ", generic mode")
    assert title + ", generic mode, " in "".join(running.rows)
    check_refusal(lo.run(tool, "-N", *options), title)
    if tool == "countp":
        for options in [], ["--other=drop", "--udp=tx"]:
            check_refusal(lo.run(tool, *options), "lo would loop for ever")


def replaced(function, result):
    """Return a command prefix: a function of BCC's library is replaced."""
    return [PYTHON, "-c", "import runpy, sys\n"
            "from bcc.libbcc import lib\n"
            "real = lib.%s\n"
            "lib.%s = lambda *args: %s\n"
            "sys.argv = sys.argv[2:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')" % (
                function, function, result)]


# As libbpf does when netlink is interrupted.
NO_ANSWER = "(__import__('ctypes').set_errno(4), -4)[1]"


@each_tool
def test_refusals(tool, network):
    for name in "nosuch0", "", "a" * 99, "no\x7fsuch", "%s", '"; x':
        check_refusal(run(tool, "--", name, prefix=network.near.prefix),
                      "no network interface")
    for prefix, *words in (
            (["sh", "-c", 'exec "$@" >&-', "sh"],
             "can't write: stdout is closed\n"),
            (replaced("bpf_link_create", "-1"), "requires Linux 5.9"),
            (replaced("bpf_module_create_c_from_string",
                      "real(b'bad', *args[1:])"),
             "/virtual/main.c:1:1: error: ", "can't load the program")):
        check_refusal(network.near.run(tool, prefix=prefix), *words)
    check_refusal(run(tool, "-dev"), "usage: ", "interface", status=2)
    tun = Port(network.near.namespace, "tun0")
    if run_command(*tun.prefix, "ip", "tuntap", "add", "mode", "tun", "name",
                   "tun0").returncode:
        pytest.skip("all but one: no tun interfaces on this kernel")
    check_refusal(tun.run(tool), "tun0 has no Ethernet frames")


FROM_53 = UDP[:34] + b"\0\65\4\1" + UDP[38:]       # to 1025
TO_0 = UDP[:36] + bytes(2) + UDP[38:]
FLOOD = 10007


@pytest.mark.parametrize("options, kept", [
    ("", []), ("-k 0,src:53", [TO_0] + [FROM_53] * FLOOD),
    ("-k " + "1-52," * 63 + "53", [DNS])], ids=[    # see kernels/run
        name + "-countp-native" for name in ("none", "two", "64 ranges")])
def test_kept_ports(options, kept, network):
    """Without src: a flood from a kept port, which a sender chooses, is
    dropped."""
    with Wire(network.far) as far, Wire(network.near) as near:
        with network.near.tool("countp", *options.split()) as tool:
            far.send(DNS, NTP, TO_0, *[FROM_53] * FLOOD)
        assert near.seen() == kept
    assert totals(tool)["UDP"][0] == 3 + FLOOD - len(kept)
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
        os.close(counts)
        wait_for_rows(tool, 16 if "m" in options else 2)
    return tool


@pytest.mark.parametrize("option, factor", [("-j", 1), ("-jmb", 800)])
def test_columns(option, factor, network):
    """Each cell of the table at the end; in rows, each column."""
    numbers = {cell: int(1000 * 1.3 ** i) for i, cell in enumerate(
        itertools.product(CLASSES, COLUMNS))}
    tool = show(network, option, numbers)

    def packets(wanted):
        return sum(number for (name, action), number in numbers.items()
                   if wanted in ("all", name, name.upper(), action,
                                 "%s-%s" % (name, action)))
    shown, shares = collections.Counter(), []
    for row in tool.table():
        prefix = row.pop("CLASS") + "-" if "CLASS" in row else ""
        assert row.pop("TIME")
        shares.append(row.pop("DROP%", ""))
        for title, cell in row.items():
            assert title.endswith("bit/s") == ("b" in option)
            shown[prefix + title.replace("bit/s", "")] += float(cell)
    if "m" in option:
        assert len(shown) == len(numbers)
    else:
        assert list(shown) == [*COLUMNS, *map(str.upper, CLASSES)]
        assert "%.1f" % (100 * packets("DROP") / packets("all")) in shares
    for title, value in shown.items():
        assert value == pytest.approx(factor * packets(title), rel=0.1), title
    titles, *rows = table_at_end(tool)
    assert titles == ["CLASS", "BYTES", *COLUMNS]
    assert rows == [
        [name, str(100 * packets(name))] + [
            str(packets(action if name == "all" else
                        "%s-%s" % (name, action))) for action in COLUMNS]
        for name in CLASSES + ["all"]]


@pytest.mark.parametrize("options", ["", "-b", "-m", "-mb"])
def test_columns_are_aligned(options, network):
    """In less than 80 columns, with numbers of any size. -b names its unit."""
    text = "\n".join(show(network, options, WIDE).lines())
    number = (" 7[2-6]\\d\\d\\.\\dG " if "b" in options else
              " 9[0-5]\\d\\d\\.\\dM ")
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
    shown = {key: round(rate * scale) for key, rate in rates.items()}
    assert shown == pytest.approx(
        {key: rate * scale for key, rate in rates.items()}, abs=0.1)
    others = shown.pop(("others", "-", "-"), 0)
    numbers = list(shown.values())
    assert numbers == sorted(values.values(), reverse=True)[:10]
    assert {key: values[key] for key in shown} == shown
    assert others == sum(values.values()) - sum(numbers)
    assert counted(tool) == cells
    return tool


@pytest.mark.short
@pytest.mark.parametrize("field", ["src", "sport", "dport"],
                         ids="{}-protostats-native".format)  # see kernels/run
def test_top(field, network):
    """Sources and ports, IPv4 and IPv6, VLANs, fragments, options, ARP."""
    check_top(network, field, "-S" if field == "sport" else "-N")


# Every tenth packet is from 192.0.2.1, all others from a source of their own.
FLOOD_PROGRAM = b"""
#include <uapi/linux/bpf.h>
BPF_ARRAY(sent, u32, 1);
BPF_PROG_ARRAY(counted, 1);

int flood(struct xdp_md *ctx)
{
    u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    int zero = 0;
    u32 *number = sent.lookup(&zero);

    if (!number || data + 30 > end)
        return XDP_ABORTED;
    ++*number;
    *(u32 *)(data + 26) = *number % 10 ? *number * 2654435761 : 0x010200c0;
    counted.call(ctx, 0);
    return XDP_ABORTED;
}
"""


def test_top_of_a_million_sources(network):
    """The frequent one is first and exact, and all packets are there. The
    next interval starts with an empty table."""
    bpf, near = BPF(text=FLOOD_PROGRAM), network.near
    flood = bpf.load_func(b"flood", BPF.XDP).fd
    with near.tool("protostats", "-jt", "src", 2) as tool:
        fd = lib.bpf_prog_get_fd_by_id(*near.xdp())
        bpf[b"counted"][ctypes.c_int(0)] = ctypes.c_int(fd)
        assert max(fdinfo(tool.process.pid, "max_entries")) == 16384
        for _ in range(2):
            start = len(tool.rows)
            assert run_program(flood, UDP, 10**6)[0] == 2   # XDP_PASS
            wait_until(lambda: any("others" in row
                                   for row in tool.rows[start:]))
            # It can be at the end of an interval, and go on in the next.
            time.sleep(2.5)
            rows = collections.Counter()
            for row in tool.table(start):
                rows[row["SRC"], row["CLASS"]] += 2 * float(row["RATE"])
            heavy, everything = rows["192.0.2.1", "UDP"], sum(rows.values())
            assert heavy / everything == pytest.approx(0.1, abs=1e-6)
            assert everything == pytest.approx(10**6, rel=0.05)
            assert len(rows) in (11, 20)        # of one interval, or of two
        os.close(fd)
    assert totals(tool)["UDP"][0] == 2 * 10**6


def test_top_in_bits(network):
    """As text: bits of whole frames, in less than 80 columns."""
    with network.near.tool("protostats", "-bt", "dport", "1") as tool, \
            Wire(network.far) as far:
        far.send(*[UDP] * COUNT)
        wait_until(lambda: any(" UDP " in row for row in tool.rows))
        wait_for_rows(tool, 8)
    rows = list(map(str.split, tool.rows))
    assert ["DPORT", "CLASS", "ACTION", "RATEbit/s"] in rows
    assert max(map(len, tool.lines())) < 80
    rates = [float(row[3]) for row in rows if row[1:3] == ["UDP", "PASS"]]
    sent = COUNT * 8 * len(UDP)
    assert 0.5 < sum(rates) / sent < 2      # see test_rates


@pytest.mark.skipif(not hasattr(lib, "bpf_xdp_query_id"),
                    reason="libbpf is older than 0.7 here")
def test_refuses_to_watch(network):
    """A program that BCC loaded, with BTF. Nothing has changed then."""
    near, supports = network.near, lib.libbpf_probe_bpf_prog_type(26, None)
    check_refusal(near.run("protostats", "-w"), "near0 has no XDP program to "
                  "watch, or libbpf is older than 0.7\n")
    with near.tool("countp"):
        before = near.xdp()
        for prefix, message in (
                (hide("/sys/kernel/btf", "/boot", "/lib/modules"),
                 "requires CONFIG_DEBUG_INFO_BTF"),
                (replaced("btf__find_by_name_kind", "-2"),
                 "the kernel's BTF has no xdp_buff.data\n"),
                (replaced("bpf_xdp_query_id", NO_ANSWER), "can't query the "
                 "XDP program of near0: Interrupted system call\n"),
                (["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"],
                 "can't watch near0's program: requires CAP_BPF"),
                (replaced("bpf_prog_load", "-1") if supports else [],
                 "near0, watching countp (ID %d): the kernel refuses "
                 "to trace it (" % list(before)[0])):
            check_refusal(near.run("protostats", prefix=prefix), message)
            assert near.xdp() == before


@each_tool
def test_intervals_keep_their_time(tool, network):
    """On an alternative name of up to 15 characters, as udev gives it."""
    port = Port(network.near.namespace, "enx020000000002")
    network.near.ip("link", "property", "add", "dev", "near0", "altname",
                    port.name)
    done = port.run(tool, "0.01", "300")
    assert done.stderr.startswith(port.name + ", native mode")
    (seconds,) = re.findall(r"native mode, (.*) s:", done.stdout)
    assert 3 <= float(seconds) < 3.2
