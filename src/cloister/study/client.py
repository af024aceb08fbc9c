"""A researcher's messages to and from an instance that it has attested, over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cloister
from cloister.aggregation.vectors import Vector
from cloister.errors import LedgerError, MessageError, PeerRefusedError, StudyError
from cloister.ledger.chain import Ledger
from cloister.ledger.following import Handed, hand_over, sizes, unpack
from cloister.ledger.job import Job
from cloister.ledger.sync import ModelState
from cloister.net.attested import AttestedConnection
from cloister.net.handshake_client import greet, refusal_error
from cloister.net.polling import READABLE, wait
from cloister.study.progress import Interrupts
from cloister.wire.frames import Kind
from cloister.wire.rounds import Chain, RoundMessage

_ROUND_S: Final = 60.0
"""The time for a frame's first byte once the socket is readable: the bytes may be TLS's own."""


class StudyClient:
    """Messages to and from an instance; by one thread at a time.

    Raises:
        StudyError: the instance does not take this researcher. NetworkError: the connection is lost.
    """

    def __init__(self, attested: AttestedConnection, *, wait_s: float = 10.0) -> None:
        self.attested = attested
        self._connection = attested.connection
        try:
            greet(self._connection, purpose="study", software=f"cloister {cloister.__version__}", wait_s=wait_s)
        except PeerRefusedError as fault:
            raise StudyError(f"the aggregator does not take part in a study with this identity: {fault}") from fault

    def __enter__(self) -> StudyClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.attested.close()

    def say(self, message: RoundMessage, bodies: Sequence[memoryview] = ()) -> None:
        """Sends a message.

        Raises:
            NetworkError: the connection is lost.
        """
        self._connection.send(Kind.ROUND, message, bodies)

    def hear(self, *, unless: Interrupts | None) -> tuple[RoundMessage, int] | None:
        """Waits for the next message; returns it with its body's length, which must be read; None if Ctrl-C came first.

        Raises:
            NetworkError: the connection is lost. WireError: what came is no message of a study.
        """
        while unless is not None and not self._connection.pending():
            own = self._connection.fileno()
            found = wait({own: READABLE, unless.fileno(): READABLE}, until=None)
            if unless.asked:
                return None
            if own in found:
                break
        frame = self._connection.receive(wait_s=None if unless is None else _ROUND_S)
        if frame.kind is Kind.REFUSAL:
            raise refusal_error(frame.message())
        if frame.kind is not Kind.ROUND:
            raise MessageError(f"an aggregator sent {frame.kind.name} in the middle of a study")
        message: RoundMessage = frame.message()
        if frame.body_bytes and not isinstance(message, Chain):
            raise MessageError(f"a message of a study came with {frame.body_bytes} bytes that it does not have")
        return message, frame.body_bytes

    def hand_over(self, ledger: Ledger, *, after: int, model: ModelState | None) -> None:
        """Sends the records after the first ``after``; or, if there are none, the model of the newest release.

        Raises:
            NetworkError: the connection is lost. LedgerError: so many records are not known here.
        """
        for message, bodies in hand_over(ledger, after=after, model=model):
            self.say(message, [memoryview(each) for each in bodies])

    def read_chain(self, chain: Chain, body_bytes: int, *, job: Job) -> Handed:
        """Reads the body of a ``Chain``. Only its lengths are checked.

        Raises:
            NetworkError: the connection is lost.
            LedgerError: lengths that make no sense, or a model of another length than the job's.
        """
        layout = job.layout
        lengths = sizes(chain, body_bytes=body_bytes)
        if chain.model not in (0, layout.nbytes) or any(each != 8 * layout.length for each in chain.state):
            raise LedgerError(
                "the model that the newest round released has another length than the one that is to be trained: they"
                " are not of the same kind"
            )
        if chain.step > 8 * layout.length:
            raise LedgerError("the step of the newest round is longer than that of a model of this kind can be")
        parts = [memoryview(bytearray(length)) for length in lengths]
        for part in parts:
            self._connection.read_into(part)
        return unpack(chain, parts)


def bytes_of(vector: Vector) -> memoryview:
    """The vector's memory."""
    return vector.data.cast("B")
