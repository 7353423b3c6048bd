"""A second device on a machine that has none: tensors that say cuda:0 and are kept by the CPU.

Inside `second_device()`, tensors made with device="cuda" are of the class `There`. Every operation
on them runs on the CPU, after the checks that a GPU makes: all tensors on one device (except
numbers of no dimension, and indices), and generators of the same device. It has no streams, graphs
or compiled kernels.
"""

import contextlib
import sys
from unittest import mock

import torch
import torch._dynamo  # it must be imported with torch as it is
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import pvae.distributions  # noqa: F401

__all__ = ["There", "second_device"]

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
_MAY_MIX = {aten.copy_, aten._to_copy, aten._copy_from, aten._copy_from_and_resize}
_MAY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_,
              aten._unsafe_index, aten._unsafe_index_put}  # fmt: skip
_Generator, _engine = torch.Generator, torch.autograd._engine_run_backward
_there: set[int] = set()  # the generators of the second device
_kept: list[torch.Generator] = []
_calls: list[bool] = []  # for each of PyTorch's functions that run: whether it was given a `There`


class There(torch.Tensor):
    """A tensor on the second device; `here` holds its values."""

    @staticmethod
    def __new__(cls, here, requires_grad=False):
        new = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, device="cpu", requires_grad=requires_grad,
        )  # fmt: skip
        new.here = here
        return new

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_):
        return f"There({self.here})"

    def untyped_storage(self):
        return self.here.untyped_storage()

    def data_ptr(self):
        return self.here.data_ptr()

    def tolist(self):
        return self.here.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __deepcopy__(self, memo):
        new = There(self.here.detach().clone()).requires_grad_(self.requires_grad)
        vars(new).update({k: v for k, v in vars(self).items() if k != "here"})
        return memo.setdefault(id(self), new)

    def __reduce_ex__(self, protocol):
        return self.here.__reduce_ex__(protocol)  # a checkpoint is read on the CPU

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Numbered(TorchFunctionMode):
    """Writes cuda:0 for "cuda", whose number PyTorch would ask the driver for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {k: _numbered(v) if k == "device" else v for k, v in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, (args[0], CUDA)
        if func is torch.Tensor.to:
            args = (args[0], *map(_numbered, args[1:]))
        if func is torch.Tensor.cpu:
            func, args = torch.Tensor.to, (args[0], torch.device("cpu"))
        if func is torch.Tensor.to and isinstance(args[0], There):
            where = [
                *(a for a in args[1:] if isinstance(a, (str, torch.device))),
                kwargs.get("device"),
            ]
            if isinstance(args[1] if len(args) > 1 else None, torch.Tensor):
                where = [args[1].device]
            if where[0] is not None and torch.device(where[0]).type == "cpu":
                found = args[0].here.detach().clone()
                dtype = [a for a in (*args[1:], kwargs.get("dtype")) if isinstance(a, torch.dtype)]
                return found.to(*dtype)
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") == CUDA:
            del kwargs["device"]
            return func(*args, **kwargs).to(CUDA)
        _calls.append(any(isinstance(t, There) for t in _leaves((args, kwargs))))
        try:
            return func(*args, **kwargs)
        finally:
            _calls.pop()


def _numbered(value):
    if isinstance(value, str) and value.startswith("cuda"):
        return CUDA
    return CUDA if isinstance(value, torch.device) and value.type == "cuda" else value


def _is_there(device):
    return device is not None and torch.device(device).type == "cuda"


def _leaves(tree):
    """The values in nested lists, tuples and dicts, several times faster than torch's own."""
    found = []
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, list | tuple | dict):
            found += _leaves(value)
        else:
            found.append(value)
    return found


def _mapped(change, tree):
    if isinstance(tree, list | tuple):
        return type(tree)([_mapped(change, value) for value in tree])
    if isinstance(tree, dict):
        return {key: _mapped(change, value) for key, value in tree.items()}
    return change(tree)


