"""Three attacks on the study that was trained, one after the other, and the words by which each is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console

from cloister.demo import screen, theft, training
from cloister.demo.rollback import RolledBack, Scheme, set_back
from cloister.demo.tampering import refusals, replace_aggregator
from cloister.ledger.chain import Ledger
from cloister.study.job import describe
from cloister.testing.studies import ADDRESS, AGGREGATOR, LocalStudy
from cloister.worker.plans import Plan

_DIALLED_S: Final = 60.0
_THEFT: Final = "1. The researcher submits another training step, which copies a patient's row into the model:"
_TAMPERING: Final = "2. An operator puts an aggregator with [bold]one byte changed[/] behind the same address:"
_ROLLBACK: Final = (
    "3. An operator who can forge proofs, as anybody can where the TEE is simulated, goes back to round {older}, to"
    " have round {again} once more:"
)
_LEAGUE: Final = "   In league with the researcher of 1, it hands that training step to the hospitals itself:"


def attempt(console: Console, local: LocalStudy, ledger: Ledger, plan: Plan, *, rounds: int) -> None:
    """Tries all three. ``ledger``: the chain of the study, which is over; ``plan``: what was agreed on. The true
    aggregator is gone afterwards.

    Raises:
        UnacceptableError: an attack succeeded.
        NoAnswerError: a hospital has not dialled in time.
    """
    honest = training.job(plan, rounds=rounds, charter=local.charter)
    forged = theft.forge(honest, training.captured(training.copy_row))
    found = theft.submit(forged, describe(training.new_model(), plan).vector, ledger=ledger, local=local)
    screen.refuse(console, _THEFT, {"the aggregator": found})
    with console.status("waiting until the hospitals dial again"):
        replace_aggregator(local, local.folder / "tampered")
        refused = refusals(local)
    screen.refuse(console, _TAMPERING, refused)
    scheme = Scheme(set_back(ledger), newest=ledger.last_round, honest=honest, forged=forged)
    local.kill(AGGREGATOR)
    with (
        console.status("waiting until the hospitals dial again"),
        RolledBack(scheme, name=ADDRESS, address=local.routes[ADDRESS]) as running,
    ):
        answers = running.refusals(within_s=_DIALLED_S)
    older = scheme.older.last_round
    screen.refuse(console, _ROLLBACK.format(older=older, again=scheme.again), _by_name(local, answers.round))
    screen.refuse(console, _LEAGUE, _by_name(local, answers.job))


def _by_name(local: LocalStudy, answers: Mapping[str, str]) -> dict[str, str]:
    return {name: answers[identity.fingerprint] for name, identity in local.identities.items()}
