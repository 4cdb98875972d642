"""How far above the truth the Lipschitz bounds of trained MNIST encoders and decoders are, method by method.

Four VAEs: dense and convolutional, constrained and plain. For the encoder's mean, the decoder, and one after the other:
the product of the layers' norms, the same with neighbouring linear layers as one matrix (the seam between encoder and
decoder too), the slope-restricted bounds (closed form, and with improved multipliers), local bounds on balls of three
radii (median over test images), and the best lower estimate. Needs an `mnist.npz` (`--mnist FILE`).
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import SHARED_DATA, Target, finish, make_parser
from torch import Tensor, nn

from vaerdict.data import load_images
from vaerdict.lipschitz import bound_lipschitz, bound_local_lipschitz, bound_slope_restricted, estimate_lipschitz
from vaerdict.lipschitz.chains.chain import dense_chain
from vaerdict.lipschitz.chains.multipliers import bound_product
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.models import GaussianVAE, load_vae, train
from vaerdict.options import ModelOptions, TrainingOptions

FAMILIES = ("lipschitz", "plain", "lipschitz_conv", "conv")
RADII = (0.05, 0.2, 0.8)
"""Of the balls: in pixel units for encoders, latent units for decoders."""
ROLES = ("encoder", "decoder", "reconstruction")
GLOBAL = ("product", "merged", "closed form", "multipliers")


def make_vae(folder: Path, archive: Path, family: str, quick: bool) -> GaussianVAE:
    """Train one model, or load it where an earlier run has left it."""
    if (folder / family / "model.safetensors").is_file():
        return load_vae(folder / family)
    data = f"npz:{archive}[{{split}}_images,{{split}}_labels]"
    images = load_images(data, split="train", limit=1000 if quick else 30000)
    hidden = (64, 64) if quick else (256, 256)
    model = ModelOptions(family=family, latent=10, hidden=hidden, a=5.0, b=1.0, std=0.1)  # type: ignore[arg-type]
    training = TrainingOptions(epochs=1 if quick else 6, batch_size=128, learning_rate=2e-3)
    held_out = load_images(data, split="test", limit=500)
    return train(folder / family, images, held_out, name=family, model=model, training=training)


def timed(compute: Callable[[], Any]) -> dict[str, float]:
    """Give a number and the seconds it took."""
    start = time.perf_counter()
    value = float(compute())
    return {"value": value, "seconds": time.perf_counter() - start}


def measure(module: nn.Module, centers: Tensor, steps: int, count: int) -> dict[str, Any]:
    """Measure every bound of one map, and the lower estimate; without multipliers and balls where the counts are 0."""
    shape = tuple(centers.shape[1:])
    facts: dict[str, Any] = {"product": timed(lambda: bound_lipschitz(module, shape))}
    chain = dense_chain(trace(module, shape))
    facts["merged"] = timed(lambda: bound_product(chain))
    if count:
        facts["closed form"] = timed(lambda: bound_slope_restricted(chain, steps=0))
        start = time.perf_counter()
        local = bound_local_lipschitz(module, centers[:count], torch.tensor(RADII), steps=0)
        facts["local_seconds_per_ball"] = (time.perf_counter() - start) / local.numel()
        facts["local"] = {f"{radius:g}": median(column.tolist()) for radius, column in zip(RADII, local.T, strict=True)}
    if steps:
        facts["multipliers"] = timed(lambda: bound_slope_restricted(chain, steps=steps))
    facts["lower"] = timed(lambda: estimate_lipschitz(module, centers[:32], steps=100))
    return facts


def maps_of(vae: GaussianVAE, images: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Give each map with the points at which it is looked at."""
    vae.requires_grad_(False)
    latents = vae.encode(images).mean
    return {
        "encoder": (vae.mean_map, images),
        "decoder": (vae.decoder_map, latents),
        "reconstruction": (nn.Sequential(vae.mean_map, vae.decoder_map), images),
    }


def best(facts: dict[str, Any]) -> float:
    """Give the smallest of the bounds that hold everywhere."""
    return min(facts[name]["value"] for name in GLOBAL if name in facts)


def show(name: str, facts: dict[str, Any]) -> None:
    """Print one map's line."""
    numbers = [facts.get(method, {}).get("value") for method in GLOBAL]
    numbers += [facts.get("local", {}).get(f"{radius:g}") for radius in RADII] + [facts["lower"]["value"]]
    print(f"{name:<30}" + "".join(f"{'-' if n is None else format(n, '.4g'):>12}" for n in numbers), flush=True)


def effort(family: str, role: str, quick: bool) -> tuple[int, int]:
    """Give the steps on the multipliers and the images for local bounds: layers of 3,136 units are slow as matrices."""
    if "conv" in family:
        return 0, 0 if role == "reconstruction" else 1
    return (20, 2) if quick else (200, 10)


def main() -> None:
    """Train, bound, compare."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--models", type=Path, help="folder of the trained models; a temporary one by default")
    parser.add_argument("--mnist", type=Path, default=SHARED_DATA / "mnist.npz", help="the archive with MNIST's arrays")
    options = parser.parse_args()
    if not options.mnist.is_file():
        print(f"lipschitz_nets: skipped, there is no {options.mnist}")
        return
    images = load_images(f"npz:{options.mnist}[test_images,test_labels]", limit=32).pixels
    families = FAMILIES[:2] if options.quick else FAMILIES
    print(f"{'':<30}" + "".join(f"{name:>12}" for name in (*GLOBAL, *(f"ball {r:g}" for r in RADII), "lower")))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for family in families:
            vae = make_vae(options.models or Path(temporary), options.mnist, family, options.quick)
            for role, (module, centers) in maps_of(vae, images).items():
                found[f"{family} {role}"] = facts = measure(module, centers, *effort(family, role, options.quick))
                show(f"{family} {role}", facts)
    constrained = [best(found[f"lipschitz {role}"]) / found[f"lipschitz {role}"]["lower"]["value"] for role in ROLES]
    plain = [facts for name, facts in found.items() if not name.startswith("lipschitz") and "local" in facts]
    tightened = [facts["product"]["value"] / best(facts) for facts in plain]
    near = [facts["product"]["value"] / facts["local"][f"{RADII[0]:g}"] for facts in plain]
    before, after = (
        median(bound(facts) / facts["lower"]["value"] for facts in found.values())
        for bound in (lambda facts: facts["product"]["value"], best)
    )
    beaten = sum(facts["lower"]["value"] > best(facts) for facts in found.values())
    targets = [
        Target(
            name="bound / lower, worst constrained dense net",
            wanted="<= 1.5",
            measured=max(constrained),
            met=max(constrained) <= 1.5,
        ),
        Target(
            name="product / global bound, least of plain nets",
            wanted=">= 3",
            measured=min(tightened),
            met=min(tightened) >= 3,
        ),
        Target(
            name=f"product / bound on balls of {RADII[0]}, least of plain nets",
            wanted=">= 3",
            measured=min(near),
            met=min(near) >= 3,
        ),
        Target(name="lower estimates above a bound", wanted="0", measured=beaten, met=beaten == 0),
    ]
    finish("lipschitz_nets", options, targets, median_ratio={"product": before, "tightest": after}, maps=found)


if __name__ == "__main__":
    main()
