"""How far a study is, from what a researcher's script has kept: for whoever writes the charter's successor."""

from __future__ import annotations

from pathlib import Path

from cloister.charter import Charter
from cloister.charter.succeeding import Reached
from cloister.study.state_dir import Folder, folder_of


def reached(charter: Charter, *, state: Path | None, charter_file: Path) -> Reached:
    """How far the study of a charter is. ``state``: the script's folder; None: the one that it has by itself.

    Raises:
        ConfigurationError: the chain in it cannot be read. LedgerError: it is no chain of this charter.
    """
    folder = Folder(folder_of(charter, file=charter_file) if state is None else state)
    ledger = folder.ledger(charter)
    if not ledger.released:
        return Reached(spent=folder.released_before())
    return Reached(
        model=ledger.model,
        done={job.name: ledger.rounds_of(job.name) for job in charter.jobs},
        spent=ledger.released + folder.released_before(),
    )
