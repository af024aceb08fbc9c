"""A study on one machine: an aggregator and owners' nodes, each a process of its own, under a charter made on the spot.

For tests, measurements and demonstrations. The aggregator's TEE is simulated; nothing else is but the distance. Any of
the processes can be killed and started again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from cloister.charter.jobs import AgreedJob
from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import ConfigurationError, NoAnswerError
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.testing.charters import sign_charter, write_charter
from cloister.testing.processes import PROGRAM, Service, end_all
from cloister.worker.data.salts import simulated_salt as rehearsal_salt

if TYPE_CHECKING:
    from cloister.study.study import Study

AGGREGATOR: Final = "aggregator"
ADDRESS: Final = "aggregator.example:7443"
RESEARCHER: Final = "researcher"
_LOOK_S: Final = 0.05


@dataclass(frozen=True)
class LocalColumns:
    """A data set that an owner trains on: a file of columns, and the tags that a job names it by."""

    file: Path
    columns: Sequence[str]
    tags: Sequence[str]
    budget: PrivacyBudget | None = None
    """What its rounds may cost each of its records."""


class LocalStudy:
    """Owners, an aggregator and one researcher. As a context manager it leaves no process behind.

    Args:
        folder: where keys, the charter, configurations, records and logs go; it must exist.
        owners: each owner's data sets, by its name in the charter.
        jobs: the charter's, as ``cloister.job`` makes them.
        limits: of the charter, as ``write_charter`` takes them: ``first_model``, ``floor``, ``metrics``, ...
        floors: lines for an owner's ``[charter.floors]`` table, by its name.
        name: the charter's.
        models: the files of base models, which all owners have.
        rehearsal: a seed, for owners whose rows are chosen and ordered as in ``cloister.simulate`` with it; None: by
            secrets of their own.
        program: what Python runs in each process, as for ``Service``.
    """

    def __init__(
        self,
        folder: Path,
        owners: Mapping[str, Sequence[LocalColumns]],
        *,
        jobs: Sequence[AgreedJob] = (),
        limits: Mapping[str, Any],
        floors: Mapping[str, Mapping[str, float]] | None = None,
        name: str = "study",
        models: Sequence[Path] = (),
        rehearsal: int | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.folder = folder
        self._file = folder / "charter.toml"
        self._program = program
        self.researcher = Identity.create(folder / f"{RESEARCHER}.key")
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in owners}
        self.charter = write_charter(
            folder / "charter.toml",
            members={
                **{name: ("owner", identity) for name, identity in self.identities.items()},
                RESEARCHER: ("researcher", self.researcher),
            },
            addresses=[ADDRESS],
            name=name,
            interactive=False,
            jobs=jobs,
            **limits,
        )
        signers = {**self.identities, RESEARCHER: self.researcher}
        sign_charter(self.charter, folder / "charter.sigs", signers=signers)
        self._owners = dict(owners)
        self._floors = floors or {}
        self._models = models
        self._rehearsal = rehearsal
        self._services: dict[str, list[Service]] = {}
        self._route = "127.0.0.1:0"
        self._detours: dict[str, str] = {}

    def start_aggregator(self, *, environment: Mapping[str, str] | None = None) -> None:
        """Starts the aggregator and waits until it listens: where it did before, if it did.

        ``environment``: such as a PYTHONPATH, to run other software than this.

        Raises:
            UnreachableError: it did not start; the message holds the end of its log.
        """
        arguments = ["aggregator", "serve", "--charter", str(self._file), "--tee", "simulated"]
        self._route, _ = self._launch(AGGREGATOR, [*arguments, "--listen", self._route], environment).ready()

    def start(self, *names: str) -> None:
        """Starts the nodes of these owners, or of all, once the aggregator was started; waits until they are ready.

        Raises:
            UnreachableError: one did not start; the message holds the end of its log.
        """
        started = []
        for name in names or tuple(self._owners):
            started.append(self._launch(name, ["node", "serve", str(self.write_configuration(name))]))
        for service in started:
            service.ready()

    def gather(self, *, within_s: float = 60.0) -> None:
        """Waits until the aggregator has all owners there, so that the first round is of all of them.

        Raises:
            NoAnswerError: one has not come in time; the message holds the end of the aggregator's log.
        """
        for name in self._owners:
            self.found(AGGREGATOR, rf"\b{re.escape(name)} (is there)", within_s=within_s)

    def write_configuration(self, name: str) -> Path:
        """Writes an owner's node.toml, with the way to the aggregator as it is now."""
        file = self.folder / f"{name}.toml"
        file.write_text(self._configuration(name), encoding="utf-8")
        return file

    def adopt(
        self,
        file: Path,
        *,
        identities: Mapping[str, Identity] | None = None,
        owners: Mapping[str, Sequence[LocalColumns]] | None = None,
    ) -> None:
        """Ends all processes; those that are started from now on work under the charter in ``file``, signed as it is.

        ``identities``: owners' keys that are other ones now; ``owners``: data sets of owners that join.
        """
        self.close()
        self.charter = read_charter(file)
        self.identities |= identities or {}
        self._owners |= owners or {}
        names = {owner.name for owner in self.charter.owners}
        self._owners = {name: each for name, each in self._owners.items() if name in names}
        self._file = file

    def detour(self, name: str, route: str) -> None:
        """Has an owner's node dial the aggregator there from its next start on: a relay that stands in between."""
        self._detours[name] = route

    def end(self, name: str) -> None:
        """Ends an owner's node, or the aggregator, as its owner would."""
        self._services[name][-1].end()

    def kill(self, name: str) -> None:
        """Kills an owner's node, or the aggregator, as a power cut would."""
        service = self._services[name][-1]
        service.process.kill()
        service.end()

    def pid(self, name: str) -> int:
        """Of an owner's node, or of the aggregator, that was started."""
        return self._services[name][-1].process.pid

    def running(self, name: str) -> bool:
        """Whether an owner's node, or the aggregator, is there."""
        services = self._services.get(name, [])
        return bool(services) and services[-1].process.poll() is None

    def study(self, **options: Any) -> Study:
        """The researcher's part; ``options`` are those of ``cloister.Study``."""
        from cloister.study.study import Study

        given: dict[str, Any] = {"identity": self.researcher, "routes": self.routes, "accept_simulated": True}
        return Study(self._file, **{**given, **options})

    @property
    def routes(self) -> dict[str, str]:
        """Where the aggregator is to be dialled, by its address in the charter."""
        return {ADDRESS: self._route}

    def log(self, name: str) -> str:
        """What an owner's node, or the aggregator, has written to its logs so far."""
        return "".join(service.log() for service in self._services.get(name, ()))

    def found(self, name: str, pattern: str, *, within_s: float) -> str:
        """The first group of ``pattern`` in a log, which is looked at again and again until it is there.

        Raises:
            NoAnswerError: it is not there in time; the message holds the log's end.
        """
        until = monotonic() + within_s
        while (match := re.search(pattern, self.log(name))) is None:
            if monotonic() > until:
                raise NoAnswerError(f"{name} has not said {pattern!r}; its log ends: {self.log(name)[-2000:]}")
            sleep(_LOOK_S)
        return match[1]

    def close(self) -> None:
        """Ends all processes; one that does not go is killed."""
        end_all([service for services in self._services.values() for service in services])

    def __enter__(self) -> LocalStudy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _launch(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Service:
        services = self._services.setdefault(name, [])
        if self.running(name):
            raise ConfigurationError(f"{name} is running already")
        log = self.folder / f"{name}.{len(services) + 1}.log"
        services.append(Service(arguments, log=log, environment=environment, program=self._program))
        return services[-1]

    def _configuration(self, name: str) -> str:
        # A JSON text is also a TOML one.
        lines = [
            f"name = {json.dumps(name)}",
            f"identity = {json.dumps(str(self.identities[name].path))}",
            f"state = {json.dumps(f'{name}.state')}",
            "[training]",
            "threads = 1",
            "[charter]",
            f"file = {json.dumps(str(self._file))}",
            "accept_simulated = true",
            *([] if self._rehearsal is None else [f'unsafe_salt = "{rehearsal_salt(self._rehearsal, name).hex()}"']),
            "[charter.routes]",
            f"{json.dumps(ADDRESS)} = {json.dumps(self._detours.get(name, self._route))}",
        ]
        if name in self._floors:
            lines.append("[charter.floors]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in self._floors[name].items()]
        for data_set in self._owners[name]:
            lines += [
                "[[data_sets]]",
                f"tags = {json.dumps(list(data_set.tags))}",
                f"file = {json.dumps(str(data_set.file))}",
                f"columns = {json.dumps(list(data_set.columns))}",
            ]
            if data_set.budget is not None:
                lines += [f"epsilon = {data_set.budget.epsilon!r}", f"delta = {data_set.budget.delta!r}"]
        for model in self._models:
            lines += ["[[models]]", f"file = {json.dumps(str(model))}"]
        return "\n".join([*lines, ""])
