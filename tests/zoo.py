"""Every pair of the package, small enough for a test: a function without arguments for each."""

import torch

from pvae import guides as g
from pvae import models as m
from pvae.distributions import heads

SHAPE = (1, 8, 8)
DENSE = {"latent_dim": 3, "hidden_dims": [16]}
CONV = {"latent_dim": 3, "network": "conv"}
FLOW = {"flow_hidden_dims": [8], "context_dim": 4, **DENSE}
CHAIN = {"latent_dims": [4, 3], "hidden_dims": [[16], [8]]}


def _with_mean_field(model):
    return lambda: (model(SHAPE, **DENSE), g.MeanField(SHAPE, **DENSE))


def _with_vae(guide, **options):
    return lambda: (m.VAE(SHAPE, **DENSE), guide(SHAPE, **{**DENSE, **options}))


def _given_its_model(model, make_guide):
    def pair():
        made = model()
        return made, make_guide(made)

    return pair


def _likelihood(**options):
    return lambda: (m.VAE(SHAPE, **DENSE, **options), g.MeanField(SHAPE, **DENSE))


def _quantised(prior=lambda: None, **options):
    made = {"channels": [4], "num_blocks": 1}
    return _given_its_model(
        lambda: m.VQVAE(SHAPE, num_codes=5, code_dim=3, prior=prior(), **made, **options),
        lambda model: g.NearestCode(model, SHAPE, **made),
    )


def _two_maps(**options):
    made = {"channels": [[4], [4]], "num_blocks": 1}
    return _given_its_model(
        lambda: m.VQVAE2(SHAPE, num_codes=5, code_dim=3, **made, **options),
        lambda model: g.NearestCodes(model, SHAPE, **made),
    )


def _given_labels(**options):
    model = m.ConditionalVAE(SHAPE, 10, **{**DENSE, **options})
    channels = {"channels": [4, 4]} if options else {"hidden_dims": [16]}
    return model, g.ConditionalMeanField(model, SHAPE, options.get("network", "dense"), **channels)


def _given_masks(**options):
    sizes = {**DENSE, **options}
    return m.VAEAC(SHAPE, **sizes), g.MaskedMeanField(SHAPE, **sizes)


def _partly_labelled(label="enumerated", network="dense", **options):
    sizes = {"network": network, "hidden_dims": [16], "channels": [4, 4]}
    model = m.M2(SHAPE, 10, 3, **sizes, **options)
    return model, g.LabelThenCode(model, SHAPE, label, **sizes)


def _two_views():
    likelihoods = {"y": heads.Categorical(10)}
    model = m.MVAE({"x": SHAPE, "y": ()}, likelihoods, **DENSE, weights={"y": 5.0})
    return model, g.ProductOfExperts(model, hidden_dims=[16], embedding_dim=4)


def _two_maps_given_labels():
    made = {"channels": [[4], [4]], "num_blocks": 1}
    model = m.ConditionalVQVAE2(SHAPE, _codes(10), num_codes=5, code_dim=3, **made)
    return model, g.NearestCodes(model, SHAPE, **made)


def _codes(num_classes=None):
    sizes = {"num_codes": 5, "channels": 4, "num_layers": 1, "num_classes": num_classes}
    return m.HierarchicalCodes(((4, 4), (2, 2)), **sizes)


def _next_frame(**options):
    sizes = {**DENSE, **options}
    return m.NextFrames((1, *SHAPE), **sizes), g.FramesMeanField((1, *SHAPE), **sizes)


def _frame_between():
    options = {"likelihood": "discretized_logistic", "levels": 17}
    return m.FrameBetween(SHAPE, channels=[4], num_blocks=1, **options), g.NoLatents()


def _explicit(model, **options):
    return lambda: (model(SHAPE, **options), g.NoLatents())


def _of_labels(model, **options):
    density = {"channels": 4, "context_shape": [10], **options}
    return lambda: (m.Conditional(model(SHAPE, **density)), g.NoLatents())


def _captioned(shape, num_codes):
    sizes = {"num_words": 10, "length": 2, "channels": 4, "num_layers": 1, "num_heads": 2}
    return m.TextImageTransformer(shape, num_codes, **sizes)


def _drawn_from_text():
    made = {"channels": [4], "num_blocks": 1}
    model = m.DALLE(SHAPE, _captioned([4, 4], 5), num_codes=5, code_dim=3, **made)
    return model, g.NearestCode(model, SHAPE, **made)


def _categorical(gradient):
    sizes = {"num_latents": 3, "num_categories": 4, "hidden_dims": [16]}
    return lambda: (
        m.CategoricalVAE(SHAPE, **sizes),
        g.Categorical(SHAPE, gradient=gradient, **sizes),
    )


def _vae():
    return m.VAE(SHAPE, **DENSE)


