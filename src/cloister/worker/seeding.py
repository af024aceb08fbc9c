"""Random numbers from a seed that comes with the operation, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

import torch

_lock: Final = Lock()
"""Workers in one process may be used from several threads, and PyTorch's default generator is one for all of them."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it PyTorch's default generator starts at ``seed``; afterwards it is where it was.

    No generator is shared between operations, so none can be listened to, and the order of operations of two sessions,
    or of two threads of one, changes nobody's numbers.
    """
    if device.type == "cpu":
        generator = torch.default_generator
    else:
        module = torch.get_device_module(device)
        generator = module.default_generators[device.index or 0]
    with _lock:
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            yield
        finally:
            generator.set_state(before)
