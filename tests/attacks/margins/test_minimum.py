import json
from dataclasses import replace

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import ncx2

from tests.attacks import searches
from tests.toys import LinearVAE, isotropic_vae
from vaerdict.attacks import PGD, Evaluation, MarginSearch, attack_margin
from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins.bisection import threat
from vaerdict.attacks.margins.least import Bisection, Narrower
from vaerdict.attacks.margins.minimum import DDN, FMN
from vaerdict.attacks.objectives import TargetedLatent
from vaerdict.attacks.optimisers.singular import Singular
from vaerdict.attacks.threat import Room, size
from vaerdict.attacks.threat import ball as ball_module

BOTH = [DDN(steps=40, restarts=1), FMN(steps=40, restarts=1)]
CHEAP = MarginSearch(start=PGD(steps=20, restarts=2), levels=6, steps=8, restarts=1)


def margins(rows) -> torch.Tensor:
    assert [row.status for row in rows] == ["ok"] * len(rows)
    return torch.tensor([row.margin for row in rows], dtype=torch.float64)


@pytest.mark.parametrize(("search", "input_range"), [(BOTH[0], (-100.0, 100.0)), (BOTH[1], (-1.0, 1.0))])
def test_mean_margin_of_a_linear_vae_is_exact(search, input_range: tuple[float, float]) -> None:
    vae, top = searches.linear_vae(input_range)
    found = margins(attack_margin(vae, searches.images_of(3), r=2.0, reconstruction="mean", searches=[search]))
    assert bool((found >= 2.0 / top).all())
    assert bool((found <= 1.01 * 2.0 / top).all())


@pytest.mark.parametrize(("norm", "exact"), [("inf", 0.3 / 5.25), ("1", 0.3 / 2.0)])
def test_margin_of_one_output_is_that_of_the_dual_norm(norm: str, exact: float) -> None:
    decoder = torch.zeros(6, 1)
    decoder[2] = 1.0
    vae = LinearVAE(torch.tensor([[0.5, -1.0, 2.0, 0.0, -0.25, 1.5]]), decoder, 0.1, (-1.0, 1.0))
    batch, ball = searches.case(vae, torch.zeros(3, 1, 1, 6), 1.0, norm, r=0.3)
    trail = FMN(steps=40, restarts=2).narrow(batch, searches.DAMAGE, ball, MarginSearch())
    found = size(trail.delta, norm)
    assert bool(trail.found.all())
    assert bool((found >= exact * (1 - 1e-4)).all())
    assert bool((found <= 1.01 * exact).all())


@pytest.mark.parametrize("search", BOTH, ids=lambda search: search.name)
def test_margin_of_the_isotropic_vae_is_exact_from_above(search) -> None:
    rows = attack_margin(isotropic_vae(), searches.images_of(3), r=6.0, searches=[search])
    # |Delta|^2 / (a^2 2 sigma^2) is a non-central chi square (THEORY 4.2).
    exact = brentq(lambda rho: ncx2.cdf(9.0 / 0.02, 4, (3 * rho) ** 2 / 0.02) - 0.5, 1e-9, 50)
    assert bool((margins(rows) >= exact).all())
    assert bool((margins(rows) <= 1.01 * exact).all())


@pytest.mark.parametrize(("search", "norm"), [(DDN(steps=40, restarts=8), "2"), (FMN(steps=60, restarts=8), "inf")])
def test_margin_is_bisections_on_a_bent_vae(search, norm: str) -> None:
    ask = {"r": 0.8, "norm": norm, "reconstruction": "mean", "options": CHEAP}
    vae, images = searches.TinyVAE(), searches.images_of(4)
    known = margins(attack_margin(vae, images, **ask))
    found = margins(attack_margin(vae, images, searches=[search], **ask))
    assert bool(known.isfinite().all())
    assert bool((found <= 1.01 * known).all())


