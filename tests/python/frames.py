"""Ethernet frames of known kinds, a plain reading of any frame's kind, and
what the XDP tools do with them."""

import random
from struct import calcsize, error, unpack_from

from scapy.all import (
    AH, ARP, ESP, ICMP, IP, LLC, TCP, UDP, Dot1AD, Dot1Q, Ether,
    ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLReport2,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS,
    IPOption_Router_Alert, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw)

from veth import RECEIVER, SENDER

# By tool: options, and each class in the order of the C text with its action.
OPTIONS = {"countp": ["-k", "53,67-68,src:123"], "protostats": []}
ACTIONS = {
    "countp": {"TCP": "pass", "UDP": "drop", "UDP-kept": "pass",
               "ARP/ND": "pass", "other": "tx", "bad-source": "drop"},
    "protostats": dict.fromkeys(["TCP", "UDP", "ping", "ICMP", "other"],
                                "pass")}
# By tool: kinds of frames that count in a class of another name.
CLASSES = {
    "countp": {"DNS": "UDP-kept", "NTP": "UDP-kept", "ping": "other",
               "ICMP": "other", "ND": "ARP/ND", "ARP": "ARP/ND",
               "BAD": "bad-source"},
    "protostats": {"DNS": "UDP", "NTP": "UDP", "ND": "ICMP", "ARP": "other",
                   "BAD": "ping"}}


def class_of(tool, kind):
    """Return the class in which a tool counts a kind of frame."""
    return CLASSES[tool].get(kind, kind)


def classify(tool, frame):
    """Return a frame's class, by a plain reading."""
    try:
        kind, ports = _describe(frame)
    except error:       # a header is cut, or not what it has to be
        kind, ports = "other", ()
    if tool == "countp" and frame[6] & 1:
        return "bad-source"
    if ports and (ports[0] == 123 or ports[1] in (53, 67, 68)):
        kind = "DNS"
    return class_of(tool, kind)


def _made():
    """Return {name: (frame, kind)}, made by hand."""
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

    made = {
        "TCP": {
            "v4": v4 / tcp / data, "v4 syn": v4 / tcp, "v6": v6 / tcp / data,
            "v4 options": IP(options=options) / tcp,
            "v4 fragment": IP(flags="MF") / tcp / data,
            "v4 later fragment": IP(frag=100, proto=6) / data,
            "v4 tiny fragment": IP(flags="MF", proto=6) / Raw(b"\0\1\0\2"),
            "vlan": tag / v4 / tcp,
            "two tags": Dot1AD(vlan=5) / Dot1Q(vlan=6) / v6 / tcp,
            "all extension headers": v6 / chain / tcp / data,
            "v6 fragment": v6 / hop / first / tcp,
            "v6 later fragment": v6 / later(6) / data,
            "v6 much later fragment": v6 / later(6, 0x1000) / data,
            "v6 fragment that says so once": v6 / first / later(6, 0) / data,
            "eight extension headers": v6 / seven / dst / tcp},
        "UDP": {
            "v4": v4 / udp, "v6": v6 / udp,
            "empty": v4 / UDP(sport=7, dport=7),
            "vlan, v6, extension headers": tag / v6 / hop / dst / udp,
            "v4 later fragment": IP(frag=1, proto=17) / data,
            "tiny fragment": IP(flags="MF", proto=17) / Raw(b"\0\65"),
            "v6 later fragment": v6 / later(17) / data,
            "from a port to which UDP is kept": v4 / UDP(sport=53, dport=1025),
            "to a port from which UDP is kept": v4 / UDP(sport=53, dport=123)},
        "DNS": {
            "query": v4 / UDP(sport=1025, dport=53) / data,
            "DHCP, by range": tag / v4 / UDP(sport=68, dport=67)},
        "NTP": {
            "answer": v6 / ntp, "first fragment": IP(flags="MF") / ntp},
        "ping": {
            "v4": v4 / ping, "v4 reply": v4 / ICMP(type=0) / data,
            "v6": v6 / ping6, "v6 reply": v6 / ICMPv6EchoReply() / data,
            "first fragment": IP(flags="MF") / ping,
            "two tags": tag / Dot1Q(vlan=6) / v4 / ping},
        "ICMP": {
            "v4": v4 / unreach, "v6": v6 / unreach6 / data,
            "v4 later fragment": IP(frag=100, proto=1) / data,
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
            "request": ARP(), "vlan": tag / ARP()},
        "other": {
            "v4 ESP": v4 / ESP(), "v6 no next header": IPv6(nh=59),
            "v6 ESP": v6 / ESP(), "v4 AH": v4 / AH() / tcp,
            "ICMPv6 in v4": IP(proto=58) / data,
            "ICMP in v6": IPv6(nh=1) / data, "802.3 length": LLC() / data,
            "nine extension headers": v6 / seven / dst / dst / tcp,
            "three tags": tag / tag / tag / v4 / tcp,
            "v6 later fragment of a chain": v6 / later(60) / data,
            "v4 version": IP(version=5) / tcp,
            "v4 header length": IP(ihl=4) / tcp,
            "v6 version": IPv6(version=4) / tcp},
    }
    cut = {"v4 header": (v4 / tcp, 14 + 19), "TCP": (v4 / tcp, 14 + 20 + 19),
           "v4 options": (IP(ihl=15, proto=17) / udp, 14 + 59),
           "UDP": (v4 / UDP(), 14 + 20 + 7), "ICMP": (v4 / ping, 14 + 20 + 7),
           "v6 header": (v6 / tcp, 14 + 39), "ND": (v6 / ICMPv6ND_NS(), 61),
           "tag": (tag / v4 / tcp, 14 + 3), "ARP": (ARP(), 14 + 27),
           "extension header": (v6 / route / udp, 14 + 40 + 23),
           "short extension header": (v6 / dst / udp, 14 + 40 + 7),
           "fragment header": (v6 / frag / udp, 14 + 40 + 7)}
    frames = {"%s, %s" % (kind, name): (frame(layers), kind)
              for kind, group in made.items()
              for name, layers in group.items()}
    frames.update({"cut, " + name: (frame(layers)[:size], "other")
                   for name, (layers, size) in cut.items()})
    frames.update({
        "ping to all": (frame(v4 / ping, everyone), "ping"),
        "ping to a group": (frame(v6 / ping6, "33:33:00:00:00:01"), "ping"),
        "ARP to all": (frame(ARP(), everyone), "ARP"),
        "Ethernet header alone": (frame(b"")[:12] + b"\x88\xb5", "other"),
        # Sent back, this would be a broadcast.
        "ping from all": (frame(v4 / ping, src=everyone), "BAD")})
    return frames


