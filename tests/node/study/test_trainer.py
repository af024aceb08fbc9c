"""Training in a child process: what it answers, what it refuses before the first step, and how it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cloister
from cloister.ledger import job as jobs
from cloister.ledger.job import Based, Constant, Job, Part, Tensors
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.node.config import BaseFile, StudyData, TrainingLimits
from cloister.node.study.base_files import BaseFiles
from cloister.node.study.effects import Draw, Train
from cloister.node.study.trainer import Failed, Trained, Trainer
from cloister.wire import optimizers, strategies
from cloister.wire.fixed_point import SUM_BYTES
from cloister.worker import flatten as deltas
from cloister.worker.data.files import open_file
from cloister.worker.data.salts import Seeds
from cloister.worker.training import train
from cloister.worker.values import as_bytes, spec_of
from tests.node.processes import gone
from tests.support.charters import agreed_job

SOON = 110.0
ROWS = 40


class Net(nn.Module):
    """With a statistic and a counter, which the batch norm keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x))  # type: ignore[no-any-return]


@cloister.plan
def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Squared error, and how far off it is."""
    off = model(x) - y
    return {"loss": (off**2).mean(), "off": off.abs().mean()}


def model() -> Net:
    torch.manual_seed(3)
    return Net()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(5)
    x = generator.normal(size=(ROWS, 3)).astype(np.float32)
    np.savez(folder / "mri.npz", x=x, y=x.sum(1, keepdims=True), whole=np.arange(ROWS))
    np.savez(folder / "doubles.npz", x=x.astype(np.float64), y=x.sum(1, keepdims=True).astype(np.float64))
    np.savez(folder / "few.npz", x=x[:5], y=x[:5, :1])
    save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(x[:, :1].copy())}, folder / "mri.safetensors")
    np.save(folder / "mri.npy", x[:, :1])
    rows = pa.array(list(x), pa.list_(pa.float32(), 3))
    pq.write_table(
        pa.table({"x": rows, "y": pa.array(list(x[:, :1]), pa.list_(pa.float32(), 1))}), folder / "mri.parquet"
    )
    ys = pa.array([*x[1:, 0].tolist(), None], pa.float32())
    pq.write_table(pa.table({"x": rows, "y": pa.FixedSizeListArray.from_arrays(ys, 1)}), folder / "nulls.parquet")
    save_file(base_tensors(), folder / "base.safetensors")
    return folder / "mri.npz"


class Adapted(nn.Module):
    """A layer of a base, which stays as it is, and one that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(3, 5).requires_grad_(requires_grad=False)
        self.head = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.base(x).relu())  # type: ignore[no-any-return]


def adapted() -> Adapted:
    torch.manual_seed(4)
    return Adapted()


def base_tensors() -> dict[str, torch.Tensor]:
    """Those of the file that owners have, which calls them otherwise."""
    return {f"transformer.{name}": each.detach().clone() for name, each in adapted().base.named_parameters()}


def a_job(**changed: Any) -> Job:
    net = model()
    plan = loss.capture(net, example=(torch.randn(4, 3), torch.randn(4, 1)))
    buffers = dict(net.named_buffers())
    floats = deltas.floats_of(net)
    parts = tuple(Part(name, spec_of(floats[name]), name in buffers) for name in sorted(floats))
    counters = sorted(buffers.keys() - floats.keys())
    held = {"parts": parts, "base": (), "constants": tuple(constant(name, buffers[name]) for name in counters)}
    given: dict[str, Any] = {
        "format": jobs.FORMAT,
        "charter": bytes(32),
        "name": "train",
        "plan": plan.encode(),
        "tensors": Tensors(**{name: changed.pop(name, some) for name, some in held.items()}),
        "start": bytes(32),
    }
    return Job(**given | changed)


def constant(name: str, tensor: torch.Tensor) -> Constant:
    return Constant(name, spec_of(tensor), bytes(as_bytes(tensor)))


def vector() -> bytes:
    floats = deltas.floats_of(model())
    return bytes(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))


def order(job: Job, number: int = 1, *, agreed: dict[str, Any] | None = None, **changed: Any) -> Train:
    """``agreed``: what is changed of the charter's job."""
    numbers = {
        "batch_size": 16,
        "steps": 5,
        "optimizer": optimizers.SGD(0.05, momentum=0.9),
        "strategy": strategies.FedProx(mu=0.1),
    }
    given = {
        "agreed": agreed_job(hashlib.sha256(job.plan).digest(), **numbers | (agreed or {})),
        "model": vector(),
        "data": "#mri",
        "seeds": Seeds(rows=7, steps=11, rounding=13),
        "clip": 0.5,
        "clip_buffers": 0.125,
        "least": 10,
    }
    given["nbytes"] = given["agreed"].contribution_bytes(job.layout)
    return Train(round=number, job=jobs.encode(job), **given | changed)


