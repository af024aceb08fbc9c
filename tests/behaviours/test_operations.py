"""Behaviours 5 to 8, 10 and 20: what is done with pointers is done at the worker, as PyTorch would do it here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cloister import PointerTensor
from cloister.errors import CloisterError, NotColocatedError
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs

ARITHMETIC: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "p * 3 - 1": lambda p: p * 3 - 1,
    "2 + p": lambda p: 2 + p,
    "p / 2": lambda p: p / 2,
    "2 / p": lambda p: 2 / p,
    "1 - p": lambda p: 1 - p,
    "-p": lambda p: -p,
    "p ** 2": lambda p: p**2,
    "2 ** p": lambda p: 2**p,
    "p // 2": lambda p: p // 2,
    "p % 2": lambda p: p % 2,
    "abs(p)": lambda p: abs(p),
    "p + p": lambda p: p + p,
    "p + 0-dim local": lambda p: p + torch.tensor(2.5),
}

SHAPED: dict[str, Callable[[torch.Tensor], object]] = {
    "p @ p": lambda p: p @ p,
    "matmul": lambda p: torch.matmul(p, p[0]),
    "einsum": lambda p: torch.einsum("ij,kj->ik", p, p),
    "cat": lambda p: torch.cat([p, p], 1),
    "stack": lambda p: torch.stack([p, p]),
    "where": lambda p: torch.where(p > 0, p, 0.0),
    "clamp": lambda p: p.clamp(-0.5, 0.5),
    "view": lambda p: p.view(2, 8),
    "permute": lambda p: p.permute(1, 0),
    "unsqueeze": lambda p: p.unsqueeze(1),
    "sort": lambda p: p.sort(dim=1),
    "max": lambda p: p.max(dim=0),
    "max of all": lambda p: p.max(),
    "split": lambda p: p.split([1, 3]),
    "topk": lambda p: p.topk(2),
    "cumsum": lambda p: p.cumsum(0),
    "mean and std": lambda p: (p.mean(0), p.std()),
    "flatten": lambda p: p.flatten(),
    "masked_fill": lambda p: p.masked_fill(p > 0, 9.0),
    "nonzero": lambda p: (p > 0).nonzero(),
    "masked": lambda p: p[p > 0],
    "unique": lambda p: torch.unique((p > 0).long()),
    "one_hot": lambda p: torch.nn.functional.one_hot((p > 0).long(), 2),
    "triangle": lambda p: torch.linalg.cholesky(p @ p.T + torch.eye(4, device=p.device)),
    "cosine similarity": lambda p: torch.nn.functional.cosine_similarity(p, p * 2 + 1),
    "Hermitian spectrum": lambda p: torch.fft.hfftn(p),
    "conjugated spectrum": lambda p: (torch.fft.fft(p).conj() * 2).abs(),
    "covariance": torch.cov,
    "quantile": lambda p: torch.quantile(p, 0.25, dim=0),
    "causal attention": lambda p: torch.nn.functional.scaled_dot_product_attention(
        p[None], p[None], p[None], is_causal=True
    ),
}

INDEXING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "p[0]": lambda p: p[0],
    "p[-1, 2]": lambda p: p[-1, 2],
    "p[:, 1]": lambda p: p[:, 1],
    "p[1:3, ::2]": lambda p: p[1:3, ::2],
    "p[..., None]": lambda p: p[..., None],
    "p[[0, 2]]": lambda p: p[[0, 2]],
    "p[[0, 2], [1, 1]]": lambda p: p[[0, 2], [1, 1]],
    "p[:, [3, 0]]": lambda p: p[:, [3, 0]],
    "p[[True, False, True, False]]": lambda p: p[[True, False, True, False]],
    "p[local index]": lambda p: p[torch.tensor([3, 0, 3])],
    "p[local mask]": lambda p: p[torch.tensor([True, False, True, False])],
    "p[torch.randperm(4)]": lambda p: p[torch.randperm(4)],
    "p[range]": lambda p: p[range(2)],
}


def results(value: object) -> list[torch.Tensor]:
    """The tensors in what an operation returned, brought here if they are not."""
    tensors = list(value) if isinstance(value, (tuple, list)) else [value]
    return [tensor.get() if isinstance(tensor, PointerTensor) else tensor for tensor in tensors]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARITHMETIC)
def test_05_arithmetic(b: Worker, name: str) -> None:
    x = torch.tensor([1.0, 2.0, -3.0])
    p = ARITHMETIC[name](x.send(b))
    assert p.location is b
    assert torch.equal(p.get(), ARITHMETIC[name](x))


def test_06_zero_dimensional_local_tensors_join(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    assert (p * torch.tensor(3.0)).get().tolist() == [3.0, 6.0]
    assert (torch.tensor(3.0) - p).get().tolist() == [2.0, 1.0]
    assert (p + torch.tensor(1)).get().dtype is torch.float32


def test_06_copy_is_an_upload_or_a_download(b: Worker) -> None:
    p = b.zeros(3)
    assert p.copy_(torch.tensor([1.0, 2.0, 3.0])) is p
    local = torch.zeros(3)
    local.copy_(p)
    assert local.tolist() == [1.0, 2.0, 3.0]


def test_06_other_local_tensors_do_not_join(b: Worker) -> None:
    p = b.zeros(2)
    with pytest.raises(NotColocatedError, match=rf"(?s)at {b.id}.*local.*send\({b.id}\)"):
        p + torch.zeros(2)
    with pytest.raises(NotColocatedError, match="local"):
        torch.zeros(2, 2) @ p
    with pytest.raises(NotColocatedError):
        torch.cat([p, torch.zeros(1)])


def test_06_pointers_of_two_workers_do_not_join(b: Worker, a: Worker) -> None:
    p, q = b.zeros(2), a.zeros(2)
    with pytest.raises(NotColocatedError, match=rf"(?s){b.id}.*{a.id}.*move"):
        p + q
    with pytest.raises(NotColocatedError):
        p @ q


def test_06_a_local_tensor_is_never_written(b: Worker) -> None:
    p = b.ones(())
    for local in (torch.zeros(2), torch.zeros(())):
        with pytest.raises(NotColocatedError):
            local.add_(p)
        with pytest.raises(CloisterError):
            torch.add(p, 1, out=local)
        assert not local.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPED)
def test_07_shapes(b: Worker, name: str) -> None:
    x = torch.randn(4, 4)
    expected = results(SHAPED[name](x))
    pointers = SHAPED[name](x.send(b))
    flat = list(pointers) if isinstance(pointers, (tuple, list)) else [pointers]
    assert [tuple(p.shape) for p in flat] == [tuple(t.shape) for t in expected]
    for got, wanted in zip(results(pointers), expected, strict=True):
        assert got.dtype is wanted.dtype
        assert torch.equal(got, wanted)


def test_07_views_alias_at_the_worker(b: Worker) -> None:
    p = b.zeros(2, 3)
    row, flat = p[1], p.view(-1)
    row.add_(1)
    flat[0] = 5
    assert p.get(keep=True).tolist() == [[5.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert p.t().stride() == (1, 3)
    assert not p.t().is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("name", INDEXING)
def test_08_reading_by_index(b: Worker, name: str) -> None:
    x = torch.randn(4, 4)
    torch.manual_seed(1)
    expected = INDEXING[name](x)
    torch.manual_seed(1)
    assert torch.equal(INDEXING[name](x.send(b)).get(), expected)


def test_08_an_index_may_be_a_pointer(b: Worker) -> None:
    x, index = torch.randn(4, 3), torch.tensor([2, 0])
    p, where = x.send(b), index.send(b)
    assert torch.equal(p[where].get(), x[index])
    assert torch.equal(p[:, where].get(), x[:, index])
    assert torch.equal(p.index_select(0, where).get(), x.index_select(0, index))


WRITES: dict[str, Callable[[torch.Tensor], None]] = {
    "p[0] = 9": lambda p: p.__setitem__(0, 9),
    "p[:, 1] = -1": lambda p: p.__setitem__((slice(None), 1), -1.0),
    "p[[0, 2]] = 5": lambda p: p.__setitem__([0, 2], 5),
    "p[p > 0] = 0": lambda p: p.__setitem__(p > 0, 0.0),
    "p[0] = p[1]": lambda p: p.__setitem__(0, p[1]),
    "p[local index] = 2": lambda p: p.__setitem__(torch.tensor([1, 3]), 2.0),
    "p[1, 2] += 1": lambda p: p.__setitem__((1, 2), p[1, 2] + 1),
    "p[0] = 0-dim": lambda p: p.__setitem__(0, torch.tensor(4.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_08_writing_by_index(b: Worker, name: str) -> None:
    x = torch.randn(4, 4)
    p = x.send(b)
    WRITES[name](x)
    WRITES[name](p)
    assert objs(b) == 1
    assert torch.equal(p.get(), x)


def test_08_rows_are_pointers(b: Worker) -> None:
    x = torch.randn(3, 2)
    rows = list(x.send(b))
    assert all(isinstance(row, PointerTensor) for row in rows)
    assert torch.equal(torch.stack([row.get() for row in rows]), x)


def test_10_in_place_operations_return_the_same_pointer(b: Worker) -> None:
    p = b.zeros(2)
    assert p.add_(1) is p
    assert p.mul_(3) is p
    assert p.clamp_(max=2) is p
    q = p
    q += p
    assert q is p
    assert objs(b) == 1
    assert p.get().tolist() == [4.0, 4.0]


def raised(act: Callable[[], object]) -> Exception:
    """The exception that ``act`` ends in."""
    with pytest.raises(Exception) as found:  # noqa: PT011  - which one is the caller's to compare
        act()
    return found.value


WRONG: dict[str, Callable[[torch.Tensor], object]] = {
    "a sum that does not broadcast": lambda p: p + p[:, :3],
    "a product of wrong sizes": lambda p: p @ p[:3],
    "a view of another size": lambda p: p.view(5, 5),
    "a dimension out of range": lambda p: p.sum(4),
    "an index out of range": lambda p: p[7],
    "too many indices": lambda p: p[0, 0, 0],
    "squeezing nothing is fine, unsqueezing too far is not": lambda p: p.unsqueeze(5),
    "an integer mean": lambda p: p.long().mean(),
    "a matrix that is singular": lambda p: torch.linalg.inv(p * 0),
    "a selected index out of range": lambda p: p.index_select(0, (p[0] * 0 + 9).long()),
    "an embedding out of range": lambda p: torch.nn.functional.embedding((p[0] * 0 + 9).long(), p),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_20_a_wrong_shape_is_refused_as_locally(b: Worker, name: str) -> None:
    x = torch.randn(4, 4)
    expected = raised(lambda: WRONG[name](x))
    p = x.send(b)

    def use() -> object:
        result = WRONG[name](p)
        assert isinstance(result, torch.Tensor)
        return result.get()

    assert isinstance(raised(use), type(expected))
    assert torch.equal(p.get(), x)


def test_20_errors_of_shape_need_no_answer(b: Worker) -> None:
    p = b.zeros(2)
    with pytest.raises(RuntimeError) as found:
        p + b.zeros(3)
    assert not isinstance(found.value, CloisterError)
