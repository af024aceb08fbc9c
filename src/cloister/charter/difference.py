"""What a charter says otherwise than another: in sentences with what to check, and value by value.

The second is made of what the digest is made of, so that no field can be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from cloister.charter.charter import Charter, Member, content
from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.wire.strategies import FedAvg, FedProx
from cloister.wire.text import quoted

_TOLD: Final = ("name", "serial", "supersedes", "members")
"""Fields of a charter of which the sentences say all."""


class Change(NamedTuple):
    """A sentence on what has changed, and one on what an owner checks before it signs; the second may be empty."""

    said: str
    check: str


def changes(old: Charter, new: Charter) -> Iterator[Change]:
    """What ``new`` says otherwise than ``old``, which it may succeed or not."""
    yield from _line(old, new)
    yield from _members(old, new)
    if new.limits.first_model != old.limits.first_model:
        yield Change(
            f"it starts from the model {_told(new.limits.first_model)}; the charter before started from"
            f" {_told(old.limits.first_model)}",
            "that is the newest model of the chain before: `cloister ledger audit CHAIN.JSONL --charter OLD.TOML`"
            " prints it after `model`",
        )
    yield from _begins_anew(new)
    before, after = (dict(_leaves(charter)) for charter in (old, new))
    for path in sorted(before.keys() | after.keys()):
        here, there = after.get(path), before.get(path)
        if here != there:
            check = "each node has rounds left: `cloister node check NODE.TOML`" if path.endswith(".rounds") else ""
            yield Change(f"{path} is {here or 'left out'}, and was {there or 'not there'}", check)


def values(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each value in plain CBOR, by its path. What has a name stands under it, and not under its place in a list."""
    match value:
        case dict() if value:
            for key in sorted(value):
                yield from values(f"{path}.{quoted(key)}", value[key])
        case list() if value:
            for at, item in enumerate(value):
                named = item.get("name", item.get("tensor", at)) if isinstance(item, dict) else at
                yield from values(f"{path}.{quoted(str(named))}", item)
        case bytes():
            yield path, value.hex()
        case _:
            yield path, f"{value!a}"


def _leaves(charter: Charter) -> Iterator[tuple[str, str]]:
    told = {name: value for name, value in content(charter).items() if name not in _TOLD}
    del told["limits"]["first_model"]
    return ((path.removeprefix("."), each) for path, each in values("", told))


def _line(old: Charter, new: Charter) -> Iterator[Change]:
    if new.name != old.name:
        yield Change(f"it is called {shown(new.name)}, and not {shown(old.name)}: it succeeds nothing", "")
    elif new.supersedes == old.digest:
        yield Change(f"it is serial {new.serial} of {shown(new.name)}, and supersedes serial {old.serial}", "")
    else:
        yield Change(
            f"it is serial {new.serial} of {shown(new.name)}, and does not supersede this serial {old.serial}",
            "no node that works under the other one takes it, unless it was away for serials in between",
        )


def _members(old: Charter, new: Charter) -> Iterator[Change]:
    before, after = ({member.id: member for member in charter.members} for charter in (old, new))
    for id, member in after.items():
        yield from _member(before.get(id), member)
    for id, member in before.items():
        if id not in after:
            check = (
                f"{shown(member.name)} agrees, and signs with `cloister charter hand-over`; or its key is lost, and"
                f" nodes wait {old.limits.lost_key_days} days for it"
            )
            yield Change(
                f"{shown(member.name)} ({member.role}) is a member no more", check if member.role == "owner" else ""
            )


def _member(was: Member | None, member: Member) -> Iterator[Change]:
    name = shown(member.name)
    if was is None:
        yield Change(
            f"{name} joins as {member.role}, with the key {member.key}",
            f"{name} says, by a way that you know, that this is its key",
        )
        return
    if was.name != member.name:
        yield Change(f"{shown(was.name)} is called {name}", f"{name} says so")
    if was.key != member.key:
        yield Change(
            f"{name} has the key {member.key}, and had {was.key}; its id stays",
            f"{name} says, by a way that you know, that this is its key, and hands over with the other one"
            if was.role == "owner"
            else f"{name} says, by a way that you know, that this is its key",
        )
    if was.role != member.role:
        check = f"{name} signs that itself" if was.role == "owner" else ""
        yield Change(
            f"{name} is an {member.role}, and was an {was.role}".replace("an researcher", "a researcher"), check
        )


def begins_anew(job: AgreedJob) -> str:
    """What a job remembers from round to round, and begins anew under another charter; empty where there is nothing."""
    found = []
    if not isinstance(job.strategy, FedAvg | FedProx):
        found.append(f"the averages of {type(job.strategy).__name__}")
    if job.optimizer.schedule is not None:
        found.append("the schedule of the learning rate")
    return " and ".join(found)


def _begins_anew(new: Charter) -> Iterator[Change]:
    for job in new.jobs:
        if new.serial > 1 and (what := begins_anew(job)):
            yield Change(f"job {shown(job.name)}: {what} begin anew, as under any new charter", "")


def _told(digest: bytes | None) -> str:
    return "none" if digest is None else digest.hex()
