"""What a study file says otherwise than another: each value that is signed, exactly, and then its page.

The first half is made of what the charter's digest is made of, so that no field of it can be forgotten.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator

from cloister.charter.charter import content
from cloister.charter.difference import values
from cloister.study.study_file import StudyFile
from cloister.study.study_page import page
from cloister.wire.text import quoted, visible


def diff(old: StudyFile, new: StudyFile) -> list[str]:
    """What another study file says otherwise, line by line, with some lines around; nothing where it says the same.

    Raises:
        PlanError: as ``page``.
    """
    before, after = ([*map(visible, _exactly(study)), "", *page(study, code=True)] for study in (old, new))
    return list(difflib.unified_diff(before, after, "before", "after", lineterm=""))


def _exactly(study: StudyFile) -> Iterator[str]:
    yield "value by value"
    yield from (f"{path} = {value}" for path, value in values("charter", content(study.charter)))
    yield f"text = {_digest(study.text.encode())}"
    for plan in sorted(study.plans):
        for at, constant in enumerate(study.program(plan).constants):
            yield f"plan {plan.hex()}, constant {at} = {_digest(constant.data)}"
    for part in study.tensors.parts:
        yield f"tensor {quoted(part.name)} = {part.spec}, {'buffer' if part.buffer else 'parameter'}"
    for based in study.tensors.base:
        yield f"tensor {quoted(based.name)} = {based.spec}, {quoted(based.tensor)} of {based.file.hex()}"
    for other in study.tensors.constants:
        yield f"tensor {quoted(other.name)} = {other.spec}, {_digest(other.data)}"
    yield f"first model's values = {'not known' if study.vector is None else _digest(study.vector)}"


def _digest(data: bytes) -> str:
    return f"SHA-256 {hashlib.sha256(data).hexdigest()}"
