"""A charter in plain words: for the page of a verdict, and for ``cloister charter show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import asdict

from cloister.attest import verdict
from cloister.attest.reference import DcapFloor, Entry
from cloister.attest.tcb import SnpTcb
from cloister.charter.charter import Charter, Limits, Member, Metric, Noise
from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.charter.warnings import warnings_of
from cloister.models.recipe import Drawn
from cloister.wire.text import exact, quoted


def rules(charter: Charter) -> verdict.Rules:
    """What a reader of a verdict needs to know of a charter."""
    return verdict.Rules(
        name=shown(charter.name),
        serial=charter.serial,
        digest=charter.digest,
        floor=charter.limits.floor,
        members=tuple(
            verdict.Member(name=shown(member.name), role=member.role, key=member.key) for member in charter.members
        ),
        limits=limits(charter.limits),
        warnings=tuple(warnings_of(charter)),
    )


def heading(charter: Charter) -> Iterator[tuple[str, str]]:
    """What a charter is called, what it follows, and how long it is valid, to the microsecond that is signed."""
    yield "charter", f"{shown(charter.name)}, serial {charter.serial}"
    yield "digest", charter.digest.hex()
    yield "valid", f"{_moment(charter.not_before)} to {_moment(charter.not_after)} UTC"
    if charter.supersedes is not None:
        yield "supersedes", charter.supersedes.hex()


def member(member: Member) -> str:
    """A member by its name and key, and by its id where that is another."""
    known = "" if member.id == member.key else f", known by the id of an older key: {member.id}"
    return f"{shown(member.name)}, {member.key}{known}"


def software(entry: Entry) -> Iterator[tuple[str, str]]:
    """What an entry of the reference accepts: each of its fields, and a phrase."""
    for field in fields(entry):
        value = getattr(entry, field.name)
        if isinstance(value, DcapFloor):
            yield from ((each.name, _told(getattr(value, each.name))) for each in fields(value))
        elif field.name == "min_tcb":
            yield from ((f"min_tcb.{product}", _components(floor)) for product, floor in value.items())
        else:
            yield field.name, _told(value)


def _told(value: object) -> str:
    match value:
        case bytes():
            return value.hex()
        case frozenset():
            return ", ".join(sorted(map(_told, value))) or "none"
        case bool():
            return "yes" if value else "no"
        case timedelta():
            return f"{exact(value / timedelta(days=1))} d"
        case str():
            return shown(value)
        case None:
            return "none"
        case _:
            return str(value)


def _moment(moment: datetime) -> str:
    whole = moment.second == moment.microsecond == 0
    return f"{moment:%Y-%m-%d %H:%M}" if whole else moment.replace(tzinfo=None).isoformat(sep=" ")


def _components(floor: SnpTcb) -> str:
    told = ((each.name, getattr(floor, each.name)) for each in fields(floor))
    return ", ".join(f"{name} {least}" for name, least in told if least is not None)


def limits(limits: Limits) -> Mapping[str, str]:
    """The limits of release, each as a phrase."""
    noise = limits.noise
    return {
        "floor": f"at least {limits.floor} members in an aggregate",
        "largest_share": f"at most {exact(limits.largest_share)} of an aggregate from one member",
        "clip": f"the norm of {_clipped(limits)} is at most {exact(limits.clip)}",
        "clip_buffers": _buffers(limits),
        "noise": "none" if noise is None else _noise(noise),
        "rounds": f"at most {limits.rounds}",
        "min_examples": f"at least {limits.min_examples} behind a contribution",
        "min_batch": f"at least {limits.min_batch} rows behind each step{_not_drawn(limits)}",
        "min_rows": f"at least {limits.min_rows} rows that count in a contribution{_not_drawn(limits)}",
        "row_buckets": _buckets(limits),
        "proven_plans": "only those proved to take all rows alike" if limits.proven_plans else "any that the jobs name",
        "first_model": "none" if limits.first_model is None else limits.first_model.hex(),
        "first_model_file": "none" if limits.first_model_file is None else limits.first_model_file.hex(),
        "metrics": ", ".join(map(_metric, limits.metrics)) or "none",
        "interactive": "yes: without clip and noise" if limits.interactive else "no",
        "lost_key_days": f"a quorum replaces a lost key, {limits.lost_key_days} days after each node has seen it"
        if limits.lost_key_days
        else "none: no lost key is replaced",
    }


def _buffers(limits: Limits) -> str:
    told = (
        f"none: no job {'averages' if limits.home_buffers else 'learns'} buffers"
        if limits.clip_buffers is None
        else f"that of its buffers at most {exact(limits.clip_buffers)}"
    )
    return f"{told}; those that a job writes stay with each owner" if limits.home_buffers else told


def job(agreed: AgreedJob) -> Mapping[str, str]:
    """A job of the charter, each of its numbers as a phrase."""
    return {
        "plan": agreed.plan.hex(),
        "data": f"data sets with the tag {shown(agreed.data)}",
        "rounds": f"{agreed.rounds}, of at most {agreed.max_s} s each",
        **_rows_of(agreed),
        "optimizer": declared(agreed.optimizer),
        "strategy": declared(agreed.strategy),
        "weights": "every owner counts the same" if agreed.weights == "uniform" else "owners count by their rows",
        **({} if agreed.half is None else {"precision": f"values travel as {agreed.half}, in two bytes each"}),
        **({} if agreed.unsafe_lr is None else {"unsafe_lr": shown(agreed.unsafe_lr)}),
    }


def _rows_of(agreed: AgreedJob) -> Mapping[str, str]:
    """Which rows a round takes."""
    drawn = agreed.sampling
    if drawn is not None:
        return {
            "sampling": f"each row is drawn with the probability {exact(drawn.rate)}, by its owner and by itself; the"
            f" sum is divided by {drawn.rows}, however many are drawn",
            "batch_size": f"{agreed.batch_size} rows are computed at once, which changes no result",
            "steps": f"{agreed.steps}: one round is one step",
        }
    return {
        "batch_size": f"{agreed.batch_size} rows of every owner in every step",
        "steps": f"{agreed.steps} of every owner in every round",
    }


def _clipped(limits: Limits) -> str:
    return "each record's gradient" if limits.hides == "record" else "a contribution's parameters"


def _not_drawn(limits: Limits) -> str:
    return "; not where rows are drawn, as here, and noise hides each" if limits.hides == "record" else ""


def _noise(noise: Noise) -> str:
    part = "the gradient of one record" if noise.unit == "record" else "the contribution of one owner"
    return (
        f"discrete Gaussian, {exact(noise.multiplier)} times the most that {part} can be, once for all; its epsilon is"
        f" told at delta {exact(noise.delta)}"
    )


def _metric(metric: Metric) -> str:
    return f"{shown(metric.name)} in [{exact(metric.low)}, {exact(metric.high)}]"


def drawn(entry: Drawn) -> str:
    """A tensor of the recipe, and the distribution of its values."""
    shape = ", ".join(map(str, entry.shape))
    return f"{quoted(entry.tensor)} {entry.dtype}[{shape}], {distribution(entry)}"


def distribution(entry: Drawn) -> str:
    """What the values of a tensor are drawn from: uniform low -1 high 1."""
    numbers = {name: getattr(entry, name) for name in ("low", "high", "mean", "std", "value")}
    return entry.draw + "".join(f" {name} {exact(each)}" for name, each in numbers.items() if each is not None)


def declared(value: Struct) -> str:
    """An optimizer, a strategy or a schedule: its name, and all its numbers."""
    told = ((name, declared(each) if isinstance(each, Struct) else each) for name, each in asdict(value).items())
    return f"{type(value).__name__}({', '.join(f'{name}={each}' for name, each in told if each is not None)})"


def _buckets(limits: Limits) -> str:
    told = ", ".join(map(str, (limits.min_examples, *limits.row_buckets)))
    return f"an owner's rows are told as one of {told}" if limits.row_buckets else "an owner's rows are told to nobody"
