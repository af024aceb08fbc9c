"""Files of weights, mapped: a base model as its owners and its researcher hold it.

Nothing of a file is read before it is used, and the processes that map it share one copy in memory, which the system
takes back when it needs room. So a checkpoint may be larger than the memory that a training is allowed.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from cloister.errors import DataSetError
from cloister.files import identity_of, opened
from cloister.tensor.geometry import DTYPES
from cloister.wire.tensors import ITEM_BYTES, TensorSpec
from cloister.worker.data.errors import reading
from cloister.worker.data.headers import Stored, all_of_safetensors, missing
from cloister.worker.values import check_received


class Weights:
    """A ``.safetensors`` file, mapped.

    Raises:
        DataSetError: it cannot be read, or is damaged; the message names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        with reading(path, ""), opened(path) as file:
            self.identity: Final = identity_of(file.fileno())
            self._stored = all_of_safetensors(file, size=os.fstat(file.fileno()).st_size)
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Element type and shape of each tensor, by its name."""
        return {name: stored.spec for name, stored in self._stored.items()}

    def digest(self) -> bytes:
        """SHA-256 of the whole file, 32 bytes. It is read for that, and not by way of the mapping, whose pages would
        come one by one and count as this process's memory.

        Raises:
            DataSetError: it has changed since it was mapped, or cannot be read any more.
        """
        with reading(self.path, ""), opened(self.path) as file:
            found = hashlib.file_digest(file, "sha256").digest()
            if identity_of(file.fileno()) != self.identity:
                raise DataSetError("it has changed since it was opened; open it again once it is whole")
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor in the file's own memory, to be read: whoever writes into it ends its process.

        Raises:
            DataSetError: there is none of that name, or it cannot be used where it lies.
        """
        stored = self._stored.get(name)
        with reading(self.path, name):
            if stored is None:
                raise missing(name, [*self._stored])
            return self._view(stored)

    def _view(self, stored: Stored) -> torch.Tensor:
        spec, start, _ = stored
        if not spec.count():
            return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
        if start % ITEM_BYTES[spec.dtype]:
            raise DataSetError("its values lie at odd places; write the file anew with the safetensors library")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nor is it written
            values = torch.frombuffer(self._mapping, dtype=DTYPES[spec.dtype], count=spec.count(), offset=start)
        check_received([values])
        return values.view(spec.shape)
