import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.attacks.searches import DAMAGE, Fenced, TinyVAE, assert_never_waits, case, images_of, linear_vae
from vaerdict.attacks import APGD, LBFGS, PGD, Evaluation, LatentDivergence, Optimiser, TargetedLatent, attack
from vaerdict.attacks.judge.checks import look_again
from vaerdict.attacks.judge.evaluate import evaluate
from vaerdict.attacks.judge.indicators import Watched, diagnose, table_not_monotone
from vaerdict.attacks.judge.rows import Finding, make_row
from vaerdict.results import frame
from vaerdict.vae import Posterior

QUICK = PGD(steps=20, restarts=1)


class Bounded(TinyVAE):
    """Standard deviations from the image, with the log-variance kept above a floor, and pixels from a steep sigmoid."""

    def __init__(self, floor: float = -30.0, steepness: float = 1.0) -> None:
        super().__init__()
        self.floor, self.steepness, self.input_range = floor, steepness, (0.0, 1.0)

    def encode(self, images: Tensor) -> Posterior:
        mean = super().encode(images).mean
        return Posterior(mean, ((mean - 5.0).clamp_min(self.floor) / 2).exp())

    def decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.steepness * super().decode(latents))


class Noisy(TinyVAE):
    """Another posterior mean whenever one asks."""

    def encode(self, images: Tensor) -> Posterior:
        posterior = super().encode(images)
        return Posterior(posterior.mean + 0.3 * torch.randn_like(posterior.mean), posterior.std)


class Rounded(TinyVAE):
    """Pixels rounded first, so that no gradient passes."""

    def encode(self, images: Tensor) -> Posterior:
        return super().encode((images * 50).round() / 50)


class Wave(TinyVAE):
    """A reconstruction that returns to where it was when the first pixel has moved by 1."""

    def encode(self, images: Tensor) -> Posterior:
        mean = images[..., 0].flatten(1)
        return Posterior(mean, torch.full_like(mean, 0.1))

    def decode(self, latents: Tensor) -> Tensor:
        return torch.sin(2 * torch.pi * latents[:, :1]).expand(-1, 12).unflatten(1, (1, 1, 12))


def raised(batch, ball, delta: Tensor, objective=DAMAGE, seen: Tensor | None = None) -> list[set[str]]:
    """Give the names of each sample's flags."""
    flags = diagnose(batch, objective, ball, delta, seen=seen)
    return [{name for name, on in one.items() if on} for one in flags]


def after(
    vae, options: Optimiser, radius: float = 0.5, norm: str = "2", reconstruction: str = "mean", objective=DAMAGE
):
    """Search, watched, and give the flags."""
    images = images_of(3) if vae.input_range[0] < 0 else images_of(3) + 0.5
    batch, ball = case(vae, images, radius, norm, reconstruction)
    watched = Watched.of(objective, ball)
    delta, _ = options.search(batch, watched, ball, "test")
    return raised(batch, ball, delta, objective, watched.best)


@pytest.mark.parametrize(
    ("norm", "radius", "reconstruction"),
    [("2", 0.5, "sampled"), ("2", 0.05, "mean"), ("inf", 0.2, "anchored"), ("1", 1.0, "mean")],
)
@pytest.mark.parametrize("vae", [linear_vae()[0], TinyVAE(), Bounded()], ids=["linear", "tiny", "bounded"])
def test_healthy_searches_raise_nothing(vae, norm: str, radius: float, reconstruction: str) -> None:
    assert after(vae, PGD(steps=30), radius, norm, reconstruction) == [set()] * 3


def test_a_healthy_search_for_few_pixels_raises_nothing() -> None:
    assert after(TinyVAE(), PGD(steps=20, restarts=5), 4.0, "0") == [set()] * 3


@pytest.mark.parametrize(
    "objective", [LatentDivergence("kl-symmetric"), TargetedLatent(0.2 - images_of(3))], ids=["latent", "target"]
)
@pytest.mark.parametrize(
    "options", [APGD(steps=30, restarts=1), LBFGS(restarts=1, evaluations=30)], ids=["apgd", "lbfgs"]
)
def test_other_objectives_and_optimisers_raise_nothing_of_their_own(objective, options) -> None:
    # What moves the posterior most need not move the reconstruction most, which these two hold against it.
    for flags in after(TinyVAE(), options, objective=objective):
        assert flags <= {"not_monotone", "weaker_than_noise"}


def test_a_search_that_never_left_zero() -> None:
    batch, ball = case(TinyVAE(), images_of(3), 0.5)
    assert raised(batch, ball, torch.zeros_like(batch.images)) == [{"zero_gradient", "weaker_than_noise"}] * 3


def test_gradients_that_are_masked() -> None:
    assert all("zero_gradient" in flags for flags in after(Rounded(), QUICK))


