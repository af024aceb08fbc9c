"""A draw that is ordered of the process that trains, in this process: the sum it gives, and all that it says of it."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import DataSetError, PlanError
from cloister.ledger import job as jobs
from cloister.ledger.job import Based, Job, Part, Tensors
from cloister.node.config import BaseFile
from cloister.node.study.base_files import BaseFiles, Mapped
from cloister.node.study.effects import Draw
from cloister.node.study.trainer import Columns, Given, Order, Result
from cloister.node.study.trainer_process import TrainerProcess
from cloister.wire import optimizers
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.wire.tensors import TensorSpec
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import Seeds
from cloister.worker.record_sums import RecordSums
from cloister.worker.training import train
from cloister.worker.values import as_bytes, spec_of
from cloister.worker.weights import Weights

ROWS, RATE, CLIP, BATCH = 40, 0.25, 0.5, 16
KEY = bytes(range(32))
MEMORY = 1 << 28


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


def model(*, double: bool = False) -> nn.Module:
    torch.manual_seed(3)
    made = nn.Linear(3, 2)
    return made.double() if double else made


def columns(*, double: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    return x if double else x.float(), torch.arange(ROWS) % 2


@cache
def plan(*, double: bool) -> cloister.Plan:
    x, y = columns(double=double)
    return loss.capture(model(double=double), example=(x[:4], y[:4]))


def job(*, double: bool) -> Job:
    floats = deltas.floats_of(model(double=double))
    return Job(
        format=jobs.FORMAT,
        charter=bytes(32),
        name="train",
        plan=plan(double=double).encode(),
        tensors=Tensors(tuple(Part(name, spec_of(floats[name]), buffer=False) for name in sorted(floats))),
        start=bytes(32),
    )


def order(*, draw: Draw | None = None, **changed: Any) -> Order:
    given: dict[str, Any] = {
        "round": 1,
        "job": 1,
        "optimizer": optimizers.SGD(0.5),
        "batch_size": BATCH,
        "steps": 1,
        "proximal": 0.0,
        "seeds": Seeds(rows=7, steps=11, rounding=13),
        "clip": CLIP,
        "clip_buffers": None,
        "half": None,
        "least": 10,
        "home": 0,
        "home_bytes": 0,
        "hidden": False,
        "draw": draw or Draw(KEY, RATE, ROWS),
    }
    return Order(**given | changed)


def process(folder: Path, x: Tensor, y: Tensor) -> TrainerProcess:
    np.savez(folder / "mri.npz", x=x.numpy(), y=y.numpy())
    given = Given(Columns("#mri", str(folder / "mri.npz"), ("x", "y")), models=())
    return TrainerProcess(given, memory_bytes=MEMORY, device="cpu")


def trained(
    folder: Path, asked: Order, *, double: bool = False, data: tuple[Tensor, Tensor] | None = None
) -> tuple[Result, Tensor]:
    floats = deltas.floats_of(model(double=double))
    vector = bytearray(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))
    given = columns(double=double) if data is None else data
    said, (made,) = process(folder, *given).train(asked, job=jobs.encode(job(double=double)), vector=vector)
    return said, made


def sums(*, double: bool = False, key: bytes = KEY) -> Tensor:
    """What an owner computes, without its process."""
    made, (x, y) = model(double=double), columns(double=double)
    of = RecordSums(
        plan(double=double),
        parameters=dict(made.named_parameters()),
        buffers={},
        layout=deltas.layout_of(deltas.floats_of(made)),
        clip=CLIP,
        rate=RATE,
        at_once=BATCH,
        memory_bytes=MEMORY,
    )
    return of.run(Arrays({"x": x, "y": y}), key=key, most_rows=most_drawn(ROWS * RATE)).sums


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
def test_it_is_the_sum_over_drawn_rows_and_of_it_nothing_is_said_but_the_rows(tmp_path: Path, double: bool) -> None:
    said, found = trained(tmp_path, order(), double=double)
    assert said == Result(ROWS, (0.0, 0.0), {})
    assert found.dtype == torch.int32
    assert torch.equal(found, sums(double=double))
    assert float(found.double().norm()) > UNITS


def test_the_key_alone_decides_which_rows_are_drawn(tmp_path: Path) -> None:
    found = trained(tmp_path, order())[1]
    assert torch.equal(trained(tmp_path, order(round=9, seeds=Seeds(1, 2, 3)))[1], found)
    other = trained(tmp_path, order(draw=Draw(bytes(32), RATE, ROWS)))[1]
    assert torch.equal(other, sums(key=bytes(32)))
    assert not torch.equal(other, found)


def test_a_data_set_that_would_draw_more_than_all_owners_is_refused(tmp_path: Path) -> None:
    """Its sum could be longer than any that the aggregator takes, and count for more than the charter says."""
    assert trained(tmp_path, order(draw=Draw(KEY, RATE, round(ROWS * RATE))))[0].examples == ROWS
    with pytest.raises(DataSetError, match=r"more rows than the job is for: at the rate 0\.25 it expects 9 of all"):
        trained(tmp_path, order(draw=Draw(KEY, RATE, round(ROWS * RATE) - 1)))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("double", [False, True])
def test_an_update_travels_in_two_bytes_a_value(tmp_path: Path, half: Any, double: bool) -> None:
    """What is said of it is of what travels, and nothing of that is lost on its way out of the process."""
    asked = {"clip": 0.05, "steps": 4, "half": half}
    said, found = trained(tmp_path, msgspec.structs.replace(order(**asked), draw=None), double=double)
    assert found.dtype == getattr(torch, half)
    assert said.norms == (pytest.approx(float(found.double().norm()), rel=1e-12), 0.0)
    assert 0.0499 < said.norms[0] <= 0.05
    made, (x, y) = model(double=double), columns(double=double)
    alone = train(
        plan(double=double),
        Arrays({"x": x, "y": y}),
        parameters=dict(made.named_parameters()),
        buffers={},
        optimizer=cloister.SGD(lr=0.5),
        batch_size=BATCH,
        steps=4,
        seed=11,
        rows_seed=7,
        rounding_seed=13,
        clip=0.05,
        half=half,
    )
    assert torch.equal(found.to(alone.delta.dtype), alone.delta)


def test_a_data_set_of_too_few_rows_is_refused(tmp_path: Path) -> None:
    assert trained(tmp_path, order(least=ROWS))[0].examples == ROWS
    with pytest.raises(DataSetError, match=f"fewer than the {ROWS + 1} rows"):
        trained(tmp_path, order(least=ROWS + 1))


def test_records_that_cannot_be_computed_are_told_to_their_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = columns()
    with caplog.at_level(logging.WARNING, logger="cloister.node.study.trainer_process"):
        whole = trained(tmp_path, order(draw=Draw(KEY, 1.0, ROWS)))
        assert not caplog.records
        y[:3] = 99
        said, found = trained(tmp_path, order(draw=Draw(KEY, 1.0, ROWS)), data=(x, y))
    assert [each.getMessage() for each in caplog.records] == [
        "the gradients of 3 records could not be computed; they count as zeros"
    ]
    assert said == whole[0]
    assert not torch.equal(found, whole[1])


def test_a_fault_is_told_by_the_data_sets_name_and_not_by_its_path(tmp_path: Path) -> None:
    here = process(tmp_path, *columns())
    fault = DataSetError(f"{tmp_path / 'mri.npz'}: column 'y' holds nulls")
    assert here.told(fault) == "the data set '#mri': column 'y' holds nulls"


def test_a_fault_of_a_base_is_told_by_its_digest_and_not_by_its_path(tmp_path: Path) -> None:
    path, digest = tmp_path / "base.safetensors", bytes(range(32))
    path.write_bytes(b"damaged")
    given = Given(Columns("#mri", "mri.npz", ("x",)), models=(Mapped(digest, str(path), (0, 0, 0, 0)),))
    with pytest.raises(DataSetError) as caught:
        Weights(path)
    said = TrainerProcess(given, memory_bytes=MEMORY, device="cpu").told(caught.value)
    assert said.startswith(f"the base model's file with the SHA-256 {digest.hex()}: ")
    assert str(tmp_path) not in said
    beside = msgspec.structs.replace(given, data=Columns("#mri", str(tmp_path), ("x",)))  # a data set of many files
    assert TrainerProcess(beside, memory_bytes=MEMORY, device="cpu").told(caught.value) == said


@pytest.mark.parametrize("bad", [99, -5])
def test_what_fails_is_zeros_where_noise_hides_the_owner(
    bad: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That there is no contribution would tell of one label what the noise is to hide."""
    x, y = columns()
    asked = msgspec.structs.replace(order(), draw=None, batch_size=4)
    said, found = trained(tmp_path, msgspec.structs.replace(asked, hidden=True), data=(x, y))
    assert said.norms[0] > 0
    y[:] = bad
    with pytest.raises(PlanError):
        trained(tmp_path, asked, data=(x, y))
    with caplog.at_level(logging.WARNING, logger="cloister.node.study.trainer_process"):
        said, nothing = trained(tmp_path, msgspec.structs.replace(asked, hidden=True), data=(x, y))
    assert said == Result(len(x), (0.0, 0.0), {})
    assert nothing.dtype == found.dtype
    assert nothing.shape == found.shape
    assert not nothing.any()
    assert any("zeros are contributed" in each.getMessage() for each in caplog.records)


