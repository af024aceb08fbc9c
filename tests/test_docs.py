"""What the pages say is so: their Python runs, their commands exist, their links lead somewhere.

A block that cannot run here is marked by a comment on the line before it: <!-- not run: the reason -->
What the Python of a page prints may be shown in a block marked as output, where a line of three dots stands for lines
that are left out. An SVG that a page shows is one that its Python draws.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

import cloister
from tools import check_pages, make_command_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE = sorted(ROOT.glob("docs/reference/*.md"))

FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*).*$")
NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")  # the text before it may have begun on the line above
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<file>[^)]+\.svg)\)")
HEADING = re.compile(r"^#+ (?P<title>.+?)\s*$")
FROM_DOCSTRING = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, the number of its first line of content, its lines, and whether it is to be run."""

    language: str
    first: int
    lines: list[str]
    runs: bool


def split(page: Path) -> tuple[list[Block], list[tuple[int, str]]]:
    """The fenced blocks of ``page``, and the numbered lines of prose around them."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    fence, before = "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence:
            if line == fence:
                fence = ""
            else:
                blocks[-1].lines.append(line)
        elif opening := FENCE.match(line):
            fence = opening["fence"]
            blocks.append(Block(opening["language"], number + 1, [], runs=not NOT_RUN.match(before)))
        else:
            prose.append((number, line))
        before = line
    assert not fence, f"{page}: a block is not closed"
    return blocks, prose


def program(blocks: list[Block]) -> str:
    """The page's Python, with each line where it stands on the page, so that a traceback names the page's line."""
    lines: list[str] = []
    for block in blocks:
        if block.language == "python" and block.runs:
            lines += [""] * (block.first - 1 - len(lines)) + block.lines
    return "\n".join(lines)


def commands(blocks: list[Block]) -> Iterator[tuple[int, list[str]]]:
    """The line and words of each ``cloister`` or ``make`` command in the page's console blocks."""
    for block in blocks:
        if block.language not in ("console", "sh") or not block.runs:
            continue
        for number, line in enumerate(block.lines, start=block.first):
            if block.language == "console" and not line.startswith("$ "):
                continue  # what the command prints
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] in ("cloister", "make"):
                yield number, words


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of ``page``: lower case, punctuation gone, hyphens for spaces; and the names that it
    shows from docstrings."""
    titles = (HEADING.match(line) for _, line in split(page)[1])
    names = set(FROM_DOCSTRING.findall(page.read_text(encoding="utf-8")))
    return names | {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title["title"].lower())) for title in titles if title
    }


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def printed(blocks: list[Block]) -> Iterator[str]:
    """Each piece of output that the page shows without a gap."""
    for block in blocks:
        if block.language == "output":
            yield from "\n".join(block.lines).split("\n...\n")


def curves(picture: Path) -> list[list[float]]:
    """The lines that a plot draws inside its axes, each as x, y, x, y ... on a paper of about 460 by 350."""
    drawing = ElementTree.parse(picture)  # noqa: S314  our own
    paths = drawing.iter("{http://www.w3.org/2000/svg}path")
    inside = [each.attrib["d"] for each in paths if "clip-path" in each.attrib]
    return [[float(number) for number in re.findall(r"[\d.]+", line)] for line in inside]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if program(split(page)[0])], ids=name)
def test_python_runs(page, tmp_path):
    script = tmp_path / f"page_{page.stem}.py"  # docs/keras.md must not be what `import keras` finds
    script.write_text(program(split(page)[0]), encoding="utf-8")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # small models are slow on many, where others compute as well
    command = [sys.executable, "-W", "error", script.name]
    done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}:\n{done.stdout}{done.stderr}"
    missing = [piece for piece in printed(split(page)[0]) if piece not in done.stdout]
    assert not missing, f"{page} shows what is not printed:\n" + "\n...\n".join(missing)
    for file in PICTURE.findall(page.read_text(encoding="utf-8")):
        shown, drawn = curves(page.parent / file), curves(tmp_path / file)
        # Sums come out differently in their last bits from one processor to another, and a run carries that on.
        assert shown == [pytest.approx(line, abs=20) for line in drawn], f"cp {tmp_path / file} {page.parent / file}"
        assert shown, f"{page.parent / file} shows no curves"


def calls(blocks: list[Block]) -> Iterator[tuple[int, object, ast.Call]]:
    """The line of each call of cloister's in the page's blocks that do not run, what is called, and the call."""
    for block in blocks:
        if block.language != "python" or block.runs:
            continue
        made: dict[str, object] = {}  # what the block's names are instances of
        for node in ast.walk(ast.parse("\n".join(block.lines))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made |= {target.id: called(node.value, {}) for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.Call) and (found := called(node, made)) is not None:
                yield block.first + node.lineno - 1, found, node


def called(call: ast.Call, made: dict[str, object]) -> object | None:
    """What ``cloister.name(...)`` calls, or the method of a name that stands for an instance."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="cloister"), attr=attribute):
            return getattr(cloister, attribute)  # AttributeError: there is none
        case ast.Attribute(value=ast.Name(id=instance), attr=attribute) if isinstance(made.get(instance), type):
            return partial(getattr(made[instance], attribute), None)  # whatever stands for self
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if any(calls(split(page)[0]))], ids=name)
def test_python_that_cannot_run_calls_what_is_there(page):
    for number, function, call in calls(split(page)[0]):
        try:
            inspect.signature(function).bind(*call.args, **{each.arg: each.value for each in call.keywords})
        except TypeError as fault:
            pytest.fail(f"{page}:{number}: {ast.unparse(call)}: {fault}")


