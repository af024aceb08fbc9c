"""Dialling a peer that is named by its key."""

from __future__ import annotations

from time import monotonic

from cloister.errors import PeerMismatchError, UnreachableError
from cloister.net import tcp
from cloister.net.connection import Connection
from cloister.net.identity import Identity
from cloister.net.tls import client_context, handshake, wrap
from cloister.wire.peers import check_fingerprint, parse_address


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
    secured = wrap(tcp.dial(target, within_s=within_s), context=context, server_side=False)
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
