"""What an owner holds of a study: the ledger as far as it knows it, and the newest model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloister.aggregator.chain_exchange import in_parts
from cloister.charter import Charter
from cloister.errors import LedgerError, RoundError
from cloister.ledger.chain import Instance, Ledger
from cloister.ledger.job import Job, name_of_values, tensors_digest
from cloister.node.study.effects import Say
from cloister.node.study.journal import Records
from cloister.node.study.model_file import Model, state_digest_of
from cloister.wire.rounds import Chain


class Holdings:
    """One charter's ledger and model, which ``records`` keep.

    Args:
        vouch: verifies the evidence in the record of an earlier instance; raises ``AttestationError``.

    Raises:
        LedgerError: what the records hold is no chain of this charter.
    """

    def __init__(self, charter: Charter, *, records: Records, vouch: Callable[[Instance], object]) -> None:
        self._charter = charter
        self._digest = charter.digest
        self._records = records
        self._vouch = vouch
        self._model = records.model(self._digest)
        self._unproven: Model | None = None
        self._signer: bytes | None = None
        self.ledger = Ledger.from_records(charter, records.chain(self._digest))

    @property
    def newest(self) -> tuple[int, bytes]:
        """The newest record: number and hash."""
        return self.ledger.sequence, self.ledger.head

    @property
    def model(self) -> Model | None:
        """What the next round starts from, if it is held."""
        return self._model if self._model is not None and self._model.digest == self.ledger.model else None

    def begin(self, signer: bytes) -> None:
        """A connection to the instance with this key, which has proved itself, begins."""
        # What an instance began and released nothing on may be missing from the chain that the others go on with.
        self.ledger = self.ledger.settled()
        self._signer, self._unproven = signer, None

    def take(self, message: Chain, body: memoryview, *, job: Job | None) -> None:
        """Takes records and a model that were handed over: all of it, or nothing. ``job``: the one that was shown last.

        Raises:
            LedgerError, RoundError: they do not go on from what is known here, or are not what they are said to be.
            AttestationError: no acceptable instance signed them. RecordsError: they cannot be kept.
        """
        parts, before = _parts(message, body), self.ledger
        self.ledger = self._extended(message.first, [bytes(part) for part in parts[: len(message.records)]])
        try:
            self._adopt(parts[len(message.records) :], message)
            self.prove(job)
        except BaseException:
            self.ledger = before
            raise

    def prove(self, job: Job | None) -> None:
        """Which tensors a model's vector is of, only a job tells: until one has come, nobody believes what it is.

        Raises:
            RoundError: it is not the model that it was said to be. RecordsError: it cannot be kept.
        """
        if self._unproven is not None and job is not None:
            model, self._unproven = self._unproven, None
            tensors = tensors_digest(job)
            if name_of_values(tensors, model.vector) != model.digest:
                raise RoundError("the model is not the one that its newest record released")
            self._model = model._replace(tensors=tensors)
        self._keep()

    def hand_over(self, after: int) -> list[Say]:
        """The records after the first ``after``; or the model, where there are none.

        Raises:
            LedgerError: so many records are not known here.
        """
        if after > self.ledger.sequence:
            raise LedgerError(f"records after number {after} are asked for, and there are none")
        said: list[Say] = []
        for part in in_parts(self.ledger.since(after)):
            said.append(Say(Chain(after + 1, tuple(map(len, part))), part))
            after += len(part)
        if said:
            return said  # the model is asked for once it is known that these records are the newest
        model = self.model
        if model is None:
            return [Say(Chain(after + 1, ()))]
        message = Chain(after + 1, (), len(model.vector), model.rounds, tuple(map(len, model.state)))
        return [Say(message, (model.vector, *model.state))]

    def _extended(self, first: int, records: Sequence[bytes]) -> Ledger:
        kept, at = self.ledger, first - 1
        if not 0 <= at <= kept.sequence:
            raise LedgerError(f"it begins with record {first}, and {kept.sequence} are known")
        known = 0
        while known < len(records) and at + known < kept.sequence and kept.records[at + known] == records[known]:
            known += 1
        if known == len(records):
            return kept
        if at + known < kept.sequence:  # all that may be left behind is instances that released nothing
            if at + known < kept.settled().sequence:
                raise LedgerError(f"it leaves the chain that is known here at record {at + known + 1}: a fork")
            kept = Ledger.from_records(self._charter, kept.records[: at + known])
        grown = kept.copy()
        grown.extend(records[known:])
        for instance in grown.instances[len(kept.instances) :]:
            if instance.transcript.signing_key != self._signer:
                self._vouch(instance)
        return grown

    def _adopt(self, parts: Sequence[memoryview], message: Chain) -> None:
        if not parts:
            return
        vector, *state = (part.toreadonly() for part in parts)
        digest, receipts = self.ledger.model, self.ledger.receipts
        if digest is None:
            raise RoundError("it comes with a model, and the charter has none")
        if not receipts:
            state = []  # what a rule begins with follows from the rule
        named = state_digest_of(message.rounds, state)
        if receipts and named != receipts[-1].record.state:
            raise RoundError("the state of the server's rule is not the one that its newest record names")
        self._unproven = Model(digest, vector, tuple(state), message.rounds if state else 0, state_digest=named)

    def _keep(self) -> None:
        settled = self.ledger.settled()
        stored = len(self._records.chain(self._digest))
        rounds = {receipt.cohort.sequence: receipt.cohort.round for receipt in settled.receipts}
        new = [(rounds.get(at, 0), record) for at, record in enumerate(settled.records[stored:], stored + 1)]
        model = self.model
        if model is not None and model.digest == self._records.kept(self._digest):
            model = None
        if new or model is not None:
            self._records.release(self._digest, new, model=model)


def _parts(message: Chain, body: memoryview) -> list[memoryview]:
    """The records, the model if there is one, and the parts of the rule's state.

    Raises:
        RoundError: the body is longer or shorter than the message says.
    """
    if message.state and not message.model:
        raise RoundError("it comes with a state and without a model")
    sizes = [*message.records, *([message.model] if message.model else []), *message.state]
    if sum(sizes) != len(body):
        raise RoundError(f"its body has {len(body)} bytes, and not {sum(sizes)}")
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts
