"""A charter in plain words: for the page of a verdict, and for ``cloister charter show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import timedelta

from cloister.attest import verdict
from cloister.attest.reference import DcapFloor, Entry
from cloister.attest.tcb import SnpTcb
from cloister.charter.charter import Charter, Limits
from cloister.charter.names import shown
from cloister.charter.warnings import warnings_of


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
            return f"{value / timedelta(days=1):g} d"
        case None:
            return "none"
        case _:
            return str(value)


def _components(floor: SnpTcb) -> str:
    told = ((each.name, getattr(floor, each.name)) for each in fields(floor))
    return ", ".join(f"{name} {least}" for name, least in told if least is not None)


def limits(limits: Limits) -> Mapping[str, str]:
    """The limits of release, each as a phrase."""
    noise = limits.noise
    return {
        "floor": f"at least {limits.floor} members in an aggregate",
        "largest_share": f"at most {limits.largest_share:g} of an aggregate from one member",
        "clip": f"a contribution's norm is at most {limits.clip:g}",
        "noise": "none" if noise is None else f"{noise.mechanism}, {noise.multiplier:g} times the clip",
        "rounds": f"at most {limits.rounds}",
        "min_examples": f"at least {limits.min_examples} behind a contribution",
        "plans": ", ".join(sorted(plan.hex() for plan in limits.plans)) or "none",
        "first_model": "none" if limits.first_model is None else limits.first_model.hex(),
        "metrics": ", ".join(f"{shown(each.name)} in [{each.low:g}, {each.high:g}]" for each in limits.metrics)
        or "none",
        "interactive": "yes: without clip and noise" if limits.interactive else "no",
    }
