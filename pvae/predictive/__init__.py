"""What a trained pair is for: encode, reconstruct, generate, complete, decode, traverse, probe.

Imports `pair`, `data`, `distributions`, `runtime` and `errors`.
"""

from pvae.predictive.at_means import place_of
from pvae.predictive.complete import complete
from pvae.predictive.encode import draw_codes, encode
from pvae.predictive.generate import decode, generate, reconstruct
from pvae.predictive.probe import Probes, probe
from pvae.predictive.traverse import ACTIVE, Traversal, interpolate, traverse

__all__ = [
    "ACTIVE",
    "Probes",
    "Traversal",
    "complete",
    "decode",
    "draw_codes",
    "encode",
    "generate",
    "interpolate",
    "place_of",
    "probe",
    "reconstruct",
    "traverse",
]
