"""What an owner can be told of its data sets for studies before a round: can they be read, and do they fit the plans?

For ``cloister node check``, where the owner waits for it. A node that starts looks at headers alone, and imports
nothing that a file of Parquet takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from cloister.charter import Charter
from cloister.charter.names import shown
from cloister.errors import ConfigurationError, DataSetError, MissingDependencyError
from cloister.node.config import StudyData
from cloister.node.data_files import inspect_columns
from cloister.node.tags import data_set_of
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.schema import Column, check_schema

_PIECE_BYTES: Final = 8 << 20


def columns_of(data: StudyData, *, memory_bytes: int) -> tuple[Column, ...]:
    """The columns of a data set. All of a Parquet file is read, since only its values show nulls.

    Raises:
        ConfigurationError: it cannot be read, or not be trained on. MissingDependencyError: a package for it is not
            installed.
    """
    specs = inspect_columns(data)
    found = [
        Column(name, TensorSpec(spec.dtype, spec.shape[1:]))
        for name, spec in zip(data.columns, specs, strict=True)
        if spec is not None
    ]
    return tuple(found) if len(found) == len(specs) else _read_through(data, memory_bytes)


def misfits(
    charter: Charter,
    data: Sequence[StudyData],
    *,
    plans: Mapping[bytes, Sequence[Column]],
    columns: Callable[[StudyData], tuple[Column, ...]],
) -> Iterator[str]:
    """A sentence for each job of a charter whose plan does not take its data set. ``plans``: what each takes, by its
    digest; a plan that is not among them is passed over."""
    for job in charter.jobs:
        found = data_set_of(job, charter, data)
        if isinstance(found, str) or job.plan not in plans:
            continue
        try:
            check_schema(columns(found), expected=plans[job.plan])
        except DataSetError as fault:
            yield f"job {shown(job.name)} of {shown(charter.name)}, data set {found.name!a}: {fault}"


def _read_through(data: StudyData, memory_bytes: int) -> tuple[Column, ...]:
    try:
        from cloister.worker.data.files import open_file  # its PyTorch is for those who train
    except ModuleNotFoundError as fault:
        raise MissingDependencyError(
            f"training needs {fault.name}, which is not installed: pip install 'cloister[torch]'"
        ) from None
    try:
        opened = open_file(data.path, columns=data.columns, memory_bytes=memory_bytes)
        row_bytes = sum(column.row.nbytes() for column in opened.schema)
        for _ in opened.epoch(max(1, _PIECE_BYTES // row_bytes), seed=0, step=0):
            pass
    except MissingDependencyError as fault:
        raise ConfigurationError(str(fault)) from None
    return tuple(opened.schema)
