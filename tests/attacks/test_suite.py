import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.attacks import searches
from vaerdict.attacks import (
    APGD,
    PGD,
    Evaluation,
    LatentDivergence,
    MaximumDamage,
    Member,
    Suite,
    TargetedLatent,
    attack,
    attack_margin,
)
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.question import Question
from vaerdict.attacks.suite import find_worst, standard
from vaerdict.attacks.threat import Ball
from vaerdict.results import array_sha256
from vaerdict.vae import Posterior

FEW = Evaluation(samples=60, confidence=0.9, quantised=False)
WEAK = PGD(steps=1, restarts=1, probes=1)


def members_of(row) -> list[dict]:
    return json.loads(row.constants)["members"]


def test_standard_reaches_the_closed_form() -> None:
    vae, top = searches.linear_vae()
    rows = attack(vae, searches.images_of(3), radius=0.3, r=1.0, reconstruction="mean", suite="standard")
    assert {row.method for row in rows} == {"standard-damage"}
    for row in rows:
        assert 0.999 * 0.3 * top <= row.damage <= 0.3 * top * (1 + 1e-5)


def test_the_row_shows_the_worst_of_its_members() -> None:
    suite = Suite(name="mine", members=(Member(options=WEAK), Member(options=PGD(steps=20)), Member(options=WEAK)))
    rows = attack(searches.TinyVAE(), searches.images_of(4), radius=0.4, r=0.5, reconstruction="mean", suite=suite)
    for row in rows:
        told = members_of(row)
        assert [one["method"] for one in told] == ["pgd-damage"] * 3
        assert row.damage == max(one["damage"] for one in told)
        assert told[1]["damage"] > told[0]["damage"]
        assert row.margin == (told[1]["size"] if told[1]["success"] else torch.inf)
    assert rows[0].method == "mine-damage"


def test_a_success_counts_more_than_damage() -> None:
    """Many small changes have the larger mean where a few are huge, but only a frequent one breaks robustness."""
    vae, images = Spiky(), torch.zeros(1, 1, 1, 2)
    goals = [along(vae, 0), along(vae, 1)]
    batch = Batch.of(Meter(vae), images, Question(r=1.0, reconstruction="anchored"), 0, (0,))
    ball = Ball(norm="2", radius=torch.ones(1), box=vae.input_range, center=images)
    suite = Suite(name="two", members=tuple(Member(options=goal) for goal in goals))
    (worst,) = find_worst(suite, batch, MaximumDamage(), slice(0, 1), ball, Evaluation(samples=400))
    often, large = worst.members
    assert large["damage"] > often["damage"]
    assert (often["success"], large["success"]) == (True, False)
    assert worst.verdict.success
    assert worst.verdict.damage == often["damage"]


class Spiky(searches.TinyVAE):
    """Two pixels: the first moves every reconstruction a little, the second one draw in five very far."""

    def __init__(self) -> None:
        super().__init__()
        self.input_shape, self.latent = (1, 1, 2), 3

    def encode(self, images: Tensor) -> Posterior:
        pixels = images.flatten(1)
        mean = torch.cat([pixels, torch.zeros_like(pixels[:, :1])], dim=1)
        return Posterior(mean, torch.tensor([0.0, 0.0, 1.0]).expand_as(mean))

    def decode(self, latents: Tensor) -> Tensor:
        first, second, noise = latents.unbind(1)
        far = 100.0 * second * (noise > 0.84)
        return torch.stack([2.0 * first, far], dim=1).reshape(-1, 1, 1, 2)


def along(vae: Spiky, pixel: int):
    class Along:
        name, batch_size, described = f"pixel{pixel}", 1, dict

        def search(self, batch, objective, ball, use):
            delta = torch.zeros_like(batch.images)
            delta[..., pixel] = ball.radius
            return delta, torch.ones(len(delta), dtype=torch.bool)

    return Along()


