import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import ncx2

from tests.attacks import searches
from tests.toys import LinearVAE, isotropic_vae
from vaerdict.attacks import APGD, PGD, Evaluation, MarginSearch, TargetedLatent, attack, attack_margin
from vaerdict.attacks.margins.bisection import narrow, threat
from vaerdict.attacks.margins.trail import Trail
from vaerdict.attacks.margins.verify import target_level, verify
from vaerdict.attacks.threat import size


def exact_margin(r: float, variance: float, p: float = 0.5, a: float = 2.0, b: float = 3.0, latent: int = 4) -> float:
    """Solve `P(|Delta| <= r) = p` for the radius, on the isotropic VAE (THEORY 4.2)."""
    return brentq(lambda rho: ncx2.cdf((r / a) ** 2 / variance, latent, (b * rho) ** 2 / variance) - p, 1e-9, 50)


CONVEX = MarginSearch(start=PGD(steps=20, restarts=1), levels=8, steps=5, restarts=0)
"""Enough where the only local maxima are global, and quick."""


def margins(rows) -> np.ndarray:
    assert [row.status for row in rows] == ["ok"] * len(rows)
    return np.array([row.margin for row in rows])


@pytest.mark.parametrize(
    ("reconstruction", "variance", "p", "options"),
    [("sampled", 0.02, 0.5, MarginSearch()), ("anchored", 0.01, 0.5, CONVEX), ("sampled", 0.02, 0.9, CONVEX)],
)
def test_margin_of_the_isotropic_vae_is_exact_from_above(
    reconstruction: str, variance: float, p: float, options: MarginSearch
) -> None:
    rows = attack_margin(
        isotropic_vae(), torch.randn(6, 1, 1, 12), r=6.0, p=p, reconstruction=reconstruction, options=options
    )
    exact = exact_margin(6.0, variance, p)
    assert (margins(rows) >= exact).all()
    assert (margins(rows) <= 1.01 * exact).all()
    assert all(0.8 * exact < row.rho < row.margin for row in rows)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_mean_margin_of_a_linear_vae_is_exact(norm: str) -> None:
    encoder, decoder = torch.randn(4, 12), torch.randn(12, 4)
    if norm == "inf":  # one output, so that the worst damage is the L1 norm of its weights
        decoder[1:] = 0
    product = decoder @ encoder
    worst = torch.linalg.matrix_norm(product, 2) if norm == "2" else product.abs().sum(1).max()
    rows = attack_margin(
        LinearVAE(encoder, decoder, 0.1), torch.randn(6, 1, 1, 12), r=2.0, norm=norm, reconstruction="mean"
    )
    exact = 2.0 / float(worst)
    assert (margins(rows) >= exact).all()
    assert (margins(rows) <= 1.01 * exact).all()
    assert all(row.confidence is None for row in rows)


def test_margin_is_zero_where_the_clean_image_already_fails() -> None:
    # The reconstruction's own noise exceeds r far more often than not.
    rows = attack_margin(isotropic_vae(std=1.0), torch.randn(3, 1, 1, 12), r=0.5, options=CONVEX)
    assert margins(rows).tolist() == [0.0, 0.0, 0.0]


def test_out_of_reach_means_infinite_with_a_reason() -> None:
    rows = attack_margin(
        isotropic_vae(), torch.randn(3, 1, 1, 12), r=6.0, options=MarginSearch(max_radius=0.5, levels=3)
    )
    assert np.isinf(margins(rows)).all()
    assert [row.rho for row in rows] == [0.5] * 3
    assert rows[0].reason == "nothing found up to the largest radius, 0.5"


def test_largest_radius_that_just_suffices() -> None:
    exact = exact_margin(6.0, 0.02)
    rows = attack_margin(
        isotropic_vae(), torch.randn(3, 1, 1, 12), r=6.0, options=replace(CONVEX, max_radius=1.02 * exact)
    )
    assert ((margins(rows) >= exact) & (margins(rows) <= 1.02 * exact)).all()


def test_box_is_kept() -> None:
    # Only the box's far side reaches the damage: every pixel must go from 0 to 1.
    vae = LinearVAE(torch.ones(1, 6) / 6, torch.ones(6, 1), 0.1, (0.0, 1.0))
    images = torch.zeros(2, 1, 1, 6)
    rows = attack_margin(vae, images, r=0.9 * 6**0.5, reconstruction="mean", options=CONVEX)
    assert margins(rows) == pytest.approx(0.9 * 6**0.5, rel=0.01)
    rows = attack_margin(vae, images, r=1.01 * 6**0.5, reconstruction="mean", options=CONVEX)
    assert np.isinf(margins(rows)).all()


def test_margin_grows_with_r() -> None:
    vae, images = isotropic_vae(), torch.randn(3, 1, 1, 12)
    found = [margins(attack_margin(vae, images, r=r, reconstruction="mean", options=CONVEX)) for r in (0.5, 1.0, 4.0)]
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()


def test_targeted_margin_is_above_the_worst_direction() -> None:
    vae, images = isotropic_vae(), torch.randn(3, 1, 1, 12)
    rows = attack_margin(
        vae, images, r=3.0, objective=TargetedLatent(images.flip(0) * 2), reconstruction="mean", options=CONVEX
    )
    assert (margins(rows) >= 0.5).all()
    assert [row.method for row in rows] == ["bisection-latent"] * 3


