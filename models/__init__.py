"""Pyro models p(z) p(x|z), one file a family; imported as `pvae.models`."""

from pvae.models.autoencoder import Autoencoder, SparseAutoencoder
from pvae.models.categorical import CategoricalVAE
from pvae.models.classifier import Classifier
from pvae.models.conditional import Conditional
from pvae.models.conditional_vae import ConditionalVAE
from pvae.models.explicit import MADE, GatedPixelCNN, PixelCNN, PixelRNN
from pvae.models.flow_prior import FlowPriorVAE
from pvae.models.frames import FrameBetween, NextFrames
from pvae.models.gaussian_mixture import GaussianMixture
from pvae.models.hierarchical import HierarchicalVAE
from pvae.models.hierarchical_codes import HierarchicalCodes
from pvae.models.linear import PPCA
from pvae.models.m2 import M2
from pvae.models.mixture_prior import MixturePriorVAE
from pvae.models.mvae import MVAE
from pvae.models.pixel_vae import PixelVAE
from pvae.models.text_to_image import DALLE, TextImageTransformer
from pvae.models.vae import VAE
from pvae.models.vaeac import VAEAC
from pvae.models.vamp_prior import VampPriorVAE
from pvae.models.video import VideoPixelCNN
from pvae.models.vq_vae import VQVAE
from pvae.models.vq_vae_2 import VQVAE2, ConditionalVQVAE2
from pvae.nn import remember

__all__ = [
    "DALLE",
    "M2",
    "MADE",
    "MVAE",
    "PPCA",
    "VAE",
    "VAEAC",
    "VQVAE",
    "VQVAE2",
    "Autoencoder",
    "CategoricalVAE",
    "Classifier",
    "Conditional",
    "ConditionalVAE",
    "ConditionalVQVAE2",
    "FlowPriorVAE",
    "FrameBetween",
    "GatedPixelCNN",
    "GaussianMixture",
    "HierarchicalCodes",
    "HierarchicalVAE",
    "MixturePriorVAE",
    "NextFrames",
    "PixelCNN",
    "PixelRNN",
    "PixelVAE",
    "SparseAutoencoder",
    "TextImageTransformer",
    "VampPriorVAE",
    "VideoPixelCNN",
]

remember(*(globals()[name] for name in __all__))
