"""Simulated runs with noise: what owners and aggregator of a study compute, to the bit, from a seed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.errors import ConfigurationError, DataSetError, PlanError
from cloister.simulation.noisy import noise_from
from cloister.simulation.simulate import SimulationRun
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import draw_key, simulated_salt
from cloister.worker.record_sums import RecordSums

SIZES = {"alice": 60, "bob": 36, "carol": 24}
SEED, CLIP, Z, LR, RATE, ROWS = 5, 0.5, 0.25, 0.5, 0.25, 30
RECORD = cloister.Noise(unit="record", multiplier=Z, delta=1e-5)
OWNER = cloister.Noise(unit="owner", multiplier=Z, delta=1e-5)
SAMPLING = cloister.Sampling(rate=RATE, rows=ROWS)

pytestmark = pytest.mark.slow


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def model(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), *(layers or (nn.ReLU(),)), nn.Linear(8, 3))


class Counting(nn.Module):
    """It counts the batches that it has seen, as BatchNorm does, in whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        self.seen += 1  # type: ignore[operator]
        return x


def owners(sizes: dict[str, int] = SIZES) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = {name: torch.randn(rows, 6, generator=generator) for name, rows in sizes.items()}
    return {name: (x, (x @ true).argmax(1)) for name, x in inputs.items()}


def ran(**options: Any) -> SimulationRun:
    """Of a charter that hides records, unless it is another one's."""
    given = {
        "owners": owners(),
        "optimizer": cloister.SGD(lr=LR),
        "batch_size": 16,
        "rounds": 3,
        "seed": SEED,
        "clip": CLIP,
        "noise": RECORD,
        "sampling": SAMPLING,
        **options,
    }
    return cloister.simulate(given.pop("model", model()), given.pop("loss", loss), **given)


WHOLE: dict[str, Any] = {
    "noise": OWNER,
    "sampling": None,
    "optimizer": cloister.SGD(lr=0.1),
    "steps": 3,
    "batch_size": 12,
}
"""Of one that hides owners."""


def vector(of: nn.Module) -> np.ndarray:
    floats = deltas.floats_of(of)
    return deltas.flatten(floats, layout=deltas.layout_of(floats)).double().numpy()


def same(one: SimulationRun, other: SimulationRun) -> bool:
    return vector(one.model).tobytes() == vector(other.model).tobytes()


def noise_of(number: int, length: int) -> np.ndarray:
    return discrete_gaussian(Z * UNITS, size=length, random=noise_from(SEED, number)).astype(np.float64)


# Single records are hidden


def plainly(strategy: cloister.Strategy, *, rounds: int, job: bytes) -> np.ndarray:
    """Round by round: the sums over the rows that owners draw, the noise, and the strategy's step."""
    now = model()
    layout = deltas.layout_of(deltas.floats_of(now))
    at = deltas.flatten(deltas.floats_of(now), layout=layout).numpy()
    state = strategy.start(len(at))
    x, y = owners()["alice"]
    plan = loss.capture(now, example=(x[:4], y[:4]))
    for number in range(1, rounds + 1):
        total = np.zeros(len(at), np.int64)
        for name, (x, y) in owners().items():
            sums = RecordSums(
                plan, parameters=dict(now.named_parameters()), buffers={}, layout=layout, clip=CLIP, rate=RATE,
                at_once=16, memory_bytes=1 << 28,
            )  # fmt: skip
            key = draw_key(simulated_salt(SEED, name), job=job, number=number)
            total += sums.run(Arrays({"x": x, "y": y}), key=key, most_rows=most_drawn(len(x) * RATE)).sums.numpy()
        mean = (total + noise_of(number, len(at))) * (CLIP / UNITS / (ROWS / LR))
        if state.averages:  # what travels is the mean, in the model's type
            mean = mean.astype(np.float32).astype(np.float64)
        at, state = strategy.apply(at, mean=mean, state=state)
        with torch.no_grad():
            deltas.unflatten(torch.from_numpy(at), layout=layout, into=deltas.floats_of(now))
    return vector(now)


