"""The end that dials: reaching an address, the handshake, and a peer that is named by its key."""

from __future__ import annotations

import socket
import ssl
from time import monotonic

from cloister.errors import PeerMismatchError, UnreachableError
from cloister.net import tcp
from cloister.net.connection import Connection
from cloister.net.contexts import client_context
from cloister.net.identity import Identity
from cloister.net.tls import handshake_error, proved, wrap
from cloister.wire.peers import Address, check_fingerprint, parse_address


def reach(address: Address, *, within_s: float) -> socket.socket:
    """A TCP connection to ``address``.

    Raises:
        UnreachableError: no such host, nobody listens there, or no answer within ``within_s`` seconds.
    """
    try:
        connected = socket.create_connection(address, timeout=within_s)
    except TimeoutError:
        raise UnreachableError(f"{address} did not answer within {within_s:g} s") from None
    except (OSError, UnicodeError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise UnreachableError(f"{address} cannot be reached: {reason}") from None
    tcp.tune(connected)
    return connected


def handshake(secured: ssl.SSLSocket, *, within_s: float) -> str:
    """Does the handshake, all of it within ``within_s`` seconds, and returns the fingerprint that the peer proved.

    It is empty where the context lets a peer show no certificate and it showed none.

    Nothing has been read or sent then; compare the fingerprint first.

    Raises:
        UnreachableError: no TLS 1.3, no certificate of the public issuer, one that is not valid today, another
            protocol, or too slow. The socket is closed.
    """
    try:
        secured.settimeout(within_s)  # `ssl` bounds the whole handshake by it, not each read
        secured.do_handshake()
        return proved(secured)
    except (OSError, ValueError) as fault:
        secured.close()
        raise handshake_error(fault, within_s) from fault
    except BaseException:
        secured.close()
        raise


def dial(
    address: str,
    *,
    identity: Identity,
    peer: str,
    within_s: float = 10.0,
    frame_s: float = 10.0,
    piece_s: float = 30.0,
    send_s: float = 30.0,
) -> Connection:
    """A connection to the peer whose fingerprint is ``peer``, ready for the hello (``cloister.net.handshake_client``).

    The fingerprint is compared before anything is sent. ``within_s`` bounds reaching each of the host's
    addresses, and the handshake; the other times are those of ``Connection``.

    Raises:
        ConfigurationError: not an address. IdentityError: not a fingerprint, or an identity that cannot be used.
        UnreachableError: no connection could be made.
        PeerMismatchError: another key answers.
    """
    expected = check_fingerprint(peer)
    target = parse_address(address)
    context = client_context(identity)
    deadline = monotonic() + within_s
    secured = wrap(reach(target, within_s=within_s), context=context, server_side=False)
    try:
        found = handshake(secured, within_s=max(deadline - monotonic(), 0.001))
    except UnreachableError as fault:
        raise UnreachableError(f"{target} cannot be talked to: {fault}") from fault
    if found != expected:
        secured.close()
        raise PeerMismatchError(f"{target} proved the key {found}, not {expected}: nothing was sent to it")
    return Connection(
        secured,
        peer=found,
        frame_s=frame_s,
        piece_s=piece_s,
        send_s=send_s,
        refused=(
            f"{target} closed the connection right after the handshake: it probably does not know this identity,"
            f" {identity.fingerprint}; give that fingerprint to its owner"
        ),
    )
