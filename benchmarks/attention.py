"""An attack on the proved constants of attention: the Jacobian's norm, climbed from many starts, against the bounds.

Three layers: the map `m` itself (L2 attention with one head whose weights cancel), L2 attention with random weights,
and dot-product attention on the unit ball with `V = O = I` and `A` three times a permutation, so that tokens attend to
another direction than their own. A norm above a bound would refute its proof. Writes `docs/attention.png`.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from common import Target, finish, make_parser
from scipy.special import lambertw
from torch import Tensor, nn

from vaerdict.lipschitz.layers.attention import BallAttention, L2SelfAttention
from vaerdict.lipschitz.norms.attention import (
    bound_ball_attention,
    bound_l2_attention,
    bound_mean_shift,
    bound_mean_shift_published,
)
from vaerdict.reports.style import PALETTE, SINGLE, render, style

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "attention.png"
TOKENS, FEATURES, HEADS, LOGIT = (4, 16, 64, 256), 8, 2, 3.0
NOISES = (0.001, 0.01, 0.1, 0.3)


def starts(tokens: int, features: int, count: int) -> Tensor:
    """Take starts from each family in turn: clouds of all sizes, tokens alone beside crowds, lines, clusters, stars."""
    spread = math.sqrt(float(lambertw((tokens - 1) / math.e).real) + 1)
    families = itertools.cycle(
        [
            lambda: torch.randn(tokens, features) * 10 ** uniform(-1, 1) / math.sqrt(features),
            lambda: crowds(tokens, features, alone=1, sides=2) * spread * uniform(0.8, 1.2),
            lambda: crowds(tokens, features, alone=1, sides=1) * spread * uniform(0.8, 1.2),
            lambda: crowds(tokens, features, alone=max(1, int(tokens * uniform(0, 0.3))), sides=2) * spread,
            lambda: line(tokens, features) * uniform(0.5, 2),
            lambda: clusters(tokens, features) * spread * uniform(0.5, 1.2),
            lambda: star(tokens, features) * math.sqrt(math.log(tokens) * uniform(0.3, 0.8)),
        ]
    )
    noises = itertools.cycle(NOISES[:3] + NOISES[1:])  # of another period than the families
    return torch.stack([next(families)() + next(noises) * torch.randn(tokens, features) for _ in range(count)])


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def crowds(tokens: int, features: int, alone: int, sides: int) -> Tensor:
    points = torch.zeros(tokens, features)
    points[alone:, 0] = 1
    if sides == 2:
        points[alone : alone + (tokens - alone) // 2, 0] = -1
    return points


def line(tokens: int, features: int) -> Tensor:
    points = torch.zeros(tokens, features)
    points[:, 0] = torch.arange(tokens)
    return points


def clusters(tokens: int, features: int) -> Tensor:
    centres = nn.functional.normalize(torch.randn(max(2, int(tokens * uniform(0, 0.5))), features), dim=1)
    return centres[torch.randint(len(centres), (tokens,))]


def star(tokens: int, features: int) -> Tensor:
    points = nn.functional.normalize(torch.randn(tokens, features), dim=1)
    if tokens <= features:
        points = torch.linalg.qr(torch.randn(features, features)).Q[:tokens]
    points[: max(1, round(math.sqrt(tokens)))] = 0
    return points


def climb(layer: nn.Module, tokens: Tensor, steps: int) -> float:
    """Find a large norm of the Jacobian: power iteration in the direction, Adam (rate by size) in the tokens."""
    size = tokens.flatten(1).std(dim=1)[:, None, None]
    scaled = (tokens / size).requires_grad_()
    optimiser = torch.optim.Adam([scaled], lr=0.05)
    direction, best = torch.randn_like(tokens), 0.0
    for step in range(steps):
        direction = nn.functional.normalize(direction.flatten(1)).reshape(tokens.shape).requires_grad_()
        moved = torch.autograd.functional.jvp(layer, scaled * size, direction, create_graph=True)[1]
        norms = moved.flatten(1).norm(dim=1)
        best = max(best, float(norms.detach().max()))
        scaled.grad, direction = torch.autograd.grad(-norms.log().sum(), (scaled, direction))
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        if step >= 10:  # when the direction has settled
            optimiser.step()
    return best


def mean_shift(features: int) -> L2SelfAttention:
    """Make the layer that computes `m`: its weights cancel, and its bound is that of `m`."""
    layer = L2SelfAttention(features, 1)
    layer.query.data[0] = features**0.25 * torch.eye(features)
    layer.value.data[0] = layer.output.data = torch.eye(features)
    return layer


def turning_ball(features: int) -> BallAttention:
    """Make the layer in which the logit is `LOGIT` times a token's axis `f` with another's axis `f + 1`."""
    layer = BallAttention(features, 1, radius=1.0)
    layer.query.data[0] = math.sqrt(LOGIT) * features**0.25 * torch.eye(features)
    layer.key.data[0] = layer.query.data[0].roll(1, 0)
    layer.value.data[0] = layer.output.data = torch.eye(features)
    return layer


def ball_starts(tokens: int, features: int, count: int) -> Tensor:
    """Take starts as above, shrunk into the ball, and as many with a crowd that attends to one token, not itself."""
    points = starts(tokens, features, math.ceil(count / 2))
    drawn = torch.zeros(count // 2, tokens, features)
    drawn[:, 0, 1] = 0.95
    drawn[:, 1:, :2] = torch.tensor([math.sqrt(0.75), -0.5]) * torch.linspace(0, 0.95, count // 2)[:, None, None]
    drawn += 0.01 * torch.randn_like(drawn)
    return torch.cat([points / points.norm(dim=-1).amax(1)[:, None, None], drawn])


def published_l2(layer: L2SelfAttention, tokens: int) -> float:
    """Give the bound of Kim et al. (ICML 2021), with the fourth power that one token shows to be needed."""
    heads = norm(layer.query) ** 2 * norm(layer.value) / math.sqrt(layer.query.shape[-1])
    return bound_mean_shift_published(tokens) * float(heads.norm() * norm(layer.output))


def published_ball(layer: BallAttention, tokens: int) -> float:
    """Give the bound of Castin, Ablin and Peyre (ICML 2024), its heads combined as ours."""
    logit = norm(layer.query @ layer.key.mT) * layer.radius**2 / math.sqrt(layer.query.shape[-1])
    heads = math.sqrt(3) * norm(layer.value) * (logit**2 * (4 * tokens + 1) + tokens).sqrt()
    return float(heads.norm() * norm(layer.output))


def norm(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices.detach(), 2)


def rows(tokens: int, count: int, steps: int) -> Iterator[dict[str, Any]]:
    """Attack the three layers at one number of tokens; `m` in 2, in some, and in more dimensions than tokens."""
    for features, starting in ((2, count), (FEATURES, count), (tokens + 1, count // 4)):
        starting *= max(1, 16 // tokens)  # more where they cost nothing
        layer, points = mean_shift(features), starts(tokens, features, starting)
        yield row("mean shift", layer, points, steps, bound_l2_attention(layer, tokens), published_l2(layer, tokens))
    l2 = L2SelfAttention(FEATURES, HEADS)
    width = FEATURES // HEADS
    points = starts(tokens, width, count // 2) @ torch.linalg.pinv(l2.query.detach()[0] / width**0.25)
    yield row("l2", l2, points, steps, bound_l2_attention(l2, tokens), published_l2(l2, tokens))
    ball, points = turning_ball(FEATURES), ball_starts(tokens, FEATURES, count)
    yield row("ball", ball, points, steps, bound_ball_attention(ball, tokens), published_ball(ball, tokens))


def row(name: str, layer: nn.Module, points: Tensor, steps: int, bound: float, published: float) -> dict[str, Any]:
    """Attack one layer and report."""
    found = climb(layer, points, steps)
    tokens, features = points.shape[1:]
    print(
        f"{name:>10} {tokens:>6} {features:>8} {found:>9.4f} {bound:>9.4f} {published:>10.4f} {found / bound:>6.3f}",
        flush=True,
    )
    return {
        "layer": name, "tokens": tokens, "features": features, "starts": len(points), "steps": steps,
        "found": found, "bound": bound, "published": published, "found_over_bound": found / bound,
    }  # fmt: skip


def targets(table: list[dict[str, Any]]) -> list[Target]:
    """Ask that no norm found exceeds a bound, for each layer and number of tokens."""
    asked = []
    for name, tokens in dict.fromkeys((r["layer"], r["tokens"]) for r in table):
        group = [r for r in table if (r["layer"], r["tokens"]) == (name, tokens)]
        for kind in ("bound", "published"):
            worst = max(r["found"] / r[kind] for r in group)
            asked.append(
                Target(name=f"{name}, N = {tokens}, found / {kind}", wanted="<= 1", measured=worst, met=worst <= 1)
            )
    return asked


def figure(table: list[dict[str, Any]]) -> bytes:
    """Draw the constant of `m` against the number of tokens."""
    counts = list(dict.fromkeys(r["tokens"] for r in table))
    found = [max(r["found"] for r in table if r["layer"] == "mean shift" and r["tokens"] == n) for n in counts]
    grid = sorted({round(2 ** (k / 4)) for k in range(8, 41)})
    with style():
        drawing, axes = plt.subplots(figsize=(SINGLE, 2.3), layout="constrained")
        axes.loglog(
            grid, [bound_mean_shift_published(n) for n in grid], "--", color=PALETTE[1], label="bound, Kim et al."
        )
        axes.loglog(grid, [bound_mean_shift(n) for n in grid], color=PALETTE[0], label="bound, ours")
        axes.loglog(counts, found, "o", color=PALETTE[2], markersize=4, label="largest found by search")
        axes.set(xlabel="tokens $N$", ylabel="Lipschitz constant of $m$ ($L_2$)", xlim=(3.3, 1150), ylim=(1, 1000))
        axes.set_xticks([4, 16, 64, 256, 1024], ["4", "16", "64", "256", "1024"], minor=False)
        axes.minorticks_off()
        axes.legend(loc="upper left")
    content = render(drawing, "png")
    plt.close(drawing)
    return content


def main() -> None:
    """Attack, print the table, draw."""
    options = make_parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    count, steps = (12, 60) if options.quick else (50, 200)
    print(f"{'layer':>10} {'tokens':>6} {'features':>8} {'found':>9} {'bound':>9} {'published':>10} {'ratio':>6}")
    counts = TOKENS[:3] if options.quick else TOKENS
    table = [r for tokens in counts for r in rows(tokens, count, min(steps, 25600 // tokens))]
    if not options.quick:
        FIGURE.write_bytes(figure(table))
    finish("attention", options, targets(table), rows=table)


if __name__ == "__main__":
    main()
