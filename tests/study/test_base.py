"""A base: a model's frozen tensors are found in files by their bytes, whatever they are called there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import cloister
from cloister.charter.toml import parse_charter
from cloister.errors import ConfigurationError, DataSetError, PlanError
from cloister.study.base import Base, write_base
from tests.support.charters import text


@cloister.plan
def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The mean square of what comes out."""
    return model(x).square().mean()


def plan_of(model: nn.Module) -> cloister.Plan:
    return loss.capture(model, example=(torch.zeros(4, 3),))


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(requires_grad=False)


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    save_file({name.replace("__", "."): each for name, each in tensors.items()}, path)
    return path


def test_a_tensor_is_found_by_its_bytes_whatever_its_name_is(tmp_path: Path) -> None:
    values = torch.randn(3, 4)
    base = Base(saved(tmp_path / "a.safetensors", wte=values, other=torch.randn(3, 4)))
    digest = sha256(tmp_path / "a.safetensors")
    assert base.find("base_model.model.embedding", values) == (digest, "wte")
    assert base.find("transposed twice", values.t().contiguous().t()) == (digest, "wte")
    moved = values.clone()
    moved[2, 3] = torch.nextafter(moved[2, 3], torch.tensor(9.0))
    assert base.find("wte", moved) is None
    assert base.find("wte", values.double()) is None
    assert base.find("wte", values.reshape(4, 3)) is None


def test_bytes_are_compared_and_no_numbers(tmp_path: Path) -> None:
    zero = torch.zeros(2)
    base = Base(saved(tmp_path / "a.safetensors", zero=zero, nan=torch.tensor([float("nan")])))
    assert base.find("zero", -zero) is None
    assert base.find("nan", torch.tensor([float("nan")])) is not None


def test_tensors_of_all_kinds_are_found(tmp_path: Path) -> None:
    kinds = {
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "half": torch.arange(4).to(torch.bfloat16),
        "long": torch.arange(1 << 23, dtype=torch.float32),  # more than one block of comparing
    }
    base = Base(saved(tmp_path / "a.safetensors", **kinds))
    for name, tensor in kinds.items():
        assert base.find("x", tensor) == (sha256(tmp_path / "a.safetensors"), name)
    other = kinds["long"].clone()
    other[-1] += 1
    assert base.find("x", other) is None


def test_of_equal_tensors_it_is_the_one_whose_name_ends_most_alike(tmp_path: Path) -> None:
    """All layers' norms begin with ones, and wrappers put words in between."""
    ones = torch.ones(4)
    names = ("h__0__ln_1__weight", "h__0__ln_2__weight", "h__1__ln_1__weight", "zz__weight")
    base = Base(saved(tmp_path / "a.safetensors", **{name: ones.clone() for name in names}))
    for name in ("h.1.ln_1.weight", "h.0.ln_2.weight", "h.0.ln_1.weight"):
        found = base.find(f"base_model.model.transformer.{name}", ones)
        assert found is not None
        assert found[1] == name
        wrapped = base.find(f"transformer.{name.replace('.weight', '.base_layer.weight')}", ones)
        assert wrapped == found
    first = base.find("nothing.like.it", ones)
    assert first is not None
    assert first[1] == "h.0.ln_1.weight"  # of those that are as much alike, the first in the alphabet


def test_a_folder_is_all_its_shards(tmp_path: Path) -> None:
    one, two = torch.randn(2), torch.randn(2)
    saved(tmp_path / "model-00002-of-00002.safetensors", b=two)
    saved(tmp_path / "model-00001-of-00002.safetensors", a=one)
    (tmp_path / "config.json").write_text("{}")
    base = Base(tmp_path)
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert [*base.digests.items()] == [(path, sha256(path)) for path in paths]
    assert base.find("x", two) == (sha256(paths[1]), "b")
    agreed = parse_charter(text(limits=base.toml("gpt2")))
    assert [(each.name, each.files) for each in agreed.bases] == [("gpt2", tuple(map(sha256, paths)))]
    assert Base(*paths[::-1]).toml("gpt2").count(".safetensors") == 2


def test_a_base_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name them, or a folder with some"):
        Base(tmp_path)
    with pytest.raises(ConfigurationError, match="name them, or a folder with some"):
        Base()
    with pytest.raises(DataSetError, match="no such file"):
        Base(tmp_path / "gone.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataSetError, match=r"a\.safetensors"):
        Base(tmp_path)


# A base that is written


class Tied(nn.Module):
    """A frozen part, of which one tensor has two names, with statistics, a counter, and what is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.base[1].weight = self.base[0].weight
        frozen(self.base)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.base.eval()
        return self.head(self.base(x))  # type: ignore[no-any-return]


def test_what_is_not_learned_is_written_once_and_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    path = tmp_path / "base.safetensors"
    write_base(model, plan_of(model), path)
    found = load_file(path)
    frozen = {
        "base.0.bias",
        "base.0.weight",
        "base.1.bias",
        "base.2.bias",
        "base.2.num_batches_tracked",
        "base.2.running_mean",
        "base.2.running_var",
        "base.2.weight",
    }
    assert found.keys() < frozen  # of tensors that are equal, one is enough
    base, held = Base(path), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in frozen:
        digest, known = base.find(name, held[name].detach()) or (b"", "")
        assert digest == sha256(path)
        assert torch.equal(found[known], held[name])


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    model = Tied()
    plan = plan_of(model)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigurationError, match="there exists and is not overwritten"):
        write_base(model, plan, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_base(model, plan, tmp_path / "none" / "base.safetensors")
    with pytest.raises(ConfigurationError, match="learns all of the model: there is no base to write"):
        write_base(nn.Linear(3, 1), plan_of(nn.Linear(3, 1)), tmp_path / "x")
    with pytest.raises(PlanError):
        write_base(nn.Linear(3, 1), plan, tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == ["there"]
