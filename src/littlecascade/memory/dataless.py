"""Running a computation on tensors without data: the very code, in seconds and in no memory, to see what it would take.

Tensors are fake (`torch._subclasses.FakeTensorMode`), so that each still has a device of its own, and one operation on
two of them fails as it would. A GPU is played by the device `meta`, which any build of torch can differentiate on.
A simulated run is some hundred thousand operations, so that those which only move or view values take a way of ours
around that mode's own, which takes three times as long.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("meta")
"""What plays a GPU."""

FLOAT = 8.0
"""The value of every number that is asked for. As the stream's peak in the trial of `memory.rescale` it is one that
asks for a divisor, as the official weights do, so that some layers of a network in float16 are kept in float32."""

_aten = torch.ops.aten

_PLAIN = frozenset(
    {
        *(_aten.mm.default, _aten._unsafe_view.default, _aten._to_copy.default, _aten.clone.default),
        *(_aten.copy_.default, _aten.mul.out, _aten.index_select.default, _aten.constant_pad_nd.default),
    }
)
"""Operations that `_is_plain`, beside views: those whose kernels without data are not written in Python."""


@contextmanager
def dataless() -> Iterator[None]:
    """Within: tensors have no data, and what asks for a value is given one.

    Numbers are `FLOAT`, whole numbers 0, conditions true; a mask takes all. torch's global generator is as before
    afterwards. Tensors with data can be read within, and no tensor made within is of any use outside.
    """
    import_module("torch._dynamo")  # which torch does by and by, and which must see what is replaced below as it was
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*(lr_scheduler|CUDA is not available|torch.cpu).*")
        stack.enter_context(replaced(F, "scaled_dot_product_attention", _attend(F.scaled_dot_product_attention)))
        stack.enter_context(replaced(torch, "Generator", _generator(torch.Generator)))
        stack.enter_context(replaced(torch.Tensor, "numpy", _numpy))
        stack.enter_context(replaced(nn.Module, "_apply", _apply))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Values(mode))
        yield


def lies_on(device: torch.device, tensor: Tensor) -> bool:
    """Whether a tensor without data is on a device. To ask for its `device` would be an operation of its own."""
    return getattr(tensor, "fake_device", None) == device


class _Values(TorchDispatchMode):
    """Answers what depends on data, and what need not go through the mode of fake tensors."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks it, and would wrap each call against a compiler: nothing is compiled here, and it takes long."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._local_scalar_dense.default:
            return FLOAT if args[0].is_floating_point() else args[0].dtype == torch.bool
        if func is _aten.index.Tensor:
            args = (args[0], [_positions(index) for index in args[1]])
        if func is _aten._pin_memory.default:
            return args[0].clone()
        kwargs = kwargs or {}
        device = _common_device(chain(args, kwargs.values())) if _is_plain(func) else None
        return func(*args, **kwargs) if device is None else self._run(func, args, kwargs, device)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
        """Have torch's kernels without data run on tensors that lie on one device."""
        wanted = kwargs.get("device", device)
        with in_kernel_invocation_manager(self.mode):
            result = func(*args, **{name: value for name, value in kwargs.items() if name != "device"})
        if isinstance(result, Tensor):
            return self._fake(result, wanted)
        return type(result)(self._fake(own, wanted) for own in result)

    def _fake(self, result: Any, device: torch.device) -> Any:
        """The tensor as which a result is to be seen; one that was given already is."""
        if isinstance(result, FakeTensor):
            return result
        return FakeTensor(self.mode, result, device)


@cache
def _is_plain(func: Any) -> bool:
    """Whether what an operation makes lies where all that it is given does, or where it is told."""
    return func.is_view or func in _PLAIN


def _common_device(values: Iterable[Any]) -> torch.device | None:
    """Where all tensors are, if all are fake and on one device, and their values not known."""
    device = None
    for value in values:
        for own in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(own, Tensor):
                if not isinstance(own, FakeTensor) or own.constant is not None:
                    return None
                if device is None:
                    device = own.fake_device
                elif own.fake_device != device:
                    return None
    return device


def _positions(index: Tensor | None) -> Tensor | None:
    """For a mask (N,), the positions that it could take at most."""
    if index is None or index.dtype != torch.bool:
        return index
    return torch.zeros(index.numel(), dtype=torch.int64, device=index.device)


def _attend(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """On what plays a GPU, the kernel that every NVIDIA card has: it keeps no matrix of attention."""

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        if query.device != GPU:
            return original(query, key, value, attn_mask, **options)
        dropout, causal = options.get("dropout_p", 0.0), options.get("is_causal", False)
        keep = torch.is_grad_enabled() and any(own.requires_grad for own in (query, key, value))
        if attn_mask is not None:
            attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
        return _aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, keep, dropout, causal, scale=options.get("scale")
        )[0]

    return attend


def _generator(original: type[torch.Generator]) -> Callable[..., torch.Generator]:
    """There is none of the device that plays a GPU."""
    return lambda device="cpu": original("cpu" if torch.device(device) == GPU else device)


def _apply(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What is behind `Module.to` and the like, which would want to swap its tensors for others, and can't."""
    for child in module.children() if recurse else ():
        child._apply(convert)
    for name, parameter in module.named_parameters(recurse=False):
        converted = convert(parameter.data)
        if converted.device == parameter.device:
            parameter.data = converted
        else:
            module.register_parameter(name, nn.Parameter(converted, parameter.requires_grad))
    module._buffers.update({name: convert(buffer) for name, buffer in module.named_buffers(recurse=False)})
    return module


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.zeros(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within: an attribute of a module or class is another."""
    before = getattr(owner, name)
    own = name in vars(owner)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
