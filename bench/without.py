"""Protections of a round taken away one at a time, to see what each costs: in this benchmark's own processes only.

The software itself has no switch for any of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import sqlite3
import ssl
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from cloister.aggregation import mean, noisy_sum, strategies
from cloister.aggregator import bodies
from cloister.aggregator.peers import ConnectedMember
from cloister.charter import keys
from cloister.ledger import next_model
from cloister.net.connection import Connection
from cloister.node.study import journal, member
from cloister.node.study.effects import Effect
from cloister.node.study.member import Member
from cloister.node.study.replica import Replica

Vector = Any


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _noise() -> None:
    """No noise is drawn where a charter has some."""
    noisy_sum.discrete_gaussian = lambda sigma, *, size, random: np.zeros(size, np.int64)  # type: ignore[attr-defined]


def _attestation() -> None:
    """Nodes believe that the instance is the one that they dialled, round after round."""

    def challenge(self: Member, number: int) -> list[Effect]:
        self._proved = (number, self._ledger.signer or b"")
        begun = self._round
        return self._start(begun) if begun is not None and not begun.training else []

    member.Member._challenge = challenge  # type: ignore[method-assign]


def _commitments() -> None:
    """A commitment is about the salt only, on both sides."""
    member.commitment = lambda salt, contribution: _digest(salt)  # type: ignore[attr-defined]
    _unhashed(norms=True)


def _unhashed(*, norms: bool) -> None:
    def update(self: bodies.Update, buffer: memoryview) -> None:
        part = np.frombuffer(buffer, self.vector.dtype)
        self._norms[0].append(bodies._norm(part) if norms else 1e-9)  # of the parameters: there are no buffers
        self._seen += len(part)

    bodies.Update.update = update  # type: ignore[method-assign]


def _norms() -> None:
    """No contribution is looked at: not its norm, not for values that are not finite."""
    bodies._norm = lambda part: 1e-9  # neither 0 nor more than is declared
    for module in (mean, strategies):
        module.check = lambda vector, *, length, what, **others: None  # type: ignore[attr-defined]


def _names() -> None:
    """Models have names that nobody derives from their values."""
    next_model.model_digest = lambda job, vector: os.urandom(32)  # type: ignore[attr-defined]

    def believe(self: Replica, job: Any) -> None:
        if self._unproven is not None and job is not None:
            self._model, self._unproven, self._tensors = self._unproven, None, job.tensors.digest
        self._keep()

    Replica.prove = believe  # type: ignore[method-assign]


def _durability() -> None:
    """What is written is left to the operating system."""
    connect = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
            return super().execute("PRAGMA synchronous = OFF" if "synchronous" in statement else statement, *given)

    def careless(*args: Any, **named: Any) -> sqlite3.Connection:
        return connect(*args, factory=Careless, **named)

    sqlite3.connect = careless  # type: ignore[assignment]
    os.fsync = lambda fd: None


def _copies() -> None:
    """Nodes keep no copy of the newest model on the disk."""
    release = journal.Records.release

    def forget(self: journal.Records, charter: bytes, records: Any, **model: Any) -> None:
        release(self, charter, records)

    journal.Records.release = forget  # type: ignore[method-assign]


def _signatures() -> None:
    """Nobody signs a cohort, and nobody checks that somebody did."""
    keys.sign = lambda message, *, key: bytes(64)
    keys.verify = lambda signature, *, message, public_key: None


def _return() -> None:
    """The model goes to the researcher only: owners are given the first, and go on as if it were the newest."""
    takes = ConnectedMember.takes_models.fget  # type: ignore[attr-defined]
    assert takes is not None
    ConnectedMember.takes_models = property(  # type: ignore[method-assign,assignment]
        lambda self: takes(self) and not (self.owner and self.model is not None)
    )
    take = Replica.take

    def pretend(self: Replica, message: Any, body: memoryview, *, job: Any) -> None:
        take(self, message, body, job=job)
        if self._model is not None:
            self._model = dataclasses.replace(self._model, digest=self.ledger.model or b"")

    Replica.take = pretend  # type: ignore[method-assign]


def _tls() -> None:
    """Once both ends have shown their keys, bytes go as they are."""
    begin = Connection.__init__

    def plain(self: Connection, given: socket.socket, **named: Any) -> None:
        self.kept = given  # type: ignore[attr-defined]
        bare = socket.socket(fileno=os.dup(given.fileno())) if isinstance(given, ssl.SSLSocket) else given
        begin(self, bare, **named)

    Connection.__init__ = plain  # type: ignore[method-assign,assignment]


def _all() -> None:
    for name, remove in PROTECTIONS.items():
        if name not in ("-", "all", "model's return"):
            remove()
    _unhashed(norms=False)


PROTECTIONS: Final[dict[str, Callable[[], None]]] = {
    "-": lambda: None,
    "re-attestation": _attestation,
    "commitments": _commitments,
    "norms and finiteness": _norms,
    "names of models": _names,
    "durable records": _durability,
    "copies of models": _copies,
    "signatures": _signatures,
    "model's return": _return,
    "TLS": _tls,
    "noise": _noise,
    "all": _all,
}
