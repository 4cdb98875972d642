"""Training improves the ELBO, is reproducible to the bit, and stops and goes on without a trace."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.models.small import TRAINING, held_out_digits, small_model, small_vae, training_digits
from vaerdict.lipschitz import remove_parametrizations
from vaerdict.models import GaussianVAE, elbo, evaluate_elbo, kl_to_prior, load_vae, train
from vaerdict.models import training as module
from vaerdict.options import ModelOptions, TrainingOptions
from vaerdict.results import write_atomic
from vaerdict.vae import fingerprint

MODEL = small_model(spread="bounded")
SHA256 = "'64 hex digits'"


class Stopped(Exception):
    """What a test throws to end a run in the middle, as a lost machine would."""


def run(folder: Path, model: ModelOptions = MODEL, training: TrainingOptions = TRAINING, **facts: Any) -> GaussianVAE:
    images = {"training_images": training_digits(), "held_out": held_out_digits(), "name": "digits"}
    return train(folder, **{**images, "model": model, "training": training, **facts})


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "history.json").read_text())


def elbos(folder: Path) -> list[float]:
    return [entry["held_out_elbo"] for entry in history(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder)
    return folder


# --- it learns ---


@pytest.mark.parametrize(
    ("rate", "model"),
    [
        (3e-2, {"family": "lipschitz", "spread": "constant", "a": 1.0, "b": 1.0, "std": 0.2}),
        (1e-2, {"family": "plain", "spread": "log_variance"}),
        (1e-2, {"family": "conv", "spread": "log_variance"}),
    ],
)
def test_the_elbo_improves(tmp_path: Path, rate: float, model: dict[str, Any]) -> None:
    images, held_out, noise = training_digits(500), held_out_digits(), 0.2
    options = small_model(likelihood="gaussian", observation_std=noise, latent=4, hidden=(32,), **model)
    training = TrainingOptions(epochs=8, batch_size=50, learning_rate=rate)
    run(tmp_path, options, training, training_images=images, held_out=held_out)
    values = elbos(tmp_path)
    assert all(later > earlier for earlier, later in zip(values, values[2:], strict=False))
    # Better than the best model that ignores the image: each pixel is normal around its mean.
    blind = Normal(images.pixels.mean(0), noise).log_prob(held_out.pixels).sum((1, 2, 3)).mean()
    assert values[-1] > float(blind)


def test_beta_weighs_the_kl_term(tmp_path: Path) -> None:
    kls = []
    for beta in (0.0, 1.0, 30.0):
        model = small_model(family="plain", spread="log_variance", beta=beta)
        vae = run(tmp_path / str(beta), model, replace(TRAINING, batch_size=20, learning_rate=1e-2))
        posterior = vae.encode(held_out_digits().pixels)
        kls.append(float(kl_to_prior(posterior.mean, posterior.std).mean().detach()))
    assert kls[0] > 2 * kls[1] > 4 * kls[2]


def test_the_learning_rate_falls_along_a_cosine(tmp_path: Path) -> None:
    rates: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"]))
    try:
        run(tmp_path, small_model(family="plain"))
    finally:
        handle.remove()
    steps = 3 * math.ceil(200 / 64)
    assert rates == pytest.approx([5e-3 * math.cos(math.pi / 2 * step / steps) for step in range(steps)])


def test_each_epoch_takes_every_image_once_in_an_order_and_with_noise_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(vae: GaussianVAE, images: Tensor, noise: Tensor, options: ModelOptions) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            seen.append((images.flatten(1), noise))
        return elbo(vae, images, noise, options)

    monkeypatch.setattr(module, "elbo", watched)
    run(tmp_path, small_model(family="plain"))
    images, noise = (torch.cat(parts).unflatten(0, (3, 200)) for parts in zip(*seen, strict=True))
    given = sorted(training_digits().pixels.flatten(1).tolist())
    assert [sorted(epoch) for epoch in images.tolist()] == [given] * 3
    for part in (images, noise):
        assert not any(torch.equal(part[one], part[other]) for one, other in ((0, 1), (1, 2), (0, 2)))


def test_history_has_one_entry_per_epoch(undisturbed: Path) -> None:
    entries = history(undisturbed)
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert all(math.isfinite(entry["held_out_elbo"]) and entry["time_s"] > 0 for entry in entries)
    last = evaluate_elbo(load_vae(undisturbed), held_out_digits().pixels, MODEL, TRAINING.batch_size)
    assert last == pytest.approx(entries[-1]["held_out_elbo"], rel=1e-6)


def test_the_configuration_says_what_was_trained_on_what(undisturbed: Path) -> None:
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["training"] == {"epochs": 3, "batch_size": 64, "learning_rate": 5e-3, "seed": 3}
    for part, images in (("data", training_digits()), ("held_out", held_out_digits())):
        assert config[part] == {"name": images.name, "sha256": images.sha256}


@pytest.mark.parametrize("family", ["lipschitz", "plain"])
def test_the_model_is_frozen_and_evaluates_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    images, trained = held_out_digits().pixels, []

    def weights(vae: nn.Module) -> list[Tensor]:
        return [layer.weight.detach() for layer in vae.modules() if isinstance(layer, nn.Linear)]

    def outputs(vae: nn.Module) -> list[Tensor]:
        posterior = vae.encode(images)  # type: ignore[operator]
        return [posterior.mean, posterior.std, vae.decode(posterior.mean)]  # type: ignore[operator]

    def watched(vae: nn.Module) -> None:
        trained.extend([weights(vae), outputs(vae)])
        remove_parametrizations(vae)

    monkeypatch.setattr(module, "remove_parametrizations", watched)
    vae = run(tmp_path, small_model(family=family, spread="bounded"))
    assert not any(part.training or is_parametrized(part) for part in vae.modules())
    assert all(torch.equal(one, other) for one, other in zip(trained[0], weights(vae), strict=True))
    for one, other in zip(trained[1], outputs(vae), strict=True):
        assert torch.equal(one, other)


# --- it can be repeated ---


def test_one_seed_gives_the_same_bits_whatever_the_callers_seed(tmp_path: Path, undisturbed: Path) -> None:
    torch.manual_seed(12345)
    again = run(tmp_path)
    assert fingerprint(again) == fingerprint(load_vae(undisturbed))
    assert elbos(tmp_path) == elbos(undisturbed)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()


def test_another_seed_gives_another_model(tmp_path: Path, undisturbed: Path) -> None:
    other, first = run(tmp_path, training=replace(TRAINING, seed=4)).state_dict(), load_vae(undisturbed).state_dict()
    assert other.keys() == first.keys()
    assert not any(torch.equal(other[name], first[name]) for name in first)


def test_the_callers_random_numbers_are_kept(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(tmp_path, training=replace(TRAINING, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


# --- it can be interrupted ---


def fail_at(call: int, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Make a function that throws at its `call`-th call, before or after it has done its work."""
    calls = iter(range(call + 1))

    def failing(*args: Any) -> Any:
        last = next(calls) == call
        if last and not after:
            raise Stopped
        result = function(*args)
        if last:
            raise Stopped
        return result

    return failing


