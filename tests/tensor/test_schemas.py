"""The schemas that are read from the table's text say what PyTorch's own say."""

from __future__ import annotations

import pytest

from cloister.tensor import optable, schemas
from cloister.tensor.ops import Of, by_name

OF = {Of.TENSOR: "tensor", Of.TENSORS: "tensors"}


@pytest.mark.slow
def test_they_agree_with_pytorch_on_every_operation() -> None:
    for name in optable.load():
        op, read = by_name(name), schemas.find(name)
        assert read is not None
        assert [each.name for each in read.arguments] == [param.name for param in op.params], name
        assert [each.of for each in read.arguments] == [OF.get(param.of, "other") for param in op.params], name
        assert [each.written for each in read.arguments] == [param.written for param in op.params], name
        assert read.views == op.views, name
        assert list(read.makes) == [OF[of] for of in op.returns if of in OF], name
        by_keyword = [argument.kwarg_only for argument in op.overload._schema.arguments]
        assert [each.by_name_only for each in read.arguments] == by_keyword, name


def test_what_is_not_in_the_table_has_none() -> None:
    assert schemas.find("aten::from_file") is None


def test_defaults_with_commas_and_brackets_are_no_arguments() -> None:
    read = schemas.find("aten::avg_pool2d")
    assert read is not None
    assert [each.name for each in read.arguments][:3] == ["self", "kernel_size", "stride"]
