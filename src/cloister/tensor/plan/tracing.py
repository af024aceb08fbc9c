"""Recording one training step on tensors without values: every ATen operation below autograd becomes a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode

from cloister.errors import OpRefusedError, PlanError
from cloister.tensor import call_sites, ops, results
from cloister.tensor.fakes import Fakes
from cloister.tensor.ops import LITERALS, Of, Op, Param

aten = torch.ops.aten

_SAME: Final = frozenset({aten.detach.default, aten.detach_.default, aten.alias.default})
_RESHAPED: Final = {
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.as_strided_.default: aten.as_strided.default,
}
"""What changes a tensor's shape in place becomes a view, which takes the tensor's place from then on."""
_READS: Final = "reads a value of the batch or the model, which a plan cannot: {}"
_INSTEAD: Final = {
    "aten::_local_scalar_dense": "item(), float(), bool() and `if tensor:` read values; use torch.where",
    "aten::equal": "torch.equal reads values; use torch.eq, which makes a tensor",
    "aten::allclose": "torch.allclose reads values",
}
_lock: Final = RLock()


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation: its arguments as in a ``Line``, with the numbers of values given out by the recorder."""

    op: Op
    args: tuple[Any, ...]
    named: Mapping[str, Any]
    made: tuple[int, ...]
    site: int


