"""Processes that train together: `run(world, name, …)` calls a function of this file in each."""

import functools
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
    options = {"optim": functools.partial(torch.optim.SGD, lr=1e-4), **options}
    return trained((model, pvae.guides.NoLatents()), digits(validation=151), **options)


class Scaled(pvae.models.MADE):
    """A plate that scales a minibatch to all 1,499 data."""

    def forward(self, x):
        with pyro.plate("data", 1499, subsample_size=len(x)):
            pyro.sample("x", self.distribution(), obs=x)


def scaled(place, **options):
    torch.manual_seed(rank())
    pair = Scaled((1, 8, 8), hidden_dims=[32]), pvae.guides.NoLatents()
    sgd = functools.partial(torch.optim.SGD, lr=1e-5)
    return trained(pair, digits(validation=1), optim=sgd, **options)


class Normed(PyroModule):
    """A density of x with batch normalisation, which is there under two names."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64, affine=False)
        self.loc = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        self.norm(x.flatten(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x.flatten(1))


class Beside(PyroModule):
    """A guide without latents that holds the model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        pyro.module("model", self.model.norm)


class Counting(Normed):
    """It keeps the mean of what this process has seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.copy_(x.mean())
        super().forward(x)


def normed(place, **options):
    model = Normed()
    return trained((model, Beside(model)), digits(), **options)


class Noise(PyroModule):
    """z ~ N(0, 1), whatever x is; it keeps what has been drawn."""

    def __init__(self):
        super().__init__()
        self.loc, self.drawn = nn.Parameter(torch.zeros(())), []

    def model(self, x):
        pyro.module("noise", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            self.drawn.append(pyro.sample("z", dist.Normal(self.loc.detach(), 1.0)).tolist())


def noises(place, **options):
    """What each process draws in the last of its steps."""
    both = Noise()
    pvae.fit(
        both.model, both.guide, torch.zeros(40), batch_size=8, progress=False, mode="eager",
        optim=functools.partial(torch.optim.SGD, lr=0.0), **options,
    )  # fmt: skip
    return both.drawn[-1]


def noises_of_a_resumed_run(place):
    """The last draws of a run, and of one that was interrupted after an epoch."""
    how = {"out": place / "noises", "schedule": "constant"}
    whole = noises(place, epochs=2, schedule="constant")
    noises(place, epochs=1, **how)
    return whole, noises(place, epochs=2, resume=True, **how)


class Evaluates(pvae.callbacks.Callback):
    """Evaluates the pair after each epoch, in process 0 alone."""

    def __init__(self):
        self.bounds = []

    def epoch(self, training):
        x = digits().test.x[:20]
        how = {"num_samples": 2, "estimators": [], "progress": False}
        found = pvae.evaluate(training.model, training.guide, x, **how)
        self.bounds.append(float(found.elbo.mean()))


def noisy(place):
    seen = Evaluates()
    found = trained(small_pair(rank()), digits(), batch_size=64, mode="compiled", callbacks=[seen])
    return found | {"evaluated": seen.bounds}


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
        message((Counting(), none), digits()),
        message((density(0), none), digits(), out=place / "one" if r else None),
        message(small_pair(), pvae.data.load("digits", labelled=100, labelled_share=0.2)),
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
