from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.attacks import searches
from tests.attacks.objectives.small import unchecked
from tests.attacks.threats import NORMS, make_ball
from vaerdict.attacks.optimisers.noise import KINDS, Noise, blocks
from vaerdict.attacks.threat import size

SOME = Noise(draws=25)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_more_draws_do_more_but_never_more_than_the_singular_value(kind: str, reconstruction: str) -> None:
    vae, top = searches.linear_vae()
    batch, ball = searches.case(vae, searches.images_of(4), 0.3, reconstruction=reconstruction)
    few, more, most = (
        searches.damage(batch, ball, Noise(draws=draws, kind=kind).search(batch, searches.DAMAGE, ball, "test")[0])
        for draws in (2, 20, 200)
    )
    assert bool((most <= 0.3 * top * (1 + 1e-5)).all())
    assert bool((most > 0.6 * 0.3 * top).all())
    if reconstruction == "mean":
        assert bool(((few <= more) & (more <= most)).all())


def test_the_best_by_the_objective_is_kept() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(3), 0.5)
    found = searches.damage(batch, ball, replace(SOME, draws=7).search(batch, searches.DAMAGE, ball, "test")[0])
    points = [ball.random_start(noise) for noise in blocks(batch, "test/draws", 7, (1, 1, 12))]
    each = torch.stack([searches.damage(batch, ball, point) for point in points])
    torch.testing.assert_close(found, each.amax(0), rtol=1e-5, atol=0)
    assert bool((each.amin(0) < 0.99 * found).all())


@pytest.mark.parametrize("norm", NORMS)
def test_signs_are_corners(norm: str) -> None:
    ball, noise = make_ball(0, norm, 3.0, (-100.0, 100.0))
    ball = replace(ball, center=ball.center / 2)
    delta = KINDS["signs"](ball, noise)
    torch.testing.assert_close(size(delta, norm), ball.radius)
    lengths = delta.abs() / (ball.room.widest if norm in ("0", "0-values") else 1)
    moved = lengths[delta != 0]
    if norm in ("0", "0-values"):
        at_end = (delta == ball.room.low) | (delta == ball.room.high)
        assert bool(at_end[delta != 0].all())
    else:
        torch.testing.assert_close(moved, moved[:1].expand_as(moved))
    assert bool((delta > 0).any())
    assert bool((delta < 0).any())


def test_blocks_are_bounded_and_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    asked: list[tuple[int, ...]] = []
    noise = type(batch).noise

    def recorded(self, purpose: str, *shape: int) -> torch.Tensor:
        asked.append(shape)
        return noise(self, purpose, *shape)

    monkeypatch.setattr(type(batch), "noise", recorded)
    monkeypatch.setattr("vaerdict.attacks.optimisers.noise.BLOCK_VALUES", 30)
    drawn = list(blocks(batch, "test", 5, (1, 1, 12)))
    assert asked == [(2, 1, 1, 12), (2, 1, 1, 12), (1, 1, 1, 12)]
    assert all(not torch.equal(one, other) for one, other in pairwise(drawn))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str, kind: str) -> None:
    searches.assert_stays_inside(replace(SOME, kind=kind), norm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["0", "0-values"])
def test_never_changes_more_places_than_allowed(norm: str, kind: str) -> None:
    images = searches.images_of(3)
    images[0] = 1.0
    batch, ball = searches.case(searches.TinyVAE(), images, 3.0, norm)
    delta, sane = replace(SOME, kind=kind).search(batch, searches.DAMAGE, ball, "test")
    assert bool(sane.all())
    assert size(delta, norm).tolist() == [3.0, 3.0, 3.0]
    assert float((images + delta).abs().max()) <= 1


def test_not_finite_stays_its_own() -> None:
    searches.assert_not_finite_stays_its_own(SOME)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(SOME, reconstruction)


@pytest.mark.parametrize("kind", KINDS)
def test_never_waits_for_the_device_and_never_differentiates(kind: str) -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(3), 0.3)
    searches.assert_never_waits(lambda: replace(SOME, kind=kind).search(batch, searches.DAMAGE, ball, "test"))
    assert batch.vae.backward == 0
    assert batch.vae.forward == 2 * 3 + 2 * 25 * 3


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"samples": 0}, {"batch_size": 0}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"expected `{next(iter(wrong))}` >= 1, got 0"):
        Noise(**wrong)


def test_an_unknown_kind_is_refused() -> None:
    made = unchecked(Noise, draws=1, samples=1, batch_size=1)
    object.__setattr__(made, "kind", "salt")
    with pytest.raises(ValueError, match=r"expected `kind` in \('uniform', 'gaussian', 'signs'\), got 'salt'"):
        made.__post_init__()