def test_pointwise_minimum_is_as_small_as_each() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(4)
    # Searches so weak that each is the best somewhere.
    weak = MarginSearch(start=PGD(steps=1, restarts=1, probes=1), levels=3, steps=1, restarts=0)
    parts = [Bisection(), DDN(steps=6, restarts=1), FMN(steps=2, restarts=1)]
    ask = {"r": 0.8, "reconstruction": "mean", "options": weak}
    each = torch.stack([margins(attack_margin(vae, images, searches=[part], **ask)) for part in parts])
    rows = attack_margin(vae, images, searches=parts, **ask)
    assert len(set(each.argmin(0).tolist())) > 1
    torch.testing.assert_close(margins(rows), each.amin(0), rtol=1e-3, atol=0)
    assert {row.method for row in rows} == {"bisection+ddn+fmn-damage"}
    described = json.loads(rows[0].constants)["searches"]
    assert [search["name"] for search in described] == ["bisection", "ddn", "fmn"]
    assert described[1]["gamma"] == 0.05


def test_bisection_alone_is_the_default_and_says_no_more_than_before() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    weak = MarginSearch(start=PGD(steps=2, restarts=1), levels=2, steps=2, restarts=0)
    ask = {"r": 0.8, "reconstruction": "mean", "options": weak}
    one, other = attack_margin(vae, images, **ask), attack_margin(vae, images, searches=[Bisection()], **ask)
    assert [row.constants for row in one] == [row.constants for row in other]
    assert json.loads(one[0].constants)["searches"] == [{"name": "bisection"}]
    assert one[0].method == "bisection-damage"


def test_fragile_and_unreachable_samples_are_told() -> None:
    images = searches.images_of(2)
    quick = {"searches": [FMN(steps=5, restarts=1)], "evaluation": Evaluation(samples=2000)}
    fragile = attack_margin(isotropic_vae(std=1.0), images, r=0.5, **quick)
    assert margins(fragile).tolist() == [0.0, 0.0]
    rows = attack_margin(isotropic_vae(), images, r=6.0, options=MarginSearch(max_radius=0.5), **quick)
    assert margins(rows).isinf().all()
    assert rows[0].reason == "nothing found up to the largest radius, 0.5"
    assert [row.rho for row in rows] == [0.5, 0.5]


@pytest.mark.parametrize("search", BOTH, ids=lambda search: search.name)
def test_not_finite_stays_its_own(search) -> None:
    images = searches.images_of(3)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.8, 0.45
    # Several starts: a fence in the way leaves some of them in poor corners.
    ask = {"r": 0.5, "reconstruction": "mean", "searches": [replace(search, restarts=4)]}
    rows = attack_margin(searches.Fenced(), images, **ask)
    free = margins(attack_margin(searches.TinyVAE(), images, **ask))
    assert [row.status for row in rows] == ["error", "ok", "ok"]
    assert free[1] * 0.99 <= rows[1].margin <= 1.5 * free[1]
    assert rows[2].margin == pytest.approx(float(free[2]), rel=0.01)


