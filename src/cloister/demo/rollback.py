"""What an operator might try who has broken the TEE: an aggregator that proves the agreed software, and is another.

A simulated TEE lets anybody do so. This one shows the members an older chain than theirs, hands on a job that they have
not agreed on, and proposes a round that was released already.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Final, NamedTuple, Self

from cloister.attest.attester import find
from cloister.errors import NoAnswerError, UnacceptableError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import job_digest, round_digest
from cloister.net.connection import Connection
from cloister.net.listener import Listener
from cloister.net.proving import Instance, Prover
from cloister.wire.frames import VERSION, Kind
from cloister.wire.messages import Welcome
from cloister.wire.rounds import Chain, Declined, Join, Propose, Ready, Work

_LISTEN_S: Final = 10.0


class Refusals(NamedTuple):
    """How each owner, by its key, refuses the job that the charter does not name, and the round that is over."""

    job: dict[str, str]
    round: dict[str, str]


@dataclass(frozen=True)
class Scheme:
    """What it tries. ``older``: the chain up to where it goes back; ``newest``: the round that was released last;
    ``honest``, ``forged``: encoded jobs."""

    older: Ledger
    newest: int
    honest: bytes
    forged: bytes

    @property
    def again(self) -> int:
        """The round that it would have a second time."""
        return self.older.last_round + 1


def set_back(ledger: Ledger) -> Ledger:
    """The ledger as it was after half of its rounds."""
    first = ledger.receipts[ledger.released // 2].cohort.sequence
    return Ledger.from_records(ledger.charter, ledger.records[: first - 1])


class RolledBack:
    """Listens at ``address`` (port 0: any), as ``name``. As a context manager it leaves no thread behind."""

    def __init__(self, scheme: Scheme, *, name: str, address: str) -> None:
        self._scheme = scheme
        charter = scheme.older.charter.digest
        self._instance = Instance(role="aggregator", attester=find("simulated"), charter=charter, name=name)
        self._instance.follow(lambda: (scheme.older.head, scheme.older.sequence))
        self._answers: SimpleQueue[tuple[str, int, str | None]] = SimpleQueue()
        self._listener = Listener(
            address=address, context=self._instance.context, accepts=lambda _: True, handle=self._handle
        )
        self.address = str(self._listener.address)
        self._thread = threading.Thread(target=self._listener.serve, name="cloister rolled back", daemon=True)
        self._thread.start()

    def refusals(self, *, within_s: float) -> Refusals:
        """How all owners refuse what it tries; they have to dial it first.

        Raises:
            NoAnswerError: one has not answered in time.
            UnacceptableError: one does what it is told.
        """
        until = monotonic() + within_s
        found = Refusals({}, {})
        owners = len(self._scheme.older.charter.owners)
        while min(map(len, found)) < owners:
            try:
                peer, number, text = self._answers.get(timeout=max(until - monotonic(), 0.0))
            except Empty:
                raise NoAnswerError("a hospital has not answered the aggregator that was set back") from None
            if text is None:
                raise UnacceptableError([f"a hospital trained for round {number}, which it should have refused"])
            (found.round if number == self._scheme.again else found.job)[peer] = text
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._thread.join()

    def _handle(self, connection: Connection) -> None:
        prover = Prover(connection, self._instance)
        if prover.open() is None:
            return
        connection.send(Kind.WELCOME, Welcome(version=VERSION, name="aggregator", memory_bytes=0, objects=0))
        open_rounds = {self._scheme.newest + 1, self._scheme.again}
        while open_rounds:
            frame = connection.receive(wait_s=_LISTEN_S)
            if frame.kind is not Kind.ROUND:
                prover.serve(frame)
                continue
            match frame.message():
                case Join():
                    self._try(connection)
                case Declined(round=number, text=text):
                    open_rounds.discard(number)
                    self._answers.put((connection.peer, number, text))
                case Ready(round=number):
                    self._answers.put((connection.peer, number, None))
                    return

    def _try(self, connection: Connection) -> None:
        scheme, older = self._scheme, self._scheme.older
        records = [memoryview(record) for record in older.records]
        connection.send(Kind.ROUND, Chain(first=1, records=tuple(map(len, records))), records)
        for job, number in ((scheme.forged, scheme.newest + 1), (scheme.honest, scheme.again)):
            connection.send(Kind.ROUND, Work(job_digest(job)), [memoryview(job)])
            connection.send(Kind.ROUND, self._proposal(job_digest(job), number))

    def _proposal(self, job: bytes, number: int) -> Propose:
        older = self._scheme.older
        model = older.model or b""
        digest = round_digest(job, charter=older.charter.digest, number=number, model=model, head=older.head)
        return Propose(number, job, model, older.sequence, older.head, digest, seconds=60.0)
