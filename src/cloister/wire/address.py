"""Addresses: ``host:port``, with an IPv6 address in brackets."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final, NamedTuple

from cloister.errors import ConfigurationError

_HOST_CHARS: Final = 253
"""A host name's greatest length (RFC 1035, section 2.3.4, without the root's dot)."""


class Address(NamedTuple):
    """A host (a name, an IPv4 address, or an IPv6 address without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads ``bob.example:7443``, ``192.0.2.7:7443`` or ``[2001:db8::7]:7443``. Port 0 stands for any free port.

    Raises:
        ConfigurationError: not an address; the message says what is wrong with it.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or host.endswith(":"):
        raise ConfigurationError(f"{text!r} is not an address: write host:port, such as bob.example:7443")
    return Address(_host(text, host), _port(text, port))


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        literal, _, zone = host[1:-1].partition("%")
        try:
            IPv6Address(literal)
        except ValueError:
            raise ConfigurationError(f"{text!r} has no IPv6 address between its brackets") from None
        return f"{literal}%{zone}" if zone else literal
    if ":" in host and "/" not in host:
        raise ConfigurationError(f"{text!r} is not an address: an IPv6 address stands in brackets, such as [::1]:7443")
    if len(host) > _HOST_CHARS or not all(char.isalnum() or char in "-._" for char in host):
        raise ConfigurationError(f"{text!r} has no host name: write host:port, such as bob.example:7443")
    return host


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise ConfigurationError(f"{text!r} has no port between 0 and 65535 after its last colon")
    return int(port)
