"""A peer's name is the fingerprint of its key, never a name that someone else could take; its address is ``host:port``,
with an IPv6 address in brackets."""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from cloister.errors import ConfigurationError, IdentityError

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


_FINGERPRINT: Final = re.compile(r"sha256:[0-9a-f]{64}")


def check_fingerprint(text: str) -> str:
    """``text``, if it is a fingerprint.

    Raises:
        IdentityError: it is not ``sha256:`` and 64 hexadecimal digits in lower case.
    """
    if not _FINGERPRINT.fullmatch(text):
        raise IdentityError(
            f"{text!r} is not a fingerprint: that is sha256: and 64 hexadecimal digits, see `cloister key show`"
        )
    return text


def fingerprint(spki: bytes) -> str:
    """The fingerprint of a public key: ``sha256:`` and the hash of its SubjectPublicKeyInfo in DER (RFC 5280, 4.1)."""
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"
