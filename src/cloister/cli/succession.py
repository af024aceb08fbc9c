"""`cloister charter succeed`, `diff` and `hand-over`: from one charter to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister.charter import Charter
from cloister.charter.difference import changes
from cloister.charter.names import shown
from cloister.charter.signatures import encode
from cloister.charter.succeeding import Asked, succeed
from cloister.charter.succession import FORMAT, hand_over
from cloister.errors import CharterError, ConfigurationError
from cloister.net.files import read_charter, read_charter_text
from cloister.net.identity import private_key
from cloister.net.signatures import HAND_OVER, signatures_beside
from cloister.wire.text import visible

_EQUALS: Final = "NAME=KEY"

OldCharter = Annotated[Path, typer.Argument(metavar="OLD.TOML", help="The charter before.", show_default=False)]
NewCharter = Annotated[Path, typer.Argument(metavar="NEW.TOML", help="Its successor.", show_default=False)]
Pairs = list[str] | None


def succeed_(
    path: OldCharter,
    *,
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.", show_default=False)],
    add_owner: Annotated[Pairs, typer.Option(metavar=_EQUALS, help="An owner that joins.")] = None,
    rotate: Annotated[Pairs, typer.Option(metavar=_EQUALS, help="A member's other key.")] = None,
    remove: Annotated[
        Pairs, typer.Option(metavar="NAME", help="A member that leaves; an owner signs for that as an auditor.")
    ] = None,
    gone: Annotated[
        Pairs, typer.Option(metavar="NAME", help="One that is there no more, and cannot sign: nodes wait.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of each job from now on. Otherwise those that are left.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="The folder of the researcher's script.", show_default="OLD.rounds")
    ] = None,
) -> None:
    """Write the charter that succeeds another: serial and digest, what you ask for, and the newest model as the first.

    Says what has changed, and what each owner checks before it signs.
    """
    from cloister.study.reached import reached  # its PyTorch is for those who have models

    text = read_charter_text(path, error=CharterError)
    old = read_charter(path, error=CharterError)
    asked = Asked(
        owners=_pairs(add_owner),
        keys=_pairs(rotate),
        leave=tuple(remove or ()),
        gone=tuple(gone or ()),
        rounds=rounds,
    )
    found = reached(old, state=state, charter_file=path)
    written = succeed(text, asked=asked, reached=found, source=str(path))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(written)
    except FileExistsError:
        raise ConfigurationError(f"{out} exists and is not overwritten; name another file") from None
    except OSError as fault:
        raise ConfigurationError(f"{out} cannot be written: {fault.strerror}") from None
    new = read_charter(out, error=CharterError)
    typer.echo(f"wrote {out}, {new.digest.hex()}")
    _echo(_told(old, new))
    if old.jobs and found.model is None:
        typer.echo("hint        no round was released that is known here: it starts from the same model as before")
        _echo(_redrawn(new))
    typer.echo(f"Next: each member reads `cloister charter diff {path} {out}`, and signs {out}")


def diff(old: OldCharter, new: NewCharter) -> None:
    """Print what a charter says otherwise than the one before, and what to check before signing it."""
    _echo(_told(*(read_charter(path, error=CharterError) for path in (old, new))))


def hand_over_(
    path: NewCharter,
    *,
    old: Annotated[Path, typer.Option(help="The charter in which the key is yours.", show_default=False)],
    key: Annotated[Path, typer.Option(help="The identity file that you had until now.", show_default=False)],
) -> None:
    """Sign a successor with the key that you had until now, in which you have another one, or no place any more.

    Without it, nodes take the key for lost: they wait, if the old charter says how long, or do not follow.
    """
    before, new = (read_charter(file, error=CharterError) for file in (old, path))
    signature = hand_over(before, new=new, key=private_key(key))
    owner = next(member for member in before.owners if member.key == signature.key)
    file = signatures_beside(path) / f"{owner.name}{HAND_OVER}"
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(encode(signature, form=FORMAT), encoding="utf-8")
    except OSError as fault:
        raise ConfigurationError(f"{file} cannot be written: {fault.strerror}") from None
    typer.echo(
        f"{shown(owner.name)} hands over to {new.digest.hex()}: {file}. Give that file to the other members, and keep"
        " the key until their nodes have started."
    )


def _told(old: Charter, new: Charter) -> Iterator[str]:
    found = [*changes(old, new)]
    yield from (f"changed     {each.said}" for each in found)
    yield from (f"check       {each.check}" for each in dict.fromkeys(found) if each.check)
    if not new.not_before <= datetime.now(UTC) <= new.not_after:
        yield "warning     it is not valid now: not_before, not_after"


def _redrawn(new: Charter) -> Iterator[str]:
    """Whether a recipe draws another model now that other things stand in the charter."""
    from cloister.study.redrawn import stale

    hint = stale(new)
    yield from [] if hint is None else [f"hint        {hint}"]


def _pairs(given: Sequence[str] | None) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, key = each.partition("=")
        if not equals or name in found:
            raise ConfigurationError(f"{each!a} is no {_EQUALS}, or its name stands there twice")
        found[name] = key
    return found


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(visible(line))
