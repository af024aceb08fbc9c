"""Follows a program's lines, for any batch of any size at once, and finds what each output is made of.

No value is computed. Each line is visited once, and what is known of a value only grows, so that the time is bounded
by the program's length whatever it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

import numpy as np

from cloister.errors import PlanError
from cloister.plans.calls import LARGE, Bound, Call, Made, Rule, private, references
from cloister.plans.concerns import Concern, Origin
from cloister.plans.facts import NONE, Facts, Memory, Value, kind_of
from cloister.plans.layout import ROWS, Dims, UnclearError, has_rows, of_extents
from cloister.plans.rules import RULES
from cloister.tensor import optable, schemas
from cloister.tensor.plan.program import Constant, Line, Program
from cloister.wire.limits import DIMENSIONS
from cloister.wire.text import quoted

VALUES: Final = 1 << 20
"""More values than any plan makes."""
NAMED: Final = 1 << 20
"""More arguments than all lines of any plan name together; of so many, a minute's work is made."""
_ORIGINS: Final = 256
"""So many concerns are kept apart; those that come up later stand together in the last place."""
STATES: Final = 1 << 12
"""So many buffers are kept apart, likewise."""
_ALL: Final = frozenset(Concern)
_UNKNOWN: Final = Made(None)


@dataclass(slots=True)
class Followed:
    """What was found: a value for each number, the concerns by their bits, each parameter's units, and remarks with
    their lines. ``unknown`` are the concerns of lines that may have changed anything."""

    values: list[Value] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    units: dict[int, int] = field(default_factory=dict)
    remarks: dict[str, list[int]] = field(default_factory=dict)
    unknown: int = 0

    def concerns_of(self, value: int) -> list[Origin]:
        """The concerns about an output."""
        bits = self.values[value].facts.concerns | self.unknown
        return [origin for at, origin in enumerate(self.origins) if bits >> at & 1]


def follow(program: Program, *, rules: Mapping[str, Rule] = RULES, watched: Collection[Concern] = _ALL) -> Followed:
    """Follows all lines.

    Args:
        rules: what is known of operations; whatever has no rule is not understood.
        watched: the concerns that are told.

    Raises:
        PlanError: a line names what is not there, or makes what it cannot.
    """
    run = _Run(program, rules, watched)
    for at, line in enumerate(program.lines):
        try:
            run.line(at, line)
        except PlanError as fault:
            raise PlanError(f"line {at}: {fault}") from None
    for value in program.outputs():
        if value >= len(run.found.values):
            raise PlanError(f"there is no value %{value} to hand out")
    return run.found


