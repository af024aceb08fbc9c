"""Whether two models are one but for rounding, told from sketches of a kilobyte, since no node keeps all models.

A sketch is a random projection: coordinate i is added, with a random sign, to bucket i mod ``BUCKETS`` (the count
sketch of M. Charikar, K. Chen and M. Farach-Colton, "Finding Frequent Items in Data Streams", 2002). The length of the
difference of two sketches is that of the difference of the vectors, to some 10 %. The signs are the memory's own, so
that no researcher can choose two models whose sketches differ more than they do. A sign is the product of one for the
place in a block and one for the block and a group of places, so that few are drawn, and a model costs little more than
to read it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

BUCKETS: Final = 256
NEAR: Final = 0.005
"""The distance, over the larger length, up to which models count as one. Rounding to bfloat16 is 0.001 of it; two first
models that were drawn apart are 1.4 from each other."""
_CONTEXT: Final = b"cloister sketch of a model 2\0"
_BLOCK: Final = 256 * BUCKETS
_GROUPS: Final = 64


def sketch(vector: NDArray[Any], *, key: bytes) -> bytes:
    """The sketch of a model's vector, 256 numbers of float64. ``key``: 32 bytes, of the memory."""
    count, left = divmod(len(vector), _BLOCK)
    signs = _signs(key + b"groups", (count + 1) * _GROUPS).reshape(count + 1, _GROUPS).astype(vector.dtype)
    blocks = vector[: len(vector) - left].reshape(count, _GROUPS, _BLOCK // _GROUPS)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.matmul(signs[:count].T[:, None], blocks.transpose(1, 0, 2)).ravel()  # makes no copy of the model
        found[:left] += np.repeat(signs[count], _BLOCK // _GROUPS)[:left] * vector[len(vector) - left :]
        found *= _signs(key + b"places", _BLOCK)
        buckets: NDArray[np.float64] = found.reshape(-1, BUCKETS).sum(0, dtype=np.float64)
        return buckets.tobytes()


@lru_cache(maxsize=8)
def _signs(key: bytes, count: int) -> NDArray[np.float32]:
    """So many numbers of 1 or -1, of ChaCha20's key stream."""
    cipher = Cipher(algorithms.ChaCha20(hashlib.sha256(_CONTEXT + key).digest(), bytes(16)), mode=None).encryptor()
    bits = np.unpackbits(np.frombuffer(cipher.update(bytes(-(-count // 8))), np.uint8))[:count]
    return 1 - 2 * bits.astype(np.float32)


def near(one: bytes, other: bytes) -> bool:
    """Whether two sketches are of models that are one but for rounding; also where that cannot be told."""
    first, second = np.frombuffer(one), np.frombuffer(other)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.linalg.norm(first - second)
        return not apart > NEAR * max(np.linalg.norm(first), np.linalg.norm(second))
