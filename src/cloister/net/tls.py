"""TLS 1.3 with certificates both ways, and nothing of it trusted but the proof of a key.

``ssl`` checks that a certificate comes from the public issuer, which anyone can be, and that it is valid today; the TLS
handshake proves that the peer holds its key. Who the peer is follows from that key's fingerprint, which the callers of
this module compare before they read or send a byte.

Towards an instance that proves itself (``attested``) TLS is transport and no more: its key is as old as the process, so
there is no fingerprint to compare, and what it shows is checked by its evidence, which is bound to that key.

Here is what an instance needs, which is dialled. The settings of ends that have an identity are in ``contexts``, the
handshake of the end that dials in ``dial``.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cloister.errors import IdentityError, NetworkError, UnreachableError
from cloister.net.certificates import fingerprint_of, public_issuer

ALPN: Final = "cloister/1"
_RECORD_HEADER_BYTES: Final = 5
_RECORD_BYTES: Final = (1 << 14) + 256
_RECORDS: Final = 32
"""Of a peer, in a handshake. A client of OpenSSL's sends five: its hello, and then a change of ciphers, its
certificate, the proof of its key, and the end."""


def settings(protocol: int) -> ssl.SSLContext:
    """What all ends have in common; ``protocol`` says which end it is (``ssl.PROTOCOL_TLS_SERVER``, ``_CLIENT``)."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a peer is a key, not a name
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=public_issuer().public_bytes(Encoding.DER))
    return context


def instance_context(key: Ed25519PrivateKey, certificate: bytes) -> ssl.SSLContext:
    """TLS settings for an instance that proves itself: its key, and PEM of its certificate. Callers may show none.

    ``ssl`` loads keys from files only: what lies in one, for a moment, is the key under a random password.
    """
    context = settings(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    password = secrets.token_hex(32)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(locked + certificate)
        file.flush()
        context.load_cert_chain(file.name, password=password)
    return context


def wrap(raw: socket.socket, *, context: ssl.SSLContext, server_side: bool) -> ssl.SSLSocket:
    """A TLS socket in the place of ``raw``, which is spent. the handshake comes next.

    Raises:
        UnreachableError: the peer is gone already.
    """
    try:
        # suppress_ragged_eofs: an end without close_notify is an error of ours, not an empty read.
        return context.wrap_socket(
            raw, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except (OSError, ValueError) as fault:
        raw.close()
        raise handshake_error(fault, 0.0) from fault


class Handshake:
    """The listening end's handshake, which never waits and never takes long: for a thread that has many of them.

    OpenSSL takes whatever has come, and a peer that puts one byte into each record keeps it at that for a second. So it
    reads from a socket pair what is let through here: whole records, and no more of them than a handshake may have.
    When it is over the connection takes the pair's place, under the descriptor that OpenSSL knows.

    Args:
        raw: does not block, and is spent. source: who it counts for.
    """

    def __init__(self, raw: socket.socket, *, context: ssl.SSLContext, source: str) -> None:
        self.descriptor: Final = raw.fileno()
        self.source: Final = source
        self._raw = raw
        self._context = context
        self._pair: socket.socket | None = None  # before the first record a peer costs nothing but its connection
        self._secured: ssl.SSLSocket | None = None
        self._record = bytearray()
        self._records = 0

    def arrived(self) -> bool:
        """Whether a whole record has (RFC 8446, section 5.1), and ``advance`` is to be called.

        Raises:
            UnreachableError: as ``dial.handshake``.
        """
        with self._explained():
            while (missing := self._missing()) > 0:
                try:
                    piece = self._raw.recv(missing)
                except BlockingIOError:
                    if missing > _RECORD_HEADER_BYTES:  # nobody need be woken for less
                        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, missing)
                    return False
                if not piece:
                    raise ConnectionResetError
                self._record += piece
        return True

    def advance(self) -> tuple[ssl.SSLSocket, str] | None:
        """Goes on with what has come. The secured connection and what ``dial.handshake`` returns, once it is over.

        Raises:
            UnreachableError: as ``dial.handshake``. OSError: the system gives no descriptors; may be tried again.
        """
        if self._pair is None or self._secured is None:
            inner, self._pair = socket.socketpair()
            self._secured = wrap(inner, context=self._context, server_side=True)
            self._secured.setblocking(False)
            self._pair.setblocking(False)
        with self._explained():
            while not self._over(self._secured, self._pair):
                if not self.arrived():
                    return None
            peer = proved(self._secured)
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            os.dup2(self.descriptor, self._secured.fileno(), inheritable=False)
            self._raw.close()
            self._pair.close()
            return self._secured, peer

    def close(self) -> None:
        """Ends it. May be called twice."""
        for each in (self._raw, self._pair, self._secured):
            if each is not None:
                each.close()

    def _missing(self) -> int:
        if len(self._record) < _RECORD_HEADER_BYTES:
            return _RECORD_HEADER_BYTES - len(self._record)
        body_bytes = int.from_bytes(self._record[3:_RECORD_HEADER_BYTES])
        if self._record[1] != 3 or body_bytes > _RECORD_BYTES or self._records == _RECORDS:
            raise UnreachableError("it does not speak TLS as clients do")
        return _RECORD_HEADER_BYTES + body_bytes - len(self._record)

    def _over(self, secured: ssl.SSLSocket, pair: socket.socket) -> bool:
        """Gives OpenSSL a record, and the peer what OpenSSL says to it, which an empty socket's buffer can hold."""
        pair.sendall(self._record)
        self._record.clear()
        self._records += 1
        try:
            secured.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            with suppress(BlockingIOError):  # it says nothing
                self._raw.sendall(pair.recv(_RECORDS * _RECORD_BYTES))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as fault:
            self.close()
            raise handshake_error(fault, 0.0) from fault
        except BaseException:
            self.close()
            raise


def proved(secured: ssl.SSLSocket) -> str:
    """The fingerprint that the peer has proved in a handshake that is over; empty where it showed no certificate.

    Raises:
        UnreachableError: it speaks another protocol. IdentityError: its certificate cannot be read.
    """
    if secured.selected_alpn_protocol() != ALPN:
        raise UnreachableError("it speaks TLS but not cloister's protocol")
    certificate = secured.getpeercert(binary_form=True)
    return fingerprint_of(certificate) if certificate else ""


def handshake_error(fault: OSError | ValueError, within_s: float) -> NetworkError:
    """What went wrong in a handshake that had ``within_s`` seconds, in the words of this end."""
    match fault:
        case IdentityError():
            return UnreachableError("it shows a certificate that cannot be read")
        case TimeoutError():
            return UnreachableError(f"it did not finish the TLS handshake within {within_s:.3g} s")
        case ssl.SSLCertVerificationError():
            return UnreachableError(
                f"its certificate is refused: {fault.verify_message}. Its owner renews it with `cloister key renew`"
            )
        case ssl.SSLEOFError() | ConnectionError() | OSError(errno=errno.ENOTCONN):  # the last: before it began
            return UnreachableError("it closed the connection during the TLS handshake; it may be busy")
        case ssl.SSLError():
            return UnreachableError(f"no TLS 1.3 handshake was possible: {(fault.reason or 'unknown').lower()}")
        case _:
            return UnreachableError(f"the TLS handshake failed: {fault}")
