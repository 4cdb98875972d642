import inspect
import json
import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.attacks import searches
from tests.attacks.objectives.small import unchecked
from vaerdict.attacks import (
    PGD,
    Evaluation,
    MarginSearch,
    MaximumDamage,
    attack,
    attack_margin,
    task,
    threat,
)
from vaerdict.attacks.question import Question
from vaerdict.results import array_sha256, perturbation_size
from vaerdict.vae import Posterior

ASK = {"radius": 0.4, "r": 0.5, "reconstruction": "mean", "options": PGD(steps=3, restarts=1, batch_size=8)}


class Greedy(searches.TinyVAE):
    """Has memory for three images at once."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.widths = error, []

    def encode(self, images: Tensor) -> Posterior:
        self.widths.append(len(images))
        if len(images) > 3:
            raise self.error
        return super().encode(images)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("device"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 9.00 GiB for an array"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    images = searches.images_of(7)
    greedy = Greedy(error)
    with caplog.at_level(logging.WARNING):
        rows = attack(greedy, images, **ASK)
    expected = attack(searches.TinyVAE(), images, **ASK)
    assert [row.sample_id for row in rows] == list(range(7))
    assert [row.damage for row in rows] == pytest.approx([row.damage for row in expected], rel=1e-4)
    assert "going on with 3 images at once" in caplog.text
    assert [width for width in greedy.widths if width > 3] == [7]


def test_the_batch_that_fitted_is_told() -> None:
    """The options keep the batch that was asked for; where memory ran out, fewer images were attacked at once."""
    rows = attack(Greedy(torch.OutOfMemoryError("device")), searches.images_of(7), **ASK)
    told = [json.loads(row.constants) for row in rows]
    assert [one["batch"] for one in told] == [3, 3, 3, 3, 3, 3, 1]
    assert {one["options"]["batch_size"] for one in told} == {8}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("device"), MemoryError("Unable to allocate")])
def test_one_image_that_does_not_fit_is_an_error(error: Exception) -> None:
    class Greedier(searches.TinyVAE):
        def encode(self, images: Tensor) -> Posterior:
            if images.requires_grad:
                raise error
            return super().encode(images)

    with pytest.raises(type(error)):
        attack(Greedier(), searches.images_of(2), **ASK)


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        attack(Greedy(RuntimeError("shapes differ")), searches.images_of(7), **ASK)


def test_masked_attacks_say_so_and_touch_nothing_else(tmp_path) -> None:
    vae, images = searches.TinyVAE(), searches.images_of(3)
    mask = torch.zeros(1, 1, 1, 12, dtype=torch.bool)
    mask[..., 4:8] = True
    rows = attack(vae, images, mask=mask, witness_folder=tmp_path, **ASK)
    margins = attack_margin(vae, images, r=0.1, reconstruction="mean", mask=mask.expand(3, -1, -1, -1))
    assert {row.method for row in rows} == {"pgd-damage-masked"}
    assert {row.method for row in margins} == {"bisection-damage-masked"}
    digest = array_sha256(mask[0].numpy())
    assert {json.loads(row.constants)["mask_sha256"] for row in [*rows, *margins]} == {digest}
    for row in rows:
        held = np.load(tmp_path.parent / row.witness)
        change = held["adversarial"] - held["image"]
        assert not change[~mask[0].numpy()].any()
        assert change.any()
    free = attack(vae, images, **ASK)
    assert all(row.damage < other.damage for row, other in zip(rows, free, strict=True))


def test_searches_see_the_mask_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check gives lies on the images' device; what it was given may lie on another."""
    images, checked = searches.images_of(3), torch.zeros(1, 1, 1, 12, dtype=torch.bool)
    checked[..., 4:8] = True
    expected = attack(searches.TinyVAE(), images, mask=checked, **ASK)
    monkeypatch.setattr(task, "check_mask", lambda mask, images: checked)
    rows = attack(searches.TinyVAE(), images, mask=torch.ones_like(checked), **ASK)
    assert [row.damage for row in rows] == pytest.approx([row.damage for row in expected], rel=1e-6)