def test_only_pixels_that_can_move_have_a_gradient() -> None:
    batch, ball = case(Wave(), images_of(2), 0.2)
    delta = torch.zeros_like(batch.images)
    delta[..., 0] = 0.2
    assert ["zero_gradient" in flags for flags in raised(batch, ball, delta)] == [False, False]
    ball = replace(ball, mask=torch.arange(12).expand(2, 1, 1, 12) > torch.tensor([0, -1]).reshape(2, 1, 1, 1))
    assert ["zero_gradient" in flags for flags in raised(batch, ball, delta)] == [True, False]


def test_a_loss_that_is_noise() -> None:
    assert all("unstable_loss" in flags for flags in after(Noisy(), QUICK))


def test_a_search_cut_short() -> None:
    batch, ball = case(linear_vae()[0], images_of(4), 0.5)
    start = ball.random_start(batch.noise("start", 1, 1, 12))
    delta = QUICK.search(batch, DAMAGE, ball, "test")[0]
    assert ["unfinished" in flags for flags in raised(batch, ball, start)] == [True] * 4
    assert ["unfinished" in flags for flags in raised(batch, ball, delta)] == [False] * 4


def test_a_search_that_returns_less_than_it_saw() -> None:
    batch, ball = case(linear_vae()[0], images_of(3), 0.3)
    watched = Watched.of(DAMAGE, ball)
    delta = QUICK.search(batch, watched, ball, "test")[0]
    found = delta.clone()
    delta[1] *= 0.9
    assert ["silent_success" in flags for flags in raised(batch, ball, delta, seen=watched.best)] == [
        False,
        True,
        False,
    ]
    assert not any("silent_success" in flags for flags in raised(batch, ball, delta))
    torch.testing.assert_close(
        watched.best, DAMAGE.loss(batch)(batch.images + found, batch.noise("", 0, 4)), rtol=0.01, atol=0
    )


def test_the_record_holds_allowed_points_and_no_luck() -> None:
    batch, ball = case(TinyVAE(), images_of(2), 0.3)
    ball, none = replace(ball, mask=torch.arange(12).reshape(1, 1, 1, 12) < 11), batch.noise("", 0, 3)
    watched = Watched.of(DAMAGE, ball)
    loss, delta = watched.loss(batch), torch.zeros_like(batch.images)
    for moved, place in [(2.0, 3), (0.2, 11), (torch.nan, 0)]:  # too far, outside the mask, not a number
        delta[:] = 0.0
        delta[0, ..., place] = moved
        loss(batch.images + delta, none)
        assert watched.best.tolist() == [-torch.inf, 0.0]
    watched.part(slice(1, 2)).loss(batch.select(torch.tensor([False, True])))(
        batch.images[1:] + 0.05 * ball.mask, none[1:]
    )
    assert watched.best[0] == -torch.inf
    assert watched.best[1] > 0
    random = case(TinyVAE(), images_of(2), 0.3, reconstruction="sampled")[0]
    fresh = Watched.of(DAMAGE, ball)
    fresh.loss(random)(random.images, random.noise("", 2, 3))
    assert fresh.best.tolist() == [-torch.inf] * 2


def test_watching_changes_no_search_and_never_waits() -> None:
    batch, ball = case(TinyVAE(), images_of(3), 0.3)
    watched = Watched.of(DAMAGE, ball)
    assert (watched.name, watched.draws(batch.question), watched.describe(0)) == ("damage", 0, DAMAGE.describe(0))
    plain = QUICK.search(batch, DAMAGE, ball, "test")[0]
    torch.testing.assert_close(QUICK.search(batch, watched, ball, "test")[0], plain)
    assert_never_waits(lambda: QUICK.search(batch, watched, ball, "test"))


def test_half_a_perturbation_that_does_more() -> None:
    batch, ball = case(Wave(), torch.zeros(2, 1, 1, 12), 1.0)
    delta = torch.zeros_like(batch.images)
    delta[0, ..., 0], delta[1, ..., 0] = 0.45, 0.2
    flags = raised(batch, ball, delta)
    assert ["not_monotone" in one for one in flags] == [True, False]
    assert "weaker_than_noise" in flags[0]


def test_noise_that_does_more() -> None:
    vae = linear_vae()[0]
    batch, ball = case(vae, images_of(2), 0.5)
    strong = QUICK.search(batch, DAMAGE, ball, "test")[0]
    blind = torch.linalg.svd(vae.mean_map[1].weight.detach()).Vh[-1].reshape(1, 1, 12)
    flags = raised(batch, ball, torch.stack([0.5 * blind, strong[1]]))
    assert "weaker_than_noise" in flags[0]
    assert flags[1] == set()


def test_log_variances_at_a_clamp() -> None:
    floors = {-30.0: False, 0.0: True}
    for floor, clamped in floors.items():
        assert ["clamped_log_variance" in flags for flags in after(Bounded(floor), QUICK)] == [clamped] * 3
    # Constant by design is not clamped.
    assert not any("clamped_log_variance" in flags for flags in after(TinyVAE(), QUICK))


