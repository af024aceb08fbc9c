"""What is usual in a plan, and still good to know: what gradients of honest layers tell of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloister.plans.concerns import Severity
from cloister.plans.following import Followed
from cloister.tensor.plan.program import Program
from cloister.wire.text import quoted

_REMARKS: Final = {
    "dropout": "it leaves out entries by chance, as is usual; whoever knows the seed knows which",
    "random": "it draws random numbers; whoever knows the seed knows them",
    "BatchNorm": "its statistics, and so its new buffers, are means and variances of all rows of a step",
    "embedding": "the gradient of its table shows which entries (words, codes) occurred in a step's rows",
    "labels left out": "rows of one label do not count, as padding does not in text",
    "weights by class": "rows of some classes count more than others: a class with few rows is told more of",
}
_LOSSES_OF_CLASSES: Final = ("aten::nll_loss", "aten::binary_cross_entropy", "aten::_log_softmax")

Told = tuple[Severity, str, str]


def remarks(program: Program, found: Followed) -> Iterator[Told]:
    """What to tell of layers that are as they should be."""
    for remark, lines in found.remarks.items():
        times = f" ({len(lines)} times)" if len(lines) > 1 else ""
        yield "note", f"{remark}{times}, line {lines[0]}", _REMARKS[remark]
    yield from _widest(program, found)
    yield from _labels(program, found)


def _widest(program: Program, found: Followed) -> Iterator[Told]:
    trained = {at: units for at, units in found.units.items() if program.gradients[at] is not None}
    if trained:
        at = max(trained, key=lambda place: trained[place])
        text = "units: of a step with fewer rows, single rows can be computed from its gradient"
        yield "note", quoted(program.parameters[at].names[0]), f"the widest layer has {trained[at]} {text}"


def _labels(program: Program, found: Followed) -> Iterator[Told]:
    """The gradient of the last layer's bias is the mean of what the model expects of each class less what came."""
    if not any(line.op.startswith(_LOSSES_OF_CLASSES) for line in program.lines):
        return
    layers = {program.parameters[at].names[0]: units for at, units in found.units.items()}
    vectors = [
        held.names[0]
        for held, gradient in zip(program.parameters, program.gradients, strict=True)
        if gradient is not None and held.shape == (layers.get(held.names[0].removesuffix("bias") + "weight"),)
    ]
    if vectors:
        text = "as a last layer's bias, its gradient shows how many rows of a step have each label"
        yield "note", quoted(vectors[-1]), text
