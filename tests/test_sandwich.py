"""Both sides together, on the model whose margin is known: certified <= exact <= attacked, each within 1 %."""

import torch
from scipy.optimize import brentq
from scipy.stats import ncx2

from tests.toys import isotropic_vae
from vaerdict.attacks import attack_margin
from vaerdict.certify import certify
from vaerdict.results import check_contradictions, frame, sandwich


def test_the_margin_of_a_linear_gaussian_vae_is_known_to_one_per_cent() -> None:
    a, b, std, r = 2.0, 3.0, 0.1, 6.0
    vae = isotropic_vae(a=a, b=b, std=std)
    images = torch.rand(8, 1, 1, 12)

    def excess(rho: float) -> float:
        return float(ncx2.cdf((r / a) ** 2 / (2 * std**2), vae.latent, (b * rho) ** 2 / (2 * std**2))) - 0.5

    exact = brentq(excess, 0, r / a / b)
    table = frame(certify(vae, images, r=r) + attack_margin(vae, images, r=r))
    check_contradictions(table)
    pairs = sandwich(table)
    assert set(pairs["strength"]) == {"proved", "numerical", "statistical"}
    pairs = pairs[pairs["strength"] == "proved"]
    slack = 1e-6  # the toy's float32 weights are not quite orthonormal
    assert len(pairs) == 8
    assert set(pairs["certified_by"]) == {"isotropic"}
    assert pairs["certified"].between(0.99 * exact, exact * (1 + slack)).all()
    assert pairs["attacked"].between(exact * (1 - slack), 1.01 * exact).all()
