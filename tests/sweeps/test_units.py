"""Units are named by what they depend on, done once, and go on where a run stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vaerdict.data import Images, load_images
from vaerdict.models import build_vae
from vaerdict.options import AttackOptions, CertifyOptions, ModelOptions
from vaerdict.results import Row, load
from vaerdict.sweeps import Subject, Unit, attack_units, certificate_units, run_units, units
from vaerdict.vae import fingerprint


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(units, "CHUNK", 4)
    torch.manual_seed(0)
    vae = build_vae(ModelOptions(hidden=(16,), latent=3, a=2.0, b=1.0), name="toy", input_shape=(1, 8, 8)).eval()
    images = load_images("digits", limit=10)
    return Subject(vae=vae, images=images, r=2.0, r_relative=None, p=0.5, seed=0, device="cpu")


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
