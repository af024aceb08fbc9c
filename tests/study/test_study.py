"""The researcher's side: what it believes of an aggregator, what it keeps, and how it goes on after anything."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregation.strategies import State
from cloister.errors import (
    CharterError,
    ConnectionLostError,
    JobError,
    LedgerError,
    MessageError,
    RoundError,
    StudyError,
    UnacceptableError,
    UnreachableError,
)
from cloister.ledger import job as jobs
from cloister.ledger.audit import audit
from cloister.ledger.jsonl import read_lines
from cloister.net.collateral import no_collateral
from cloister.net.identity import Identity
from cloister.study import fit as fit_module
from cloister.study.state_dir import Folder
from cloister.study.study import StudyRun
from cloister.wire.halves import packed
from cloister.wire.rounds import (
    Accepted,
    Ask,
    Chain,
    Finished,
    HandOver,
    Join,
    Out,
    Over,
    Propose,
    Refused,
    Status,
    Stop,
)
from tests.support import chains, charters
from tests.support.aggregators import Aggregator, Script, Talk, vector

LENGTH = 21


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(6, 3)


PLAN = loss.capture(model(), example=(torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)))


NUMBERS: dict[str, Any] = {
    "data": "#mri",
    "optimizer": cloister.SGD(lr=0.1),
    "batch_size": 32,
    "steps": 4,
    "rounds": 2,
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "_FIRST_DELAY_S", 0.001)


@pytest.fixture
def aggregator(tmp_path: Path) -> Aggregator:
    agreed = cloister.job("train", PLAN, **NUMBERS)
    adaptive = cloister.job("adaptive", PLAN, strategy=cloister.FedAdam(), **NUMBERS)
    half = cloister.job("half", PLAN, precision="bfloat16", **NUMBERS)
    return Aggregator(tmp_path, jobs=[agreed, adaptive, half], start=cloister.model_digest(model(), PLAN))


def fit(study: cloister.Study, **changed: Any) -> StudyRun:
    given: dict[str, Any] = {"on_round": lambda done: None, **NUMBERS, **changed}
    return study.fit(given.pop("model", model()), given.pop("loss", PLAN), **given)


def flat(found: nn.Module) -> list[float]:
    return [*found.bias.tolist(), *found.weight.flatten().tolist()]  # type: ignore[union-attr, operator]


def two_rounds(talk: Talk) -> None:
    talk.accept()
    instance = talk.begin()
    for seed in (1, 2):
        before = talk.ledger.sequence - (seed == 1)
        talk.release(vector(LENGTH, seed), instance=instance)
        talk.send(before, vector(LENGTH, seed))
    talk.finish()


def one_round(talk: Talk, *, then: Callable[[Talk], None] = Talk.finish, **changed: Any) -> None:
    talk.accept()
    instance = talk.begin()
    talk.release(vector(LENGTH, 1), instance=instance, **changed)
    talk.send(0, vector(LENGTH, 1))
    then(talk)


def stepping(*, wrong: bool = False) -> Script:
    """A round of which the model comes, and one of which the step does."""

    def script(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        first = vector(LENGTH, 1)
        talk.release(first, instance=instance)
        talk.send(0, first)
        step = packed(np.full(LENGTH, 0.5, np.float32), to="bfloat16")
        talk.release(first + np.float32(0.5), instance=instance)
        if wrong:
            step[LENGTH // 2] += 1
        found = talk.ledger.since(2)
        talk.say(Chain(3, tuple(map(len, found)), step=step.nbytes), [*found, step.tobytes()])
        talk.until_closed() if wrong else talk.finish()

    return script


def vanish(talk: Talk) -> None:
    talk.connection.close()


def test_a_step_leads_to_the_next_model(aggregator: Aggregator, tmp_path: Path) -> None:
    with aggregator.saying(stepping()) as options:
        run = fit(aggregator.study(options), precision="bfloat16")
    assert flat(run.model) == (vector(LENGTH, 1) + np.float32(0.5)).tolist()
    assert run.finished
    kept = Folder(tmp_path / "charter.rounds")
    found = kept.model(jobs.decode((kept.path / "job").read_bytes()))
    assert found is not None
    assert found.digest == run.receipts[-1].record.model


def test_a_step_from_the_model_that_the_job_starts_from(aggregator: Aggregator) -> None:
    """Whoever submitted it has that model, even where it was not handed what a job before it remembered beside it."""
    start = np.array(flat(model()), np.float32)

    def script(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        talk.release(start + np.float32(0.5), instance=instance)
        found, step = talk.ledger.since(0), packed(np.full(LENGTH, 0.5, np.float32), to="bfloat16")
        talk.say(Chain(1, tuple(map(len, found)), step=step.nbytes), [*found, step.tobytes()])
        talk.finish("enough")

    with aggregator.saying(script) as options:
        run = fit(aggregator.study(options), precision="bfloat16")
    assert flat(run.model) == (start + np.float32(0.5)).tolist()


def test_a_step_that_leads_elsewhere_is_noticed(aggregator: Aggregator, tmp_path: Path) -> None:
    told: list[Any] = []
    with (
        aggregator.saying(stepping(wrong=True)) as options,
        pytest.raises(RoundError, match="leads to another model than it released"),
    ):
        fit(aggregator.study(options), precision="bfloat16", on_round=told.append)
    assert len(told) == 1
    assert len([*Folder(tmp_path / "charter.rounds").records()]) == 2  # nothing of it is kept


def test_a_study(aggregator: Aggregator, tmp_path: Path) -> None:
    modes, seen = [], []

    def evaluate(found: nn.Module) -> dict[str, float]:
        modes.append(found.training)
        return {"bias": float(found.bias.detach().sum())}  # type: ignore[union-attr, operator, arg-type]

    with aggregator.saying(two_rounds) as options, aggregator.study(options) as study:
        assert "simulated" in study.attested.verdict.line()
        run = fit(study, evaluate=evaluate, on_round=seen.append)
    assert run.finished
    assert flat(run.model) == vector(LENGTH, 2).tolist()
    assert [done.number for done in run.history] == [1, 2]
    assert list(run.history) == seen
    assert run.history[0].owners == ("alice", "bob")
    assert run.history[0].weights == {"alice": 0.5, "bob": 0.5}
    assert run.history[1].metrics == {"loss": 0.5}
    assert run.history[1].evaluation["bias"] == pytest.approx(float(vector(LENGTH, 2)[:3].sum()))
    assert modes == [False, False]
    assert run.model.training
    assert [receipt.cohort.round for receipt in run.receipts] == [1, 2]
    run.save_chain(tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == study.chain.read_bytes()
    assert study.chain.parent.name == "charter.rounds"  # not charter.study, which a study file beside it may be called
    found = tuple(read_lines(study.chain.read_bytes().splitlines(keepends=True)))
    report = audit(found, charter=aggregator.charter, collateral=no_collateral, accept_simulated=True)
    assert report.ledger.released == 2
    assert "2 owners" in str(run.history[1])
    assert "examples" not in f"{run.history}{run.history[1]}"


def test_a_study_whose_charter_tells_of_clipping_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = "".join(
        f'[[limits.metrics]]\nname = "{name}"\nlow = 0.0\nhigh = 100.0\n' for name in ("clipped", "loss", "update_norm")
    )
    numbers = {**NUMBERS, "rounds": 3}
    jobs = [cloister.job("train", PLAN, **numbers)]
    aggregator = Aggregator(tmp_path, jobs=jobs, start=cloister.model_digest(model(), PLAN), limits=told)

    def rounds(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        for seed in (1, 2, 3):
            before = talk.ledger.sequence - (seed == 1)
            metrics = {"loss": 0.5, "clipped": 1.0, "update_norm": 7.25}
            talk.release(vector(LENGTH, seed), instance=instance, metrics=metrics)
            talk.send(before, vector(LENGTH, seed))
        talk.finish()

    with aggregator.saying(rounds) as options, caplog.at_level("WARNING", logger="cloister.study.clipping"):
        run = fit(aggregator.study(options), **numbers)
    assert run.history.series("clipped") == [1.0, 1.0, 1.0]
    (record,) = caplog.records
    assert "mean norm was 7.25 in the last round, were clipped to" in record.getMessage()
    assert "a charter with a larger clip" in record.getMessage()


def test_the_model_that_was_given_stays_as_it_is(aggregator: Aggregator) -> None:
    start = model()
    with aggregator.saying(two_rounds) as options:
        run = fit(aggregator.study(options), model=start)
    assert (
        cloister.model_digest(start, PLAN)
        == cloister.model_digest(model(), PLAN)
        != cloister.model_digest(run.model, PLAN)
    )


def test_the_same_script_again_finds_its_job_done(aggregator: Aggregator) -> None:
    joins: list[Join] = []

    def again(talk: Talk) -> None:
        joins.append(talk.accept(after=3))
        talk.finish()

    with aggregator.saying(two_rounds, again) as options:
        first, second = fit(aggregator.study(options)), fit(aggregator.study(options))
    assert (joins[0].sequence, joins[0].head, joins[0].holds) == (3, aggregator.ledger.head, True)
    assert cloister.model_digest(first.model, PLAN) == cloister.model_digest(second.model, PLAN)
    assert second.history[1].weights == first.history[1].weights
    assert second.finished


def test_a_lost_connection_is_made_again_and_the_chain_handed_over(aggregator: Aggregator) -> None:
    """The second instance knows nothing, and takes what the researcher has: records, model and the rule's state."""
    handed: list[tuple[Chain, bytes]] = []
    state = State(1, *(vector(LENGTH, seed).astype("float64") for seed in (7, 8)))

    def lose(talk: Talk) -> None:
        talk.accept()
        talk.release(vector(LENGTH, 1), instance=talk.begin(), state=state)
        talk.send(0, vector(LENGTH, 1), state)

    def go_on(talk: Talk) -> None:
        join, _ = talk.hear(Join)
        assert join.holds
        for after in (0, 2):  # the records, and then what the newest of them released
            talk.say(HandOver(after))
            handed.append(talk.hear(Chain))
        instance = talk.begin(instance="second")
        talk.send(2)
        talk.take()
        before = talk.ledger.sequence
        talk.release(vector(LENGTH, 2), instance=instance, round=5)
        talk.send(before, vector(LENGTH, 2))
        talk.finish()

    with aggregator.saying(lose, go_on) as options:
        run = fit(aggregator.study(options), strategy=cloister.FedAdam())
    (first, found), (second, released) = handed
    assert found == b"".join(aggregator.ledger.records[:2])
    assert (first.first, first.model, second.first, second.records, second.rounds) == (1, 0, 3, (), 1)
    assert state.momentum is not None
    assert state.squares is not None
    assert released == vector(LENGTH, 1).tobytes() + state.momentum.tobytes() + state.squares.tobytes()
    assert [done.number for done in run.history] == [1, 5]
    assert run.finished


