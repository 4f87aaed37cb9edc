"""Two tun devices, each in a network namespace, joined: what goes into one comes out of the other.

    tun.py NAMESPACE DEVICE NAMESPACE DEVICE
"""

import ctypes
import fcntl
import os
import select
import struct
import sys

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000

libc = ctypes.CDLL(None, use_errno=True)


def tun(namespace, name):
    with open(namespace) as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"entering {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def main(arguments):
    a, b = (tun(*arguments[i : i + 2]) for i in (0, 2))
    print("ready", flush=True)
    other = {a: b, b: a}
    while True:
        for device in select.select([a, b], [], [])[0]:
            try:
                os.write(other[device], os.read(device, 65536))
            except OSError:
                # One of them is not up yet.
                pass


main(sys.argv[1:])
