"""Encoder and decoder of a trained pair as programs that run without pvae: ONNX, torch.export.

Imports `predictive`, `compile`, `pair`, `runtime` and `errors`.
"""

from pvae.exported.export import Exported, export

__all__ = ["Exported", "export"]
