"""Precision: matrix products in bfloat16, everything else in float32."""

import contextlib
import platform
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pvae.errors import PvaeError

__all__ = ["Precision", "able", "check_precision", "in_float32", "in_precision", "rounding"]

Precision = Literal["float32", "bf16"]

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
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
}


def check_precision(precision: str, device: torch.device | None = None) -> None:
    """Checks an argument `precision`.

    Raises:
        PvaeError: It is neither `"float32"` nor `"bf16"`, or it is `"bf16"` and the device has no
            instructions for bfloat16.
    """
    if precision not in get_args(Precision):
        raise PvaeError(f"precision={precision!r} is not valid: give 'float32' or 'bf16'.")
    if precision == "float32" or device is None or able(device):
        return
    what = {"cuda": "this GPU", "cpu": "this CPU"}.get(device.type, f"the device {device.type!r}")
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
        the default for convolutions on a GPU) or `"bf16"` (7 bits).
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


def in_precision(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Returns a context that computes products of float32 tensors in the given precision.

    The results are float32. The gradients of the products are computed in bfloat16 too.
    """
    return _Products() if precision == "bf16" else contextlib.nullcontext()


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Computes products in float32, also inside of `in_precision("bf16")`."""
    before, _Products.lowers = _Products.lowers, False
    try:
        yield
    finally:
        _Products.lowers = before


class _Products(TorchFunctionMode):
    lowers = True

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _PRODUCTS or not self.lowers:
            return func(*args, **(kwargs or {}))
        args = tuple(map(_lower, args))
        kwargs = {name: _lower(value) for name, value in (kwargs or {}).items()}
        out = func(*args, **kwargs)
        return out.float() if out.dtype == torch.bfloat16 else out


def _lower(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.bfloat16()
    return value
