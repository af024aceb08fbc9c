"""The server's update rules, against the papers' pseudo-code written out number by number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregation.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, State, Strategy
from cloister.aggregation.vectors import BLOCK
from cloister.errors import AggregationError, ConfigurationError
from tests.aggregation.means import Contribution, mean

STRATEGIES: list[Strategy] = [FedAvg(), FedProx(0.1), FedAvgM(), FedAdagrad(), FedYogi(), FedAdam()]


def run(rule: Strategy, model: np.ndarray[Any, Any], means: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    state = rule.start(len(model))
    for step in means:
        model, state = rule.apply(model, mean=step, state=state)
    assert state.rounds == len(means)
    return model


def some(rounds: int = 7, length: int = 5) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(3)
    return generator.normal(size=length), generator.normal(size=(rounds, length)) * 10.0 ** generator.integers(
        -4, 2, length
    )


# --- The papers, in plain Python: one coordinate at a time, names and signs as printed.


def mcmahan_algorithm_1(w: float, members: list[list[tuple[int, float]]]) -> float:
    """FedAvg: w_{t+1} <- sum over k of n_k / n * w^k_{t+1}. A round is a list of (n_k, the member's update)."""
    for round_ in members:
        n = sum(n_k for n_k, _ in round_)
        w = sum(n_k / n * (w + update) for n_k, update in round_)
    return w


def hsu_fedavgm(w: float, deltas: list[float], beta: float) -> float:
    """v <- beta v + delta w, w <- w - v, with delta w = w - w_k, the other way round than our update."""
    v = 0.0
    for delta in deltas:
        v = beta * v + (-delta)
        w = w - v
    return w


def reddi_algorithm_2(kind: str, x: float, deltas: list[float], lr: float, b1: float, b2: float, tau: float) -> float:
    m, v = 0.0, tau**2
    for delta in deltas:
        m = b1 * m + (1 - b1) * delta
        if kind == "FedAdagrad":
            v = v + delta**2
        elif kind == "FedYogi":
            sign = int(v > delta**2) - int(v < delta**2)
            v = v - (1 - b2) * delta**2 * sign
        else:
            v = b2 * v + (1 - b2) * delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
    return x


@pytest.mark.parametrize("rule", [FedAvg(), FedProx(0.3)])
def test_fedavg_averages_the_members_models(rule: Strategy) -> None:
    model, updates = some(6, 4)
    members = [[(3, u), (5, v), (1, w)] for u, v, w in (updates[:3], updates[3:])]
    means = np.array([mean({str(n): Contribution(u, n) for n, u in round_}) for round_ in members])
    wanted = [
        mcmahan_algorithm_1(w, [[(n, u[i]) for n, u in round_] for round_ in members]) for i, w in enumerate(model)
    ]
    np.testing.assert_allclose(run(rule, model, means), wanted, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.997])
