"""The seam: what the decoder ignores costs nothing, and no margin exceeds the exact one."""

import torch
from scipy.optimize import brentq
from scipy.stats import ncx2
from torch import nn

from tests.toys import LinearVAE
from vaerdict.certify import certify, choose_methods
from vaerdict.models import wrap
from vaerdict.options import CertifyOptions


def margins(vae: LinearVAE, method: str, r: float) -> list[float]:
    rows = certify(vae, torch.rand(2, 1, 1, 12), r=r, options=CertifyOptions(methods=(method,)))
    return [row.margin or 0.0 for row in rows]


def test_latents_that_the_decoder_ignores_add_no_noise() -> None:
    """Of six latents two are used, so that the exact margin is that of two."""
    a, b, std, r = 2.0, 3.0, 0.3, 1.5
    encoder, decoder = b * torch.eye(6, 12), torch.zeros(12, 6)
    decoder[0, 0] = decoder[1, 1] = a
    vae = LinearVAE(encoder, decoder, std)

    def excess(rho: float) -> float:
        return float(ncx2.cdf((r / a) ** 2 / (2 * std**2), 2, (b * rho) ** 2 / (2 * std**2))) - 0.5

    exact = brentq(excess, 0, r / a / b)
    by_seam, by_isotropic = margins(vae, "seam", r), margins(vae, "isotropic", r)
    assert max(by_isotropic) == 0.0
    assert all(0.6 * exact < margin <= exact * (1 + 1e-6) for margin in by_seam)


def test_matrices_that_cancel_are_seen_as_one() -> None:
    """The encoder moves a latent that the decoder ignores: nothing of it arrives."""
    encoder, decoder = torch.diag(torch.tensor([1.0, 50.0])) @ torch.eye(2, 12), torch.zeros(12, 2)
    decoder[0, 0] = 1.0
    vae = LinearVAE(encoder, decoder, 0.05)
    assert min(margins(vae, "seam", 1.0)) > 20 * max(margins(vae, "reflection", 1.0)) > 0


def test_a_decoder_that_begins_otherwise_says_so() -> None:
    decoder = nn.Sequential(nn.Tanh(), nn.Linear(2, 6), nn.Unflatten(1, (1, 1, 6)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    vae = wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(2,), spread="constant", std=0.1)
    assert "begin" in str(choose_methods(vae, torch.rand(1, 1, 1, 6), CertifyOptions())["seam"])
