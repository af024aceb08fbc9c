"""Behaviours 40 and 42: sequences of different lengths, packed for recurrent layers and masked for attention."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpad_sequence,
)

from cloister import PointerTensor
from cloister.errors import NotColocatedError
from cloister.tensor.worker import Worker

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
# PyTorch's own, at what it does with padding here.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

PADDING = torch.tensor([[False, False, False, False], [False, False, True, True]])


def assert_close(pointer: torch.Tensor, expected: torch.Tensor) -> None:
    """That a pointer's values are these, but for rounding: matrix products are grouped in another way here."""
    assert isinstance(pointer, PointerTensor)
    torch.testing.assert_close(pointer.get(keep=True), expected, rtol=1e-4, atol=1e-5)


# The Transformer's encoder.


def encoder(*, norm_first: bool = False, batch_first: bool = True, nested: bool = False) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_40_an_encoder_in_eval_takes_a_padding_mask(b: Worker, nested: bool, mode: str) -> None:
    model = encoder(nested=nested)
    x, kept = torch.randn(2, 4, 8), ~PADDING
    there = copy.deepcopy(model).send(b)
    with MODES[mode]():
        expected = model(x, src_key_padding_mask=PADDING)
        got = there(x.send(b), src_key_padding_mask=PADDING.send(b))
    assert isinstance(got, PointerTensor)
    assert got.shape == expected.shape
    if nested:  # here PyTorch may leave zeros in the places of padding, and at workers nothing does
        torch.testing.assert_close(got.get()[kept], expected[kept], rtol=1e-4, atol=1e-5)
    else:
        assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize(
    "case", ["batch second", "norm first", "causal as well", "causal and named so", "a mask of floats"]
)
def test_40_masks_are_pointers_in_any_form(b: Worker, case: str, mode: str) -> None:
    model = encoder(batch_first=case != "batch second", norm_first=case == "norm first")
    x = torch.randn(4, 2, 8) if case == "batch second" else torch.randn(2, 4, 8)
    padding = PADDING
    masks: dict[str, torch.Tensor] = {}
    if case == "a mask of floats":
        padding = torch.zeros(2, 4).masked_fill(PADDING, -torch.inf)
    if case.startswith("causal"):
        padding = torch.zeros(2, 4).masked_fill(PADDING, -torch.inf)
        masks["mask"] = nn.Transformer.generate_square_subsequent_mask(4)
    named = {"is_causal": True} if case == "causal and named so" else {}
    there = copy.deepcopy(model).send(b)
    pointers = {name: mask.send(b) for name, mask in masks.items()}
    with MODES[mode]():
        expected = model(x, src_key_padding_mask=padding, **masks, **named)
        got = there(x.send(b), src_key_padding_mask=padding.send(b), **pointers, **named)
    assert_close(got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_40_a_local_padding_mask_is_refused(b: Worker, training: bool) -> None:
    model = encoder(nested=True).train(training).send(b)
    with torch.no_grad(), pytest.raises(NotColocatedError, match=rf"local tensor.*send\({b.id}\)"):
        model(torch.randn(2, 4, 8).send(b), src_key_padding_mask=PADDING)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["grad", "inference_mode"])
def test_40_a_whole_transformer_and_its_masks(b: Worker, mode: str) -> None:
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    source, target = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    there = copy.deepcopy(model).send(b)
    names = ("src_key_padding_mask", "memory_key_padding_mask")
    with MODES[mode]():
        expected = model(source, target, **dict.fromkeys(names, PADDING))
        got = there(source.send(b), target.send(b), **dict.fromkeys(names, PADDING.send(b)))
    assert_close(got, expected)


@pytest.mark.parametrize("mode", MODES)
def test_40_views_of_pointers_from_before_inference(b: Worker, mode: str) -> None:
    x = torch.randn(4, 6)
    p = x.send(b)
    with MODES[mode]():
        parts = [p[0], p.view(-1), p.t(), p.unsqueeze(0), *p.chunk(2), p.detach(), p[:, 1:3].T]
        wanted = [x[0], x.view(-1), x.t(), x.unsqueeze(0), *x.chunk(2), x.detach(), x[:, 1:3].T]
    for part, expected in zip(parts, wanted, strict=True):
        assert_close(part, expected)


