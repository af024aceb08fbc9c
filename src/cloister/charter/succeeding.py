"""Writing the successor of a charter: the same file with what changes, and with what follows from that."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloister.charter.charter import COUNT
from cloister.charter.names import shown
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.tables import load

_BARE: Final = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to change."""

    owners: Mapping[str, str] = field(default_factory=dict)
    """Owners that join, with their keys."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Members' other keys."""
    leave: Collection[str] = ()
    """Members that leave; an owner as an auditor, so that it can sign for that."""
    gone: Collection[str] = ()
    """Members that are there no more, and cannot sign."""
    rounds: int | None = None
    """The rounds of each job from now on; None: those that are left."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far the study is."""

    model: bytes | None = None
    """The newest released model, 32 bytes; None: none was released, and the first one stays."""
    done: Mapping[str, int] = field(default_factory=dict)
    """The rounds of each job under this charter, by its name."""
    spent: int = 0
    """The rounds under this charter, and those before it."""


def succeed(text: str, *, asked: Asked, reached: Reached, source: str = "charter.toml") -> str:
    """The text of the charter that succeeds the one in ``text``. Its comments are not kept.

    Raises:
        CharterError: ``text`` is no charter, or there is no such successor.
    """
    old = parse_charter(text, source=source)
    data = load(text, source=source)
    _ask_possible(asked, {member.name for member in old.members})
    data = {
        **{key: data[key] for key in ("format", "name")},
        "serial": old.serial + 1,
        "supersedes": old.digest.hex(),
        **{key: value for key, value in data.items() if key not in ("format", "name", "serial", "supersedes")},
    }
    data["members"] = [*_members(data["members"], asked)]
    limits = data["limits"]
    if reached.model is not None:
        limits["first_model"] = reached.model.hex()
        limits.pop("first_model_file", None)
        data.pop("first_model", None)
    if "jobs" in data:
        data["jobs"] = [*_jobs(data["jobs"], asked, reached)]
        if not data["jobs"]:
            raise CharterError("all rounds of its jobs are done: say how many more there shall be (--rounds)")
        total = reached.spent + sum(job["rounds"] for job in data["jobs"])
        if asked.rounds is not None:
            limits["rounds"] = min(max(limits["rounds"], total), COUNT)
    written = _toml(data)
    parse_charter(written, source="its successor")
    return written


def _ask_possible(asked: Asked, names: Collection[str]) -> None:
    """Raises ``CharterError`` where somebody is meant who is not there, or is there already, or twice."""
    meant = [*asked.keys, *asked.leave, *asked.gone]
    for name in meant:
        if name not in names:
            raise CharterError(f"{shown(name)} is no member of it; it has {', '.join(map(shown, sorted(names)))}")
        if meant.count(name) > 1:
            raise CharterError(f"two things are asked for {shown(name)}: it leaves, is gone, or has another key")
    for name in asked.owners:
        if name in names:
            raise CharterError(f"{shown(name)} is a member of it already; another key is asked for with --rotate")


def _members(tables: list[dict[str, Any]], asked: Asked) -> Iterator[dict[str, Any]]:
    for table in tables:
        name = table["name"]
        if name in asked.gone or (name in asked.leave and table["role"] != "owner"):
            continue
        if name in asked.leave:
            yield {**table, "role": "auditor"}
        elif name in asked.keys:
            yield {**table, "key": asked.keys[name], "id": table.get("id", table["key"])}
        else:
            yield table
    for name, key in asked.owners.items():
        yield {"name": name, "role": "owner", "key": key}


def _jobs(tables: list[dict[str, Any]], asked: Asked, reached: Reached) -> Iterator[dict[str, Any]]:
    for table in tables:
        rounds = table["rounds"] - reached.done.get(table["name"], 0) if asked.rounds is None else asked.rounds
        if rounds > 0:
            yield {**table, "rounds": rounds}


def _toml(data: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in data.items() if not _is_tables(value)}
    lines = [f"{_key(key)} = {_inline(value)}" for key, value in plain.items()]
    for key, value in data.items():
        if key in plain:
            continue
        for table in [value] if isinstance(value, dict) else value:
            lines += ["", f"[{_key(key)}]" if isinstance(value, dict) else f"[[{_key(key)}]]"]
            lines += [f"{_key(name)} = {_inline(item)}" for name, item in table.items()]
    return "\n".join([*lines, ""])


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _inline(value: Any) -> str:
    match value:
        case bool():
            return json.dumps(value)
        case str():
            return json.dumps(value, ensure_ascii=False)  # a JSON text is also a TOML one
        case list():
            return f"[{', '.join(map(_inline, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_key(name)} = {_inline(item)}' for name, item in value.items())} }}"
        case int() | float():
            return repr(value)
        case _:
            return str(value.isoformat())  # a moment


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
