"""Four 1-Lipschitz convolutions, AOL, SLL, CPL and SOC, in the same nets with the same processor time on one core.

A classifier (accuracy, and accuracy certified at an L2 distance of 36/255) and an autoencoder (squared error).
Only the blocks differ: down- and up-sampling are orthogonal patches of the package, the last layer is semi-orthogonal.
The learning rate is chosen per method by short runs on held-out training images. Needs `cifar10_subset.npz`.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import SHARED_DATA, Target, finish, make_parser
from layer_candidates import AOL, CPL, SLL, SOC
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vaerdict.lipschitz.layers import lipschitz_conv2d, lipschitz_conv_transpose2d, lipschitz_linear
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm

CHOSEN = "SLL"
METHODS: dict[str, Callable[[int], nn.Module]] = {"AOL": AOL, "SLL": SLL, "CPL": CPL, "SOC": SOC}
STAGES = ((16, 16), (32, 8), (64, 4))  # channels, pixels a side
RADIUS = 36 / 255
LATENT = 64


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Seconds of processor time for one training run; those that choose the learning rate get a share of it."""

    classifier: float = 40.0
    autoencoder: float = 20.0
    pilot_share: float = 1 / 6
    seeds: int = 2
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 5e-3)


@dataclass(frozen=True)
class Split:
    """Images `[n, 3, 32, 32]` in [0, 1] less their mean, and labels."""

    images: Tensor
    labels: Tensor


def load(archive: Path) -> tuple[Split, Split]:
    """Read the training and the test images."""
    with np.load(archive) as arrays:
        pixels = [
            torch.tensor(arrays[f"{part}_images"]).permute(0, 3, 1, 2).float() / 255 for part in ("train", "test")
        ]
        labels = [torch.tensor(arrays[f"{part}_labels"]).long() for part in ("train", "test")]
    train, test = (Split((one - 0.47).contiguous(), label) for one, label in zip(pixels, labels, strict=True))
    return train, test


def encoder(method: str, blocks: int) -> list[nn.Module]:
    """Halve the image three times; blocks of the method after each."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), lipschitz_conv2d(12, STAGES[0][0], 1)]
    for index, (channels, _) in enumerate(STAGES):
        if index:
            layers.append(lipschitz_conv2d(STAGES[index - 1][0], channels, 2, stride=2))
        layers += [METHODS[method](channels) for _ in range(blocks)]
    return layers


def decoder(method: str) -> list[nn.Module]:
    """Mirror the encoder, with one block at each size."""
    layers: list[nn.Module] = []
    for index in reversed(range(len(STAGES))):
        layers.append(METHODS[method](STAGES[index][0]))
        if index:
            layers.append(lipschitz_conv_transpose2d(STAGES[index][0], STAGES[index - 1][0], 2, stride=2))
    return [*layers, lipschitz_conv_transpose2d(STAGES[0][0], 12, 1), nn.PixelShuffle(2)]


def make_net(method: str, task: str, seed: int) -> nn.Sequential:
    """Build the classifier or the autoencoder."""
    torch.manual_seed(seed)
    channels, side = STAGES[-1]
    features = channels * side * side
    if task == "classifier":
        return nn.Sequential(*encoder(method, 2), nn.Flatten(), lipschitz_linear(features, 10))
    narrow = [nn.Flatten(), lipschitz_linear(features, LATENT), lipschitz_linear(LATENT, features)]
    return nn.Sequential(*encoder(method, 1), *narrow, nn.Unflatten(1, (channels, side, side)), *decoder(method))


def loss_of(task: str, outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy after the true class has given up the margin of twice the radius; or the squared error."""
    if task == "autoencoder":
        return (outputs - images).square().flatten(1).sum(1).mean()
    margin = 2 * math.sqrt(2) * RADIUS * F.one_hot(labels, 10)
    return F.cross_entropy(4 * (outputs - margin), labels)


