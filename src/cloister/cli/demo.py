"""``cloister demo``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from cloister.errors import AttestationError, CloisterError, UnacceptableError

if TYPE_CHECKING:
    from cloister.testing.federation import LocalFederation

_AGGREGATOR: Final = "aggregator.example:7443"
"""What the charter calls it. Here it listens on a free port of this machine."""


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds to train.")] = 20,
    keep: Annotated[
        Path | None, typer.Option(help="An empty folder for keys, configurations and logs, to look at afterwards.")
    ] = None,
) -> None:
    """Three hospitals train one model on real data, with an aggregator that proves itself, each in its own process."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        _run(keep.absolute(), rounds)
        return
    with tempfile.TemporaryDirectory(prefix="cloister-demo-") as folder:
        _run(Path(folder), rounds)


def _run(folder: Path, rounds: int) -> None:
    from cloister.demo import hospitals, screen, training
    from cloister.testing.federation import LocalFederation

    started = monotonic()
    console = Console()
    parts, held_out = hospitals.split(hospitals.load())
    screen.introduce(
        console, {name: (len(part), int(part.y.sum())) for name, part in parts.items()}, held_out=len(held_out)
    )
    session: dict[str, str | int] = {"memory": "512 MiB", "spare_executors": 1}
    with LocalFederation(folder, list(parts), session=session, aggregator=_AGGREGATOR, charter="hospitals") as nodes:
        screen.agree(console, nodes.agreed)
        with console.status("starting an aggregator and three hospitals, each a process of its own"):
            nodes.start_aggregator()
            nodes.start(*parts, data_sets={name: hospitals.write(folder, name, part) for name, part in parts.items()})
            aggregator = nodes.connect_to_aggregator()
            workers = {name: nodes.connect(name) for name in parts}
        at_hospitals, scale = training.find_patients(workers, aggregator)
        screen.vouch(console, {name: _verdict(nodes.log(name)) for name in parts})
        judged = hospitals.pool({"held out": held_out}, scale)
        model = training.new_model()
        outcomes = training.federate(at_hospitals, aggregator, model, held_out=judged, rounds=rounds)
        screen.follow(console, outcomes, list(parts), total=rounds)
        with console.status("training each hospital alone, and all data pooled, to compare"):
            alone = {
                name: training.accuracy(training.train_alone(hospital, rounds=rounds), judged)
                for name, hospital in at_hospitals.items()
            }
            pooled = training.train_pooled(hospitals.pool(parts, scale), rounds=rounds)
        for worker in (aggregator, *workers.values()):
            worker.close()
        with console.status("starting an aggregator with one byte of its software changed"):
            refusals = _tamper(nodes, folder / "tampered")
        screen.refuse(console, refusals)
    screen.compare(
        console,
        alone,
        federated=training.accuracy(model, judged),
        pooled=training.accuracy(pooled, judged),
        seconds=monotonic() - started,
    )


def _tamper(nodes: LocalFederation, folder: Path) -> dict[str, CloisterError]:
    """Has each hospital look at a tampered aggregator; what it says of it."""
    from cloister.demo.tampering import tampered_copy
    from cloister.net.attested import examine

    address = nodes.start_aggregator("tampered", environment={"PYTHONPATH": str(tampered_copy(folder))})
    refusals: dict[str, CloisterError] = {}
    for name, identity in nodes.identities.items():
        try:
            examine(_AGGREGATOR, demands=nodes.demands(), identity=identity, at=address).close()
        except AttestationError as fault:
            refusals[name] = fault
        else:
            raise UnacceptableError([f"{name} took the tampered aggregator for the real one"])
    return refusals


def _verdict(log: str) -> str:
    """The verdict in a node's log: the rest of the line that starts with the aggregator."""
    found = re.search(r"the aggregator at \S+ is (.*)", log)
    if found is None:
        raise UnacceptableError(["a hospital's node has sent values, and its log holds no verdict"])
    return found[1]