def test_fedavgm_is_hsu_qi_and_brown(beta: float) -> None:
    model, means = some()
    wanted = [hsu_fedavgm(w, list(means[:, i]), beta) for i, w in enumerate(model)]
    np.testing.assert_allclose(run(FedAvgM(beta), model, means), wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", [FedAdagrad, FedYogi, FedAdam])
@pytest.mark.parametrize(("lr", "beta1", "beta2", "tau"), [(0.1, 0.9, 0.99, 1e-3), (1.0, 0.0, 0.5, 1e-8)])
def test_the_adaptive_rules_are_reddi_algorithm_2(kind: Any, lr: float, beta1: float, beta2: float, tau: float) -> None:
    model, means = some()
    numbers = {"lr": lr, "beta1": beta1, "tau": tau} | ({} if kind is FedAdagrad else {"beta2": beta2})
    wanted = [
        reddi_algorithm_2(kind.__name__, x, list(means[:, i]), lr, beta1, beta2, tau) for i, x in enumerate(model)
    ]
    np.testing.assert_allclose(run(kind(**numbers), model, means), wanted, rtol=1e-12)


def test_nothing_corrects_the_bias_of_the_first_rounds() -> None:
    model, _ = FedAdam(lr=1.0, beta1=0.9, tau=1e-12).apply(
        np.zeros(1), mean=np.ones(1), state=FedAdam(tau=1e-12).start(1)
    )
    assert model[0] == pytest.approx(0.1 / math.sqrt(0.01))  # with Adam's correction it would be 1


# --- Laws


@pytest.mark.parametrize("rule", STRATEGIES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_model_keeps_its_type_and_nothing_changes_in_place(rule: Strategy, dtype: Any) -> None:
    model, means = (array.astype(dtype) for array in some())
    before, state = model.copy(), rule.start(len(model))
    for step in means:
        kept = [None if a is None else a.copy() for a in (state.momentum, state.squares)]
        new, after = rule.apply(model, mean=step, state=state)
        assert new.dtype == dtype
        assert np.array_equal(model, before)
        assert all(
            a is b is None or np.array_equal(a, b) for a, b in zip((state.momentum, state.squares), kept, strict=True)
        )
        again, _ = rule.apply(model, mean=step, state=state)
        assert again.tobytes() == new.tobytes()
        state = after


@pytest.mark.parametrize("rule", STRATEGIES, ids=lambda rule: type(rule).__name__)
def test_each_coordinate_goes_its_own_way(rule: Strategy) -> None:
    model, means = some()
    order = np.array([3, 1, 4, 0, 2])
    assert np.array_equal(run(rule, model, means)[order], run(rule, model[order], means[:, order]))


@pytest.mark.parametrize("rule", STRATEGIES, ids=lambda rule: type(rule).__name__)
def test_a_model_longer_than_a_block(rule: Strategy) -> None:
    generator = np.random.default_rng(0)
    model, means = generator.normal(size=BLOCK + 3), generator.normal(size=(2, BLOCK + 3))
    parts = [run(rule, model[part], means[:, part]) for part in (slice(0, 7), slice(7, None))]
    assert np.array_equal(run(rule, model, means), np.concatenate(parts))


@given(st.floats(0.01, 2), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5))
def test_without_momentum_fedavgm_is_fedavg(lr: float, values: list[float]) -> None:
    model, means = np.arange(float(len(values))), np.array([values, values])
    assert np.array_equal(run(FedAvgM(0.0, lr), model, means), run(FedAvg(lr), model, means))


def test_one_rounding_to_the_models_type() -> None:
    model, mean = np.array([1.0], np.float32), np.array([2.0**-25])
    assert FedAvg(3.0).apply(model, mean=mean, state=State())[0][0] == np.float32(1 + 2.0**-23)


SINGLES = st.floats(-(2.0**126), 2.0**126, width=32)


@given(st.lists(st.tuples(SINGLES, SINGLES), min_size=1, max_size=8))
def test_a_mean_in_the_models_type_comes_to_the_bits_of_one_in_doubles(pairs: list[tuple[float, float]]) -> None:
    """An instance has the mean in float64, and whoever is sent a step has it in float32."""
    model, mean = (np.array(each, np.float32) for each in zip(*pairs, strict=True))
    short, _ = FedAvg().apply(model, mean=mean, state=State())
    long, _ = FedAvg().apply(model, mean=mean.astype(np.float64), state=State())
    assert short.tobytes() == long.tobytes()


# --- Refusals


@pytest.mark.parametrize("rule", STRATEGIES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize(
    ("model", "mean", "text"),
    [
        (np.zeros(2), np.zeros(3), "has 3 values where the model has 2"),
        (np.zeros((2, 1)), np.zeros(2), "the model is not a flat vector"),
        (np.zeros(2, int), np.zeros(2), "the model is not a flat vector"),
        (np.zeros(2), np.array([0, np.nan]), "mean of the contributions holds a value that is not finite"),
        (np.array([np.inf, 0]), np.zeros(2), "the model holds a value that is not finite"),
    ],
)
def test_vectors_that_do_not_fit(rule: Strategy, model: Any, mean: Any, text: str) -> None:
    with pytest.raises(AggregationError, match=text):
        rule.apply(model, mean=mean, state=rule.start(2))


def test_a_model_that_overflows_is_refused() -> None:
    with pytest.raises(AggregationError, match="new model"):
        FedAvg().apply(np.full(1, 3e38, np.float32), mean=np.full(1, 3e38), state=State())
    for rule in (FedAdam(), FedAdagrad(), FedYogi()):
        with pytest.raises(AggregationError, match="average of the squares"):
            rule.apply(np.zeros(1), mean=np.full(1, 1e200), state=rule.start(1))


@pytest.mark.parametrize("rule", [FedAvgM(), FedAdam()])
def test_another_rules_state_is_refused(rule: Strategy) -> None:
    with pytest.raises(AggregationError, match="state"):
        rule.apply(np.zeros(2), mean=np.zeros(2), state=FedAvg().start(2))
    with pytest.raises(AggregationError, match="state"):
        rule.apply(np.zeros(2), mean=np.zeros(2), state=rule.start(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAvg(0.0),
        lambda: FedAvg(math.nan),
        lambda: FedProx(-1.0),
        lambda: FedAvgM(1.0),
        lambda: FedAdam(beta2=1.0),
        lambda: FedYogi(beta1=-0.1),
        lambda: FedAdagrad(tau=0.0),
    ],
)
def test_numbers_that_no_rule_takes(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()
