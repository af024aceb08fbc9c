"""TCP sockets, set up as this protocol wants them."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from cloister.errors import ConfigurationError
from cloister.wire.peers import Address

_BACKLOG: Final = 4096
"""Connections that wait to be accepted: as many, or ``net.core.somaxconn`` if that is less (listen(2)). Where the queue
is full the kernel drops whoever comes, and whoever was dropped tries again after a second, then after three."""
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # a frame is written at once and waits for nothing
    # A peer whose machine vanished is noticed after two minutes, also while nothing is being sent.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def listen(address: Address) -> socket.socket:
    """A listening socket. On ``[::]`` it serves IPv4 too, where the machine can.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        both = address.host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as fault:
        # Not the error's own text, to which Python adds the address as it writes one itself.
        known = fault.errno is not None and not isinstance(fault, socket.gaierror)
        reason = os.strerror(fault.errno or 0) if known else fault.strerror or fault
        raise ConfigurationError(f"cannot listen on {address}: {reason}") from None
    tune(listening)  # Linux hands these on to the connections that are accepted
    return listening


def source_of(peer: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Who a connection counts for: an IPv4 address, or an IPv6 network of 64 bits, all of which one machine may own."""
    return _source_of(peer[0].partition("%")[0])


@lru_cache(maxsize=1024)
def _source_of(host: str) -> str:
    found: IPv4Address | IPv6Address = ip_address(host)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return str(IPv6Network((found, 64), strict=False))
        found = found.ipv4_mapped
    return str(found)


def tune(connected: socket.socket) -> None:
    """Sets a socket up as this protocol wants it."""
    for level, option, value in _OPTIONS:
        connected.setsockopt(level, option, value)
