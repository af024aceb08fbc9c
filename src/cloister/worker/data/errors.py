"""Files are hostile until they are read: whatever is wrong with one becomes one typed error with its name."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloister.errors import DataSetError, WireError

DAMAGED: Final = (OSError, ValueError, LookupError, WireError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What ``zipfile``, ``json`` and our own readers raise for a broken file. RuntimeError: encrypted and exotic archives
(NotImplementedError), and JSON that is nested too deep (RecursionError)."""


@contextmanager
def reading(path: Path, tensor: str = "") -> Iterator[None]:
    """Within it, what ``zipfile``, ``json`` and our own readers raise for a broken file becomes a ``DataSetError``.

    Raises:
        DataSetError: the file is not there, cannot be read, is damaged, or cannot be trained on; with ``path`` and, if
            it was only about one, ``tensor``.
    """
    where = f"{path}, tensor {tensor!r}" if tensor else f"{path}"
    try:
        yield
    except DataSetError as fault:
        raise DataSetError(f"{where}: {fault}") from None
    except FileNotFoundError:
        raise DataSetError(f"{path}: there is no such file") from None
    except OSError as fault:
        raise DataSetError(f"{path}: it cannot be read: {fault.strerror or fault}") from None
    except MemoryError:
        raise DataSetError(f"{where}: there is not enough memory for it") from None
    except DAMAGED as fault:
        raise DataSetError(
            f"{where}: the file is damaged or not what its name says: {fault}; write it anew, or name another"
        ) from None