def test_a_new_model_need_not_be_sent_twice(aggregator: Aggregator) -> None:
    """An instance that begins anew after it has released: the model that is held stays the newest."""

    def begin_anew(talk: Talk) -> None:
        talk.accept(after=2)
        talk.begin(instance="second")
        talk.send(2)
        talk.finish("stopped")

    with aggregator.saying(lambda talk: one_round(talk, then=vanish), begin_anew) as options:
        run = fit(aggregator.study(options))
    assert flat(run.model) == vector(LENGTH, 1).tolist()
    assert not run.finished


def test_patience_has_an_end(aggregator: Aggregator) -> None:
    with (
        aggregator.saying(lambda talk: one_round(talk, then=vanish)) as options,
        pytest.raises(ConnectionLostError),
    ):
        fit(aggregator.study(options, patience_s=0.0))


def test_nobody_there(aggregator: Aggregator) -> None:
    with aggregator.saying() as options:
        pass
    with pytest.raises(UnreachableError):
        aggregator.study(options)


def test_ctrl_c_ends_the_job_after_the_round(aggregator: Aggregator) -> None:
    def stop(talk: Talk) -> None:
        talk.hear(Stop)
        talk.finish("stopped by the researcher")

    before = signal.getsignal(signal.SIGINT)
    with aggregator.saying(lambda talk: one_round(talk, then=stop)) as options:
        run = fit(aggregator.study(options), on_round=lambda done: signal.raise_signal(signal.SIGINT))
    assert not run.finished
    assert len(run.history) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_wakes_a_study_that_waits(aggregator: Aggregator) -> None:
    """The signal interrupts another thread than the one that waits, whose own handler would come too late."""

    def press(talk: Talk) -> None:
        talk.accept()
        signal.raise_signal(signal.SIGINT)
        talk.hear(Stop)
        talk.finish("stopped by the researcher")

    with aggregator.saying(press) as options:
        assert not fit(aggregator.study(options)).history