def test_a_call_without_an_argument_is_found():
    lines = ['study = cloister.Study("c.toml", identity="me.key")', "study.fit(model, loss)"]
    found = [*calls([Block("python", 1, lines, runs=False)])]
    assert [number for number, _, _ in found] == [1, 2]
    with pytest.raises(TypeError, match="missing a required"):
        inspect.signature(found[1][1]).bind(*found[1][2].args)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(split(page)[0]))], ids=name)
def test_commands_exist(page):
    cloister = [sys.executable, "-c", "from cloister.cli import main; main()"]
    for number, (program_name, *arguments) in commands(split(page)[0]):
        # --help is answered once every word before it has been understood, and nothing is done.
        words = ["make", "--dry-run"] if program_name == "make" else cloister
        tail = [] if program_name == "make" else ["--help"]
        done = subprocess.run([*words, *arguments, *tail], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}:{number}: {shlex.join([program_name, *arguments])}:\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    dead = []
    for number, line in split(page)[1]:
        for target in (match["target"] for match in LINK.finditer(line)):
            if re.match(r"[a-z]+:", target):
                continue  # another site
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                dead.append(f"{page}:{number}: {target}")
    assert not dead, "\n".join(dead)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_their_language(page):
    assert not [f"{page}:{block.first}" for block in split(page)[0] if not block.language]


def test_navigation_has_every_page_once():
    assert check_pages.navigation_faults() == []


def test_reference_has_every_exported_name():
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    shown = set(FROM_DOCSTRING.findall(text))
    missing = [
        each
        for each in cloister.__all__
        if not shown & {f"cloister.{each}", f"{cloister._HOME.get(each)}.{each}"} and f"`cloister.{each}`" not in text
    ]
    assert not missing, f"docs/reference lacks {', '.join(missing)}"


def test_reference_shows_every_error_by_its_docstring():
    assert "cloister.errors" in FROM_DOCSTRING.findall((ROOT / "docs/reference/errors.md").read_text(encoding="utf-8"))
    own = [each for each in vars(cloister.errors).values() if getattr(each, "__module__", "") == "cloister.errors"]
    assert not [each for each in own if not each.__doc__]


def test_reference_has_the_commands_as_they_are():
    assert make_command_page.PAGE.read_text(encoding="utf-8") == make_command_page.page(), (
        "python -m tools.make_command_page"
    )


def test_every_attack_is_in_a_table_and_every_table_names_attacks_that_are_there():
    named = set()
    for page in ("threat-model.md", "attestation.md"):
        rows = [
            line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")
        ]
        named |= {found for row in rows for found in re.findall(r"`(?:tests/attacks/)?(test_\w+\.py)`", row)}
    assert named == {file.name for file in (ROOT / "tests" / "attacks").glob("test_*.py")}
