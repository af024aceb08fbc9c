"""Whether a plan's loss of several rows is made of what each row comes to alone.

Where noise hides single records, each record's gradient is computed by itself. A plan that mixes the rows of a batch (a
mean over it that is subtracted, weights that are normalised over it) is then another one: nobody is told anything by
that, but the model learns little, and nothing says why. So it is tried beforehand, by whoever has the model, on a few
made-up rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from cloister.errors import PlanError
from cloister.tensor.geometry import DTYPES
from cloister.worker.plans import Plan

_ROWS: Final = 4
_DOUBT: Final = 1e-3
"""By how much rounding may change a gradient, relatively."""


def check_rows_apart(plan: Plan, *, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Checks that a batch's gradient is the mean of its rows' gradients, or their sum. What draws random numbers, or
    cannot be run on made-up rows, is not judged.

    Raises:
        PlanError: it is neither.
    """
    held = {name: each.detach() for name, each in parameters.items()}
    batch = _made_up(plan)
    try:
        whole, again = (_gradient(plan, held, buffers, batch, seed=seed) for seed in (0, 1))
        alone = [_gradient(plan, held, buffers, [each[at : at + 1] for each in batch], seed=0) for at in range(_ROWS)]
    except PlanError:
        return
    if not whole.isfinite().all() or not torch.equal(whole, again):
        return
    total = torch.stack(alone).sum(0)
    if not any(_close(whole, total * share) for share in (1 / _ROWS, 1.0)):
        raise PlanError(
            "the loss of a row depends on the others in its batch, and here each row's gradient is computed alone: take"
            " out what mixes rows, such as a mean over the batch that is subtracted, or weights that add up to 1 in it"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= _DOUBT * torch.maximum(one.norm(), other.norm()))


def _gradient(
    plan: Plan, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Sequence[Tensor], *, seed: int
) -> Tensor:
    found = plan.step(parameters, buffers, batch, seed=seed).gradients
    return torch.cat([found[name].flatten().double() for name in sorted(found)])


def _made_up(plan: Plan) -> list[Tensor]:
    """Rows between 0 and 1: of columns of any kind, labels and probabilities among them."""
    chance = torch.Generator().manual_seed(0)
    return [
        (
            torch.rand(_ROWS, *each.row, generator=chance)
            if DTYPES[each.dtype].is_floating_point
            else torch.randint(2, (_ROWS, *each.row), generator=chance)
        ).to(DTYPES[each.dtype])
        for each in plan.program.batch
    ]
