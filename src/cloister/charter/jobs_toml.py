"""The jobs of a charter as ``[[jobs]]`` of charter.toml, read and written.

``optimizer`` and ``strategy`` are tables: the name of the class that a script uses, and its numbers; what is left out
has the value that it has there.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Any, Final, TypeVar, get_args, get_type_hints

from msgspec import Struct
from msgspec.structs import asdict

from cloister.charter.jobs import (
    COUNT,
    PRECISIONS,
    REASON_CHARS,
    STEPS,
    WEEK_S,
    WEIGHTS,
    AgreedJob,
    Precision,
    Sampling,
    Weights,
)
from cloister.tables import Table
from cloister.wire import optimizers, strategies
from cloister.wire.limits import NAME_CHARS

T = TypeVar("T", bound=Struct)

_DIGEST_BYTES: Final = 32


def read(table: Table, *, name: str) -> AgreedJob:
    """The job in a table, called ``name``; what is wrong with it is noted there."""
    weights = table.choice("weights", among=WEIGHTS) if table.holds("weights") else "uniform"
    precision = table.choice("precision", among=PRECISIONS) if table.holds("precision") else "full"
    return AgreedJob(
        name=name,
        plan=table.hexadecimal("plan", size=_DIGEST_BYTES) or bytes(_DIGEST_BYTES),
        data=table.text("data", most=NAME_CHARS),
        rounds=table.whole("rounds", least=1, most=COUNT),
        batch_size=table.whole("batch_size", least=1, most=COUNT),
        steps=table.whole("steps", least=1, most=STEPS),
        optimizer=_declared(table, "optimizer", _OPTIMIZERS) or optimizers.SGD(lr=0.1),
        strategy=_declared(table, "strategy", _STRATEGIES) or strategies.FedAvg(),
        weights=typing.cast(Weights, weights or "uniform"),
        max_s=table.whole("max_s", least=1, most=WEEK_S),
        unsafe_lr=table.text("unsafe_lr", most=REASON_CHARS) if table.holds("unsafe_lr") else None,
        sampling=_sampling(table) if table.holds("sampling") else None,
        precision=typing.cast(Precision, precision or "full"),
    )


def job_toml(job: AgreedJob) -> str:
    """The job as text for charter.toml. All its numbers are written out."""
    lines = [
        "[[jobs]]",
        f"name = {_text(job.name)}",
        f'plan = "{job.plan.hex()}"',
        f"data = {_text(job.data)}",
        f"rounds = {job.rounds}",
        f"batch_size = {job.batch_size}",
        f"steps = {job.steps}",
        f"optimizer = {_inline(job.optimizer)}",
        f"strategy = {_inline(job.strategy)}",
        f'weights = "{job.weights}"',
        f"max_s = {job.max_s}",
        *([] if job.unsafe_lr is None else [f"unsafe_lr = {_text(job.unsafe_lr)}"]),
        *([] if job.sampling is None else [f"sampling = {_drawn(job.sampling)}"]),
        *([] if job.half is None else [f'precision = "{job.precision}"']),
    ]
    return "\n".join([*lines, ""])


def _sampling(table: Table) -> Sampling:
    child = table.needed_table("sampling", what="a table such as { rate = 0.2, rows = 91 }")
    if child is None:
        return Sampling(rate=1.0, rows=1)
    rate = child.number("rate", above=0.0, most=1.0)
    return Sampling(rate=rate or 1.0, rows=child.whole("rows", least=1, most=COUNT))


def _drawn(sampling: Sampling) -> str:
    return f"{{ rate = {sampling.rate!r}, rows = {sampling.rows} }}"


def _by_name(*kinds: type[T]) -> dict[str, type[T]]:
    return {kind.__name__: kind for kind in kinds}


_OPTIMIZERS: Final = _by_name(*get_args(optimizers.Optimizer))
_STRATEGIES: Final = _by_name(*get_args(strategies.Strategy))
_SCHEDULES: Final = _by_name(*get_args(optimizers.Schedule))


def _declared(table: Table, key: str, kinds: dict[str, type[Any]]) -> Any:
    """One of some classes by its name, with the numbers of the table ``key``; None where it is faulty."""
    child = table.needed_table(key, what=f'a table such as {{ name = "{next(iter(kinds))}", lr = 0.1 }}')
    if child is None:
        return None
    kind = kinds.get(child.choice("name", among=tuple(kinds)) or "")
    if kind is None:
        for name in {name for each in kinds.values() for name in each.__struct_fields__}:
            child.holds(name)  # whose they are is not known
        return None
    hints = get_type_hints(kind)
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
    numbers: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        if child.holds(name) or name not in defaults:
            value = _number(child, name, hints[name])
            if value is None:
                return None
            numbers[name] = value
    return kind(**numbers)


def _number(table: Table, name: str, hint: Any) -> Any:
    """A number, or whatever else stands in a field of this type; None where it is faulty."""
    kinds = [each for each in get_args(hint) or (hint,) if each is not NoneType]
    if name == "schedule":
        return _declared(table, name, _SCHEDULES)
    if hint is bool:
        return table.flag(name)
    if name == "betas":
        return _betas(table)
    if float in kinds:
        return table.number(name)
    return table.whole(name, least=1, most=COUNT)


def _betas(table: Table) -> tuple[float, float] | None:
    found = table.take("betas", list, "two numbers", None)
    if found is None:
        return None
    if len(found) != 2 or not all(type(each) in (int, float) and abs(each) <= 1 for each in found):
        table.fault("betas", "must be two numbers from 0 to 1")
        return None
    return float(found[0]), float(found[1])


def _inline(declared: Struct) -> str:
    return "{ " + ", ".join(_pairs(declared)) + " }"


def _pairs(declared: Struct) -> Iterator[str]:
    yield f'name = "{type(declared).__name__}"'
    for name, value in asdict(declared).items():
        match value:
            case None:
                continue
            case bool():
                yield f"{name} = {json.dumps(value)}"
            case Struct():
                yield f"{name} = {_inline(value)}"
            case tuple():
                yield f"{name} = [{', '.join(map(repr, value))}]"
            case _:
                yield f"{name} = {value!r}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON text is also a TOML one
