"""The vectors of docs/wire.md: cloister writes exactly these bytes, reads them back, and refuses the bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cloister import errors
from cloister.wire import messages, optimizers, round_bodies, rounds, sessions
from cloister.wire.frames import PREFIX_BYTES, Kind, pack_prefix, unpack_prefix
from cloister.wire.messages import encode
from cloister.wire.sessions import check_body, decode
from tests.vectors.wire import make

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
VECTORS = json.loads(make.FILE.read_text(encoding="utf-8"))


def named(which: str) -> list[object]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[which]]


def read(data: bytes) -> object:
    """The message in a frame, checked as an endpoint checks it."""
    kind, header_bytes, body_bytes = unpack_prefix(data[:PREFIX_BYTES])
    message = decode(kind, data[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
    round_bodies.check_body(message, body_bytes) if kind is Kind.ROUND else check_body(message, body_bytes)
    assert len(data) == PREFIX_BYTES + header_bytes + body_bytes
    return message


def test_the_file_is_what_its_generator_makes():
    assert make.vectors() == VECTORS, "run: python -m tests.vectors.wire.make"


@pytest.mark.slow
@pytest.mark.parametrize("vector", named("good"))
def test_good_frames(vector):
    data, body = bytes.fromhex(vector["frame"]), bytes.fromhex(vector["body"])
    message = read(data)
    header = encode(message)
    assert pack_prefix(Kind(vector["kind"]), header_bytes=len(header), body_bytes=len(body)) + header + body == data


@pytest.mark.slow
@pytest.mark.parametrize("vector", named("good"))
def test_the_page_shows_them(vector):
    text = "".join(PAGE.read_text(encoding="utf-8").split())
    assert vector["frame"] in text, "run: python -m tests.vectors.wire.make --page"


@pytest.mark.slow
@pytest.mark.parametrize("vector", named("bad"))
def test_bad_frames(vector):
    with pytest.raises(getattr(errors, vector["refused"])) as caught:
        read(bytes.fromhex(vector["frame"]))
    assert type(caught.value) is getattr(errors, vector["refused"])


def test_every_kind_and_every_tag_has_a_vector():
    assert {vector["kind"] for vector in VECTORS["good"]} == set(Kind)
    seen = json.dumps([vector["message"] for vector in VECTORS["good"]])
    named = {**vars(messages), **vars(sessions), **vars(rounds), **vars(optimizers)}.values()
    structs = [it for it in named if isinstance(it, type) and issubclass(it, msgspec.Struct)]
    tags = [struct.__struct_config__.tag for struct in structs]
    assert all(f'"{tag}"' in seen for tag in tags if tag)
