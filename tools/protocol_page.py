"""Writes docs/protocol.md from the tables that an aggregator goes by: ``python -m tools.protocol_page``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cloister.aggregator.table import FOLLOWING, MESSAGES, Phase
from cloister.wire.fields import Message
from cloister.wire.rounds import Chain, Commit, Consent, Contribution, Declined, Join, Ready, Resubmitted, Stop, Submit

PAGE: Final = Path(__file__).parents[1] / "docs" / "protocol.md"

HEAD: Final = """\
# The protocol of a round

Who may say what to an aggregator, when, and what follows. The tables are made from
`src/cloister/aggregator/table.py` (`python -m tools.protocol_page`), which the aggregator itself goes by: a message
that is not in them at that moment is answered by `Refused`, and nothing of it is used. What the messages hold is in
[the wire](wire.md); why owners sign, and how many have to, in [the design](design.md).

A member's connection is first **connected** (it has proved its key), then **joined** (it has said how far its records
of the ledger go), then **up to date** (it has all that there are). There is one round at a time, in one of four phases.
"""

PHASES: Final[Mapping[Phase, tuple[str, str, str]]] = {
    Phase.BETWEEN: (
        "No round is under way.",
        "Nothing.",
        (
            "A job runs, a quorum of owners is up to date, the newest model is here, and the pause after "
            "a void round is over."
        ),
    ),
    Phase.TRAINING: (
        "The instance's own record stands in the ledger.",
        "`Propose` to each owner that is up to date, after `Work` where it does not know the job.",
        "All have answered, or the job's time is up. Void where fewer than the floor are left.",
    ),
    Phase.COLLECTING: (
        "The members of a cohort are chosen among those that have trained.",
        (
            "`Answers` to each owner that wants to see them; `Draft` to the members; once all have consented, "
            "`Send` to a few at a time, in the order of their names. Where a member is lost on the way, another "
            "`Draft` to the others."
        ),
        (
            "All have consented to one draft, and their contributions are added. Void where fewer than the floor are "
            "left, a quorum would commit no cohort of them, or the mean is not finite."
        ),
    ),
    Phase.COMMITTING: (
        "The outcome is computed, and nobody outside knows it.",
        (
            "`Settle`, with the cohort, all consents and a commitment to the outcome, to each owner that is up to "
            "date, and to each that comes."
        ),
        (
            "A quorum of owners has committed: the round's record is released as `Chain`, with the model, or with its "
            "step to those that hold the model before and know the job. No clock ends it. "
            "Void where too many have refused, or where those that answer could hold another round and not this one."
        ),
    ),
}
"""What each begins with, asks owners, and when it ends."""
EFFECTS: Final[Mapping[type[Message], str]] = {
    Join: ("The heads of both ledgers are compared: the member is given what it lacks, or asked for what it has more."),
    Chain: (
        "If it was asked for: a chain with more released rounds is gone on with, and a round under "
        "way is void; a model that is the newest record's is what the next round starts from. A fork "
        "ends the connection."
    ),
    Submit: "Once the member is up to date: the job begins, or its researcher joins the same job that runs.",
    Resubmitted: (
        "If it was asked for, is the job that a quorum of owners named, and no other has begun meanwhile: the "
        "job goes on. Another one ends the connection."
    ),
    Stop: (
        "The researcher's own job ends. The round that is under way is void, unless owners were asked to commit it."
    ),
    Ready: (
        "The owner counts as trained, with its examples, metrics and commitment, and has answered the round; once."
    ),
    Contribution: (
        "If it was asked for: held against clip and commitment, and added. One that is refused leaves its owner out."
    ),
    Declined: (
        "The round goes on without the owner, if it can. While owners train it may hold the owner's answer to it."
    ),
    Consent: "Verified against the draft, and kept. One to an earlier draft of the round is passed over.",
    Commit: "Verified against cohort and outcome, and kept; at most once a round.",
}


def _phases() -> str:
    lines = ["## Phases", "", "```text"]
    width = max(map(len, Phase))
    lines += [f"{phase:{width}} -> {' | '.join(following)}" for phase, following in FOLLOWING.items()]
    lines += ["```", "", "| phase | begins with | asks owners | ends when |", "|---|---|---|---|"]
    lines += [f"| {phase} | {begins} | {asks} | {ends} |" for phase, (begins, asks, ends) in PHASES.items()]
    return "\n".join(lines) + "\n"


def _messages() -> str:
    lines = [
        "## What members say",
        "",
        "| message | who | connection | round | what follows |",
        "|---|---|---|---|---|",
    ]
    for kind, row in MESSAGES.items():
        phases = "at any time" if row.phases == tuple(Phase) else ", ".join(row.phases)
        late = " One about the round that was released last is passed over." if row.passed_over else ""
        cells = [f"`{kind.__name__}`", ", ".join(row.roles), ", ".join(row.standings), phases, EFFECTS[kind] + late]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "A message at another standing, in another phase, about another round or from another role is refused. A member"
        " with 16",
        "refusals and no release in between is dropped; one whose `Join`, `Chain` or `Resubmitted` is refused at once.",
        "",
        "On a connection of its own a member of any role may ask how a study stands (`Ask`), and a researcher may say"
        " `Stop`",
        "there: it stops the job if it has submitted it, or if no researcher is connected who has. The researchers of a"
        " job are",
        "told by `Out` which owners are not in a round, and why.",
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, _phases(), _messages()])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
