"""An aggregator to test the researcher with: it holds real keys, proves itself, and says what a test has it say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.strategies import State
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.charter.jobs import AgreedJob
from cloister.charter.toml import parse_charter
from cloister.errors import NetworkError
from cloister.ledger import job as jobs
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.net.connection import Connection
from cloister.net.identity import Identity
from cloister.net.proving import Instance, Prover
from cloister.study.study import Study
from cloister.wire.frames import Kind
from cloister.wire.rounds import Accepted, Chain, Finished, Join, RoundMessage, Submit
from tests.support import chains, charters
from tests.support.attested import listening
from tests.support.tls import SOON, WELCOME

ADDRESS = "agg.example:7443"

Script = Callable[["Talk"], None]


class Talk:
    """The aggregator's end of one conversation, after the welcome."""

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self.connection = connection
        self.ledger = ledger
        self.submitted = b""

    @property
    def job(self) -> Job:
        return jobs.decode(self.submitted)

    @property
    def digest(self) -> bytes:
        return jobs.job_digest(self.submitted)

    def say(self, message: RoundMessage, bodies: Sequence[bytes] = ()) -> None:
        self.connection.send(Kind.ROUND, message, [memoryview(body) for body in bodies])

    def hear(self, kind: type) -> tuple[Any, bytes]:
        """The next message, which is of this kind, and its body."""
        frame = self.connection.receive(wait_s=SOON)
        body = bytearray(frame.body_bytes)
        self.connection.read_into(memoryview(body))
        message = frame.message()
        assert isinstance(message, kind), message
        return message, bytes(body)

    def accept(self, *, after: int = 0) -> Join:
        """Opens as an aggregator does whose records go as far as the researcher's, or on from ``after`` of them."""
        join, _ = self.hear(Join)
        self.send(after)
        self.take()
        return join  # type: ignore[no-any-return]

    def take(self) -> None:
        """Takes the job."""
        submit, body = self.hear(Submit)
        self.submitted = body[: submit.job]
        assert jobs.model_digest(self.job, body[submit.job :]) == self.job.start
        self.say(Accepted(self.digest, self.ledger.done(self.digest)))

    def send(self, after: int, vector: NDArray[Any] | None = None, state: State | None = None) -> None:
        """Sends the records after the first ``after``, and a model if there is one."""
        found = self.ledger.since(after)
        sizes = tuple(map(len, found))
        if vector is None:
            self.say(Chain(after + 1, sizes), found)
            return
        kept = State() if state is None else state
        averages = [bytes(each) for each in kept.averages]
        message = Chain(after + 1, sizes, vector.nbytes, kept.rounds, tuple(map(len, averages)))
        self.say(message, [*found, vector.tobytes(), *averages])

    def begin(self, *, instance: str = "first") -> chains.Instance:
        """Has an instance begin in the ledger."""
        found = chains.Instance(instance)
        self.ledger.append(found.begin(self.ledger))
        return found

    def release(
        self,
        vector: NDArray[Any],
        *,
        instance: chains.Instance,
        state: State | None = None,
        metrics: Mapping[str, float] = MappingProxyType({"loss": 0.5}),
        **changed: Any,
    ) -> None:
        """Appends the record of a round that came to this model."""
        released = {
            "salt": bytes(32),
            "model": jobs.model_digest(self.job, vector),
            "state": None if state is None else records.state_digest(state.rounds, state.averages),
            "metrics": dict(metrics),
        }
        shares = chains.share_list(self.ledger, ("bob", "alice"), {"bob": 0.5, "alice": 0.5})
        agreed = chains.cohort(
            self.ledger,
            ("bob", "alice"),
            signer=instance.public,
            job=self.digest,
            name=self.job.name,
            shares=shares,
            **changed,
        )
        self.ledger.append(chains.round_record(self.ledger, instance=instance, agreed=agreed, **released))

    def finish(self, text: str = "") -> None:
        self.say(Finished(self.digest, self.ledger.done(self.digest), text))
        self.until_closed()

    def until_closed(self) -> None:
        """Waits for the researcher to end the connection."""
        try:
            frame = self.connection.receive(wait_s=SOON)
        except NetworkError:
            return
        raise AssertionError(f"the researcher went on with {frame.message()}")


class Aggregator:
    """A charter's aggregator, and its researcher."""

    def __init__(self, folder: Path, *, jobs: Sequence[AgreedJob], start: bytes, **limits: str) -> None:
        self.folder = folder
        self.researcher = Identity.create(folder / "rosa.key")
        text = charters.text(
            jobs=jobs,
            first_model=f'"{start.hex()}"',
            interactive="false",
            **{"limits": chains.LOSS, **limits},
        )
        text = text.replace(charters.fingerprint_of("rosa"), self.researcher.fingerprint)
        text = text.replace("not_after = 2027", "not_after = 2100")
        (folder / "charter.toml").write_text(text, encoding="utf-8")
        self.charter = parse_charter(text)
        attester = SimulatedAttester(measurement=chains.MEASUREMENT, platform=bytes(32))
        self.instance = Instance(role="aggregator", attester=attester, charter=self.charter.digest, name=ADDRESS)
        self.ledger = Ledger(self.charter)
        self._scripts: list[Script] = []

    @contextmanager
    def saying(self, *scripts: Script) -> Iterator[dict[str, Any]]:
        """Serves: the first conversation goes as the first of ``scripts`` says. Gives ``Study``'s options."""
        self._scripts = list(scripts)
        with listening(self._handle, self.instance.context) as at:
            yield {"identity": self.researcher, "routes": {ADDRESS: at}, "accept_simulated": True}
        assert not self._scripts, "a conversation that a test expects did not come about"

    def study(self, options: dict[str, Any], **changed: Any) -> Study:
        return Study(self.folder / "charter.toml", **{**options, **changed})

    def _handle(self, connection: Connection) -> None:
        try:
            hello = Prover(connection, self.instance).open()
        except NetworkError:
            return  # it was only looked at
        assert hello is not None
        assert hello.purpose in ("study", "status")
        connection.send(Kind.WELCOME, WELCOME)
        try:
            self._scripts.pop(0)(Talk(connection, self.ledger))
        finally:
            connection.close()


def vector(length: int, seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(length).astype("float32")
