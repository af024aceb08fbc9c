"""What an owner computes in a round that protects single records: the sum of some records' clipped gradients.

This is a step of DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, Algorithm 1) up to its
noise, which is added once for all owners, where their sums meet. Each record is drawn by itself (``data.poisson``),
its gradient computed alone (``record_gradients``), scaled down to the clip where it is longer, and put on a grid of
whole numbers (``wire.fixed_point``). The sum is one of whole numbers, and so exact.

What is promised of two data sets that differ in one record, which in one of them counts as zeros: with the same draw,
their sums differ by an L2 norm of ``UNITS`` at most. (Kairouz et al., "Practical and Private (Deep) Learning without
Sampling or Shuffling", ICML 2021, call them neighbours by zeroing out; how many rows a data set has is no secret.) It
takes three things:

* What one record adds is at most ``UNITS`` long. It is clipped a little shorter, so that rounding does not make it
  longer, and measured again in whole numbers; what is too long then, or not finite, counts as zeros.
* What the others add stays the same, to the bit, whatever the record is: it has its place in the batch whether it
  counts or not, and what cannot be computed is no error. So no message and no missing answer tells of a record. (On a
  GPU this takes ``torch.use_deterministic_algorithms``: some of its kernels add up in the order of their threads.)
* What does not fit the sum's element type is the nearest value that does, value by value, which brings no two sums
  further apart.

How long a round takes does not depend on how many records were drawn: as many are read and computed each time. It does
depend a little on numbers that processors are slow with, and grows where a record cannot be computed; whoever must not
learn that is answered at fixed times.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from cloister.errors import ConfigurationError
from cloister.tensor.geometry import DTYPES
from cloister.wire.fixed_point import SUM_TYPE, UNITS
from cloister.wire.layout import Layout
from cloister.wire.sessions import STEP
from cloister.worker.data.batches import Batches
from cloister.worker.data.converted import fitted
from cloister.worker.data.poisson import Draw, check_rate, draw
from cloister.worker.fitting import check_tensors, columns_of
from cloister.worker.flatten import SMALLEST_NORM
from cloister.worker.plans import Plan
from cloister.worker.record_gradients import RecordGradients
from cloister.worker.training import unheard
from cloister.worker.values import spec_of

_STEPS: Final = b"cloister steps of records 1\0"
_BLOCK: Final = 1 << 17
"""Values that are put on the grid at a time, so that they stay in a core's cache: whole records, and at least one."""
_LARGEST: Final = torch.iinfo(DTYPES[SUM_TYPE]).max


class Summed(NamedTuple):
    """``sums`` is a vector in the order of a layout, of ``SUM_TYPE`` and on the CPU. ``left_out`` is how many of the
    drawn records count as zeros because their gradients could not be computed: it is for their owner alone."""

    sums: Tensor
    left_out: int


