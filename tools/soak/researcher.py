"""The researcher's script: ``python -m tools.soak.researcher FOLDER ROUTE ROUNDS``. Killed and run again, it goes on.

It prints the number of each round that it hears of, ``done`` after the job's last one, and ``end`` after the last
rounds, which begin once a line came in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from cloister import Study
from cloister.study.history import Round
from cloister.testing.studies import ADDRESS, RESEARCHER
from tools.soak import job

PATIENCE_S = 120.0


def main(folder: Path, route: str, rounds: int) -> None:
    torch.set_num_threads(1)
    study = Study(
        folder / "charter.toml",
        identity=folder / f"{RESEARCHER}.key",
        routes={ADDRESS: route},
        accept_simulated=True,
        patience_s=PATIENCE_S,
    )
    loss, example = job.loss, job.example()
    run = study.fit(job.model(), loss, rounds=rounds, on_round=_say, example=example, **job.NUMBERS)
    print("done", flush=True)
    sys.stdin.readline()
    study.fit(run.model, loss, rounds=job.LAST, on_round=_say, example=example, **{**job.NUMBERS, "steps": 3})
    print("end", flush=True)


def _say(done: Round) -> None:
    print(done.number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
