"""What a checkpoint holds of a run."""

from typing import Any

from pvae.pair import name_of
from pvae.training.checkpoint import pair_state

__all__ = ["contents_of"]


def contents_of(run: Any, randoms: list[dict[str, Any]], total: float) -> dict[str, Any]:
    """Returns everything that a run needs to continue.

    Args:
        run: The `pvae.training.loop.Run`.
        randoms: The state of the random generators of each process.
        total: Sum of the ELBO over the present epoch, in all processes.
    """
    svi = run.svi
    contents = {
        "pair": [name_of(svi.model), name_of(svi.guide)],
        "settings": run.settings,
        "state": pair_state(svi.model, svi.guide, svi.own.stored),
        "optimiser": svi.optim.state_dict(),
        "random": randoms[0],
        "random_of_others": randoms[1:],
        "progress": [run.epoch, run.step, total, run.finished],
        "history": run.history,
        "best": run.best,
        "best_at": [run.best_elbo, run.best_epoch],
        "callbacks": run.kept,
        "made": run.watch.read(),
    }
    if run.average is not None and run.average.begun:
        with run.average.taken():
            contents["average"] = pair_state(svi.model, svi.guide, svi.own.stored)
    return contents