def a_trainer(file: Path, closing: Wakeup) -> Trainer:
    data = [
        StudyData(("#mri",), file, ("x", "y")),
        StudyData(("#doubles",), file.with_name("doubles.npz"), ("x", "y")),
        StudyData(("#few",), file.with_name("few.npz"), ("x", "y")),
        StudyData(("#whole",), file, ("x", "whole")),
        StudyData(("#one",), file, ("x",)),
        StudyData(("#gone",), file.with_name("gone.npz"), ("x", "y")),
        StudyData(("#safetensors",), file.with_name("mri.safetensors"), ("x", "y")),
        StudyData(("#npy",), file.with_name("mri.npy"), ("x",)),
        StudyData(("#nulls",), file.with_name("nulls.parquet"), ("x", "y")),
        StudyData(("#parquet",), file.with_name("mri.parquet"), ("x", "y")),
    ]
    # The number of threads decides how some sums are split, and so their last bits.
    limits = TrainingLimits(1 << 30, "cpu", torch.get_num_threads())
    base = BaseFile(file.with_name("base.safetensors"))
    return Trainer(limits, data, models=BaseFiles([base]), listener=os.getpid(), closing=closing)


@pytest.fixture(scope="module")
def trainer(file: Path) -> Iterator[Trainer]:
    """One for all: a child takes seconds to start, and goes on after whatever is refused."""
    trainer = a_trainer(file, Wakeup())
    yield trainer
    pid = trainer.pid
    trainer.close()
    assert pid is None or gone(pid)


def heard(trainer: Trainer) -> Trained | Failed:
    """What becomes of the order that was given."""
    while True:
        descriptor = trainer.fileno()
        assert descriptor is not None
        assert select.select([descriptor], [], [], SOON)[0]
        found = trainer.receive()
        if found is not None:
            return found


@pytest.mark.slow
def test_it_trains_as_anybody_would(trainer: Trainer, file: Path) -> None:
    job = a_job()
    assert trainer.train(order(job)) is None
    found = heard(trainer)
    assert isinstance(found, Trained), found
    net = model()
    layout = deltas.layout_of(deltas.floats_of(net))
    expected = train(
        loss.capture(net, example=(torch.randn(4, 3), torch.randn(4, 1))),
        open_file(file, columns=("x", "y")),
        parameters=dict(net.named_parameters()),
        buffers=dict(net.named_buffers()),
        optimizer=cloister.SGD(lr=0.05, momentum=0.9),
        batch_size=16,
        steps=5,
        seed=11,
        rows_seed=7,
        proximal=0.1,
        clip=0.5,
        clip_buffers=0.125,
        layout=layout,
    )
    assert found == Trained(1, bytes(as_bytes(expected.delta)), ROWS, expected.norms, expected.metrics)
    assert found.norms == pytest.approx((0.5, 0.125))
    assert job.layout == layout
    # The same child goes on, with the job that it has.
    pid = trainer.pid
    trainer.train(order(job, 2))
    assert heard(trainer) == found._replace(round=2)
    assert trainer.pid == pid


@pytest.mark.slow
def test_doubles_are_trained_on_as_the_floats_that_they_become(trainer: Trainer) -> None:
    """Most programs write float64: an owner whose file has it contributes as every other."""
    trainer.train(order(a_job()))
    floats = heard(trainer)
    trainer.train(order(a_job(), data="#doubles"))
    assert isinstance(floats, Trained)
    assert heard(trainer) == floats


