"""Embeddings: indices that must be rows, and bags that must be where their offsets say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloister.worker.guards.call import Call, Guard, each


def _embedding_backward(call: Call) -> None:
    indices, grad = call.tensor("indices"), call.tensor("grad_output")
    if grad.dim() == 0 or grad.shape[:-1] != indices.shape:
        call.refuse("grad_output", f"one row for each of the indices, {list(indices.shape)}")
    call.within("indices", 0, call.integer("num_weights"))


def _offsets(call: Call, *, bags: int | None = None) -> None:
    """Where bags begin: from 0, never falling, within the indices."""
    call.packed("indices", "offsets")  # kernels would take what lies in between for indices
    offsets, count = call.tensor("offsets"), call.tensor("indices").numel()
    if offsets.dim() != 1 or (offsets.numel() == 0 and count):
        call.refuse("offsets", "one for each bag")
    if bags is not None and offsets.numel() not in (bags, bags + 1):
        call.refuse("offsets", f"one for each of {bags} bags")
    call.within("offsets", 0, count + 1)
    if bags is not None and offsets.numel() > bags and int(offsets[-1]) != count:
        call.refuse("offsets", "the number of indices at the end that follows the last bag")
    if offsets.numel() and (int(offsets[0]) != 0 or bool((offsets[1:] < offsets[:-1]).any())):
        call.refuse("offsets", "0 first, and never less than the one before")


def _embedding_bag(call: Call) -> None:
    weight = call.tensor("weight")
    _offsets(call)
    call.within("indices", 0, weight.shape[0] if weight.dim() else 0)
    call.counted("per_sample_weights", call.tensor("indices").numel())
    if not 0 <= call.integer("mode") <= 2:
        call.refuse("mode", "at least 0 and less than 3")
    if call.flag("include_last_offset") and call.tensor("offsets").numel() == 0:
        call.refuse("offsets", "at least the last one")


def _embedding_bag_backward(call: Call) -> None:
    grad, indices, rows = call.tensor("grad"), call.tensor("indices"), call.integer("num_weights")
    if grad.dim() != 2 or indices.dim() != 1:
        call.refuse("grad", "of two dimensions, for indices of one")
    bags, width = grad.shape
    if call.flag("sparse"):
        call.refuse("sparse", "False: workers hold no sparse tensors")
    if not 0 <= call.integer("mode") <= 2:
        call.refuse("mode", "at least 0 and less than 3")
    if call.maybe("offsets") is not None:
        _offsets(call, bags=bags)
    call.within("indices", 0, rows)
    _bags_of_indices(call, bags)
    call.counted("per_sample_weights", indices.numel())
    if call.integer("mode") == 2:
        call.shaped("maximum_indices", [bags, width])
        call.within("maximum_indices", -1, rows)
    elif call.integer("mode") == 1 and call.tensor("bag_size").numel() not in (bags, bags + 1):
        call.refuse("bag_size", f"of {bags} elements")


def _bags_of_indices(call: Call, bags: int) -> None:
    """Which bag each index is in; may be left out where the operation can find it from the offsets."""
    call.packed("indices", "offset2bag", "bag_size", "maximum_indices")
    if call.tensor("offset2bag").numel() or call.maybe("offsets") is None:
        call.counted("offset2bag", call.tensor("indices").numel())
    call.within("offset2bag", 0, bags)


def _embedding_bag_per_sample_weights_backward(call: Call) -> None:
    grad, weight = call.tensor("grad"), call.tensor("weight")
    if grad.dim() != 2 or weight.dim() != 2 or grad.shape[1] != weight.shape[1]:
        call.refuse("grad", "of as many columns as weight")
    _offsets(call, bags=grad.shape[0])
    call.within("indices", 0, weight.shape[0])
    _bags_of_indices(call, grad.shape[0])


GUARDS: Final[Mapping[str, Guard]] = {
    "aten::embedding_dense_backward": _embedding_backward,
    "aten::_embedding_bag": _embedding_bag,
    **each(["_embedding_bag_backward", "_embedding_bag_dense_backward"], _embedding_bag_backward),
    "aten::_embedding_bag_per_sample_weights_backward": _embedding_bag_per_sample_weights_backward,
}