def test_members_may_have_objectives_of_their_own() -> None:
    suite = Suite(name="mine", members=(Member(options=WEAK, objective=LatentDivergence("l2")), Member(options=WEAK)))
    (row,) = attack(searches.TinyVAE(), searches.images_of(1), radius=0.4, r=0.5, suite=suite, evaluation=FEW)
    assert [one["method"] for one in members_of(row)] == ["pgd-divergence-l2", "pgd-damage"]
    assert [one["steps"] for one in json.loads(row.constants)["suite"]] == [1, 1]
    assert members_of(row)[0]["objective"] == "divergence-l2"


def test_onward_never_loses_what_was_found() -> None:
    onward = Member(options=PGD(steps=5, restarts=1, step=0.05), onward=True)
    suite = Suite(name="mine", members=(Member(options=PGD(steps=10, restarts=2)), onward))
    for row in attack(searches.TinyVAE(), searches.images_of(4), radius=0.4, r=1.0, reconstruction="mean", suite=suite):
        before, after = members_of(row)
        assert after["method"] == "pgd-damage-onward"
        assert after["damage"] >= 0.999 * before["damage"]


def test_standard_takes_the_gradients_that_it_states() -> None:
    (row,) = attack(
        searches.TinyVAE(), searches.images_of(1), radius=0.4, r=1.0, reconstruction="mean", suite="standard"
    )
    cost = json.loads(row.constants)["cost"]
    assert "200 gradients" in standard.__doc__
    assert cost["encoder_backward"] == 200
    assert cost["decoder_backward"] == 180  # the latent member never decodes


def test_the_members_share_the_allowed_error() -> None:
    """Twenty judges at 90 % each would find a success in noise that is not there; together they have 90 %."""
    vae, images = Coin(), torch.zeros(40, 1, 1, 2)
    judge = Evaluation(samples=50, confidence=0.9, quantised=False)
    suite = Suite(name="many", members=(Member(options=WEAK),) * 20)
    ask = {"radius": 0.1, "r": 1.0, "reconstruction": "anchored", "evaluation": judge}
    rows = attack(vae, images, suite=suite, **ask)
    assert sum(row.margin < torch.inf for row in rows) <= 40 * 0.1 + 3 * (40 * 0.1 * 0.9) ** 0.5
    alone = attack(vae, images, options=WEAK, **ask)
    assert len(alone) == 40


class Coin(Spiky):
    """Moves the reconstruction far in half of all draws, whatever the image: never in more than half."""

    def decode(self, latents: Tensor) -> Tensor:
        far = 100.0 * (latents[:, 2] > 0.01).to(latents) + 0 * latents[:, 0]
        return torch.stack([far, far], dim=1).reshape(-1, 1, 1, 2)


def test_a_broken_member_does_not_hide_the_others() -> None:
    class Broken:
        name, batch_size, described = "broken", 1, dict

        def search(self, batch, objective, ball, use):
            return torch.full_like(batch.images, torch.nan), torch.zeros(len(batch.images), dtype=torch.bool)

    suite = Suite(name="mine", members=(Member(options=Broken()), Member(options=PGD(steps=5, restarts=1))))
    (row,) = attack(searches.TinyVAE(), searches.images_of(1), radius=0.4, r=1.0, reconstruction="mean", suite=suite)
    assert row.status == "ok"
    assert row.damage == members_of(row)[1]["damage"]


@pytest.mark.parametrize(("norm", "method"), [("2", "bisection+ddn+fmn"), ("inf", "bisection+fmn"), ("0", "bisection")])
def test_margins_have_a_standard_suite_too(norm: str, method: str) -> None:
    from vaerdict.attacks.margins.least import standard_searches

    assert "+".join(search.name for search in standard_searches(norm, MaximumDamage())) == method