class RecordSums:
    """Sums the clipped gradients of records, for one data set after the other and one step of all owners.

    ``gradients`` says how many records are computed at a time.

    Args:
        parameters, buffers: by name, as ``dict(model.named_parameters())`` gives them; nobody may change them
            meanwhile.
        layout: where each tensor stands in the sums.
        clip: the L2 norm of all that is trained, to which longer gradients are scaled down; a unit of the sums is
            ``clip / UNITS``.
        rate: the probability with which each record is drawn.
        at_once: how many records are computed at a time, at most.
        memory_bytes: what they may take.

    Raises:
        ConfigurationError: numbers out of range, a layout that lacks what is trained, nothing that is trained, or so
            much that rounding would take half of the clip.
        PlanError: tensors that do not fit the plan; a batch of one row does not fit it or takes more than
            ``memory_bytes``; or its steps write buffers, as BatchNorm's do.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        layout: Layout,
        clip: float,
        rate: float,
        at_once: int,
        memory_bytes: int,
    ) -> None:
        _check_numbers(clip, at_once)
        check_rate(rate)
        check_tensors(plan, parameters, buffers)
        trained = {name: parameters[name] for name in _trained(plan)}
        _check_layout(layout, trained)
        self._places = [place for place in layout.places if place.name in trained]
        self.gradients: Final = RecordGradients(
            plan,
            parameters=parameters,
            buffers=buffers,
            names=[place.name for place in self._places],
            at_once=at_once,
            memory_bytes=memory_bytes,
        )
        longest(self.gradients.length)
        self._expected = columns_of(plan)
        self._layout, self._clip, self._rate = layout, clip, rate

    def run(self, data: Batches, *, key: bytes, most_rows: int, begin: Callable[[str], None] = unheard) -> Summed:
        """The sum of the negative clipped gradients of the records that are drawn from one data set.

        A pure function of the data set, the tensors and the numbers, on the same machine with as many threads. What
        stands in the sums for tensors that are not trained is 0.

        Args:
            key: 32 secret bytes of this data set's owner for this round: see ``data.poisson.draw``. All that is random
                in the computation of gradients comes from them too.
            most_rows: rows that are computed at most. Whether it is enough for ``rate`` times the data set's rows is
                for the caller to see to.
            begin: is told of each batch before it is computed.

        Raises:
            ConfigurationError: a key or ``most_rows`` that cannot be used.
            DataSetError: the data set's columns do not fit the plan, or its file is damaged.
        """
        chosen = draw(len(data), rate=self._rate, key=key, most=most_rows)
        seed = int.from_bytes(hmac.digest(key, _STEPS, "sha256")[:8], "big")
        return self.over(data, chosen, seed=seed, begin=begin)

    def over(self, data: Batches, chosen: Draw, *, seed: int, begin: Callable[[str], None] = unheard) -> Summed:
        """The same for a draw that was made; ``seed`` (0 to 2^64 - 1) decides all else that is random.

        Raises:
            DataSetError: as ``run``.
        """
        data = fitted(data, expected=self._expected)
        drawn = torch.from_numpy(chosen.drawn).to(self.gradients.device)
        # Whole numbers, which float64 adds exactly: 2^53 units are more than any data set's.
        total = torch.zeros(self.gradients.length, dtype=torch.float64, device=drawn.device)
        first = counted = 0
        for batch in data.picked(chosen.rows, batch_size=self.gradients.at_once):
            begin(STEP)
            here = [each.to(drawn.device) for each in batch]
            found = self.gradients.of(here, seed=seed, first=first)
            for part in torch.split(found, max(1, _BLOCK // self.gradients.length)):
                units = on_grid(part, clip=self._clip)
                counts = within(units) & drawn[first : first + len(part)]
                total += units.masked_fill_(~counts[:, None], 0).sum(0)
                counted += int(counts.sum())
                first += len(part)
        return Summed(self._laid_out(-total), int(drawn.sum()) - counted)

    def _laid_out(self, total: Tensor) -> Tensor:
        sums = torch.zeros(self._layout.length, dtype=DTYPES[SUM_TYPE])
        start = 0
        for place in self._places:
            stop = start + place.spec.count()
            sums[place.start : place.stop] = total[start:stop].clamp(-_LARGEST, _LARGEST)
            start = stop
        return sums


def longest(length: int) -> float:
    """The L2 norm, in units, to which a gradient of ``length`` values is clipped before it is rounded.

    Rounding moves each value by half a unit at most, and so a vector by half the root of ``length``: the norm after it
    is at most the sum of the two (the triangle inequality). One unit more is for the rounding of float64 on the way,
    which is below 2^-20 relative to the norm for all lengths that are taken.

    Raises:
        ConfigurationError: nothing is left for a gradient, or less than half of the clip.
    """
    if not 0 < length <= UNITS**2:
        raise ConfigurationError(
            f"the model has {length:,} values that are trained, and records can be protected for 1 to {UNITS**2:,}; "
            "train fewer, or more, of its layers"
        )
    return UNITS - math.sqrt(length) / 2 - 1


def on_grid(gradients: Tensor, *, clip: float) -> Tensor:
    """Gradients of shape ``(records, length)``, clipped and in whole units, in float64; NaN where they are not finite.

    The largest value is taken out first, so that no square overflows or vanishes.
    """
    vectors = gradients.double()
    largest = vectors.abs().amax(1, keepdim=True)
    shapes: Tensor = vectors / largest.where(largest != 0, 1)
    norms = torch.linalg.vector_norm(shapes, dim=1, keepdim=True)
    scales = torch.minimum(largest * (UNITS / clip), longest(gradients.shape[1]) / norms)
    return shapes.mul_(scales).round_()


def within(units: Tensor) -> Tensor:
    """Of which records the values, in whole units, have an L2 norm of at most ``UNITS``. NaN is of none.

    It is exact in float64, of which each sum of squares is one of whole numbers: those up to 2^53 are sums without any
    rounding, and those above are rounded to no less than that.
    """
    return units.square().sum(1) <= UNITS**2


def _trained(plan: Plan) -> list[str]:
    pairs = zip(plan.program.parameters, plan.program.gradients, strict=True)
    return [each.names[0] for each, gradient in pairs if gradient is not None]


def _check_layout(layout: Layout, trained: Mapping[str, Tensor]) -> None:
    specs = {place.name: place.spec for place in layout.places}
    for name, each in trained.items():
        if specs.get(name) != spec_of(each):
            raise ConfigurationError(
                f"the layout has no place for the parameter {name!r}, {spec_of(each)}; give that of the plan's model"
            )


def _check_numbers(clip: float, at_once: int) -> None:
    if not (math.isfinite(clip) and clip >= SMALLEST_NORM):
        raise ConfigurationError(f"clip is {clip}; it is a norm of at least {SMALLEST_NORM}")
    if at_once < 1:
        raise ConfigurationError(f"at_once is {at_once}; at least 1 record is computed at a time")
