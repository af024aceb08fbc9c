"""What befalls the processes of a study, round by round: a function of a seed, so that it can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Deed = Literal["kill", "end", "stop", "cut"]
AGGREGATOR: Final = "aggregator"
RESEARCHER: Final = "researcher"
AGGREGATOR_SPELL: Final = 200
"""In the second half of so many rounds the aggregator is not killed, so that it is seen whether it grows."""


@dataclass(frozen=True)
class Blow:
    """``deed`` happens to ``who``, ``after_s`` seconds after ``round`` rounds of the job are released; ``lasts_s``
    later, or ``lasts_rounds`` rounds later, what was killed or ended is started again, and what was stopped goes on."""

    round: int
    after_s: float
    deed: Deed
    who: tuple[str, ...]
    lasts_s: float
    lasts_rounds: int
    kind: str


def planned(
    seed: int, *, rounds: int, owners: Sequence[str], spared: str, rate: float, silence_s: tuple[float, float]
) -> list[Blow]:
    """The blows of a run, in their order.

    Args:
        spared: an owner that is never killed or ended: it is cut off and stopped, and shows whether a node grows.
        rate: the part of all rounds after which something happens.
        silence_s: a stop's shortest and longest time, in seconds.
    """
    drawn = random.Random(seed)  # noqa: S311 - no secret
    others = [name for name in owners if name != spared]
    found = []
    for number in range(1, rounds):
        if drawn.random() < rate:
            found.append(_blow(drawn, number, owners=owners, others=others, silence_s=silence_s))
    return found


class _Kind(NamedTuple):
    weight: int
    deed: Deed
    who: str
    lasts: Literal["short", "shorter", "silence", "rounds", "not"]


_KINDS: Final[dict[str, _Kind]] = {
    "kill an owner": _Kind(6, "kill", "one", "short"),
    "kill two owners": _Kind(2, "kill", "two", "short"),
    "kill the aggregator": _Kind(3, "kill", AGGREGATOR, "shorter"),
    "kill the aggregator and owners": _Kind(1, "kill", "nearly all", "shorter"),
    "kill the researcher": _Kind(2, "kill", RESEARCHER, "short"),
    "an owner leaves for rounds": _Kind(2, "end", "one", "rounds"),
    "an owner dies for rounds": _Kind(2, "kill", "one", "rounds"),
    "stop an owner": _Kind(3, "stop", "any", "silence"),
    "stop the aggregator": _Kind(1, "stop", AGGREGATOR, "short"),
    "cut an owner off": _Kind(6, "cut", "any", "not"),
    "cut the researcher off": _Kind(2, "cut", RESEARCHER, "not"),
    "cut all off": _Kind(1, "cut", "all", "not"),
}


def _blow(
    drawn: random.Random, number: int, *, owners: Sequence[str], others: Sequence[str], silence_s: tuple[float, float]
) -> Blow:
    kinds = _KINDS
    if number % AGGREGATOR_SPELL >= AGGREGATOR_SPELL // 2:
        kinds = {kind: each for kind, each in kinds.items() if not (each.deed == "kill" and "aggregator" in kind)}
    (kind,) = drawn.choices(list(kinds), [each.weight for each in kinds.values()])
    who = {
        "one": (drawn.choice(others),),
        "two": tuple(drawn.sample(others, 2)),
        "any": (drawn.choice(owners),),
        "nearly all": (AGGREGATOR, *others),
        "all": (*owners, RESEARCHER),
        AGGREGATOR: (AGGREGATOR,),
        RESEARCHER: (RESEARCHER,),
    }
    times = {
        "short": drawn.uniform(0.0, 1.5),
        "shorter": drawn.uniform(0.0, 0.4),
        "silence": drawn.uniform(*silence_s),
        "rounds": 0.0,
        "not": 0.0,
    }
    lasts_rounds = drawn.randint(3, 15)
    chosen = kinds[kind]
    return Blow(
        number,
        drawn.choice((0.0, drawn.uniform(0.0, 0.4))),  # between rounds, or within the next
        chosen.deed,
        who[chosen.who],
        times[chosen.lasts],
        lasts_rounds if chosen.lasts == "rounds" else 0,
        kind,
    )
