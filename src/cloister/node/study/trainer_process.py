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
from cloister.ledger.job import Based, Constant, Job, Part, Tensors
from cloister.node.confinement import confine, limit_memory, tie
from cloister.node.ipc import Descriptors, End, Link, fill
from cloister.node.program import run, use_threads, where
from cloister.node.slate import READING
from cloister.node.study.effects import Draw
from cloister.node.study.trainer import Assignment, Given, Order, Result
from cloister.tensor.geometry import DTYPES
from cloister.tensor.plan.learned import learned
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM
from cloister.wire.fixed_point import most_drawn
from cloister.wire.frames import Kind
from cloister.wire.layout import Layout, lay_out
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
from cloister.worker.weights import Weights

_log: Final = logging.getLogger("cloister.node.study.trainer_process")
_CLIPPED_IN_A_ROW: Final = 3
"""So many clipped updates, one after the other, and the owner is told."""


class Prepared(NamedTuple):
    """A job and a data set that fit each other."""

    job: Job
    plan: Plan
    data: Batches
    frozen: dict[str, torch.Tensor]
    """What stays as it is: the base, and the constants."""
    home: Layout
    """The buffers that the plan writes and that stay here."""


class TrainerProcess:
    """Trains as it is ordered, on one data set. It checks the data set, and each job, once."""

    def __init__(self, given: Given, *, memory_bytes: int, device: str, begin: Callable[[str], None] = unheard) -> None:
        self._data_set = given.data
        self._models = given.models
        self._memory_bytes = memory_bytes
        self._device = device
        self._begin = begin
        self._opened: Batches | None = None
        self._prepared: tuple[bytes, Prepared] | None = None
        self._job = b""
        self._clipped_in_a_row = 0

    def train(
        self, order: Order, *, job: bytes, vector: bytearray, home: bytes = b""
    ) -> tuple[Result, list[torch.Tensor]]:
        """Trains the model of this vector as ordered. Returns what is said of the result, and the result: an update, or
        where rows are drawn the sum over them; and the buffers that stay here, if there are some. ``job``: empty if it
        is the same as before. ``home``: those buffers before; empty if they are the job's.

        Raises:
            JobError, PlanError, DataSetError, ConfigurationError: job, plan, model and data set do not fit each other.
                It is raised before the first step, and names the tensor or column.
            TrainingError: training led to values that are not finite, and no noise hides that it did.
        """
        self._job = job or self._job
        found = self._prepare()
        if len(found.data) < order.least:
            raise DataSetError(f"the data set has fewer than the {order.least} rows that a contribution is to be of")
        parameters, buffers = self._tensors(found, vector, home)
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
            nothing = torch.zeros(layout.length, dtype=DTYPES[order.half or layout.dtype])
            return Result(len(found.data), (0.0, 0.0), {}), [nothing, *_at_home(found, buffers)]

    def _train(
        self,
        order: Order,
        found: Prepared,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> tuple[Result, list[torch.Tensor]]:
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
        self._tell_of_clipping(trained.metrics, order.clip)
        delta = trained.delta if order.half is None else trained.delta.to(DTYPES[order.half])  # which loses nothing
        made = [delta, *_at_home(found, trained.others)]
        return Result(trained.examples, trained.norms, trained.metrics), made

    def _tell_of_clipping(self, metrics: Mapping[str, float], clip: float) -> None:
        """Warns the owner once where each of its updates is clipped: then it may be its data that are out of scale."""
        self._clipped_in_a_row = self._clipped_in_a_row + 1 if metrics[CLIPPED] else 0
        if self._clipped_in_a_row == _CLIPPED_IN_A_ROW:
            _log.warning(
                "the updates of %d rounds in a row were clipped to %.3g, the last one from %.3g: the model may learn"
                " little from these data; see that its columns have the scale that the study asks for",
                _CLIPPED_IN_A_ROW,
                clip,
                metrics[UPDATE_NORM],
            )

    def told(self, fault: CloisterError) -> str:
        """What is told of a fault: files by what a study calls them, and not by their paths, which are nobody else's
        business."""
        said, names = str(fault), {str(Path(self._data_set.path)): f"the data set {self._data_set.name!r}"}
        names |= {
            str(Path(each.path)): f"the base model's file with the SHA-256 {each.digest.hex()}" for each in self._models
        }
        for path in sorted(names, key=len, reverse=True):  # one may begin with another
            said = said.replace(path, names[path])
        return said

    def _sum(
        self,
        order: Order,
        draw: Draw,
        found: Prepared,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> tuple[Result, list[torch.Tensor]]:
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
        return Result(rows, (0.0, 0.0), {}), [summed.sums]

    def _prepare(self) -> Prepared:
        if self._prepared is None or self._prepared[0] != self._job:
            job = jobs.decode(self._job)
            mapped = sum(each.spec.nbytes() for each in job.tensors.base)  # which is no memory of this process
            plan = Plan.decode(job.plan, memory_bytes=self._memory_bytes + mapped)
            check_parts(plan, job)
            data = self._open()
            check_fits(plan, data)
            frozen = {name: each.to(self._device) for name, each in self._base(job.tensors).items()}
            frozen |= {each.name: _constant(each, self._device) for each in job.tensors.constants}
            prepared = Prepared(job, plan, data, frozen, _home(job, plan))
            self._prepared, self._clipped_in_a_row = (self._job, prepared), 0
        return self._prepared[1]

    def _base(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """The frozen tensors of the base, where they lie in their files."""
        opened: dict[bytes, Weights] = {}
        found = {}
        for each in tensors.base:
            if each.file not in opened:
                opened[each.file] = self._weights(each.file)
            weights = opened[each.file]
            if weights.specs.get(each.tensor) != each.spec:
                raise DataSetError(
                    f"the base model's file with the SHA-256 {each.file.hex()} holds no {each.tensor!a} that is"
                    f" {each.spec}"
                )
            found[each.name] = weights.tensor(each.tensor)
        return found

    def _weights(self, digest: bytes) -> Weights:
        for model in self._models:
            if model.digest == digest:
                weights = Weights(Path(model.path))
                if weights.identity != model.identity:
                    raise DataSetError(f"the base model's file with the SHA-256 {digest.hex()} is being written to")
                return weights
        raise DataSetError(f"the base model's file with the SHA-256 {digest.hex()} was not given to this process")

    def _open(self) -> Batches:
        if self._opened is None:
            name, path, columns = msgspec.structs.astuple(self._data_set)
            try:
                self._opened = open_file(Path(path), columns=columns, memory_bytes=self._memory_bytes)
            except CloisterError as fault:
                _log.error("data set %s: %s", name, fault)  # with its path, which is nobody else's business
                raise DataSetError(f"the data set {name!r} cannot be read at its node, whose log says why") from None
        return self._opened

    def _tensors(
        self, found: Prepared, vector: bytearray, home: bytes
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        job, layout = found.job, found.job.layout
        values = torch.frombuffer(vector, dtype=DTYPES[layout.dtype])
        held = {part.name: _empty(part.spec, self._device) for part in job.tensors.parts}
        deltas.unflatten(values, layout=layout, into=held)
        if home:
            kept = {place.name: _empty(place.spec, self._device) for place in found.home.places}
            deltas.unflatten(
                torch.frombuffer(bytearray(home), dtype=DTYPES[found.home.dtype]), layout=found.home, into=kept
            )
            held |= kept
        held = found.frozen | held
        names = {each.names[0] for each in found.plan.program.parameters}
        parameters = {name: each for name, each in held.items() if name in names}
        return parameters, {name: each for name, each in held.items() if name not in names}


def _home(job: Job, plan: Plan) -> Layout:
    """The buffers that the plan writes and that are no part of the vector."""
    sent = {part.name for part in job.tensors.parts}
    written = {name for name in learned(plan.program).buffers if name not in sent}
    return lay_out({each.name: each.spec for each in job.tensors.constants if each.name in written})


def _at_home(found: Prepared, buffers: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The buffers that stay here, as a vector: none, or one."""
    if not found.home.places:
        return []
    return [deltas.flatten({place.name: buffers[place.name] for place in found.home.places}, layout=found.home)]


def check_parts(plan: Plan, job: Job) -> None:
    """Checks that the plan can be run on the job's model.

    Raises:
        PlanError: it cannot; the message names the tensors.
    """
    given = {each.name: each for each in job.tensors.all}
    parameters = {held.names[0] for held in plan.program.parameters}
    learns = learned(plan.program)
    strange = sorted(given.keys() - {held.names[0] for held in plan.program.held})
    faults = [f"the plan has no tensor {name!r}" for name in strange[:5]]  # they would count as memory that is mapped
    for held in plan.program.held:
        name, wanted = held.names[0], TensorSpec(held.dtype, held.shape)
        found = given.get(name)
        if found is None:
            faults.append(f"the plan needs a tensor {name!r}, and the model has none")
        elif found.spec != wanted:
            faults.append(f"tensor {name!r} is {found.spec} where the plan needs {wanted}")
        elif isinstance(found, Part | Based) and found.buffer == (name in parameters):
            kinds = ("a buffer", "a parameter")
            faults.append(f"tensor {name!r} is {kinds[not found.buffer]} where the plan needs {kinds[found.buffer]}")
        elif not isinstance(found, Part) and name in learns.parameters:
            faults.append(f"tensor {name!r} is frozen where the plan trains it")
        elif isinstance(found, Based) and name in learns.buffers:
            faults.append(f"tensor {name!r} is of the base, which stays as it is, where the plan writes it")
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
            vector = body[order.job : len(body) - order.home]
            home = bytes(body[len(body) - order.home :])
            result, made = process.train(order, job=bytes(body[: order.job]), vector=vector, home=home)
        except CloisterError as fault:
            link.send(Kind.FAILURE, process.told(fault)[:TEXT_CHARS].encode())
        except Exception as fault:  # noqa: BLE001 - of whatever kind, it ends this round only
            _log.error("%s", where(fault))
            link.send(Kind.FAILURE, f"training failed: {type(fault).__name__}; the node's log says where".encode())
        else:
            vectors = [as_bytes(each) for each in made]
            body_bytes = sum(map(len, vectors))
            link.send(Kind.ANSWER, msgspec.msgpack.encode(result), body_bytes)
            fill(link.buffers(body_bytes), vectors)


def _given() -> Given:
    """Waits for the files to train on."""
    data = sys.stdin.buffer.read()
    if not data:
        raise EOFError("there will be no training")
    return msgspec.json.decode(data, type=Given)


def main(arguments: Sequence[str]) -> None:
    """The process. Its arguments are the descriptors of its link; what it is to do comes on standard input.

    Raises:
        EOFError: the listener is gone.
    """
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    tie(assignment.listener)
    link = Link(End.adopt(Descriptors(*map(int, arguments))))
    link.send(Kind.ANSWER, b"")
    given = _given()
    if assignment.device == "cpu":
        limit_memory(2 * assignment.memory_bytes, threads=assignment.threads)
    confine([given.data.path, *(model.path for model in given.models)], device=assignment.device)
    use_threads(assignment.threads)
    process = TrainerProcess(
        given, memory_bytes=assignment.memory_bytes, device=assignment.device, begin=link.slate.begin
    )
    serve(link, process)


if __name__ == "__main__":
    run(main, log=_log)