@pytest.mark.slow
def test_what_is_wrong_with_a_file_is_told_by_the_data_sets_name_and_not_by_its_path(trainer: Trainer) -> None:
    """What comes of it is declined in these words, to the aggregator and whoever asks it."""
    trainer.train(order(a_job(), data="#nulls"))
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert found.text == "the data set '#nulls': column 'y' holds nulls; fill them or leave those rows out"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "key"), [({"step_cpu_s": 0.001}, "step_cpu"), ({"round_cpu_s": 1.0}, "round_cpu")])
def test_a_training_without_an_end_is_ended(file: Path, limit: dict[str, float], key: str) -> None:
    """A million steps: each is short, and all of them take minutes."""
    limits = dataclasses.replace(TrainingLimits(1 << 30, "cpu", 1), **limit)
    trainer = Trainer(
        limits, [StudyData(("#mri",), file, ("x", "y"))], models=BaseFiles(()), listener=os.getpid(), closing=Wakeup()
    )
    try:
        assert trainer.due is None
        assert trainer.train(order(a_job(), agreed={"steps": 1 << 20})) is None
        assert select.select([trainer.fileno()], [], [], SOON)[0]
        assert trainer.receive() is None  # it is ready, and has the order now
        pid, found = trainer.pid, None
        while found is None:
            assert trainer.due is not None
            wait({trainer.fileno(): READABLE}, until=trainer.due)  # type: ignore[dict-item]
            found = trainer.look()
        assert isinstance(found, Failed)
        assert key in found.text
        assert trainer.pid is None
        assert pid is not None
        assert gone(pid)
        assert trainer.due is None
        assert trainer.train(order(a_job(), 2)) is None  # another child
    finally:
        trainer.close()


@pytest.mark.slow
def test_a_training_that_takes_longer_than_a_round_is_ended(file: Path) -> None:
    """Whatever its process does meanwhile: it may wait, and use no CPU time, or never have begun."""
    limits = TrainingLimits(1 << 30, "cpu", 1)
    trainer = Trainer(
        limits, [StudyData(("#mri",), file, ("x", "y"))], models=BaseFiles(()), listener=os.getpid(), closing=Wakeup()
    )
    try:
        assert trainer.train(order(a_job(), agreed={"steps": 1 << 20, "max_s": 1})) is None
        pid = trainer.pid
        assert trainer.look() is None
        os.kill(pid or 0, signal.SIGSTOP)
        assert trainer.due is not None
        assert trainer.due <= monotonic() + 1
        wait({trainer.fileno(): READABLE}, until=trainer.due)  # type: ignore[dict-item]
        found = trainer.look()
        assert isinstance(found, Failed)
        assert "longer than the 1 s that the job gives owners" in found.text
        assert trainer.pid is None
        assert trainer.due is None
        assert gone(pid or 0)
    finally:
        trainer.close()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["#mri", "#safetensors", "#parquet"])
def test_it_reads_what_it_was_given_of_each_format(trainer: Trainer, data: str) -> None:
    """A child is confined to its data set, and Parquet's library is loaded when it is already."""
    trainer.train(order(a_job(), data=data))
    found = heard(trainer)
    assert isinstance(found, Trained), found
    assert found.examples == ROWS


@pytest.mark.slow
@pytest.mark.timeout(400)  # three processes, one after the other
def test_a_job_on_other_data_has_another_child(trainer: Trainer) -> None:
    trainer.train(order(a_job()))
    assert isinstance(heard(trainer), Trained)
    pid = trainer.pid
    assert pid is not None
    trainer.train(order(a_job(), 2, data="#npy"))
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert "1 columns" in found.text  # it was read, from its header on
    assert gone(pid)
    trainer.train(order(a_job(), 3))
    assert isinstance(heard(trainer), Trained)


