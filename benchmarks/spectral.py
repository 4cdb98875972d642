"""Bound / true norm, and time, of the proved spectral norms and of what others compute for the same weights.

Dense layers from 32 x 32 to 2048 x 2048; convolutions with 3 x 3 and 5 x 5 kernels, 16 to 256 channels, 8 to 64 pixels.
The truth is a float64 SVD where the operator has at most 2048 rows or columns, else converged Lanczos iteration in
float64, which is from below (so those ratios are rounded up, if at all). A number below the truth bounds nothing.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Target, finish, make_parser
from scipy.sparse.linalg import LinearOperator, eigsh
from spectral_peers import ask_peers
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from vaerdict.lipschitz.norms.convolution import bound_convolution_norm
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm

DENSE = (
    (32, 32), (64, 128), (128, 128), (256, 256), (512, 256), (512, 512), (784, 512), (1024, 1024), (3072, 1024),
    (2048, 1024), (2048, 2048),
)  # fmt: skip
KERNELS, CHANNELS, PIXELS = (3, 5), (16, 64, 256), (8, 16, 32, 64)
WRITTEN_OUT = 2048
METHODS = ("ours", "svd", "torch", "gram", "torchlip", "orthogonium")
SLOW = 0.1
"""Seconds of the dense SVD from which a speed-up is asked for."""


@dataclass(frozen=True)
class Measured:
    """A number for a norm, its ratio to the truth, and the seconds it took."""

    ratio: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One layer: the truth and how it was found, and what every method gives."""

    name: str
    truth: float
    truth_by: str
    evidence: str
    methods: dict[str, Measured]


def timed(function: Callable[[], Any], repeats: int = 7) -> tuple[Any, float]:
    """Give the value and the shortest time; what takes seconds is not repeated."""
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - started)
        if best > 3.0:
            break
    return value, best


def by_torch(make: Callable[[], nn.Module], weight: Tensor) -> float:
    """Give the norm that torch's power iteration divides a layer by (for a kernel: of the matrix it is reshaped to)."""
    torch.manual_seed(0)
    layer = make()
    layer.weight = nn.Parameter(weight.clone())
    divided = parametrizations.spectral_norm(layer).eval().weight
    return float(weight.norm() / divided.detach().norm())


def by_gram_iteration(kernel: Tensor, steps: int) -> float:
    """Bound by Gram iteration with zero padding (Delattre et al., 2024), in float64 without the rounding.

    The kernel becomes its own correlation, `|K|` its square; the largest row sum of magnitudes bounds the last one.
    """
    power, logarithm = 1.0, 0.0
    for _ in range(steps):
        size = kernel.norm()
        kernel, logarithm = kernel / size, logarithm + math.log(size) / power
        swapped = kernel.transpose(0, 1)
        kernel, power = F.conv2d(swapped, swapped, padding=kernel.shape[-1] - 1), 2.0 * power
    return math.exp(logarithm) * float(kernel.abs().sum((1, 2, 3)).max()) ** (1.0 / power)


def svd_norm(matrix: np.ndarray) -> float:
    """Give the largest singular value by LAPACK."""
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def dense_row(shape: tuple[int, int], kind: str) -> tuple[Row, Tensor]:
    """Measure one dense layer."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    if kind == "semi-orthogonal":
        weight = torch.linalg.qr(weight).Q.contiguous()
    matrix = weight.double().numpy()
    truth, svd = timed(lambda: svd_norm(matrix))
    bound, seconds = timed(lambda: bound_spectral_norm(weight))
    estimate, torch_seconds = timed(lambda: by_torch(lambda: nn.Linear(shape[1], shape[0], bias=False), weight))
    methods = {
        "ours": Measured(bound / truth, seconds),
        "svd": Measured(1.0, svd),
        "torch": Measured(estimate / truth, torch_seconds),
    }
    return Row(f"dense {shape[0]}x{shape[1]} {kind}", truth, "svd", "verified Cholesky", methods), weight


def write_out(layer: nn.Conv2d, shape: tuple[int, ...]) -> np.ndarray:
    """Apply the layer to the identity in float64."""
    size = math.prod(shape)
    images = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        return F.conv2d(images, layer.weight.double(), padding=layer.padding).reshape(size, -1).numpy()


def lanczos_norm(layer: nn.Conv2d, shape: tuple[int, ...]) -> float:
    """Iterate with the layer and its adjoint in float64; from below."""
    weight = layer.weight.detach().double()

    def multiply(values: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, *shape)
        there = F.conv2d(images, weight, padding=layer.padding)
        return F.conv_transpose2d(there, weight, padding=layer.padding).reshape(-1).numpy()

    size = math.prod(shape)
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    return math.sqrt(eigsh(operator, 1, v0=start, tol=1e-7, return_eigenvectors=False)[0])


def convolution_row(taps: int, channels: int, pixels: int) -> tuple[Row, Tensor]:
    """Measure one convolution with its first weights, padded so that the image keeps its size."""
    torch.manual_seed(0)
    layer, shape = nn.Conv2d(channels, channels, taps, padding=taps // 2, bias=False), (channels, pixels, pixels)
    kernel = layer.weight.detach()
    (bound, evidence), seconds = timed(lambda: bound_convolution_norm(layer, shape))
    methods = {}
    if math.prod(shape) <= WRITTEN_OUT:
        matrix = write_out(layer, shape)
        truth, svd = timed(lambda: svd_norm(matrix))
        methods["svd"] = Measured(1.0, svd)
    else:
        truth = lanczos_norm(layer, shape)
    steps = 3 if channels <= 64 else 1
    gram, gram_seconds = timed(lambda: by_gram_iteration(kernel.double(), steps), 1)
    estimate, torch_seconds = timed(lambda: by_torch(lambda: nn.Conv2d(channels, channels, taps), kernel))
    methods |= {
        "ours": Measured(bound / truth, seconds),
        "torch": Measured(estimate / truth, torch_seconds),
        "gram": Measured(gram / truth, gram_seconds),
    }
    name = f"conv {taps}x{taps} {channels} ch {pixels} px"
    return Row(name, truth, "svd" if "svd" in methods else "lanczos", evidence, methods), kernel


def add_peers(rows: list[Row], answers: dict[str, Any]) -> None:
    """Add the peers' numbers to the rows."""
    for row in rows:
        for peer, number in answers.get("numbers", {}).get(row.name, {}).items():
            row.methods[peer] = Measured(number["value"] / row.truth, number["seconds"])


