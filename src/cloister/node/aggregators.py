"""The aggregators of a node's charter: where values may go, once it has been proved what takes them.

A caller says which key it is talking to; the charter says at which addresses an aggregator may be. The node dials those
itself, has the aggregator prove what it runs, and pushes only if that is the instance with the caller's key.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Final

from cloister.errors import AttestationError, CloisterError, MoveError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.connection import Connection
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy

_log: Final = logging.getLogger(__name__)


class Aggregators:
    """Dials and verifies, anew for each push.

    Args:
        policy: what an aggregator has to prove, the charter above all.
        identity: the node's, which the charter names as a member's.
        routes: for an address in the charter, where to dial instead.
    """

    def __init__(
        self, policy: AttestationPolicy, *, identity: Identity, routes: Mapping[str, str] | None = None
    ) -> None:
        self._policy = policy
        self._identity = identity
        self._routes = dict(routes or {})
        self._lock = threading.Lock()
        self._told: set[bytes] = set()

    def dial(self, peer: str, *, within_s: float, send_s: float) -> Connection:
        """A connection to the aggregator with the fingerprint ``peer``, which has proved itself on it. Nothing but the
        challenge has been sent.

        Raises:
            MoveError: no aggregator of the charter that is acceptable shows that key. The message says what was found.
        """
        found = []
        for address in self._policy.charter.addresses:
            try:
                attested = self._attest(address, within_s=within_s, send_s=send_s)
            except AttestationError as fault:
                _log.warning("refused the aggregator at %s: %s", address, fault)
                found.append(f"{address}: {fault}")
            except CloisterError as fault:
                found.append(f"{address}: {fault}")
            else:
                if attested.connection.peer == peer:
                    self._tell(attested)
                    return attested.connection
                attested.close()
                found.append(f"{address}: it shows the key {attested.connection.peer}, not {peer}")
        raise MoveError("nothing was sent, since no aggregator of the charter has proved itself: " + "; ".join(found))

    def _attest(self, address: str, *, within_s: float, send_s: float) -> AttestedConnection:
        route = self._routes.get(address)
        return attest_peer(
            address, policy=self._policy, identity=self._identity, at=route, within_s=within_s, send_s=send_s
        )

    def _tell(self, attested: AttestedConnection) -> None:
        """Logs the verdict on each instance once."""
        with self._lock:
            if attested.transcript.instance in self._told:
                return
            self._told.add(attested.transcript.instance)
        _log.info("the aggregator at %s is %s", attested.name, attested.verdict.line())