def test_a_file_of_the_base_that_was_written_to_since_is_not_trained_on(tmp_path: Path) -> None:
    """Its digest was taken of what it was."""
    net = model()
    net.weight.requires_grad_(requires_grad=False)  # type: ignore[union-attr, operator]
    save_file({"w": net.weight.detach()}, tmp_path / "base.safetensors")  # type: ignore[union-attr, operator]
    (mapped,) = (files := BaseFiles([BaseFile(tmp_path / "base.safetensors")])).those([*files.digests().values()])
    x, y = columns()
    based = Based("weight", TensorSpec("float32", (2, 3)), False, mapped.digest, "w")
    tensors = Tensors((Part("bias", TensorSpec("float32", (2,)), False),), (based,))
    asked = msgspec.structs.replace(order(), draw=None)
    data = jobs.encode(
        msgspec.structs.replace(
            job(double=False), plan=loss.capture(net, example=(x[:4], y[:4])).encode(), tensors=tensors
        )
    )
    np.savez(tmp_path / "mri.npz", x=x.numpy(), y=y.numpy())
    given = Given(Columns("#mri", str(tmp_path / "mri.npz"), ("x", "y")), models=(mapped,))
    said, (made,) = TrainerProcess(given, memory_bytes=MEMORY, device="cpu").train(asked, job=data, vector=bytearray(8))
    assert said.examples == ROWS
    assert made.shape == (2,)
    inode, *others = mapped.identity
    for changed in ((inode + 1, *others), (inode, *others[:-1], others[-1] + 1)):
        other = msgspec.structs.replace(mapped, identity=changed)
        process = TrainerProcess(msgspec.structs.replace(given, models=(other,)), memory_bytes=MEMORY, device="cpu")
        with pytest.raises(DataSetError, match=f"{mapped.digest.hex()} is being written to"):
            process.train(asked, job=data, vector=bytearray(8))


