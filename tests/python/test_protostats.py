"""protostats: its table, its columns, and when it can't watch a program."""

import csv
import ctypes
import re
from itertools import product

from bcc.libbcc import lib
import pytest

from common import hide
from frames import ACTIONS, corpus
from test_common import check_refusal
from test_xdp import (check_parser, counts_map, replaced, table_at_end,
                      wait_for_rows)

CLASSES = list(ACTIONS["protostats"])
COLUMNS = {"PASS": 2, "DROP": 1, "TX": 3, "REDIRECT": 4, "ABORTED": 0}


def test_parser(network):
    with network.near.tool("protostats") as tool:
        check_parser(tool, network.near, ACTIONS["protostats"],
                     corpus(200000, 20261123))


def show(network, options, numbers):
    """Run the tool, and write numbers into its map of counts: {(class,
    action): packets of 100 bytes}. Return the Tool."""
    with network.near.tool("protostats", *options) as tool:
        counts, value = counts_map(tool)
        for (name, action), number in numbers.items():
            key = ctypes.c_uint32(
                COLUMNS[action] * len(CLASSES) + CLASSES.index(name))
            value[:2] = number, 100 * number
            lib.bpf_update_elem(counts, ctypes.byref(key), value, 0)
        wait_for_rows(tool, 2 if "-m" not in options else 14)
    return tool


@pytest.mark.parametrize("option, unit", [("-j", 1), ("-jmb", 800)])
def test_columns(option, unit, network):
    """Each cell of the table at the end; in rows, each column."""
    numbers = {cell: int(1000 * 1.3 ** i) for i, cell in enumerate(
        product(CLASSES, COLUMNS))}
    tool = show(network, [option], numbers)

    def packets(wanted):
        return sum(number for (name, action), number in numbers.items()
                   if wanted in ("all", name, name.upper(), action,
                                 "%s-%s" % (name, action)))
    rows = list(csv.DictReader(tool.lines()))
    for title in tool.header.split(",")[1:-1]:
        shown = sum(float(row[title]) for row in rows)
        assert shown == pytest.approx(unit * packets(title), rel=0.1), title
    share = "%.1f" % (100 * packets("DROP") / packets("all"))
    assert share in [row["DROP%"] for row in rows]
    titles, *rows = table_at_end(tool)
    assert titles == ["CLASS", "BYTES", *COLUMNS]
    assert rows == [
        [name, str(100 * packets(name))] + [
            str(packets(action if name == "all" else
                        "%s-%s" % (name, action))) for action in COLUMNS]
        for name in CLASSES + ["all"]]


WIDE = {("TCP", "PASS"): 29 * 10**6, ("TCP", "DROP"): 3,
        ("UDP", "TX"): 95 * 10**11, ("ping", "REDIRECT"): 8765432,
        ("other", "ABORTED"): 1}


def test_table(network):
    """The largest class has a bar of 19 letters, any number at least one. In
    rows, each number is below its title."""
    rows = show(network, [], WIDE).lines()[:3]
    assert {len(line) for line in rows} == {len(rows[0])}
    assert len(rows[0]) <= 80
    lines = show(network, ["-m"], WIDE).lines()
    table = next("\n".join(lines[i:i + 7]) for i, line in enumerate(lines)
                 if line.startswith("TCP") and line.endswith("D"))
    assert re.match(
        r"TCP +2\d\.\dM +[23]\.?\d?( +\.){3}  PD\n"
        r"UDP( +\.){2} +9\d\d\d\.\dG( +\.){2}  T{19}\n"
        r"ping( +\.){3} +[78]\d{6} +\.  R\nICMP( +\.){5}\n"
        r"other( +\.){4} +(1|0\.\d+)  A\n\n", table), table
    assert max(map(len, table.split("\n"))) <= 80


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
                (hide("/sys/kernel/btf"), "requires CONFIG_DEBUG_INFO_BTF"),
                (replaced("bpf_xdp_query_id", "-1"), "libbpf 0.7 can watch"),
                (replaced("bpf_prog_load", "-1") if supports else [],
                 "near0, watching countp (ID %d, native): the kernel refuses "
                 "to trace it (" % list(before)[0])):
            check_refusal(near.run("protostats", prefix=prefix), message)
            assert near.xdp() == before
