"""Plans with the worker's checks: whoever runs one comes by here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from cloister.errors import ConfigurationError
from cloister.tensor.ops import Op
from cloister.tensor.plan import safety
from cloister.tensor.plan.capture import PlannedLoss, plan
from cloister.tensor.plan.plan import Plan
from cloister.tensor.plan.replay import Outcome
from cloister.worker import call_checks, guards, uninitialised
from cloister.worker.seeding import seeded

__all__ = ["Outcome", "Plan", "PlannedLoss", "plan"]


def check_plan(found: object) -> None:
    """Refuses what is no plan.

    Raises:
        ConfigurationError: the message says what to give.
    """
    if isinstance(found, Plan):
        return
    what = "a function" if callable(found) else f"a {type(found).__name__}"
    raise ConfigurationError(
        f"{what} stands where a plan is wanted; give {getattr(found, '__name__', 'loss')}.capture(model, example=...)"
    )


class _Careful:
    """What the executor does around each operation, for the operations of a plan."""

    def check_form(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        call_checks.check(op, args, kwargs)

    def check_values(self, op: Op, named: Mapping[str, object]) -> None:
        guards.check(op.name, named)

    def leaves_gaps(self, op: Op) -> bool:
        return op.zero_fill or op.name in uninitialised.LEAVE_GAPS

    def close_gaps(self, op: Op, named: Mapping[str, object], returned: Any) -> None:
        if op.name in uninitialised.LEAVE_GAPS:
            uninitialised.close(op.name, named, returned)
        elif op.zero_fill:
            uninitialised.zero(returned)

    def seeded(self, seed: int, device: torch.device) -> AbstractContextManager[None]:
        return seeded(seed, device)


safety.install(_Careful())
