"""The VAEs under test: native ones with their training, and any two torch modules made one."""

from vaerdict.models.checkpoint import load_vae, load_weights, save_vae, vae_from_factory
from vaerdict.models.gaussian import GaussianVAE, wrap
from vaerdict.models.networks import build_vae
from vaerdict.models.objective import elbo, kl_to_prior, log_likelihood
from vaerdict.models.scale import median_distance
from vaerdict.models.training import evaluate_elbo, train

__all__ = [
    "GaussianVAE",
    "build_vae",
    "elbo",
    "evaluate_elbo",
    "kl_to_prior",
    "load_vae",
    "load_weights",
    "log_likelihood",
    "median_distance",
    "save_vae",
    "train",
    "vae_from_factory",
    "wrap",
]
