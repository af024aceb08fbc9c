"""TOML tables: what each kind of value is read as, what is a fault, and that nothing is ignored."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import CharterError, ConfigurationError
from cloister.tables import DEPTH, DOTS, FAULTS, LIST_ITEMS, TEXT_BYTES, Table, faulty, load


def read(text: str, reading: Callable[[Table], Any]) -> tuple[Any, list[str]]:
    faults: list[str] = []
    table = Table(load(text, source="a file"), faults=faults)
    value = reading(table)
    table.finish()
    return value, faults


@pytest.mark.parametrize(
    ("text", "reading", "value"),
    [
        ("a = 'x'", lambda t: t.text("a"), "x"),
        ("", lambda t: t.text("a", default="y"), "y"),
        ("a = true", lambda t: t.flag("a"), True),
        ("", lambda t: t.flag("a", default=False), False),
        ("a = 0x10", lambda t: t.whole("a", least=0, most=16), 16),
        ("a = 1", lambda t: t.number("a"), 1.0),
        ("a = -0.0", lambda t: str(t.number("a")), "0.0"),
        ("a = '2 d'", lambda t: t.duration("a", most_s=1e6), 172800.0),
        ("a = '2 d'", lambda t: t.age("a", most=timedelta(days=3)), timedelta(days=2)),
        ("a = 2026-01-01T01:00:00+01:00", lambda t: t.moment("a"), datetime(2026, 1, 1, tzinfo=UTC)),
        ("a = 'w'", lambda t: t.choice("a", among=("v", "w")), "w"),
        ("a = ['w', 'w']", lambda t: t.words("a", among=("v", "w")), {"w"}),
        ("a = ['00fF']", lambda t: t.hexes("a", size=2), {b"\x00\xff"}),
        ("a = 'any'", lambda t: t.hexes_or_any("a", size=2), "any"),
        ("a = '0a'", lambda t: t.hexadecimal("a", size=1), b"\n"),
        ("a = '12'", lambda t: t.checked("a", what="a number", check=int), 12),
        ("a = 'none'", lambda t: t.table_or_word("a", what="a table", word="none"), None),
        ("[a]\nb = 1", lambda t: t.table("a").whole("b", least=0, most=2), 1),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", lambda t: [c.whole("b", least=0, most=2) for c in t.tables("a")], [1, 2]),
        ("", lambda t: t.holds("a"), False),
    ],
)
def test_values(text: str, reading: Callable[[Table], Any], value: Any) -> None:
    assert read(text, reading) == (value, [])


@pytest.mark.parametrize(
    ("text", "reading", "fault"),
    [
        ("", lambda t: t.text("a"), "a: is missing"),
        ("a = 1", lambda t: t.text("a"), "a: must be a text"),
        ("a = ' '", lambda t: t.text("a"), "printable"),
        ('a = "\\u202e"', lambda t: t.text("a"), "printable"),
        ("a = 'xyz'", lambda t: t.text("a", most=2), "longer than 2"),
        ("", lambda t: t.flag("a"), "a: is missing"),
        ("a = 1", lambda t: t.flag("a"), "true or false"),
        ("a = true", lambda t: t.whole("a", least=0, most=2), "a whole number from 0 to 2"),
        ("a = 3", lambda t: t.whole("a", least=0, most=2), "a whole number from 0 to 2"),
        ("a = 1.0", lambda t: t.whole("a", least=0, most=2), "a whole number from 0 to 2"),
        ("a = nan", lambda t: t.number("a"), "a finite number"),
        ("a = 0", lambda t: t.number("a", above=0.0), "above 0"),
        ("a = 2", lambda t: t.number("a", above=0.0, most=1.0), "above 0 and at most 1"),
        ("a = true", lambda t: t.number("a"), "a finite number"),
        ("a = 9" + "9" * 400, lambda t: t.number("a"), "a finite number"),
        ("a = '2 w'", lambda t: t.duration("a", most_s=1e6), "the units are"),
        ("a = '2 h'", lambda t: t.duration("a", most_s=10), "at most 10 s"),
        ("a = '0 s'", lambda t: t.age("a", most=timedelta(days=3)), "more than 0 s"),
        ("a = 2026-01-01T00:00:00", lambda t: t.moment("a"), "with its offset"),
        ("a = 0001-01-01T00:00:00+23:00", lambda t: t.moment("a"), "outside the years"),
        ("a = 'x'", lambda t: t.choice("a", among=("v", "w")), "one of v, w"),
        ("a = []", lambda t: t.words("a", among=("v", "w")), "1 to"),
        ("a = ['x']", lambda t: t.words("a", among=("v", "w")), "one of v, w"),
        ("a = ['v', 1]", lambda t: t.words("a", among=("v", "w")), "one of v, w"),
        (f"a = {['00'] * (LIST_ITEMS + 1)}", lambda t: t.hexes("a", size=1), f"0 to {LIST_ITEMS}"),
        ("a = ['0 1 ']", lambda t: t.hexes("a", size=2), "4 hexadecimal digits"),
        ("a = []", lambda t: t.hexes_or_any("a", size=2), "1 to"),
        ("a = ['any']", lambda t: t.hexes_or_any("a", size=2), "4 hexadecimal digits"),
        ('a = "\\u0661\\u0661"', lambda t: t.hexadecimal("a", size=1), "2 hexadecimal digits"),  # Arabic ones
        ("a = 'x'", lambda t: t.table_or_word("a", what="a table or none", word="none"), "a table or none"),
        ("a = 1", lambda t: t.table("a"), "a: must be a table"),
        ("a = [1]", lambda t: t.tables("a"), "a[0]: must be a table"),
        ("b = 1", lambda t: t.holds("a"), "b: there is no such key; the keys here are: a"),
        ("[a]\nc = 1", lambda t: t.table("a").holds("b"), "a.c: there is no such key"),
        ("clib = 1", lambda t: t.holds("clip"), "clib: there is no such key: did you mean 'clip'?"),
        ('"\\u202eb" = 1', lambda t: t.holds("a"), r"'\u202eb': there is no such key"),
    ],
)
def test_faults(text: str, reading: Callable[[Table], Any], fault: str) -> None:
    _, faults = read(text, reading)
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("b = 1\na = 8a3d", 'a text stands in quotes: a = "..."'),
        ("a = me.key", 'a text stands in quotes: a = "..."'),
        ("[a", "correct that line, or name another file"),
    ],
)
def test_what_is_not_toml_has_a_way_out(text: str, way_out: str) -> None:
    with pytest.raises(ConfigurationError, match=f"; {re.escape(way_out)}$"):
        load(text, source="a file")


def test_a_check_tells_its_fault() -> None:
    def refuse(text: str) -> str:
        raise CharterError(f"not {text}")

    assert read("a = 'x'", lambda t: t.checked("a", what="a text", check=refuse)) == (None, ["a: not x"])


@pytest.mark.parametrize(
    "text", ["= 1", "a = 1\na = 2", "[a]\n[a]", "a = " + "[" * 9999, "a = " + "9" * 5000, "a = 2026-13-01T00:00:00Z"]
)
def test_what_is_not_toml(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a file is not TOML"):
        load(text, source="a file")


@given(st.text(max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        found = load(text, source="a file")
    except ConfigurationError:
        return
    assert isinstance(found, dict)


def test_all_faults_become_one_error() -> None:
    fault = faulty("x.toml", ["a: is missing", "b: is wrong"], error=CharterError)
    assert isinstance(fault, CharterError)
    assert str(fault) == "x.toml has 2 fault(s):\n  a: is missing\n  b: is wrong"


def test_a_charter_of_a_thousand_members_is_read() -> None:
    key = "sha256:" + "0f" * 32
    members = [f'[[members]]\nname = "organisation {n:043}"\nrole = "owner"\nkey = "{key}"\n' for n in range(1000)]
    assert len("".join(members)) < TEXT_BYTES
    assert len(load("".join(members), source="a file")["members"]) == 1000


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("part", ["a", "'a.b'", '"a.\\"b"'])
def test_a_key_has_so_many_dots_and_no_more(part: str, space: str) -> None:
    dots = f"{space}.{space}"
    for form in ("{} = 1", "[{}]", "[[{}]]", "x = {{ {} = 1 }}"):
        load(form.format(dots.join([part] * (DOTS + 1))), source="a file")
        with pytest.raises(ConfigurationError, match=f"line 1 has a key with more than {DOTS} dots"):
            load(form.format(dots.join([part] * (DOTS + 2))), source="a file")


def test_brackets_stand_so_deep_and_no_deeper() -> None:
    load("a = " + "[" * DEPTH + "]" * DEPTH, source="a file")
    with pytest.raises(ConfigurationError, match=f"line 2 has nesting deeper than {DEPTH}"):
        load("\na = " + "[" * (DEPTH + 1) + "]" * (DEPTH + 1), source="a file")


@pytest.mark.parametrize(
    "value",
    [
        "'" + "." * 99 + "'",
        '"""' + '\\""".[' * 99 + '""" # ' + "[." * 99,
        "'''" + "[.''" * 99 + "x'''''",
        "[" + "1.5, " * 99 + "]",
    ],
)
def test_what_stands_in_a_text_or_comment_is_no_nesting(value: str) -> None:
    text = f"a = {value}\n# {'a.' * 99} {'[' * 99}\n"
    assert load(text, source="a file") == tomllib.loads(text)


@given(st.text(alphabet="a.=[]{}\"'\\#\n 1,", max_size=40))
def test_what_tomllib_reads_is_read_alike(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except ValueError:
        return
    try:
        assert load(text, source="a file") == expected
    except ConfigurationError as fault:
        assert "not TOML that is read here" in str(fault)  # noqa: PT017


def test_of_many_faults_the_first_are_told() -> None:
    fault = str(faulty("x.toml", [f"f{number}" for number in range(FAULTS + 7)]))
    assert fault.startswith(f"x.toml has {FAULTS + 7} fault(s)")
    assert fault.endswith("and 7 more, once these are mended")
