"""``cloister data``: data sets on their way to a machine that is not yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from cloister.errors import ConfigurationError
from cloister.node.config import SEALED
from cloister.node.sealed_file import new_key, read_key, seal_file

app: Final = typer.Typer(no_args_is_help=True)

_FORMATS: Final = (".npz", ".safetensors")


@app.callback()
def _data() -> None:
    """Seal a data set, so that only a node that has proved what it runs can open it."""


@app.command()
def seal(
    file: Annotated[Path, typer.Argument(help="The data set, .npz or .safetensors.", show_default=False)],
    *,
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="FILE.sealed")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The file with the key; it is made if there is none.", show_default="FILE.key")
    ] = None,
) -> None:
    """Encrypt a data set. The key stays here, until you provision it to a node that you have verified."""
    target = out or file.with_name(file.name + SEALED)
    key_file = key or file.with_name(file.name + ".key")
    if file.suffix not in _FORMATS:
        raise ConfigurationError(f"{file}: a data set is an .npz or a .safetensors file")
    if target.suffix != SEALED or Path(target.stem).suffix != file.suffix:
        raise ConfigurationError(
            f"{target}: name it so that it ends in {file.suffix}{SEALED}, which tells what is in it"
        )
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}; name the data set's")
    if target.exists():
        raise ConfigurationError(f"{target} exists and is not overwritten; name another file with --out")
    made = not key_file.exists()
    secret = new_key(key_file) if made else read_key(key_file)
    seal_file(file, target, key=secret)
    typer.echo(f"sealed  {target}, {target.stat().st_size} bytes")
    typer.echo(f"key     {key_file}, {'made just now' if made else 'which was there already'}")
    if not made:
        typer.echo(_SHARED)
    typer.echo(_NEXT.format(file=target.name, name=key_file.stem, key=key_file))


_SHARED: Final = """
Whoever has files that were sealed with one key can give one out for the other: take a key for each, unless this is a
newer form of the same file."""

_NEXT: Final = """
Copy the sealed file to the node, whose node.toml says
  file = "{file}"
  key = "{name}"
  key_from = "sha256:..."       # your fingerprint: cloister key show me.key
Keep the key here. `cloister provision` has the node prove what it runs, and then gives it the key:
  cloister provision HOST:PORT --name {name} --secret {key} ..."""
