"""Simulated runs: they learn, they are FedAvg as published, and they can be stopped and gone on with."""

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
from cloister.errors import ConfigurationError, DataSetError, PlanError, TrainingError
from cloister.simulation.simulate import SimulationRun
from cloister.study.history import Round
from cloister.worker import flatten as deltas
from cloister.worker.data.batches import order
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import Seeds, seeds_of, simulated_salt
from cloister.worker.training import train

SIZES = {"alice": 30, "bob": 18, "carol": 8}
SGD = cloister.SGD(lr=0.1, momentum=0.9)


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


class Net(nn.Module):
    """With running statistics, a counter, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.layers(x)  # type: ignore[no-any-return]


def model(kind: type[nn.Module] | None = Net) -> nn.Module:
    torch.manual_seed(1)
    return Net() if kind is Net else nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def owners(sizes: dict[str, int] = SIZES) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = {name: torch.randn(rows, 6, generator=generator) for name, rows in sizes.items()}
    return {name: (x, (x @ true).argmax(1)) for name, x in inputs.items()}


def ran(**options: Any) -> SimulationRun:
    given = {"owners": owners(), "optimizer": SGD, "batch_size": 8, "rounds": 4, "seed": 5, **options}
    return cloister.simulate(given.pop("model", model()), given.pop("loss", loss), **given)


def same(one: nn.Module, other: nn.Module) -> bool:
    there = other.state_dict()
    return all(torch.equal(each, there[name]) for name, each in one.state_dict().items())


@pytest.mark.slow
def test_the_script_of_ten_lines() -> None:
    start = model(None)
    before = copy.deepcopy(start.state_dict())
    run = cloister.simulate(
        start,
        loss,
        owners=owners({"bob": 200, "alice": 300}),
        optimizer=cloister.SGD(lr=0.1, momentum=0.9),
        batch_size=32,
        local_epochs=1,
        rounds=12,
        strategy=cloister.FedAvg(),
    )
    accuracies = run.history.series("accuracy")
    assert accuracies[-1] is not None
    assert accuracies[-1] > 0.9
    assert accuracies == [each.metrics["accuracy"] for each in run.history]
    assert len(run.history) == 12
    assert run.finished
    assert all(torch.equal(before[name], each) for name, each in start.state_dict().items())
    assert not same(run.model, start)


def seeds(number: int, owner: str, job: bytes = b"") -> Seeds:
    return seeds_of(simulated_salt(5, owner), job=job, number=number)


def plainly(start: nn.Module, data: dict[str, tuple[Tensor, Tensor]], *, rounds: int, epochs: int) -> nn.Module:
    """McMahan et al. 2017, Algorithm 1, in PyTorch and NumPy and with nothing of cloister but the order of rows."""
    whole = copy.deepcopy(start)
    for number in range(1, rounds + 1):
        total: dict[str, Any] = {}
        for name, (x, y) in data.items():
            local = copy.deepcopy(whole)
            optimizer = torch.optim.SGD(local.parameters(), 0.1, 0.9)
            step = 0
            for _ in range(epochs):
                rows = order(len(x), seed=seeds(number, name).steps, step=step)
                for first in range(0, len(x), 8):
                    batch = torch.from_numpy(rows[first : first + 8])
                    optimizer.zero_grad()
                    F.cross_entropy(local(x[batch]), y[batch]).backward()
                    optimizer.step()
                    step += 1
            for key, value in local.state_dict().items():
                total[key] = total.get(key, 0) + 1 / len(data) * value.double().numpy()
        whole.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in total.items()})
    return whole


@pytest.mark.slow
def test_it_is_fedavg() -> None:
    run = ran(model=model(None), local_epochs=2, strategy=cloister.FedAvg())
    expected = plainly(model(None), owners(), rounds=4, epochs=2)
    torch.testing.assert_close(run.model.state_dict(), expected.state_dict(), rtol=1e-6, atol=1e-6)
    assert not same(run.model, model(None))


@pytest.mark.slow
def test_one_owner_trains_as_if_it_were_alone() -> None:
    alone = {"alice": owners()["alice"]}
    start = model()
    run = ran(owners=alone, rounds=1, local_epochs=3)
    got = train(
        run.plan,
        Arrays(dict(zip("xy", alone["alice"], strict=True))),
        parameters=dict(start.named_parameters()),
        buffers=dict(start.named_buffers()),
        optimizer=SGD,
        batch_size=8,
        local_epochs=3,
        seed=seeds(1, "alice").steps,
    )
    floats = deltas.floats_of(start)
    layout = deltas.layout_of(floats)
    moved = deltas.flatten(deltas.floats_of(run.model), layout=layout) - deltas.flatten(floats, layout=layout)
    torch.testing.assert_close(moved, got.delta, rtol=1e-5, atol=1e-6)
    done, metrics = run.history[0], dict(got.metrics)
    assert done.clipping["clipped"] == metrics.pop("clipped") == 0
    assert done.clipping["update_norm"] == metrics.pop("update_norm") > 0
    assert done.metrics == metrics
    assert int(run.model.state_dict()["layers.1.num_batches_tracked"]) == 12


@pytest.mark.slow
def test_integer_buffers_are_the_first_owner_s() -> None:
    run = ran(rounds=3)
    assert int(run.model.state_dict()["layers.1.num_batches_tracked"]) == 3 * 4  # alice: 30 rows in batches of 8


STRATEGIES = {
    "fedavg": cloister.FedAvg(lr=0.5),
    "fedavgm": cloister.FedAvgM(momentum=0.8),
    "fedprox": cloister.FedProx(mu=0.1),
    "fedadagrad": cloister.FedAdagrad(lr=0.02),
    "fedyogi": cloister.FedYogi(lr=0.02),
    "fedadam": cloister.FedAdam(lr=0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_is_gone_on_with_ends_in_the_same_bits(strategy: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": STRATEGIES[strategy], "per_round": 2, "clip": 2.0}
    if strategy.startswith("fedad") or strategy == "fedyogi":
        options["model"] = model(None)
    file = tmp_path / "run.safetensors"
    whole = ran(rounds=4, **options)
    half = ran(rounds=2, checkpoint=file, **options)
    rest = ran(rounds=4, checkpoint=file, **options)
    assert same(rest.model, whole.model)
    assert not same(half.model, whole.model)
    assert rest.history == whole.history
    assert list(tmp_path.iterdir()) == [file]
    assert same(ran(rounds=4, checkpoint=file, **options).model, whole.model)  # nothing is left to do


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 6}, "another seed"),
        ({"optimizer": cloister.Adam()}, "another optimizer"),
        ({"strategy": cloister.FedAvgM()}, "another strategy"),
        ({"precision": "bfloat16"}, "another precision"),
        ({"owners": owners({"alice": 30})}, "another set of owners"),
        ({"rounds": 1}, "2 rounds already"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    ran(rounds=2, checkpoint=tmp_path / "run")
    with pytest.raises(ConfigurationError, match=named):
        ran(checkpoint=tmp_path / "run", **options)


@pytest.mark.slow
def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run"
    ran(rounds=1, checkpoint=file)
    data = file.read_bytes()
    for damaged in (b"", b"nonsense", data[:-1], data.replace(b'"run":"', b'"run":"0')):
        assert damaged != data
        file.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match="no checkpoint that can be read"):
            ran(checkpoint=file)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ran(checkpoint=tmp_path / "missing" / "run")


@pytest.mark.slow
def test_ctrl_c_returns_what_there_is() -> None:
    seen = []

    def stop(done: Round) -> None:
        seen.append(done)
        if done.number == 2:
            raise KeyboardInterrupt

    run = ran(rounds=9, on_round=stop)
    assert list(run.history) == seen
    assert not run.finished
    assert same(run.model, ran(rounds=2).model)


@pytest.mark.slow
def test_ctrl_c_within_a_round_returns_the_rounds_before_it() -> None:
    calls = []

    def judge(found: nn.Module) -> dict[str, float]:
        calls.append(found.training)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"calls": len(calls)}

    run = ran(rounds=9, evaluate=judge)
    assert calls == [False] * 3
    assert run.history.series("evaluated calls") == [1, 2]
    assert run.model.training
    assert same(run.model, ran(rounds=2).model)


@pytest.mark.slow
def test_sampling_is_seeded() -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        return [each.owners for each in ran(rounds=8, per_round=2, batch_size=30, seed=seed).history]

    once = drawn(3)
    assert once == drawn(3)
    assert once != drawn(4)
    assert all(len(set(names)) == 2 for names in once)
    assert {name for names in once for name in names} == set(SIZES)


@pytest.mark.slow
def test_the_order_in_which_owners_are_listed_does_not_matter() -> None:
    backwards = dict(reversed(owners().items()))
    assert same(ran(rounds=2).model, ran(rounds=2, owners=backwards).model)


@pytest.mark.slow
def test_a_misfit_is_found_before_the_first_step() -> None:
    data: dict[str, Any] = owners()
    data["bob"] = (data["bob"][0], data["bob"][1].double())
    with pytest.raises(DataSetError, match=r"'bob'.*column 'y' holds float64 where 'y' \(int64\[\]\)"):
        ran(owners=data, on_round=lambda done: pytest.fail("a round was run"))
    data["bob"] = (torch.zeros(3, 6), torch.zeros(4, dtype=torch.long))
    with pytest.raises(DataSetError, match=r"owner 'bob'.*'x' has 3, 'y' has 4"):
        ran(owners=data)
    data["bob"] = (np.zeros((3, 6)), np.zeros(3))
    with pytest.raises(DataSetError, match=r"owner 'bob'.*as_tensor"):
        ran(owners=data)
    with pytest.raises(PlanError, match=r"owner 'bob': 17 rows in batches of 8 leave one row.*BatchNorm"):
        ran(owners=owners({"alice": 16, "bob": 17}), on_round=lambda done: pytest.fail("a round was run"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owners": {}}, "no owners"),
        ({"rounds": 0}, "rounds is 0"),
        ({"per_round": 4}, "per_round is 4"),
        ({"seed": -1}, "the seed is -1"),
        ({"largest_share": 0.4, "per_round": 2}, "cannot each be at most 0.4"),
        ({"loss": lambda model, x, y: x.sum()}, "@cloister.plan"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ran(**options)


@pytest.mark.slow
def test_the_largest_share_holds() -> None:
    """With equal shares each update counts alike, whatever its owner's examples."""
    even = ran(
        model=model(None), owners=owners({"alice": 40, "bob": 8}), rounds=1, largest_share=0.5, weights="rows"
    ).model
    alone = [
        ran(model=model(None), owners={name: each}, rounds=1).model
        for name, each in owners({"alice": 40, "bob": 8}).items()
    ]
    for name, value in even.state_dict().items():
        torch.testing.assert_close(value, sum(each.state_dict()[name] for each in alone) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_plan_serves_as_a_loss_and_a_data_set_as_an_owner() -> None:
    first = ran(rounds=1)
    data = {name: Arrays({"scans": x, "labels": y}) for name, (x, y) in owners().items()}
    assert same(first.model, ran(rounds=1, loss=first.plan, owners=data).model)


@pytest.mark.slow
def test_a_run_that_diverges_says_at_whom() -> None:
    with pytest.raises(TrainingError, match=r"owner 'alice'.*not finite"):
        ran(optimizer=cloister.SGD(lr=1e30))


@pytest.mark.slow
def test_the_history_prints() -> None:
    history = ran(rounds=2, evaluate=lambda _: {"auc": 0.5}).history
    lines = str(history).splitlines()
    assert len([line for line in lines if " 56 " in line]) == 2
    assert all(name in str(history) for name in ("accuracy", "evaluated auc", "examples"))
    assert str(history[0]).startswith("round 1  3 owners  56 examples  loss ")
    with pytest.raises(ConfigurationError, match="there are: loss, accuracy, evaluated auc"):
        history.series("nonsense")


@pytest.mark.slow
def test_a_terminal_gets_a_line_for_each_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(rounds=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
    run = ran(rounds=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == list(map(str, run.history))


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "run"
    ran(rounds=1, checkpoint=file)
    kept = file.read_bytes()

    def fail(*names: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(ConfigurationError, match="cannot be written: no space left"):
            ran(rounds=2, checkpoint=file)
    assert file.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [file]
    assert same(ran(rounds=2, checkpoint=file).model, ran(rounds=2).model)


@pytest.mark.slow
def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    start = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    start[2].weight = start[0].weight
    run = ran(model=start, rounds=2, strategy=cloister.FedAvgM())
    assert run.model[2].weight is run.model[0].weight  # type: ignore[index]
    assert not same(run.model, start)


@pytest.mark.slow
def test_running_variances_stay_what_variances_are() -> None:
    """An adaptive step on a buffer would carry a small variance below zero, and the model to NaN in eval mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(1)
    data = {
        name: (0.05 * torch.randn(64, 4, generator=generator), torch.randint(2, (64,), generator=generator))
        for name in ("bob", "alice")
    }

    @cloister.plan
    def loss(model, x, y):
        return {"loss": F.cross_entropy(model(x), y)}

    run = cloister.simulate(
        model,
        loss,
        owners=data,
        optimizer=cloister.SGD(lr=0.1),
        batch_size=32,
        rounds=5,
        strategy=cloister.FedAdam(lr=0.3),
    )
    assert (run.model[1].running_var > 0).all()
    assert torch.isfinite(run.model.eval()(data["bob"][0])).all()
