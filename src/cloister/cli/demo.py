"""``cloister demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds to train.")] = 20,
    keep: Annotated[
        Path | None, typer.Option(help="An empty folder for keys, configurations and logs, to look at afterwards.")
    ] = None,
) -> None:
    """Three hospitals train one model on real data, each a process of its own, over mutual TLS."""
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
    with LocalFederation(folder, ["aggregator", *parts], session={"memory": "512 MiB", "spare_executors": 1}) as nodes:
        with console.status("starting three hospitals and an aggregator, each a process of its own"):
            nodes.start("aggregator")
            nodes.start(*parts, data_sets={name: hospitals.write(folder, name, part) for name, part in parts.items()})
            aggregator = nodes.connect("aggregator")
            workers = {name: nodes.connect(name) for name in parts}
        at_hospitals, scale = training.find_patients(workers, aggregator)
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
    screen.compare(
        console,
        alone,
        federated=training.accuracy(model, judged),
        pooled=training.accuracy(pooled, judged),
        seconds=monotonic() - started,
    )