def test_margins_do_not_depend_on_the_batch() -> None:
    vae, images = isotropic_vae(), torch.randn(9, 1, 1, 12)
    cheap = replace(CONVEX, selection=50, polish=100)
    whole, parts = (
        margins(
            attack_margin(
                vae, images, r=6.0, options=replace(cheap, batch_size=size), evaluation=Evaluation(samples=500)
            )
        )
        for size in (64, 4)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_target_level_leaves_room_for_both_samples_errors() -> None:
    evaluation = Evaluation(samples=10_000)
    tight, safe = (target_level(0.5, evaluation, 4000, safety) for safety in (0.0, 2.0))
    assert tight == pytest.approx(0.5 - 3.09 * 0.005, abs=3e-4)
    assert tight - safe == pytest.approx(2 * math.sqrt(0.25 * (1 / 10_000 + 1 / 4000)), rel=1e-9)


@pytest.mark.parametrize("norm", ["0", "0-values", "1"])
def test_what_an_attack_breaks_has_a_margin(norm: str) -> None:
    # Few draws call many a candidate a success that is none, and here hardly any can be made larger by rescaling.
    vae, images = searches.TinyVAE(), searches.images_of(24)
    images = torch.where(images > 0, 0.9, -0.9) * (1 - images.abs() / 4)
    evaluation = Evaluation(samples=2000, quantised=False)
    options = replace(CONVEX, selection=8, polish=1000, start=PGD(steps=20, restarts=1, probes=4))
    rows = attack_margin(vae, images, r=0.8, norm=norm, options=options, evaluation=evaluation)
    found = torch.tensor([row.margin for row in rows])
    slightly_more = torch.tensor([row.rho + 2 if norm != "1" else 1.1 * row.rho for row in rows])
    broken = attack(vae, images, radius=slightly_more.clamp_min(1), r=0.8, norm=norm, evaluation=evaluation)
    breaks = torch.tensor([row.margin for row in broken]).isfinite()
    assert int(breaks.sum()) >= 12
    assert int((breaks & ~found.isfinite()).sum()) <= 1


def given(batch, *candidates: torch.Tensor, found: bool = True) -> Trail:
    flags = torch.full((len(batch.images),), found)
    radii = torch.ones(1, len(flags))
    return Trail(
        delta=candidates[0],
        spares=candidates[1:],
        found=flags,
        fragile=~flags,
        sane=flags,
        radii=radii,
        success=flags.unsqueeze(0),
    )


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_spare_takes_the_place_of_a_count_that_fails_the_judge(attempts: int) -> None:
    vae = LinearVAE(torch.eye(4, 12), torch.eye(12, 4), 0.1, (-1.0, 1.0))
    batch, ball = searches.case(vae, torch.zeros(2, 1, 1, 12), 12.0, "0", "sampled", r=1.2)
    weak, strong = torch.zeros(2, 1, 1, 12), torch.zeros(2, 1, 1, 12)
    # One pixel moves the reconstruction by 1, two by 1.4; the first sample may move one pixel only.
    weak[..., 0], strong[1, ..., :2] = 1.0, 1.0
    options = replace(CONVEX, attempts=attempts, polish=500)
    verdicts = verify(batch, ball, given(batch, weak, 0 * weak, strong), options, Evaluation(samples=1000))
    assert verdicts[0] is None
    assert verdicts[1].success
    assert verdicts[1].size == 2


def test_a_shortest_candidate_that_does_it_is_never_passed_over() -> None:
    vae = LinearVAE(torch.eye(4, 12), torch.eye(12, 4), 0.1, (-1.0, 1.0))
    batch, ball = searches.case(vae, torch.zeros(2, 1, 1, 12), 12.0, "0", "sampled", r=1.2)
    two, three = torch.zeros(2, 1, 1, 12), torch.zeros(2, 1, 1, 12)
    two[..., :2], three[..., :3] = 1.0, 1.0
    for attempts in (1, 3):
        options = replace(CONVEX, attempts=attempts, polish=500)
        verdicts = verify(batch, ball, given(batch, two, three), options, Evaluation(samples=1000))
        assert [verdict.size for verdict in verdicts] == [2, 2]


def test_a_bracket_keeps_its_last_successes() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(3), 1.0, r=0.3)
    trail = narrow(batch, searches.DAMAGE, threat(batch, CONVEX), CONVEX)
    sizes = torch.stack([size(one, "2") for one in (trail.delta, *trail.spares)])
    kept = sizes > 0
    assert int(kept.sum()) >= 6
    assert bool((sizes[:-1][kept[1:]] <= sizes[1:][kept[1:]]).all())
    moved = [searches.damage(batch, ball, one) for one in (trail.delta, *trail.spares)]
    assert bool((torch.stack(moved)[kept] > 0.3).all())


def test_a_count_below_one_is_no_radius() -> None:
    batch, _ = searches.case(searches.TinyVAE(), searches.images_of(2), 1.0, "0")
    assert threat(batch, MarginSearch(max_radius=1.5)).radius.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"expected `max_radius` >= 1 for a count, got 0\.5"):
        threat(batch, MarginSearch(max_radius=0.5))


def test_a_start_of_another_kind_is_refused() -> None:
    options = SimpleNamespace(start=APGD())  # whatever else checks types, so that this check is seen at work
    with pytest.raises(ValueError, match="expected a PGD as `start`, got APGD"):
        MarginSearch.__post_init__(options)


@pytest.mark.parametrize(
    "wrong", [{"levels": 0}, {"selection": 0}, {"restarts": -1}, {"max_radius": 0.0}, {"max_radius": math.inf}]
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` > ?=?"):
        MarginSearch(**wrong)


def test_options_repr_rebuilds_them() -> None:
    options = MarginSearch(start=PGD(steps=3), levels=4)
    assert eval(repr(options)) == options
