"""Precision: matrix products in TF32 or bfloat16, everything else in float32."""

import contextlib
import platform
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pvae.errors import PvaeError

__all__ = [
    "Precision",
    "able",
    "backends_in",
    "check_precision",
    "in_float32",
    "in_precision",
    "rounding",
]

Precision = Literal["float32", "tf32", "bf16"]

_PRODUCTS = {
    F.linear,
    F.bilinear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.mv,
    torch.einsum,
    torch.tensordot,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
    Tensor.mv,
}


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Checks an argument `precision`.

    Raises:
        PvaeError: It is not `"float32"`, `"tf32"` or `"bf16"`, or the device has no instructions
            for it.
    """
    if precision not in get_args(Precision):
        raise PvaeError(f"precision={precision!r} is not valid: give 'float32', 'tf32' or 'bf16'.")
    if precision == "float32" or device is None:
        return
    what = {"cuda": "this GPU", "cpu": "this CPU"}.get(device.type, f"the device {device.type!r}")
    if precision == "tf32":
        if device.type == "cuda" and torch.cuda.is_tf32_supported():
            return
        raise PvaeError(
            f"precision='tf32' has no effect here: {what} has no TF32, which NVIDIA's GPUs have "
            "since compute capability 8.0. Use precision='float32'."
        )
    if able(device):
        return
    raise PvaeError(
        f"precision='bf16' is slower than float32 here: {what} has no instructions for bfloat16. "
        "Use precision='float32'."
    )


def able(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # With AVX-512 alone, oneDNN takes bfloat16 and computes in float32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def rounding(
    dtype: torch.dtype, products: Iterable[str], device: torch.device
) -> torch.dtype | str:
    """Returns the precision to which torch rounds the factors of products.

    Args:
        dtype: Dtype of the tensors.
        products: Kinds of products: `"matmul"`, `"conv"` or `"rnn"`.
        device: Device of the tensors.

    Returns:
        `dtype`, except for float32 if `torch.backends` sets a lower precision: `"tf32"` (10 bits;
        torch's default for convolutions on a GPU) or `"bf16"` (7 bits).
    """
    if dtype != torch.float32:
        return dtype
    backends = torch.backends
    found = {
        "cuda": {"matmul": backends.cuda.matmul, "conv": backends.cudnn.conv,
                 "rnn": backends.cudnn.rnn},
        "cpu": {kind: getattr(backends.mkldnn, kind) for kind in ("matmul", "conv", "rnn")},
    }.get(device.type, {})  # fmt: skip
    settings = {found[kind].fp32_precision for kind in products if kind in found}
    return next((coarse for coarse in ("bf16", "tf32") if coarse in settings), dtype)


@contextlib.contextmanager
def in_precision(precision: Precision) -> Iterator[None]:
    """Computes products of float32 tensors in the given precision, inside this context.

    The results are float32. The gradients of the products are computed in that precision too. A
    product inside of another function of torch, such as `nn.LSTM`, is not lowered to bfloat16, nor
    is one that writes to `out=`.
    `"float32"` means products of 24 bits also on a GPU, whose convolutions torch rounds to TF32
    by default.
    """
    with backends_in(precision), _Products() if precision == "bf16" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def backends_in(precision: Precision) -> Iterator[None]:
    """Allows TF32 in torch's backends, or not; the part of `in_precision` that graphs need too."""
    places, low = _places(), precision == "tf32"
    before = [place.fp32_precision for place in places]
    if all((each == "tf32") == low and each != "bf16" for each in before):
        yield
        return
    try:
        of_products = torch.get_float32_matmul_precision()
    except RuntimeError:  # the old flag and the new one differ
        of_products = "high" if before[0] == "tf32" else "highest"
    try:
        _set(places, ["tf32" if low else "ieee"] * len(places), "high" if low else "highest")
        yield
    finally:
        _set(places, before, of_products)


def _places() -> list[Any]:
    """The settings of torch's backends that products of this process can depend on."""
    backends = torch.backends
    found = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    if not torch.cuda.is_initialized():
        return found
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, *found]


def _set(places: list[Any], values: list[str], of_products: str) -> None:
    # First the old flags, which set the new ones too: torch refuses to read them if they differ.
    torch.set_float32_matmul_precision(of_products)
    if len(places) > 3:
        torch.backends.cudnn.allow_tf32 = values[1] == "tf32"
    for place, value in zip(places, values, strict=True):
        place.fp32_precision = value


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Computes products in float32, also inside of another `in_precision`."""
    before, _Products.lowers = _Products.lowers, False
    try:
        with backends_in("float32"):
            yield
    finally:
        _Products.lowers = before


class _Products(TorchFunctionMode):
    lowers = True

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _PRODUCTS or not self.lowers or (kwargs or {}).get("out") is not None:
            return func(*args, **(kwargs or {}))
        args = tuple(map(_lower, args))
        kwargs = {name: _lower(value) for name, value in (kwargs or {}).items()}
        out = func(*args, **kwargs)
        return out.float() if out.dtype == torch.bfloat16 else out


def _lower(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.bfloat16()
    return value
