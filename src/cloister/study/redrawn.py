"""Whether the digest of a first model is that of what the charter's recipe draws, as far as a charter alone can tell.

The digest is of the model's tensors too: which of them are buffers, and those that are not floating-point, of which a
recipe says nothing. What PyTorch's own layers have of these (BatchNorm) can be told by the names. What a model has of a
base cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloister.charter.charter import Charter
from cloister.errors import CloisterError
from cloister.ledger.first_model import drawn_vector
from cloister.ledger.job import Constant, Part, Tensors
from cloister.wire.tensors import TensorSpec

_STATISTICS: Final = ("running_mean", "running_var")
_COUNTER: Final = "num_batches_tracked"


def stale(charter: Charter) -> str | None:
    """What there is to say of a ``first_model`` that the recipe does not seem to draw; None where it does, or there is
    no recipe, or a base, of whose tensors a charter says nothing."""
    agreed = charter.limits.first_model
    if not charter.recipe or agreed is None or charter.bases:
        return None
    try:
        found = [*_digests(charter)]
    except CloisterError as fault:
        return f"first_model: what the recipe draws cannot be told: {fault}"
    if agreed in found:
        return None
    return (
        f"first_model is {agreed.hex()}, and the recipe now draws {found[0].hex()}: something else in the charter was"
        f' changed after the digest was written down, so set first_model = "{found[0].hex()}". Only if the model has'
        " buffers, or tensors that are not floating-point, of which the charter says nothing, take the digest of what"
        " cloister.draw_first_model returns"
    )


def _digests(charter: Charter) -> Iterator[bytes]:
    """The digests of models that the recipe can be of, the likeliest first."""
    names = {entry.tensor for entry in charter.recipe}
    buffers = {name for name in names if name.rpartition(".")[2] in _STATISTICS}
    parts = tuple(
        Part(entry.tensor, TensorSpec(entry.dtype, entry.shape), entry.tensor in buffers) for entry in charter.recipe
    )
    vector = drawn_vector(charter, Tensors(parts))
    counters = {".".join([*name.split(".")[:-1], _COUNTER]) for name in buffers}
    spec = TensorSpec("int64", ())
    constants = tuple(Constant(name, spec, bytes(spec.nbytes())) for name in sorted(counters))
    yield Tensors(parts, (), constants).name_of(vector)
    if constants:
        yield Tensors(parts).name_of(vector)
