"""What a trained pair is for: encode, reconstruct, generate, complete, inpaint, edit, probe.

Imports `importance`, `pair`, `data`, `distributions`, `runtime` and `errors`.
"""

from pvae.predictive.at_means import AtMeans, place_of, rule_of
from pvae.predictive.complete import complete
from pvae.predictive.edit import directions, edit
from pvae.predictive.encode import draw_codes, encode
from pvae.predictive.generate import decode, generate, reconstruct, shown_site
from pvae.predictive.inpaint import inpaint
from pvae.predictive.known import KnownPart, blank, known_of, spare_of
from pvae.predictive.plane import Plane, code_grid, normal_quantiles, plane, prior_density
from pvae.predictive.probe import Probes, probe
from pvae.predictive.traverse import ACTIVE, Traversal, interpolate, traverse

__all__ = [
    "ACTIVE",
    "AtMeans",
    "KnownPart",
    "Plane",
    "Probes",
    "Traversal",
    "blank",
    "code_grid",
    "complete",
    "decode",
    "directions",
    "draw_codes",
    "edit",
    "encode",
    "generate",
    "inpaint",
    "interpolate",
    "known_of",
    "normal_quantiles",
    "place_of",
    "plane",
    "prior_density",
    "probe",
    "reconstruct",
    "rule_of",
    "shown_site",
    "spare_of",
    "traverse",
]