class _Run:
    def __init__(self, program: Program, rules: Mapping[str, Rule], watched: Collection[Concern]) -> None:
        self.found = Followed(values=list(_inputs(program)))
        self._rules = rules
        self._watched = watched
        self._bounds: set[Bound] = set()
        self._values = self.found.values
        self._named = 0
        self._forward = _line_of(program, program.loss)
        """The last line of the forward pass: those below it multiply by parameters to find gradients."""

    def line(self, at: int, line: Line) -> None:
        """Follows one line."""
        if len(self._values) + line.makes > VALUES:
            raise PlanError(f"it makes more than the {VALUES} values that are followed")
        schema = schemas.find(line.op)
        if schema is None:
            self.found.unknown |= self._bit(at, line.op, Concern.UNKNOWN, "no worker runs it", 0)
            blank = Value(None, None, Memory(Facts(concerns=self.found.unknown)))
            self._values.extend([blank] * line.makes)
            return
        named = references(line, schema)
        self._named += len(named)
        if self._named > NAMED:
            raise PlanError(f"up to here it names more than the {NAMED} values that are followed")
        for number in named:
            if not 0 <= number < len(self._values):
                raise PlanError(f"{line.op}: there is no value %{number} yet")
        call = Call(line, schema, self._values, self._bounds)
        made = self._made(call)
        self._finish(at, call, made)

    def _made(self, call: Call) -> Sequence[Made]:
        """What a line makes, by its rule; layouts are not known where there is none, or it does not see through."""
        unknown = [_UNKNOWN] * call.line.makes
        rule = self._rules.get(call.base)
        if rule is None:
            call.tell(Concern.UNKNOWN)
            return unknown
        try:
            made = list(rule(call))
            if call.inplace:
                _check_in_place(call, made)
                made = []
            if len(made) != call.line.makes or (not call.schema.makes and made):
                raise UnclearError(f"it makes {len(made)} values, and the line says {call.line.makes}")
            if any(each.dims is not None and len(each.dims) > DIMENSIONS for each in made):
                raise UnclearError("it makes a tensor of too many dimensions")
        except UnclearError as fault:
            if not any(value.dims is None and value.facts.concerns for value in call.tensors()):  # else it is told
                call.tell(Concern.UNKNOWN, str(fault))
            return unknown
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # A rule that meets what it was not written for has not understood it, and must not stop the look.
            call.tell(Concern.UNKNOWN, "its arguments are of another kind")
            return unknown
        if not call.concerns and not call.place and any(each.dims is None for each in made):
            call.tell(Concern.UNKNOWN)
        return made

    def _finish(self, at: int, call: Call, made: Sequence[Made]) -> None:
        facts = self._facts(at, call, made)
        memory = None
        viewed = call.viewed()
        if viewed is not None:
            memory = viewed.memory
        for place, each in enumerate(made):
            if each is _UNKNOWN and place:  # all alike, and there may be thousands
                self._values.append(self._values[-1])
                continue
            result = replace(facts, place=facts.place and (each.dims is None or has_rows(each.dims)))
            if memory is None:
                self._values.append(Value(each.dims, each.kind, Memory(result, maker=call.base), counts=each.counts))
            else:
                part = call.place or (viewed is not None and viewed.own.place)  # also of one entry: it may be written
                own = replace(result, place=result.place or part)
                self._values.append(Value(each.dims, each.kind, memory, own, each.counts))
        for value in call.written():
            # What is written to a view changes its memory; to a view of some rows, their places differ from then on.
            place = facts.place or value.own.place
            value.memory.facts = value.memory.facts | replace(facts, place=place)
            value.memory.maker = call.base
        if call.width is not None and (at <= self._forward or call.width[0] not in self.found.units):
            parameter, units = call.width
            self.found.units[parameter] = max(units, self.found.units.get(parameter, 0))
        if optable.load()[call.schema.name].random and "dropout" not in call.remarks:
            call.remarks.add("random")
        for remark in call.remarks:
            self.found.remarks.setdefault(remark, []).append(at)

    def _facts(self, at: int, call: Call, made: Sequence[Made]) -> Facts:
        """What is true of all that a line makes or writes."""
        entering = [value for value in call.tensors() if id(value) not in call.ignored]
        joint = call.changes
        for value in entering:
            joint = joint | value.facts
        by_row = any(each.dims is None or has_rows(each.dims) for each in made) or any(
            value.by_row for value in call.written()
        )
        random = joint.random or optable.load()[call.schema.name].random
        condition = any(value.facts.condition and value.by_row for value in entering)
        place = call.place or any(value.facts.place and value.by_row for value in entering)
        if self._mixes(call, entering, made):
            condition = False
        if place and joint.columns and (by_row or any(map(private, entering))):
            call.tell(Concern.PLACE, columns=joint.columns)
            place = False
        concerns = joint.concerns
        for concern, detail, columns in call.concerns:
            concerns |= self._bit(at, call.name, concern, detail, columns)
        asks = condition and not call.lenient if call.asks is None else call.asks
        return replace(
            joint,
            concerns=concerns,
            random=random,
            condition=asks and by_row,
            place=place and by_row,
            large=joint.large and not joint.columns,
        )

    def _mixes(self, call: Call, entering: Sequence[Value], made: Sequence[Made]) -> bool:
        """Whether conditions meet rows that they are not of; in passing, whether rows meet each other."""
        pairs = any(each.dims is not None and _rows_in(each.dims) > 1 for each in made)
        if pairs and any(value.facts.columns for value in entering):
            call.tell(Concern.PAIRS)
        if call.asks is None and not call.lenient:
            asked = [value for value in entering if value.facts.condition and value.by_row]
            others = [value for value in entering if private(value) and not value.facts.condition]
            if asked and others:
                columns = 0
                for value in asked:
                    columns |= value.facts.columns
                call.tell(Concern.FILTER, columns=columns)
                return True
        return False

    def _bit(self, at: int, op: str, concern: Concern, detail: str, columns: int) -> int:
        if concern not in self._watched:
            return 0
        origins = self.found.origins
        if len(origins) < _ORIGINS:
            origins.append(Origin(concern, at, quoted(op.removeprefix("aten::")), detail, columns))
        return 1 << len(origins) - 1


def _check_in_place(call: Call, made: Sequence[Made]) -> None:
    """What works in place keeps the shape of what it writes to."""
    written = call.written()
    if len(made) != 1 or len(written) != 1 or made[0].dims != written[0].dims:
        raise UnclearError("it changes the layout of what it writes to")


def _line_of(program: Program, value: int) -> int:
    """The line that makes a value."""
    following = program.inputs
    for at, line in enumerate(program.lines):
        following += line.makes
        if value < following:
            return at
    return len(program.lines)


def _rows_in(dims: Dims) -> int:
    return sum(atom == ROWS for atom in chain.from_iterable(dims))


def _inputs(program: Program) -> Iterable[Value]:
    for at, parameter in enumerate(program.parameters):
        memory = Memory(Facts(model=True), parameter=at)
        yield Value(of_extents(parameter.shape), kind_of(parameter.dtype), memory)
    for at, buffer in enumerate(program.buffers):
        memory = Memory(Facts(state=1 << min(at, STATES - 1)))
        yield Value(of_extents(buffer.shape), kind_of(buffer.dtype), memory)
    for at, rows in enumerate(program.batch):
        memory = Memory(Facts(columns=1 << at), column=at)
        try:
            dims = of_extents((ROWS, *rows.row))
        except UnclearError as fault:
            raise PlanError(f"column {at}: {fault}") from None
        yield Value(dims, kind_of(rows.dtype), memory)
    for constant in program.constants:
        memory = Memory(replace(NONE, large=_is_large(constant)))
        yield Value(of_extents(constant.shape), kind_of(constant.dtype), memory)


def _is_large(constant: Constant) -> bool:
    """Whether a constant holds a number that is very large; of an element type that cannot be read, it is taken to."""
    if constant.dtype == "bool" or not constant.data:
        return False
    try:
        values = np.frombuffer(constant.data, np.dtype(constant.dtype).newbyteorder("<"))
    except (TypeError, ValueError):
        return True
    sizes = np.abs(values.astype(np.float64) if values.dtype.kind != "c" else values)
    return bool((~(sizes < LARGE)).any())
