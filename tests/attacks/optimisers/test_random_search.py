from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tests.attacks import searches
from tests.attacks.threats import NORMS
from vaerdict.attacks import Custom, attack
from vaerdict.attacks.optimisers.moves import LONGER, SHORTER, Add, Move, move
from vaerdict.attacks.optimisers.noise import Noise
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.optimisers.random_search import RandomSearch
from vaerdict.attacks.threat import Ball, size

QUICK = RandomSearch(queries=60)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_comes_near_the_singular_value_and_never_above(reconstruction: str) -> None:
    searches.assert_reaches_the_singular_value(RandomSearch(queries=250), reconstruction, least=0.95)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_comes_near_the_best_known_damage(norm: str) -> None:
    searches.assert_reaches_the_best_known(RandomSearch(queries=150, restarts=2), norm, least=0.95)


def test_finds_the_best_value_in_l1() -> None:
    # A linear function is largest at a vertex: all of the radius on the column of largest norm.
    vae, _ = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(3), 0.3, "1")
    found = searches.damage(batch, ball, RandomSearch(queries=80).search(batch, searches.DAMAGE, ball, "test")[0])
    best = 0.3 * _matrix(vae).norm(dim=0).max()
    torch.testing.assert_close(found, best.expand(3), rtol=1e-4, atol=0)


def test_finds_the_best_pair_of_pixels() -> None:
    vae, _ = searches.linear_vae((-1.0, 1.0))
    images = searches.images_of(3)
    batch, ball = searches.case(vae, images, 2.0, "0")
    options = RandomSearch(queries=100, restarts=3)
    found = searches.damage(batch, ball, options.search(batch, searches.DAMAGE, ball, "test")[0])
    matrix, low, high = _matrix(vae), -1 - images.flatten(1), 1 - images.flatten(1)
    pairs = [
        (one[:, i, None] * matrix[:, i] + other[:, j, None] * matrix[:, j]).norm(dim=1)
        for i, j in combinations(range(12), 2)
        for one in (low, high)
        for other in (low, high)
    ]
    best = torch.stack(pairs).amax(0)
    assert bool((found >= 0.95 * best).all())
    assert bool((found <= best * (1 + 1e-5)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_does_more_than_as_many_random_points(norm: str) -> None:
    radius = {"0": 3.0, "0-values": 3.0, "1": 1.0, "2": 0.5, "inf": 0.2}[norm]
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(4), radius, norm)
    searched, drawn = (
        searches.damage(batch, ball, options.search(batch, searches.DAMAGE, ball, "test")[0])
        for options in (RandomSearch(queries=100), Noise(draws=100))
    )
    assert float(searched.mean()) > 1.02 * float(drawn.mean())
    assert bool((searched > 0.95 * drawn).all())


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str) -> None:
    searches.assert_stays_inside(QUICK, norm)