def assert_as_undisturbed(folder: Path, vae: GaussianVAE, undisturbed: Path) -> None:
    assert fingerprint(vae) == fingerprint(load_vae(folder)) == fingerprint(load_vae(undisturbed))
    assert elbos(folder) == elbos(undisturbed)
    assert contents(folder).keys() == contents(undisturbed).keys()


def interrupt(
    monkeypatch: pytest.MonkeyPatch, folder: Path, device: str = "cpu", **functions: Callable[..., Any]
) -> None:
    """Start a run that is stopped by one of these functions in the place of the module's."""
    with monkeypatch.context() as patch:
        for name, function in functions.items():
            patch.setattr(module, name, function)
        with pytest.raises(Stopped):
            run(folder, device=device)


@pytest.mark.parametrize("part", ["_run_epoch", "evaluate_elbo"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_epoch_leaves_no_trace(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, part: str
) -> None:
    interrupt(monkeypatch, tmp_path, **{part: fail_at(epoch, getattr(module, part), after=True)})
    assert (elbos(tmp_path) if epoch else []) == elbos(undisturbed)[:epoch]
    assert not (tmp_path / "config.json").exists()
    assert_as_undisturbed(tmp_path, run(tmp_path), undisturbed)


@pytest.mark.parametrize("write", range(6))
def test_a_run_may_stop_before_any_of_its_writes(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """Each epoch writes the history and the state."""
    interrupt(monkeypatch, tmp_path, write_atomic=fail_at(write, write_atomic, after=False))
    assert_as_undisturbed(tmp_path, run(tmp_path), undisturbed)


def test_a_run_may_stop_again_and_again(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in range(2):
        interrupt(monkeypatch, tmp_path, _run_epoch=fail_at(1, module._run_epoch, after=False))
        assert len(history(tmp_path)) == epoch + 1
    interrupt(monkeypatch, tmp_path, save_vae=fail_at(0, module.save_vae, after=False))
    assert len(history(tmp_path)) == 3
    assert_as_undisturbed(tmp_path, run(tmp_path), undisturbed)


def test_a_finished_run_is_given_at_once(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(undisturbed)
    monkeypatch.setattr(module, "_run_epoch", fail_at(0, module._run_epoch, after=False))
    assert fingerprint(run(undisturbed)) == fingerprint(load_vae(undisturbed))
    assert contents(undisturbed) == before


# --- it refuses ---


@pytest.mark.parametrize(
    ("changed", "key", "trained", "wanted"),
    [
        ({"model": replace(MODEL, a=5.0)}, "a", "4.0", "5.0"),
        ({"model": replace(MODEL, hidden=(8, 8))}, "hidden", "[8, 6]", "[8, 8]"),
        ({"training": replace(TRAINING, seed=4)}, "seed", "3", "4"),
        ({"training": replace(TRAINING, epochs=4)}, "epochs", "3", "4"),
        ({"training": replace(TRAINING, learning_rate=1e-3)}, "learning-rate", "0.005", "0.001"),
        ({"name": "other"}, "name", "'digits'", "'other'"),
        ({"training_images": training_digits(199)}, "data sha256", SHA256, SHA256),
        ({"held_out": held_out_digits(59)}, "held-out sha256", SHA256, SHA256),
    ],
    ids=lambda value: value if isinstance(value, str) and value.islower() else "",
)
def test_another_run_in_the_same_folder_is_refused(
    undisturbed: Path, changed: dict[str, Any], key: str, trained: str, wanted: str
) -> None:
    before = contents(undisturbed)
    with pytest.raises(ValueError, match=r"^expected `") as refusal:
        run(undisturbed, **changed)
    remedy = f"choose another folder, or delete {undisturbed / 'training.safetensors'}"
    said = re.sub(r"'[0-9a-f]{64}'", SHA256, str(refusal.value))
    assert said == f"expected `{key}` {trained}, with which {undisturbed} was trained, got {wanted}: {remedy}"
    assert contents(undisturbed) == before


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "training.safetensors is not the state of a training run: 'identity'"),
        ({"identity": "{}"}, "expected `.+` None, with which .+ was trained, got .+"),
        ("text", "training.safetensors is not the state of a training run: .+"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path: Path, metadata: Any, message: str) -> None:
    path = tmp_path / "training.safetensors"
    if metadata == "text":
        path.write_text("no tensors in here, just text")
    else:
        save_file({"vae.weight": torch.zeros(1)}, path, metadata)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{message}$"):
        run(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("family", ["lipschitz", "plain", "conv"])
def test_a_diverged_run_says_so_and_writes_no_model(tmp_path: Path, family: str, likelihood: str) -> None:
    model = small_model(family=family, likelihood=likelihood)
    with pytest.raises(FloatingPointError, match=r"^training of digits diverged in epoch 1: lower the learning rate$"):
        run(tmp_path, model, replace(TRAINING, learning_rate=1e30))
    assert contents(tmp_path) == {}


def test_a_run_that_diverges_later_names_the_state_that_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*arguments: Any) -> None:
        if arguments[-1] == 1:
            raise FloatingPointError("in the second epoch")
        run_epoch(*arguments)

    run_epoch, state = module._run_epoch, tmp_path / "training.safetensors"
    monkeypatch.setattr(module, "_run_epoch", diverge)
    remedy = f"lower the learning rate, and choose another folder, or delete {state}"
    with pytest.raises(FloatingPointError, match=f"^training of digits diverged in epoch 2: {remedy}$"):
        run(tmp_path)
    monkeypatch.setattr(module, "_run_epoch", run_epoch)
    state.unlink()
    run(tmp_path, training=replace(TRAINING, learning_rate=1e-3))
    assert len(history(tmp_path)) == 3


def test_held_out_images_of_another_kind_are_refused_at_the_start(tmp_path: Path) -> None:
    digits = held_out_digits()
    with pytest.raises(ValueError, match="expected images of shape"):
        run(tmp_path, held_out=replace(digits, pixels=digits.pixels[..., :4]))
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\], got \[-1, 1\]"):
        run(tmp_path, held_out=replace(digits, pixels=2 * digits.pixels - 1))
    assert contents(tmp_path) == {}


# --- the held-out ELBO ---


@pytest.mark.parametrize("batch_size", [1, 7, 60, 100])
def test_the_held_out_elbo_counts_each_image_once(batch_size: int) -> None:
    """With a decoder that ignores the latent, its value does not depend on the noise."""
    vae, pixels = small_vae(family="plain", hidden=(), likelihood="gaussian"), held_out_digits().pixels
    options = small_model(likelihood="gaussian", beta=7.0)
    vae.decoder[0].weight.data.zero_()
    grey = vae.decode(torch.zeros(1, 3)).detach()
    posterior = vae.encode(pixels)
    likelihood = Normal(grey, 0.1).log_prob(pixels).sum((1, 2, 3)).mean()
    expected = float((likelihood - kl_to_prior(posterior.mean, posterior.std).mean()).detach())
    assert evaluate_elbo(vae, pixels, options, batch_size) == pytest.approx(expected, rel=1e-5)


def test_the_held_out_elbo_leaves_the_model_as_it_was() -> None:
    vae = small_vae().train()
    vae.decoder.eval()
    next(vae.parameters()).requires_grad_(False)
    before = [(part.training, [p.requires_grad for p in part.parameters()]) for part in vae.modules()]
    evaluate_elbo(vae, held_out_digits().pixels, MODEL)
    assert [(part.training, [p.requires_grad for p in part.parameters()]) for part in vae.modules()] == before


def test_a_held_out_elbo_that_is_no_number_is_refused() -> None:
    vae = small_vae(family="plain", spread="log_variance")
    vae.encoder[-1].bias.data[3:] = -1e4  # standard deviations of zero: an infinite KL term
    with pytest.raises(FloatingPointError, match=r"^expected a finite ELBO, got -inf$"):
        evaluate_elbo(vae, held_out_digits().pixels, MODEL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_resumes_and_keeps_the_callers_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.cuda.get_rng_state()
    interrupt(monkeypatch, tmp_path, device="cuda", _run_epoch=fail_at(1, module._run_epoch, after=True))
    vae = run(tmp_path, device="cuda")
    assert next(vae.parameters()).is_cuda
    assert len(history(tmp_path)) == 3
    assert fingerprint(load_vae(tmp_path)) == fingerprint(vae)
    assert torch.equal(torch.cuda.get_rng_state(), before)
