"""``cloister.Study``: the researcher's side of a training in rounds on data sets that stay with their owners.

A script that runs with ``cloister.simulate`` becomes a study by changing that one call: the owners are then the
charter's, and their nodes train. What each round released is a receipt in a chain that owners have signed; it is
verified here, record by record, as any auditor would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

import numpy as np
from torch import Tensor, nn

from cloister.aggregation.strategies import FedAvg, Strategy
from cloister.charter.charter import check_valid
from cloister.charter.jobs import Precision, Sampling, Weights
from cloister.charter.names import shown
from cloister.errors import CharterError, ConfigurationError, StudyError
from cloister.ledger.audit import verify_instance
from cloister.ledger.chain import Ledger, Receipt
from cloister.net.attested import AttestedConnection
from cloister.net.collateral import CollateralSource
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.study import job as jobs
from cloister.study.base import Base
from cloister.study.fit import JobRun, OnError
from cloister.study.history import History, Round
from cloister.study.log import CHAIN
from cloister.study.progress import Interrupts, Screen
from cloister.study.state_dir import Folder, folder_of, write_chain
from cloister.study.status import StudyStatus, ask, dial
from cloister.tensor.held import buffers_of, copied, parameters_of
from cloister.wire.rounds import Ask, Stop
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan, PlannedLoss
from cloister.worker.rows_apart import check_rows_apart

_FEDAVG: Final = FedAvg()


@dataclass(frozen=True)
class StudyRun:
    """The result of ``Study.fit``: the trained model, the history round by round, the receipts, and the plan.

    ``finished`` is False where it was stopped before its last round.
    """

    model: nn.Module
    history: History
    receipts: tuple[Receipt, ...]
    plan: Plan
    finished: bool
    _records: tuple[bytes, ...]
    _study: Study

    def status(self) -> StudyStatus:
        """How the study stands now, as ``Study.status``."""
        return self._study.status()

    def stop(self) -> StudyStatus:
        """Stops the job that runs, as ``Study.stop``."""
        return self._study.stop()

    def save_chain(self, path: str | os.PathLike[str]) -> None:
        """Writes all records of the charter so far, for ``cloister ledger audit``.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        write_chain(Path(path), self._records)