def test_a_job_raises_no_limit_of_memory_by_naming_a_tensor_of_the_base_again_and_again(tmp_path: Path) -> None:
    """What is mapped is no memory of the process, and so is added to its limit: but only what the plan reads of it."""
    save_file({"w": torch.zeros(1 << 20)}, tmp_path / "base.safetensors")
    (mapped,) = (files := BaseFiles([BaseFile(tmp_path / "base.safetensors")])).those([*files.digests().values()])
    x, y = columns()
    np.savez(tmp_path / "mri.npz", x=x.numpy(), y=y.numpy())
    given = Given(Columns("#mri", str(tmp_path / "mri.npz"), ("x", "y")), models=(mapped,))
    honest = job(double=False)
    spec = TensorSpec("float32", (1 << 20,))
    again = tuple(Based(f"z{number}", spec, False, mapped.digest, "w") for number in range(8))
    for tensors in (honest.tensors, msgspec.structs.replace(honest.tensors, base=again)):
        process = TrainerProcess(given, memory_bytes=100, device="cpu")
        data = jobs.encode(msgspec.structs.replace(honest, tensors=tensors))
        with pytest.raises(PlanError, match=r"the limit is 100|the plan has no tensor 'z0'"):
            process.train(order(draw=None), job=data, vector=bytearray(32))


@pytest.mark.slow
def test_an_owner_whose_updates_are_clipped_again_and_again_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, encoded = process(tmp_path, *columns()), jobs.encode(job(double=False))
    floats = deltas.floats_of(model())
    for clip, warned in ((1e-3, 0), (1e-3, 0), (100.0, 0), (1e-3, 0), (1e-3, 0), (1e-3, 1), (1e-3, 1)):
        vector = bytearray(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))
        asked = msgspec.structs.replace(order(clip=clip), draw=None)
        found, _ = here.train(asked, job=encoded, vector=vector)
        assert (found.metrics["clipped"], found.metrics["update_norm"] > 1e-3) == (float(clip < 1), True)
        assert len(caplog.records) == warned
    assert "the updates of 3 rounds in a row were clipped to 0.001" in caplog.records[0].getMessage()
