"""The events that an aggregator is told of, and the effects that it asks for. A member is its key's fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from cloister.aggregator.bodies import Body
from cloister.wire.fields import Message

# Events.


@dataclass(frozen=True, slots=True)
class Joined:
    """A member's connection was welcomed. It has none already."""

    member: str


@dataclass(frozen=True, slots=True)
class Left:
    """A member's connection has ended."""

    member: str


@dataclass(frozen=True, slots=True)
class Said:
    """A member's message has arrived, and its body, in what ``AggregatorProtocol.expect`` gave for it."""

    member: str
    message: Any
    """One of ``cloister.wire.rounds``."""
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment that ``AggregatorProtocol.due`` named has come. At any other moment it is harmless."""


Event: TypeAlias = Joined | Left | Said | Tick

# Effects.


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message. Its body is ``bodies``: flat views of bytes that do not change any more."""

    member: str
    message: Message
    bodies: tuple[memoryview, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """End a member's connection, once the messages before this one were sent, and say why. The member has left then."""

    member: str
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line for whoever operates the aggregator. It holds no values."""

    text: str


Effect: TypeAlias = Tell | Drop | Note
