"""A verdict as a page for a person: the answer first, then what it rests on, then what it does not prove."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloister.attest.facts import MAKERS
from cloister.attest.verdict import Outcome, Verdict, plain

WIDTH: Final = 100
"""Characters to which sentences are wrapped. Digests are never wrapped, so that they can be copied."""

_KEY: Final = 22
_ZEROS: Final = 16
"""Digits: as many zeros are counted for the reader, and not printed."""

_HEADLINES: Final = {
    Outcome.ACCEPTABLE: "ACCEPTABLE: {what} is what the charter asks for.",
    Outcome.GENUINE: "GENUINE: a TEE of its maker's made this evidence. Whether it is acceptable was not asked.",
    Outcome.UNVERIFIED: "NOT VERIFIED: this is what the evidence says of itself. Anyone can write that.",
    Outcome.UNACCEPTABLE: "NOT ACCEPTABLE: {what} is not what is asked for. Send it nothing.",
    Outcome.NOT_GENUINE: "NOT ACCEPTABLE, NOT GENUINE: no genuine TEE made the evidence of {what}. Send it nothing.",
    Outcome.UNREADABLE: "NOT ACCEPTABLE: there is no evidence that can be read from {what}. Send it nothing.",
    Outcome.UNDECIDED: "NOT ACCEPTABLE, UNDECIDED: nothing can be said about {what} for now. Send it nothing.",
}
_SIMULATED: Final = {
    Outcome.ACCEPTABLE: "ACCEPTABLE AS A REHEARSAL: {what} is what the charter asks for, simulated. It proves nothing.",
    Outcome.GENUINE: "WELL MADE, AND NO PROOF: simulated evidence, which anyone can make.",
}


def page(verdict: Verdict) -> Iterator[str]:
    """The lines of the page. Sections have a title that starts at the margin; all under it is indented."""
    yield headline(verdict)
    for title, lines in _sections(verdict):
        if lines:
            yield from ("", title, *lines)


def headline(verdict: Verdict) -> str:
    """The answer, in one line."""
    simulated = verdict.facts is not None and verdict.facts.tee == "simulated"
    texts = {**_HEADLINES, **_SIMULATED} if simulated else _HEADLINES
    return texts[verdict.outcome].format(what=plain(verdict.address or "this file"))


def _sections(verdict: Verdict) -> Iterator[tuple[str, list[str]]]:
    told = verdict.as_dict()
    found, charter = verdict.facts, told["charter"]
    yield "Failed checks", _sentences(verdict.failures)
    yield "Notes", _sentences(told["notes"])
    if found is not None:
        entry = {"charter entry": verdict.entry.name} if verdict.entry is not None else {}
        yield "Software", _rows({**entry, **told["software"]})
        yield "TEE", _rows({"kind": MAKERS[found.tee], **told["tcb"]})
        yield "Platform", _rows(told["platform"])
    if charter is not None:
        yield "Rules and members", _rows(_charter(charter))
        yield "What the charter gives up", _sentences(charter["gives_up"])
    if told["instance"] is not None:
        yield "Instance", _rows(told["instance"])
        yield "Keys", _rows(told["keys"])
    yield "Freshness", _rows(_freshness(verdict))
    if verdict.transcript is None and found is not None:
        yield "Bound to", _rows({"report_data": found.report_data.hex()})
    yield _left(verdict)


def _left(verdict: Verdict) -> tuple[str, list[str]]:
    if verdict.outcome in (Outcome.ACCEPTABLE, Outcome.GENUINE):
        return "What this does not prove", _sentences(verdict.does_not_prove)
    if verdict.outcome is Outcome.UNVERIFIED:
        return "What this does not prove", _sentences(
            ["Anything: neither the TEE's signature, nor its maker's certificates, nor a date was checked."]
        )
    return "", []


def _charter(charter: Mapping[str, Any]) -> dict[str, Any]:
    bound = {"charter": f"{charter['name']} #{charter['serial']}", "digest": charter["digest"]}
    members = {
        f"member {number}": f"{member['name']} ({member['role']}) {member['key']}"
        for number, member in enumerate(charter["members"], start=1)
    }
    return {**bound, "floor": charter["floor"], **charter["limits"], **members}


def _freshness(verdict: Verdict) -> dict[str, Any]:
    rows: dict[str, Any] = {"checked at": _moment(verdict.checked_at)}
    if verdict.transcript is not None:
        rows["nonce"] = f"{verdict.transcript.nonce.hex()} (made by us for this question)"
    if verdict.took is not None:
        rows["evidence"] = (
            f"made after the nonce, so at most {verdict.took.total_seconds():.1f} s before it was checked"
        )
    found = verdict.facts
    if found is not None and found.collateral_issued is not None:
        age = verdict.checked_at - found.collateral_issued
        rows["collateral"] = f"issued {_moment(found.collateral_issued)}, {_age(age)} old"
    if found is not None and found.collateral_expires is not None:
        rows["collateral expires"] = _moment(found.collateral_expires)
    return rows


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _age(age: timedelta) -> str:
    if age >= timedelta(days=2):
        return f"{age.days} days"
    return f"{max(age.total_seconds(), 0) / 3600:.1f} hours"


def _rows(values: Mapping[str, Any]) -> list[str]:
    return [f"  {plain(name):<{_KEY}} {plain(_text(value))}" for name, value in values.items()]


def _text(value: Any) -> str:
    match value:
        case None | [] | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return " ".join(f"{name} {_text(part)}" for name, part in value.items())
    text = str(value)
    if len(text) >= _ZEROS and not text.strip("0"):
        return f"zeros ({len(text) // 2} bytes)"
    return text


def _sentences(texts: tuple[str, ...] | list[str]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        lines += textwrap.wrap(
            plain(text),
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