# Packed sequences.

RECURRENT: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN with relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "LSTM with projection": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
}
LENGTHS = torch.tensor([2, 5, 3])


def packed(
    layer: nn.RNNBase, x: torch.Tensor, lengths: object, *, enforce_sorted: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What ``layer`` makes of padded sequences, padded again; their lengths; its last hidden state."""
    batch_first = layer.batch_first
    sequence = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=enforce_sorted)  # type: ignore[arg-type]
    out, state = layer(sequence)
    assert isinstance(out, PackedSequence)
    padded, found = pad_packed_sequence(out, batch_first=batch_first)
    return padded, found, state[0] if isinstance(state, tuple) else state


@pytest.mark.slow
@pytest.mark.parametrize("name", RECURRENT)
def test_40_packed_sequences_and_their_gradients(b: Worker, name: str) -> None:
    here = RECURRENT[name](3, 4, 2, batch_first=True, bidirectional=True)
    there = copy.deepcopy(here).send(b)
    x = torch.randn(3, 5, 3, requires_grad=True)
    p = x.send(b)
    expected, lengths, state = packed(here, x, LENGTHS)
    got, found, last = packed(there, p, LENGTHS)
    assert type(found) is torch.Tensor
    assert torch.equal(found, lengths)
    assert_close(got, expected)
    assert_close(last, state)
    for result in (expected, got):
        (result * result).sum().backward()
    assert_close(p.grad, x.grad)
    for parameter, wanted in zip(there.parameters(), here.parameters(), strict=True):
        assert_close(parameter.grad, wanted.grad)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_40_packed_sequences_sorted_and_the_batch_second(b: Worker, name: str, mode: str) -> None:
    here = RECURRENT[name](3, 4)
    there = copy.deepcopy(here).send(b)
    x = torch.randn(5, 3, 3)
    with MODES[mode]():
        expected, _, state = packed(here, x, [5, 3, 3], enforce_sorted=True)
        got, found, last = packed(there, x.send(b), [5, 3, 3], enforce_sorted=True)
    assert found.tolist() == [5, 3, 3]
    assert_close(got, expected)
    assert_close(last, state)


class Reader(nn.Module):
    """Packs and pads in its own ``forward``, as most do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 3)
        self.layer = nn.LSTM(3, 4, batch_first=True)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return packed(self.layer, self.embed(words), lengths)[0]


@pytest.mark.slow
def test_40_a_sent_module_packs_in_its_forward(b: Worker) -> None:
    here = Reader()
    there = copy.deepcopy(here).send(b)
    words = torch.randint(9, (3, 5))
    assert_close(there(words.send(b), LENGTHS), here(words, LENGTHS))


@pytest.mark.slow
def test_40_packing_and_padding_in_every_other_way(b: Worker) -> None:
    parts = [torch.randn(n, 3) for n in (2, 4, 1)]
    pointers = [part.send(b) for part in parts]
    sequence, wanted = pack_sequence(pointers, enforce_sorted=False), pack_sequence(parts, enforce_sorted=False)
    assert_close(sequence.data, wanted.data)
    assert torch.equal(sequence.batch_sizes, wanted.batch_sizes)
    assert_close(
        pad_packed_sequence(sequence, padding_value=7.0, total_length=6)[0],
        pad_packed_sequence(wanted, padding_value=7.0, total_length=6)[0],
    )
    padded = pad_sequence(pointers, batch_first=True)
    assert_close(padded, pad_sequence(parts, batch_first=True))
    for got, part in zip(unpad_sequence(padded, torch.tensor([2, 4, 1]), batch_first=True), parts, strict=True):
        assert_close(got, part)


@pytest.mark.parametrize("lengths", [[2, 5, 3], [5, 3, 0], [3, 1], [[1, 1, 1]]], ids=lambda lengths: str(lengths))
def test_42_wrong_lengths_are_refused_as_locally(b: Worker, lengths: list[int]) -> None:
    x = torch.randn(3, 5, 2)
    with pytest.raises(Exception) as expected:  # noqa: PT011  - which one is PyTorch's to say
        pack_padded_sequence(x, lengths, batch_first=True)  # type: ignore[arg-type]
    with pytest.raises(type(expected.value)) as found:
        pack_padded_sequence(x.send(b), lengths, batch_first=True)  # type: ignore[arg-type]
    assert type(found.value) is type(expected.value)


