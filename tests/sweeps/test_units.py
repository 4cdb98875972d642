"""Units are named by what they depend on, done once, and go on where a run stopped."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.attacks.objectives.small import unchecked
from vaerdict.data import Images, load_images
from vaerdict.models import build_vae
from vaerdict.options import AttackOptions, CertifyOptions, ModelOptions
from vaerdict.results import Row, load
from vaerdict.sweeps import Subject, Unit, attack_units, certificate_units, run_units, units
from vaerdict.vae import fingerprint


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    vae = build_vae(ModelOptions(hidden=(16,), latent=3, a=2.0, b=1.0), name="toy", input_shape=(1, 8, 8)).eval()
    images = load_images("digits", limit=10)
    return Subject(vae=vae, images=images, r=2.0, r_relative=None, p=0.5, seed=0, device="cpu", chunk=4)


CLOSED = CertifyOptions(methods=("barrett", "isotropic"))


def keys(planned: list[Unit]) -> list[str]:
    return [unit.key for unit in planned]


def test_every_image_is_in_one_unit(subject: Subject) -> None:
    planned = certificate_units(subject, CLOSED)
    assert [unit.samples for unit in planned] == [4, 4, 2]
    assert len(set(keys(planned))) == 3
    assert keys(certificate_units(subject, CLOSED)) == keys(planned)


@pytest.mark.parametrize("change", [{"r": 2.5}, {"p": 0.6}, {"seed": 1}, {"r_relative": 0.5}])
def test_another_question_has_other_keys(subject: Subject, change: dict[str, float]) -> None:
    before = keys(certificate_units(subject, CLOSED))
    assert not set(before) & set(keys(certificate_units(replace(subject, **change), CLOSED)))


def test_other_weights_options_and_pixels_have_other_keys(subject: Subject) -> None:
    before = set(keys(certificate_units(subject, CLOSED)))
    assert not before & set(keys(certificate_units(subject, replace(CLOSED, samples=9))))
    pixels = subject.images.pixels.clone()
    pixels[0, 0, 0, 0] += 0.1
    other = certificate_units(replace(subject, images=replace(subject.images, pixels=pixels)), CLOSED)
    assert len(before & set(keys(other))) == 2
    first = fingerprint(subject.vae)
    subject.vae.decoder[0].bias.data += 1
    assert fingerprint(subject.vae) != first
    assert not before & set(keys(certificate_units(subject, CLOSED)))


def test_attacks_are_planned_per_radius_and_for_the_margin(subject: Subject, tmp_path: Path) -> None:
    planned = attack_units(subject, AttackOptions(radii=(0.5, 1.0)), tmp_path)
    assert len(planned) == len(set(keys(planned))) == 9
    assert len(attack_units(subject, AttackOptions(radii=(0.5,), margin=False), tmp_path)) == 3


@pytest.mark.parametrize("suite", ["none", "standard"])
def test_a_radius_more_leaves_the_other_names_alone(subject: Subject, tmp_path: Path, suite: str) -> None:
    def named(**options: object) -> set[str]:
        return set(keys(attack_units(subject, AttackOptions(suite=suite, **options), tmp_path)))

    few, many = named(radii=(0.5,)), named(radii=(0.5, 1.0))
    assert few < many
    assert len(many - few) == 3
    assert named(radii=(1.0,), margin=False) == many - few
    assert len(named(radii=(0.5,), norm="inf") & few) == 0
    assert len(named(radii=(0.5,), samples=500) & few) == 0


def test_the_gradients_name_only_what_they_are_spent_on(subject: Subject, tmp_path: Path) -> None:
    def named(**options: object) -> set[str]:
        return set(keys(attack_units(subject, AttackOptions(**options), tmp_path)))

    margins = named()
    assert named(gradients=7) == margins
    assert named(radii=(0.5,), gradients=7) & named(radii=(0.5,)) == margins
    assert named(radii=(0.5,), gradients=7, suite="standard") == named(radii=(0.5,), suite="standard")


def test_other_targets_have_other_keys(subject: Subject, tmp_path: Path) -> None:
    """The last image of a chunk has another target when more images follow."""
    options = AttackOptions(objective="latent")
    images = replace(subject.images, labels=None)
    fewer = replace(images, pixels=images.pixels[:4], sample_ids=images.sample_ids[:4])
    every, first = (attack_units(replace(subject, images=chosen), options, tmp_path) for chosen in (images, fewer))
    assert every[0].samples == first[0].samples == 4
    assert every[0].key != first[0].key


def test_targets_have_another_label(subject: Subject) -> None:
    images = subject.images
    targets = units._targets(images)
    assert images.labels is not None
    for target, label in zip(targets, images.labels, strict=True):
        match = (images.pixels == target).flatten(1).all(1)
        assert images.labels[match][0] != label
    unlabelled: Images = replace(images, labels=None)
    assert torch.equal(units._targets(unlabelled)[0], images.pixels[1])


def test_no_image_is_its_own_target(subject: Subject, tmp_path: Path) -> None:
    images, options = subject.images, AttackOptions(objective="latent")
    assert images.labels is not None
    alone = replace(images, pixels=images.pixels[:1], sample_ids=images.sample_ids[:1], labels=images.labels[:1])
    alike = replace(images, labels=torch.zeros_like(images.labels))
    labels = "expected images of 2 labels or more, to be targets of each other, got 1"
    others = "expected 2 images or more, to be targets of each other, got 1"
    for chosen, said in [(alone, labels), (alike, labels), (replace(alone, labels=None), others)]:
        with pytest.raises(ValueError, match=said):
            attack_units(replace(subject, images=chosen), options, tmp_path)
    assert len(attack_units(replace(subject, images=alone), AttackOptions(), tmp_path)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "latents"}, "unknown objective 'latents', known: damage, latent"),
        ({"norm": "3"}, "unknown norm '3', known: 0, 0-values, 1, 2, inf"),
        ({"suite": "hard"}, "unknown suite 'hard', known: none, standard"),
        ({"norm": "0", "radii": (2.0, 0.5)}, "expected only whole numbers as `radii` for the norm '0', got 0.5"),
        ({"norm": "0-values", "radii": (1.5,)}, "only whole numbers as `radii` for the norm '0-values', got 1.5"),
    ],
)
def test_options_that_no_attack_has_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unchecked(AttackOptions, **{**asdict(AttackOptions()), **options}).__post_init__()
    assert AttackOptions(norm="0", radii=(2.0,)).radii == (2.0,)


def test_an_interrupted_run_goes_on_and_ends_as_an_undisturbed_one(subject: Subject, tmp_path: Path) -> None:
    planned = certificate_units(subject, CLOSED)
    calls: list[int] = []

    def stop() -> list[Row]:
        raise KeyboardInterrupt

    def counted(unit: Unit) -> Unit:
        return replace(unit, work=lambda: calls.append(1) or unit.work())  # type: ignore[func-returns-value]

    stopped = [counted(planned[0]), replace(planned[1], work=stop), counted(planned[2])]
    with pytest.raises(KeyboardInterrupt):
        run_units(tmp_path / "a", stopped, "test")
    assert len(load(tmp_path / "a" / "results")) == 8
    run_units(tmp_path / "a", [counted(unit) for unit in planned], "test")
    run_units(tmp_path / "b", planned, "test")
    assert len(calls) == 3  # the finished unit was not done again
    columns = ["sample_id", "method", "margin", "unit_key", "sample_sha256", "constants"]
    one, other = (load(tmp_path / part / "results")[columns] for part in ("a", "b"))
    assert one.equals(other)
    assert sorted(one["sample_id"].unique()) == sorted(subject.images.sample_ids)


def test_names_depend_on_the_chunk_and_not_on_the_batch(subject: Subject, tmp_path: Path) -> None:
    """A part made with another batch is the same unit's; other chunks are other units."""
    options = AttackOptions(radii=(0.5,))

    def named(**change: object) -> set[str]:
        return set(keys(attack_units(replace(subject, **change), options, tmp_path)))  # type: ignore[arg-type]

    assert named(batch=1) == named()
    assert not named(chunk=5) & named()
    assert [unit.samples for unit in certificate_units(replace(subject, chunk=20), CLOSED)] == [10]


