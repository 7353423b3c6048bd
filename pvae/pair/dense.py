"""check_tensor(): refuses tensors that the programs cannot compute with."""

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from pvae.errors import PvaeError
from pvae.pair.bounded import too_large

__all__ = ["check_tensor"]


def check_tensor(what: str, tensor: Tensor) -> None:
    """Raises a PvaeError if a tensor is not dense and real, or does not fit in memory.

    Args:
        what: What to call it, as the beginning of a sentence.
        tensor: Any tensor.

    Raises:
        PvaeError: If it is nested, sparse, masked or quantised, on the meta device, 8-bit floats,
            without its memory, or a view that would not fit in memory.
    """
    if tensor.is_nested:
        kind, cure = "is a nested tensor", "Pad it, torch.nested.to_padded_tensor(x, 0.0)"
    elif tensor.layout is not torch.strided:
        kind, cure = f"has the layout {tensor.layout}", "Make it dense, x.to_dense()"
    elif isinstance(tensor, torch.masked.MaskedTensor):
        kind, cure = (
            "is a MaskedTensor",
            "Give its data and its mask, x.get_data() and x.get_mask()",
        )
    elif tensor.is_meta or isinstance(tensor, FakeTensor) or torch._is_functional_tensor(tensor):
        where = "is on the meta device" if tensor.is_meta else "is a placeholder of a trace"
        kind, cure = f"{where} and has no values", "Make it on a device that holds data"
    elif tensor.is_quantized:
        kind, cure = "is quantised", "Take its values, x.dequantize()"
    elif tensor.is_floating_point() and tensor.element_size() == 1:
        kind, cure = f"has the type {tensor.dtype}", "Convert it, x.float()"
    elif tensor.numel() > 0 == tensor.untyped_storage().nbytes():
        kind, cure = "has lost its memory", "Make it again"
    elif tensor.untyped_storage().nbytes() < tensor.nbytes and too_large(
        tensor.nbytes, tensor.device
    ):
        size = f"{tensor.nbytes / 1e9:,.0f} GB if written out"
        kind = f"is a view of shape {list(tensor.shape)}, {size}"
        cure = "Give fewer data, or expand the values in the programs"
    else:
        return
    raise PvaeError(f"{what} {kind}: the programs cannot compute with its rows. {cure}.")