def test_a_study_in_a_thread_of_its_own(aggregator: Aggregator) -> None:
    with aggregator.saying(two_rounds) as options, ThreadPoolExecutor(1) as threads:
        assert threads.submit(fit, aggregator.study(options)).result().finished


class NoBetterError(Exception):
    """What a callback raises to stop early."""


def enough(done: object) -> None:
    raise NoBetterError


def stopped(talk: Talk) -> None:
    talk.hear(Stop)
    talk.finish("stopped by the researcher")


def test_a_job_goes_on_where_a_callback_raises_unless_it_is_to_be_stopped(aggregator: Aggregator) -> None:
    """The records are kept either way, and the same call takes the job up."""
    with aggregator.saying(lambda talk: one_round(talk, then=Talk.until_closed)) as options:
        study = aggregator.study(options)
        with pytest.raises(NoBetterError):
            fit(study, on_round=enough)
    assert len(list(read_lines(study.chain.read_bytes().splitlines(keepends=True)))) == 2


def test_a_callback_that_raises_stops_the_job_first(aggregator: Aggregator) -> None:
    told = []

    def evaluate(found: nn.Module) -> dict[str, float]:
        told.append(found)
        raise NoBetterError

    def another_round(talk: Talk) -> None:
        talk.hear(Stop)
        talk.release(vector(LENGTH, 2), instance=chains.Instance("first"))
        talk.send(1, vector(LENGTH, 2))  # which was under way, and nobody is told of
        talk.finish("stopped by the researcher")

    with aggregator.saying(lambda talk: one_round(talk, then=another_round)) as options:
        study = aggregator.study(options)
        with pytest.raises(NoBetterError) as caught:
            fit(study, evaluate=evaluate, on_error="stop")
    assert not hasattr(caught.value, "__notes__")
    assert len(told) == 1
    assert len(list(read_lines(study.chain.read_bytes().splitlines(keepends=True)))) == 3


