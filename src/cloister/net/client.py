"""The caller's side of a worker elsewhere: ``cloister.connect``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import torch

import cloister
from cloister.errors import CloisterError, ConfigurationError, ConnectionLostError, MessageError, RemoteOpError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.connection import Connection, Frame
from cloister.net.dial import dial
from cloister.net.handshake_client import greet, refusal_error
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.tensor import optable
from cloister.tensor.hook import install
from cloister.tensor.worker import Worker
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.messages import Welcome
from cloister.wire.tensors import TensorSpec
from cloister.worker.values import as_bytes, check_received, empty

T = TypeVar("T")
_SKIPPED_BYTES: Final = 64 << 20
"""Of an answer that cannot be used, so much is read past, so that the session goes on."""


class RemoteWorker(Worker):
    """A worker on another machine. Made by ``connect``; ``close()``, or a ``with`` block, ends the session."""

    def __init__(self, name: str, channel: OverTLS, *, limits: Welcome) -> None:
        super().__init__(name, channel)
        self._over_tls = channel
        self.memory_bytes = limits.memory_bytes
        """What this session may hold there, in bytes."""
        self.objects = limits.objects
        """What this session may hold there, in tensors."""

    @property
    def attested(self) -> AttestedConnection | None:
        """What the worker last proved about itself; None for one that is known by its key."""
        return self._over_tls.attested

    def attest(self) -> AttestedConnection:
        """Has the worker prove itself anew, on the connection as it is: one round trip.

        Raises:
            ConfigurationError: this worker is known by its key, and proves nothing.
            AttestationError: it proves something else now, or what is not acceptable any more. The session ends.
        """
        with self._lock:
            return self._over_tls.attest()


def connect(
    address: str,
    *,
    identity: Identity | str | os.PathLike[str],
    peer: str | None = None,
    policy: AttestationPolicy | None = None,
    at: str | None = None,
    connect_s: float = 10.0,
    answer_s: float = 600.0,
) -> RemoteWorker:
    """Opens a session at a worker elsewhere, over mutual TLS 1.3.

    The worker is known by its key (``peer``), or it proves what it runs (``policy``): name one of the two.

    Args:
        address: ``host:port``.
        identity: the key file of ``cloister key new``, which the worker's owner, or the charter, names.
        peer: the fingerprint of the worker's key, ``sha256:...``; nothing is sent to any other.
        policy: what it has to prove before anything is sent: ``cloister.AttestationPolicy(charter=...)``.
        at: where to dial, if the way to a worker that proves itself is another than its address.
        connect_s: how long reaching it may take, handshake and welcome included, in seconds. A worker that has to start
            a process first, on a cold machine for instance, says how long that may take, and is waited for so long.
        answer_s: how long an answer may take, in seconds.

    Raises:
        ConfigurationError: an address, key file or fingerprint that cannot be used.
        NetworkError: it cannot be reached, is another, or does not accept this identity. ``PutOffError`` says in how
            many seconds to come again.
        AttestationError: what it proves is not acceptable, or it proves nothing.
        VersionError: it runs another version of the protocol or another table of operations.
    """
    install()
    own = identity if isinstance(identity, Identity) else Identity.load(identity)
    # A worker that is busy reads nothing meanwhile, so sending may take as long as an answer.
    attested = None
    if policy is not None and peer is None:
        attested = attest_peer(address, policy=policy, identity=own, at=at, within_s=connect_s, send_s=answer_s)
        connection = attested.connection
    elif policy is None and peer is not None:
        connection = dial(at or address, identity=own, peer=peer, within_s=connect_s, send_s=answer_s)
    else:
        raise ConfigurationError("say how the worker is known: by its key, peer=..., or by what it proves, policy=...")
    welcome = greet(
        connection,
        purpose="session",
        software=f"cloister {cloister.__version__}",
        wait_s=connect_s,
        table=optable.digest(),
    )
    return RemoteWorker(welcome.name, OverTLS(connection, answer_s=answer_s, attested=attested), limits=welcome)


class OverTLS:
    """A channel that is a connection."""

    network = "tls"

    def __init__(self, connection: Connection, *, answer_s: float, attested: AttestedConnection | None = None) -> None:
        self.attested = attested
        self.fingerprint = connection.peer
        self._connection = connection
        self._answer_s = answer_s
        self._lost: str | None = None

    def post(self, commands: list[m.Command], puts: list[torch.Tensor]) -> None:
        """Sends a batch; nothing comes back."""
        self._guarded(lambda: self._connection.send(Kind.BATCH, m.Batch(commands), list(map(as_bytes, puts))))

    def ask(
        self,
        commands: list[m.Command],
        puts: list[torch.Tensor],
        question: m.Question,
        expected: Sequence[TensorSpec] = (),
    ) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        """Sends a batch with a question and waits for the answer; ``expected`` are the values that may come with it."""

        def exchange() -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
            self._connection.send(Kind.ASK, m.Ask(commands, question), list(map(as_bytes, puts)))
            return self._answer(self._connection.receive(wait_s=self._answer_s), tuple(expected))

        return self._guarded(exchange)

    def attest(self) -> AttestedConnection:
        """Has the worker prove itself anew."""
        if self.attested is None:
            raise ConfigurationError("this worker is known by its key and proves nothing: connect with policy=...")
        self.attested = self._guarded(partial(self.attested.attest, wait_s=self._answer_s))
        return self.attested

    def close(self) -> None:
        """Ends the session."""
        self._lost = "the session was closed by close()"
        self._connection.close()

    def abandon(self) -> None:
        """Closes this process's end of what another process talks on. TLS says nothing when a socket is closed."""
        self._lost = "it belongs to the process that opened it"
        self._connection.close()

    def _answer(
        self, frame: Frame, expected: tuple[TensorSpec, ...]
    ) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        message = frame.message(m.VOCABULARY)
        if frame.kind is Kind.REFUSAL:
            raise refusal_error(message)
        if frame.kind not in (Kind.ANSWER, Kind.FAILURE):
            raise MessageError(f"a question was answered by {frame.kind.name}")
        specs = m.check_body(message, frame.body_bytes)
        if frame.kind is Kind.ANSWER and specs != expected:
            return self._unexpected(frame, specs, expected), []
        values = [empty(spec) for spec in specs]
        for value in values:
            self._connection.read_into(as_bytes(value))
        check_received(values)
        return message, values

    def _unexpected(self, frame: Frame, specs: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> m.Failure:
        """Values that are not what their pointers say: nothing is allocated for them, and they are not believed.

        Raises:
            MessageError: there are too many bytes of them to read past; the session ends.
        """
        if frame.body_bytes > _SKIPPED_BYTES:
            raise MessageError("the worker answered with other and larger tensors than were asked for")
        self._connection.skip(frame.body_bytes)
        there, here = (", ".join(map(str, some)) or "nothing" for some in (specs, expected))
        text = f"the worker holds {there} where PyTorch foretold {here}; convert it, with .to(dtype) for instance"
        return m.Failure(RemoteOpError.code, "", 0, text[:TEXT_CHARS])

    def _guarded(self, act: Callable[[], T]) -> T:
        """Once a conversation has broken off, whatever the cause, nothing that is read on it can be trusted to be in
        step."""
        if self._lost is not None:
            raise ConnectionLostError(f"this session has ended: {self._lost}; connect again for a new one")
        try:
            return act()
        except CloisterError as fault:
            self._lost = str(fault)
            self._connection.close()
            raise
        except BaseException:
            self._lost = "it was interrupted in the middle of a message"
            self._connection.close()
            raise
