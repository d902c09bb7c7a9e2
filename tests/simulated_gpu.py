"""A GPU that is not there: tensors that say they lie on `cuda`, and refuse what the real ones refuse.

The CPU computes their values. What shows on it: a tensor left on the CPU, a generator of the wrong device, values taken
to NumPy without `.cpu()`. What does not: kernels, their order, their speed, what a CUDA graph records.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")


class OnGpu(Tensor):
    """A tensor whose values lie in `held`, on the CPU, where C++ takes all of it to be; to Python it is on `cuda`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=held.device,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy  # type: ignore[assignment]

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # who loads it says where

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in WAITING or (func in INDEXED and any(_is_mask(each) for each in args[1])):
            waits.append(str(func))
        _refuse_mixed(func, args, kwargs)
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], OnGpu):
            return args[0]  # what was copied to stays where it is
        wrapped = tree_map(lambda each: OnGpu(each) if isinstance(each, Tensor) else each, found)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


waits: list[str] = []  # what the CPU would have waited for since the simulation began: operations, copies
READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "allclose", "bincount", "_unique2", "unique_dim")
WAITING = {getattr(torch.ops.aten, name).default for name in READING}
MAY_MIX = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
JOINED = {torch.ops.aten.cat.default, torch.ops.aten.stack.default}


def _refuse_mixed(func: Any, args: Any, kwargs: Any) -> None:
    """As CUDA does: of several tensors all are there, but for copies, indices, which may stay behind and are copied,
    and numbers where nothing is joined or written to them."""
    elsewhere = [each for each in _tensors(args, kwargs) if not isinstance(each, OnGpu)]
    if elsewhere and func in MAY_MIX:
        waits.append("a copy")
        return
    if func in INDEXED and isinstance(args[0], OnGpu):
        waits.extend("a copy" for each in _tensors(args[1]) if not isinstance(each, OnGpu))
        elsewhere = [each for each in _tensors(args[2:], kwargs) if not isinstance(each, OnGpu)]
    written = func._schema.is_mutable and isinstance(args[0], Tensor) and not isinstance(args[0], OnGpu)
    if written or any(each.dim() or func in JOINED for each in elsewhere):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({func})")


def _tensors(*values: Any) -> list[Tensor]:
    return [each for each in tree_flatten(values)[0] if isinstance(each, Tensor)]


def _is_mask(index: Any) -> bool:
    """How many values it picks must be known before anything is picked."""
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


OF_CPU = torch.Generator


class OfGpu(torch.Generator):
    device = property(lambda self: CUDA)  # type: ignore[assignment]


class Generator(torch.Generator):
    """What stands for torch's class: of a GPU, or of the CPU."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return OfGpu() if torch.device(device).type == "cuda" else OF_CPU()


class Backwards(TorchDispatchMode):
    """On the way back C++ makes tensors where it takes the gradient to be."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = isinstance(found, Tensor) and not isinstance(found, OnGpu)
        asked = any(isinstance(each, Tensor) for each in tree_flatten((args, kwargs))[0])
        return OnGpu(found) if made and not asked else found


MAKING = ("new_tensor", "one_hot")  # what makes tensors where C++ takes its first argument to be


class Elsewhere(TorchFunctionMode):
    """What is asked to be on `cuda` is made on the CPU and wrapped."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cuda", "cpu") and isinstance(args[0], Tensor):
            return _moved(func, args, kwargs)
        if name in MAKING and isinstance(args[0], OnGpu):
            waits.extend("a copy" for _ in range(name == "new_tensor"))
            return OnGpu(func(args[0].held, *args[1:], **kwargs))
        if name in ("backward", "grad") and callable(func):
            with Backwards():
                return func(*args, **kwargs)
        asked = kwargs.get("device")
        on_gpu = asked is not None and torch.device(asked).type == "cuda"
        if on_gpu and not isinstance(args[0] if args else None, OnGpu):
            _refuse_generator(kwargs, "cuda")
            waits.extend("a copy" for _ in range(name in ("tensor", "as_tensor")))
            found = func(*args, **{**kwargs, "device": "cpu"})
            return OnGpu(found.detach())
        if on_gpu:
            del kwargs["device"]
        elif kwargs.get("generator") is not None:
            there = any(isinstance(each, OnGpu) for each in args)
            _refuse_generator(kwargs, "cuda" if there else "cpu")
        return func(*args, **kwargs)


def _moved(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Tensor.to, .cuda and .cpu."""
    tensor, *rest = args
    if func.__name__ in ("cuda", "cpu"):
        device, dtype, layout = torch.device(func.__name__), None, None
    elif rest and isinstance(rest[0], Tensor):
        device, dtype, layout = rest[0].device, rest[0].dtype, None
    else:
        known = {key: value for key, value in kwargs.items() if key != "copy"}
        device, dtype, _, layout = torch._C._nn._parse_to(*rest, **known)
    more: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    more |= {} if layout is None else {"memory_format": layout}
    there = isinstance(tensor, OnGpu)
    if device is None or (device.type == "cuda") == there:
        return func(tensor, **more) if more else tensor  # type: ignore[no-any-return]
    waits.append("a copy")
    found = tensor.detach() if not there else tensor.detach().held
    found = found.to(**more) if more else found
    return found.clone() if there else OnGpu(found.clone())


def _refuse_generator(kwargs: dict[str, Any], kind: str) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != kind:
        raise RuntimeError(f"Expected a '{kind}' device type for generator but found '{generator.device.type}'")


class Mark:
    """A place in a queue that is always over."""

    def __init__(self, enable_timing: bool = False) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: Mark) -> float:
        return 1.0


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """Inside, `cuda` is such a device."""
    waits.clear()
    with pytest.MonkeyPatch.context() as patched, Elsewhere():

        @contextmanager
        def exchanged(own: torch.Generator) -> Iterator[None]:
            yield  # the one of the CPU stands for both

        # parameters are replaced, as what holds their values is of another kind
        patched.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        patched.setattr(torch, "Generator", Generator)
        patched.setattr("kdtune.randomness._on_gpu", exchanged)
        for module in ("randomness", "training.captured", "training.snapshot"):
            patched.setattr(f"kdtune.{module}.global_on_gpu", lambda device: torch.default_generator)
        patched.setattr(torch.cuda, "Event", Mark)
        patched.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patched.setattr(torch.cuda, "get_device_name", lambda *_: "a simulated GPU")
        yield
