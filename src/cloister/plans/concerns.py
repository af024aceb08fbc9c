"""Why a plan's output may be about single rows: the kinds of concern, each with its words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["fine", "note", "warning", "danger"]


class Concern(Enum):
    """A kind of concern, with how grave it is and what it means for the owner of the rows."""

    PICK = "danger", "takes single rows out of the batch, or puts something where single rows are"
    RANK = "danger", "finds the row that stands first in some order, and hands on that row's value"
    RUN = "danger", "adds up row by row, so that the difference of two entries is one row"
    PLACE = "danger", "treats rows differently by their place in the batch"
    FILTER = "warning", "lets rows count or not by a condition, so that rows can be singled out"
    STEEP = "warning", "multiplies what it makes of a row by a very large number, which can make one row count alone"
    OUTWEIGH = "warning", "weighs rows against each other, so that one can outweigh all others"
    PAIRS = "warning", "compares rows with each other, two by two"
    THIN = "warning", "keeps few rows of a batch by chance"
    UNKNOWN = "warning", "is not understood"

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        severity: Severity = self.value[0]
        return severity

    @property
    def words(self) -> str:
        """What the operation does, to follow its name."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a concern comes up: the line, its operation, and what there is to add."""

    concern: Concern
    line: int
    op: str
    detail: str
    columns: int
    """The tensors of the batch that it is about, as bits."""
