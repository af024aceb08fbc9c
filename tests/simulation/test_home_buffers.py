"""FedBN: each owner keeps its own statistics from round to round, together or one by one, and across checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter.charter import Noise
from cloister.errors import ConfigurationError

OWNERS: Final = {f"owner{number}": number for number in range(5)}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def rows(number: int) -> tuple[Tensor, Tensor]:
    """An owner's, whose columns lie elsewhere than the others'."""
    chance = torch.Generator().manual_seed(number)
    x = torch.randn(12, 3, generator=chance) + 10.0 * number
    return x, (x[:, 0] > 10.0 * number).long()


def simulated(*, owners: dict[str, int] = OWNERS, **changed: Any) -> cloister.SimulationRun:
    given: dict[str, Any] = {"batch_size": 4, "steps": 2, "rounds": 2, "home_buffers": True}
    data = {name: rows(number) for name, number in owners.items()}
    optimizer = cloister.SGD(lr=0.1)
    return cloister.simulate(model(), loss, owners=data, optimizer=optimizer, on_round=_quiet, **{**given, **changed})


def _quiet(done: cloister.Round) -> None:
    pass


def test_the_model_that_comes_out_has_the_buffers_that_it_had() -> None:
    found, before = dict(simulated().model.named_buffers()), dict(model().named_buffers())
    assert torch.equal(found["1.running_mean"], before["1.running_mean"])
    assert torch.equal(found["1.running_var"], before["1.running_var"])


def test_a_round_goes_on_from_each_owners_own(tmp_path: Path) -> None:
    """The checkpoint has them: those of an owner alone are the same as those of one among others, as far as its own
    rows decide them, which they do in the first round."""
    simulated(rounds=1, checkpoint=tmp_path / "all")
    simulated(rounds=1, checkpoint=tmp_path / "alone", owners={"owner3": 3}, vectorise=False)
    one, other = (kept(tmp_path / name)["owner3"] for name in ("all", "alone"))
    assert one.keys() == {"1.running_mean", "1.running_var"}
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)
    means = [each["1.running_mean"] for each in kept(tmp_path / "all").values()]
    assert all(not torch.allclose(means[0], mean, rtol=0.1) for mean in means[1:])


def kept(path: Path) -> dict[str, dict[str, Tensor]]:
    from safetensors.torch import load_file

    found: dict[str, dict[str, Tensor]] = {}
    for name, each in load_file(path).items():
        if name.startswith("home "):
            _, owner, buffer = name.split(" ", 2)
            found.setdefault(bytes.fromhex(owner).decode(), {})[buffer] = each
    return found


def test_together_and_one_by_one_come_to_the_same(tmp_path: Path) -> None:
    together = simulated(rounds=3, checkpoint=tmp_path / "together")
    alone = simulated(rounds=3, vectorise=False, checkpoint=tmp_path / "alone")
    assert together.vectorised
    for name, each in together.model.state_dict().items():
        assert torch.allclose(each, alone.model.state_dict()[name], rtol=1e-3, atol=1e-4), name
    for owner, held in kept(tmp_path / "together").items():
        for name, each in held.items():
            assert torch.allclose(each, kept(tmp_path / "alone")[owner][name], rtol=1e-3, atol=1e-3), (owner, name)


@pytest.mark.slow
@pytest.mark.parametrize("vectorise", [True, False])
def test_a_run_that_is_gone_on_with_has_the_same_bits(vectorise: bool, tmp_path: Path) -> None:
    whole = simulated(rounds=3, vectorise=vectorise)
    simulated(rounds=2, vectorise=vectorise, checkpoint=tmp_path / "run")
    resumed = simulated(rounds=3, vectorise=vectorise, checkpoint=tmp_path / "run")
    for name, each in whole.model.state_dict().items():
        assert torch.equal(each, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_they_are_no_part_of_what_noise_is_on() -> None:
    noise = Noise(unit="owner", multiplier=1.0, delta=1e-5)
    run = simulated(noise=noise, clip=1.0)
    assert torch.equal(run.model.state_dict()["1.running_mean"], torch.zeros(4))
    with pytest.raises(ConfigurationError, match="home_buffers=True will do too"):
        simulated(noise=noise, clip=1.0, home_buffers=False)


def test_they_have_no_clip() -> None:
    with pytest.raises(ConfigurationError, match="leave one out"):
        simulated(clip_buffers=1.0)


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    simulated(rounds=1, checkpoint=tmp_path / "run", home_buffers=False)
    with pytest.raises(ConfigurationError, match="another home_buffers"):
        simulated(rounds=2, checkpoint=tmp_path / "run")
