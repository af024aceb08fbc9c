"""The strategies: a server's rules for making the next model of the mean of the contributions.

Written as the papers write them, with x_t the model, delta_t the mean of the members' updates (a member's update is its
trained model minus x_t), and all operations element by element:

    FedAvg, FedProx   x_{t+1} = x_t + lr * delta_t
    FedAvgM           v_t = momentum * v_{t-1} + delta_t;                x_{t+1} = x_t + lr * v_t
    FedAdagrad        m_t, v_t = v_{t-1} + delta_t^2
    FedYogi           m_t, v_t = v_{t-1} - (1 - beta2) * delta_t^2 * sign(v_{t-1} - delta_t^2)
    FedAdam           m_t, v_t = beta2 * v_{t-1} + (1 - beta2) * delta_t^2
      the three       m_t = beta1 * m_{t-1} + (1 - beta1) * delta_t;     x_{t+1} = x_t + lr * m_t / (sqrt(v_t) + tau)

Each of them can draw the model towards 0 on the way, so that x_t above is (1 - decay) * x_t: weight decay once for all
(Loshchilov and Hutter: "Decoupled Weight Decay Regularization", ICLR 2019), and not at each member, where it would be
the same part of every update and hide how unlike the rest of them is.

A strategy is a value: its name and its numbers. Its memory from round to round is a value too, the ``State``. So a
round is a pure function, and a run can be stopped, kept and resumed to the same bits. All is computed in float64 and
rounded once, to the model's element type.

* McMahan et al.: "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
* Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019.
* Li et al.: "Federated Optimization in Heterogeneous Networks", MLSys 2020.
* Reddi et al.: "Adaptive Federated Optimization", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import Vector, blocks, check
from cloister.errors import AggregationError, ConfigurationError
from cloister.wire import strategies as wire

Doubles: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class State:
    """A strategy's memory between rounds: their number, and its averages, each a float64 vector or None.

    ``momentum`` is the v of FedAvgM and the m of the adaptive strategies; ``squares`` is the v of the adaptive ones.
    """

    rounds: int = 0
    momentum: Doubles | None = None
    squares: Doubles | None = None

    @classmethod
    def read(cls, rounds: int, averages: Sequence[bytes | bytearray | memoryview]) -> State:
        """The state whose ``averages`` these are."""
        return cls(rounds, *(np.frombuffer(each, np.float64) for each in averages))

    @property
    def averages(self) -> tuple[memoryview, ...]:
        """The bytes of the averages that it has, momentum first."""
        return tuple(each.data.cast("B") for each in (self.momentum, self.squares) if each is not None)


class Strategy(Protocol):
    """The interface of all strategies."""

    def to_wire(self) -> wire.Strategy:
        """As it travels, and as a charter holds it; ``read`` reverses it."""
        ...

    def start(self, length: int) -> State:
        """The state before the first round of a model of ``length`` values."""
        ...

    def apply(self, model: Vector, *, mean: Vector, state: State) -> tuple[Vector, State]:
        """Returns the next model, in the element type of ``model``, and the next state. Nothing is changed in place.

        Raises:
            AggregationError: vectors of other lengths or element types, values that are not finite, before or after,
                or a state of another strategy.
        """
        ...


def apply_to_parameters(
    rule: Strategy, model: Vector, *, mean: Vector, state: State, buffers: Sequence[slice]
) -> tuple[Vector, State]:
    """Returns the next model and state: ``rule`` is applied to the parameters, and the plain mean to ``buffers``.

    Buffers are statistics, not weights: momentum or an adaptive step could carry a variance below zero.

    Raises:
        AggregationError: as ``Strategy.apply``.
    """
    updated, after = rule.apply(model, mean=mean, state=state)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in buffers:
            _add(updated[part], model[part], mean[part])
    return updated, after


@dataclass(frozen=True)
class _Declared:
    """What all of them have. ``decay``: the part of each parameter that a round takes away, from 0 to below 1."""

    decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) not in (int, float):
                raise ConfigurationError(f"{name} is {value!r:.40}; it is a number")
        faults = list(self.to_wire().faults())
        if faults:
            raise ConfigurationError(f"{type(self).__name__}: " + "; ".join(faults))

    def to_wire(self) -> wire.Strategy:
        """As it travels, and as a charter holds it; ``read`` reverses it."""
        declared: Any = getattr(wire, type(self).__name__)
        found: wire.Strategy = declared(**{name: float(value) for name, value in vars(self).items()})
        return found


@dataclass(frozen=True)
class FedAvg(_Declared):
    """McMahan et al. (2017), Algorithm 1: the members' models are averaged. With another ``lr`` than 1 it is the
    FedAvg with a server learning rate of Reddi et al. (2021), Algorithm 1 with SGD at the server."""

    lr: float = 1.0

    def start(self, length: int) -> State:
        """Nothing to remember."""
        return State()

    def apply(self, model: Vector, *, mean: Vector, state: State) -> tuple[Vector, State]:
        """``x + lr * delta``; see ``Strategy.apply``."""
        _check(model, mean, finite=True)
        try:  # what is not finite in either is not finite in what comes of it, so that only that is looked at
            return _move(model, self.lr, mean, decay=self.decay), State(state.rounds + 1)
        except AggregationError:
            _check(model, mean)
            raise


@dataclass(frozen=True)
class FedProx(_Declared):
    """Li et al. (2020), Algorithm 2. At the server it is FedAvg. Each member adds ``mu / 2 * ||x - x_t||^2`` to its
    loss (their equation 2), so ``mu`` is told to the members; with ``mu = 0`` it is FedAvg there too."""

    mu: float
    lr: float = 1.0

    def start(self, length: int) -> State:
        """Nothing to remember."""
        return State()

    def apply(self, model: Vector, *, mean: Vector, state: State) -> tuple[Vector, State]:
        """As FedAvg's; see ``Strategy.apply``."""
        return FedAvg(self.lr, decay=self.decay).apply(model, mean=mean, state=state)


