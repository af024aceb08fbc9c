"""What running an operation on arguments from anyone takes. It lives in ``cloister.worker``, which stands above this
package, and is put in here by ``cloister.worker.plans``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from cloister.tensor.ops import Op


class Safety(Protocol):
    """The worker's checks and cares."""

    def check_form(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Refuses calls by their form; raises OpRefusedError."""

    def check_values(self, op: Op, named: Mapping[str, object]) -> None:
        """Refuses arguments that the operation would follow out of its tensors; raises HostileIndexError."""

    def close_gaps(self, op: Op, named: Mapping[str, object], returned: Any) -> None:
        """Writes what the operation hands out without having written it."""

    def leaves_gaps(self, op: Op) -> bool:
        """Whether ``close_gaps`` has something to do."""

    def seeded(self, seed: int, device: torch.device) -> AbstractContextManager[None]:
        """Within it, random numbers come from ``seed``."""


_installed: list[Safety] = []


def install(safety: Safety) -> None:
    """Has plans run with these checks."""
    _installed[:] = [safety]


def installed() -> Safety:
    """The checks that are in force; there is no running without."""
    if not _installed:
        raise RuntimeError("import cloister.worker.plans first: plans run only with the worker's checks")
    return _installed[0]
