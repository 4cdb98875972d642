import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.toys import LinearVAE, isotropic_vae
from tests.untyped import untyped
from vaerdict.attacks import PGD, Evaluation, MarginSearch, TargetedLatent, attack, attack_margin
from vaerdict.attacks.judge.evaluate import bound_probability
from vaerdict.attacks.question import Question
from vaerdict.attacks.task import check_radius
from vaerdict.results import array_sha256, frame
from vaerdict.vae import Posterior, fingerprint

QUICK = PGD(steps=8, restarts=1)
SHORT = MarginSearch(start=QUICK, levels=6, steps=5, restarts=0)


class Poisoned(LinearVAE):
    """A linear VAE that is not finite on images whose first pixel exceeds 50."""

    def encode(self, images: Tensor) -> Posterior:
        posterior = super().encode(images)
        bad = (images[:, 0, 0, :1] > 50).to(images)
        return Posterior(posterior.mean + 0 * torch.log(1 - bad) / (1 - bad), posterior.std)


def test_row_says_who_what_and_how() -> None:
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    rows = attack(
        vae, images, radius=0.6, r=3.0, p=0.6, seed=4, sample_ids=[8, 9], dataset="noise", r_relative=0.5, options=QUICK
    )
    row = rows[1]
    assert (row.kind, row.strength, row.method, row.status) == ("attack", "empirical", "pgd-damage", "ok")
    assert (row.model, row.model_sha256, row.dataset, row.sample_id) == ("linear", fingerprint(vae), "noise", 9)
    assert row.sample_sha256 == array_sha256(images[1].numpy())
    assert (row.r, row.p, row.norm, row.reconstruction, row.seed) == (3.0, 0.6, "2", "sampled", 4)
    assert (row.confidence, row.r_relative, row.dtype, row.device) == (0.999, 0.5, "float32", "cpu")
    assert row.rho == pytest.approx(0.6)
    assert row.margin == pytest.approx(0.6, rel=1e-3)
    assert row.time_s > 0
    assert len(frame(rows)) == 2


def test_constants_suffice_to_decide_again() -> None:
    (row,) = attack(isotropic_vae(), torch.randn(1, 1, 1, 12), radius=0.6, r=3.0, options=QUICK)
    constants = json.loads(row.constants)
    assert constants["options"] == asdict(QUICK)
    again = bound_probability(constants["within"], constants["samples"], constants["evaluation"]["confidence"])
    assert constants["upper"] == float(again)
    assert constants["upper"] <= row.p
    assert constants["size"] == row.margin


def test_constants_name_each_target() -> None:
    images, targets = torch.randn(3, 1, 1, 12), torch.randn(3, 1, 1, 12)
    rows = attack(
        isotropic_vae(),
        images,
        radius=0.6,
        r=3.0,
        objective=TargetedLatent(targets),
        options=PGD(steps=2, batch_size=2),
    )
    assert [json.loads(row.constants)["target_sha256"] for row in rows] == [array_sha256(t.numpy()) for t in targets]
    assert rows[0].method == "pgd-latent"


def test_no_success_is_an_infinite_margin_with_a_reason() -> None:
    (row,) = attack(isotropic_vae(), torch.randn(1, 1, 1, 12), radius=0.1, r=3.0, options=QUICK)
    assert (row.status, row.margin) == ("ok", np.inf)
    assert "does not break" in row.reason
    assert row.damage < 3


@pytest.mark.parametrize("verb", [attack, attack_margin])
def test_a_sample_that_is_not_finite_destroys_no_other(verb) -> None:
    toy = isotropic_vae()
    vae = Poisoned(toy.mean_map[1].weight.detach(), toy.decoder[0].weight.detach(), 0.1)
    images = torch.randn(3, 1, 1, 12)
    images[1, 0, 0, 0] = 60.0
    extra = {"radius": 0.6} if verb is attack else {"options": replace(SHORT, max_radius=2.0)}
    rows = verb(vae, images, r=3.0, reconstruction="mean", **extra)
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert (rows[1].margin, rows[1].damage) == (None, None)
    assert rows[1].reason == "the loss or the reconstruction is not finite"
    clean = verb(toy, images, r=3.0, reconstruction="mean", **extra)
    assert [rows[i].margin for i in (0, 2)] == pytest.approx([clean[i].margin for i in (0, 2)], rel=1e-5)


