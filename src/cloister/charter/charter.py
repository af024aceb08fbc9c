"""The charter: who works together, which software may see their contributions, and what may leave it.

``charter.toml`` is for people; ``Charter`` is the same as a value, and its digest is what members sign and evidence is
bound to. docs/charter.md is the reference of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import cbor2
import msgspec
from msgspec import Meta

from cloister.attest.reference import Entry, Reference
from cloister.charter.jobs import AgreedJob
from cloister.errors import CharterError
from cloister.models.recipe import TENSORS, Drawn


def check_valid(charter: Charter, *, now: datetime) -> None:
    """Checks that a charter is valid at ``now``, a time with its offset.

    Raises:
        CharterError: not yet, or no longer.
    """
    if now < charter.not_before:
        raise CharterError(
            f"the charter {charter.name!r} is valid from {charter.not_before:%Y-%m-%d %H:%M} UTC on:"
            " is this clock right?"
        )
    if now > charter.not_after:
        raise CharterError(
            f"the charter {charter.name!r} was valid until {charter.not_after:%Y-%m-%d %H:%M} UTC: it needs a successor"
        )


FORMAT: Final = "cloister charter 4"
_DRAWN: Final = "cloister charter 4, to draw its first model"
DIGEST_BYTES: Final = 32
MEMBERS: Final = 256
MIN_BATCH: Final = 32
"""The least rows behind a step, unless a charter says another number."""
MIN_ROWS: Final = 96
"""Likewise those that count in a round."""
LEAST_MULTIPLIER: Final = 0.01
MULTIPLIER: Final = 1024.0
"""The least noise, as a multiple of what it hides, and the most. The least hides nothing: it is for trying."""
DELTA: Final = 0.01
"""The greatest delta: it is about the probability that a record is told all the same."""
COUNT: Final = (1 << 53) - 1
"""The greatest number of rounds, of examples, and the greatest serial."""

Role = Literal["owner", "researcher", "auditor"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
Unit = Literal["record", "owner"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
Digest: TypeAlias = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=COUNT)]
Floor: TypeAlias = Annotated[int, Meta(ge=2, le=MEMBERS)]
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
Multiplier: TypeAlias = Annotated[float, Meta(gt=LEAST_MULTIPLIER, le=MULTIPLIER)]
Delta: TypeAlias = Annotated[float, Meta(gt=0, le=DELTA)]
Batch: TypeAlias = Annotated[int, Meta(ge=16, le=COUNT)]
Rows: TypeAlias = Annotated[int, Meta(ge=32, le=COUNT)]
Days: TypeAlias = Annotated[int, Meta(ge=0, le=3650)]
Buckets: TypeAlias = Annotated[tuple[Count, ...], Meta(max_length=64)]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An organisation: one name, one role, one key."""

    name: str
    role: Role
    key: str
    """The fingerprint of its identity: ``sha256:`` and 64 hexadecimal digits."""
    id: str
    """The fingerprint of its first key, by which it is known when it has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What is added to every aggregate before it is released, once for all its members: discrete Gaussian noise
    (Canonne, Kamath, Steinke: "The Discrete Gaussian for Differential Privacy", NeurIPS 2020)."""

    unit: Unit
    """Whose part in an aggregate it hides: that of one record, or of one owner."""
    multiplier: Multiplier
    """Its standard deviation, as a multiple of the most that one such part can be."""
    delta: Delta
    """The delta of the epsilon that a study is told to cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that may be released beside a model, and the range that members' values are clipped to."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may leave the aggregator."""

    floor: Floor
    """The least members in an aggregate."""
    largest_share: Share
    """The greatest weight of one member in an aggregate; above 0, at most 1."""
    clip: Positive
    """The greatest Euclidean norm of one contribution's parameters; where noise hides records, of one's gradient."""
    clip_buffers: Positive | None
    """The same for its buffers; None where no model with buffers may be trained."""
    noise: Noise | None
    rounds: Count
    """How many aggregates may be released in all."""
    min_examples: Count
    """The least examples behind one contribution."""
    min_batch: Batch
    """The least rows behind one step of it."""
    min_rows: Rows
    """The least rows that count in a contribution (``job_bounds.rows_that_count``)."""
    row_buckets: Buckets
    """What an owner's rows are told as: the greatest of these, and of ``min_examples``, that is not above them."""
    proven_plans: bool
    """Whether owners' nodes run only plans of which it is proved that every result takes all rows alike."""
    first_model: Digest | None
    """SHA-256 of the model that the first round starts from; None where there is no job."""
    first_model_file: Digest | None
    """SHA-256 of the published file (safetensors) that it is in; None where it is in none."""
    metrics: tuple[Metric, ...]
    interactive: bool
    """Whether researchers may compute with contributions one operation after another, without clip and noise."""
    lost_key_days: Days
    """How long nodes wait before they follow a successor that an owner's key did not sign; 0: they do not."""

    @property
    def hides(self) -> Unit | None:
        """Whose part in an aggregate noise hides; None where there is none."""
        return None if self.noise is None else self.noise.unit