@dataclass(frozen=True)
class FedAvgM(_Declared):
    """Hsu, Qi and Brown (2019), section 4.2: FedAvg with momentum at the server. Theirs has ``lr = 1``."""

    momentum: float = 0.9
    lr: float = 1.0

    def start(self, length: int) -> State:
        """v_{-1} = 0."""
        return State(momentum=np.zeros(length))

    def apply(self, model: Vector, *, mean: Vector, state: State) -> tuple[Vector, State]:
        """``x + lr * v``; see ``Strategy.apply``."""
        _check(model, mean)
        velocity = _recall(state.momentum, len(model)) * self.momentum
        velocity += mean
        return _move(model, self.lr, velocity, decay=self.decay), State(state.rounds + 1, velocity)


@dataclass(frozen=True)
class _Adaptive(_Declared):
    """The common part of the three strategies of Reddi et al. (2021), Algorithm 2.

    ``tau`` is the degree of adaptivity, the smaller the more; v_{-1} is its square, the least that Algorithm 2 allows.
    Nothing corrects the averages' bias, as published.

    ``beta1 = 0.9``, ``beta2 = 0.99`` and ``tau = 1e-3`` are those of the paper's experiments. It names no ``lr`` for
    all tasks, but searches for one on each, together with the members'; 0.01 is ours, to begin a search with.
    """

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def start(self, length: int) -> State:
        """m_{-1} = 0, v_{-1} = tau^2."""
        return State(momentum=np.zeros(length), squares=np.full(length, self.tau * self.tau))

    def apply(self, model: Vector, *, mean: Vector, state: State) -> tuple[Vector, State]:
        """``x + lr * m / (sqrt(v) + tau)``; see ``Strategy.apply``."""
        _check(model, mean)
        old_momentum, old_squares = _recall(state.momentum, len(model)), _recall(state.squares, len(model))
        moved, momentum, squares = np.empty_like(model), np.empty_like(old_momentum), np.empty_like(old_squares)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
            for block in blocks(len(model)):
                delta = mean[block].astype(np.float64)
                momentum[block] = self.beta1 * old_momentum[block] + (1 - self.beta1) * delta
                squares[block] = self._squares(old_squares[block], np.square(delta))
                step = self.lr * (momentum[block] / (np.sqrt(squares[block]) + self.tau))
                moved[block] = (1 - self.decay) * model[block].astype(np.float64) + step
        check(squares, length=len(model), what="the average of the squares")
        check(moved, length=len(model), what="the new model")
        return moved, State(state.rounds + 1, momentum, squares)

    def _squares(self, squares: Doubles, new: Doubles) -> Doubles:
        raise NotImplementedError


@dataclass(frozen=True)
class FedAdagrad(_Adaptive):
    """Reddi et al. (2021), Algorithm 2, FedAdagrad: squares add up. As in their experiments ``beta1`` is 0."""

    beta1: float = 0.0

    def _squares(self, squares: Doubles, new: Doubles) -> Doubles:
        return squares + new


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Reddi et al. (2021), Algorithm 2, FedYogi: the average of squares moves by at most ``1 - beta2`` of the new."""

    beta2: float = 0.99

    def _squares(self, squares: Doubles, new: Doubles) -> Doubles:
        moved: Doubles = squares - (1 - self.beta2) * new * np.sign(squares - new)
        return moved


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Reddi et al. (2021), Algorithm 2, FedAdam: an exponential average of squares."""

    beta2: float = 0.99

    def _squares(self, squares: Doubles, new: Doubles) -> Doubles:
        return self.beta2 * squares + (1 - self.beta2) * new


_READ: Final[dict[type, type[Any]]] = {
    getattr(wire, each.__name__): each for each in (FedAvg, FedProx, FedAvgM, FedAdagrad, FedYogi, FedAdam)
}


def read(declared: wire.Strategy) -> Strategy:
    """The strategy that was declared elsewhere.

    Raises:
        ConfigurationError: numbers out of range.
    """
    found: Strategy = _READ[type(declared)](**{name: getattr(declared, name) for name in declared.__struct_fields__})
    return found


def _add(moved: Vector, model: Vector, step: Vector) -> None:
    for block in blocks(len(model)):
        moved[block] = model[block].astype(np.float64) + step[block]
    check(moved, length=len(model), what="the new model")


def _check(model: Vector, mean: Vector, *, finite: bool = False) -> None:
    check(model, length=np.size(model), what="the model", finite=finite)
    check(mean, length=len(model), what="the mean of the contributions", finite=finite)


def _recall(average: Doubles | None, length: int) -> Doubles:
    if average is None:
        raise AggregationError("the state is of another rule; a rule's first state is what its start() gives")
    check(average, length=length, what="the rule's state")
    return average


def _move(model: Vector, lr: float, step: Vector, *, decay: float) -> Vector:
    moved = np.empty_like(model)
    # A sum of two float32 that is rounded to float64 and then to float32 is as if rounded once (Figueroa, "When is
    # double rounding innocuous?", SIGNUM Newsletter 1995). Owners that are sent a step take this way.
    alike = lr == 1 and not decay and model.dtype == step.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks(len(model)):
            if alike:
                np.add(model[block], step[block], out=moved[block])
                check(moved[block], length=len(moved[block]), what="the new model")
                continue
            term = np.multiply(step[block], lr, dtype=np.float64)
            term += np.multiply(model[block], 1 - decay, dtype=np.float64) if decay else model[block]
            part = moved[block]
            part[:] = term
            check(part, length=len(part), what="the new model")
    return moved