@pytest.mark.parametrize("search", BOTH, ids=lambda search: search.name)
def test_walk_stays_inside_and_draws_do_not_depend_on_the_batch(search) -> None:
    short = replace(search, steps=15, restarts=1)
    images, ids = searches.images_of(4), [5, 9, 2, 4]
    images[0] = 1.0

    def found(order: list[int]) -> torch.Tensor:
        batch, ball = searches.case(searches.TinyVAE(), images[order], 0.5, ids=[ids[i] for i in order], r=0.5)
        trail = short.narrow(batch, searches.DAMAGE, ball, MarginSearch())
        assert float((images[order] + trail.delta).abs().max()) <= 1 + 1e-6
        assert bool((size(trail.delta, "2") <= 0.5 * (1 + 1e-5)).all())
        return size(trail.delta, "2")

    torch.testing.assert_close(
        torch.cat([found([3, 0]), found([2])]), found([0, 1, 2, 3])[[3, 0, 2]], rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("search", BOTH, ids=lambda search: search.name)
def test_walk_never_waits_for_the_device(search) -> None:
    batch, ball = searches.case(searches.linear_vae()[0].requires_grad_(False), searches.images_of(3), 0.3)
    noise = torch.empty(3, search.steps, 1, 0, 4)
    searches.assert_never_waits(lambda: search.walk(batch, ball, 0.1 * torch.ones_like(batch.images), noise))


@pytest.mark.parametrize("search", BOTH, ids=lambda search: search.name)
def test_walk_measures_its_room_as_often_whatever_its_steps(search, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(ball_module, "Room", lambda *ends: made.append(ends) or Room(*ends))
    counts = []
    for steps in (3, 9):
        batch, ball = searches.case(searches.TinyVAE(), searches.images_of(2), 0.5)
        made.clear()
        replace(search, steps=steps).walk(
            batch, ball, torch.full_like(batch.images, 0.1), torch.empty(2, steps, 1, 0, 3)
        )
        counts.append(len(made))
    assert counts[0] == counts[1] > 0


def test_walk_keeps_the_ends_of_other_restarts() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(3), 20.0, r=0.8)
    trail = FMN(steps=10, restarts=6).narrow(batch, searches.DAMAGE, ball, MarginSearch())
    sizes = torch.stack([size(one, "2") for one in (trail.delta, *trail.spares)])
    assert len(sizes) == 4
    assert bool((sizes.diff(dim=0) >= 0).all())
    assert bool((sizes[-1] > sizes[0]).any())


def test_walks_with_other_options_have_other_draws(monkeypatch) -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(2), 0.5, r=0.5)
    purposes = []
    monkeypatch.setattr(Batch, "noise", lambda *args, old=Batch.noise: purposes.append(args[1]) or old(*args))
    one = DDN(steps=2, restarts=1)
    for search in (one, replace(one, gamma=0.1), replace(one, first=Singular(of="reconstruction"))):
        search.narrow(batch, searches.DAMAGE, ball, MarginSearch())
    starts = [purpose for purpose in purposes if "first/" not in purpose and purpose.endswith("/0/start")]
    assert len(starts) == 3
    assert len(set(starts)) == 3


def test_a_given_start_is_used() -> None:
    # One step cannot turn a random direction into the singular vector; a start in that direction needs none.
    vae, top = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(3), 50.0, r=2.0)
    lost, kept = (
        FMN(steps=1, restarts=1, step=1e-6, first=first).narrow(batch, searches.DAMAGE, ball, MarginSearch())
        for first in (None, Singular(of="reconstruction"))
    )
    assert bool((size(kept.delta, "2") < 1.001 * 2.0 / top).all())
    assert bool((size(lost.delta, "2") > 1.1 * 2.0 / top).all())
    assert bool(kept.found.all())
    assert bool((threat(batch, MarginSearch()).radius > 100).all())


def test_what_they_cannot_do_is_refused() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(2), 0.5, "inf")
    with pytest.raises(ValueError, match="expected `norm` in \\('2',\\) for this search, got 'inf'"):
        DDN().narrow(batch, searches.DAMAGE, ball, MarginSearch())
    with pytest.raises(ValueError, match=r"objective MaximumDamage 'damage' for .*, got TargetedLatent 'latent'"):
        FMN().narrow(batch, TargetedLatent(batch.images), ball, MarginSearch())
    with pytest.raises(ValueError, match="expected at least one of `searches`"):
        attack_margin(searches.TinyVAE(), batch.images, r=1.0, searches=[])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"pairs": 0}, {"step": 0.0}, {"gamma": 1.0}])
@pytest.mark.parametrize("kind", [DDN, FMN])
def test_wrong_options_are_refused(kind, wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        kind(**wrong)


def test_all_are_searches_of_a_margin() -> None:
    assert all(isinstance(search, Narrower) for search in [*BOTH, Bisection()])
    assert eval(repr(BOTH[0])) == BOTH[0]