class Study:
    """A researcher's part in a charter: it submits jobs to the aggregator, and keeps the chain of the releases.

    When it is made, it dials the aggregator and attests it; ``attested.verdict`` has the result. Each ``fit`` does the
    same again, before anything is sent.

    Args:
        charter: the file that the members have signed.
        identity: the key file of ``cloister key new``, whose fingerprint the charter names as a researcher's.
        state: the folder for the chain and the newest model; None: ``charter.rounds`` beside ``charter.toml``, or the
            folder there that was begun under the charter which this one supersedes.
        routes: for an address of the charter, where to dial instead: a tunnel, for instance.
        collateral: what SGX and TDX are judged by: a file, the URL of a service, or a function.
        accept_simulated: whether a simulated TEE will do, which proves nothing. The charter has to name it too.
        patience_s: how long an aggregator may be out of reach, in seconds, before ``fit`` gives up.

    Raises:
        CharterError: a charter with faults, one that is not valid now, or that names this key as no researcher's.
        ConfigurationError: a file that cannot be used.
        NetworkError: the aggregator cannot be reached.
        AttestationError: what it proves is not acceptable.
    """

    def __init__(
        self,
        charter: str | os.PathLike[str],
        *,
        identity: Identity | str | os.PathLike[str],
        state: str | os.PathLike[str] | None = None,
        routes: Mapping[str, str] | None = None,
        collateral: str | CollateralSource | None = None,
        accept_simulated: bool = False,
        patience_s: float = 3600.0,
    ) -> None:
        self.charter = read_charter(charter)
        check_valid(self.charter, now=datetime.now(UTC))
        self._identity = identity if isinstance(identity, Identity) else Identity.load(identity)
        member = self.charter.member(self._identity.fingerprint)
        if member is None or member.role != "researcher":
            raise CharterError(
                f"the charter {self.charter.name!r} does not name {self._identity.fingerprint} as a researcher's key"
            )
        self._folder = Folder(Path(state) if state is not None else folder_of(self.charter, file=Path(charter)))
        self._routes = dict(routes or {})
        self._policy = AttestationPolicy(charter=self.charter, accept_simulated=accept_simulated, collateral=collateral)
        self._patience_s = patience_s
        self.attested = self._dial()
        """The aggregator's newest attestation, for its ``verdict``."""
        self.attested.close()

    @property
    def chain(self) -> Path:
        """The file of all records so far, for ``cloister ledger audit``; it is there after the first round."""
        return self._folder.path / CHAIN

    def fit(
        self,
        model: nn.Module,
        loss: PlannedLoss | Plan,
        *,
        data: str,
        optimizer: Optimizer,
        batch_size: int,
        steps: int,
        rounds: int,
        strategy: Strategy = _FEDAVG,
        weights: Weights = "uniform",
        sampling: Sampling | None = None,
        base: Base | None = None,
        precision: Precision = "full",
        example: Sequence[Tensor] | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        on_round: Callable[[Round], None] | None = None,
        on_error: OnError = "leave",
    ) -> StudyRun:
        """Trains a copy of ``model`` in rounds on the data sets of the charter's owners: one of the charter's jobs.

        The aggregator goes on with the rounds when this script is gone. The same call in a new script, with the same
        arguments, takes the job up where it is by then. A lost connection is made again. One Ctrl-C stops the job, as
        ``stop``, and returns the result so far; a second one leaves at once.

        Args:
            model: what the study starts from: the charter's first model, or what the newest round released. Under a
                successor also what the charter before started from: the values that it released last are loaded.
            loss: a function marked with ``@cloister.plan``, or a plan that it was captured as.
            data: the tag of the data sets that owners train on, such as ``"#mri"``.
            optimizer: what each owner trains with; it begins anew in each round.
            strategy: what becomes of the mean: ``FedAvg``, ``FedAvgM``, ``FedProx``, ``FedAdagrad``, ``FedYogi``,
                ``FedAdam``.
            batch_size: the rows of every owner in every step.
            steps: of every owner in a round; each owner's node chooses the rows of its whole batches.
            weights: how much owners count: all the same (``"uniform"``), or by their rows (``"rows"``).
            sampling: how rows are drawn where the charter's noise hides single records (``cloister.Sampling``).
            base: the files of the charter's ``[[bases]]``, in which the tensors are that the plan does not learn
                (``cloister.Base``). None of them is sent: owners have these files.
            precision: how values travel: ``"full"``, or rounded to two bytes each, as ``"bfloat16"`` or ``"float16"``.
            example: one batch to capture a loss function from; only its shapes and element types matter.
            evaluate: called after each round with the new model in ``eval`` mode; the numbers that it returns stand in
                the history.
            on_round: called after each round, in place of the line that is shown.
            on_error: what becomes of the job where ``evaluate`` or ``on_round`` raises, which ``fit`` then raises too.
                ``"leave"``: its rounds go on at the aggregator, and the same call takes it up. ``"stop"``: it is ended
                there first, with the round that is under way, which is how a script stops early.

        Raises:
            ConfigurationError: arguments out of range, or no example where one is needed.
            PlanError: the loss cannot be captured, or mixes rows where they are drawn.
            JobError: the charter has no such job, or the aggregator does not take it; the message says what to do.
            LedgerError: what came back is no chain of this charter, or leaves the one known here.
            NetworkError: the aggregator was out of reach for longer than ``patience_s``.
            AttestationError: what answers in its place is not acceptable.
        """
        if on_error not in get_args(OnError):
            raise ConfigurationError(f"on_error is {on_error!r}; it is one of {', '.join(get_args(OnError))}")
        screen = Screen(always=True)  # a study goes on for hours, and a void round is news
        trained = copied(model)
        plan = jobs.planned(loss, model=trained, example=example)
        home_buffers = self.charter.limits.home_buffers
        described = jobs.describe(trained, plan, base=base, home_buffers=home_buffers)
        wanted = jobs.job(
            "wanted",
            plan,
            data=data,
            optimizer=optimizer,
            batch_size=batch_size,
            steps=steps,
            rounds=rounds,
            strategy=strategy,
            weights=weights,
            sampling=sampling,
            precision=precision,
            unsafe_lr=jobs.CHARTER_DECIDES if sampling is None else None,
        )
        jobs.make(described, plan, wanted, charter=self.charter)  # what it refuses costs nobody anything yet
        if sampling is not None:
            held = parameters_of(trained), buffers_of(trained)
            check_rows_apart(plan, parameters=held[0], buffers=held[1])
        with self._folder.locked(), Interrupts(said=screen) as interrupts:
            if self._folder.follow(self.charter):
                screen(
                    f"{self._folder.path} goes on under serial {self.charter.serial} of {shown(self.charter.name)};"
                    " what it held of the charter before lies in a folder in it"
                )
            described = self._handed_on(described, trained, screen)
            job = jobs.make(described, plan, wanted, charter=self.charter)
            job_run = JobRun(
                self.charter,
                self._folder,
                self._folder.ledger(self.charter),
                trained,
                job,
                described.vector,
                dial=self._dial,
                judge=self._judge,
                evaluate=evaluate,
                on_round=screen if on_round is None else on_round,
                on_error=on_error,
                say=screen,
                interrupts=interrupts,
                patience_s=self._patience_s,
            )
            job_run.run()
        return self._run(job_run, plan)

    def _handed_on(
        self, described: jobs.Described, trained: nn.Module, say: Callable[[object], None]
    ) -> jobs.Described:
        """What a job starts from: what was given; or, where that is what the study began with under a charter before,
        the model that the charter before released last and this one starts from, which ``trained`` then is."""
        before = self._folder.before(self.charter)
        agreed = self.charter.limits.first_model
        if before is None or described.digest == agreed or described.digest not in self._folder.starts_before():
            return described
        job = before.job()
        kept = None if job is None else before.model(job)
        if job is None or kept is None or kept.digest != agreed or job.tensors != described.tensors:
            return described
        jobs.load(kept.vector, tensors=job.tensors, into=trained)
        say("the model starts from the values that the charter before released last")
        return described._replace(vector=np.frombuffer(kept.vector, job.layout.dtype))

    def status(self) -> StudyStatus:
        """How the study stands now: who is there, which round, what it waits for. It may be asked while a ``fit`` runs.

        Raises:
            NetworkError: the aggregator is out of reach. AttestationError: what it proves is not acceptable.
        """
        return self._ask(Ask())

    def stop(self) -> StudyStatus:
        """Stops the job that runs, and with it the round that is under way, unless owners were asked to commit it.

        It is the job of this researcher, or one whose researcher is not there.

        Raises:
            JobError: there is no such job. NetworkError, AttestationError: as ``status``.
        """
        return self._ask(Stop())

    def _ask(self, message: Ask | Stop) -> StudyStatus:
        with dial(self._policy, identity=self._identity, routes=self._routes) as attested:  # not that of a fit
            return ask(attested, message, charter=self.charter)

    def close(self) -> None:
        """Ends the connection, if there is one."""
        self.attested.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _dial(self) -> AttestedConnection:
        self.attested = dial(self._policy, identity=self._identity, routes=self._routes)
        return self.attested

    def _judge(self, known: Ledger, ledger: Ledger) -> None:
        """Verifies the evidence of the instances that are new in ``ledger``."""
        heads = {instance.head for instance in known.instances}
        for instance in ledger.instances:
            if instance.head not in heads:
                verify_instance(
                    instance,
                    charter=self.charter,
                    collateral=self._policy.collateral,
                    accept_simulated=self._policy.accept_simulated,
                )

    def _run(self, job_run: JobRun, plan: Plan) -> StudyRun:
        receipts = job_run.receipts
        if receipts:
            newest = receipts[-1] is job_run.ledger.receipts[-1]
            if job_run.held is None or not newest:
                raise StudyError(
                    "the job's last model is not here: "
                    + ("the aggregator did not send it" if newest else "rounds of another job came after it")
                )
            jobs.load(job_run.held.vector, tensors=job_run.job.tensors, into=job_run.model)
        history = History(job_run.rounds)
        return StudyRun(job_run.model, history, receipts, plan, job_run.finished, job_run.ledger.records, self)