def test_a_job_is_stopped_through_a_lost_connection_or_the_error_says_why_not(
    aggregator: Aggregator, tmp_path: Path
) -> None:
    def on(talk: Talk) -> None:
        talk.accept(after=2)
        stopped(talk)

    with aggregator.saying(lambda talk: one_round(talk, then=vanish), on) as options, pytest.raises(NoBetterError):
        fit(aggregator.study(options), on_round=enough, on_error="stop")
    with (
        aggregator.saying(lambda talk: one_round(talk, then=vanish)) as options,
        pytest.raises(NoBetterError) as caught,
    ):
        fit(aggregator.study(options, state=tmp_path / "other", patience_s=0.0), on_round=enough, on_error="stop")
    assert "the job goes on, since it could not be stopped" in caught.value.__notes__[0]


def test_a_callback_that_raises_in_the_last_round_has_nothing_to_stop(aggregator: Aggregator) -> None:
    """The other end would have to refuse to stop what is over, or be gone already."""

    def last(done: Any) -> None:
        if done.number == 2:
            raise NoBetterError

    with aggregator.saying(two_rounds) as options, pytest.raises(NoBetterError):
        fit(aggregator.study(options), on_round=last, on_error="stop")


def test_a_callbacks_own_network_error_is_no_lost_connection(aggregator: Aggregator) -> None:
    def elsewhere(done: object) -> None:
        raise UnreachableError("a worker of the script's own")

    with (
        aggregator.saying(lambda talk: one_round(talk, then=Talk.until_closed)) as options,
        pytest.raises(UnreachableError, match="of the script's own"),
    ):
        fit(aggregator.study(options), on_round=elsewhere)


