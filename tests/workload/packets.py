#!/usr/bin/python3
"""Send known numbers of packets from one host to another, in five seconds.

USAGE: packets.py receive ADDRESS
       packets.py send ADDRESS [SECONDS]

send sends 23 pings, 2,300 UDP datagrams and, by TCP, 23 MB in 23 rounds, with
a pause of SECONDS (default: 0.2) after each. It requires root, for the pings.
"""

import contextlib
import socket
import struct
import sys
import time

PORT, ROUNDS = 2300, 23
MEGABYTE = bytes(1000000)


def receive(address):
    """Receive by TCP until the sender closes. Nothing reads the datagrams."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(1)
        with listener.accept()[0] as stream:
            while stream.recv(1 << 20):
                pass


def connect(address):
    """Return a TCP socket. Try for 10 s, as the receiver may start later."""
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection((address, PORT), 10)
        time.sleep(0.1)
    sys.exit("packets.py: nothing receives at " + address)


def echo_request(number):
    """Return an ICMP echo request (RFC 792) with its checksum (RFC 1071)."""
    request = struct.pack("!BBHHH", 8, 0, 0, 23, number) + b"countp  " * 7
    total = sum(struct.unpack("!%dH" % (len(request) // 2), request))
    checksum = ~(total + (total >> 16)) & 0xffff
    return request[:2] + struct.pack("!H", checksum) + request[4:]


def send(address, seconds=0.2):
    with connect(address) as stream, socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pings:
        for number in range(ROUNDS):
            stream.sendall(MEGABYTE)
            for _ in range(100):
                datagrams.sendto(b"x" * 100, (address, PORT))
            pings.sendto(echo_request(number), (address, 0))
            time.sleep(float(seconds))


if __name__ == "__main__":
    commands = {"receive": receive, "send": send}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
