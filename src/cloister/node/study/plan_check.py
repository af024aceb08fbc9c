"""Whether a job's plan is one that the charter's owners run, beyond being named: proved to take all rows alike."""

from __future__ import annotations

from cloister.charter.charter import Charter
from cloister.errors import JobError, PlanError
from cloister.plans.look import look
from cloister.tensor.plan import encoding


def check_proven(charter: Charter, plan: bytes) -> None:
    """Looks at a job's encoded plan, where the charter wants it proved.

    Raises:
        JobError: it is no plan, or it is not proved that every result of it takes all rows alike; the message says what
            stands against it.
    """
    if not charter.limits.proven_plans:
        return
    try:
        found = look(encoding.decode(plan))
    except PlanError as fault:
        raise JobError(f"the job's plan cannot be looked at: {fault}") from None
    if not found.averages:
        first = next(iter(found.findings), None)
        against = "" if first is None else f": {first.where}: {first.text}"
        raise JobError(
            "the charter wants plans of which it is proved that every result takes all rows alike, and of the job's"
            f" plan it is not{against}"
        )
