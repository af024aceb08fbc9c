"""Writes ``docs/reference/command-line.md``, the page of all commands and their options, from what ``--help`` says.

    python -m tools.make_command_page

``tests/test_docs.py`` fails where the committed page is another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cloister.cli.main import NOUNS, _application

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "command-line.md"

HEAD = """\
# The command line

Every command and its options, as `--help` tells them; `python -m tools.make_command_page` writes this page. All
commands end with one of these exit codes:

| exit code | |
|---|---|
| 0 | done |
| 1 | not done: a sentence on the error stream says why. Also a file that cannot be used |
| 2 | wrong usage; or evidence that no genuine TEE made, or that cannot be read |
| 3 | a worker could not be reached or stopped answering, or evidence could not be judged for want of collateral |
| 4 | genuine evidence of something that is not accepted |
| 130 | Ctrl-C |
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for noun in NOUNS for line in _noun(noun))])


def _noun(noun: str) -> Iterator[str]:
    command = typer.main.get_command(_application([noun])).commands[noun]  # type: ignore[attr-defined]
    yield f"## cloister {noun}\n\n{NOUNS[noun].about}\n"
    verbs = getattr(command, "commands", None)
    if verbs is None:
        yield from _table(command)
    else:
        for verb, each in verbs.items():
            yield f"### cloister {noun} {verb}\n\n{each.help.strip()}\n"
            yield from _table(each)


def _table(command: Any) -> Iterator[str]:
    context = command.context_class(command)
    records = [each.get_help_record(context) for each in command.params]
    rows = [record for record in records if record is not None]
    if rows:
        yield "| argument or option | |\n|---|---|"
        for form, about in rows:
            told = re.sub(r"\s+\[(.*)\]$", r" (\1)", about)
            yield f"| `{_cell(form)}` | {_cell(told)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", " or ")  # an escaped one is shown with its backslash, or splits the cell


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
