"""compare_scales(): finds sites that `poutine.scale` weights differently."""

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.pair import Structure, sample_sites

__all__ = ["compare_scales"]

Scale = float | Tensor


def compare_scales(structure: Structure) -> tuple[list[str], list[str], list[str]]:
    """Returns facts, notes and faults about the scales of sites."""
    guide, model = map(_own_scales, (structure.guide_trace, structure.model_trace))
    for name in guide.keys() & model.keys():
        if not _same(guide[name], model[name]):
            fault = (
                f"Site {name!r} has the scale {_number(guide[name])} in the guide and "
                f"{_number(model[name])} in the model, so log p(z) and log q(z|x) are weighted "
                "differently and their difference is no KL. Put the same poutine.scale (or "
                "subsample_size of a plate) around the site in both programs."
            )
            return [], [], [fault]
    scales = model | guide
    first = next(iter(scales.values()))
    if not all(_same(scale, first) for scale in scales.values()):
        text = ", ".join(f"{_number(scale)} on {name!r}" for name, scale in scales.items())
        note = (
            f"poutine.scale weights the sites differently ({text}), as a KL weight does. Training "
            "maximises the weighted sum, which need not be a bound on log p(x). Evaluation leaves "
            "scales out."
        )
        return [], [note], []
    if _same(first, 1.0):
        return [], [], []
    return [f"scale: {_number(first)} on every site, so the loss is −ELBO times this"], [], []


def _own_scales(trace: Trace) -> dict[str, Scale]:
    """Returns the scale of each site without the share of subsampling plates."""
    scales = {}
    for name, site in sample_sites(trace).items():
        scales[name] = site["scale"]
        for frame in site["cond_indep_stack"]:
            if frame.size > 0 and (frame.full_size or -1) > frame.size:
                scales[name] = scales[name] / (frame.full_size / frame.size)
    return scales


def _same(a: Scale, b: Scale) -> bool:
    a, b = (torch.as_tensor(scale, dtype=torch.float64).cpu() for scale in (a, b))
    try:
        return torch.allclose(*torch.broadcast_tensors(a, b), rtol=1e-5)
    except RuntimeError:  # shapes that do not broadcast
        return False


def _number(scale: Scale) -> str:
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return f"{float(scale.min()):g} … {float(scale.max()):g}"
    return f"{float(scale):g}"
