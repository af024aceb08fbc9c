"""Worker processes for tests: real nodes, started as an owner starts them, on ports of the system's choice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cloister
from cloister import Identity, RemoteWorker

SOURCES = Path(cloister.__file__).parents[1]
SERVE = "import sys; from cloister.cli import main; main(['node', 'serve', sys.argv[1]])"
READY_S = 60.0

CONFIGURATION = """
name = "{name}"
listen = "127.0.0.1:0"
identity = "{name}.key"
[session]
memory = "256 MiB"
objects = 20_000
max_sessions = 6
sessions_per_researcher = 6
spare_executors = 1
grace = "2 s"
move_wait = "5 s"
threads = 1
[[researchers]]
name = "carol"
fingerprint = "{researcher}"
"""

NEIGHBOUR = """
[[workers]]
name = "{name}"
fingerprint = "{fingerprint}"
"""


class NodeProcess:
    """A running ``cloister node serve``. What it writes to its error stream is kept in ``log``."""

    def __init__(self, name: str, folder: Path, configuration: str) -> None:
        self.name = name
        file = folder / f"{name}.toml"
        file.write_text(configuration, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.address, self.fingerprint = self._await_ready()

    def _await_ready(self) -> tuple[str, str]:
        assert self.process.stdout is not None
        timer = threading.Timer(READY_S, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        words = line.split()
        if words[:1] != ["ready"]:
            self.stop()
            raise AssertionError(f"{self.name} did not start: {line}\n" + "".join(self.log))
        address, fingerprint = words[-2:]
        return address, fingerprint

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.log.append(line)
                self._news.notify_all()

    def executors(self, *, opened: int) -> list[int]:
        """The process ids of its sessions' executors, as they were opened, once there were ``opened``."""

        def found() -> list[int]:
            return [int(number) for number in re.findall(r"opened, executor (\d+)", "".join(self.log))]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= opened, timeout=READY_S)
            return found()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it as its owner does; after a while, the hard way."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(timeout=20)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Federation:
    """Nodes that know each other, and a researcher whom they all let in.

    A node knows the address of those started before it, so that values go from later ones to earlier ones.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self.researcher = Identity.create(folder / "carol.key")
        self.nodes: dict[str, NodeProcess] = {}
        fingerprints = {name: Identity.create(folder / f"{name}.key").fingerprint for name in names}
        try:
            for name in fingerprints:
                text = CONFIGURATION.format(name=name, researcher=self.researcher.fingerprint)
                for other, fingerprint in fingerprints.items():
                    if other != name:
                        text += NEIGHBOUR.format(name=other, fingerprint=fingerprint)
                        if other in self.nodes:
                            text += f'address = "{self.nodes[other].address}"\n'
                self.nodes[name] = NodeProcess(name, folder, text)
        except BaseException:
            self.close()
            raise

    def connect(self, name: str, *, address: str | None = None, answer_s: float = 60.0) -> RemoteWorker:
        """A new session at the node of this name; ``address`` is that of a proxy before it."""
        node = self.nodes[name]
        return cloister.connect(
            address or node.address, identity=self.researcher, peer=node.fingerprint, connect_s=60.0, answer_s=answer_s
        )

    def close(self) -> None:
        """Ends all of them."""
        with ExitStack() as stack:
            for node in self.nodes.values():
                stack.callback(node.stop)


@contextmanager
def federation(folder: Path, *names: str) -> Iterator[Federation]:
    """Nodes for as long as the block lasts."""
    running = Federation(folder, names)
    try:
        yield running
    finally:
        running.close()