def test_42_lengths_that_reach_beyond_the_padding_are_refused(b: Worker) -> None:
    # PyTorch itself does not look, and reads what lies behind.
    with pytest.raises(RuntimeError):
        pack_padded_sequence(torch.randn(3, 5, 2).send(b), [9, 3, 1], batch_first=True)


def test_42_lengths_are_kept_here(b: Worker) -> None:
    x, lengths = torch.randn(3, 5, 2), torch.tensor([5, 3, 2])
    for padded, enforce_sorted in ((x.send(b), True), (x.send(b), False), (x, True)):
        with pytest.raises(NotColocatedError, match="lengths"):
            pack_padded_sequence(padded, lengths.send(b), batch_first=True, enforce_sorted=enforce_sorted)


# What is not at one place.

MIXED: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(4, 4),
    "GRU": lambda: nn.GRU(4, 4),
    "RNN": lambda: nn.RNN(4, 4),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8).eval(),
}


def called(model: nn.Module, x: torch.Tensor) -> object:
    return model(x, x, x) if isinstance(model, nn.MultiheadAttention) else model(x)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["grad", "inference_mode"])
@pytest.mark.parametrize("name", MIXED)
def test_42_layers_over_pointers_and_local_tensors(b: Worker, a: Worker, name: str, mode: str) -> None:
    x = torch.randn(3, 2, 4)
    with MODES[mode]():
        with pytest.raises(NotColocatedError, match=rf"at {b.id} and a local tensor"):
            called(MIXED[name]().send(b), x)
        with pytest.raises(NotColocatedError, match=rf"at {b.id} and a local tensor"):
            called(MIXED[name](), x.send(b))
        with pytest.raises(NotColocatedError, match=rf"at {b.id}.*at {a.id}|at {a.id}.*at {b.id}"):
            called(MIXED[name]().send(b), x.send(a))


SCATTERED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "inner": torch.inner,
    "take_along_dim": lambda p, x: torch.take_along_dim(p, x.long(), 0),
    "multi_dot": lambda p, x: torch.linalg.multi_dot([p, x, p]),
    "matmul": torch.matmul,
    "bilinear": lambda p, x: nn.functional.bilinear(p, p, x.expand(3, 3, 3)),
}


@pytest.mark.parametrize("name", SCATTERED)
def test_42_operations_that_pytorch_composes(b: Worker, name: str) -> None:
    x = torch.randn(3, 3)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            with pytest.raises(NotColocatedError, match=rf"at {b.id} and a local tensor"):
                SCATTERED[name](x.send(b), x)
            with pytest.raises(NotColocatedError, match=rf"at {b.id} and a local tensor"):
                SCATTERED[name](x, x.send(b))


def test_42_where_to_split_is_known_here(b: Worker) -> None:
    x, where = torch.randn(5, 2), torch.tensor([1, 3])
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            for got, expected in zip(x.send(b).tensor_split(where), x.tensor_split(where), strict=True):
                assert_close(got, expected)
            with pytest.raises(NotColocatedError, match="get"):
                x.send(b).tensor_split(where.send(b))


def test_42_a_state_and_attention_in_two_places(b: Worker) -> None:
    x, state = torch.randn(3, 2, 4), torch.zeros(1, 2, 4)
    with pytest.raises(NotColocatedError, match="local"):
        nn.LSTM(4, 4).send(b)(x.send(b), (state, state))
    with pytest.raises(NotColocatedError, match="local"):
        nn.LSTM(4, 4).send(b)(pack_padded_sequence(x, [3, 1]))
    q = torch.randn(1, 2, 3, 4)
    for arguments in ((q.send(b), q, q), (q, q.send(b), q), (q, q, q.send(b)), (q, q, q, q[:, :, :, :3].send(b))):
        with pytest.raises(NotColocatedError, match=rf"at {b.id} and a local tensor"):
            nn.functional.scaled_dot_product_attention(*arguments)
