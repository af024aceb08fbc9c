"""Operations that count up to a number: beyond a bound they are refused, and within it they are PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch

from cloister.worker import guards
from cloister.worker.guards import series
from tests.support.sessions import Session

POLYNOMIALS = sorted({name.partition(".")[0] for name in series.GUARDS if "polynomial" in name})
X = torch.tensor([0.5, -2.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("degree", [1 << 62, 4097, 4097.0, 1e300, math.inf])
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_a_polynomial_of_endless_degree_is_refused(name: str, degree: float) -> None:
    session = Session()
    x = session.put(X)
    failure = session.call(f"{name.removeprefix('aten::')}.n_scalar", x, degree)
    assert failure is not None
    assert failure.code == "hostile-index"
    assert "n must be at most 4096" in failure.text
    degrees = torch.tensor([1.0, degree, 2.0], dtype=torch.float64)
    n = session.put(degrees)
    for overload, first in (("", x), (".x_scalar", 0.5)):
        failure = session.call(f"{name.removeprefix('aten::')}{overload}", first, n)
        assert failure is not None
        assert failure.code == "hostile-index"


@pytest.mark.slow
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_a_polynomial_that_ends_is_pytorchs(name: str) -> None:
    session = Session()
    here = getattr(torch.special, name.removeprefix("aten::special_"))
    x, n = session.put(X), session.put(torch.tensor([0.0, 3.0, math.nan]))
    there = session.get(session.made(f"{name.removeprefix('aten::')}.n_scalar", x, 5))
    torch.testing.assert_close(there, here(X, 5), equal_nan=True, rtol=0, atol=0)
    there = session.get(session.made(name.removeprefix("aten::"), x, n))
    torch.testing.assert_close(there, here(X, torch.tensor([0.0, 3.0, math.nan])), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_a_random_number_from_beyond_the_last_integer_is_refused(dtype: torch.dtype) -> None:
    session = Session()
    x = session.put(torch.zeros(3, dtype=dtype))
    failure = session.call("random_.from", x, (1 << 63) - 1, None, outs=0, seed=1)
    assert failure is not None
    assert failure.code == "hostile-index"
    assert session.call("random_.from", x, 0, 10, outs=0, seed=1) is None
    assert bool((session.get(x) < 10).all())


def test_a_gamma_function_of_endless_dimension_is_refused() -> None:
    session = Session()
    failure = session.call("mvlgamma", session.put(torch.full((2,), 1e15)), 1 << 31)
    assert failure is not None
    assert failure.code == "hostile-index"
    there = session.get(session.made("mvlgamma", session.put(torch.full((2,), 5.0)), 3))
    torch.testing.assert_close(there, torch.mvlgamma(torch.full((2,), 5.0), 3), rtol=0, atol=0)


@pytest.mark.parametrize("far", [-1e12 + 0.5, -4097.5])
def test_a_zeta_function_far_below_zero_is_refused(far: float) -> None:
    session = Session()
    place, two = torch.tensor([1.5, far], dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)
    x, q = session.put(two), session.put(place)
    calls: list[tuple[str, tuple[object, ...], int]] = [
        ("special_zeta", (x, q), 1),
        ("special_zeta.self_scalar", (2.0, q), 1),
        ("special_zeta.other_scalar", (x, far), 1),
        ("polygamma", (3, q), 1),
        ("polygamma_", (q, 3), 0),
    ]
    for name, arguments, outs in calls:
        failure = session.call(name, *arguments, outs=outs)
        assert failure is not None, name
        assert failure.code == "hostile-index"
    there = session.get(session.made("polygamma", 1, q))
    torch.testing.assert_close(there, torch.polygamma(1, place), rtol=0, atol=0)
    near = torch.tensor([1.5, -3.5], dtype=torch.float64)
    there = session.get(session.made("special_zeta", x, session.put(near)))
    torch.testing.assert_close(there, torch.special.zeta(two, near), rtol=0, atol=0)


def test_a_binomial_of_no_number_is_refused() -> None:
    session = Session()
    prob = session.put(torch.full((2,), 0.3))
    failure = session.call("binomial", session.put(torch.tensor([4.0, math.nan])), prob, seed=1)
    assert failure is not None
    assert failure.code == "hostile-index"
    there = session.get(session.made("binomial", session.put(torch.full((2,), 4.0)), prob, seed=1))
    assert bool(((there >= 0) & (there <= 4)).all())


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_eigenvalues_of_what_is_no_number_are_refused(value: float) -> None:
    """MKL takes the process with it."""
    session = Session()
    failure = session.call("_linalg_eigvals", session.put(torch.full((3, 3), value)))
    assert failure is not None
    assert failure.code == "hostile-index"
    there = session.get(session.made("_linalg_eigvals", session.put(torch.eye(3))))
    assert there.tolist() == [1, 1, 1]


def test_a_plan_is_held_to_the_same() -> None:
    """Whoever runs a plan asks ``guards.check``, by name, before each operation (``cloister.worker.plans``)."""
    from cloister.errors import HostileIndexError
    from cloister.tensor import ops
    from cloister.tensor.plan.safety import installed
    from cloister.worker import plans

    assert plans.Plan
    for name, arguments in {
        "aten::special_laguerre_polynomial_l.n_scalar": {"x": X, "n": 1 << 62},
        "aten::random_.from": {"self": X, "from": (1 << 63) - 1},
    }.items():
        assert name in guards.GUARDED
        with pytest.raises(HostileIndexError):
            installed().check_values(ops.by_name(name), arguments)