def _chain(**options):
    return m.HierarchicalVAE(SHAPE, **CHAIN, **options)


# name: (the pair, how its data are observed)
ZOO = {
    "dense": (lambda: (_vae(), g.MeanField(SHAPE, **DENSE)), "dynamic"),
    "convolutional": (
        lambda: (
            m.VAE(SHAPE, **CONV, channels=[4, 4]),
            g.MeanField(SHAPE, **CONV, channels=[4, 4]),
        ),
        "dynamic",
    ),
    "gaussian": (_likelihood(likelihood="gaussian", scale="learned"), "grey"),
    "continuous bernoulli": (_likelihood(likelihood="continuous_bernoulli"), "grey"),
    "binomial": (_likelihood(likelihood="binomial", levels=17), "grey"),
    "discretised logistic": (_likelihood(likelihood="discretized_logistic", levels=17), "grey"),
    "counts": (_likelihood(likelihood="negative_binomial"), "counts"),
    "counts with zeros": (_likelihood(likelihood="zero_inflated_poisson"), "counts"),
    "logistic mixture": (
        _likelihood(likelihood="logistic_mixture", levels=17, num_mixtures=2),
        "grey",
    ),
    "mixture prior": (
        _with_mean_field(lambda *a, **k: m.MixturePriorVAE(*a, num_components=4, **k)),
        "dynamic",
    ),
    "mixture prior and full covariance, convolutional": (
        lambda: (
            m.MixturePriorVAE(SHAPE, **CONV, channels=[4, 4], likelihood="gaussian"),
            g.FullCovariance(SHAPE, **CONV, channels=[4, 4]),
        ),
        "dequantize",
    ),
    "VampPrior": (
        _given_its_model(
            lambda: m.VampPriorVAE(SHAPE, num_pseudo_inputs=5, **DENSE), g.SharedEncoder
        ),
        "dynamic",
    ),
    "flow prior": (
        _with_mean_field(lambda *a, **k: m.FlowPriorVAE(*a, flow_hidden_dims=[8], **k)),
        "dynamic",
    ),
    "full covariance": (_with_vae(g.FullCovariance), "dynamic"),
    "low rank": (_with_vae(g.LowRank, rank=2), "dynamic"),
    "mixture of Gaussians": (_with_vae(g.MixtureOfGaussians, num_components=3), "dynamic"),
    "IAF": (_with_vae(g.IAF, **FLOW), "dynamic"),
    "spline flow": (_with_vae(g.SplineFlow, num_bins=4, **FLOW), "dynamic"),
    "semi-amortised": (
        _given_its_model(_vae, lambda model: g.SemiAmortised(model, SHAPE, num_steps=2, **DENSE)),
        "dynamic",
    ),
    "two layers": (lambda: (_chain(), g.BottomUp(SHAPE, **CHAIN)), "dynamic"),
    "ladder": (_given_its_model(_chain, lambda model: g.Ladder(SHAPE, model)), "dynamic"),
    "convolutional ladder": (
        _given_its_model(
            lambda: _chain(network="conv", channels=[4, 4]),
            lambda model: g.Ladder(SHAPE, model, network="conv", channels=[4, 4]),
        ),
        "dynamic",
    ),
    "autoencoder": (
        lambda: (m.Autoencoder(SHAPE, **DENSE), g.Code(SHAPE, **DENSE)),
        "dynamic",
    ),
    "sparse autoencoder": (
        lambda: (m.SparseAutoencoder(SHAPE, **DENSE), g.Code(SHAPE, **DENSE)),
        "dynamic",
    ),
    "denoising autoencoder": (
        lambda: (m.Autoencoder(SHAPE, **DENSE), g.DenoisingCode(SHAPE, **DENSE)),
        "dynamic",
    ),
    "contractive autoencoder": (
        lambda: (m.Autoencoder(SHAPE, **DENSE), g.ContractiveCode(SHAPE, latent_dim=3)),
        "dynamic",
    ),
    "Gaussian mixture": (
        _given_its_model(lambda: m.GaussianMixture(SHAPE, 3), g.Responsibilities),
        "dequantize",
    ),
    "PixelVAE": (
        _with_mean_field(lambda *a, **k: m.PixelVAE(*a, features=4, num_blocks=1, **k)),
        "dynamic",
    ),
    "VQ-VAE": (_quantised(), "dynamic"),
    "VQ-VAE by gradients": (_quantised(decay=None), "dynamic"),
    "VQ-VAE with a prior": (
        _quantised(
            prior=lambda: m.GatedPixelCNN(
                [4, 4], channels=4, num_layers=1, likelihood="categorical", levels=5
            )
        ),
        "dynamic",
    ),
    "VQ-VAE-2": (_two_maps(), "dynamic"),
    "MADE": (_explicit(m.MADE, hidden_dims=[16], order="random"), "dynamic"),
    "PixelCNN": (_explicit(m.PixelCNN, channels=4, num_blocks=2, kernel_size=3), "dynamic"),
    "gated PixelCNN": (
        _explicit(m.GatedPixelCNN, channels=4, num_layers=2, likelihood="softmax", levels=17),
        "grey",
    ),
    "PixelRNN": (_explicit(m.PixelRNN, channels=4, num_layers=2, kernel_size=3), "dynamic"),
    "row LSTM": (
        _explicit(
            m.PixelRNN,
            kind="row",
            channels=4,
            num_layers=2,
            kernel_size=3,
            likelihood="logistic_mixture",
            levels=17,
        ),
        "grey",
    ),
    "VideoPixelCNN": (  # of a video with one frame
        _explicit(m.VideoPixelCNN, memory=1, channels=4, num_layers=1, num_blocks=1),
        "dynamic",
    ),
    "categorical": (_categorical("score"), "dynamic"),
    "Gumbel-softmax": (_categorical("gumbel_softmax"), "dynamic"),
    "straight-through": (_categorical("straight_through"), "dynamic"),
    "probabilistic PCA": (
        lambda: (m.PPCA(SHAPE, latent_dim=3), g.LinearGaussian(SHAPE, latent_dim=3)),
        "grey",
    ),
}