def test_wrong_suites_are_refused() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(1)
    with pytest.raises(ValueError, match="unknown suite 'strong', known: standard"):
        attack(vae, images, radius=0.1, r=1.0, suite="strong")
    with pytest.raises(ValueError, match="unknown suite 'strong', known: standard"):
        attack_margin(vae, images, r=1.0, suite="strong")
    with pytest.raises(ValueError, match="expected either `options` or a `suite`, got both"):
        attack(vae, images, radius=0.1, r=1.0, suite="standard", options=APGD())
    with pytest.raises(ValueError, match="a first member that does not go onward"):
        Suite(name="mine", members=(Member(options=PGD(), onward=True),))
    with pytest.raises(ValueError, match="at least one of `members`"):
        replace(standard(), members=())


def test_members_objectives_are_checked_and_their_targets_told() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(3)
    ask = {"radius": 0.4, "r": 0.5, "reconstruction": "mean"}
    few = Suite(name="mine", members=(Member(options=WEAK, objective=TargetedLatent(images[:2])),))
    with pytest.raises(ValueError, match="expected `target_images` of shape"):
        attack(vae, images, suite=few, **ask)
    targets = images.flip(0)
    aimed = Suite(name="mine", members=(Member(options=WEAK), Member(options=WEAK, objective=TargetedLatent(targets))))
    rows = attack(vae, images, suite=aimed, **ask)
    assert [members_of(row)[1]["target_sha256"] for row in rows] == [array_sha256(one.numpy()) for one in targets]


def test_other_objectives_get_no_untargeted_member() -> None:
    targets = searches.images_of(2).flip(0)
    rows = attack(
        searches.TinyVAE(), searches.images_of(2), radius=0.4, r=0.5, reconstruction="mean", suite="standard",
        objective=TargetedLatent(targets),
    )  # fmt: skip
    assert {one["method"].split("-", 1)[1] for one in members_of(rows[0])} == {
        "latent", "search-latent", "latent-onward"
    }  # fmt: skip


def test_a_success_without_finite_gradients_is_one() -> None:
    class Blind:
        name, batch_size, described = "blind", 1, dict

        def search(self, batch, objective, ball, use):
            delta, _ = PGD(steps=5, restarts=1).search(batch, objective, ball, use)
            return delta, torch.zeros(len(delta), dtype=torch.bool)

    ask = {"radius": 0.4, "r": 0.1, "reconstruction": "mean"}
    weak = Member(options=PGD(steps=1, restarts=1, probes=1, step=1e-3), objective=LatentDivergence("l2"))
    for suite in (Suite.of(Blind()), Suite(name="two", members=(Member(options=Blind()), weak))):
        (row,) = attack(searches.TinyVAE(), searches.images_of(1), suite=suite, **ask)
        assert (row.status, row.margin < torch.inf) == ("ok", True)


def test_too_few_samples_for_all_members_are_refused() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(1)
    judge = Evaluation(samples=10, quantised=False)
    attack(vae, images, radius=0.1, r=1.0, options=WEAK, evaluation=judge)
    with pytest.raises(ValueError, match="enough `samples` to decide"):
        attack(vae, images, radius=0.1, r=1.0, suite="standard", evaluation=judge)


def test_the_worst_of_equal_members_has_the_damage_of_one() -> None:
    """At radius 0 all members have the same perturbation: the largest of their estimates would be too large."""
    suite = Suite(name="many", members=(Member(options=WEAK),) * 20)
    rows = attack(
        searches.linear_vae()[0], searches.images_of(40), radius=0.0, r=9.0, suite=suite,
        evaluation=Evaluation(samples=60, confidence=0.9, quantised=False),
    )  # fmt: skip
    largest = torch.tensor([max(one["damage"] for one in members_of(row)) for row in rows])
    fair = torch.tensor([sum(one["damage"] for one in members_of(row)) / 20 for row in rows])
    told = torch.tensor([row.damage for row in rows])
    assert float((largest / fair).mean()) > 1.05
    assert abs(float((told / fair).mean()) - 1) < 0.02
