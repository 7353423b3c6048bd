"""What a pair is: its modules and parameters, its traces, its structure, and its faults.

Imports `data`, `distributions`, `drawing`, `runtime` and `errors`.
"""

from pvae.pair.admission import check_data
from pvae.pair.alone import alone
from pvae.pair.arguments import Arguments
from pvae.pair.bounded import Bounded, in_free_memory
from pvae.pair.check import check, look
from pvae.pair.dense import check_tensor
from pvae.pair.density import density_of
from pvae.pair.enumerable import memory_for_the_sum, refuse_unlisted, sample_instead
from pvae.pair.fields import bind, given, names_labels, opened, signature_of
from pvae.pair.glance import at_a_glance, plate_sizes
from pvae.pair.inspect import inspect
from pvae.pair.measures import (
    GLOBAL,
    gives_a_point,
    gives_one_code,
    has_path,
    objective_name,
    refuse_other_measure,
    refuse_unbounded,
    relaxed_in_training,
)
from pvae.pair.named import (
    PLAIN,
    attributes,
    from_library,
    is_library,
    slots,
    variables,
)
from pvae.pair.parameters import OwnParameters, quiet
from pvae.pair.program import Program, evaluating, move, name_of, same_buffers
from pvae.pair.reach import Reached, modules, reach
from pvae.pair.structure import (
    Inspection,
    Structure,
    base_distribution,
    kind_of,
    listed,
    mask_of,
    plates_at,
    plates_of_enumerated,
    unmasked,
)
from pvae.pair.tensors import TensorSplit
from pvae.pair.together import runs_together
from pvae.pair.traces import (
    arose_in_programs,
    in_words,
    latent_sites,
    observed_sites,
    place,
    sample_sites,
    trace_guide,
    trace_model,
    trace_of,
    trace_program,
    with_densities,
)

__all__ = [
    "GLOBAL",
    "PLAIN",
    "Arguments",
    "Bounded",
    "Inspection",
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
    "bind",
    "check",
    "check_data",
    "check_tensor",
    "density_of",
    "evaluating",
    "from_library",
    "given",
    "gives_a_point",
    "gives_one_code",
    "has_path",
    "in_free_memory",
    "in_words",
    "inspect",
    "is_library",
    "kind_of",
    "latent_sites",
    "listed",
    "look",
    "mask_of",
    "memory_for_the_sum",
    "modules",
    "move",
    "name_of",
    "names_labels",
    "objective_name",
    "observed_sites",
    "opened",
    "place",
    "plate_sizes",
    "plates_at",
    "plates_of_enumerated",
    "quiet",
    "reach",
    "refuse_other_measure",
    "refuse_unbounded",
    "refuse_unlisted",
    "relaxed_in_training",
    "runs_together",
    "same_buffers",
    "sample_instead",
    "sample_sites",
    "signature_of",
    "slots",
    "trace_guide",
    "trace_model",
    "trace_of",
    "trace_program",
    "unmasked",
    "variables",
    "with_densities",
]