def test_what_becomes_of_a_job_is_one_of_two(aggregator: Aggregator) -> None:
    with (
        aggregator.saying() as options,
        pytest.raises(cloister.errors.ConfigurationError, match="on_error is 'go on'; it is one of leave, stop"),
    ):
        fit(aggregator.study(options), on_error="go on")


def test_a_second_ctrl_c_leaves_at_once(aggregator: Aggregator) -> None:
    def twice(done: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with (
        aggregator.saying(lambda talk: one_round(talk, then=Talk.until_closed)) as options,
        pytest.raises(KeyboardInterrupt),
    ):
        fit(aggregator.study(options), on_round=twice)


def test_the_numbers_of_void_rounds_are_remembered(aggregator: Aggregator) -> None:
    joins: list[Join] = []

    def void(talk: Talk) -> None:
        talk.accept()
        talk.say(Over(7, "too few owners"))

    def again(talk: Talk) -> None:
        joins.append(talk.accept())
        talk.finish("no owners")

    with aggregator.saying(void, again) as options:
        run = fit(aggregator.study(options))
    assert joins[0].round == 7
    assert not run.history
    assert cloister.model_digest(run.model, PLAN) == cloister.model_digest(model(), PLAN)


# What is not believed


def corrupt(talk: Talk) -> None:
    talk.accept()
    talk.release(vector(LENGTH, 1), instance=talk.begin())
    talk.send(0, vector(LENGTH, 2))
    talk.until_closed()


def corrupt_state(talk: Talk) -> None:
    talk.accept()
    talk.release(vector(LENGTH, 1), instance=talk.begin(), state=State(1, vector(LENGTH, 7).astype("float64")))
    talk.send(0, vector(LENGTH, 1), State(1, vector(LENGTH, 8).astype("float64")))
    talk.until_closed()


def longer(talk: Talk) -> None:
    talk.accept()
    talk.send(0, vector(LENGTH + 1, 1))
    talk.until_closed()


def early(talk: Talk) -> None:
    one_round(talk)


def forked(talk: Talk) -> None:
    talk.hear(Join)
    talk.say(Refused(0, "ledger", "somebody's records"))
    talk.until_closed()


def unsigned(talk: Talk) -> None:
    talk.accept()
    instance = talk.begin()
    talk.release(vector(LENGTH, 1), instance=instance)
    record = bytearray(talk.ledger.records[-1])
    record[-1] ^= 1
    found = (talk.ledger.records[0], bytes(record))
    talk.say(Chain(1, tuple(map(len, found))), found)
    talk.until_closed()


def refused(talk: Talk) -> None:
    talk.hear(Join)
    talk.say(Chain(1, ()))
    talk.hear(object)
    talk.say(Refused(0, "job", "another job is under way, and no fork"))
    talk.until_closed()


def refused_round(talk: Talk) -> None:
    talk.accept()
    talk.say(Refused(3, "round", "why not"))
    talk.until_closed()


def another_job(talk: Talk) -> None:
    talk.accept()
    talk.say(Accepted(bytes(32), 0))
    talk.until_closed()


def for_owners(talk: Talk) -> None:
    talk.accept()
    talk.say(Propose(1, bytes(32), bytes(32), 0, b"", bytes(32), 1.0))
    talk.until_closed()


def with_a_body(talk: Talk) -> None:
    talk.accept()
    talk.say(Finished(talk.digest, 0, ""), [b"more"])
    talk.until_closed()


def lengths(talk: Talk) -> None:
    talk.accept()
    talk.say(Chain(1, (5,)), [b"seven.."])
    talk.until_closed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        (corrupt, LedgerError, "not the one that the record names"),
        (corrupt_state, LedgerError, "not the one that the record names"),
        (longer, LedgerError, "another length"),
        (early, LedgerError, "receipts for 1 of its 2"),
        (forked, LedgerError, "somebody.s records"),
        (unsigned, LedgerError, "record 2"),
        (refused, JobError, "another job is under way"),
        (refused_round, RoundError, "round 3"),
        (another_job, StudyError, "another job"),
        (for_owners, MessageError, "for owners"),
        (with_a_body, MessageError, "4 bytes"),
        (lengths, LedgerError, "lengths"),
    ],
)
def test_what_is_not_believed(aggregator: Aggregator, script: Script, error: type[Exception], said: str) -> None:
    with aggregator.saying(script) as options, pytest.raises(error, match=said):
        fit(aggregator.study(options))


