"""Pairs with discrete sites in inner plates, and sums over all their values by plain calls."""

import itertools

import pyro
import pyro.distributions as dist
import torch

SUM = {"enumerate": "parallel"}


class Pixels:
    r"""z ~ N(0, 1); for each of three pixels y_d ~ Cat(p_d), x_d ~ N(μ_y + w_d z, 0.7).

    Args:
        where: Where y is enumerated: in the "guide", or in the "model" alone.
        mask: Whether some y_d are known.
        one_hot: Whether y_d is one-hot.
        right: Whether the plate of the pixels is right of that of the data.
        size: B.
    """

    def __init__(self, where, mask=False, one_hot=False, right=False, size=4):
        torch.manual_seed(0)
        self.where, self.mask, self.one_hot, self.right = where, mask, one_hot, right
        self.logits, self.means, self.w = torch.randn(3, 3), torch.randn(3), torch.randn(3)
        self.own, self.slope = torch.randn(3, 3), torch.randn(3)
        known = torch.rand(size, 3) < (0.5 if mask else 0.0)
        self.batch = torch.randn(size, 3), torch.randint(3, (size, 3)), known
        self.kind = dist.OneHotCategorical if one_hot else dist.Categorical

    def plates(self, size):
        at = (-2, -1) if self.right else (-1, -2)
        return pyro.plate("data", size, dim=at[0]), pyro.plate("pixels", 3, dim=at[1])

    def lay(self, value):  # [B or 1, 3, ...] in the plates
        return value if self.right else value.transpose(0, 1)

    def label(self, logits, given, known):
        options = {}
        if self.mask:
            given = torch.nn.functional.one_hot(given, 3).double() if self.one_hot else given
            options = {"obs": self.lay(given), "obs_mask": self.lay(known)}
        marks = {"y": SUM, "y_unobserved": SUM}
        with pyro.poutine.infer_config(config_fn=lambda site: marks.get(site["name"], {})):
            return pyro.sample("y", self.kind(logits=logits), **options)

    def model(self, x, given, known):
        data, pixels = self.plates(len(x))
        with data:
            z = pyro.sample("z", dist.Normal(torch.zeros(1) if self.right else 0.0, 1.0))
            with pixels:
                y = self.label(self.lay(self.logits[None]), given, known)
                mean = y @ self.means if self.one_hot else self.means[y]
                loc = mean + self.lay(self.w[None]) * z
                pyro.sample("x", dist.Normal(loc, 0.7), obs=self.lay(x))

    def guide(self, x, given, known):
        data, pixels = self.plates(len(x))
        with data:
            loc = x.mean(1)
            z = pyro.sample("z", dist.Normal(loc[:, None] if self.right else loc, 0.9))
            if self.where == "guide":
                name = "y_unobserved" if self.mask else "y"
                with pixels, pyro.poutine.mask(mask=~self.lay(known)):
                    scores = self.own + x[..., None] * self.slope
                    fn = self.kind(logits=self.lay(scores) + z[..., None] * self.slope)
                    pyro.sample(name, fn, infer=SUM)

    def expected(self, z):
        """Returns log w and the terms of the ELBO at z, [B], by hand."""
        x, given, known = self.batch
        loc = self.means + self.w[:, None] * z[:, None, None]  # [B, 3, values]
        joint = self.logits.log_softmax(-1) + dist.Normal(loc, 0.7).log_prob(x[..., None])
        own = self.own + x[..., None] * self.slope + z[:, None, None] * self.slope
        own = own.log_softmax(-1)
        at = given[..., None]
        seen = joint.gather(-1, at)[..., 0]
        ratio = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(x.mean(1), 0.9).log_prob(z)
        log_w = ratio + torch.where(known, seen, joint.logsumexp(-1)).sum(1)
        elbo = ratio + torch.where(known, seen, (own.exp() * (joint - own)).sum(-1)).sum(1)
        return log_w, log_w if self.where == "model" else elbo