@pytest.mark.parametrize("norm", ["0", "0-values"])
def test_never_changes_more_places_than_allowed(norm: str) -> None:
    images = searches.images_of(3)
    images[0] = 1.0
    batch, ball = searches.case(searches.TinyVAE(), images, 3.0, norm)
    ball = ball.with_radius(torch.tensor([1.0, 4.0, 0.0]))
    delta, sane = QUICK.search(batch, searches.DAMAGE, ball, "test")
    assert bool(sane.all())
    assert size(delta, norm).tolist() == [1.0, 4.0, 0.0]
    assert float((images + delta).abs().max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_every_proposal_is_allowed_and_masked_pixels_stay(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(2, 3, 4, 5, generator=generator)
    center[0] = 0.0
    mask = torch.rand(1, 3, 4, 5, generator=generator) < 0.5
    radius = torch.tensor([2.0, 3.0]) if norm != "inf" else torch.tensor([0.1, 0.3])
    ball = Ball(norm=norm, radius=radius, box=(0.0, 1.0), center=center, mask=mask)
    moving = move(ball)
    assert isinstance(moving, Move)
    here, seen = moving.start(ball.random_start(torch.randn(center.shape, generator=generator))), []
    for share in (1.0, 0.5, 0.1, 0.01):
        here = moving.propose(here, torch.randn(2, *moving.numbers, generator=generator), share)
        seen.append(here)
        assert bool((size(here, norm) <= radius * (1 + 1e-5)).all())
        assert float((center + here).min()) >= 0
        assert float((center + here).max()) <= 1 + 1e-6
        assert not here[:, ~mask[0]].any()
    assert len({tuple(one.flatten().tolist()) for one in seen}) > 1


def test_masked_search_finds_the_singular_value_of_what_is_left() -> None:
    vae, _ = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(2), 0.3)
    mask = (torch.arange(12) % 3 == 0).reshape(1, 1, 1, 12)
    masked = replace(ball, mask=mask)
    found = searches.damage(batch, masked, RandomSearch(queries=200).search(batch, searches.DAMAGE, masked, "test")[0])
    best = 0.3 * torch.linalg.matrix_norm(_matrix(vae)[:, mask.flatten()], 2)
    assert bool((found >= 0.98 * best).all())
    assert bool((found <= best * (1 + 1e-5)).all())


def test_steps_lengthen_with_success_and_shorten_with_failure() -> None:
    _, ball = searches.case(searches.TinyVAE(), searches.images_of(2), 0.5)
    adding = Add(ball)
    before = adding.step
    adding.learn(torch.tensor([True, False]))
    torch.testing.assert_close(adding.step / before, torch.tensor([LONGER, SHORTER]))
    for _ in range(4):
        adding.learn(torch.tensor([False, False]))
    torch.testing.assert_close(adding.step[0], before[0])


def test_luck_does_not_block_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    # The noise moves the loss by far more than any perturbation: a value that was lucky once would never be beaten.
    def lucky(vae, images: Tensor, noise: Tensor) -> Tensor:
        change = vae.decode(vae.encode(images).mean) - vae.decode(vae.encode(searches.images_of(4)).mean)
        return change.flatten(1).square().sum(1) + 100 * noise[:, 0, 0]

    monkeypatch.setattr("vaerdict.attacks.optimisers.random_search.PERIOD", 5)
    vae, top = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(4), 0.3)
    delta, _ = RandomSearch(queries=250).search(batch, Custom(lucky, "lucky", draws_needed=1), ball, "test")
    assert bool((searches.damage(batch, ball, delta) > 0.85 * 0.3 * top).all())


def test_never_ends_below_where_another_optimiser_ended() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(4), 0.5)
    first = PGD(steps=3, restarts=1)
    begun = searches.damage(batch, ball, first.search(batch, searches.DAMAGE, ball, "test/first")[0])
    options = RandomSearch(queries=40, first=first)
    ended = searches.damage(batch, ball, options.search(batch, searches.DAMAGE, ball, "test")[0])
    assert bool((ended >= begun * (1 - 1e-6)).all())
    assert bool((ended > begun).any())


def test_not_finite_stays_its_own() -> None:
    searches.assert_not_finite_stays_its_own(RandomSearch(queries=120))


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(QUICK, reconstruction)


@pytest.mark.parametrize("norm", NORMS)
def test_never_waits_for_the_device(norm: str) -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(3), 1.0, norm)
    searches.assert_never_waits(lambda: replace(QUICK, queries=9).search(batch, searches.DAMAGE, ball, "test"))


def test_row_counts_queries_and_no_gradient() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)

    def row(queries: int):
        options = RandomSearch(queries=queries)
        return attack(vae, images, radius=0.5, r=1.0, reconstruction="mean", options=options)[0]

    few, more = row(5), row(25)
    assert (more.method, more.n_backward) == ("random-search-damage", 0)
    assert more.n_forward - few.n_forward == 2 * 20


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"restarts": 0}, {"share": 0.0}, {"share": 1.5}, {"batch_size": 0}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"expected `{next(iter(wrong))}`"):
        RandomSearch(**wrong)


def _matrix(vae) -> Tensor:
    return (vae.decoder[0].weight @ vae.mean_map[1].weight).detach()