@pytest.mark.parametrize(("norm", "radius"), [("1", 0.5), ("0", 3.0), ("0-values", 3.0), ("inf", 0.1)])
def test_other_norms_give_rows_and_witnesses_of_their_size(norm, radius: float, tmp_path) -> None:
    vae, images = searches.TinyVAE(), searches.images_of(3)
    ask = {"norm": norm, "reconstruction": "mean", "witness_folder": tmp_path}
    fixed = attack(vae, images, radius=radius, r=0.05, options=PGD(steps=5, restarts=1), **ask)
    search = MarginSearch(start=PGD(steps=10, restarts=1), levels=8, steps=5, restarts=0)
    found = attack_margin(vae, images, r=0.3, options=search, **ask)
    for row in [*fixed, *found]:
        held = np.load(tmp_path.parent / row.witness)
        far = perturbation_size(held["image"], held["adversarial"], norm)
        assert row.norm == norm
        assert 0 < far <= row.margin * (1 + 1e-6)
    assert all(row.margin <= radius * (1 + 1e-6) for row in fixed)


def test_the_cost_is_told_by_part() -> None:
    (row,) = attack(searches.TinyVAE(), searches.images_of(1), evaluation=Evaluation(quantised=False), **ASK)
    cost = json.loads(row.constants)["cost"]
    assert (cost["encoder_backward"], cost["decoder_backward"]) == (3, 3)
    assert row.n_forward == cost["encoder_forward"] + cost["decoder_forward"]
    assert row.n_backward == 6


def test_bad_inputs_are_named() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    with pytest.raises(ValueError, match="expected `images` of type float32 or float64, got bfloat16"):
        attack(vae, images.bfloat16(), **ASK)
    with pytest.raises(ValueError, match=r"a whole number as `radius` for the norm '0', got 0\.4"):
        attack(vae, images, norm="0", **ASK)
    with pytest.warns(UserWarning, match="clamped"):
        attack(vae, torch.full_like(images, 1 + 5e-7), **ASK)
    with pytest.raises(ValueError, match=r"expected pixels in \[-1, 1\]"):
        attack(vae, torch.full_like(images, 1.01), **ASK)


def test_arrays_of_other_libraries_are_named() -> None:
    images, box = searches.images_of(2), (-1.0, 1.0)
    settle, check_mask = map(inspect.unwrap, (threat.settle, threat.check_mask))  # past the tests' check of types
    with pytest.raises(ValueError, match="expected `images` as a torch tensor, got ndarray"):
        settle(images.numpy(), box)
    with pytest.raises(ValueError, match="expected `images` as a torch tensor, got list"):
        settle(images.tolist(), box)
    with pytest.raises(ValueError, match="expected `mask` as a torch tensor, got ndarray"):
        check_mask(np.ones((2, 1, 1, 12), bool), images)


def test_numbers_given_as_tensors_become_pythons_own() -> None:
    question = unchecked(Question, r=torch.tensor(0.5), p=torch.tensor(0.75), norm="2", reconstruction="mean")
    known = {"images": searches.images_of(1), "objective": MaximumDamage(), "mask": None, "sample_ids": None}
    asked = unchecked(task.Task, vae=searches.TinyVAE(), question=question, r_relative=np.float32(0.25), **known)
    asked.__post_init__()
    numbers = (asked.question.r, asked.question.p, asked.r_relative)
    assert numbers == (0.5, 0.75, 0.25)
    assert {type(number) for number in numbers} == {float}


def test_a_second_run_goes_on_bit_for_bit() -> None:
    """Chunks are whole: what was interrupted after one is the same as what never was."""
    vae, images = searches.TinyVAE(), searches.images_of(16)
    whole = attack(vae, images, **ASK)
    halves = [attack(vae, images[k : k + 8], sample_ids=range(k, k + 8), **ASK) for k in (0, 8)]
    assert [row.damage for row in whole] == [row.damage for half in halves for row in half]
