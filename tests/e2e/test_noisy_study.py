"""Studies with noise as they are: an aggregator and three owners' nodes as processes, and a researcher.

Which rows owners draw is known here (a rehearsal), so that what is left of a released model is the noise, and nothing
but the noise.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import cloister
from cloister.charter.jobs import AgreedJob
from cloister.charter.owner_limits import PrivacyBudget
from cloister.cli.ledger import epsilons
from cloister.cli.node import app as node
from cloister.ledger.audit import audit
from cloister.ledger.jsonl import read_lines
from cloister.net.collateral import no_collateral
from cloister.study.history import Round
from cloister.study.job import describe
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import draw_key, simulated_salt
from cloister.worker.flatten import floats_of
from cloister.worker.record_sums import RecordSums

pytestmark = pytest.mark.e2e

SIZES = {"alice": 96, "bob": 40, "carol": 36}
SEED, CLIP, Z, LR = 5, 0.5, 3.0, 0.5
SAMPLING = cloister.Sampling(rate=0.25, rows=45)
NOISE = cloister.Noise(unit="record", multiplier=Z, delta=1e-5)
NUMBERS: dict[str, Any] = {
    "data": "#mri", "optimizer": cloister.SGD(lr=LR), "batch_size": 16, "steps": 1, "sampling": SAMPLING, "rounds": 4,
}  # fmt: skip
EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))


PLAN = loss.capture(model(), example=EXAMPLE)


def limits(**changed: Any) -> dict[str, Any]:
    given = {
        "first_model": cloister.model_digest(model(), PLAN),
        "floor": 2,
        "clip": CLIP,
        "rounds": 50,
        "noise": NOISE,
    }
    return {**given, "min_examples": min(SIZES.values()), **changed}


def data() -> dict[str, tuple[Tensor, Tensor]]:
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


def local(folder: Path, jobs: list[AgreedJob], budgets: dict[str, PrivacyBudget] | None = None, **changed: Any) -> Any:
    owners = {}
    for name, (x, y) in data().items():
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
        owners[name] = [LocalColumns(folder / f"{name}.npz", ("x", "y"), ("#mri",), (budgets or {}).get(name))]
    return LocalStudy(folder, owners, jobs=jobs, limits=limits(**changed), rehearsal=SEED)


def sums(before: nn.Module, job: bytes, number: int) -> np.ndarray:
    """The sum over the rows that all owners draw in a round, in units of the grid."""
    layout = describe(before, PLAN).tensors.layout
    total = np.zeros(layout.length, np.int64)
    of = RecordSums(
        PLAN, parameters=dict(before.named_parameters()), buffers={}, layout=layout, clip=CLIP, rate=SAMPLING.rate,
        at_once=16, memory_bytes=1 << 28,
    )  # fmt: skip
    for name, (x, y) in data().items():
        key = draw_key(simulated_salt(SEED, name), job=job, number=number)
        most = most_drawn(SIZES[name] * SAMPLING.rate)
        total += of.run(Arrays({"x": x, "y": y}), key=key, most_rows=most).sums.numpy()
    return total


def vector(of: nn.Module) -> np.ndarray:
    floats = floats_of(of)
    return torch.cat([floats[name].detach().flatten() for name in sorted(floats)]).double().numpy()


def test_what_is_released_is_the_step_and_the_noise_that_the_charter_says(tmp_path: Path) -> None:
    models = [model()]

    def keep(now: nn.Module) -> dict[str, float]:
        models.append(copy.deepcopy(now))
        return {}

    with local(tmp_path, [cloister.job("train", PLAN, **NUMBERS)]) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        study = running.study()
        run = study.fit(model(), loss, example=EXAMPLE, evaluate=keep, on_round=lambda done: None, **NUMBERS)
        assert run.finished
        assert len(run.history) == 4
        assert all(not done.metrics for done in run.history), "the loss stays home"
        assert study.status().owners
        report = audit(
            read_lines(study.chain.read_bytes().splitlines(keepends=True)),
            charter=running.charter, collateral=no_collateral, accept_simulated=True,
        )  # fmt: skip
    unit = LR * CLIP / UNITS / SAMPLING.rows
    noise = []
    for at, receipt in enumerate(run.receipts):
        assert len(receipt.members) == 3
        moved = (vector(models[at + 1]) - vector(models[at])) / unit
        noise.append(moved - sums(models[at], receipt.cohort.job, receipt.cohort.round))
    found = np.concatenate(noise)
    assert len(found) > 2000
    # Of so many draws, a mean or a deviation that is off by so much comes up less than once in 10^12.
    assert abs(found.mean()) < 8 * Z * UNITS / len(found) ** 0.5
    assert abs(found.std() / (Z * UNITS) - 1) < 8 / (2 * len(found)) ** 0.5
    assert {each.multiplier for each in (receipt.cohort.noise for receipt in report.ledger.receipts) if each} == {Z}


def test_the_budget_is_the_owners(tmp_path: Path) -> None:
    """Bob allows what two rounds cost: he declines the third, says why, and the others go on without him."""
    from cloister.accounting.accountant import Spent, epsilon

    two = epsilon([Spent(Z, SAMPLING.rate, 2)], delta=1e-6)
    budgets = {"bob": PrivacyBudget(two * 1.001, 1e-6)}
    with local(tmp_path, [cloister.job("train", PLAN, **NUMBERS)], budgets) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        rounds: list[Round] = []
        run = running.study().fit(model(), loss, example=EXAMPLE, on_round=rounds.append, **NUMBERS)
        assert run.finished
        members = [set(done.owners) for done in run.history]
        assert members == [{"alice", "bob", "carol"}] * 2 + [{"alice", "carol"}] * 2
        (why,) = {done.absent["bob"] for done in rounds[2:]}
        assert "would have spent epsilon" in why
        assert "and its owner allows" in why
        assert "is declined" in running.log("bob")
        assert "Traceback" not in running.log("bob") + running.log(AGGREGATOR)
        chain = running.study().chain.read_bytes().splitlines(keepends=True)
        report = audit(read_lines(chain), charter=running.charter, collateral=no_collateral, accept_simulated=True)
    found = epsilons(report)
    assert found["alice"] == found["carol"] > found["bob"]
    for name in ("alice", "carol"):  # each node's own records say what the chain says, to the last digit
        assert privacy_of(tmp_path, name) == [
            {
                "data": "#mri", "rounds": 4, "without_noise": 0, "delta": 1e-5, "spent": found[name],
                "allowed": None, "left": None,
            }
        ]  # fmt: skip
    (bobs,) = privacy_of(tmp_path, "bob")
    assert (bobs["rounds"], bobs["delta"], bobs["spent"]) == (2, 1e-6, two)
    assert 0 < bobs["left"] < 0.01 * two


def privacy_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """What an owner's node log says of what was told."""
    shown = CliRunner().invoke(node, ["log", "--json", str(folder / f"{name}.toml")])
    found: list[dict[str, Any]] = json.loads(shown.output)["privacy"]
    return found


def test_owners_are_hidden_as_a_whole(tmp_path: Path) -> None:
    numbers = {**NUMBERS, "optimizer": cloister.SGD(lr=0.1), "steps": 6, "sampling": None, "rounds": 2}
    noise = cloister.Noise(unit="owner", multiplier=Z, delta=1e-5)
    models = [model()]

    def keep(now: nn.Module) -> dict[str, float]:
        models.append(copy.deepcopy(now))
        return {}

    with local(tmp_path, [cloister.job("train", PLAN, **numbers)], noise=noise) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        run = running.study().fit(model(), loss, example=EXAMPLE, evaluate=keep, on_round=lambda done: None, **numbers)
    plain = cloister.simulate(
        model(), PLAN, owners=data(), seed=SEED, job=run.receipts[0].cohort.job, optimizer=cloister.SGD(lr=0.1),
        batch_size=16, steps=6, rounds=1, clip=CLIP, vectorise=False,
    ).model  # fmt: skip
    found = (vector(models[1]) - vector(plain)) / (CLIP / UNITS / 3)
    assert abs(found.std() / (Z * UNITS) - 1) < 8 / (2 * len(found)) ** 0.5
