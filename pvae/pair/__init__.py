"""What a pair is: its modules and parameters, its traces, its structure, and what is wrong with it.

Imports `data`, `distributions`, `runtime` and `errors`.
"""

from pvae.pair.admission import check_data, other_mask, other_measure
from pvae.pair.alone import alone
from pvae.pair.arguments import Arguments, check_tensor
from pvae.pair.bounded import Bounded, in_free_memory
from pvae.pair.check import check, look
from pvae.pair.fields import bind, given
from pvae.pair.glance import at_a_glance, plate_sizes
from pvae.pair.parameters import OwnParameters
from pvae.pair.program import Program, evaluating, move, name_of, same_buffers
from pvae.pair.reach import PLAIN, Reached, attributes, modules, reach, slots, variables
from pvae.pair.structure import (
    Structure,
    base_distribution,
    batch_plate,
    listed,
    mask_of,
    plates_in_words,
    unmasked,
)
from pvae.pair.tensors import TensorSplit
from pvae.pair.together import runs_together
from pvae.pair.traces import (
    arose_in_programs,
    in_words,
    latent_sites,
    observed_sites,
    trace_guide,
    trace_model,
    trace_of,
    trace_program,
    with_densities,
)

__all__ = [
    "PLAIN",
    "Arguments",
    "Bounded",
    "OwnParameters",
    "Program",
    "Reached",
    "Structure",
    "TensorSplit",
    "alone",
    "arose_in_programs",
    "at_a_glance",
    "attributes",
    "base_distribution",
    "batch_plate",
    "bind",
    "check",
    "check_data",
    "check_tensor",
    "evaluating",
    "given",
    "in_free_memory",
    "in_words",
    "latent_sites",
    "listed",
    "look",
    "mask_of",
    "modules",
    "move",
    "name_of",
    "observed_sites",
    "other_mask",
    "other_measure",
    "plate_sizes",
    "plates_in_words",
    "reach",
    "runs_together",
    "same_buffers",
    "slots",
    "trace_guide",
    "trace_model",
    "trace_of",
    "trace_program",
    "unmasked",
    "variables",
    "with_densities",
]