def _run(func, args, kwargs):
    flat = _leaves((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    packet = func.overloadpacket
    to = kwargs.get("device") or (CUDA if there else None)
    if _calls and _calls[-1]:
        to = CUDA  # PyTorch asks inside of a function of tensors of the second device
    if there and len(there) < len(tensors) and packet not in _MAY_MIX:
        looked = flat[:1] if packet in _MAY_INDEX else tensors
        looked = [t for t in looked if isinstance(t, torch.Tensor) and t.ndim]
        if len({isinstance(t, There) for t in looked}) > 1 or (
            packet in _MAY_INDEX and not isinstance(args[0], There) and len(there)
        ):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({func})"
            )
    for generator in flat:
        if isinstance(generator, _Generator) and _is_there(to) != (generator._cdata in _there):
            have, want = ("cuda", "cpu") if generator._cdata in _there else ("cpu", "cuda")
            raise RuntimeError(f"Expected a '{want}' device type for generator but found '{have}'")
    here = {id(t.here): t for t in there}
    plain_args, plain_kwargs = _mapped(
        lambda t: t.here if isinstance(t, There) else t, (args, kwargs)
    )
    if "device" in plain_kwargs and _is_there(plain_kwargs["device"]):
        plain_kwargs = plain_kwargs | {"device": torch.device("cpu")}
    if packet is aten._pin_memory or packet is aten.is_pinned:
        return args[0] if packet is aten._pin_memory else False
    plain_kwargs.pop("pin_memory", None)
    with _off():
        out = func(*plain_args, **plain_kwargs)
    if packet is aten._local_scalar_dense:
        return out
    if packet is aten.copy_:
        return args[0]
    if not _is_there(to):
        return out

    def wrapped(value):
        if not isinstance(value, torch.Tensor):
            return value
        return here.get(id(value)) if id(value) in here else There(value)

    if packet is aten._to_copy and out is not None:
        return There(out)
    out = _mapped(wrapped, out)
    if func._schema.is_mutable or any(a.alias_info for a in func._schema.arguments):
        return return_and_correct_aliasing(func, args, kwargs, out) if there else out
    return out


@contextlib.contextmanager
def _off():
    with torch._C._DisableTorchDispatch():
        yield


def _backward(roots, *args, **kwargs):
    _calls.append(any(isinstance(t, There) for t in roots))
    try:
        return _engine(roots, *args, **kwargs)
    finally:
        _calls.pop()


class _AnyGenerator(_Generator):
    def __new__(cls, device="cpu"):
        new = super().__new__(cls)
        if _is_there(device):
            _there.add(new._cdata)
            _kept.append(new)
        return new

    @property
    def device(self):
        return CUDA if self._cdata in _there else torch.device("cpu")


@contextlib.contextmanager
def second_device():
    """Makes device="cuda" a device, for as long as it lasts."""
    nothing = dict.fromkeys(
        ["_lazy_init", "synchronize", "reset_peak_memory_stats", "empty_cache", "set_rng_state",
         "manual_seed", "manual_seed_all"]
    )  # fmt: skip
    returned = nothing | {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "mem_get_info": (2**33, 2**34),
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "get_rng_state": torch.get_rng_state(),
        "get_device_name": "a second device",
    }
    stream = mock.Mock(is_capturing=mock.Mock(return_value=False))
    # What recorded graphs look at: the mode of this file is none of theirs.
    autoregressive = sys.modules["pvae.distributions.autoregressive"]
    patches = [
        *(mock.patch.object(torch.cuda, k, mock.Mock(return_value=v)) for k, v in returned.items()),
        mock.patch.object(torch.accelerator, "current_stream", return_value=stream),
        mock.patch.object(autoregressive, "_get_current_dispatch_mode", return_value=None),
        mock.patch.object(torch, "Generator", _AnyGenerator),
        mock.patch.object(torch.autograd, "_engine_run_backward", _backward),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        stack.callback(overwrite, torch.__future__.get_overwrite_module_params_on_conversion())
        overwrite(True)
        stack.enter_context(_Factories())
        stack.enter_context(_Numbered())
        yield
