"""A plain reading of any frame's kind, and what the XDP tools do with it."""

import socket
from struct import calcsize, error, unpack_from

from frames import RECEIVER

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
    kind, fields = describe(frame)
    if tool == "countp" and frame[6] & 1:
        return "bad-source"
    if kind == "UDP" and (fields.get("sport") == "123" or fields.get(
            "dport") in ("53", "67", "68")):
        kind = "DNS"
    return class_of(tool, kind)


def field_of(field, frame):
    """Return what protostats -t shows of a frame: its src, sport or dport."""
    return describe(frame)[1].get(field, "-")


def describe(frame):
    """Return a frame's kind, and a dict with its src, sport and dport."""
    fields = {}
    try:
        return read(frame, fields), fields
    except error:       # a header is cut, or not what it has to be
        return "other", fields


def sent_back(frame):
    """Return the frame as it returns to its sender."""
    address = bytes.fromhex(RECEIVER.replace(":", ""))
    return frame[6:12] + address + frame[12:]


def read(frame, fields):
    """Return TCP, UDP, ping, ICMP, ND, ARP or other. Fill in the fields."""
    kind, rest = take("!12xH", frame)
    for _ in range(2):
        if kind in (0x8100, 0x88a8):
            kind, rest = take("!2xH", rest)
    if kind == 0x0806:
        take("27xB", rest)
        return "ARP"
    if kind == 0x0800:
        first, fragment, protocol, source, _ = take("!B5xHxB2x4s4x", rest)
        if first >> 4 != 4 or first & 15 < 5:
            raise error
        fields["src"] = socket.inet_ntop(socket.AF_INET, source)
        offset, more = fragment & 0x1fff, fragment & 0x2000
        _, rest = take("%dxB" % (4 * (first & 15) - 1), rest)
        icmp, echo, nd = 1, (0, 8), ()
    elif kind == 0x86dd:
        first, protocol, source, rest = take("!B5xBx16s16x", rest)
        if first >> 4 != 6:
            raise error
        fields["src"] = socket.inet_ntop(socket.AF_INET6, source)
        offset = more = 0
        for _ in range(8):
            if offset or protocol not in (0, 43, 44, 51, 60):
                break
            this = protocol
            protocol, size, field, _ = take("!BBH4x", rest)
            # RFC 8200, and RFC 4302 for the length of an AH
            size = {44: 8, 51: 4 * size + 8}.get(this, 8 * size + 8)
            _, rest = take("%dxB" % (size - 1), rest)
            if this == 44:
                offset, more = field >> 3, more | field & 1
        icmp, echo, nd = 58, (128, 129), range(133, 138)
    else:
        return "other"
    if protocol not in (6, 17, icmp):
        return "other"
    whole = not offset and not more
    if whole:
        take("19xB" if protocol == 6 else "7xB", rest)
    if protocol in (6, 17):
        if not offset and len(rest) >= 4:
            fields["sport"], fields["dport"] = map(
                str, unpack_from("!HH", rest))
        return "TCP" if protocol == 6 else "UDP"
    if not offset and rest and rest[0] in echo:
        return "ping"
    return "ND" if whole and rest[0] in nd else "ICMP"


def take(layout, rest):
    """Return a header's values, and what follows it."""
    return (*unpack_from(layout, rest), rest[calcsize(layout):])
