"""One document over HTTP(S), from a server that is trusted with nothing: bounded in size, and in time as a whole.

The standard library's own clients bound each wait, and not their sum: a server that sends a byte now and then holds
them for ever. Here one deadline counts for all of it. No proxy of the environment is used, no redirect followed, and
nothing decompressed.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import Any, Final, NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

from cloister.errors import CollateralError, ConfigurationError, UnreachableError
from cloister.net.dial import reach
from cloister.wire.peers import Address

_PORTS: Final = {"https": 443, "http": 80}
_PIECE: Final = 1 << 16


class Document(NamedTuple):
    """What came from ``url``: its body, and the header's fields by their names in lower case."""

    url: str
    body: bytes
    headers: Mapping[str, str]


def check_url(text: str) -> str:
    """A service's URL, without a slash at its end.

    Raises:
        ConfigurationError: not an http or https URL, or one with a password, a query or a fragment.
    """
    try:
        url = urlsplit(text)
        known = url.scheme in _PORTS and bool(url.hostname) and url.port != 0
    except ValueError:
        known = False
    plain = text.isascii() and text.isprintable() and not set(text) & set(' @?#\\"<>')
    if not known or not plain:
        raise ConfigurationError(f"{text!r} is not the URL of a service, such as https://pccs.example:8081")
    return text.rstrip("/")


def get(url: str, *, most_bytes: int, within_s: float) -> Document:
    """GETs one document, all of it within ``within_s`` seconds; looking up the host's name comes on top, in the
    system's own time.

    https is checked against the system's roots, or those that SSL_CERT_FILE names.

    Raises:
        UnreachableError: no connection, or no TLS with a certificate for that name.
        CollateralError: any answer but a whole document of at most ``most_bytes`` bytes, in time.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: cloister\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    deadline = monotonic() + within_s
    try:
        with closing(_connect(parts, deadline=deadline)) as raw:
            raw.settimeout(_left(deadline))
            raw.sendall(request.encode("ascii"))
            return _read(HTTPResponse(cast(socket.socket, _Timed(raw, deadline))), url=url, most_bytes=most_bytes)
    except TimeoutError:
        raise CollateralError(f"{url} did not give its whole answer within {within_s:.3g} s; try again later") from None
    except (OSError, HTTPException, ValueError):
        # Also what ``ssl`` says of an answer that is cut off, and http.client of lines and headers without end.
        raise CollateralError(f"{url} gave an answer that is cut off or not HTTP; is it the right service?") from None


def _connect(parts: SplitResult, *, deadline: float) -> socket.socket:
    host = parts.hostname or ""
    raw = reach(Address(host, parts.port or _PORTS[parts.scheme]), within_s=_left(deadline))
    if parts.scheme == "http":
        return raw
    try:
        raw.settimeout(_left(deadline))
        return ssl.create_default_context().wrap_socket(raw, server_hostname=host, suppress_ragged_eofs=False)
    except (OSError, ValueError) as fault:
        raw.close()
        reason = fault.verify_message if isinstance(fault, ssl.SSLCertVerificationError) else type(fault).__name__
        raise UnreachableError(
            f"{parts.netloc} cannot be talked to over TLS: {reason}. The roots are the system's, or those in the file"
            " that the environment's SSL_CERT_FILE names"
        ) from None


def _read(response: HTTPResponse, *, url: str, most_bytes: int) -> Document:
    response.begin()
    if 300 <= response.status < 400:
        raise CollateralError(f"{url} sends on to another place, which is not followed; name the service itself")
    if response.status != 200:
        raise CollateralError(f"{url} answered {response.status}: is it the right service, and has it this platform?")
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise CollateralError(f"{url} gave a compressed answer, which was not asked for and is not opened")
    body = bytearray()
    while len(body) <= most_bytes and (piece := response.read(min(_PIECE, most_bytes + 1 - len(body)))):
        body += piece
    if len(body) + (response.length or 0) > most_bytes:
        raise CollateralError(f"{url} gave an answer of more than {most_bytes} bytes; is it the right service?")
    if response.length:
        raise CollateralError(f"{url} broke off: {response.length} bytes of its answer are missing; try again later")
    return Document(url, bytes(body), {name.lower(): value for name, value in response.getheaders()})


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed(io.RawIOBase):
    """A socket as ``HTTPResponse`` reads it, with one deadline for all that is read."""

    def __init__(self, raw: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        self._raw.settimeout(_left(self._deadline))
        return self._raw.recv_into(into)
