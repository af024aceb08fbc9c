"""The tables that an aggregator goes by: which member may send which message when, and which phase may follow.

``AggregatorProtocol`` holds each message against ``MESSAGES`` before anything else looks at it, and ``RoundMachine``
takes no step that is not in ``FOLLOWING``. docs/protocol.md is made from both, and says what comes of each message.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from cloister.charter.charter import Role
from cloister.errors import RoundError
from cloister.wire.fields import Message
from cloister.wire.rounds import Chain, Commit, Consent, Contribution, Declined, Join, Ready, Resubmitted, Stop, Submit


class Standing(StrEnum):
    """The stages of a member's connection."""

    CONNECTED = "connected"
    """It has proved its key, and has said nothing."""
    JOINED = "joined"
    """It has said how far its records go. It hands over those that are new here, or is given those that it lacks."""
    UP_TO_DATE = "up to date"
    """It has all records that the aggregator has."""


class Phase(StrEnum):
    """The stages of a round. There is one round at a time."""

    BETWEEN = "between rounds"
    TRAINING = "training"
    COLLECTING = "collecting"
    COMMITTING = "committing"


class Row(NamedTuple):
    """The roles that may send a message, and the times when they may."""

    roles: tuple[Role, ...]
    standings: tuple[Standing, ...]
    phases: tuple[Phase, ...]
    otherwise: str
    """The refusal at another standing, or in another phase; ``{round}`` is the message's."""
    passed_over: bool = False
    """Whether it is passed over if it is about the newest released round: it crossed the release on its way."""

    def refusal(self, message: Message) -> RoundError:
        """The error for a message that comes at the wrong time."""
        return RoundError(self.otherwise.format(round=getattr(message, "round", 0)))


_ANYBODY: Final[tuple[Role, ...]] = ("owner", "researcher", "auditor")
_CONNECTED, _JOINED, _UP_TO_DATE = Standing
_AT_ANY_TIME: Final = tuple(Phase)
_ROUND: Final = (Phase.TRAINING, Phase.COLLECTING, Phase.COMMITTING)
_FIRST: Final = "a member joins, and is given the newest records, before it says anything else"

MESSAGES: Final[Mapping[type[Message], Row]] = {
    Join: Row(_ANYBODY, (_CONNECTED,), _AT_ANY_TIME, "a member joins once on a connection"),
    Chain: Row(_ANYBODY, (_JOINED, _UP_TO_DATE), _AT_ANY_TIME, _FIRST),
    Submit: Row(("researcher",), (_JOINED, _UP_TO_DATE), _AT_ANY_TIME, _FIRST),
    Resubmitted: Row(("owner",), (_UP_TO_DATE,), _AT_ANY_TIME, _FIRST),
    Stop: Row(("researcher",), (_UP_TO_DATE,), _AT_ANY_TIME, _FIRST),
    Ready: Row(
        ("owner",),
        (_UP_TO_DATE,),
        (Phase.TRAINING,),
        "too late: round {round} does not wait for owners to train",
    ),
    Contribution: Row(
        ("owner",),
        (_UP_TO_DATE,),
        (Phase.COLLECTING,),
        "too late: nothing of it was used in round {round}",
    ),
    Declined: Row(("owner",), (_UP_TO_DATE,), _ROUND, "round {round} is not under way", passed_over=True),
    Consent: Row(
        ("owner",),
        (_UP_TO_DATE,),
        (Phase.COLLECTING,),
        "too late: nobody waits for consents in round {round}",
        passed_over=True,
    ),
    Commit: Row(
        ("owner",),
        (_UP_TO_DATE,),
        (Phase.COMMITTING,),
        "too late: nobody waits for commits of round {round}",
        passed_over=True,
    ),
}

FOLLOWING: Final[Mapping[Phase, tuple[Phase, ...]]] = {
    Phase.BETWEEN: (Phase.TRAINING, Phase.COMMITTING),
    Phase.TRAINING: (Phase.COLLECTING, Phase.BETWEEN),
    Phase.COLLECTING: (Phase.COMMITTING, Phase.BETWEEN),
    Phase.COMMITTING: (Phase.BETWEEN,),
}
"""The phases that may follow each phase. A void round ends; a round is released once it was committed.
One that was given up while it was committed may be taken up again."""


def check(message: Message, *, role: Role, standing: Standing, phase: Phase) -> None:
    """Checks that a member may send this now.

    Raises:
        RoundError: it may not, and nothing came of the message.
    """
    row = MESSAGES.get(type(message))
    if row is None:
        raise RoundError(f"{type(message).__name__} is not a member's to say")
    if role not in row.roles:
        raise RoundError(f"{type(message).__name__} is not said by a member of its role")
    if standing not in row.standings:
        raise RoundError(row.otherwise if row.phases == _AT_ANY_TIME else _FIRST)
    if phase not in row.phases:
        raise row.refusal(message)
