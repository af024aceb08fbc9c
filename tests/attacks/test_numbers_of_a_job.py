"""Attack: an honest plan, an honest model, and the numbers of a job alone: one owner's one row is what comes out.

A schedule that makes one step count, dampening that multiplies the last one, momentum that multiplies the first, one
row a step, decay that makes all contributions look alike: each of them worked on a study whose owners had signed for
the plan and the model only. Now they sign for the numbers. No charter has such numbers; a job has none of its own;
every step is of a whole batch, and all owners take as many; and within the bounds none of the numbers reads a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregation.dominance import bound_of
from cloister.charter import job_bounds
from cloister.charter.toml import parse_charter
from cloister.demo import theft
from cloister.demo.rollback import RolledBack, Scheme
from cloister.errors import CharterError, ConfigurationError, JobError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import read_lines
from cloister.study.job import describe, make
from cloister.testing.studies import ADDRESS, AGGREGATOR, LocalColumns, LocalStudy
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD, CosineDecay, StepDecay
from cloister.worker import optimizers
from cloister.worker.data.batches import order
from cloister.worker.data.rows import Arrays
from cloister.worker.training import Trained, train
from tests.attacks.gathering import Gathering
from tests.support import members, owners
from tests.support.charters import agreed_job

SIZES: Final = {"alice": 60, "bob": 40, "carol": 36}
TARGET: Final = 17
"""The row of alice's that the researcher wants."""
FLOOR, CLIP = 3, 1.0
EXAMPLE: Final = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))
READ, UNREAD = 1e-3, 0.05
"""Of a column's spread: a row is read with less error, and is not with more."""

Rows = Mapping[str, tuple[Tensor, Tensor]]


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


PLAN: Final = loss.capture(model(), example=EXAMPLE)


@cache
def data() -> Rows:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = {name: torch.randn(rows, 6, generator=generator) for name, rows in SIZES.items()}
    return {name: (x, (x @ true).argmax(1)) for name, x in inputs.items()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Kind(NamedTuple):
    """An attack: its numbers, what a charter says of them, and the same kind of numbers within the bounds."""

    optimizer: SGD
    batch_size: int
    steps: int
    fault: str
    within: tuple[SGD, ...]
    place: int
    """Where the row that is wanted stands in the order of alice's rows: the attacker chose a seed for it."""


RATES: Final = (1e-2, 0.1, 1.0)
KINDS: Final[dict[str, Kind]] = {
    # the last step, of one row, has ten million times the rate of the one before
    "cosine": Kind(
        SGD(1e-6, schedule=CosineDecay(1, 10.0)),
        59,
        2,
        "lowest is 10, and must be at most lr, 1e-06",
        tuple(SGD(lr, schedule=CosineDecay(at, lr / 10)) for lr, at in itertools.product(RATES, (1, 2, 4))),
        -1,
    ),
    # all gradients but the first are multiplied by ten million
    "dampening": Kind(
        SGD(1e-6, momentum=1e-3, dampening=-1e7),
        59,
        2,
        "dampening is -1e+07, and must be from 0 to 0.9",
        tuple(
            SGD(lr, momentum=momentum, dampening=dampening)
            for lr, momentum, dampening in itertools.product(RATES, (0.1, 0.9), (0.5, 0.9))
        ),
        -1,
    ),
    # only the first gradient counts, and is doubled with each step: alice takes 20 steps more than anybody
    "momentum": Kind(
        SGD(1e-17, momentum=2.0, dampening=1.0),
        1,
        60,
        "momentum is 2, and must be from 0 to below 1",
        tuple(SGD(lr, momentum=momentum) for lr, momentum in itertools.product(RATES, (0.5, 0.9, 0.99))),
        0,
    ),
    # every owner takes one step on one row; a neuron that is active for one of them alone gives that row
    "onerow": Kind(
        SGD(1.0, schedule=StepDecay(1, 0.0)),
        1,
        60,
        "the schedule's least learning rate of a round is 0",
        tuple(SGD(lr, schedule=StepDecay(every, 0.32)) for lr, every in itertools.product(RATES, (1, 2))),
        0,
    ),
    # what decays is the same for all, and so long that no contribution is longer than the others
    "weight decay": Kind(SGD(0.1, weight_decay=0.1), 16, 3, "weight_decay is 0.1, and must be 0 at owners", (), 0),
}
kinds: Final = pytest.mark.parametrize("kind", KINDS)


def numbers_of(kind: str) -> dict[str, Any]:
    found = KINDS[kind]
    return {"optimizer": found.optimizer, "batch_size": found.batch_size, "steps": found.steps}


# What owners can agree on


@kinds
def test_no_charter_agrees_on_such_numbers(kind: str) -> None:
    wanted = agreed_job(PLAN.digest, **{**numbers_of(kind), "batch_size": 32})
    faults = [fault for _, fault in job_bounds.faults(wanted)]
    assert any(KINDS[kind].fault in fault for fault in faults), faults
    with pytest.raises(CharterError, match="optimizer: ") as caught:
        owners.agree(job={**numbers_of(kind), "batch_size": 32})
    assert KINDS[kind].fault in str(caught.value)
    with pytest.raises(ConfigurationError, match="nobody may agree on such a job") as refused:
        as_job(kind)
    assert KINDS[kind].fault in str(refused.value)


@pytest.mark.parametrize("batch_size", [1, 15, 31])
def test_no_charter_agrees_on_steps_of_few_rows(batch_size: int) -> None:
    with pytest.raises(CharterError, match=f"is {batch_size}, and must be at least min_batch, 32"):
        owners.agree(job={"batch_size": batch_size})
    with pytest.raises(CharterError, match="min_batch"):
        owners.agree(job={"batch_size": batch_size}, min_batch="15")


def as_job(kind: str) -> Any:
    found = KINDS[kind]
    return cloister.job(
        kind.replace(" ", "-"),
        PLAN,
        data="#mri",
        optimizer=optimizers.read(found.optimizer),
        batch_size=found.batch_size,
        steps=found.steps,
        rounds=1,
    )


# What a researcher's client can say instead


def with_numbers(honest: bytes, kind: str) -> bytes:
    """A job that goes on with numbers where the honest one ends, as jobs did once."""
    return msgspec.msgpack.encode([*msgspec.msgpack.decode(honest), *numbers_of(kind).values()])


def another(honest: bytes, kind: str) -> bytes:
    """The honest job under another name."""
    return jobs.encode(msgspec.structs.replace(jobs.decode(honest), name=kind))


def under_a_charter(honest: bytes, kind: str) -> bytes:
    """The job of a charter that nobody else has signed."""
    return jobs.encode(msgspec.structs.replace(jobs.decode(honest), charter=bytes(32)))


FORGERIES: Final = {
    with_numbers: "no job of this version",
    another: "has no job",
    under_a_charter: "for another charter",
}
forgeries: Final = pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)