def test_reconstructions_at_the_ends_of_the_range() -> None:
    for steepness, ends in [(1.0, False), (1e4, True)]:
        assert ["saturated" in flags for flags in after(Bounded(steepness=steepness), QUICK)] == [ends] * 3


def test_not_finite_is_told_of_the_sample_alone() -> None:
    images = images_of(2)
    images[0, 0, 0, 0] = 0.45
    batch, ball = case(Fenced(), images, 0.25)
    flags = raised(batch, ball, QUICK.search(batch, DAMAGE, ball, "test")[0])
    assert "not_finite" in flags[0]
    assert flags[1] == set()


def test_a_radius_of_zero_leaves_nothing_to_blame() -> None:
    batch, ball = case(TinyVAE(), images_of(2), 0.0, reconstruction="sampled")
    assert raised(batch, ball, torch.zeros_like(batch.images)) == [set(), set()]


def test_flags_are_those_of_the_sample_in_any_batch() -> None:
    vae, images, ids = TinyVAE(), images_of(4), [5, 2, 9, 0]
    delta = torch.stack([torch.zeros(1, 1, 12), *(0.1 * images_of(3).sign())])

    def flags(order: list[int]) -> list[set[str]]:
        batch, ball = case(vae, images[order], 0.5, reconstruction="sampled", ids=[ids[i] for i in order])
        return raised(batch, ball, delta[order])

    whole = flags([0, 1, 2, 3])
    assert whole[0]
    assert flags([3, 0]) + flags([1]) == [whole[3], whole[0], whole[1]]


@pytest.mark.parametrize(
    ("reconstruction", "cost"),
    [
        ("mean", {"encoder_forward": 36, "encoder_backward": 13, "decoder_forward": 35, "decoder_backward": 12}),
        ("sampled", {"encoder_forward": 127, "encoder_backward": 27, "decoder_forward": 405, "decoder_backward": 26}),
    ],
)
def test_cost_is_the_stated_one(reconstruction: str, cost: dict[str, int]) -> None:
    batch, ball = case(TinyVAE(), images_of(3), 0.5, reconstruction=reconstruction)
    batch.vae.cost.clear()
    diagnose(batch, DAMAGE, ball, ball.random_start(batch.noise("start", 1, 1, 12)))
    assert {part: count / 3 for part, count in batch.vae.cost.items()} == cost


def test_rows_keep_what_was_asked_for() -> None:
    batch, ball = case(linear_vae()[0], images_of(2), 0.3)
    first, _ = evaluate(batch, ball, torch.zeros_like(batch.images), Evaluation(), "test")
    both = look_again(batch, DAMAGE, ball, [first, None], Evaluation(indicators=True), "test")
    assert both[0]["indicators"] == ["zero_gradient", "weaker_than_noise"]
    assert both[0]["quantised"].keys() == {"damage", "success", "size"}
    assert both[1] == {}
    plain = look_again(batch, DAMAGE, ball, [first, None], Evaluation(quantised=False), "test")
    assert plain == [{}, {}]
    (row,) = attack(linear_vae()[0], images_of(1), radius=0.3, r=1.0, reconstruction="mean", options=QUICK)
    subject = {name: getattr(row, name) for name in ("model", "model_sha256", "dataset", "sample_id", "sample_sha256")}
    finding = Finding(verdict=first, rho=0.3, fixed=True, checks=both[0])
    told = make_row(subject, batch.question, finding, {}, {"method": "zero"})
    assert json.loads(told.constants) == {**both[0], **first.counts}


def _table(damages: dict[float, float]) -> pd.DataFrame:
    """Give rows of one sample whose damage at each radius is as said, and another sample's, which always grows."""
    vae, images = linear_vae()[0], images_of(2)
    rows = []
    for radius, damage in damages.items():
        one, other = attack(vae, images, radius=radius, r=1.0, reconstruction="mean", options=PGD(steps=2, restarts=1))
        rows += [replace(one, rho=radius, damage=damage), replace(other, rho=radius, damage=radius)]
    return frame(rows)


def test_damage_that_falls_with_the_radius() -> None:
    found = table_not_monotone(_table({2.0: 4.0, 1.0: 3.0, 3.0: 1.0, 4.0: 3.9, 5.0: 5.0}))
    assert found[["sample_id", "method", "rho", "damage", "best", "best_rho"]].to_numpy().tolist() == [
        [0, "pgd-damage", 3.0, 1.0, 4.0, 2.0],
        [0, "pgd-damage", 4.0, 3.9, 4.0, 2.0],
    ]


def test_small_drops_failures_and_other_runs_are_no_falls() -> None:
    table = _table({1.0: 3.0, 2.0: 2.98, 3.0: 1.0})
    assert table_not_monotone(table)["rho"].tolist() == [3.0]
    again = table[table["rho"] == 3.0].assign(damage=3.5, seed=1)
    assert table_not_monotone(pd.concat([table, again])).empty
    assert table_not_monotone(table.assign(status="error")).empty
    assert table_not_monotone(table.assign(fixed_radius=False)).empty
