#!/usr/bin/python3
"""Packets of known numbers between two hosts, in about five seconds.

USAGE: packets.py receive ADDRESS
       packets.py send ADDRESS

Sends 23 pings, 2,300 UDP datagrams and, by TCP, 23 MB to who receives: a
23rd of each, a short rest, and so on. As root, for the pings.
"""

import socket
import struct
import sys
import time

PORT, ROUNDS = 2300, 23
MEGABYTE = bytes(1000000)


def receive(address):
    """Take what comes by TCP until the sender closes; nobody reads UDP."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(1)
        with listener.accept()[0] as stream:
            while stream.recv(1 << 20):
                pass


def connect(address):
    """The receiver may not be there yet: try for 10 s. Raises OSError."""
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((address, PORT), 10)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def echo_request(number):
    """An ICMP echo request (RFC 792), with its checksum (RFC 1071)."""
    words = struct.pack("!BBHHH", 8, 0, 0, 23, number) + b"countp  " * 7
    total = sum(struct.unpack("!%dH" % (len(words) // 2), words))
    checksum = ~(total + (total >> 16)) & 0xffff
    return words[:2] + struct.pack("!H", checksum) + words[4:]


def send(address):
    """Send all. Returns nothing; raises OSError."""
    with connect(address) as stream, socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pings:
        for number in range(ROUNDS):
            stream.sendall(MEGABYTE)
            for _ in range(100):
                datagrams.sendto(b"x" * 100, (address, PORT))
            pings.sendto(echo_request(number), (address, 0))
            time.sleep(0.2)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("receive", "send"):
        sys.exit(__doc__)
    {"receive": receive, "send": send}[sys.argv[1]](sys.argv[2])
