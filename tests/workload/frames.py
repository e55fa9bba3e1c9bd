"""Ethernet frames of known kinds, and any number of random ones."""

import random

from scapy.all import (
    AH, ARP, ESP, ICMP, IP, LLC, TCP, UDP, Dot1AD, Dot1Q, Ether,
    ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLReport2,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS,
    IPOption_Router_Alert, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw)

SENDER, RECEIVER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def make_known():
    """Return {kind: frames}."""
    def frame(layers, dst=RECEIVER, src=SENDER):
        return bytes(Ether(src=src, dst=dst) / layers)
    data, everyone = Raw(b"0123456789abcdef"), "ff:ff:ff:ff:ff:ff"
    v4, v6, tag = IP(), IPv6(), Dot1Q(vlan=5)
    tcp, udp = TCP(sport=1025, dport=80), UDP(sport=1025, dport=7) / data
    ntp = UDP(sport=123, dport=1025) / data
    ping, unreach = ICMP() / data, ICMP(type=3, code=1) / data
    ping6, unreach6 = ICMPv6EchoRequest() / data, ICMPv6DestUnreach() / data
    hop, dst = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()
    frag, first = IPv6ExtHdrFragment(), IPv6ExtHdrFragment(m=1)
    route = IPv6ExtHdrRouting(addresses=["fd00:9::3"])
    seven = hop / dst / dst / dst / dst / dst / dst
    chain = hop / dst / route / dst / AH(nh=60, payloadlen=1) / frag / dst
    options = [IPOption_Router_Alert()] * 10

    def later(protocol, offset=100):
        return IPv6ExtHdrFragment(nh=protocol, offset=offset)
    known = {
        "TCP": [
            v4 / tcp / data, v4 / tcp, v6 / tcp / data,
            IP(options=options) / tcp, IP(flags="MF") / tcp / data,
            IP(frag=100, proto=6) / data, tag / v4 / tcp,
            IP(flags="MF", proto=6) / Raw(b"\0\1\0\2"),
            Dot1AD(vlan=5) / Dot1Q(vlan=6) / v6 / tcp,
            v6 / chain / tcp / data, v6 / hop / first / tcp,
            v6 / later(6) / data, v6 / later(6, 0x1000) / data,
            v6 / first / later(6, 0) / data,    # one of them says "more"
            v6 / seven / dst / tcp],
        "UDP": [
            v4 / udp, v6 / udp, v4 / UDP(sport=7, dport=7),
            tag / v6 / hop / dst / udp, IP(frag=1, proto=17) / data,
            IP(flags="MF", proto=17) / Raw(b"\0\65"), v6 / later(17) / data,
            # Kept by -k 53,src:123 if the ports were swapped.
            v4 / UDP(sport=53, dport=123), v4 / UDP(sport=53, dport=1025)],
        "DNS": [v4 / UDP(sport=1025, dport=53) / data,      # and DHCP
                tag / v4 / UDP(sport=68, dport=67)],
        "NTP": [v6 / ntp, IP(flags="MF") / ntp],
        "ping": [
            v4 / ping, v4 / ICMP(type=0) / data, v6 / ping6,
            v6 / ICMPv6EchoReply() / data, IP(flags="MF") / ping,
            tag / Dot1Q(vlan=6) / v4 / ping],
        "ICMP": [
            v4 / unreach, v6 / unreach6 / data, IP(frag=100, proto=1) / data,
            v6 / later(58) / data, v6 / hop / ICMPv6MLReport2(),
            # The other version's echo type; the types next to ND's.
            v4 / ICMP(type=128) / data, v6 / ICMPv6EchoRequest(type=8) / data,
            v6 / ICMPv6EchoRequest(type=132) / data,
            v6 / ICMPv6EchoRequest(type=138) / data],
        "ND": [tag / v6 / ICMPv6ND_NS()] + [v6 / kind() for kind in (
            ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RS, ICMPv6ND_RA,
            ICMPv6ND_Redirect)],
        "ARP": [ARP(), tag / ARP()],
        "other": [
            v4 / ESP(), IPv6(nh=59), v6 / ESP(), v4 / AH() / tcp,
            IP(proto=58) / data, IPv6(nh=1) / data, LLC() / data,
            v6 / seven / dst / dst / tcp,       # nine: one too many
            tag / tag / tag / v4 / tcp, v6 / later(60) / data,
            IP(version=5) / tcp, IP(ihl=4) / tcp, IPv6(version=4) / tcp,
            # Headers cut short.
            IP(proto=6) / Raw(bytes(19)), IP(proto=17) / Raw(bytes(7)),
            IP(proto=1) / Raw(bytes(7)), IPv6(nh=58) / Raw(b"\x87" + bytes(6)),
            IP(ihl=15, proto=17) / Raw(bytes(39)), IPv6(nh=60) / Raw(bytes(7)),
            IPv6(nh=43) / Raw(b"\6\2" + bytes(21))],
    }
    frames = {kind: list(map(frame, group)) for kind, group in known.items()}
    frames["ping"] += [frame(v4 / ping, everyone),
                       frame(v6 / ping6, "33:33:00:00:00:01")]
    frames["ARP"].append(frame(ARP(), everyone))
    frames["other"].append(frame(b"")[:12] + b"\x88\xb5")     # nothing else
    # Sent back, this would be a broadcast.
    frames["BAD"] = [frame(v4 / ping, src=everyone)]
    return frames


KNOWN = make_known()


def corpus(count, seed):
    """Return frames of 14 bytes and more: the known ones cut at every length,
    and then these with random changes, or random but for the EtherType."""
    chance = random.Random(seed)
    made = sum(KNOWN.values(), [])
    frames = [frame[:size] for frame in made
              for size in range(14, len(frame) + 1)]
    usual = [0, 1, 4, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x60, 0xff]
    while len(frames) < count:
        frame = bytearray(chance.choice(made))
        if chance.random() < 0.2:
            frame[14:] = chance.choices(range(256), k=chance.randrange(136))
            frame[:12] = chance.choices(range(256), k=12)
        for _ in range(chance.randrange(1, 5)):
            first = 12 if chance.random() < 0.1 else 14
            at = min(len(frame) - 1, first + int(
                chance.random() ** 2 * (len(frame) - first)))
            frame[at] = chance.choice([
                chance.getrandbits(8), chance.choice(usual),
                frame[at] ^ 1 << chance.randrange(8)])
        if chance.random() < 0.3:
            del frame[chance.randrange(14, len(frame) + 1):]
        frames.append(bytes(frame))
    return frames[:count]