@pytest.mark.parametrize("strategy", [cloister.FedAvg(), cloister.FedAvgM(momentum=0.8), cloister.FedAdam(lr=0.1)])
def test_it_is_the_sums_over_drawn_rows_and_the_noise(strategy: Any) -> None:
    job = bytes(range(32))
    run = ran(strategy=strategy, job=job)
    assert vector(run.model).tobytes() == plainly(strategy, rounds=3, job=job).tobytes()
    assert run.vectorised
    assert [each.metrics for each in run.history] == [{}] * 3
    assert [each.owners for each in run.history] == [tuple(SIZES)] * 3


@pytest.mark.parametrize("options", [{}, WHOLE, {"strategy": cloister.FedAdam(lr=0.1)}, {"per_round": 2}])
def test_a_run_is_a_function_of_its_arguments_also_one_that_is_gone_on_with(
    options: dict[str, Any], tmp_path: Path
) -> None:
    whole = ran(rounds=4, **options)
    assert same(ran(rounds=4, **options), whole)
    half = ran(rounds=2, checkpoint=tmp_path / "run", **options)
    rest = ran(rounds=4, checkpoint=tmp_path / "run", **options)
    assert same(rest, whole)
    assert rest.history == whole.history
    assert not same(half, whole)
    assert not same(ran(rounds=4, **{**options, "seed": 6}), whole)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"noise": cloister.Noise(unit="record", multiplier=0.3, delta=1e-5)}, "another noise"),
        ({"sampling": cloister.Sampling(rate=0.2, rows=ROWS)}, "another sampling"),
    ],
)
def test_a_checkpoint_of_other_noise_is_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    ran(rounds=1, checkpoint=tmp_path / "run")
    with pytest.raises(ConfigurationError, match=named):
        ran(checkpoint=tmp_path / "run", **options)


def test_how_many_rows_are_computed_at_once_changes_nothing() -> None:
    assert np.abs(vector(ran(batch_size=60).model) - vector(ran(batch_size=1).model)).max() < 1e-6


def test_it_learns() -> None:
    """With a thousand rows for each owner, and noise that hides each."""
    sizes = {"alice": 1500, "bob": 1500}
    noise = cloister.Noise(unit="record", multiplier=1.0, delta=1e-5)

    def right(now: nn.Module) -> dict[str, float]:
        pairs = [(now(x).argmax(1) == y).float().mean() for x, y in owners(sizes).values()]
        return {"right": float(sum(pairs)) / len(pairs)}

    run = ran(
        owners=owners(sizes), rounds=60, noise=noise, sampling=cloister.Sampling(rate=0.1, rows=300), clip=1.0,
        optimizer=cloister.SGD(lr=2.0), evaluate=right,
    )  # fmt: skip
    learnt = run.history.series("evaluated right")[-1]
    assert learnt is not None
    assert learnt > 0.9


def test_a_loss_that_runs_on_one_row_at_a_time_is_told_as_replayed() -> None:
    run = ran(model=model(nn.ReLU(), nn.Dropout(0.1)))
    assert sum(run.replayed.values()) == 9
    assert not run.vectorised
    assert same(ran(model=model(nn.ReLU(), nn.Dropout(0.1))), run)


# Owners are hidden as a whole


@pytest.mark.parametrize("vectorise", [True, False])
@pytest.mark.parametrize("drawn", [None, 2])
def test_it_is_the_mean_of_all_and_the_noise(vectorise: bool, drawn: int | None) -> None:
    sizes = {"alice": 60, "bob": 60, "carol": 24}
    given = {**WHOLE, "owners": owners(sizes), "vectorise": vectorise, "per_round": drawn, "rounds": 1}
    noisy, plain = ran(**given), ran(**{**given, "noise": None})
    count = drawn or len(sizes)
    moved = (vector(noisy.model) - vector(plain.model)) / CLIP * UNITS * count
    apart = moved - noise_of(1, len(moved))
    assert np.abs(apart).max() < count + 1  # what the grid rounds, of each owner, and float32
    assert noisy.replayed == plain.replayed
    assert noisy.history[0].metrics == plain.history[0].metrics


def test_no_owner_is_levelled() -> None:
    """Without noise none counts for more than the floor-th largest; with it that bound would tell of the others."""
    given = {**WHOLE, "rounds": 1, "floor": 3}
    assert same(ran(**given), ran(**{**given, "floor": None}))