class Nested:
    """Bits in the batch plate (s), in rows (y), in rows and columns (r), and in others (t).

    x_de depends on s, y_d and r_de, v_k on s and t_k. The guide has `inside`; the others are the
    model's alone.
    """

    shapes = {"s": (), "y": (2, 1), "r": (2, 2), "t": (3, 1)}  # noqa: RUF012

    def __init__(self, inside, size=2):
        torch.manual_seed(0)
        self.inside, self.batch = inside, (torch.randn(2, 2, size), torch.randn(3, size))
        self.batch = tuple(t.movedim(-1, 0) for t in self.batch)
        self.p = {name: torch.rand(()).item() * 0.6 + 0.2 for name in "syrt"}
        self.q = {name: torch.randn(2, 2) for name in "syrt"}
        self.loc = torch.randn(2, 2, 2)

    @staticmethod
    def plates(size):
        rows, others = pyro.plate("rows", 2, dim=-2), pyro.plate("others", 3, dim=-2)
        return pyro.plate("data", size, dim=-1), rows, pyro.plate("columns", 2, dim=-3), others

    def model(self, x, v):
        data, rows, columns, others = self.plates(len(x))
        with data:
            s = pyro.sample("s", dist.Bernoulli(self.p["s"]), infer=SUM)
            with rows:
                p = self.p["y"] * (0.5 + 0.5 * s)
                y = pyro.sample("y", dist.Bernoulli(p), infer=SUM)
                with columns:
                    r = pyro.sample("r", dist.Bernoulli(self.p["r"] * (1 - 0.5 * y)), infer=SUM)
                    loc = self.loc[s.long(), y.long(), r.long()]
                    pyro.sample("x", dist.Normal(loc, 0.8), obs=x.permute(2, 1, 0))
            with others:
                t = pyro.sample("t", dist.Bernoulli(self.p["t"]), infer=SUM)
                pyro.sample("v", dist.Normal(s - 2 * t, 1.0), obs=v.T)

    def guide(self, x, v):
        data, rows, columns, others = self.plates(len(x))

        def sample(name, given, seen):
            if name in self.inside:
                at = self.q[name][given.long(), 0] + self.q[name][given.long(), 1] * seen
                return pyro.sample(name, dist.Bernoulli(logits=at), infer=SUM)
            return torch.zeros(())

        with data:
            s = sample("s", torch.zeros(()), x.sum((1, 2)))
            with rows:
                y = sample("y", s, x.sum(2).T)
                with columns:
                    sample("r", y, x.permute(2, 1, 0))
            with others:
                sample("t", s, v.T)

    def expected(self):
        """Returns log p(x), the ELBO and the KL of each site of the guide, [B], by plain calls."""
        size, joint = len(self.batch[0]), {}
        names = list(self.shapes)
        counts = [torch.Size(shape).numel() for shape in self.shapes.values()]
        for bits in itertools.product((0.0, 1.0), repeat=sum(counts)):
            parts = torch.tensor(bits).split(counts)
            values = {
                name: part.reshape(*shape[::-1], 1).expand(*shape[::-1], size)
                for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
            }
            values["s"] = values["s"].reshape(size)
            values["y"], values["t"] = values["y"][0], values["t"][0]
            terms = [self._call(program, values) for program in (self.model, self.guide)]
            inner = tuple(parts[names.index(name)] for name in self.inside)
            key = tuple(float(b) for part in inner for b in part)
            found = joint.setdefault(key, ([], terms[1], terms[0]))
            found[0].append(sum(terms[0].values()))
        log_p = torch.stack([torch.stack(p).logsumexp(0) for p, *_ in joint.values()])
        zero = torch.zeros(size)
        log_q = torch.stack([sum(q.values(), zero) for _, q, _ in joint.values()])
        kl = {
            name: (log_q.exp() * torch.stack([q[name] - p[name] for _, q, p in joint.values()]))
            .sum(0)
            for name in self.inside
        }  # fmt: skip
        return log_p.logsumexp(0), (log_q.exp() * (log_p - log_q)).sum(0), kl

    def _call(self, program, values):
        trace = pyro.poutine.trace(pyro.poutine.condition(program, values)).get_trace(*self.batch)
        trace.compute_log_prob()
        sites = {n: s for n, s in trace.nodes.items() if n in (*self.shapes, "x", "v")}
        size = len(self.batch[0])
        return {n: s["log_prob"].expand(*s["log_prob"].shape[:-1], size).reshape(-1, size).sum(0)
                for n, s in sites.items()}  # fmt: skip
