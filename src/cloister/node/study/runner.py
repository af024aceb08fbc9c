"""A node's part in studies: it dials the aggregator of its charter, has it prove itself, and stays.

One thread waits for the connection, for the training and for the node's end, all at once, and does what
``cloister.node.study.member`` decides. If no aggregator is there, it tries again after pauses that grow.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

import numpy as np

from cloister import __version__
from cloister.charter import charter as charters
from cloister.errors import (
    CharterError,
    CloisterError,
    ConfigurationError,
    LimitError,
    MessageError,
    NoAnswerError,
    RecordsError,
    RoundError,
    UnreachableError,
)
from cloister.ledger import audit
from cloister.net.attested import AttestedConnection, Challenged, attest_peer
from cloister.net.connection import Frame
from cloister.net.handshake_client import greet, refusal_error
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.node.config import CharterUse, NodeConfiguration
from cloister.node.study.base_files import BaseFiles
from cloister.node.study.data_memory import DataMemory
from cloister.node.study.effects import Abandon, Effect, Leave, Note, Prove, Say, Train
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from cloister.node.study.succeeded import remarks
from cloister.node.study.trainer import Failed, Trained, Trainer
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.round_bodies import check_body
from cloister.worker.data.salts import SALT_BYTES


def participations_of(
    configuration: NodeConfiguration, *, uses: Sequence[tuple[CharterUse, AttestationPolicy]], identity: Identity
) -> list[Callable[[Wakeup], Participation]]:
    """Prepares a node for the studies of closed charters of which it is an owner, side by side. One memory serves them
    all.

    Raises:
        CharterError: two are one. RecordsError: the node's records cannot be used, or a data set is in another memory.
        LedgerError: they hold no chain of a charter.
    """
    found = [
        (use, policy, own)
        for use, policy in uses
        if (own := policy.charter.member(identity.fingerprint)) is not None and own.role == "owner"
    ]
    digests = [policy.charter.digest for _, policy, _ in found]
    if len(set(digests)) < len(digests):
        raise CharterError("two of [[charters]] are one charter: take part in it once")
    memory = _Memory(configuration)
    return [partial(_begin, configuration, memory, use, policy, own, identity) for use, policy, own in found]


class _Memory:
    """The records of a node, opened when they are first asked for."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._configuration = configuration
        self.models: Final = BaseFiles(configuration.models)
        self._opened: tuple[Records, DataMemory] | None = None

    def open(self, folder: Path | None) -> tuple[Records, DataMemory]:
        """The records, for one more user, and the data sets that they are about."""
        if self._opened is not None:
            records, data = self._opened
            return records.hold(), data
        records = Records(folder)
        try:
            data = DataMemory(self._configuration.study_data, records=records, folder=folder or Path())
        except BaseException:
            records.close()
            raise
        self._opened = records, data
        return records, data


def _begin(
    configuration: NodeConfiguration,
    memory: _Memory,
    use: CharterUse,
    policy: AttestationPolicy,
    own: charters.Member,
    identity: Identity,
    closing: Wakeup,
) -> Participation:
    verify_instance = partial(
        audit.verify_instance,
        charter=policy.charter,
        collateral=policy.collateral,
        reference=policy.reference,
        accept_simulated=policy.accept_simulated,
        unsafe_roots=policy.unsafe_roots,
    )
    records, data = memory.open(use.state)
    try:
        member = Member(
            charter=policy.charter,
            own=own.name,
            key=private_key(identity.path),
            floors=use.floors,
            data={each.name: frozenset(each.tags) for each in configuration.study_data},
            records=records,
            verify_instance=verify_instance,
            new_salt=partial(secrets.token_bytes, SALT_BYTES),
            content=data.content,
            budgets={each.name: each.budget for each in configuration.study_data if each.budget is not None},
            publish_budget=use.publish_budget,
            unsafe_counted_otherwise=frozenset(
                each.name for each in configuration.study_data if each.unsafe_counted_otherwise
            ),
            unsafe_salt=use.unsafe_salt,
        )
    except BaseException:
        records.close()
        raise
    for remark in (*remarks(policy.charter, records=records), *_without(memory.models, policy.charter)):
        _log.warning("%s", remark)
    limits = configuration.training
    return Participation(
        member,
        records=records,
        policy=policy,
        identity=identity,
        routes=use.routes,
        trainer=Trainer(limits, configuration.study_data, models=memory.models, listener=os.getpid(), closing=closing),
        closing=closing,
        model_bytes=limits.memory_bytes,
        jitter=random.SystemRandom().random,
    )