# Given labels y of ten classes.
GIVEN = {
    "conditional VAE": (_given_labels, "dynamic"),
    "convolutional conditional VAE": (
        lambda: _given_labels(network="conv", channels=[4, 4]),
        "dynamic",
    ),
    "PixelCNN given labels": (_of_labels(m.PixelCNN, num_blocks=1, kernel_size=3), "dynamic"),
    "VQ-VAE-2 given labels": (_two_maps_given_labels, "dynamic"),
    "image and label": (_two_views, "dynamic"),
    "classifier": (lambda: (m.Classifier(SHAPE, hidden_dims=[16]), g.NoLatents()), "dynamic"),
    "two maps of codes": (lambda: (_codes(10), g.NoLatents()), "dynamic"),
}

# Labels of which some are unknown.
PARTLY_LABELLED = {
    "M2": (_partly_labelled, "dynamic"),
    "M2, sampled": (lambda: _partly_labelled("sampled"), "dynamic"),
    "convolutional M2": (lambda: _partly_labelled(network="conv"), "dynamic"),
    "M2 of codes": (lambda: _partly_labelled(likelihood="gaussian", scale="learned"), "grey"),
}
GIVEN |= PARTLY_LABELLED

# Given captions of two words out of ten.
GIVEN_TEXT = {
    "VQ-VAE from text": (_drawn_from_text, "dynamic"),
    "captions and codes": (lambda: (_captioned(SHAPE, 2), g.NoLatents()), "threshold"),
}

# Given masks.
GIVEN_MASKS = {
    "any mask": (_given_masks, "dynamic"),
    "any mask, convolutional": (
        lambda: _given_masks(network="conv", channels=[4, 4]),
        "dynamic",
    ),
}

# Given other frames.
GIVEN_FRAMES = {
    "frame between two": (_frame_between, "grey"),
    "frame after a still": (_next_frame, "dynamic"),
    "frame after a still, convolutional": (
        lambda: _next_frame(network="conv", channels=[4, 4]),
        "dynamic",
    ),
}

# Without latent variables.
EXPLICIT = ["MADE", "PixelCNN", "gated PixelCNN", "PixelRNN", "row LSTM", "VideoPixelCNN"]


def given(name, y):
    """Returns what the model of a pair is given for data of labels y, by name."""
    if name in GIVEN_MASKS:
        draw = torch.Generator().manual_seed(0)
        return {"mask": torch.rand(len(y), *SHAPE, generator=draw) < 0.5}
    if name in GIVEN_FRAMES:
        draw = torch.Generator().manual_seed(0)
        before, after = torch.rand(2, len(y), *SHAPE, generator=draw)
        return {"before": before, "after": after} if "between" in name else {"still": before}
    if name in GIVEN_TEXT:
        return {"caption": torch.stack([y, 9 - y], -1)}
    if name in PARTLY_LABELLED:
        return {"y": torch.where(torch.arange(len(y)) % 3 == 1, y, -1)}
    codes = {}
    if name == "two maps of codes":  # the larger one is told by the smaller one and the label
        z_2 = (y[:, None, None] + torch.arange(4).view(2, 2)) % 5
        codes = {"z_1": z_2.repeat_interleave(2, 1).repeat_interleave(2, 2), "z_2": z_2}
    return codes | ({"y": y} if name in GIVEN else {})


def make(name):
    """Returns the pair, and how its data are observed."""
    pair, observation = (ZOO | GIVEN | GIVEN_TEXT | GIVEN_MASKS | GIVEN_FRAMES)[name]
    torch.manual_seed(0)
    return *pair(), observation
