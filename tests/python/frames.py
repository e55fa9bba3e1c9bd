"""Ethernet frames of known kinds, and a plain reading of any frame's kind to
compare the XDP tools with."""

import random
import struct

from scapy.all import (
    AH, ARP, ESP, ICMP, IP, LLC, TCP, UDP, Dot1AD, Dot1Q, Ether,
    ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLReport2,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS,
    IPOption_Router_Alert, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw)

SENDER, RECEIVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
ALL, GROUP = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
V4 = dict(src="10.9.0.1", dst="10.9.0.2")
V6 = dict(src="fd00:9::1", dst="fd00:9::2")


def _bytes_of(layers, dst=RECEIVER):
    return bytes(Ether(src=SENDER, dst=dst) / layers)


def _ip(**fields):
    return IP(**dict(V4, **fields))


def _ip6(**fields):
    return IPv6(**dict(V6, **fields))


def _made():
    """{name: (frame, what countp counts it as, what protostats)}, by hand."""
    data = Raw(b"0123456789abcdef")
    v4, v6, tag = _ip(), _ip6(), Dot1Q(vlan=5)
    tcp, udp = TCP(sport=1025, dport=80), UDP(sport=1025, dport=7) / data
    ntp = UDP(sport=123, dport=1025) / data
    ping, unreach = ICMP(type=8) / data, ICMP(type=3, code=1) / data
    ping6, unreach6 = ICMPv6EchoRequest() / data, ICMPv6DestUnreach() / data
    hop, dst, frag = (IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(),
                      IPv6ExtHdrFragment())
    first = IPv6ExtHdrFragment(m=1)
    route = IPv6ExtHdrRouting(addresses=["fd00:9::3"])
    seven = hop / dst / dst / dst / dst / dst / dst
    chain = hop / dst / route / dst / AH(nh=60, payloadlen=1) / frag / dst
    options = [IPOption_Router_Alert()] * 10

    def later(protocol):
        return IPv6ExtHdrFragment(nh=protocol, offset=100, id=7)

    kinds = {
        "TCP": ("TCP", "TCP"), "UDP": ("UDP", "UDP"),
        "DNS": ("UDP-kept", "UDP"), "NTP": ("UDP-kept", "UDP"),
        "ping": ("other", "ping"),
        "ICMP": ("other", "ICMP"), "ND": ("ARP/ND", "ICMP"),
        "ARP": ("ARP/ND", "other"), "other": ("other", "other"),
        "BAD": ("bad-source", "ping")}
    made = {
        "TCP": {
            "v4": v4 / tcp / data, "v4 syn": v4 / tcp, "v6": v6 / tcp / data,
            "v4 options": _ip(options=options) / tcp,
            "v4 fragment": _ip(flags="MF") / tcp / data,
            "v4 later fragment": _ip(frag=100, proto=6) / data,
            "v4 tiny fragment": _ip(flags="MF", proto=6) / Raw(b"\0\1\0\2"),
            "vlan": tag / v4 / tcp,
            "two tags": Dot1AD(vlan=5) / Dot1Q(vlan=6) / v6 / tcp,
            "all extension headers": v6 / chain / tcp / data,
            "v6 fragment": v6 / hop / first / tcp,
            "v6 later fragment": v6 / later(6) / data,
            "v6 much later fragment": v6 / IPv6ExtHdrFragment(
                nh=6, offset=0x1000, id=7) / data,
            "v6 fragment that says so once": v6 / first / IPv6ExtHdrFragment(
                nh=6) / data,
            "eight extension headers": v6 / seven / dst / tcp},
        "UDP": {
            "v4": v4 / udp, "v6": v6 / udp,
            "empty": v4 / UDP(sport=7, dport=7),
            "vlan, v6, extension headers": tag / v6 / hop / dst / udp,
            "v4 later fragment": _ip(frag=1, proto=17) / data,
            "tiny fragment": _ip(flags="MF", proto=17) / Raw(b"\0\65"),
            "v6 later fragment": v6 / later(17) / data,
            "from a port to which UDP is kept": v4 / UDP(sport=53, dport=1025),
            "to a port from which UDP is kept": v4 / UDP(sport=53, dport=123)},
        "DNS": {
            "query": v4 / UDP(sport=1025, dport=53) / data,
            "DHCP, by range": tag / v4 / UDP(sport=68, dport=67)},
        "NTP": {
            "answer": v6 / ntp, "first fragment": _ip(flags="MF") / ntp},
        "ping": {
            "v4": v4 / ping, "v4 reply": v4 / ICMP(type=0) / data,
            "v6": v6 / ping6, "v6 reply": v6 / ICMPv6EchoReply() / data,
            "first fragment": _ip(flags="MF") / ping,
            "two tags": tag / Dot1Q(vlan=6) / v4 / ping},
        "ICMP": {
            "v4": v4 / unreach, "v6": v6 / unreach6 / data,
            "v4 later fragment": _ip(frag=100, proto=1) / data,
            "v6 later fragment": v6 / later(58) / data,
            "type is not that of v6": v4 / ICMP(type=128) / data,
            "type is not that of v4": v6 / ICMPv6EchoRequest(type=8) / data,
            "listener report": v6 / hop / ICMPv6MLReport2(),
            "before ND's types": v6 / ICMPv6EchoRequest(type=132) / data,
            "after ND's types": v6 / ICMPv6EchoRequest(type=138) / data},
        "ND": {
            "solicitation": v6 / ICMPv6ND_NS(), "answer": v6 / ICMPv6ND_NA(),
            "router solicitation": v6 / ICMPv6ND_RS(),
            "router": v6 / ICMPv6ND_RA(), "redirect": v6 / ICMPv6ND_Redirect(),
            "vlan": tag / v6 / ICMPv6ND_NS()},
        "ARP": {
            "request": ARP(psrc=V4["src"], pdst=V4["dst"]),
            "vlan": tag / ARP()},
        "other": {
            "v4 ESP": v4 / ESP(), "v6 no next header": _ip6(nh=59),
            "v6 ESP": v6 / ESP(), "v4 AH": v4 / AH() / tcp,
            "ICMPv6 in v4": _ip(proto=58) / data,
            "ICMP in v6": _ip6(nh=1) / data,
            "802.3 length": LLC() / data,
            "nine extension headers": v6 / seven / dst / dst / tcp,
            "three tags": tag / tag / tag / v4 / tcp,
            "v6 later fragment of a chain": v6 / later(60) / data,
            "v4 version": _ip(version=5) / tcp,
            "v4 header length": _ip(ihl=4) / tcp,
            "v6 version": _ip6(version=4) / tcp},
    }
    cut = {"v4 header": (v4 / tcp, 14 + 19), "TCP": (v4 / tcp, 14 + 20 + 19),
           "v4 options": (_ip(ihl=15, proto=17) / udp, 14 + 59),
           "UDP": (v4 / UDP(), 14 + 20 + 7), "ICMP": (v4 / ping, 14 + 20 + 7),
           "v6 header": (v6 / tcp, 14 + 39), "ND": (v6 / ICMPv6ND_NS(), 61),
           "tag": (tag / v4 / tcp, 14 + 3), "ARP": (ARP(), 14 + 27),
           "extension header": (v6 / route / udp, 14 + 40 + 23),
           "short extension header": (v6 / dst / udp, 14 + 40 + 7),
           "fragment header": (v6 / frag / udp, 14 + 40 + 7)}
    frames = {kind + ", " + name: (_bytes_of(layers),) + kinds[kind]
              for kind, group in made.items()
              for name, layers in group.items()}
    frames.update({
        "cut, " + name: (_bytes_of(layers)[:size],) + kinds["other"]
        for name, (layers, size) in cut.items()})
    for name, frame, kind in (
            ("ping to all", _bytes_of(v4 / ping, ALL), "ping"),
            ("ping to a group", _bytes_of(v6 / ping6, GROUP), "ping"),
            ("ARP to all", _bytes_of(ARP(), ALL), "ARP"),
            ("Ethernet header alone", _bytes_of(Raw(b""))[:12] + b"\x88\xb5",
             "other")):
        frames[name] = (frame,) + kinds[kind]
    # Sent back, this would be a broadcast.
    frames["ping from all"] = (
        bytes(Ether(src=ALL, dst=RECEIVER) / v4 / ping),) + kinds["BAD"]
    return frames


