"""Attack: name an operation that writes or reads the worker's files."""

import pytest
import torch

from cloister.tensor import optable


def string_arguments(row):
    base, _, suffix = row.name.removeprefix("aten::").partition(".")
    schema = getattr(getattr(torch.ops.aten, base), suffix or "default")._schema
    return {argument.name for argument in schema.arguments if "str" in str(argument.type)}


def test_from_file_writes_a_file_although_its_schema_mutates_nothing(tmp_path):
    target = tmp_path / "written"
    schema = torch.ops.aten.from_file.default._schema
    assert not schema.is_mutable
    torch.ops.aten.from_file(str(target), True, 4, dtype=torch.uint8).fill_(65)
    assert target.read_bytes() == b"AAAA"


def test_from_file_reads_a_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"key!")
    assert bytes(torch.ops.aten.from_file(str(secret), False, 4, dtype=torch.uint8).tolist()) == b"key!"


@pytest.mark.parametrize("name", ["aten::from_file", "aten::from_file.out", "aten::save"])
def test_it_is_not_admitted(name):
    assert name not in optable.load()


def test_every_string_is_one_of_an_enumeration():
    for row in optable.load().values():
        assert string_arguments(row) == set(row.strings), row.name
        for values in row.strings.values():
            assert values
            assert not any("/" in value for value in values)
