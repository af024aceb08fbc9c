"""A first model that is published: read from a safetensors file, without PyTorch, and held against the charter."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from cloister.errors import CharterError, CloisterError
from cloister.files import open_regular
from cloister.study.study_file import StudyFile
from cloister.worker.data.headers import tensors_of_safetensors

_BFLOAT16: Final = "bfloat16"


def published_values(study: StudyFile, path: Path) -> bytes:
    """The first model's values, from the file that the charter names by its SHA-256.

    Raises:
        CharterError: the charter names no file, or another; or what is in it is not the charter's first model.
    """
    wanted = study.charter.limits.first_model_file
    if wanted is None:
        raise CharterError(
            "the charter names no published file of the first model (first_model_file in [limits]): look at the study"
            " without one"
        )
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256")
            if digest.digest() != wanted:
                raise CharterError(
                    f"{path} is not the file that the charter names: its SHA-256 is {digest.hexdigest()}"
                )
            file.seek(0)
            values = _values(study, file, path)
    except CharterError:
        raise
    except OSError as fault:
        raise CharterError(f"{path} cannot be read: {fault.strerror}; name the published file") from None
    except (CloisterError, ValueError) as fault:
        raise CharterError(f"{path}: {fault}") from None
    if study.tensors.name_of(values) != study.charter.limits.first_model:
        raise CharterError(f"what is in {path} is not the charter's first model, whose digest is another")
    return values


def _values(study: StudyFile, file: BinaryIO, path: Path) -> bytes:
    """The model's vector, of tensors that each stand in the file under their own name."""
    layout = study.layout
    names, size = [place.name for place in layout.places], path.stat().st_size
    stored = list(tensors_of_safetensors(file, names=names, size=size))
    for place, found in zip(layout.places, stored, strict=True):
        if found.spec != place.spec:
            raise CharterError(f"{place.name!a} in {path} is {found.spec}, and the model's is {place.spec}")
    if sum(found.spec.nbytes() for found in stored) > size:
        raise CharterError(f"{path} is no safetensors file: its tensors overlap")
    vector = np.empty(layout.length, layout.dtype)  # now that the file is known to hold as many values
    for place, found in zip(layout.places, stored, strict=True):
        file.seek(found.start)
        vector[place.start : place.stop] = numbers(file.read(place.spec.nbytes()), place.spec.dtype)
    return vector.tobytes()


def numbers(data: bytes, dtype: str) -> NDArray[np.floating[Any]]:
    """Numbers as a file holds them; NumPy knows no bfloat16, whose bits are the upper half of a float32's."""
    if dtype == _BFLOAT16:
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    found: NDArray[np.floating[Any]] = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return found
