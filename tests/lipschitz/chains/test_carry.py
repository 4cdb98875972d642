"""The walk: every activation's input and chord stays between the ends that it says."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.lipschitz.chains.attacked import ACTIVATIONS, dense_net
from vaerdict.lipschitz.chains import carry
from vaerdict.lipschitz.chains.carry import Carried, carry_ellipsoids, centers_at_once, check_balls
from vaerdict.lipschitz.chains.chain import Activation, Chain, dense_chain
from vaerdict.lipschitz.chains.ellipsoids import bound_activation
from vaerdict.lipschitz.graph.trace import trace

RADII = torch.tensor([[0.05, 0.4, 3.0]]).double()
Ends = tuple[Tensor, Tensor]


def carried(chain: Chain, centers: Tensor, radii: Tensor, seen: list[tuple[Ends, Tensor, Tensor]]) -> Carried:
    def chords(activation: Activation, nearest: Ends, low: Tensor, high: Tensor) -> Ends:
        seen.append((nearest, low, high))
        return activation.chords(nearest, low, high)

    return carry_ellipsoids(
        chain, centers, radii, chords, lambda _, *shapes_and_ends: bound_activation(*shapes_and_ends)
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_values_and_chords_stay_between_their_ends(activation: str) -> None:
    chain = dense_chain(trace(dense_net((4, 6, 6, 2), activation)))
    centers = torch.randn(2, 4, dtype=torch.float64)
    seen: list[tuple[Ends, Tensor, Tensor]] = []
    found = carried(chain, centers, RADII.expand(2, -1), seen)
    assert [len(low) for low, _ in found.slopes] == [6, 6]  # balls: of each centre, all radii
    for ball in range(6):
        center = centers[ball // 3 : ball // 3 + 1]
        steps = torch.randn(200, 4, dtype=torch.float64)
        values = torch.cat(
            [center, center + RADII[0, ball % 3] * (1 - 1e-12) * steps / steps.norm(dim=1, keepdim=True)]
        )
        for index, one in enumerate(chain.activations):
            before = values @ chain.maps[index].weight.T + chain.maps[index].bias
            values = one.apply(before)
            nearest, low, high = seen[index]
            assert bool(((nearest[0][ball] <= before[0]) & (before[0] <= nearest[1][ball])).all())
            assert bool(((low[ball] <= before) & (before <= high[ball])).all())
            apart = (before[1:] - before[0]).abs() > 1e-4
            chords = (values[1:] - values[0]) / (before[1:] - before[0])
            least, greatest = (end[ball].expand_as(chords) for end in found.slopes[index])
            assert bool((least[apart] - 1e-10 <= chords[apart]).all())
            assert bool((chords[apart] <= greatest[apart] + 1e-10).all())


def test_a_kink_within_rounding_of_the_centre_counts_as_crossed() -> None:
    """One tenth times three less three tenths is not 0 in float64: which side the meant value is on is not known."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    net[0].weight.data.fill_(3.0)
    net[0].bias.data.fill_(-3 * 0.1)
    seen: list[tuple[Ends, Tensor, Tensor]] = []
    found = carried(
        dense_chain(trace(net)), torch.tensor([[0.1]], dtype=torch.float64), torch.tensor([[1.0]]).double(), seen
    )
    (nearest, _, _), (least, greatest) = seen[0], found.slopes[0]
    assert bool((nearest[0] < 0) & (nearest[1] > 0))
    assert (float(least), float(greatest)) == (0.0, 1.0)


def test_few_centres_at_once_where_layers_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = dense_chain(trace(nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 2))))
    monkeypatch.setattr(carry, "_CHUNK", 10**6)
    assert centers_at_once(chain, 8) == 12
    assert centers_at_once(chain, 1) == centers_at_once(chain, 0) == 100
    assert centers_at_once(chain, 10**6) == 1


def test_balls_that_are_not_finite_are_refused() -> None:
    fine = torch.zeros(1, 2)
    check_balls(fine, fine)
    for wrong in (fine + math.inf, fine.long()):
        with pytest.raises(ValueError, match="finite `centers`"):
            check_balls(wrong, fine)
    for wrong in (fine - 1, fine + math.nan):
        with pytest.raises(ValueError, match="`radii` >= 0"):
            check_balls(fine, wrong)