def _without(models: BaseFiles, charter: charters.Charter) -> Iterator[str]:
    """What of the charter's bases is not here. Large files are read for it, before anybody waits for a round."""
    try:
        yield from models.missing(charter)
    except ConfigurationError as fault:
        yield str(fault)


_log: Final = logging.getLogger(__name__)
_DIAL_S: Final = 10.0
_PROOF_S: Final = 30.0
"""The time from a challenge to its answer: some TEEs take seconds for evidence."""
_FRAME_S: Final = 10.0
_SILENCE_S: Final = 0.25
"""After so long without an event a node writes down what it has put off."""
PAUSE_S: Final = (1.0, 60.0)
"""The pauses between attempts to reach an aggregator: the first, doubled up to the last."""


class Pauses:
    """The pause before the next attempt: longer each time, up to a limit, and half of it random."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._next = PAUSE_S[0]

    def after(self, lasted_s: float) -> float:
        """The pause, in seconds, after a connection that lasted so long. A long connection starts the pauses anew."""
        first, last = PAUSE_S
        pause = first if lasted_s > self._next else self._next
        self._next = min(2 * pause, last)
        return pause * (1 + self._jitter()) / 2


class Participation:
    """A member's part in studies, for as long as its node runs. ``run`` is for a thread of its own.

    Args:
        records: the member's; closed at the end.
        policy: what an aggregator has to prove. routes: for an address in the charter, the one to dial instead.
        trainer: used by ``run`` alone. closing: set when the node ends.
        model_bytes: the limit on a model and the state of its strategy together.
        jitter: gives a number from 0 to 1 for each pause, so that owners do not all come back at once.
    """

    def __init__(
        self,
        member: Member,
        *,
        records: Records,
        policy: AttestationPolicy,
        identity: Identity,
        routes: Mapping[str, str],
        trainer: Trainer,
        closing: Wakeup,
        model_bytes: int,
        jitter: Callable[[], float],
    ) -> None:
        self._member = member
        self._records = records
        self._policy = policy
        self._identity = identity
        self._routes = dict(routes)
        self._trainer = trainer
        self._closing = closing
        self._model_bytes = model_bytes
        self._jitter = jitter
        self._told: dict[str, str] = {}

    def run(self) -> None:
        """Takes part until the node closes."""
        pauses = Pauses(self._jitter)
        try:
            while not self._closing.rung:
                lasted_s = max(self._attend(address) for address in self._policy.charter.addresses)
                wait({self._closing.fileno(): READABLE}, until=monotonic() + pauses.after(lasted_s))
        finally:
            self.close()

    def close(self) -> None:
        """Ends the training's process and closes the records; ``run`` does so at its end."""
        self._trainer.close()
        try:
            self._records.catch_up(whole=True)
        except RecordsError as fault:  # others have it
            _log.warning("%s", fault)
        finally:
            self._records.close()

    def _attend(self, address: str) -> float:
        """Takes part with the aggregator at this address until the connection ends. Returns its duration in seconds."""
        if self._closing.rung:
            return 0.0
        began: float | None = None
        try:
            at = self._routes.get(address)
            with attest_peer(
                address, policy=self._policy, identity=self._identity, at=at, within_s=_DIAL_S
            ) as attested:
                self._tell(address, f"is {attested.verdict.line()}")
                greet(attested.connection, purpose="study", software=f"cloister {__version__}", wait_s=_DIAL_S)
                began = monotonic()
                self._converse(attested)
        except CloisterError as fault:
            if not self._closing.rung:
                self._tell(address, _unreached(fault) if began is None else f"is left: {fault}")
        return 0.0 if began is None else monotonic() - began

    def _converse(self, attested: AttestedConnection) -> None:
        AggregatorLink(
            self._member,
            attested,
            records=self._records,
            trainer=self._trainer,
            closing=self._closing,
            model_bytes=self._model_bytes,
        ).hold()

    def _tell(self, address: str, text: str) -> None:
        """Logs a line for the owner, once until it changes."""
        if self._told.get(address) != text:
            self._told[address] = text
            _log.info("the aggregator at %s %s", address, text)


def _unreached(fault: CloisterError) -> str:
    if isinstance(fault, UnreachableError):
        return f"cannot be reached; trying again, at least every {PAUSE_S[1]:g} s: {fault}"
    return f"cannot be taken part with: {fault}"


