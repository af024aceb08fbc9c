"""A researcher's end of a conversation about rounds, over one connection to an instance that has proved itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

import cloister
from cloister.aggregation.strategies import State
from cloister.aggregation.vectors import Vector
from cloister.aggregator.chain_exchange import in_parts
from cloister.errors import LedgerError, MessageError, PeerRefusedError, StudyError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.net.attested import Proven
from cloister.net.handshake_client import greet, refusal_error
from cloister.net.polling import READABLE, wait
from cloister.study.progress import Interrupts
from cloister.study.state_dir import Held
from cloister.wire.frames import Kind
from cloister.wire.limits import RECORD_BYTES
from cloister.wire.rounds import Chain, RoundMessage

_ROUND_S: Final = 60.0
"""For the first byte of a frame once there is something to read: TLS may have had a word of its own to say."""
_STATE_DTYPE: Final = "float64"


class Received(NamedTuple):
    """Records as they came, from the one numbered ``first`` on, and what the newest of them released, if it came."""

    first: int
    records: tuple[bytes, ...]
    held: Held | None


class Conversation:
    """Messages to and from an instance; by one thread at a time.

    Raises:
        StudyError: the instance does not take this researcher. NetworkError: the connection is lost.
    """

    def __init__(self, proven: Proven, *, wait_s: float = 10.0) -> None:
        self.proven = proven
        self._connection = proven.connection
        try:
            greet(self._connection, purpose="study", software=f"cloister {cloister.__version__}", wait_s=wait_s)
        except PeerRefusedError as fault:
            raise StudyError(f"the aggregator does not take part in a study with this identity: {fault}") from fault

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.proven.close()

    def say(self, message: RoundMessage, bodies: Sequence[memoryview] = ()) -> None:
        """Sends a message.

        Raises:
            NetworkError: the connection is lost.
        """
        self._connection.send(Kind.ROUND, message, bodies)

    def hear(self, *, unless: Interrupts | None) -> tuple[RoundMessage, int] | None:
        """The next message and the length of its body, which must be read; None if Ctrl-C was pressed before it came.

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

    def hand_over(self, ledger: Ledger, *, after: int, held: Held | None) -> None:
        """Sends the records after the first ``after``; or, if there are none, what the newest of all released.

        An aggregator asks for that once it knows that these records are the newest.

        Raises:
            NetworkError: the connection is lost.
        """
        first = after + 1
        for part in in_parts(ledger.since(after)):
            self._send_chain(first, part, None)
            first += len(part)
        if first == after + 1:
            self._send_chain(first, (), held)

    def _send_chain(self, first: int, records: Sequence[bytes], held: Held | None) -> None:
        bodies = [memoryview(each) for each in records]
        sizes = tuple(map(len, bodies))
        if held is None:
            self.say(Chain(first=first, records=sizes), bodies)
            return
        kept = (held.vector, held.state.momentum, held.state.squares)
        vectors = [bytes_of(each) for each in kept if each is not None]
        model, *state = map(len, vectors)
        message = Chain(first=first, records=sizes, model=model, rounds=held.state.rounds, state=tuple(state))
        self.say(message, [*bodies, *vectors])

    def read_chain(self, chain: Chain, body_bytes: int, *, job: Job) -> Received:
        """What came with a ``Chain``; nothing of it is checked but its lengths.

        Raises:
            NetworkError: the connection is lost. MessageError: lengths that make no sense.
            LedgerError: a model of another length than the job's.
        """
        layout = job.layout
        model_bytes = layout.length * np.dtype(layout.dtype).itemsize
        if sum(chain.records) + chain.model + sum(chain.state) != body_bytes or max(chain.records, default=0) > (
            RECORD_BYTES
        ):
            raise MessageError("records came with lengths that do not fit their bytes")
        if chain.model not in (0, model_bytes) or any(each != 8 * layout.length for each in chain.state):
            raise LedgerError(
                "the model that the newest round released has another length than the one that is to be trained: they"
                " are not of the same kind"
            )
        records = tuple(self._read_bytes(length) for length in chain.records)
        if not chain.model:
            return Received(chain.first, records, None)
        vector = self._read_vector(layout.length, layout.dtype)
        averages: list[Any] = [self._read_vector(layout.length, _STATE_DTYPE) for _ in chain.state]
        return Received(chain.first, records, Held(vector, State(chain.rounds, *averages)))

    def _read_bytes(self, length: int) -> bytes:
        data = bytearray(length)
        self._connection.read_into(memoryview(data))
        return bytes(data)

    def _read_vector(self, length: int, dtype: str) -> Vector:
        vector: Vector = np.empty(length, dtype)
        self._connection.read_into(bytes_of(vector))
        return vector


def follow(ledger: Ledger, received: Received) -> Ledger:
    """The ledger after records that an aggregator sent: what it had, with them at their places.

    Records of instances that released nothing may give way to others (``Ledger.settled``); no round ever does.

    Raises:
        LedgerError: they leave the chain that is known here, or are no records of it.
    """
    if not 1 <= received.first <= ledger.sequence + 1:
        raise LedgerError(f"records from number {received.first} on do not follow the {ledger.sequence} known here")
    settled = ledger.settled()
    whole = (*ledger.records[: received.first - 1], *received.records)
    if whole[: settled.sequence] != settled.records:
        raise LedgerError(
            "the aggregator's chain leaves the one that is known here: rounds that were released are not in it. Keep"
            " chain.jsonl, and show it to the other members"
        )
    settled.extend(whole[settled.sequence :])
    return settled


def bytes_of(vector: Vector) -> memoryview:
    """The vector's memory."""
    return vector.data.cast("B")
