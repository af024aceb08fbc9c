"""`cloister`: finds the noun that is meant, and turns errors into a sentence and an exit code.

Only the noun that is used is imported: `cloister --help` answers at once, and `cloister key` needs no torch.
"""

from __future__ import annotations

import platform
import ssl
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from cloister import __version__
from cloister.cli.exits import FAILED, INTERRUPTED, NOT_GENUINE, UNACCEPTABLE, UNREACHED
from cloister.errors import (
    CloisterError,
    CollateralError,
    ConfigurationError,
    EvidenceError,
    MissingDependencyError,
    NetworkError,
    NotGenuineError,
    UnacceptableError,
)
from cloister.wire.text import visible

_CODES: Final[tuple[tuple[type[CloisterError], int], ...]] = (
    (NetworkError, UNREACHED),
    (CollateralError, UNREACHED),
    (NotGenuineError, NOT_GENUINE),
    (EvidenceError, NOT_GENUINE),
    (UnacceptableError, UNACCEPTABLE),
)

_TORCH: Final = frozenset({"torch", "safetensors", "sklearn"})


class Noun(NamedTuple):
    """A sub-command: one line about it, and what adds it to the application."""

    about: str
    add: Callable[[typer.Typer, str, str], None]


def _key(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import key

    app.add_typer(key.app, name=name, help=about)


def _node(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import node

    app.add_typer(node.app, name=name, help=about)


def _attest(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import attest

    app.add_typer(attest.app, name=name, help=about)


def _aggregator(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import aggregator

    app.add_typer(aggregator.app, name=name, help=about)


def _charter(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import charter

    app.add_typer(charter.app, name=name, help=about)


def _data(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import data

    app.add_typer(data.app, name=name, help=about)


def _demo(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import demo

    app.command(name, help=about)(demo.demo)


def _ledger(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import ledger

    app.add_typer(ledger.app, name=name, help=about)


def _provision(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import provision

    app.command(name, help=about)(provision.provision)


def _study(app: typer.Typer, name: str, about: str) -> None:
    from cloister.cli import study

    app.add_typer(study.app, name=name, help=about)


def _version(app: typer.Typer, name: str, about: str) -> None:
    app.command(name, help=about)(show_version)


NOUNS: Final = {
    "aggregator": Noun("Run an aggregator that proves what it is.", _aggregator),
    "attest": Noun("See what an aggregator proves about itself.", _attest),
    "charter": Noun("Write, check and sign the rules that all members agree on.", _charter),
    "data": Noun("Seal a data set for a node on someone else's machine.", _data),
    "demo": Noun("Train one model over three hospitals' data, all on this machine.", _demo),
    "key": Noun("Make, show and renew the key that others know you by.", _key),
    "ledger": Noun("Verify what a study released, from its chain of receipts.", _ledger),
    "node": Noun("Run a worker beside your data.", _node),
    "provision": Noun("Give a node in a TEE a secret, once it has proved itself.", _provision),
    "study": Noun("Plan a study, and read what one would do before you sign it.", _study),
    "version": Noun("Say which versions are installed.", _version),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 not done, 2 wrong usage, 3 a worker not reached, 130 interrupted.

    Evidence that is refused gives 2, 3 or 4: ``exit_code``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(words)
    except CloisterError as fault:
        _complain(str(fault))
        raise SystemExit(exit_code(fault)) from None
    except OSError as fault:  # a full disk, say, wherever it shows
        where = f": {fault.filename}" if fault.filename is not None else ""
        _complain(f"the system refuses it: {fault.strerror or fault}{where}")
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _run(words: Sequence[str]) -> None:
    """Runs a command. What is not installed may turn out to be needed at any point of it.

    Raises:
        MissingDependencyError: it is.
    """
    try:
        _application(words)(args=words, prog_name="cloister")
    except ModuleNotFoundError as fault:
        if fault.name is None or fault.name not in _TORCH:
            raise
        extra = "demo" if fault.name == "sklearn" else "torch"
        noun = next((word for word in words if word in NOUNS), "")
        raise MissingDependencyError(
            f"`cloister {noun}` needs {fault.name}, which is not installed: pip install 'cloister[{extra}]'"
        ) from fault


def exit_code(fault: CloisterError) -> int:
    """The exit code that tells of ``fault``."""
    return next((code for kind, code in _CODES if isinstance(fault, kind)), FAILED)


def show_version() -> None:
    """Say which versions are installed."""
    found = {"cloister": __version__, "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
    for package in ("torch", "cryptography", "msgspec"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    for name, what in found.items():
        typer.echo(f"{name:<13}{what}")


def _application(words: Sequence[str]) -> typer.Typer:
    """The application for this command line: the noun in it whole, the others by their line of help."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Train one PyTorch model on data that nobody has to show.",
    )
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, noun in NOUNS.items():
        if name == chosen:
            noun.add(app, name, noun.about)
        else:
            app.command(name, help=noun.about)(_unloaded)
    app.callback()(_options)
    return app


def _options() -> None:
    pass  # makes sub-commands of what follows, also where there is one only


def _unloaded() -> None:
    raise ConfigurationError("this command is known by name only")  # never reached: the noun used is loaded


def _complain(text: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    # A message can hold words of a stranger's, and they must not steer the terminal.
    shown = "\n".join(map(visible, text.split("\n")))
    console.print(Text.assemble(("cloister: ", "bold red"), shown))