MADE = _made()


def sent_back(frame):
    """Return the frame as it returns to its sender."""
    address = bytes.fromhex(RECEIVER.replace(":", ""))
    return frame[6:12] + address + frame[12:]


class Cut(Exception):
    """A header is not whole, or not what it has to be."""


class Reader:
    """Takes a frame's bytes from its start on."""

    def __init__(self, frame):
        self.rest = frame

    def take(self, size):
        if len(self.rest) < size:
            raise Cut
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def _read_ipv4(reader):
    first = reader.rest[:1] and reader.rest[0]
    header = reader.take(20)
    if first >> 4 != 4 or first & 15 < 5:
        raise Cut
    reader.take(4 * (first & 15) - 20)
    fragment = struct.unpack_from("!H", header, 6)[0]
    return header[9], fragment & 0x1fff, fragment & 0x2000


def _read_ipv6(reader):
    """RFC 8200, and RFC 4302 for the length of an AH."""
    header = reader.take(40)
    if header[0] >> 4 != 6:
        raise Cut
    protocol, more = header[6], 0
    for _ in range(8):
        if protocol not in (0, 43, 44, 51, 60):
            break
        this, start = protocol, reader.take(8)
        protocol = start[0]
        if this == 44:
            field = struct.unpack_from("!H", start, 2)[0]
            more |= field & 1
            if field >> 3:
                return protocol, field >> 3, more
        elif this == 51:
            reader.take(4 * start[1])
        else:
            reader.take(8 * start[1])
    return protocol, 0, more