MADE = _made()


def sent_back(frame):
    """Return the frame as it returns to its sender."""
    address = bytes.fromhex(RECEIVER.replace(":", ""))
    return frame[6:12] + address + frame[12:]


def _describe(frame):
    """Return (kind, ports): TCP, UDP, ping, ICMP, ND, ARP or other, and of UDP
    the source and destination ports where the frame has them."""
    kind, rest = _take("!12xH", frame)
    for _ in range(2):
        if kind in (0x8100, 0x88a8):
            kind, rest = _take("!2xH", rest)
    if kind == 0x0806:
        _take("27xB", rest)
        return "ARP", ()
    if kind == 0x0800:
        protocol, offset, more, rest = _read_ipv4(rest)
        icmp, echo, nd = 1, (0, 8), ()
    elif kind == 0x86dd:
        protocol, offset, more, rest = _read_ipv6(rest)
        icmp, echo, nd = 58, (128, 129), range(133, 138)
    else:
        return "other", ()
    if protocol not in (6, 17, icmp):
        return "other", ()
    whole = not offset and not more
    if whole:
        _take("19xB" if protocol == 6 else "7xB", rest)
    if protocol == 6:
        return "TCP", ()
    if protocol == 17:
        has_ports = not offset and len(rest) >= 4
        return "UDP", unpack_from("!HH", rest) if has_ports else ()
    if not offset and rest and rest[0] in echo:
        return "ping", ()
    return "ND" if whole and rest[0] in nd else "ICMP", ()


def _take(layout, rest):
    """Return a header's values, and what follows it."""
    return (*unpack_from(layout, rest), rest[calcsize(layout):])


def _read_ipv4(rest):
    first, fragment, protocol, _ = _take("!B5xHxB10x", rest)
    if first >> 4 != 4 or first & 15 < 5:
        raise error
    _, rest = _take("%dxB" % (4 * (first & 15) - 1), rest)
    return protocol, fragment & 0x1fff, fragment & 0x2000, rest


def _read_ipv6(rest):
    """RFC 8200, and RFC 4302 for the length of an AH."""
    first, protocol, rest = _take("!B5xB33x", rest)
    if first >> 4 != 6:
        raise error
    more = 0
    for _ in range(8):
        if protocol not in (0, 43, 44, 51, 60):
            break
        this = protocol
        protocol, size, field, _ = _take("!BBH4x", rest)
        size = {44: 8, 51: 4 * size + 8}.get(this, 8 * size + 8)
        _, rest = _take("%dxB" % (size - 1), rest)
        if this == 44:
            more |= field & 1
            if field >> 3:
                return protocol, field >> 3, more, rest
    return protocol, 0, more, rest


def corpus(count, seed):
    """Return frames of 14 bytes and more: the made ones cut at every length,
    and then these with random changes, or random but for the EtherType."""
    chance = random.Random(seed)
    made = [frame for frame, _ in MADE.values()]
    frames = [frame[:size] for frame in made
              for size in range(14, len(frame) + 1)]
    usual = [0, 1, 4, 6, 17, 43, 44, 51, 58, 60, 0x45, 0x60, 0xff]
    while len(frames) < count:
        frame = bytearray(chance.choice(made))
        if chance.random() < 0.2:
            frame[14:] = (chance.getrandbits(8) for _ in range(
                chance.randrange(136)))
            frame[0:12] = (chance.getrandbits(8) for _ in range(12))
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
