"""Thousands of random dense layers and convolutions, small enough to write out: no bound may be below the true norm.

The truth is a float64 SVD of the operator, made by applying the layer to the identity; its own rounding is allowed for.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from common import Target, finish, make_parser
from torch import nn

from vaerdict.lipschitz.norms.convolution import bound_convolution_norm, by_symbol
from vaerdict.lipschitz.norms.infinity import bound_inf_norm_of_convolution
from vaerdict.lipschitz.norms.placement import ConvolutionLayer, read_convolution
from vaerdict.lipschitz.norms.scaling import scale_back
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm

MODES = ("zeros", "zeros", "circular", "reflect", "replicate")
SVD_ERROR = 1e-13
EXPONENTS = (-30, -3, 0, 0, 0, 3, 30)


@dataclass
class Tally:
    """What was seen of one kind of bound."""

    trials: int = 0
    below: int = 0
    least: float = np.inf
    largest: float = 0.0
    within_two_percent: int = field(default=0)

    def add(self, bound: float, truth: float) -> None:
        """Count one trial."""
        ratio = bound / truth if truth > 0 else 1.0
        self.trials += 1
        self.below += bound < truth * (1 - SVD_ERROR)
        self.least, self.largest = min(self.least, ratio), max(self.largest, ratio)
        self.within_two_percent += ratio <= 1.02


def spoil(weight: torch.Tensor, random_: random.Random) -> None:
    """Make the weights hostile: zeros, rank one, ones, rows of very different sizes, equal singular values."""
    rows = weight.flatten(1)
    kind = random_.choice(("plain", "plain", "zeros", "rank one", "ones", "graded", "orthogonal"))
    if kind == "zeros":
        rows *= torch.rand_like(rows) < 0.3
    elif kind == "rank one":
        rows.copy_(torch.outer(rows[:, 0], rows[0]))
    elif kind == "ones":
        rows.fill_(1.0)
    elif kind == "graded":
        rows *= 10.0 ** torch.linspace(0, -12, len(rows)).unsqueeze(1)
    elif kind == "orthogonal" and len(rows) <= rows.shape[1]:
        rows.copy_(torch.linalg.qr(rows.T).Q.T)
    rows *= 10.0 ** random_.choice(EXPONENTS)


def dense_trial(random_: random.Random, tallies: dict[str, Tally]) -> None:
    """Try one matrix."""
    weight = torch.randn(random_.randint(1, 60), random_.randint(1, 60))
    spoil(weight, random_)
    truth = float(np.linalg.svd(weight.double().numpy(), compute_uv=False)[0])
    tallies["dense"].add(bound_spectral_norm(weight), truth)


def draw_layer(random_: random.Random) -> tuple[ConvolutionLayer, tuple[int, ...]]:
    """Draw a convolution and the shape of an image; torch may refuse the pair."""
    dimensions, groups = random_.choice((1, 2)), random_.choice((1, 1, 2, 3))

    def each(*choices: int) -> list[int]:
        return random_.choices(choices, k=dimensions)

    channels = groups * random_.randint(1, 3), groups * random_.randint(1, 3)
    stride, dilation = each(1, 1, 2, 3), each(1, 1, 2, 3)
    common = {"stride": stride, "padding": each(*range(5)), "dilation": dilation, "groups": groups, "bias": False}
    shape = (channels[0], *each(*range(1, 11 if dimensions == 2 else 40)))
    if random_.random() < 0.35:
        more = [random_.randrange(max(pair)) for pair in zip(stride, dilation, strict=True)]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dimensions - 1]
        return transposed(*channels, each(1, 2, 3, 4, 5), output_padding=more, **common), shape
    plain = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
    return plain(*channels, each(1, 2, 3, 4, 5), padding_mode=random_.choice(MODES), **common), shape


def operator(layer: ConvolutionLayer, shape: tuple[int, ...]) -> np.ndarray | None:
    """Write the operator out in float64, or give None where torch refuses the shape."""
    size = int(np.prod(shape))
    try:
        with torch.no_grad():
            return (
                layer.double()(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1).T.numpy()
            )
    except RuntimeError:
        return None


def convolution_trial(random_: random.Random, tallies: dict[str, Tally]) -> None:
    """Try one convolution, in every way that applies to it."""
    written = None
    while written is None or written.size == 0:
        layer, shape = draw_layer(random_)
        spoil(layer.weight.data, random_)
        written = operator(layer, shape)
    truth = float(np.linalg.svd(written, compute_uv=False)[0])
    tallies["convolution"].add(bound_convolution_norm(layer, shape)[0], truth)
    rows = float(np.abs(written).sum(1).max())
    tallies["convolution, L-infinity"].add(bound_inf_norm_of_convolution(layer, shape), rows)
    parts = read_convolution(layer, shape)
    if parts.mode in ("zeros", "circular"):
        bound = max(by_symbol(group, parts.axes, parts.mode)[0] for group in parts.weight)
        tallies[f"symbol, {parts.mode}"].add(scale_back(bound, parts.power), truth)
    wide = any(2 * p > d * (k - 1) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True))
    if parts.mode == "zeros" or (parts.mode == "circular" and not wide):
        tallies["size-free"].add(bound_convolution_norm(layer)[0], truth)


def main() -> None:
    """Run the trials, print and record what was seen."""
    options = make_parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random_, started = random.Random(0), time.perf_counter()
    names = ("dense", "convolution", "convolution, L-infinity", "symbol, zeros", "symbol, circular", "size-free")
    tallies = {name: Tally() for name in names}
    trials: dict[Callable[[random.Random, dict[str, Tally]], None], int] = {dense_trial: 1000, convolution_trial: 2000}
    for trial, count in trials.items():
        for _ in range(count // 20 if options.quick else count):
            trial(random_, tallies)
    print(f"{'bound':<24} {'trials':>6} {'below':>6} {'least ratio':>18} {'largest ratio':>14}")
    for name, tally in tallies.items():
        print(f"{name:<24} {tally.trials:>6} {tally.below:>6} {tally.least:>18.15f} {tally.largest:>14.9f}")
    below = sum(tally.below for tally in tallies.values())
    worst = max(tallies[name].largest for name in ("dense", "convolution"))
    targets = [
        Target(name="bounds below the true norm", wanted="0", measured=below, met=below == 0),
        Target(name="worst bound / true norm", wanted="<= 1.02", measured=worst, met=worst <= 1.02),
    ]
    seconds = time.perf_counter() - started
    finish("spectral_trials", options, targets, seconds=seconds, tallies={k: vars(v) for k, v in tallies.items()})


if __name__ == "__main__":
    main()