def describe(frame):
    """Return (kind, ports): TCP, UDP, ping, ICMP, ND, ARP or other, and of UDP
    the source and destination ports where the frame has them."""
    try:
        return _describe(Reader(frame))
    except Cut:
        return "other", ()


def _describe(reader):
    kind = reader.take(14)[12:]
    for _ in range(2):
        if kind in (b"\x81\x00", b"\x88\xa8"):
            kind = reader.take(4)[2:]
    if kind == b"\x08\x06":
        reader.take(28)
        return "ARP", ()
    if kind == b"\x08\x00":
        protocol, offset, more = _read_ipv4(reader)
        icmp, echo, nd = 1, (0, 8), ()
    elif kind == b"\x86\xdd":
        protocol, offset, more = _read_ipv6(reader)
        icmp, echo, nd = 58, (128, 129), range(133, 138)
    else:
        return "other", ()
    whole = not offset and not more
    here = b"" if offset else reader.rest
    if protocol not in (6, 17, icmp):
        return "other", ()
    if whole:
        reader.take({6: 20}.get(protocol, 8))
    if protocol == 6:
        return "TCP", ()
    if protocol == 17:
        return "UDP", struct.unpack("!HH", here[:4]) if here[3:] else ()
    if here and here[0] in echo:
        return "ping", ()
    if whole and here[0] in nd:
        return "ND", ()
    return "ICMP", ()


def corpus(count, seed):
    """count frames of 14 bytes and more: the made ones, these cut at every
    length, and then these with random changes, or all random."""
    chance = random.Random(seed)
    made = [frame for frame, _, _ in MADE.values()]
    frames = [frame[:size] for frame in made
              for size in range(14, len(frame) + 1)]
    kinds = [b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xa8", b"\x08\x06"]
    while len(frames) < count:
        frame = bytearray(chance.choice(made))
        if chance.random() < 0.2:
            frame = bytearray(chance.getrandbits(8) for _ in range(
                chance.randrange(14, 150)))
            frame[12:14] = chance.choice(kinds)
        else:
            for _ in range(chance.randrange(1, 5)):
                first = 12 if chance.random() < 0.1 else 14
                at = min(len(frame) - 1, first + int(
                    chance.random() ** 2 * (len(frame) - first)))
                frame[at] = chance.choice((
                    chance.getrandbits(8), chance.choice((
                        0, 1, 4, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x60, 0xff)),
                    frame[at] ^ 1 << chance.randrange(8)))
        if chance.random() < 0.3:
            del frame[chance.randrange(14, len(frame) + 1):]
        frames.append(bytes(frame))
    return frames[:count]