def train(net: nn.Sequential, task: str, data: Split, rate: float, seconds: float) -> int:
    """Train until the processor time is used up, the rate falling to 0; give the number of epochs."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    start, epochs = time.process_time(), 0
    net.train()
    while True:
        for batch in torch.randperm(len(data.labels), generator=generator).split(100):
            used = (time.process_time() - start) / seconds
            if used >= 1:
                return epochs
            optimiser.param_groups[0]["lr"] = rate * (1 - used)
            images = data.images[batch].flip(3) if torch.rand((), generator=generator) < 0.5 else data.images[batch]
            optimiser.zero_grad()
            loss_of(task, net(images), images, data.labels[batch]).backward()
            optimiser.step()
        epochs += 1


def proved_norms(net: nn.Sequential) -> dict[str, float]:
    """Bound every layer with weights."""
    norms = {}
    for path, layer in net.named_children():
        if hasattr(layer, "proved_norm"):
            norms[f"{path} {type(layer).__name__}"] = layer.proved_norm()
        elif hasattr(layer, "weight"):
            norms[f"{path} orthogonal"] = bound_spectral_norm(layer.weight.flatten(1))
    return norms


@torch.no_grad()
def judge(net: nn.Sequential, task: str, data: Split, prove: bool = True) -> dict[str, float]:
    """Measure on images that were not trained on; certify with the proved constant of the net."""
    net.eval()
    norms = proved_norms(net) if prove else {"": 1.0}
    constant = math.prod(norms.values())
    outputs = torch.cat([net(part) for part in data.images.split(500)])
    largest = {"largest_norm": max(norms.values()), "constant": constant}
    if task == "autoencoder":
        return {"error": float((outputs - data.images).square().mean())} | largest
    best, second = outputs.topk(2).values.unbind(1)
    right = outputs.argmax(1) == data.labels
    robust = right & (best - second > math.sqrt(2) * constant * RADIUS)
    return {"accuracy": float(right.double().mean()), "certified": float(robust.double().mean())} | largest


def choose_rate(method: str, task: str, data: Split, budget: Budget) -> float:
    """Try every rate for a short time; judge by held-out training images."""
    held, kept = Split(data.images[:1000], data.labels[:1000]), Split(data.images[1000:], data.labels[1000:])
    found = {}
    for rate in budget.rates if len(budget.rates) > 1 else ():
        net = make_net(method, task, 0)
        train(net, task, kept, rate, budget.pilot_share * getattr(budget, task))
        facts = judge(net, task, held, prove=False)
        found[rate] = facts["certified"] + facts["accuracy"] if task == "classifier" else -facts["error"]
    return max(budget.rates, key=lambda rate: found.get(rate, 0.0))


def measure(method: str, task: str, train_data: Split, test: Split, budget: Budget) -> list[dict[str, float]]:
    """Run all seeds of one method."""
    rate = choose_rate(method, task, train_data, budget)
    seconds = getattr(budget, task)
    rows = []
    for seed in range(budget.seeds if task == "classifier" else 1):
        net = make_net(method, task, seed + 1)
        epochs = train(net, task, train_data, rate, seconds)
        rows.append(judge(net, task, test) | {"seed": seed, "rate": rate, "epochs": epochs, "seconds": seconds})
        print(method, task, {name: round(value, 7) for name, value in rows[-1].items()}, flush=True)
    return rows


def main() -> None:
    """Measure all methods and compare the chosen one with the best."""
    options = make_parser(__doc__ or "").parse_args()
    archive = SHARED_DATA / "cifar10_subset.npz"
    if not archive.is_file():
        print(f"layers: skipped, no {archive.name} in the shared data")
        return
    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy, for the proofs
    budget = Budget(classifier=2, autoencoder=1, seeds=1, rates=(2e-3,)) if options.quick else Budget()
    train_data, test = load(archive)
    if options.quick:
        test = Split(test.images[:200], test.labels[:200])
    tables = {
        task: {method: measure(method, task, train_data, test, budget) for method in METHODS}
        for task in ("classifier", "autoencoder")
    }
    accuracy = {
        method: statistics.mean(row["accuracy"] for row in rows) for method, rows in tables["classifier"].items()
    }
    noise = 2 * math.sqrt(2 * 0.5 * 0.5 / (len(test.labels) * budget.seeds))  # two standard errors of a difference
    behind = max(accuracy.values()) - accuracy[CHOSEN]
    largest = max(row["largest_norm"] for table in tables.values() for rows in table.values() for row in rows)
    targets = [
        Target(
            name=f"accuracy of {CHOSEN} behind the best", wanted=f"<= {noise:.3f}", measured=behind, met=behind <= noise
        ),
        Target(name="largest proved norm", wanted="<= 1 + 1e-6", measured=largest, met=largest <= 1 + 1e-6),
    ]
    finish("layers", options, targets, minutes=budget.classifier / 60, **tables)


if __name__ == "__main__":
    main()