# What cannot be


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise": None}, "sampling goes with noise whose unit is"),
        ({"sampling": None}, "sampling goes with noise whose unit is"),
        ({"noise": OWNER}, "sampling goes with noise whose unit is"),
        (
            {"noise": cloister.Noise(unit="row", multiplier=1.0, delta=1e-5), "sampling": None},
            "the unit of noise is 'row'; it is",
        ),
        ({"noise": {"unit": "record"}}, "noise is a dict; it is a cloister.Noise"),
        ({"noise": cloister.Noise(unit="record", multiplier=0.01, delta=1e-5)}, "there is no such noise"),
        ({"noise": cloister.Noise(unit="record", multiplier=1.0, delta=0.0)}, "there is no such noise"),
        ({"clip": None}, "with noise there is a clip"),
        ({**WHOLE, "clip": None}, "with noise there is a clip"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip_buffers": 1.0}, "no buffers are averaged"),
        ({**WHOLE, "model": model(nn.BatchNorm1d(8))}, "no buffers are averaged"),
        ({"weights": "rows"}, "all count the same"),
        ({**WHOLE, "weights": "rows"}, "all count the same"),
        ({"steps": 2}, "steps: is 2, and must be 1"),
        ({"local_epochs": 1}, "give one of the two"),
        ({"optimizer": cloister.SGD(lr=LR, momentum=0.9)}, "optimizer: must be SGD with a learning rate"),
        ({"optimizer": cloister.Adam()}, "optimizer: must be SGD with a learning rate"),
        ({"optimizer": cloister.SGD(lr=0.0)}, "optimizer: must be SGD with a learning rate above 0"),
        ({"strategy": cloister.FedProx(mu=0.1)}, "strategy: is FedProx"),
        ({"sampling": cloister.Sampling(rate=0.0, rows=30)}, "sampling: is a rate above 0"),
        ({"sampling": cloister.Sampling(rate=1.5, rows=90)}, "sampling: is a rate above 0"),
        ({"sampling": cloister.Sampling(rate=0.25, rows=0)}, "sampling: is a rate above 0"),
    ],
)
def test_what_no_charter_could_say_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ran(**options)


def test_an_owner_of_more_rows_than_are_expected_of_all_is_named() -> None:
    assert ran(sampling=cloister.Sampling(rate=RATE, rows=15), rounds=1).finished
    with pytest.raises(DataSetError, match="owner 'alice': the data set has more rows than the job is for"):
        ran(sampling=cloister.Sampling(rate=RATE, rows=14))


def test_records_that_cannot_be_computed_count_as_zeros_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"rounds": 1, "sampling": cloister.Sampling(rate=1.0, rows=120)}
    ran(**given)
    assert not caplog.records
    data = owners()
    data["bob"][1][:2] = 7
    ran(**given, owners=data)
    assert [each.getMessage() for each in caplog.records] == [
        "owner 'bob': the gradients of 2 records could not be computed"
    ]


def test_a_model_that_mixes_rows_is_refused() -> None:
    with pytest.raises(PlanError, match="writes the buffer"):
        ran(model=model(Counting()))


@pytest.mark.parametrize(
    "changed", [{}, {"noise": OWNER, "sampling": None, "steps": 1, "batch_size": 8}], ids=["record", "owner"]
)
def test_what_is_not_trained_gets_no_noise(changed: dict[str, Any]) -> None:
    """It would get some in each round, and learn nothing."""
    frozen = model()
    frozen.get_parameter("0.weight").requires_grad_(requires_grad=False)
    run = ran(model=frozen, **changed)
    assert run.finished
    assert torch.equal(run.model.get_parameter("0.weight"), frozen.get_parameter("0.weight"))
    assert not torch.equal(run.model.get_parameter("0.bias"), frozen.get_parameter("0.bias"))


def test_the_model_that_is_given_stays_as_it_is() -> None:
    start = model()
    before = copy.deepcopy(start.state_dict())
    ran(model=start, rounds=1)
    assert all(torch.equal(before[name], each) for name, each in start.state_dict().items())
