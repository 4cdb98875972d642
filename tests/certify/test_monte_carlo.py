"""Counts against a closed form, exact binomial bounds, and draws that do not depend on the batch."""

import pytest
import torch
from scipy.stats import binomtest, chi2

from tests.toys import isotropic_vae
from vaerdict.certify import monte_carlo
from vaerdict.certify.monte_carlo import count_images
from vaerdict.certify.statistics import clopper_pearson_lower


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (999, 1000)])
def test_lower_bound_is_clopper_and_pearsons(successes: int, trials: int) -> None:
    interval = binomtest(successes, trials, alternative="greater").proportion_ci(0.99, "exact")
    assert clopper_pearson_lower(successes, trials, 0.99) == pytest.approx(interval.low, abs=1e-12)


def counts(images: torch.Tensor, ids: list[int], anchored: bool = False, samples: int = 3000) -> list[int]:
    vae = isotropic_vae(latent=4, a=2.0, std=0.1)
    posterior = vae.encode(images)
    with torch.no_grad():
        return count_images(vae, posterior, r=0.5, anchored=anchored, samples=samples, seed=1, sample_ids=ids).tolist()


@pytest.mark.parametrize("anchored", [False, True])
def test_share_of_draws_within_r_has_the_chi_squares_probability(anchored: bool) -> None:
    """`|2 (z' - z)| <= 0.5` with `z' - z ~ N(0, s^2 I)` in 4 dimensions."""
    variance = 0.01 if anchored else 0.02
    expected = float(chi2.cdf((0.5 / 2.0) ** 2 / variance, 4))
    total = sum(counts(torch.rand(5, 1, 1, 12), [0, 1, 2, 3, 4], anchored)) / 15_000
    assert total == pytest.approx(expected, abs=4 * (0.25 / 15_000) ** 0.5)


def test_counts_depend_on_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(5, 1, 1, 12)
    together = counts(images, [4, 8, 15, 16, 23])
    assert counts(images[[3]], [16]) == [together[3]]
    monkeypatch.setattr(monte_carlo, "DECODED_AT_ONCE", 100)
    assert counts(images, [4, 8, 15, 16, 23]) == together
    assert len(set(together)) > 1
