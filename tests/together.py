"""Processes that train together: `run(world, name, …)` calls a function of this file in each."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from small import small_pair
from torch import nn

import pvae
from pvae.cli.main import main

ROOT = Path(__file__).parents[1]


def rank():
    return int(os.environ.get("RANK", 0))


def state(*programs):
    return {n: v.clone() for p in programs for n, v in p.state_dict().items()}


def digits(**options):
    return pvae.data.load("digits", observation="threshold", **options)


def density(seed):
    torch.manual_seed(seed)
    return pvae.models.MADE((1, 8, 8), hidden_dims=[32])


def trained(pair, data, **options):
    options = {"epochs": 2, "batch_size": 100, "progress": False, **options}
    fitted = pvae.fit(*pair, data, **options)
    return {"state": state(*pair), "history": fitted.history}


def densities(place, **options):
    """A pair without noise: its parameters do not depend on how the data are shared."""
    model = density(rank())
    next(model.parameters()).requires_grad_(False)
    return trained((model, pvae.guides.NoLatents()), digits(validation=150), **options)


class Scaled(pvae.models.MADE):
    """A plate that scales a minibatch to all 1,500 data."""

    def forward(self, x):
        with pyro.plate("data", 1500, subsample_size=len(x)):
            pyro.sample("x", self.distribution(), obs=x)


def scaled(place, **options):
    torch.manual_seed(rank())
    pair = Scaled((1, 8, 8), hidden_dims=[32]), pvae.guides.NoLatents()
    return trained(pair, digits(), **options)


class Normed(PyroModule):
    """A density of x with batch normalisation and a linear layer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64, affine=False)
        self.loc = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        self.norm(x.flatten(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x.flatten(1))


def normed(place, **options):
    return trained((Normed(), pvae.guides.NoLatents()), digits(), **options)


def noisy(place):
    found = trained(small_pair(rank()), digits(), batch_size=64, mode="compiled")
    return found | {"noise": torch.rand(4)}


def codes(place):
    torch.manual_seed(rank())
    sizes = {"channels": [8, 8], "num_blocks": 1}
    model = pvae.models.VQVAE((1, 8, 8), num_codes=8, code_dim=4, decay=0.9, **sizes)
    guide = pvae.guides.NearestCode(model, (1, 8, 8), **sizes)
    return trained((model, guide), digits(), epochs=1, mode="compiled")


def kept(place, **options):
    """A run in a folder."""
    pair = density(0), pvae.guides.NoLatents()
    how = {"resume": True, "schedule": "constant", "out": place / "run"}
    return trained(pair, digits(), **how, **options)


def refused(place):
    """The messages about processes that do not go together."""

    def message(pair, data, **options):
        try:
            trained(pair, data, **options)
        except pvae.PvaeError as error:
            return str(error)

    none, r = pvae.guides.NoLatents(), rank()
    x = digits().train.x
    other = pvae.models.MADE((1, 8, 8), hidden_dims=[8 + r])
    return [
        message((density(0), none), digits(), seed=r),
        message((density(0), none), x[: 1000 + 10 * r]),
        message((other, none), digits()),
        message((density(0), none), digits(), batch_size=101),
        message((density(0), none), x[:1001]),
    ]


def shell(place):
    small = "--model.hidden_dims [16] --guide.hidden_dims [16] --num_samples 20 --progress false"
    return main(["run", "--epochs", "1", *small.split(), "--out", str(place / "shell")])


class Spoilt(Normed):
    """In process 1 the loss is infinite after 20 gradients."""

    calls = 0

    def forward(self, x):
        self.calls += torch.is_grad_enabled()
        by = float("inf") if rank() and self.calls > 20 else 1.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc * by + by, 1.0).to_event(1), obs=x.flatten(1))


def not_finite(place):
    trained((Spoilt(), pvae.guides.NoLatents()), digits(), mode="eager", epochs=3)


def killed(place):
    """Process 1 is killed in the second epoch."""
    pair = small_pair()
    if rank():
        pair[0].register_forward_pre_hook(_kill_after(60))
    options = {"epochs": 3, "batch_size": 50, "progress": False}
    pvae.fit(*pair, digits(), out=place / "run", **options)


def _kill_after(calls):
    left = [calls]

    def count(module, args):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def start(world, calls, place):
    """Starts the processes as `torchrun` does, without its agent, and returns them.

    Args:
        world: The number of processes.
        calls: Functions of this file, by name, with their options.
        place: A folder; results are written there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }  # fmt: skip
    command = [sys.executable, __file__, repr(calls), str(place)]
    return [
        subprocess.Popen(command, env=shared | {"RANK": str(i)}, stderr=subprocess.PIPE, text=True)
        for i in range(world)
    ]


def run(world, calls, place):
    """Returns, for each call, what it returns in each process; an error's text if there is one."""
    running = start(world, calls, place)
    ends = [process.communicate(timeout=240)[1] for process in running]
    if any(process.returncode for process in running):
        return ends
    found = [torch.load(place / f"{i}.pt") for i in range(world)]
    return {name: [each[name] for each in found] for name in calls}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[2])
    found = {n: globals()[n](place, **how) for n, how in eval(sys.argv[1]).items()}
    torch.save(found, place / f"{rank()}.pt")