def test_names_tell_devices_apart_by_kind_only(subject: Subject, tmp_path: Path) -> None:
    def named(device: str) -> list[str]:
        return keys(attack_units(replace(subject, device=device), AttackOptions(radii=(0.5,)), tmp_path))

    assert named("cuda:0") == named("cuda:1") == named("cuda")
    assert not set(named("cuda")) & set(named("cpu"))


def test_the_folder_is_no_part_of_a_name(subject: Subject, tmp_path: Path) -> None:
    options = AttackOptions()
    assert keys(attack_units(subject, options, tmp_path)) == keys(attack_units(subject, options, Path()))


def test_a_failure_is_a_row_for_each_sample(subject: Subject, tmp_path: Path) -> None:
    subject = replace(subject, p=0.6, seed=3, r_relative=0.25)
    attacks = attack_units(subject, AttackOptions(radii=(0.5,)), tmp_path)
    [*_, last] = attacks[:3]
    rows = last.blame("it broke")
    assert [row.sample_id for row in rows] == list(subject.images.sample_ids[8:])
    assert {(row.status, row.reason, row.kind, row.strength) for row in rows} == {
        ("error", "it broke", "attack", "empirical")
    }
    assert {(row.r, row.r_relative, row.p, row.seed, row.margin) for row in rows} == {(2.0, 0.25, 0.6, 3, None)}
    assert {row.method for row in attacks[3].blame("")} == {"attack radius 0.5"}
    certified = certificate_units(subject, CLOSED)[0]
    done, blamed = certified.work()[0], certified.blame("no")[0]
    assert (blamed.kind, blamed.strength, blamed.method) == ("certificate", "numerical", "certify")
    same = ("model", "model_sha256", "dataset", "sample_id", "sample_sha256", "r", "p", "device", "norm")
    assert [getattr(blamed, name) for name in same] == [getattr(done, name) for name in same]


def test_rows_agree_between_batches_and_tell_theirs(subject: Subject, tmp_path: Path) -> None:
    asked = AttackOptions(margin=False, radii=(0.5,), gradients=4, samples=300)
    chunk = replace(subject, images=load_images("digits", limit=3))

    def rows(batch: int) -> list[Row]:
        [unit] = attack_units(replace(chunk, batch=batch), asked, tmp_path)
        return unit.work()

    one, two, all_at_once = rows(1), rows(2), rows(256)
    for other in (one, two):
        assert [row.damage for row in other] == pytest.approx([row.damage for row in all_at_once], rel=1e-4)
    told = [[json.loads(row.constants)["batch"] for row in some] for some in (one, two, all_at_once)]
    assert told == [[1, 1, 1], [2, 2, 1], [3, 3, 3]]
    assert {json.loads(row.constants)["options"]["batch_size"] for row in two} == {2}


def test_suites_and_margins_get_the_batch_too(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(units, "attack", lambda *images, **ask: given.append(ask["suite"]) or [])
    monkeypatch.setattr(units, "attack_margin", lambda *images, **ask: given.append(ask["options"]) or [])
    for unit in attack_units(replace(subject, batch=3), AttackOptions(suite="standard", radii=(0.5,)), tmp_path):
        unit.work()
    assert [search.batch_size for search in given] == [3] * 6
