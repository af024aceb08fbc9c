"""A data set's privacy budget: the epsilon and delta that its owner allows, whoever asks and under whatever charter.

What was spent is in the node's records, where a round counts from the consent to its cohort on, and no longer once all
its cohorts are void. The accountant is ``cloister.accounting``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cloister.accounting.accountant import Spent, epsilon
from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import ConfigurationError, MissingDependencyError, RoundError
from cloister.ledger.records import Noised


def cost(rounds: Iterable[Noised], *, delta: float) -> float:
    """The epsilon at ``delta`` of all these rounds together, for each record that may have been in them.

    Raises:
        ConfigurationError: more rounds than are counted. MissingDependencyError: dp-accounting is not installed.
    """
    counts = Counter((_for_a_record(each), each.rate) for each in rounds)
    return epsilon([Spent(multiplier, rate, times) for (multiplier, rate), times in counts.items()], delta=delta)


def _for_a_record(noise: Noised) -> float:
    """The multiplier as it is for one record. Noise that hides an owner is for a contribution in whose place there
    might be zeros; one record more or less may turn it to the other side, which is twice as far."""
    return noise.multiplier if noise.unit == "record" else noise.multiplier / 2


def check_privacy(data: str, *, budget: PrivacyBudget, before: Iterable[Noised | None], noise: Noised | None) -> None:
    """Checks that a data set's budget allows one more round with this noise after those before it.

    Raises:
        RoundError: it does not, or it cannot be computed whether it does.
    """
    rounds = [*before, noise]
    noisy = [each for each in rounds if each is not None]
    if len(noisy) < len(rounds):
        which = (
            "this round has no noise" if noise is None else "rounds without noise were released of it, or still may be"
        )
        raise RoundError(
            f"the data set {data!r} has a budget of epsilon {budget.epsilon:g}, and {which}, which no epsilon bounds."
            " Its owner can take the budget out of the node's configuration, or leave out this study"
        )
    try:
        needed = cost(noisy, delta=budget.delta)
    except (ConfigurationError, MissingDependencyError) as fault:
        raise RoundError(f"the data set {data!r} has a budget of epsilon {budget.epsilon:g}: {fault}") from None
    if not needed <= budget.epsilon:
        raise RoundError(
            f"the data set {data!r} would have spent epsilon {needed:.6g} at delta {budget.delta:g}, and its owner"
            f" allows {budget.epsilon:g}: its rounds of all studies count"
        )
