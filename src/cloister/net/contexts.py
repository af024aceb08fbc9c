"""TLS settings of ends that have an identity file. An instance has none, and its own settings (``tls``)."""

from __future__ import annotations

import ssl

from cloister.errors import IdentityError
from cloister.net.identity import Identity
from cloister.net.tls import settings


def client_context(identity: Identity) -> ssl.SSLContext:
    """TLS settings for the end that dials.

    Raises:
        IdentityError: ``ssl`` cannot use the identity's file.
    """
    return _settings(ssl.PROTOCOL_TLS_CLIENT, identity)


def server_context(identity: Identity) -> ssl.SSLContext:
    """TLS settings for the end that listens.

    Raises:
        IdentityError: ``ssl`` cannot use the identity's file.
    """
    context = _settings(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0  # no resumption: every connection proves its key anew
    return context


def unverified_client_context(identity: Identity | None) -> ssl.SSLContext:
    """TLS settings towards an instance that will prove itself: any certificate will do, and an auditor shows none.

    Raises:
        IdentityError: ``ssl`` cannot use the identity's file.
    """
    context = _settings(ssl.PROTOCOL_TLS_CLIENT, identity)
    context.verify_mode = ssl.CERT_NONE
    return context


def _settings(protocol: int, identity: Identity | None) -> ssl.SSLContext:
    context = settings(protocol)
    if identity is None:
        return context
    try:
        # A key with a pass phrase must fail rather than ask for it at a terminal.
        context.load_cert_chain(identity.path, password="")
    except (OSError, ValueError) as fault:
        raise IdentityError(f"{identity.path} cannot be used for TLS: {fault}") from None
    return context