@kinds
@forgeries
def test_the_aggregator_takes_no_job_with_other_numbers(forge: Any, kind: str) -> None:
    study = Gathering()
    study.join()
    forged = forge(study.data, kind)
    study.instance.say("rosa", w.Submit(len(forged)), forged + owners.first_model().tobytes())
    refused = study.instance.read("rosa")[-1]
    assert isinstance(refused, w.Refused)
    assert FORGERIES[forge] in refused.text
    study.settle()
    assert not study.told("bob", w.Work)


@kinds
@forgeries
def test_no_node_trains_for_a_job_with_other_numbers(forge: Any, kind: str) -> None:
    """Though an aggregator shows it."""
    here = members.Aggregator.facing(members.owner())
    forged = forge(here.encoded, kind)
    digest = jobs.job_digest(forged)
    here.member.handle(w.Work(digest), forged)
    assert FORGERIES[forge] in members.declined(here.member.handle(here.proposal(job=digest)))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStudy]:
    """The real processes, under a charter of one job."""
    files = {}
    for name, (x, y) in data().items():
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
        files[name] = [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#mri",))]
    limits = {"first_model": cloister.model_digest(model(), PLAN), "floor": FLOOR, "largest_share": 0.5, "clip": CLIP}
    plain = cloister.job("plain", PLAN, **PLAIN)
    with LocalStudy(tmp_path, files, jobs=[plain], limits={**limits, "min_examples": 32}) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        yield running


PLAIN: Final[dict[str, Any]] = {
    "data": "#mri",
    "optimizer": cloister.SGD(lr=0.1),
    "batch_size": 16,
    "steps": 3,
    "rounds": 2,
}


@pytest.mark.e2e
@pytest.mark.slow
def test_the_real_processes_compute_the_charters_numbers_and_no_others(local: LocalStudy) -> None:
    study = local.study(patience_s=60.0)
    for kind, found in KINDS.items():  # a script says why, and nothing is sent
        wanted = {"optimizer": optimizers.read(found.optimizer), "batch_size": found.batch_size, "steps": found.steps}
        with pytest.raises(
            (ConfigurationError, JobError), match=r"nobody may agree on such a job|not a job that the owners"
        ):
            study.fit(model(), PLAN, **{**PLAIN, **wanted, "rounds": 1})
        assert not study.chain.exists(), kind
    with pytest.raises(JobError, match=r"batch_size \(17; the charter has 16\)"):
        study.fit(model(), PLAN, **{**PLAIN, "batch_size": 17})
    run = study.fit(model(), PLAN, on_round=lambda done: None, **PLAIN)
    assert run.finished
    ledger = Ledger.from_records(local.charter, read_lines(study.chain.read_bytes().splitlines(keepends=True)))
    honest = make(describe(model(), PLAN), PLAN, local.charter.jobs[0], charter=local.charter)
    first_values = describe(model(), PLAN).vector
    for forge, text in FORGERIES.items():  # a client that says what it likes
        for kind in KINDS:
            assert text in theft.submit(forge(honest, kind), first_values, ledger=ledger, local=local)
    local.kill(AGGREGATOR)
    first = ledger.receipts[1].cohort.sequence
    older = Ledger.from_records(local.charter, ledger.records[: first - 1])
    forgeries = ((with_numbers, "no job of this version"), (another, "has no job"))
    for newest, (forge, text) in enumerate(forgeries, ledger.last_round):  # what was declined is answered
        # an aggregator that proves to be the agreed one, and hands on what it likes
        scheme = Scheme(older, newest=newest, honest=honest, forged=forge(honest, "cosine"))
        with RolledBack(scheme, name=ADDRESS, address=local.routes[ADDRESS]) as forger:
            found_by = forger.refusals(within_s=60.0).job
        assert len(found_by) == len(SIZES)
        assert all(text in each for each in found_by.values()), found_by


# What the numbers would read, and what those within the bounds read


def contributions(
    start: nn.Module, rows: Rows, *, clip: float = CLIP, seeds: Mapping[str, int], **numbers: Any
) -> dict[str, Trained]:
    """What owners find, each in the order of its seed."""
    return {
        name: train(
            PLAN,
            Arrays({"x": x, "y": y}),
            parameters=dict(start.named_parameters()),
            buffers={},
            seed=seeds[name],
            rows_seed=seeds[name] + 1,
            clip=clip,
            **numbers,
        )
        for name, (x, y) in rows.items()
    }


def mean_of(found: Mapping[str, Trained], *, level: bool = False) -> Tensor:
    """The mean, in which no contribution counts for more than the floor-th largest where they are ``level``."""
    bound = bound_of([each.norms.parameters for each in found.values()], floor=FLOOR, clip=None)
    scales = [min(1.0, bound / each.norms.parameters) if level else 1.0 for each in found.values()]
    return sum((each.delta.double() * scale for each, scale in zip(found.values(), scales, strict=True))) / len(found)  # type: ignore[return-value]


def flat(of: nn.Module) -> Tensor:
    """A model's values, in the order of a contribution's."""
    return torch.cat([value.detach().double().flatten() for _, value in sorted(of.named_parameters())])


def rows_in(mean: Tensor) -> Tensor:
    """What each neuron that was touched says that it saw: its weights' change over its bias's (Fowl et al., "Robbing
    the Fed", ICLR 2022). The largest change comes first."""
    shapes = [(name, value.shape) for name, value in sorted(model().named_parameters())]
    parts = dict(zip((name for name, _ in shapes), mean.split([shape.numel() for _, shape in shapes]), strict=True))
    biases = parts["0.bias"]
    touched = [int(each) for each in biases.abs().argsort(descending=True) if biases[each].abs() > 1e-12]
    return parts["0.weight"].view(16, 6)[touched] / biases[touched, None]


def error(guesses: Tensor, rows: Rows, *, name: str = "", row: int | None = None) -> float:
    """How far the best guess is from a row, or from the nearest of all rows, at most, in spreads of the columns."""
    everything = torch.cat([x for x, _ in rows.values()]).double()
    wanted = everything if row is None else rows[name][0][row : row + 1].double()
    distances = (guesses[:, None] - wanted[None]) / everything.std(0)
    return float(distances.abs().amax(2).min())


def seed_for(place: int) -> int:
    """A seed with which the wanted row stands there in the order of alice's."""
    return next(seed for seed in range(100_000) if order(SIZES["alice"], seed=seed, step=0)[place] == TARGET)


def seeds_from(alice: int) -> dict[str, int]:
    return {name: alice + number for number, name in enumerate(SIZES)}


@pytest.mark.parametrize("kind", ["cosine", "dampening", "momentum"])
def test_without_bounds_the_numbers_read_the_wanted_row(kind: str) -> None:
    """As it was: an epoch over all rows, in an order that the researcher knows, and any numbers."""
    found, seeds = KINDS[kind], seeds_from(seed_for(KINDS[kind].place))
    numbers = {"optimizer": optimizers.read(found.optimizer), "batch_size": found.batch_size, "local_epochs": 1}
    guesses = rows_in(mean_of(contributions(model(), data(), seeds=seeds, **numbers)))
    assert error(guesses[:1], data(), name="alice", row=TARGET) < READ


def test_without_bounds_a_step_of_one_row_reads_it() -> None:
    """The researcher knows which guess to believe: two neurons agree on it."""
    found, seeds = KINDS["onerow"], seeds_from(seed_for(0))
    numbers = {"optimizer": optimizers.read(found.optimizer), "batch_size": 1, "local_epochs": 1}
    guesses = rows_in(mean_of(contributions(model(), data(), seeds=seeds, **numbers)))
    agreeing = [pair for pair in itertools.combinations(guesses, 2) if torch.allclose(*pair, atol=READ)]
    assert min(error(one[None], data(), name="alice", row=TARGET) for one, _ in agreeing) < READ


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].within])
def test_within_the_bounds_no_such_numbers_read_any_row(kind: str) -> None:
    """The least batch that a charter may have, few steps, and the best guess at any row of any owner. Contributions
    are not even levelled here."""
    errors = []
    for seed, (optimizer, steps) in enumerate(itertools.product(KINDS[kind].within, (1, 2, 3))):
        if any(job_bounds.faults(agreed_job(PLAN.digest, optimizer=optimizer, steps=steps, batch_size=16))):
            continue
        found = contributions(
            model(),
            data(),
            seeds=seeds_from(1000 * seed),
            optimizer=optimizers.read(optimizer),
            batch_size=16,
            steps=steps,
        )
        errors.append(error(rows_in(mean_of(found)), data()))
    assert len(errors) >= len(KINDS[kind].within)
    assert min(errors) > UNREAD, errors