@dataclass(frozen=True, kw_only=True)
class Charter:
    """A charter without faults. What has no order in the file (members, software, addresses, ...) is sorted here."""

    name: str
    serial: Count
    """1 for the first; a successor has a greater one."""
    supersedes: Digest | None
    """The predecessor's digest; None for the first."""
    not_before: datetime
    not_after: datetime
    members: tuple[Member, ...]
    addresses: tuple[str, ...]
    """Where aggregators may be, each ``host:port``."""
    reference: Reference
    """Which software on which TEE they may be."""
    limits: Limits
    jobs: tuple[AgreedJob, ...]
    """What may be computed in rounds, in the order of the names."""
    recipe: Annotated[tuple[Drawn, ...], Meta(max_length=TENSORS)]
    """What the first model is drawn from, tensor by tensor; nothing where somebody chose its values."""

    @property
    def encoded(self) -> bytes:
        """The deterministic CBOR (RFC 8949, section 4.2.1) of the format's name and the content.

        ``cloister.charter.encoding.decode`` reads it.
        """
        return cbor2.dumps([FORMAT, content(self)], canonical=True)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of ``encoded``, 32 bytes.

        Layout, comments and the order of keys and lists in the file do not matter to it.
        """
        return hashlib.sha256(self.encoded).digest()

    @cached_property
    def drawn_with(self) -> bytes:
        """The digest that the first model is drawn with, 32 bytes: of everything but the model's own digest, so that
        nobody knows its values before all else stands."""
        others = content(self)
        others["limits"]["first_model"] = None
        return hashlib.sha256(cbor2.dumps([_DRAWN, others], canonical=True)).digest()

    @property
    def interactive(self) -> bool:
        """Whether the aggregator takes a researcher's operations one by one."""
        return self.limits.interactive

    @property
    def quorum(self) -> int:
        """How many owners decide where not all can be asked (docs/adr/0010): more than half, never less than the floor.

        Any two quorums have at least ``floor - 1`` owners in common, so at least one honest owner where up to
        ``floor - 2`` are not.
        """
        return (len(self.owners) + self.limits.floor) // 2

    @property
    def owners(self) -> tuple[Member, ...]:
        """The members that contribute."""
        return self._with("owner")

    @property
    def researchers(self) -> tuple[Member, ...]:
        """The members that may submit jobs."""
        return self._with("researcher")

    @property
    def auditors(self) -> tuple[Member, ...]:
        """The members that may look."""
        return self._with("auditor")

    def member(self, key: str) -> Member | None:
        """The member with that fingerprint, if there is one."""
        return next((member for member in self.members if member.key == key), None)

    def job(self, name: str) -> AgreedJob | None:
        """The job of that name, if there is one."""
        return next((job for job in self.jobs if job.name == name), None)

    def _with(self, role: Role) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.role == role)


def content(value: Any) -> Any:
    """A value of a charter as plain CBOR, the same for all ways of writing it down.

    Dataclasses become maps by their fields' names (a reference's entries with their ``tee``), what is declared as on
    the wire (an optimizer, a strategy) the array that it is there, sets sorted arrays, and times whole microseconds:
    since 1970-01-01 UTC for a moment, in all for a duration.
    """
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: content(getattr(value, field.name)) for field in fields(value)}
        return {"tee": value.tee, **told} if isinstance(value, Entry) else told
    match value:
        case msgspec.Struct():
            return content(msgspec.to_builtins(value))
        case Mapping():
            return {key: content(item) for key, item in value.items()}
        case frozenset():
            return sorted(value)
        case tuple() | list():
            return [content(item) for item in value]
        case datetime():
            return (value - EPOCH) // timedelta(microseconds=1)
        case timedelta():
            return value // timedelta(microseconds=1)
        case _:
            return value
