"""The process that trains: ``python -m cloister.node.study.trainer_process``.

``cloister.node.study.trainer`` starts it. It opens the data set that it is given, holds no key and talks to nobody but
its listener; when that ends, it ends too. Before it opens a data set or reads a job, it gives up the rights that it
will not need (``cloister.node.confinement``). Plans are data: they are decoded and checked here, and nothing that came
from elsewhere is imported or unpickled.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import torch

from cloister.errors import CloisterError, DataSetError, PlanError, TrainingError
from cloister.ledger import job as jobs
from cloister.ledger.job import Constant, Job, Part
from cloister.node.confinement import confine, limit_memory, tie
from cloister.node.ipc import Descriptors, End, Link, fill
from cloister.node.program import run, use_threads, where
from cloister.node.slate import READING
from cloister.node.study.effects import Draw
from cloister.node.study.trainer import Assignment, Columns, Order, Result
from cloister.tensor.geometry import DTYPES
from cloister.wire.fixed_point import most_drawn
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.tensors import TensorSpec
from cloister.worker import flatten as deltas
from cloister.worker import optimizers
from cloister.worker.data.batches import Batches
from cloister.worker.data.files import open_file
from cloister.worker.fitting import check_drawn, check_fits
from cloister.worker.plans import Plan
from cloister.worker.record_sums import RecordSums
from cloister.worker.training import train, unheard
from cloister.worker.values import as_bytes

_log: Final = logging.getLogger("cloister.node.study.trainer_process")


class Prepared(NamedTuple):
    """A job and a data set that fit each other."""

    job: Job
    plan: Plan
    data: Batches


class TrainerProcess:
    """Trains as it is ordered, on one data set. It checks the data set, and each job, once."""

    def __init__(
        self, data_set: Columns, *, memory_bytes: int, device: str, begin: Callable[[str], None] = unheard
    ) -> None:
        self._data_set = data_set
        self._memory_bytes = memory_bytes
        self._device = device
        self._begin = begin
        self._opened: Batches | None = None
        self._prepared: tuple[bytes, Prepared] | None = None
        self._job = b""

    def train(self, order: Order, *, job: bytes, vector: bytearray) -> tuple[Result, torch.Tensor]:
        """Trains the model of this vector as ordered. Returns what is said of the result, and the result: an update, or
        where rows are drawn the sum over them. ``job``: empty if it is the same as before.

        Raises:
            JobError, PlanError, DataSetError, ConfigurationError: job, plan, model and data set do not fit each other.
                It is raised before the first step, and names the tensor or column.
            TrainingError: training led to values that are not finite, and no noise hides that it did.
        """
        self._job = job or self._job
        found = self._prepare()
        if len(found.data) < order.least:
            raise DataSetError(f"the data set has fewer than the {order.least} rows that a contribution is to be of")
        parameters, buffers = self._tensors(found, vector)
        if order.draw is not None:
            return self._sum(order, order.draw, found, parameters, buffers)
        try:
            return self._train(order, found, parameters, buffers)
        except (PlanError, TrainingError) as fault:
            if not order.hidden:
                raise
            # No answer at all would tell of the owner's data what noise is to hide.
            _log.warning("the training failed, and zeros are contributed: %s", fault)
            layout = found.job.layout
            zeros = torch.zeros(layout.length, dtype=DTYPES[order.half or layout.dtype])
            return Result(len(found.data), (0.0, 0.0), {}), zeros

    def _train(
        self,
        order: Order,
        found: Prepared,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> tuple[Result, torch.Tensor]:
        trained = train(
            found.plan,
            found.data,
            parameters=parameters,
            buffers=buffers,
            optimizer=optimizers.read(order.optimizer),
            batch_size=order.batch_size,
            steps=order.steps,
            seed=order.seeds.steps,
            rows_seed=order.seeds.rows,
            rounding_seed=order.seeds.rounding,
            proximal=order.proximal,
            clip=order.clip,
            clip_buffers=order.clip_buffers,
            half=order.half,
            layout=found.job.layout,
            begin=self._begin,
        )
        delta = trained.delta if order.half is None else trained.delta.to(DTYPES[order.half])  # which loses nothing
        return Result(trained.examples, trained.norms, trained.metrics), delta

    def told(self, fault: CloisterError) -> str:
        """What is told of a fault: the data set by its name, and not by its path, which is nobody else's business."""
        name, path, _ = msgspec.structs.astuple(self._data_set)
        return str(fault).replace(str(Path(path)), f"the data set {name!r}")

    def _sum(
        self,
        order: Order,
        draw: Draw,
        found: Prepared,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> tuple[Result, torch.Tensor]:
        """Nothing is said of the sum but the rows of the data set: its length would tell of single ones."""
        rows = len(found.data)
        check_drawn(rows, rate=draw.rate, expected=draw.rows)
        sums = RecordSums(
            found.plan,
            parameters=parameters,
            buffers=buffers,
            layout=found.job.layout,
            clip=order.clip,
            rate=draw.rate,
            at_once=order.batch_size,
            memory_bytes=self._memory_bytes,
        )
        most = most_drawn(rows * draw.rate)
        summed = sums.run(found.data, key=draw.key, most_rows=most, begin=self._begin)
        if summed.left_out:  # for the owner alone: nobody else learns how many, or that there were any
            _log.warning("the gradients of %d records could not be computed; they count as zeros", summed.left_out)
        return Result(rows, (0.0, 0.0), {}), summed.sums

    def _prepare(self) -> Prepared:
        if self._prepared is None or self._prepared[0] != self._job:
            job = jobs.decode(self._job)
            plan = Plan.decode(job.plan, memory_bytes=self._memory_bytes)
            check_parts(plan, job)
            data = self._open()
            check_fits(plan, data)
            self._prepared = self._job, Prepared(job, plan, data)
        return self._prepared[1]

    def _open(self) -> Batches:
        if self._opened is None:
            name, path, columns = msgspec.structs.astuple(self._data_set)
            try:
                self._opened = open_file(Path(path), columns=columns, memory_bytes=self._memory_bytes)
            except CloisterError as fault:
                _log.error("data set %s: %s", name, fault)  # with its path, which is nobody else's business
                raise DataSetError(f"the data set {name!r} cannot be read at its node, whose log says why") from None
        return self._opened

    def _tensors(self, found: Prepared, vector: bytearray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        job, layout = found.job, found.job.layout
        values = torch.frombuffer(vector, dtype=DTYPES[layout.dtype])
        floats = {part.name: _empty(part.spec, self._device) for part in job.parts}
        deltas.unflatten(values, layout=layout, into=floats)
        named = {name for held in found.plan.program.parameters for name in held.names}
        parameters = {part.name: floats[part.name] for part in job.parts if not part.buffer}
        buffers = {part.name: floats[part.name] for part in job.parts if part.buffer}
        for constant in job.constants:
            (parameters if constant.name in named else buffers)[constant.name] = _constant(constant, self._device)
        return parameters, buffers


def check_parts(plan: Plan, job: Job) -> None:
    """Checks that the plan can be run on the job's model.

    Raises:
        PlanError: it cannot; the message names the tensors.
    """
    given: dict[str, Part | Constant] = {part.name: part for part in job.parts}
    given |= {constant.name: constant for constant in job.constants}
    parameters = {held.names[0] for held in plan.program.parameters}
    trained = {held.names[0] for held in plan.program.parameters if held.trained}
    faults = []
    for held in plan.program.held:
        name, wanted = held.names[0], TensorSpec(held.dtype, held.shape)
        found = given.get(name)
        if found is None:
            faults.append(f"the plan needs a tensor {name!r}, and the model has none")
        elif found.spec != wanted:
            faults.append(f"tensor {name!r} is {found.spec} where the plan needs {wanted}")
        elif isinstance(found, Part) and found.buffer == (name in parameters):
            kinds = ("a buffer", "a parameter")
            faults.append(f"tensor {name!r} is {kinds[not found.buffer]} where the plan needs {kinds[found.buffer]}")
        elif isinstance(found, Constant) and name in trained:
            faults.append(f"tensor {name!r} is a constant where the plan trains it")
    if faults:
        raise PlanError("the plan does not fit the job's model: " + "; ".join(faults))


def _empty(spec: TensorSpec, device: str) -> torch.Tensor:
    return torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device=device)


def _constant(constant: Constant, device: str) -> torch.Tensor:
    tensor = _empty(constant.spec, "cpu")
    as_bytes(tensor)[:] = constant.data
    return tensor.to(device)


def serve(link: Link, process: TrainerProcess) -> None:
    """Obeys orders until the listener is gone.

    Raises:
        EOFError: it is.
    """
    while True:
        link.slate.rest()
        frame = link.receive()
        link.slate.begin(READING)
        order = msgspec.msgpack.decode(frame.header, type=Order)
        body, filled = bytearray(frame.body_bytes), 0
        for piece in link.pieces(frame.body_bytes):
            body[filled : filled + len(piece)] = piece
            filled += len(piece)
        try:
            result, made = process.train(order, job=bytes(body[: order.job]), vector=body[order.job :])
        except CloisterError as fault:
            link.send(Kind.FAILURE, process.told(fault)[:TEXT_CHARS].encode())
        except Exception as fault:  # noqa: BLE001 - of whatever kind, it ends this round only
            _log.error("%s", where(fault))
            link.send(Kind.FAILURE, f"training failed: {type(fault).__name__}; the node's log says where".encode())
        else:
            vector = as_bytes(made)
            link.send(Kind.ANSWER, msgspec.msgpack.encode(result), len(vector))
            fill(link.buffers(len(vector)), [vector])


def _data_set() -> Columns:
    """Waits for the data set to train on."""
    data = sys.stdin.buffer.read()
    if not data:
        raise EOFError("there will be no training")
    return msgspec.json.decode(data, type=Columns)


def main(arguments: Sequence[str]) -> None:
    """The process. Its arguments are the descriptors of its link; what it is to do comes on standard input.

    Raises:
        EOFError: the listener is gone.
    """
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    tie(assignment.listener)
    link = Link(End.adopt(Descriptors(*map(int, arguments))))
    link.send(Kind.ANSWER, b"")
    data_set = _data_set()
    if assignment.device == "cpu":
        limit_memory(2 * assignment.memory_bytes, threads=assignment.threads)
    confine([data_set.path], device=assignment.device)
    use_threads(assignment.threads)
    process = TrainerProcess(
        data_set, memory_bytes=assignment.memory_bytes, device=assignment.device, begin=link.slate.begin
    )
    serve(link, process)


if __name__ == "__main__":
    run(main, log=_log)
