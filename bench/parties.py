"""The processes of a study without training: ``python -m bench.parties WITHOUT,... WORDS...`` is ``cloister WORDS...``,
where training gives a fixed vector at once, and without the protections named (``bench.without``; ``-``: with all).

``researcher FOLDER ROUTE BYTES`` is the researcher, who submits the job and prints the moment of each release.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench import without
from cloister.charter import Charter
from cloister.charter.charter import Noise, Unit
from cloister.charter.jobs import AgreedJob, Precision, Sampling
from cloister.cli import main as cloister
from cloister.ledger import job as jobs
from cloister.ledger.job import Job, Part, Tensors
from cloister.net.attested import attest_peer
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.net.polling import Wakeup
from cloister.node.study import runner as joining
from cloister.node.study.effects import Train
from cloister.node.study.trainer import Failed, Trained, Trainer
from cloister.tensor.plan.encoding import encode
from cloister.tensor.plan.program import FORMAT, Parameter, Program, Rows
from cloister.testing.studies import ADDRESS, RESEARCHER
from cloister.wire import rounds as w
from cloister.wire.fixed_point import SUM_TYPE
from cloister.wire.halves import packed, rounded, widened
from cloister.wire.optimizers import SGD
from cloister.wire.strategies import FedAvg
from cloister.wire.tensors import TensorSpec

TAG: Final = "#bench"


class Instant(Trainer):
    """Has trained as soon as it is told to: the same small numbers each time."""

    def __init__(self, *_: object, **__: object) -> None:
        self._wakeup = Wakeup()
        self._vector = b""
        self._norm = 0.0
        self._trained: Trained | None = None

    def start(self) -> Failed | None:
        return None

    def train(self, order: Train) -> Failed | None:
        if len(self._vector) != order.nbytes:
            drawn = np.random.default_rng(order.seeds.steps).standard_normal(len(order.model) // 4, np.float32)
            update: NDArray[Any] = drawn * np.float32(1e-3) if order.draw is None else (drawn * 100).astype(SUM_TYPE)
            if (half := order.agreed.half) is not None:
                update = packed(rounded(update, to=half, seed=order.seeds.rounding), to=half)
            self._vector = update.tobytes()
            self._norm = float(np.linalg.norm(widened(update).astype(np.float64))) if order.draw is None else 0.0
        self._trained = Trained(order.round, self._vector, 100, (self._norm, 0.0), {})
        self._wakeup.set()
        return None

    def abandon(self) -> None:
        self._trained = None

    def fileno(self) -> int | None:
        return self._wakeup.fileno()

    @property
    def due(self) -> float | None:
        return None

    def receive(self) -> Trained | Failed | None:
        self._wakeup.clear()
        trained, self._trained = self._trained, None
        return trained

    def close(self) -> None:
        pass


def tensors(nbytes: int) -> Tensors:
    """A model of one tensor."""
    return Tensors((Part("weight", TensorSpec("float32", (nbytes // 4,)), buffer=False),))


def plan(nbytes: int) -> bytes:
    """A plan that learns it, and that nobody runs here."""
    weight = Parameter(("weight",), "float32", (nbytes // 4,), trained=True)
    rows = Rows("x", "float32", (1,))
    return encode(Program(FORMAT, (weight,), (), (rows,), (), (), 0, (), (0,), ()))


def limits(nbytes: int, *, owners: int, rounds: int, hidden: Unit | None = None) -> dict[str, Any]:
    """Of a charter for it. ``hidden``: what noise hides, if there is some."""
    start = tensors(nbytes).name_of(bytes(nbytes))
    noise = None if hidden is None else Noise(unit=hidden, multiplier=2.0, delta=1e-5)
    return {
        "first_model": start,
        "floor": owners,
        "clip": 1e6 if noise is None else 10.0,
        "rounds": rounds,
        "noise": noise,
    }


def agreed(nbytes: int, *, rounds: int, hidden: Unit | None = None, precision: Precision = "full") -> AgreedJob:
    """The charter's job."""
    drawn = hidden == "record"
    return AgreedJob(
        name="bench",
        plan=hashlib.sha256(plan(nbytes)).digest(),
        data=TAG,
        rounds=rounds,
        batch_size=32,
        steps=1 if drawn else 2,
        optimizer=SGD(0.1),
        strategy=FedAvg(),
        weights="uniform",
        max_s=600,
        sampling=Sampling(rate=0.01, rows=256) if drawn else None,
        precision=precision,
    )


def job(charter: Charter, nbytes: int) -> bytes:
    """What the researcher submits, beside a model of zeros."""
    return jobs.encode(
        Job(
            format=jobs.FORMAT,
            charter=charter.digest,
            name=charter.jobs[0].name,
            plan=plan(nbytes),
            tensors=tensors(nbytes),
            start=charter.limits.first_model or b"",
        )
    )


def research(folder: Path, route: str, nbytes: int) -> None:
    """Submits the job and prints the moment of each release, when its model is there."""
    from cloister.study.client import StudyClient

    policy = AttestationPolicy(charter=folder / "charter.toml", accept_simulated=True)
    attested = attest_peer(ADDRESS, policy=policy, identity=Identity.load(folder / f"{RESEARCHER}.key"), at=route)
    with StudyClient(attested) as talk:
        talk.say(w.Join(0, b"", 0, holds=False))
        submitted = job(policy.charter, nbytes)
        talk.say(w.Submit(len(submitted)), [memoryview(submitted), memoryview(bytes(nbytes))])
        while True:
            heard = talk.hear(unless=None)
            assert heard is not None
            message, body_bytes = heard
            attested.connection.skip(body_bytes)
            match message:
                case w.Chain(model=model, step=step) if model or step:
                    print(perf_counter(), flush=True)
                case w.Finished(text=""):
                    return
                case w.Refused() | w.Over() | w.Finished():
                    raise SystemExit(message.text)


def main(words: list[str]) -> None:
    for protection in words[0].split(","):
        without.PROTECTIONS[protection]()
    match words[1:]:
        case ["researcher", folder, route, nbytes]:
            research(Path(folder), route, int(nbytes))
        case _:
            joining.Trainer = Instant  # type: ignore[attr-defined]
            cloister(words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
