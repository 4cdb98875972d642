from dataclasses import dataclass, field

import pytest
import torch

from tests.attacks import searches
from vaerdict.attacks.margins.bisection import MarginSearch, Trail
from vaerdict.attacks.presets import RadiusBisection
from vaerdict.attacks.threat import Ball, scaled
from vaerdict.vae import Posterior


@dataclass(frozen=True, kw_only=True)
class Straight:
    """Moves as many of the first pixels as allowed by one, or the first by the radius; remembers the radii."""

    batch_size: int = 256
    name: str = "straight"
    radii: list[list[float]] = field(default_factory=list)

    def search(self, batch, objective, ball: Ball, use: str):
        self.radii.append(ball.radius.tolist())
        delta = torch.zeros_like(batch.images)
        if ball.norm == "0":
            places = torch.arange(delta[0].numel()).expand(len(delta), -1)
            delta = (places < ball.radius.unsqueeze(1)).to(delta).reshape(delta.shape)
        else:
            delta.flatten(1)[:, 0] = ball.radius
        return delta, torch.ones_like(ball.radius, dtype=torch.bool)


class Sum(torch.nn.Module):
    """The reconstruction's only change is the sum of all pixels, times a factor."""

    name, input_shape, input_range, latent = "sum", (1, 1, 12), (-100.0, 100.0), 1

    def encode(self, images):
        total = images.flatten(1).sum(1, keepdim=True)
        return Posterior(total, torch.ones_like(total))

    def decode(self, latents):
        return torch.nn.functional.pad(latents, (0, 11)).reshape(-1, 1, 1, 12)


def narrowed(norm: str, r: float, images: torch.Tensor, levels: int = 10) -> tuple[Trail, Straight]:
    batch, ball = searches.case(Sum(), images, 12.0, norm=norm, r=r)
    straight = Straight()
    search = RadiusBisection(optimiser=straight, levels=levels)
    return search.narrow(batch, searches.DAMAGE, ball, MarginSearch()), straight


@pytest.mark.parametrize(("r", "margin"), [(0.5, 1.0), (1.5, 2.0), (6.5, 7.0), (11.5, 12.0)])
def test_counts_are_tried_once_and_failures_are_whole(r: float, margin: float) -> None:
    trail, straight = narrowed("0", r, torch.zeros(1, 1, 1, 12))
    (tried,) = zip(*straight.radii, strict=True)
    assert len(set(tried)) == len(tried)
    assert min(tried) >= 1
    assert trail.found.tolist() == [True]
    assert float(trail.delta.sum()) == margin
    # Every count below the margin that could be tried was, so the largest failure is the one before.
    assert trail.largest_failure(torch.tensor([margin])).tolist() == [margin - 1]


def test_no_count_at_all_is_left_after_one_pixel_failed() -> None:
    trail, straight = narrowed("0", 50.0, torch.zeros(1, 1, 1, 12))
    assert [radius for (radius,) in straight.radii] == [12.0, 6.0, 3.0, 1.0]
    assert trail.found.tolist() == [False]
    assert trail.sane.tolist() == [True]
    assert trail.radii.flatten().tolist() == [12.0, 6.0, 3.0, 1.0]


def test_lengths_are_bisected_at_every_level() -> None:
    trail, straight = narrowed("2", 3.0, torch.zeros(2, 1, 1, 12))
    assert len(straight.radii) == 10
    assert bool((trail.radii == torch.tensor(straight.radii)).all())
    high = trail.delta.flatten(1).norm(dim=1)
    assert bool((high > 3).all())
    assert bool((high < 3.05).all())
    assert bool((trail.largest_failure(high) > 2.95).all())
    torch.testing.assert_close(scaled(trail.delta, 1 / high).flatten(1)[:, 0], torch.ones(2))