class AggregatorLink:
    """One connection to an aggregator, once it has welcomed the member."""

    def __init__(
        self,
        member: Member,
        attested: AttestedConnection,
        *,
        records: Records,
        trainer: Trainer,
        closing: Wakeup,
        model_bytes: int,
    ) -> None:
        self._member = member
        self._records = records
        self._attested = attested
        self._connection = attested.connection
        self._trainer = trainer
        self._closing = closing
        self._model_bytes = model_bytes
        self._challenges: deque[tuple[Challenged, float]] = deque()

    def hold(self) -> None:
        """Serves the connection until the node closes.

        Raises:
            RoundError: nothing can be done with this aggregator. Also all that ``attest_peer`` raises once there is a
            connection.
        """
        try:
            self._do(self._member.connected(self._attested.transcript))
            while self._listen():
                pass
        finally:
            for effect in self._member.disconnected():
                if isinstance(effect, Abandon):
                    self._trainer.abandon()
            self._records.catch_up(whole=True)

    def _listen(self) -> bool:
        """Waits for the next event and handles it; False when the node closes."""
        training, socket = self._trainer.fileno(), self._connection.fileno()
        watched = {socket: READABLE, self._closing.fileno(): READABLE}
        if training is not None:
            watched[training] = READABLE
        proof = self._challenges[0][1] if self._challenges else None
        until = min((moment for moment in (proof, self._trainer.due) if moment is not None), default=None)
        pending = self._connection.pending() > 0
        happened = self._catch_up(watched, until=until) if self._records.behind and not pending else set()
        happened = happened or wait(watched, until=0.0 if pending else until)
        if self._closing.fileno() in happened:
            return False
        if training is not None and training in happened:
            self._do(self._trained(self._trainer.receive()))
        if (due := self._trainer.due) is not None and monotonic() >= due:
            self._do(self._trained(self._trainer.look()))
        if pending or socket in happened:
            self._hear()
        elif proof is not None and monotonic() >= proof:
            raise NoAnswerError(f"the aggregator has not proved itself within {_PROOF_S:g} s")
        return True

    def _catch_up(self, watched: Mapping[int, int], *, until: float | None) -> set[int]:
        """Writes what was put off, while nothing else is to be done ``until`` then. Returns what happened meanwhile."""
        if happened := wait(watched, until=0.0):
            return happened
        if not self._challenges:  # else others wait for this node, as soon as it has its proof
            self._records.catch_up(whole=False)
        silence = monotonic() + _SILENCE_S
        happened = wait(watched, until=silence if until is None else min(until, silence))
        if not happened and monotonic() >= silence:
            self._records.catch_up(whole=True)
        return happened

    def _hear(self) -> None:
        try:
            frame = self._connection.receive(wait_s=_FRAME_S)
        except NoAnswerError:  # TLS had something to say to itself
            return
        match frame.kind:
            case Kind.ROUND:
                self._do(self._handle(frame))
            case Kind.PROOF if self._challenges:
                self._attested = self._challenges.popleft()[0].judge(frame)
                self._do(self._member.proved(self._attested.transcript))
            case Kind.REFUSAL:
                raise refusal_error(frame.message())
            case _:
                raise MessageError(f"{frame.kind.name} has no place in a study")

    def _handle(self, frame: Frame) -> list[Effect]:
        message: w.RoundMessage = frame.message()
        check_body(message, frame.body_bytes)
        if isinstance(message, w.Chain) and message.model + sum(message.state) + message.step > self._model_bytes:
            raise LimitError(f"a model of {message.model} bytes is more than this node takes; see [training], memory")
        # Not a bytearray, whose pages come from the system 4 KiB at a time: NumPy asks for large ones.
        body = np.empty(frame.body_bytes, np.uint8).data
        for start in range(0, len(body), CHUNK_BYTES):
            self._connection.read_into(body[start : start + CHUNK_BYTES])
        if isinstance(message, w.Work):
            self._trainer.start()  # it takes seconds, and the round comes next
        return self._member.handle(message, body)

    def _trained(self, found: Trained | Failed | None) -> list[Effect]:
        match found:
            case Trained():
                return self._member.trained(
                    found.round,
                    found.vector,
                    examples=found.examples,
                    norms=found.norms,
                    metrics=found.metrics,
                    home=found.home,
                )
            case Failed():
                return self._member.failed(found.round, found.text)
        return []

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say(message=message, bodies=bodies):
                    self._connection.send(Kind.ROUND, message, [memoryview(body) for body in bodies])
                case Prove(newest=newest):
                    self._challenges.append((self._attested.challenge(newest=newest), monotonic() + _PROOF_S))
                case Train():
                    self._do(self._trained(self._trainer.train(effect)))
                case Abandon():
                    self._trainer.abandon()
                case Note(text=text, warns=warns):
                    _log.log(logging.WARNING if warns else logging.INFO, "%s", text)
                case Leave(text=text):
                    raise RoundError(text)
