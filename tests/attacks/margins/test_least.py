from dataclasses import dataclass, field, replace
from math import inf

import pytest
import torch
from torch import Tensor

from tests.attacks import searches
from vaerdict.attacks import PGD, Evaluation, MarginSearch, attack_margin
from vaerdict.attacks.margins.least import Bisection, narrow_all, standard_searches
from vaerdict.attacks.margins.minimum import DDN
from vaerdict.attacks.margins.trail import KEPT, Trail
from vaerdict.attacks.objectives import Custom, MaximumDamage, WeightedSum
from vaerdict.attacks.threat import size

QUICK = MarginSearch(start=PGD(steps=10, restarts=1, probes=4), levels=4, steps=5, restarts=0, selection=50, polish=400)
FEW = Evaluation(samples=1000, quantised=False)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A search that gives what it was told, and costs nothing."""

    candidates: list[Tensor] = field(repr=False)
    found: bool = True
    name = "given"

    def described(self) -> dict:
        return {}

    def narrow(self, batch, objective, ball, options) -> Trail:
        flags = torch.full((len(batch.images),), self.found)
        delta, *spares = self.candidates
        return Trail(
            delta=delta,
            spares=tuple(spares),
            found=flags,
            fragile=torch.zeros_like(flags),
            sane=flags,
            radii=ball.radius.unsqueeze(0),
            success=flags.unsqueeze(0),
        )


def pixels(count: int) -> Tensor:
    """Give two perturbations of so many pixels; only the first pixel does any damage."""
    delta = torch.zeros(2, 1, 1, 12)
    delta[..., :count] = 0.5
    return delta


def case(norm: str, reconstruction: str = "mean"):
    return searches.case(searches.TinyVAE(), searches.images_of(2), 12.0, norm, reconstruction, r=0.6)


@pytest.mark.parametrize("norm", ["0", "1"])
def test_a_hopeless_candidate_does_not_hide_those_of_other_searches(norm: str) -> None:
    # At the end of its room, so that no rescaling helps, too small to do it, and smaller than all that do.
    images = searches.images_of(2)
    images[..., 5] = 0.99
    hopeless = torch.zeros_like(images)
    hopeless[..., 5] = 0.01
    ask = {"r": 0.6, "norm": norm, "options": QUICK, "evaluation": FEW}
    alone = [row.margin for row in attack_margin(searches.TinyVAE(), images, searches=[Bisection()], **ask)]
    both = [Given(candidates=[hopeless]), Bisection()]
    assert max(alone) < inf
    for order in (both, both[::-1]):
        rows = attack_margin(searches.TinyVAE(), images, searches=order, **ask)
        assert [row.margin for row in rows] == pytest.approx(alone, rel=0.1)


def test_the_shortest_comes_first_and_the_others_are_spares() -> None:
    batch, ball = case("0")
    trails = [Given(candidates=[pixels(3), pixels(7)]), Given(candidates=[pixels(2)]), Given(candidates=[pixels(3)])]
    trail = narrow_all(trails, batch, searches.DAMAGE, ball, QUICK)
    kept = [size(one, "0").tolist() for one in (trail.delta, *trail.spares)]
    # Each search's best before anyone's second; who has none gives zero.
    assert kept == [[2, 2], [3, 3], [3, 3], [0, 0]]
    assert len(kept) == KEPT


def test_nothing_found_is_last_and_a_tie_goes_to_the_search_named_first() -> None:
    batch, ball = case("0")
    one, other = pixels(2), -pixels(2)
    trails = [Given(candidates=[pixels(1)], found=False), Given(candidates=[one]), Given(candidates=[other])]
    trail = narrow_all(trails, batch, searches.DAMAGE, ball, QUICK)
    assert trail.delta.equal(one)
    assert trail.spares[0].equal(other)
    assert bool(trail.found.all())
    assert trail.success.tolist() == [[False, False], [True, True], [True, True]]


def test_comparing_trails_costs_one_short_look_each() -> None:
    batch, ball = case("2", "sampled")
    trails = [Given(candidates=[pixels(count)]) for count in (1, 2, 3)]
    before = batch.vae.forward
    narrow_all(trails, batch, searches.DAMAGE, ball, replace(QUICK, selection=20, polish=4000))
    spent = batch.vae.forward - before
    # Two placements of two looks, each at pairs of latents and one image.
    assert spent == len(batch.images) * len(trails) * 2 * 2 * (2 * 20 + 1)
    narrow_all(trails[:1], batch, searches.DAMAGE, ball, QUICK)
    assert batch.vae.forward - before == spent


@pytest.mark.parametrize(
    "objective",
    [
        Custom(lambda vae, images, noise: -images.flatten(1).sum(1), "damage"),
        WeightedSum([(-1.0, MaximumDamage())]),
        MaximumDamage("linf"),
    ],
    ids=["custom", "sum", "linf"],
)
def test_walks_are_for_the_damage_itself_not_for_its_name(objective) -> None:
    assert [search.name for search in standard_searches("2", MaximumDamage())] == ["bisection", "ddn", "fmn"]
    assert [search.name for search in standard_searches("2", objective)] == ["bisection"]
    batch, ball = case("2")
    with pytest.raises(ValueError, match="expected the objective MaximumDamage 'damage' for a minimum-norm search"):
        DDN().narrow(batch, objective, ball, QUICK)