@pytest.mark.parametrize("verb", [attack, attack_margin])
@pytest.mark.parametrize("reconstruction", ["sampled", "mean"])
def test_witness_stands_on_its_own(verb, reconstruction: str, tmp_path) -> None:
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    extra = {"radius": 0.7} if verb is attack else {"options": SHORT}
    folder = tmp_path / "run" / "witnesses"
    rows = verb(vae, images, r=3.0, reconstruction=reconstruction, witness_folder=folder, sample_ids=[4, 7], **extra)
    product = (vae.decoder[0].weight @ vae.mean_map[1].weight).detach().numpy().astype(np.float64)
    for row, image in zip(rows, images, strict=True):
        with np.load(folder.parent / row.witness) as witness:
            assert witness["image"].dtype == np.float32
            assert np.array_equal(witness["image"], image.numpy())
            delta = (witness["adversarial"].astype(np.float64) - witness["image"]).ravel()
            change = (witness["adversarial_reconstruction"].astype(np.float64) - witness["reconstruction"]).ravel()
            assert np.linalg.norm(delta) <= row.margin <= float(witness["rho"]) * (1 + 1e-6)
            assert change == pytest.approx(product @ delta, abs=1e-4)
            assert np.linalg.norm(change) > float(witness["r"]) * (1 if reconstruction == "mean" else 0.99)
        prefix = "pgd-damage-2-0.7" if verb is attack else "bisection-damage-2"
        assert row.witness.startswith(f"witnesses/{prefix}-{row.sample_id}-{row.model_sha256[:8]}-")


def test_witnesses_of_different_questions_do_not_overwrite_each_other(tmp_path) -> None:
    vae, images = isotropic_vae(), torch.randn(1, 1, 1, 12)
    rows = [attack(vae, images, radius=0.7, r=r, options=QUICK, witness_folder=tmp_path)[0] for r in (1.0, 2.0)]
    assert rows[0].witness != rows[1].witness
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("verb", [attack, attack_margin])
def test_model_comes_back_as_it_was_lent(verb) -> None:
    vae = isotropic_vae().train()
    vae.decoder[0].weight.requires_grad_(False)
    before = fingerprint(vae)
    images = torch.randn(2, 1, 1, 12, requires_grad=True)
    verb(vae, images, r=3.0, **({"radius": 0.5, "options": QUICK} if verb is attack else {"options": SHORT}))
    assert vae.training
    assert vae.mean_map[1].weight.requires_grad
    assert not vae.decoder[0].weight.requires_grad
    assert fingerprint(vae) == before
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert images.grad is None


def test_float64_models_are_attacked_in_float64() -> None:
    vae, images = isotropic_vae().double(), torch.randn(2, 1, 1, 12, dtype=torch.float64)
    (row, _) = attack_margin(vae, images, r=3.0, reconstruction="mean", options=SHORT)
    assert row.dtype == "float64"
    assert row.margin == pytest.approx(0.5, rel=1e-3)
    assert row.margin >= 0.5


GOOD = {"radius": 0.5, "r": 1.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"r": 0.0}, "expected a finite `r` > 0, got 0.0"),
        ({"p": 0.4}, "expected `p` in [1/2, 1), got 0.4"),
        ({"p": 1.0}, "expected `p` in [1/2, 1), got 1.0"),
        ({"radius": -0.1}, "expected a finite `radius` >= 0, got -0.1"),
        ({"radius": float("nan")}, "expected a finite `radius` >= 0, got nan"),
        ({"sample_ids": [1]}, "expected 2 `sample_ids`, got 1"),
        ({"objective": TargetedLatent(torch.zeros(1, 1, 1, 12))}, "expected `target_images` of shape (2, 1, 1, 12)"),
        ({"evaluation": Evaluation(samples=5)}, "expected enough `samples` to decide at `p` = 0.5"),
        ({"images": torch.full((2, 1, 1, 12), 101.0)}, "expected pixels in [-100, 100], got [101, 101]"),
        ({"images": torch.zeros(2, 1, 12)}, "expected images of shape"),
        ({"images": torch.zeros(0, 1, 1, 12)}, "expected at least one image"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict, message: str) -> None:
    arguments = {"images": torch.zeros(2, 1, 1, 12), **GOOD, **wrong}
    with pytest.raises(ValueError, match=re.escape(message)):
        attack(isotropic_vae(), arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("norm", "expected `norm` in ('0', '0-values', '1', '2', 'inf'), got 'l1'"),
        ("reconstruction", "expected `reconstruction` in ('sampled', 'anchored', 'mean'), got 'l1'"),
    ],
)
def test_known_names_are_listed(field: str, message: str) -> None:
    question = Question(r=1.0)
    object.__setattr__(question, field, "l1")  # past the type checks that only tests make
    with pytest.raises(ValueError, match=re.escape(message)):
        question.__post_init__()


def test_radii_must_be_one_or_one_per_image() -> None:
    with pytest.raises(ValueError, match=re.escape("expected `radius` of shape () or (2,), got (3,)")):
        check_radius(torch.ones(3), torch.zeros(2, 1, 1, 12))


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(model) -> None:
    for verb, more in ((attack, {"radius": 1.0}), (attack_margin, {})):
        with pytest.raises(TypeError, match="expected a"):
            untyped(verb, model, torch.zeros(1, 1, 1, 12), r=1.0, **more)
