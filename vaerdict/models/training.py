"""Training with Adam on the ELBO: seeded, resumable after each epoch, held-out ELBO logged in nats."""

import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from vaerdict.data import Images
from vaerdict.lipschitz import remove_parametrizations
from vaerdict.models.checkpoint import load_vae, save_vae
from vaerdict.models.gaussian import GaussianVAE
from vaerdict.models.networks import build_vae
from vaerdict.models.objective import elbo
from vaerdict.options import ModelOptions, TrainingOptions, require
from vaerdict.results import canonical_json, write_atomic
from vaerdict.vae import borrowed, check_images

_log = logging.getLogger(__name__)


def train(
    folder: Path,
    training_images: Images,
    held_out: Images,
    *,
    name: str,
    model: ModelOptions,
    training: TrainingOptions,
    device: str = "cpu",
) -> GaussianVAE:
    """Train a native VAE and write it to `folder`; go on from the last whole epoch where an earlier run stopped.

    Args:
        folder: gets `config.json`, `model.safetensors`, `history.json` (ELBO in nats per image and epoch) and
            `training.safetensors` (the state to go on from).
        training_images: what the model learns from.
        held_out: images on which the ELBO is logged.
        name: how tables call the model.
        model: architecture.
        training: how to train.
        device: torch device.

    Returns:
        The trained model, frozen, in evaluation mode, as `load_vae` reads it from the folder.

    Raises:
        ValueError: the folder holds a training run with another configuration (its number of epochs included: the
            learning rate follows it) or other data; the held-out images do not fit the model.
        FloatingPointError: the training diverged.
    """
    # The fork keeps the caller's random numbers as they are.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)  # torch.manual_seed would seed every GPU, too
        vae = build_vae(
            model,
            name=name,
            input_shape=tuple(training_images.pixels.shape[1:]),
            input_range=training_images.input_range,
        ).to(device)
    check_images(vae, held_out.pixels)
    optimiser = torch.optim.Adam(vae.parameters(), lr=training.learning_rate)
    sources = {"data": training_images, "held_out": held_out}
    facts = {part: {"name": images.name, "sha256": images.sha256} for part, images in sources.items()}
    facts["training"] = asdict(training)
    identity = canonical_json({"name": name, "model": asdict(model), **facts})
    state = folder / "training.safetensors"
    history = _resume(state, identity, vae, optimiser) if state.is_file() else []
    epochs = tqdm(range(len(history), training.epochs), desc=f"train {name}", unit="epoch", disable=None)
    for epoch in epochs:
        start = time.perf_counter()
        try:
            _run_epoch(vae, optimiser, training_images.pixels, model, training, epoch)
            held_out_elbo = evaluate_elbo(vae, held_out.pixels, model, training.batch_size)
        except FloatingPointError as error:
            remedy = f"lower the learning rate{f', and {_elsewhere(state)}' if state.is_file() else ''}"
            raise FloatingPointError(f"training of {name} diverged in epoch {epoch + 1}: {remedy}") from error
        history.append({"epoch": epoch + 1, "held_out_elbo": held_out_elbo, "time_s": time.perf_counter() - start})
        epochs.set_postfix(elbo=f"{held_out_elbo:.2f}")
        _log.info("%s: epoch %d, held-out ELBO %.3f nats", name, epoch + 1, held_out_elbo)
        # The state last: what is written before it is written again if the run stops in between.
        write_atomic(folder / "history.json", json.dumps(history, indent=2).encode())
        write_atomic(state, _pack(vae, optimiser, identity, history))
    remove_parametrizations(vae.eval())
    save_vae(folder, vae, model, facts)
    return load_vae(folder).to(device)


def evaluate_elbo(vae: GaussianVAE, pixels: Tensor, model: ModelOptions, batch_size: int = 256, seed: int = 0) -> float:
    """Give the mean ELBO in nats per image, one latent sample each, the KL term with weight 1 whatever `beta`.

    Raises:
        FloatingPointError: it is not finite.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    with borrowed(vae), torch.no_grad():
        for batch in pixels.split(batch_size):
            noise = torch.randn(len(batch), vae.latent, generator=generator).to(device)
            likelihood, kl = elbo(vae, batch.to(device), noise, model)
            total += float((likelihood - kl).double().sum())
    if not math.isfinite(total):
        raise FloatingPointError(f"expected a finite ELBO, got {total}")
    return total / len(pixels)


def _run_epoch(
    vae: GaussianVAE,
    optimiser: torch.optim.Adam,
    pixels: Tensor,
    model: ModelOptions,
    training: TrainingOptions,
    epoch: int,
) -> None:
    """Pass once over the images; all randomness comes from the seed and the epoch, so that resuming changes nothing."""
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
    order = torch.randperm(len(pixels), generator=generator).split(training.batch_size)
    total_steps = training.epochs * len(order)
    vae.train()
    for index, chosen in enumerate(tqdm(order, desc=f"epoch {epoch + 1}", leave=False, unit="step", disable=None)):
        progress = (epoch * len(order) + index) / total_steps
        optimiser.param_groups[0]["lr"] = training.learning_rate * math.cos(progress * math.pi / 2)
        noise = torch.randn(len(chosen), vae.latent, generator=generator).to(device)
        likelihood, kl = elbo(vae, pixels[chosen].to(device), noise, model)
        optimiser.zero_grad()
        (model.beta * kl - likelihood).mean().backward()
        optimiser.step()


def _pack(vae: GaussianVAE, optimiser: torch.optim.Adam, identity: str, history: list[dict[str, Any]]) -> bytes:
    """Put weights, Adam's moments and the history into one file, so that they always belong together."""
    moments = {
        f"adam.{index}.{name}": value.detach().cpu().contiguous()
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }
    weights = {f"vae.{name}": value.detach().cpu().contiguous() for name, value in vae.state_dict().items()}
    return save({**weights, **moments}, metadata={"identity": identity, "history": json.dumps(history)})


def _resume(state: Path, identity: str, vae: GaussianVAE, optimiser: torch.optim.Adam) -> list[dict[str, Any]]:
    """Load what `_pack` wrote; give the history."""
    try:
        with safe_open(state, framework="pt") as file:
            metadata = file.metadata() or {}
            trained = _flat(metadata["identity"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{state} is not the state of a training run: {error}") from None
    wanted = _flat(identity)
    for key in wanted | trained:
        what = f"`{key}` {trained.get(key)!r}, with which {state.parent} was trained"
        require(trained.get(key) == wanted.get(key), what, f"{wanted.get(key)!r}: {_elsewhere(state)}")
    vae.load_state_dict({name.removeprefix("vae."): t for name, t in tensors.items() if name.startswith("vae.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return json.loads(metadata["history"])


def _elsewhere(state: Path) -> str:
    return f"choose another folder, or delete {state}"


def _flat(identity: str) -> dict[str, Any]:
    """Give `model` and `training` by the names of their options, and the rest as `data sha256`."""
    flat = {}
    for part, facts in json.loads(identity).items():
        for key, value in facts.items() if isinstance(facts, dict) else [("", facts)]:
            flat[(key if part in ("model", "training") else f"{part} {key}").strip().replace("_", "-")] = value
    return flat
