"""An owner's copy of a study: the ledger as far as it knows it, and the newest model."""

from __future__ import annotations

from collections.abc import Callable

from cloister.charter import Charter
from cloister.errors import RoundError
from cloister.ledger.chain import Instance, Ledger
from cloister.ledger.following import Handed, advance, cut, hand_over, sizes, unpack
from cloister.ledger.job import Job, name_of_values
from cloister.ledger.next_model import repeat
from cloister.ledger.sync import ModelState
from cloister.node.study.effects import Say
from cloister.node.study.journal import Records
from cloister.wire.rounds import Chain


class Replica:
    """One charter's ledger and model, which ``records`` keeps.

    Args:
        verify_instance: verifies the evidence in the record of an earlier instance; raises ``AttestationError``.

    Raises:
        LedgerError: the records hold no chain of this charter.
    """

    def __init__(self, charter: Charter, *, records: Records, verify_instance: Callable[[Instance], object]) -> None:
        self._digest = charter.digest
        self._records = records
        self._verify_instance = verify_instance
        self._model = records.model(self._digest)
        self._tensors = b""
        self._agreed = records.tensors(self._digest)
        """The digest of the tensors that models have under this charter, as the first one had; empty before that."""
        self._unproven: ModelState | None = None
        self._signer: bytes | None = None
        self.ledger = Ledger.from_records(charter, records.chain(self._digest))

    @property
    def newest(self) -> tuple[int, bytes]:
        """The number and hash of the newest record."""
        return self.ledger.sequence, self.ledger.head

    @property
    def model(self) -> ModelState | None:
        """The model that the next round starts from, if it is held."""
        return self._model if self._model is not None and self._model.digest == self.ledger.model else None

    @property
    def whole(self) -> ModelState | None:
        """The same, if what the newest record's strategy remembers is held too: an aggregator may ask for it."""
        return self.model if self.model is not None and self.model.is_newest(self.ledger) else None

    def is_of(self, job: Job) -> bool:
        """Whether the model that is held has the tensors of ``job``, those that are frozen too: a job's own word for
        where it starts proves nothing."""
        model, tensors = self.model, job.tensors.digest
        if model is None:
            return False
        if tensors != self._tensors and name_of_values(tensors, model.vector) != model.digest:
            return False
        self._tensors = self._agreed = tensors
        return True

    def begin(self, signer: bytes) -> None:
        """Begins a connection to the instance with this key, which has proved itself."""
        # The record of an instance that released nothing may be missing from the chain that the others go on with.
        self.ledger = self.ledger.settled()
        self._signer, self._unproven = signer, None

    def take(self, message: Chain, body: memoryview, *, job: Job | None) -> None:
        """Takes records and a model that were handed over, or the step that leads to it: all of them, or nothing.
        ``job``: the newest that was shown.

        Raises:
            LedgerError, RoundError: they do not continue the ledger that is known here, or have another digest.
            AttestationError: no acceptable instance signed them. RecordsError: they cannot be written.
        """
        handed, before = unpack(message, cut(body, sizes(message, body_bytes=len(body)))), self.ledger
        self.ledger = self._advanced(handed)
        try:
            self._adopt(handed, job)
            self.prove(job)
        except BaseException:
            self.ledger = before
            raise

    def prove(self, job: Job | None) -> None:
        """Checks the digest of a model that came before its job: only a job tells which tensors the vector holds.

        Raises:
            RoundError: it is another model. RecordsError: it cannot be written.
        """
        if self._unproven is not None and job is not None:
            model, self._unproven = self._unproven, None
            tensors = job.tensors.digest
            self._check_agreed(job)
            if name_of_values(tensors, model.vector) != model.digest:
                raise RoundError("the model is not the one that its newest record released")
            self._model, self._tensors = model, tensors
        self._keep()

    def hand_over(self, after: int) -> list[Say]:
        """The messages with the records after the first ``after``; or with the model, if there are none.

        Raises:
            LedgerError: so many records are not known here.
        """
        return [
            Say(message, tuple(bodies)) for message, bodies in hand_over(self.ledger, after=after, model=self.whole)
        ]

    def _check_agreed(self, job: Job) -> None:
        """Whoever releases a model under another name could have its frozen tensors be others from then on."""
        if self._agreed not in (b"", job.tensors.digest):
            raise RoundError("the model has other frozen tensors than those before it under this charter")

    def _advanced(self, handed: Handed) -> Ledger:
        grown = advance(self.ledger, handed.first, handed.records)
        known = set(self.ledger.heads)
        for instance in grown.instances:
            if instance.head not in known and instance.transcript.signing_key != self._signer:
                self._verify_instance(instance)
        return grown

    def _adopt(self, handed: Handed, job: Job | None) -> None:
        if handed.step is not None:
            if job is None:
                raise RoundError("it comes with the step of a job that was not shown")
            self._check_agreed(job)
            self._model = repeat(handed.step, before=self._model, ledger=self.ledger, job=job)
            self._tensors, self._unproven = job.tensors.digest, None
        if handed.vector is None:
            return
        digest = self.ledger.model
        if digest is None:
            raise RoundError("it comes with a model, and the charter has none")
        averages = handed.averages if self.ledger.released else ()  # the strategy alone determines its first state
        model = ModelState(digest, handed.vector, averages, handed.rounds if averages else 0)
        if not averages and self.ledger.state is not None:
            # It is what another job begins with: enough to train, and nothing to give the whole away for.
            self._unproven = model if self.whole is None else None
            return
        if not model.is_newest(self.ledger):
            raise RoundError("the state of the strategy is not the one that its newest record names")
        self._unproven = model

    def _keep(self) -> None:
        settled = self.ledger.settled()
        stored = len(self._records.chain(self._digest))
        rounds = {receipt.cohort.sequence: receipt.cohort.round for receipt in settled.receipts}
        new = [(rounds.get(at, 0), record) for at, record in enumerate(settled.records[stored:], stored + 1)]
        model = self.model
        if model is not None and (model.digest, model.state_digest) == self._records.kept(self._digest):
            model = None
        if new or model is not None:
            self._records.release(self._digest, new, model=model, tensors=self._tensors, put_off=True)
