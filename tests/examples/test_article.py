"""The script of 2020, as it stands, computes what it computed then (behaviour 22)."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import cloister
from tests.support.nodes import Federation

EXAMPLES = Path(__file__).parents[2] / "examples"

# From the original software, in float32.
FIRST_ROUND = (0.04894084, 0.01914005)
LAST_ROUND = (0.00123425, 3.48678e-06)
WEIGHT = [0.8162674903869629, -0.020248601213097572]
BIAS = 0.09293805062770844
LOSS = 0.03449542447924614


@pytest.fixture(autouse=True)
def _initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that the original's first model happened to have."""

    def reset(layer: nn.Linear) -> None:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.25, -0.5]]))
            layer.bias.fill_(0.125)

    monkeypatch.setattr(nn.Linear, "reset_parameters", reset)


def check(script: str, printed: str) -> None:
    """What the script leaves and prints is the golden trace."""
    rounds = [
        (float(bob), float(alice))
        for bob, alice in re.findall(r"Bob:tensor\(([-+.\de]+)\) Alice:tensor\(([-+.\de]+)\)", printed)
    ]
    assert len(rounds) == 10, script
    # What is printed is rounded to four digits after the point, or in the mantissa.
    assert rounds[0] == pytest.approx(FIRST_ROUND, abs=5e-5)
    assert rounds[-1] == pytest.approx(LAST_ROUND, abs=5e-5)


def check_values(values: dict[str, object]) -> None:
    """What the script's variables hold in the end, to 1e-6."""
    model, loss = values["model"], values["loss"]
    assert isinstance(model, nn.Linear)
    assert model.weight.tolist()[0] == pytest.approx(WEIGHT, abs=1e-6)
    assert model.bias.item() == pytest.approx(BIAS, abs=1e-6)
    assert loss.item() == pytest.approx(LOSS, abs=1e-6)
    assert (values["bobs_loss"].item(), values["alices_loss"].item()) == pytest.approx(LAST_ROUND, abs=1e-6)


def first_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every loss that is fetched, as the script runs."""
    losses: list[float] = []
    get = cloister.PointerTensor.get

    def noted(pointer: cloister.PointerTensor, **options: bool) -> torch.Tensor:
        value = get(pointer, **options)
        if value.dim() == 0:
            losses.append(value.item())
        return value

    monkeypatch.setattr(cloister.PointerTensor, "get", noted)
    return losses


@pytest.mark.slow
def test_22_the_article_in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    losses = first_losses(monkeypatch)
    values = runpy.run_path(str(EXAMPLES / "article.py"))
    check("article.py", capsys.readouterr().out)
    check_values(values)
    assert len(losses) == 100
    assert tuple(losses[8:10]) == pytest.approx(FIRST_ROUND, abs=1e-6)
    assert tuple(losses[-2:]) == pytest.approx(LAST_ROUND, abs=1e-6)


@pytest.mark.e2e
def test_22_the_article_over_tls(
    three_nodes: Federation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, name in (("BOB", "b"), ("ALICE", "a"), ("SECURE_WORKER", "c")):
        monkeypatch.setenv(role, three_nodes.nodes[name].address)
        monkeypatch.setenv(f"{role}_KEY", three_nodes.nodes[name].fingerprint)
    monkeypatch.setenv("RESEARCHER", str(three_nodes.folder / "carol.key"))
    losses = first_losses(monkeypatch)
    values = runpy.run_path(str(EXAMPLES / "article_network.py"))
    for worker in ("bob", "alice", "secure_worker"):
        values[worker].close()
    check("article_network.py", capsys.readouterr().out)
    check_values(values)
    assert tuple(losses[8:10]) == pytest.approx(FIRST_ROUND, abs=1e-6)
    assert tuple(losses[-2:]) == pytest.approx(LAST_ROUND, abs=1e-6)


def test_22_the_two_scripts_differ_in_the_workers_only() -> None:
    def body(name: str) -> list[str]:
        return [ast.unparse(node) for node in ast.parse((EXAMPLES / name).read_text(encoding="utf-8")).body]

    here, there = body("article.py"), body("article_network.py")
    start = next(i for i, line in enumerate(here) if line.startswith("data ="))
    assert here[start:] == there[-len(here[start:]) :]
    workers = [line for line in there[: -len(here[start:])] if line.startswith(("bob", "alice", "secure_worker"))]
    assert len(workers) == 3
