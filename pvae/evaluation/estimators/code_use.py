"""The use of discrete codes: how many of the categories occur, and how evenly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, OneHotCategorical

from pvae.distributions import OneHot
from pvae.drawing import Panel, attempt, axes, chart, colours, responsive, text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.work import in_blocks
from pvae.importance import seed_unit
from pvae.pair import Structure, base_distribution, latent_sites, mask_of

__all__ = ["CodeUsage", "CodeUse"]

_ROWS = 256  # data at a time


@dataclass(frozen=True)
class CodeUsage(Finding, kind="CodeUsage"):
    r"""How often each of K categories occurs among the codes of all data.

    .. math:: p_k = \frac1{N M} \sum_{n=1}^N \sum_{m=1}^M \mathbb 1[z_{nm} = k], \qquad
        \text{perplexity} = \exp\left( - \sum_k p_k \log p_k \right) \le K

    where m runs over the places of a site (49 in a map of 7×7), from one sample of each datum.

    Attributes:
        shares: p for each categorical site, K numbers.
    """

    title, section, order = "Use of the discrete codes", "parts", 60

    shares: dict[str, list[float]]

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": len(self),
            "sites": {
                name: {
                    "num_codes": len(shares),
                    "used": sum(share > 0 for share in shares),
                    "perplexity": math.exp(-sum(p * math.log(p) for p in shares if p)),
                }
                for name, shares in self.shares.items()
            },
        }

    def line(self, summary: dict[str, Any]) -> str:
        return "codes: " + "; ".join(
            f"{name} uses {site['used']} of {site['num_codes']}, perplexity "
            f"{text.number(site['perplexity'], 1)}"
            for name, site in summary["sites"].items()
        )

    def verdict(self, known: Known) -> str | None:
        alone = [name for name, p in self.shares.items() if max(p) == 1]
        if not alone or len(self) == 1:
            return None
        return (
            f"All codes of {' and '.join(alone)} are the same category: the codes have collapsed, "
            "and say nothing about x."
        )

    def panels(self, known: Known) -> list[Panel]:
        return [
            attempt(f"codes-{name}", f"How often each code of {name} is used", _draw, shares)
            for name, shares in self.shares.items()
        ]


@dataclass(frozen=True)
class CodeUse(Estimator):
    """Counts the categories among the codes of the data, one sample of q(z|x) for each.

    It applies to categorical sites, also in one-hot form, and is computed where there are any. A
    codebook of which few vectors are used holds less than it could; one that has collapsed to a
    single vector holds nothing.

    Attributes:
        num_data: Number of data, drawn at random; None for all.

    Example:
        >>> import pvae, torch
        >>> sizes = {"num_latents": 3, "num_categories": 4}
        >>> model = pvae.models.CategoricalVAE((4,), **sizes)
        >>> guide = pvae.guides.Categorical((4,), **sizes)
        >>> x = torch.ones(5, 4)
        >>> found = pvae.evaluate(model, guide, x, num_samples=10, estimators=[CodeUse()])
        >>> found.findings["code_use"].title
        'Use of the discrete codes'
    """

    name, finding = "code_use", CodeUsage

    @classmethod
    def from_options(cls) -> Self:
        """Use of the discrete codes."""
        return cls()

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        return [self] if _categorical(task.sampler.structure) else []

    def estimate(self, task: Task) -> CodeUsage:
        sites = _categorical(task.sampler.structure)
        nodes = task.sampler.structure.model_trace.nodes
        one_hot = {
            name: isinstance(base_distribution(nodes[name]["fn"]), OneHotCategorical | OneHot)
            for name in sites
        }

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=6)
            trace = task.sampler.particles.guide(task.batch(block), 1, enumerate=False)
            return {  # a guide may leave out the site of labels that are all known
                name: _counts(trace.nodes[name], num, one_hot[name]).cpu().numpy()[None]
                if name in trace.nodes
                else np.zeros((1, num), dtype=np.int64)
                for name, num in sites.items()
            }

        counts = task.map("code_use", in_blocks(task.positions, _ROWS), compute)
        shares = {n: found.sum(0) / found.sum() for n, found in counts.items() if found.any()}
        if not shares:
            raise PvaeError("There are no codes to count: masks leave them out for all data.")
        return CodeUsage(task.positions, {name: p.tolist() for name, p in shares.items()})


def _categorical(structure: Structure) -> dict[str, int]:
    """Returns K for each categorical latent site of the guide with three categories or more."""
    found = {}
    for name, site in latent_sites(structure.model_trace).items():
        if name not in structure.latent or _are_known(name, structure):
            continue
        fn = base_distribution(site["fn"])
        if isinstance(fn, OneHotCategorical | OneHot):
            found[name] = fn.event_shape[-1]
        elif isinstance(fn, Categorical):
            found[name] = fn.probs.shape[-1]
    return {name: num for name, num in found.items() if num > 2}


def _are_known(name: str, structure: Structure) -> bool:
    """Whether a site is that of unknown labels, and all labels are known."""
    nodes, label = structure.model_trace.nodes, name.removesuffix("_unobserved")
    mask = mask_of(nodes[name]) if f"{label}_observed" in nodes else None
    return mask is not None and not mask.any()


def _counts(site: dict[str, Any], num: int, one_hot: bool) -> Tensor:
    """Counts the values of a site by category, [K]."""
    value, mask = site["value"], mask_of(site)
    if one_hot:
        value, mask = value.argmax(-1), None if mask is None else mask[..., 0]
    kept = torch.ones_like(value, dtype=torch.bool) if mask is None else mask.expand_as(value)
    return value[kept].long().bincount(minlength=num)


def _draw(shares: list[float]) -> Panel:
    found = np.sort(np.array(shares))[::-1]

    def draw(width: float) -> Any:
        with chart("Share of each code, the most frequent first", width, 200) as drawn:
            ax = drawn.figure.subplots()
            ax.bar(np.arange(len(found)) + 1, found, width=1.0, color=colours.ACCENT)
            ax.axhline(1 / len(found), color=colours.INK, linewidth=1.2, dashes=(4, 3))
            axes(ax, across="codes, the most frequent first", up="share", whole="across")
            ax.set_xlim(0.5, len(found) + 0.5)
            ax.set_ylim(0)
        return drawn.svg

    used = int((found > 0).sum())
    note = (
        f"{text.count(used)} of {text.count(len(found))} codes occur. The dashed line is the share "
        "of each code if all were used equally."
    )
    return Panel(bodies=(responsive(draw),), note=note)
