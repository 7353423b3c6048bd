"""Tensor programs recorded as graphs: compiled, keyed by their inputs, captured as CUDA graphs.

Imports `pair`, `runtime` and `errors`.
"""

from pvae.compile.cuda_graph import Replay, can_replay
from pvae.compile.graph import Graph, decides, in_words
from pvae.compile.recording import FRESH, is_random, record
from pvae.compile.signature import Recorded, as_number, signature_of
from pvae.compile.snapshot import Snapshot
from pvae.compile.spaces import Change
from pvae.compile.watch import Watch

__all__ = [
    "FRESH",
    "Change",
    "Graph",
    "Recorded",
    "Replay",
    "Snapshot",
    "Watch",
    "as_number",
    "can_replay",
    "decides",
    "in_words",
    "is_random",
    "record",
    "signature_of",
]