def test_a_chain_that_was_seen_is_never_left(aggregator: Aggregator) -> None:
    def fork(talk: Talk) -> None:
        talk.hear(Join)
        talk.ledger = type(talk.ledger)(aggregator.charter)
        talk.begin(instance="other")
        talk.send(0)
        talk.until_closed()

    with (
        aggregator.saying(lambda talk: one_round(talk, then=vanish), fork) as options,
        pytest.raises(LedgerError, match="a fork"),
    ):
        fit(aggregator.study(options))


def test_each_instance_in_the_chain_is_judged(aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch) -> None:
    other = chains.SimulatedAttester(measurement=bytes(48), platform=bytes(32))
    monkeypatch.setattr(chains.Instance, "__init__", lambda self, name: self.__dict__.update(name=name, attester=other))
    with (
        aggregator.saying(lambda talk: one_round(talk, then=Talk.until_closed)) as options,
        pytest.raises(UnacceptableError, match="record 1"),
    ):
        fit(aggregator.study(options))


# Before anything is sent


def test_a_model_that_is_not_the_chains(aggregator: Aggregator) -> None:
    def hear_nothing(talk: Talk) -> None:
        talk.hear(Join)
        talk.say(Chain(1, ()))
        talk.until_closed()

    with aggregator.saying(hear_nothing) as options, pytest.raises(JobError, match="first_model"):
        fit(aggregator.study(options), model=nn.Linear(6, 3))


@pytest.mark.parametrize("changed", [{"rounds": 1000}, {"loss": loss}, {"batch_size": 0}, {"steps": 5}])
def test_a_job_that_cannot_be_dials_nobody(aggregator: Aggregator, changed: dict[str, Any]) -> None:
    with aggregator.saying() as options:
        study = aggregator.study(options)
        with pytest.raises((cloister.errors.ConfigurationError, JobError)):
            fit(study, **changed)


def test_who_is_no_researcher(aggregator: Aggregator, tmp_path: Path) -> None:
    with aggregator.saying() as options, pytest.raises(CharterError, match="researcher"):
        aggregator.study(options, identity=Identity.create(tmp_path / "other.key"))


def test_a_simulated_tee_has_to_be_asked_for(aggregator: Aggregator) -> None:
    with aggregator.saying() as options, pytest.raises(UnacceptableError, match="simulated"):
        aggregator.study(options, accept_simulated=False)


def test_two_scripts_do_not_share_a_folder(aggregator: Aggregator) -> None:
    def second(done: object) -> None:
        with pytest.raises(cloister.errors.ConfigurationError, match="in use"):
            fit(study)

    with aggregator.saying(two_rounds) as options:
        study = aggregator.study(options)
        fit(study, on_round=second)


# Who is out of a round


