"""countp: its policies, and what it keeps."""

import pytest

from common import run
from frames import ACTIONS, MADE, OPTIONS, corpus
from test_common import check_refusal
from test_xdp import check_parser, totals
from veth import Wire

POLICIES = {
    "": {},
    "--tcp tx --udp pass --other drop": {
        "TCP": "tx", "UDP": "pass", "other": "drop"},
    "-a": {"ARP/ND": "tx"},
    "--all --other=pass --tcp=drop": {
        "ARP/ND": "pass", "other": "pass", "TCP": "drop"},
    "--udp=tx": {"UDP": "tx"}}
DNS, NTP, FROM_53 = (MADE[name][0] for name in (
    "DNS, query", "NTP, answer", "UDP, from a port to which UDP is kept"))
TO_0 = MADE["UDP, v4"][0][:36] + bytes(2) + MADE["UDP, v4"][0][38:]


@pytest.mark.parametrize("policy", POLICIES)
def test_parser(policy, network):
    """Any frame, and any action for it."""
    actions = dict(ACTIONS["countp"], **POLICIES[policy])
    with network.near.tool("countp", *OPTIONS["countp"],
                           *policy.split()) as tool:
        check_parser(tool, network.near, actions, corpus(40000, policy))
    assert tool.stderr == (
        "near0, native mode: TCP %(TCP)s, UDP %(UDP)s, other %(other)s\n" %
        actions)


@pytest.mark.parametrize("tool, mode", [("countp", "native")])
def test_flood_from_port_53(tool, mode, network):
    """A sender chooses its source port: -k 53 keeps what is sent to 53."""
    with Wire(network.far) as far, Wire(network.near) as near:
        with network.near.tool(tool, "-N", "-k", "53") as running:
            far.send(DNS, *[FROM_53] * 10007)
        assert near.seen() == [DNS]
    assert totals(running)["UDP"] == (10007, 10007 * len(FROM_53))
    assert totals(running)["UDP-kept"] == (1, len(DNS))


@pytest.mark.parametrize("options, kept", [
    ("", []), ("-k src:53", [FROM_53]), ("-k 0", [TO_0]),
    ("-k " + "1-52," * 63 + "53", [DNS])],
    ids=["none", "source", "0", "64 ranges"])
def test_kept_ports(options, kept, network):
    with Wire(network.far) as far, Wire(network.near) as near:
        with network.near.tool("countp", *options.split()) as tool:
            far.send(DNS, NTP, FROM_53, TO_0)
        assert near.seen() == kept
    assert totals(tool)["UDP"][0] == 4 - len(kept)


def test_new_address(network):
    """It would send frames back with the old one."""
    tool = network.near.tool("countp").start()
    network.near.ip("link", "set", "near0", "address", "02:00:00:00:00:03")
    assert tool.process.wait(5) == 1
    assert "near0 is gone or its MAC address changed" in tool.stderr


@pytest.mark.parametrize("options", ["", "--other=drop --udp=tx"])
def test_loopback_would_loop(options):
    check_refusal(run("countp", "lo", *options.split(), prefix=[
        "unshare", "--net"]), "lo would loop for ever")