REFUSED = {
    "fewer rows than the floor": ({}, {"data": "#few"}, "fewer than the 10 rows"),
    "fewer rows than two batches": ({}, {"agreed": {"batch_size": 21}}, "fewer rows than 2 batches of 21"),
    "a column of another type": ({}, {"data": "#whole"}, "column 'whole' holds int64"),
    "a column too few": ({}, {"data": "#one"}, "1 columns"),
    "a file that is gone": ({}, {"data": "#gone"}, "'#gone' cannot be read at its node"),
    "a plan that is none": ({"plan": b"nonsense"}, {}, "plan"),
    "an optimizer that is none": (
        {},
        {"agreed": {"optimizer": optimizers.SGD(-1.0)}},
        "lr is -1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_the_first_step(trainer: Trainer, case: str) -> None:
    changed, given, why = REFUSED[case]
    trainer.train(order(a_job(**changed), **given))
    found = heard(trainer)
    assert isinstance(found, Failed), found
    assert why in found.text
    assert ".npz" not in found.text  # where an owner's files lie is nobody's business


@pytest.mark.slow
def test_a_model_that_does_not_fit_the_plan_names_the_tensors(trainer: Trainer) -> None:
    job = a_job()
    parts = [
        msgspec.structs.replace(part, name="head.wait")
        if part.name == "head.weight"
        else msgspec.structs.replace(part, buffer=True)
        if part.name == "head.bias"
        else part
        for part in job.tensors.parts
    ]
    trainer.train(order(a_job(parts=tuple(parts))))
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert "needs a tensor 'head.weight'" in found.text
    assert "'head.bias' is a buffer where the plan needs a parameter" in found.text
    trainer.train(order(job, 2))  # and it goes on
    assert isinstance(heard(trainer), Trained)


@pytest.mark.slow
def test_training_that_comes_to_no_number(trainer: Trainer) -> None:
    trainer.train(order(a_job(), agreed={"optimizer": optimizers.SGD(1e38)}))
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert "not finite" in found.text


@pytest.mark.slow
def test_a_child_that_is_killed_and_the_next_one(trainer: Trainer) -> None:
    trainer.train(order(a_job(), agreed={"steps": 1 << 20}))
    pid = trainer.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert "SIGKILL" in found.text
    assert trainer.pid is None
    trainer.train(order(a_job(), 2))
    assert isinstance(heard(trainer), Trained)
    assert gone(pid)


@pytest.mark.slow
def test_what_is_abandoned_is_never_heard_of(trainer: Trainer) -> None:
    trainer.train(order(a_job(), agreed={"steps": 1 << 20}))
    pid = trainer.pid
    assert pid is not None
    while not trainer._sent:  # until it is ready, and at work
        assert trainer.receive() is None
    trainer.abandon()
    assert gone(pid)
    trainer.train(order(a_job(), 2))
    found = heard(trainer)
    assert isinstance(found, Trained)
    assert found.round == 2


@pytest.mark.slow
def test_a_node_that_closes_waits_for_nobody(file: Path) -> None:
    closing = Wakeup()
    trainer = a_trainer(file, closing)
    trainer.train(order(a_job()))
    closing.set()
    assert trainer.receive() == Failed(1, "the process that trained has ended: the node closes")


@pytest.mark.slow
def test_a_sum_over_drawn_rows_is_shorter_than_a_model_of_doubles(trainer: Trainer) -> None:
    net = nn.Linear(3, 1).double()
    plan = loss.capture(net, example=(torch.zeros(4, 3).double(), torch.zeros(4, 1).double()))
    floats = deltas.floats_of(net)
    parts = tuple(Part(name, spec_of(floats[name]), False) for name in sorted(floats))
    job = a_job(plan=plan.encode(), parts=parts, constants=())
    vector = bytes(as_bytes(deltas.flatten(floats, layout=job.layout)))
    draw = Draw(bytes(32), 0.5, ROWS)
    nbytes = job.layout.length * SUM_BYTES
    trainer.train(order(job, model=vector, nbytes=nbytes, data="#doubles", draw=draw))
    found = heard(trainer)
    assert isinstance(found, Trained), found
    assert (len(vector), len(found.vector)) == (32, 16)
    assert (found.examples, found.norms, found.metrics) == (ROWS, (0.0, 0.0), {})
    trainer.train(order(job, 2, model=vector, data="#doubles", draw=draw._replace(rows=1)))
    refused = heard(trainer)
    assert isinstance(refused, Failed)
    assert "more rows than the job is for" in refused.text


@pytest.mark.slow
def test_orders_travel_whole(trainer: Trainer) -> None:
    """A vector far longer than what fits between two processes at once."""
    descriptor = None
    job = a_job(parts=(Part("w", jobs.TensorSpec("float32", (3 << 20,)), False),), constants=())
    trainer.train(order(job, model=bytes(3 << 22)))
    while not isinstance(found := trainer.receive(), Failed):
        descriptor = trainer.fileno()
        assert descriptor is not None
        wait({descriptor: READABLE}, until=None)
    assert "'norm.weight'" in found.text
    assert hashlib.sha256(jobs.encode(job)).digest() == trainer._job


# What is not in the vector: a base, and buffers that stay at home


def a_job_on_a_base(digest: bytes) -> Job:
    net = adapted()
    plan = loss.capture(net, example=(torch.randn(4, 3), torch.randn(4, 1)))
    parts = tuple(Part(f"head.{name}", spec_of(each), False) for name, each in net.head.named_parameters())
    base = tuple(
        Based(f"base.{name}", spec_of(each), False, digest, f"transformer.{name}")
        for name, each in net.base.named_parameters()
    )
    by_name = {name: tuple(sorted(some, key=lambda each: each.name)) for name, some in (("p", parts), ("b", base))}
    return a_job(plan=plan.encode(), parts=by_name["p"], base=by_name["b"], constants=())


def head() -> bytes:
    net = adapted()
    floats = {f"head.{name}": each.detach() for name, each in net.head.named_parameters()}
    return bytes(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))


def digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.slow
def test_it_trains_what_is_learned_on_a_base_that_its_owner_has(trainer: Trainer, file: Path) -> None:
    digest = digest_of(file.with_name("base.safetensors"))
    job = a_job_on_a_base(digest)
    assert trainer.train(order(job, model=head(), files=(digest,), clip_buffers=None)) is None
    found = heard(trainer)
    assert isinstance(found, Trained), found
    net = adapted()
    expected = train(
        loss.capture(net, example=(torch.randn(4, 3), torch.randn(4, 1))),
        open_file(file, columns=("x", "y")),
        parameters=dict(net.named_parameters()),
        buffers={},
        optimizer=cloister.SGD(lr=0.05, momentum=0.9),
        batch_size=16,
        steps=5,
        seed=11,
        rows_seed=7,
        proximal=0.1,
        clip=0.5,
        layout=job.layout,
    )
    assert np.frombuffer(found.vector, np.float32) == pytest.approx(expected.delta.numpy(), rel=1e-4, abs=1e-6)
    assert len(found.vector) == 4 * 6
    assert not found.home
    trainer.train(order(a_job(), 2))  # another job, which may not read the base
    assert isinstance(heard(trainer), Trained)


@pytest.mark.slow
def test_a_base_that_is_not_here_or_not_the_jobs_is_told(trainer: Trainer, file: Path) -> None:
    digest, other = digest_of(file.with_name("base.safetensors")), bytes([7]) * 32
    found = trainer.train(order(a_job_on_a_base(other), model=head(), files=(other,))) or heard(trainer)
    assert isinstance(found, Failed)
    assert f"SHA-256 {other.hex()} is not at this node" in found.text
    job = a_job_on_a_base(digest)
    wrong = tuple(msgspec.structs.replace(each, tensor="wte") for each in job.tensors.base)
    job = msgspec.structs.replace(job, tensors=msgspec.structs.replace(job.tensors, base=wrong))
    assert trainer.train(order(job, 2, model=head(), files=(digest,))) is None
    found = heard(trainer)
    assert isinstance(found, Failed)
    assert f"{digest.hex()} holds no 'wte' that is float32[5]" in found.text
    assert trainer.train(order(a_job_on_a_base(digest), 3, model=head(), files=())) is None
    found = heard(trainer)  # a job whose file was not given to its process
    assert isinstance(found, Failed)
    assert "was not given to this process" in found.text
    assert ".safetensors" not in found.text


@pytest.mark.slow
def test_buffers_that_stay_at_home_come_back_beside_the_update_and_go_on_from_there(trainer: Trainer) -> None:
    net = model()
    names = ("norm.running_mean", "norm.running_var")
    held = dict(net.named_buffers())
    floats = {name: each.detach() for name, each in net.named_parameters()}
    parts = tuple(Part(name, spec_of(floats[name]), False) for name in sorted(floats))
    constants = tuple(constant(name, held[name]) for name in sorted(held))
    job = a_job(parts=parts, constants=constants)
    vector = bytes(as_bytes(deltas.flatten(floats, layout=job.layout)))
    given: dict[str, Any] = {"model": vector, "clip_buffers": None, "home_bytes": 24}

    def round_of(number: int, home: bytes) -> Trained:
        assert trainer.train(order(job, number, home=home, **given)) is None
        found = heard(trainer)
        assert isinstance(found, Trained), found
        return found

    first = round_of(1, b"")
    begin = b"".join(each.data for each in constants if each.name in names)
    assert (len(first.vector), len(first.home)) == (len(vector), len(begin) == 24 and 24)
    assert first.home != begin
    assert round_of(2, b"") == first._replace(round=2)
    assert round_of(3, begin) == first._replace(round=3)
    second = round_of(4, bytes(first.home))
    assert second.home not in (first.home, begin)
    plain = a_job()  # where they are sent, they end up as they do here
    trainer.train(order(plain, 5, clip_buffers=1e6))
    found = heard(trainer)
    assert isinstance(found, Trained)
    sent = {
        place.name: np.frombuffer(found.vector, np.float32)[place.start : place.stop] for place in plain.layout.places
    }
    moved = np.concatenate([np.frombuffer(as_bytes(held[name]), np.float32) + sent[name] for name in names])
    assert np.frombuffer(first.home, np.float32) == pytest.approx(moved, rel=1e-4, abs=1e-5)