def test_who_is_out_and_why_is_said_once_and_stands_in_the_history(
    aggregator: Aggregator, capsys: pytest.CaptureFixture[str]
) -> None:
    chuck, bob = charters.fingerprint_of("chuck"), charters.fingerprint_of("bob")

    def script(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        talk.say(Out(1, {chuck: "it declined: no", "sha256:" + "0" * 64: "nobody"}))
        talk.say(Out(1, {bob: "its connection was lost"}))
        talk.say(Over(1, "too few"))
        talk.say(Out(2, {chuck: "it declined: no"}))
        talk.release(vector(LENGTH, 1), instance=instance, round=2)
        talk.send(0, vector(LENGTH, 1))
        talk.say(Out(3, {chuck: "it declined: no"}))
        talk.say(Out(3, {chuck: "its\x1b[2J\nround 3  3 owners", bob: "it is in the mean all the same"}))
        before = talk.ledger.sequence
        talk.release(vector(LENGTH, 2), instance=instance, round=3)
        talk.send(before, vector(LENGTH, 2))
        talk.finish()

    with aggregator.saying(script) as options:
        run = fit(aggregator.study(options))
    assert [dict(done.absent) for done in run.history] == [
        {"chuck": "it declined: no"},
        {"chuck": r"its\x1b[2J\nround 3  3 owners"},
    ]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "without" in line] == [
        "round 1  without chuck: it declined: no",
        "round 1  without bob: its connection was lost",
        "round 3  without bob: it is in the mean all the same",
        r"round 3  without chuck: its\x1b[2J\nround 3  3 owners",
    ]


def test_an_owner_that_was_back_is_said_to_be_out_again(
    aggregator: Aggregator, capsys: pytest.CaptureFixture[str]
) -> None:
    bob = charters.fingerprint_of("bob")

    def script(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        talk.say(Out(1, {bob: "no"}))
        talk.say(Over(1, "too few"))
        talk.release(vector(LENGTH, 1), instance=instance, round=2)
        talk.send(0, vector(LENGTH, 1))
        talk.say(Out(3, {bob: "no"}))
        before = talk.ledger.sequence
        talk.release(vector(LENGTH, 2), instance=instance, round=4)
        talk.send(before, vector(LENGTH, 2))
        talk.finish()

    with aggregator.saying(script) as options:
        run = fit(aggregator.study(options))
    assert [dict(done.absent) for done in run.history] == [{}, {}]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "without" in line] == ["round 1  without bob: no", "round 3  without bob: no"]


def test_reasons_of_rounds_that_never_end_take_no_memory(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    hear = fit_module.JobRun._hear_out

    def counted(run: fit_module.JobRun, out: Out) -> None:
        hear(run, out)
        kept.append(len(run._absent))

    monkeypatch.setattr(fit_module.JobRun, "_hear_out", counted)

    def script(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        for number in range(1, 40):
            talk.say(Out(number, {charters.fingerprint_of("bob"): "no"}))
        for seed in (1, 2):
            before = talk.ledger.sequence - (seed == 1)
            talk.release(vector(LENGTH, seed), instance=instance)
            talk.send(before, vector(LENGTH, seed))
        talk.finish()

    with aggregator.saying(script) as options:
        assert fit(aggregator.study(options)).finished
    assert max(kept) == fit_module._OPEN_ROUNDS


def test_the_status_of_a_study_is_asked_beside_a_fit_and_leaves_its_connection(aggregator: Aggregator) -> None:
    """From a callback, as from another thread."""
    found: list[str] = []

    def status(talk: Talk) -> None:
        talk.hear(Ask)
        talk.say(Status("train", 1, 2, 2, "training", "", 99, ()))
        talk.until_closed()

    def watch(done: Any) -> None:
        before = study.attested
        found.append(study.status().phase)
        assert study.attested is before

    with aggregator.saying(two_rounds, status, status, status, status) as options:
        study = aggregator.study(options)
        run = fit(study, on_round=watch)
        assert run.finished
        assert run.status().job == "train"
        assert study.status().rounds == 2
    assert found == ["training", "training"]