def peer_layers(folder: Path, answers: dict[str, Any]) -> dict[str, float]:
    """Measure the peers' layers that are meant to be 1-Lipschitz, and the grouped convolution."""
    norms = {}
    with np.load(folder / "layers.npz") as arrays:
        for name in arrays.files:
            weight = torch.from_numpy(arrays[name])
            if weight.ndim == 2:
                norms[name] = svd_norm(weight.double().numpy())
                continue
            groups = 4 if name == "grouped" else 1
            layer = nn.Conv2d(weight.shape[1] * groups, len(weight), weight.shape[2], padding=1, groups=groups)
            layer.weight.data = weight
            norms[name] = bound_convolution_norm(layer, (layer.in_channels, 8, 8))[0]
    norms["grouped, as orthogonium says"] = answers["groups"]
    return norms


def show(rows: list[Row]) -> None:
    """Print the ratios and the seconds."""
    print("bound / true norm, and seconds; a ratio below 1 is no bound")
    print(f"{'layer':<34}" + "".join(f"{method:>19}" for method in METHODS))
    for row in rows:
        cells = (row.methods.get(method) for method in METHODS)
        texts = (f"{cell.ratio:>10.6f} {cell.seconds:>7.3f}s" if cell else f"{'-':>19}" for cell in cells)
        print(f"{row.name:<34}" + "".join(texts) + f"  {row.evidence}, truth by {row.truth_by}")


def targets_of(rows: list[Row]) -> list[Target]:
    """Compare with what was asked for."""
    ratios = [row.methods["ours"].ratio for row in rows]
    gains = [
        row.methods["svd"].seconds / row.methods["ours"].seconds
        for row in rows
        if "svd" in row.methods and row.methods["svd"].seconds > SLOW
    ]
    worst, least, gain = max(ratios), min(ratios), min(gains, default=math.inf)
    return [
        Target(name="worst bound / true norm", wanted="<= 1.02", measured=worst, met=worst <= 1.02),
        Target(name="least bound / true norm", wanted=">= 1", measured=least, met=least >= 1 - 1e-13),
        Target(name="worst speed-up over the SVD above 0.1 s", wanted=">= 10", measured=gain, met=gain >= 10),
    ]


def main() -> None:
    """Measure, ask the peers, print the table."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--peers", type=Path, help="folder for the peers' environment, kept; else a temporary one")
    options = parser.parse_args()
    shapes = DENSE[:6] if options.quick else DENSE
    grid = [(3, 16, 8), (5, 16, 8)] if options.quick else [(k, c, n) for k in KERNELS for c in CHANNELS for n in PIXELS]
    measured = [dense_row(shape, kind) for shape in shapes for kind in ("random", "semi-orthogonal")]
    measured += [convolution_row(*case) for case in grid]
    rows = [row for row, _ in measured]
    peers: dict[str, Any] = {"reason": "not asked in a quick run"}
    if not options.quick:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.peers or Path(temporary)
            folder.mkdir(exist_ok=True)
            pixels = {row.name: int(row.name.split()[-2]) for row in rows if row.name.startswith("conv")}
            answers, reason = ask_peers(folder, {row.name: weight.numpy() for row, weight in measured}, pixels)
            add_peers(rows, answers)
            peers = {"norms": peer_layers(folder, answers)} if answers else {"reason": reason}
    show(rows)
    print("peers:", *(f"\n  {name}: {value}" for name, value in (peers.get("norms") or peers).items()))
    finish("spectral", options, targets_of(rows), rows=[asdict(row) for row in rows], peers=peers)


if __name__ == "__main__":
    main()