@cache
def fitted() -> tuple[nn.Module, Rows]:
    """A model that fits the rows of all owners, but for one of alice's, which has a wrong label."""
    generator = torch.Generator().manual_seed(9)
    true = torch.randn(6, 3, generator=generator)

    def clear(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4000, 6, generator=generator)
        best, second = (x @ true).topk(2, 1).values.T
        x = x[best - second > 1][:count]
        return x, (x @ true).argmax(1)

    rows = {name: clear(count) for name, count in SIZES.items()}
    x, y = rows["alice"]
    y[TARGET] = (x[TARGET] @ true).argmin()
    start, (x, y) = model(), clear(3000)
    optimizer = torch.optim.Adam(start.parameters(), lr=0.01)
    for _ in range(1500):
        optimizer.zero_grad()
        F.cross_entropy(start(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for each in start[2].parameters():  # type: ignore[index]
            each.mul_(2)
    return start, rows


def read_past_decay(weight_decay: float) -> float:
    """How well the row that does not fit is read from the levelled mean; what decayed is known and subtracted."""
    start, rows = fitted()
    found = contributions(
        start,
        rows,
        clip=1e3,
        seeds=seeds_from(0),
        optimizer=cloister.SGD(lr=0.1, weight_decay=weight_decay),
        batch_size=16,
        steps=3,
    )
    bound = bound_of([each.norms.parameters for each in found.values()], floor=FLOOR, clip=None)
    scale = sum(min(1.0, bound / each.norms.parameters) for each in found.values()) / len(found)
    decayed = flat(start) * ((1 - 0.1 * weight_decay) ** 3 - 1) * scale
    return error(rows_in(mean_of(found, level=True) - decayed)[:1], rows, name="alice", row=TARGET)


@pytest.mark.slow
def test_with_decay_at_owners_the_row_that_does_not_fit_would_be_read() -> None:
    """All contributions are about as long as what decays, so that none is scaled down to the others."""
    assert read_past_decay(KINDS["weight decay"].optimizer.weight_decay) < READ


@pytest.mark.slow
def test_without_decay_at_owners_it_is_scaled_down_to_the_others() -> None:
    start, rows = fitted()
    plain = contributions(
        start, rows, clip=1e3, seeds=seeds_from(0), optimizer=cloister.SGD(lr=0.1), batch_size=16, steps=3
    )
    assert error(rows_in(mean_of(plain))[:1], rows, name="alice", row=TARGET) < READ  # it is alone in a plain mean
    assert read_past_decay(0.0) > UNREAD


def test_the_family_of_honest_numbers_is_one_that_a_charter_can_have() -> None:
    """So that the test above is of what owners may agree on."""
    for found in KINDS.values():
        for optimizer in found.within:
            allowed = [
                steps
                for steps in (1, 2, 3)
                if not any(job_bounds.faults(agreed_job(PLAN.digest, optimizer=optimizer, steps=steps)))
            ]
            assert allowed, optimizer
    found = {"optimizer": KINDS["momentum"].within[0], "batch_size": 16}
    text = owners.charter_text(job=found, min_batch="16", min_rows="32")
    assert parse_charter(text).jobs[0].batch_size == 16
