"""Which network interface of this host other hosts know it by."""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterator

_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_LIST_ADDRESSES = 0x8912
"""SIOCGIFCONF of linux/sockios.h: IPv4 addresses and their interfaces (man 7 netdevice)."""
_ENTRY = struct.Struct("16s4x4s16x")
"""struct ifreq: name, and in its sockaddr_in, after family and port, the address."""
_MOST_ENTRIES = 1024


def interface_of(address: str) -> str:
    """The interface that holds an IPv4 address; empty when none does."""
    return next((name for name, held in _addresses() if held == address), "")


def _addresses() -> Iterator[tuple[str, str]]:
    """Every interface with each of its IPv4 addresses."""
    entries = array.array("B", bytes(_ENTRY.size * _MOST_ENTRIES))
    place, room = entries.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, _LIST_ADDRESSES, struct.pack("iP", room, place))
    used_bytes, _ = struct.unpack("iP", answer)
    for name, held in _ENTRY.iter_unpack(entries[:used_bytes]):
        label = name.partition(b"\0")[0].decode()
        yield label.partition(":")[0], socket.inet_ntoa(held)  # eth0:1 is an address of eth0


def interface_environment(address: str) -> dict[str, str]:
    """What makes gloo and NCCL use the interface of this address; what is set already stays.

    They would take the one that the host's name stands for, which is often the loopback.
    """
    return dict(_unset_names(interface_of(address)))


def _unset_names(interface: str) -> Iterator[tuple[str, str]]:
    for name in _INTERFACE_VARIABLES:
        if interface and name not in os.environ:
            yield name, interface
