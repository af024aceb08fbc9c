"""Looks at what `make docs` has built for what zensical lets pass, and exits with 1 if there is any.

    python -m tools.check_pages

A page that the navigation lacks, or names twice; a page that it names and that is not there; a page that would load
something from elsewhere when it is read."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_ELSEWHERE = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\s(?:src|href)="?((?:https?:)?//[^"\s>]*)')


def navigation_faults() -> list[str]:
    """Where the navigation and the pages in docs/ are not the same."""
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = list(_named(config["project"]["nav"]))
    there = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    return [
        *(f"zensical.toml: the navigation lacks {page}" for page in sorted(there - set(named))),
        *(f"zensical.toml: the navigation names {page}, which is not there" for page in sorted(set(named) - there)),
        *(f"zensical.toml: the navigation names {page} twice" for page in sorted(set(named)) if named.count(page) > 1),
    ]


def loaded_from_elsewhere(site: Path) -> list[str]:
    """What the pages in ``site`` would load from another place than the disk."""
    return [
        f"{page}: loads {address}"
        for page in sorted(site.rglob("*.html"))
        for address in _ELSEWHERE.findall(page.read_text(encoding="utf-8"))
    ]


def _named(entry: object) -> Iterator[str]:
    match entry:
        case str():
            yield entry
        case list():
            for each in entry:
                yield from _named(each)
        case dict():
            for each in entry.values():
                yield from _named(each)


if __name__ == "__main__":
    faults = [*navigation_faults(), *loaded_from_elsewhere(ROOT / "site")]
    sys.exit("\n".join(faults) or None)