@dataclass(slots=True)
class Trace:
    """What one step did. Values are numbered as they appear; constants apart, from -1 downwards."""

    lines: list[Recorded] = field(default_factory=list)
    constants: list[torch.Tensor] = field(default_factory=list)
    passing: set[int] = field(default_factory=set)
    """Constants that the step itself made, and may write to."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is in force, operations are recorded and run on fake tensors."""

    seeds = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._fakes = Fakes()
        self._next = 0
        self._known: dict[int, tuple[torch.Tensor, FakeTensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in cloister.tensor.factories

    def stand_in(self, dtype: torch.dtype, shape: Sequence[int]) -> FakeTensor:
        """A new input of the step: a row-major tensor without values."""
        made: FakeTensor = self._fake(dtype, shape)
        self._number(made)
        return made

    def rename(self, tensor: Any, number: int) -> None:
        """Gives a tensor the number of the input that it stands for."""
        tensor._cloister_id = number

    def _fake(self, dtype: torch.dtype, shape: Sequence[int]) -> Any:
        with self._fakes:
            return torch.empty(tuple(shape), dtype=dtype, device="cpu")

    def _number(self, tensor: Any) -> int:
        tensor._cloister_id = self._next
        self._next += 1
        return self._next - 1

    def number_of(self, tensor: torch.Tensor) -> int:
        """A value's number; a tensor from outside of the step becomes a constant.

        Raises:
            PlanError: a tensor that belongs to another capture.
        """
        if not isinstance(tensor, FakeTensor):
            tensor = self._constant(tensor)
        number = getattr(tensor, "_cloister_id", None)
        if type(number) is not int:
            raise PlanError(f"{_here()}: a tensor that this step neither made nor was given")
        return number

    def _constant(self, tensor: torch.Tensor, *, passing: bool = False) -> FakeTensor:
        found = self._known.get(id(tensor))
        if found is None:
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
                raise PlanError(f"{_here()}: a {type(tensor).__name__} cannot be a constant of a plan")
            if tensor.is_meta or tensor.layout is not torch.strided:
                raise PlanError(f"{_here()}: a tensor without plain values cannot be a constant of a plan")
            made = self._fake(tensor.dtype, tensor.shape)
            self.trace.constants.append(tensor.detach())
            made._cloister_id = -len(self.trace.constants)
            if passing:
                self.trace.passing.add(made._cloister_id)
            found = self._known[id(tensor)] = (tensor, made)
        return found[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if func is aten.lift_fresh.default:
            return args[0] if isinstance(args[0], FakeTensor) else self._constant(args[0], passing=True)
        func, kwargs = ops.unseeded(func, kwargs)
        if func is aten._local_scalar_dense.default and not isinstance(args[0], FakeTensor):
            return func(*args, **kwargs)  # a number that was there before the step
        given, named = self._faked(args), {name: self._faked(value) for name, value in kwargs.items()}
        if func in _SAME:
            return self._again(func, given[0])
        op = self._op(_RESHAPED.get(func, func))
        if op is None:
            return func.decompose(*args, **kwargs)
        with self._fakes:
            try:
                returned = func(*given, **named)
            except (DynamicOutputShapeException, DataDependentOutputException, UnsupportedOperatorException):
                raise PlanError(
                    f"{_here()}: the shape of what {op} returns depends on values, which a plan's may not; "
                    "torch.where and masks that multiply keep it fixed"
                ) from None
        self._record(op, args, kwargs, returned)
        return args[0] if func in _RESHAPED else returned

    def _again(self, func: Any, tensor: Any) -> Any:
        with self._fakes:
            returned = func(tensor)
        returned._cloister_id = tensor._cloister_id
        return returned

    def _op(self, func: Any) -> Op | None:
        """The table's operation; None for one that is made of others.

        Raises:
            PlanError: not for plans.
        """
        name = func._schema.name
        try:
            op = ops.of_overload(func)
        except OpRefusedError:
            if func._can_decompose():
                return None
            raise PlanError(f"{_here()}: no plan runs {name}") from None
        if op.row.value:
            raise PlanError(f"{_here()}: {_READS.format(_INSTEAD.get(name, name))}")
        return op

    def _faked(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value if isinstance(value, FakeTensor) else self._constant(value)
        if isinstance(value, torch.Generator):
            raise PlanError(f"{_here()}: a generator's state is no part of a plan; leave generator= out")
        if type(value) in (list, tuple):
            return [self._faked(item) for item in value]
        return value

    def _record(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
        encoded = tuple(self._encode(param, value) for param, value in zip(op.params, args, strict=False))
        named = {
            name: self._encode(op.by_name[name], value)
            for name, value in kwargs.items()
            if op.by_name[name].of not in (Of.UNSENT, Of.GENERATOR)
        }
        if op.row.factory and "dtype" in op.by_name and named.get("dtype") is None:
            # PyTorch's default where it runs may be another than here.
            named["dtype"] = op.by_name["dtype"].to_wire(returned.dtype)
        made = tuple(self._made(value) for value in results.fresh(op, returned))
        self.trace.lines.append(Recorded(op, encoded, named, made, call_sites.current()))

    def _made(self, value: Any) -> int:
        if value is None:
            self._next += 1
            return self._next - 1
        return self._number(value)

    def _encode(self, param: Param, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.number_of(value)
        if value is None or param.of is Of.UNSENT or param.of is Of.GENERATOR:
            return None
        if param.of is Of.TENSORS:
            return tuple(None if item is None else self.number_of(item) for item in value)
        if param.of is Of.TENSOR and type(value) in LITERALS:
            return (value,)
        try:
            return param.to_wire(value)
        except (OpRefusedError, KeyError) as fault:
            raise PlanError(f"{_here()}: {fault}") from None


def _here() -> str:
    return call_sites.describe(call_sites.current())


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Composite operations come apart in the plain way, not into kernels that only this processor has."""
    with _lock:
        onednn, math = torch._C._get_mkldnn_enabled(), torch._C._get_math_sdp_enabled()
        fused = {
            torch._C._set_sdp_use_flash: torch._C._get_flash_sdp_enabled(),
            torch._C._set_sdp_use_mem_efficient: torch._C._get_mem_efficient_sdp_enabled(),
        }
        try:
            torch._C._set_mkldnn_enabled(False)
            torch._C._set_sdp_use_math(True)
            for switch in fused:
                switch(False)
            yield
        finally:
            torch._C._set_mkldnn_enabled(onednn)
            torch._C._set_sdp_use_math(math)
            for switch, before in fused.items():
                switch(before)
