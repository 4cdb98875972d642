"""Certificates against attacks, at scale: no input change within a certified radius may do what was ruled out.

Many small random VAEs, of families that include the ones in which certificates are exact. Every method certifies every
image; gradient attacks then start inside the largest certified radius of each strength, without any clipping of pixels,
and a judge counts on fresh draws. A certificate is beaten when the upper confidence bound of `P(|Delta| <= r)` at a
change of at most the certified size is at most `p`. Both sides are right with confidence 1 - 1e-9 each time.

A control makes the constants of decoder and mean 10 % too small: there the attacks must win.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaerdict.attacks.evaluate import bound_probability, size_up
from vaerdict.certify import ModelBounds, certify
from vaerdict.certify.hierarchical import HierarchicalVAE, certify_hierarchical
from vaerdict.lipschitz import MaxMin, bound_lipschitz, lipschitz_linear
from vaerdict.lipschitz.layers.freezing import remove_parametrizations
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions, Norm, Reconstruction
from vaerdict.vae import Posterior, borrowed

FAMILIES = ("linear", "isotropic", "maxmin", "relu", "tanh", "step", "hierarchical")
SPREADS = ("constant", "shared", "bounded", "log_variance")
CONFIDENCE = 1 - 1e-9
OBJECTIVES = 3
SHRUNK = 0.9
QUICK_CASES = 8


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is certified and attacked per model."""

    images: int = 128
    samples: int = 2000
    restarts: int = 6
    steps: int = 40
    draws: int = 4
    selection: int = 300
    verdicts: tuple[int, ...] = (1000, 20_000, 200_000)
    judged: tuple[int, ...] = (10**9, 48, 4)
    """Most changes that get so many draws: the ones that looked most dangerous on the fewer draws before."""


# --- models and questions ---


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and one question about it; everything else follows from the seed."""

    seed: int
    family: str = "relu"
    spread: str = "constant"
    norm: Norm = "2"
    reconstruction: Reconstruction = "sampled"
    p: float = 0.5
    local: bool = True
    propagation: bool = False

    @property
    def options(self) -> CertifyOptions:
        """Give the options of the certificates, but for the number of draws."""
        return CertifyOptions(
            norm=self.norm,
            reconstruction=self.reconstruction,
            local=self.local,
            propagation=self.propagation,
            confidence=CONFIDENCE,
        )


def draw_case(seed: int) -> Case:
    """Draw a family, a spread and a question."""
    rng = np.random.default_rng([seed, 1])
    family = str(rng.choice(FAMILIES, p=[0.15, 0.2, 0.15, 0.15, 0.1, 0.15, 0.1]))
    kinds, norms = (("sampled", "anchored"), ("2",)) if family == "hierarchical" else (
        ("sampled", "sampled", "anchored", "mean"), ("2", "2", "inf"))  # fmt: skip
    spread = str(rng.choice(SPREADS))
    return Case(
        seed=seed,
        family=family,
        spread=spread,
        norm=str(rng.choice(norms)),  # type: ignore[arg-type]
        reconstruction=str(rng.choice(kinds)),  # type: ignore[arg-type]
        p=float(rng.choice([0.5, 0.5, 0.7, 0.9])),
        local=bool(rng.random() < 0.6) or spread == "log_variance",  # which has no other bound of the spread
        propagation=bool(rng.random() < 0.04),
    )


@torch.no_grad()
def build(case: Case) -> Any:
    """Build the case's model."""
    with torch.random.fork_rng():
        torch.manual_seed(case.seed)
        rng = np.random.default_rng([case.seed, 2])
        pixels, hidden, latent = int(rng.integers(5, 13)), 2 * int(rng.integers(4, 9)), int(rng.integers(1, 6))
        if case.family == "hierarchical":
            return TwoLevels(pixels, hidden, latent, steps=bool(case.seed % 2))
        outputs = latent + {"constant": 0, "shared": 1}.get(case.spread, latent)
        gains = np.exp(rng.uniform(-1.0, 1.2, 2))
        encoder = _network(case.family, [pixels, hidden, outputs], float(gains[0]))
        decoder = _network(case.family, [latent, hidden, pixels], float(gains[1]))
        if case.family == "step":
            encoder = _network("isotropic", [pixels, outputs], float(gains[0]))
        last = encoder[-1]
        if case.spread != "constant" and not hasattr(last, "parametrizations"):
            with torch.no_grad():  # spreads that differ, and move less than means
                last.weight[latent:] *= float(rng.uniform(0.05, 0.7))
                last.bias[latent:] = torch.randn(outputs - latent) * float(rng.uniform(0.0, 1.5))
                if case.spread == "log_variance":
                    last.bias[latent:] -= 3.0
        vae = wrap(
            nn.Sequential(nn.Flatten(), *encoder),
            nn.Sequential(*decoder, nn.Unflatten(1, (1, 1, pixels))),
            input_shape=(1, 1, pixels),
            latent_shape=(latent,),
            spread="bounded" if case.spread == "shared" else case.spread,  # type: ignore[arg-type]
            std=None if case.spread == "log_variance" else float(rng.uniform(0.05, 0.4)),
            input_range=(0.0, 1.0) if case.seed % 3 == 0 else (-10.0, 10.0),
        )
        if case.family == "step":
            blank = vae.encode(torch.full((1, 1, 1, pixels), 0.5))
            vae.decoder = nn.Sequential(*_steps(blank, pixels, torch.randn(1, latent)), nn.Unflatten(1, (1, 1, pixels)))
        if case.seed % 2:
            remove_parametrizations(vae)  # otherwise rounding is not bounded, and nothing is called proved
        return vae.eval()


def _network(family: str, widths: list[int], gain: float) -> nn.Sequential:
    """Give a network whose constant is near the gain, or exactly it (`isotropic`)."""
    if family in ("linear", "isotropic"):
        layer = nn.Linear(widths[0], widths[-1])
        with torch.no_grad():
            if family == "isotropic":
                nn.init.orthogonal_(layer.weight)
            layer.weight *= gain
        return nn.Sequential(layer)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        if family == "maxmin":
            layers += [lipschitz_linear(inputs, outputs, math.sqrt(gain)), MaxMin()]
        else:
            layer = nn.Linear(inputs, outputs)
            with torch.no_grad():
                layer.weight *= 2 * math.sqrt(gain)
            layers += [layer, nn.ReLU() if family == "relu" else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _steps(posterior: Posterior, pixels: int, move: Tensor) -> nn.Sequential:
    """Give a decoder that jumps across a plane beside a posterior: a tight case where its constant is not needed.

    The plane is the one that tells the posterior best from one moved in the direction of `move`.
    """
    steep, out = nn.Linear(posterior.mean.shape[1], 1), nn.Linear(1, pixels)
    weight = move / posterior.std.square()
    weight = 20 * weight / (weight * posterior.std).norm()
    with torch.no_grad():
        steep.weight.copy_(weight)
        steep.bias.copy_(-(weight @ posterior.mean[0]) - 20 * (1 + 2 * torch.rand(1)))
        out.bias.zero_()
    return nn.Sequential(steep, nn.Tanh(), out)


class TwoLevels(nn.Module):
    """`z_1 ~ N(f(x), s_1^2)`, `z_2 ~ N(h(x) + 2 tanh(B z_1), s_2(z_1)^2)`; the decoder uses both."""

    def __init__(self, pixels: int, hidden: int, latent: int, steps: bool) -> None:
        super().__init__()
        self.name, self.levels = "two levels", (latent, 2)
        self.input_shape, self.input_range = (1, 1, pixels), (-10.0, 10.0)
        self.first = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, latent))
        self.second, self.between = nn.Linear(pixels, 2), nn.Linear(latent, 2)
        self.decoder = nn.Sequential(nn.Linear(latent + 2, hidden), nn.Tanh(), nn.Linear(hidden, pixels))
        self.stds = (0.4, 0.25)
        if steps:
            self._make_tight(pixels)

    def _make_tight(self, pixels: int) -> None:
        """Let both levels move with one direction of the image, and the decoder jump across where they do."""
        gains = [torch.randn(size, 1) * share for size, share in zip(self.levels, (1.0, 0.3), strict=True)]
        direction = nn.functional.normalize(torch.randn(1, pixels), dim=1)
        self.first = nn.Linear(pixels, self.levels[0])
        for layer, gain in zip((self.first, self.second), gains, strict=True):
            layer.weight.copy_(gain * direction)
        self.between.weight *= 0.1
        image = torch.full((1, 1, 1, pixels), 0.5)
        one = self.posterior(image, [])
        two = self.posterior(image, [one.mean])
        both = Posterior(torch.cat([one.mean, two.mean], 1), torch.cat([one.std, two.std], 1))
        self.decoder = _steps(both, pixels, torch.cat(gains).T)

    def posterior(self, images: Tensor, earlier: list[Tensor]) -> Posterior:
        """Give the posterior of the level after the earlier ones."""
        if not earlier:
            mean = self.first(images.flatten(1))
            return Posterior(mean, torch.full_like(mean, self.stds[0]))
        mean = self.second(images.flatten(1)) + 2 * self.between(earlier[0]).tanh()
        return Posterior(mean, (self.stds[1] * (1 + earlier[0][:, :1].sigmoid())).expand_as(mean))

    def decode(self, latents: list[Tensor]) -> Tensor:
        """Give the reconstructions of both levels' latents."""
        return self.decoder(torch.cat(list(latents), dim=1)).unflatten(1, self.input_shape)

    def whitened(self) -> list[float]:
        """Give the constants of both levels; what `z_1` adds to the second mean is the same for all images."""
        maps = zip((self.first, self.second), self.stds, strict=True)
        return [float(bound_lipschitz(one, self.input_shape[2:])) / std for one, std in maps]


# --- attacks ---


@dataclass(frozen=True)
class Game:
    """A model and the event that certificates rule out; images are `[n, ...]`, noise `[n, draws, 2, latent]`."""

    vae: GaussianVAE | TwoLevels
    r: float
    case: Case

    @property
    def latent(self) -> int:
        """Give how many numbers a draw takes."""
        return self.vae.latent if isinstance(self.vae, GaussianVAE) else sum(self.vae.levels)

    def noise(self, images: int, draws: int, generator: torch.Generator) -> Tensor:
        """Draw noise; one draw where nothing is random."""
        draws = 1 if self.case.reconstruction == "mean" else draws
        return torch.randn(images, draws, 2, self.latent, generator=generator)

    def means(self, images: Tensor) -> Tensor:
        """Give the latents without noise, in standard deviations."""
        if isinstance(self.vae, GaussianVAE):
            posterior = self.vae.encode(images)
            return posterior.mean / posterior.std.detach()
        first = self.vae.posterior(images, []).mean
        return torch.cat([first, self.vae.posterior(images, [first]).mean], dim=1)

    def reconstruct(self, images: Tensor, noise: Tensor) -> Tensor:
        """Give reconstructions `[n, draws, pixels]` from noise `[n, draws, latent]`."""
        draws = noise.shape[1]
        if isinstance(self.vae, GaussianVAE):
            posterior = self.vae.encode(images)
            latents = posterior.mean[:, None] + posterior.std[:, None] * noise
            return self.vae.decode(latents.flatten(0, 1)).reshape(len(images), draws, -1)
        images, drawn = images.repeat_interleave(draws, 0), []
        for part in noise.flatten(0, 1).split(list(self.vae.levels), dim=1):
            drawn.append(self.vae.posterior(images, drawn).sample(part))
        return self.vae.decode(drawn).reshape(-1, draws, images[0].numel())

    def change(self, clean: Tensor, moved: Tensor, noise: Tensor) -> Tensor:
        """Give `|Delta|`, `[n, draws]`, in float64."""
        after, before = noise[:, :, 0], noise[:, :, 1]
        if self.case.reconstruction == "mean":
            after = torch.zeros_like(after)
        if self.case.reconstruction != "sampled":
            before = torch.zeros_like(before[:, :1])
        return (self.reconstruct(moved, after).double() - self.reconstruct(clean, before).double()).norm(dim=2)

    @torch.no_grad()
    def within(self, clean: Tensor, moved: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Count, per image, the fresh draws that stay within `r`; draws of a deterministic change are all the same."""
        counts = torch.zeros(len(clean), dtype=torch.int64)
        at_once = max(1, 2**18 // len(clean))
        for start in range(0, draws, at_once):
            noise = self.noise(len(clean), min(at_once, draws - start), generator)
            counts += (self.change(clean, moved, noise) <= self.r).sum(1)
            if self.case.reconstruction == "mean":
                return draws * counts
        return counts

    def upper(self, counts: Tensor, draws: int) -> Tensor:
        """Bound the probability of staying within `r` from above."""
        if self.case.reconstruction == "mean":
            return counts.double() / draws
        return torch.from_numpy(bound_probability(counts.numpy(), draws, CONFIDENCE))


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def project(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Bring changes into their balls."""
    if norm == "inf":
        return delta.clamp(-_column(radius), _column(radius))
    return delta * _column((radius / delta.flatten(1).norm(dim=1).clamp(min=1e-30)).clamp(max=1.0))


def add(clean: Tensor, delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Give `clean + delta` in float32, still in the ball despite rounding (where that is larger than the rounding)."""
    ulps = 2.0**-23 * (clean.abs() + delta.abs()).flatten(1).amax(1)
    slack = ulps * (clean[0].numel() ** 0.5 if norm == "2" else 1.0)
    return clean + project(delta, (radius.float() * (1 - 1e-6) - slack).clamp(min=0.0), norm)


def climb(game: Game, clean: Tensor, radius: Tensor, effort: Effort, generator: torch.Generator) -> Tensor:
    """Ascend from random starts, a third each on the damage, on its probability, and on the move of the latents."""
    norm = game.case.norm
    radius = radius.float()
    delta = project(torch.randn(clean.shape, generator=generator) * _column(2 * radius), radius, norm)
    objective = torch.arange(len(clean)) % OBJECTIVES
    here = game.means(clean).detach()
    for k in range(effort.steps):
        delta = delta.detach().requires_grad_()
        change = game.change(clean, clean + delta, game.noise(len(clean), effort.draws, generator))
        values = (
            change.square().mean(1),
            torch.sigmoid((change / game.r - 1) * 8).mean(1),
            (game.means(clean + delta) - here).square().sum(1).double(),
        )
        (gradient,) = torch.autograd.grad(torch.stack(values).gather(0, objective[None]).sum(), delta)
        gradient = gradient / _column(gradient.flatten(1).abs().amax(1).clamp(min=1e-30))
        move = gradient.sign() if norm == "inf" else gradient / _column(gradient.flatten(1).norm(dim=1).clamp(min=0.1))
        length = radius * (1 + math.cos(math.pi * k / effort.steps)) / 2
        delta = project(delta.detach() + move * _column(length), radius, norm)
    return delta


class Attacked(NamedTuple):
    """The worst change found within each radius: which, its size, and whether the judge says that it succeeds."""

    delta: Tensor
    size: Tensor
    success: Tensor


def attack(game: Game, clean: Tensor, radius: Tensor, effort: Effort, seed: int) -> Attacked:
    """Attack each image within its radius; the judge's draws are fresh."""
    generator = torch.Generator().manual_seed(seed)
    norm, restarts = game.case.norm, effort.restarts
    many, radii = clean.repeat_interleave(restarts, 0), radius.repeat_interleave(restarts, 0)
    delta = climb(game, many, radii, effort, generator)
    with torch.no_grad():
        change = game.change(many, add(many, delta, radii, norm), game.noise(len(many), effort.selection, generator))
    score = (change <= game.r).double().mean(1) - 1e-3 * (change.mean(1) / game.r).tanh()
    best = score.reshape(-1, restarts).argmin(1) + torch.arange(len(clean)) * restarts
    delta = delta[best]
    moved = add(clean, delta, radius, norm)
    success = torch.zeros(len(clean), dtype=torch.bool)
    chosen = torch.arange(len(clean))
    for draws, most in zip(effort.verdicts, effort.judged, strict=True):
        chosen = chosen[:most]
        counts = game.within(clean[chosen], moved[chosen], draws, generator)
        success[chosen] |= game.upper(counts, draws) <= game.case.p
        order = counts.argsort()
        chosen = chosen[order][counts[order] <= (game.case.p + 0.05) * draws]
        if not len(chosen):
            break
    return Attacked(delta, size_up(moved, clean, norm), success)


def stretch(game: Game, clean: Tensor, delta: Tensor, draws: int, seed: int) -> Tensor:
    """Give the sizes of longer changes in the same directions that the judge accepts; infinite where he does not."""
    generator = torch.Generator().manual_seed(seed)
    noise, sure = game.noise(len(clean), draws // 4, generator), 7 * math.sqrt(0.25 / draws)
    low, high = torch.ones(len(clean)), torch.full((len(clean),), 32.0)
    for _ in range(12):
        middle = (low * high).sqrt()
        with torch.no_grad():
            share = (game.change(clean, clean + delta * _column(middle), noise) <= game.r).double().mean(1)
        enough = share <= game.case.p - (0 if game.case.reconstruction == "mean" else sure)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    moved = clean + delta * _column(high * (1 + 1e-4))
    accepted = game.upper(game.within(clean, moved, draws, generator), draws) <= game.case.p
    return torch.where(accepted, size_up(moved, clean, game.case.norm), math.inf)


# --- certificates against attacks ---


class Certificate(NamedTuple):
    """One certified margin of one image."""

    method: str
    strength: str
    image: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one case came to: certificates, those that were beaten, ratios of attacked to certified margins."""

    case: Case
    r: float
    certificates: list[Certificate]
    beaten: list[tuple[Certificate, float]]
    ratios: list[tuple[Certificate, float]]
    steps: int
    seconds: tuple[float, float]


def choose_r(vae: Any, case: Case, images: Tensor) -> float:
    """Choose a distance at which some methods certify: somewhat more than what the unmoved images' draws differ by.

    Where the decoder jumps it is half of the jump.
    """
    if getattr(vae.decoder[0], "out_features", 0) == 1:
        return float(vae.decoder[2].weight.norm())
    generator = torch.Generator().manual_seed(case.seed)
    game, moved = Game(vae, 1.0, case), images
    if case.reconstruction == "mean":
        moved = images + torch.randn(images.shape, generator=generator) * 0.1
    with torch.no_grad():
        typical = game.change(images, moved, game.noise(len(images), 200, generator)).quantile(0.95)
    return max(float(typical), 1e-3) * math.exp(np.random.default_rng([case.seed, 3]).uniform(0.05, 1.5))


def certificates_of(vae: Any, case: Case, images: Tensor, r: float, effort: Effort, shrunk: float) -> list[Certificate]:
    """Certify by every method; with `shrunk` below 1 the two constants of Lipschitz are made too small."""
    ask: dict[str, Any] = {"r": r, "p": case.p, "seed": case.seed}
    if isinstance(vae, HierarchicalVAE):
        results = certify_hierarchical(
            vae, images, whitened=vae.whitened(), reconstruction=case.reconstruction, samples=effort.samples,
            confidence=CONFIDENCE, **ask,
        )  # type: ignore[arg-type, attr-defined]  # fmt: skip
        return [
            Certificate("hierarchical", "statistical", i, one.margin) for i, one in enumerate(results) if one.margin
        ]
    options = replace(case.options, samples=effort.samples)
    with borrowed(vae):
        model = ModelBounds(vae, images[:1], options)
        if shrunk < 1:
            true = model.sensitivity
            false = {
                name: replace(getattr(true, name), value=shrunk * float(getattr(true, name)))
                for name in ("decoder", "mean")
            }
            vars(model)["sensitivity"] = replace(true, **false)
        rows = certify(vae, images, options=options, known=model, **ask)
    return [
        Certificate(row.method, row.strength, row.sample_id, row.margin)
        for row in rows
        if row.kind == "certificate" and row.status == "ok" and row.margin and row.margin > 0
    ]


def play(case: Case, effort: Effort, shrunk: float = 1.0) -> Outcome:
    """Certify and attack one case."""
    vae = build(case).requires_grad_(False)
    images = torch.rand(effort.images, *vae.input_shape, generator=torch.Generator().manual_seed(case.seed))
    r = choose_r(vae, case, images)
    began = time.perf_counter()
    found = certificates_of(vae, case, images, r, effort, shrunk)
    certified = time.perf_counter()
    best: dict[tuple[int, str], float] = defaultdict(float)
    for one in found:
        best[one.image, one.strength] = max(best[one.image, one.strength], one.margin)
    beaten, ratios = [], []
    if best:
        game, index = Game(vae, r, case), torch.tensor([image for image, _ in best])
        radius = torch.tensor(list(best.values()), dtype=torch.float64)
        result = attack(game, images[index], radius, effort, case.seed)
        sizes = torch.where(result.success, result.size, math.inf)
        longer = stretch(game, images[index], result.delta, 4 * effort.verdicts[0], case.seed + 1)
        least: dict[int, float] = defaultdict(lambda: math.inf)
        for image, size in zip(index.tolist(), torch.minimum(sizes, longer).tolist(), strict=True):
            least[image] = min(least[image], size)
        ratios = [(one, least[one.image] / one.margin) for one in found]
        beaten = [(one, least[one.image]) for one in found if least[one.image] <= one.margin]
    return Outcome(
        case=case, r=r, certificates=found, beaten=beaten, ratios=ratios,
        steps=len(best) * effort.restarts * effort.steps,
        seconds=(certified - began, time.perf_counter() - certified),
    )  # fmt: skip


def _finite(ratio: float) -> float | None:
    """Give None for no success at all, which JSON can hold."""
    return ratio if ratio < math.inf else None


def summarise(outcomes: list[Outcome], key: Any) -> dict[str, dict[str, float | None]]:
    """Give, per value of `key(case, certificate)`, how many certificates there were and how close attacks came."""
    groups: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for one, ratio in outcome.ratios:
            groups[str(key(outcome.case, one))].append(ratio)
    return {
        name: {
            "certificates": len(ratios),
            "beaten": sum(ratio <= 1 for ratio in ratios),
            "least attacked / certified": _finite(min(ratios)),
            "median attacked / certified": _finite(median(ratios)),
        }
        for name, ratios in sorted(groups.items())
    }


KEYS = {
    "methods": lambda case, one: one.method,
    "families": lambda case, one: case.family,
    "spreads": lambda case, one: "two levels" if case.family == "hierarchical" else case.spread,
    "norms": lambda case, one: case.norm,
    "reconstructions": lambda case, one: case.reconstruction,
    "levels": lambda case, one: case.p,
    "strengths": lambda case, one: one.strength,
}


def play_all(cases: int, effort: Effort, quick: bool) -> Iterator[Outcome]:
    """Play the cases of the seeds 0, 1, 2, ... and say how it goes."""
    began = time.perf_counter()
    for seed in range(cases):
        outcome = play(draw_case(seed), effort)
        if seed % 20 == 0 or quick or outcome.beaten:
            counts = f"certificates {len(outcome.certificates)} beaten {outcome.beaten}"
            print(f"{time.perf_counter() - began:.0f} s {outcome.case} {counts}", flush=True)
        yield outcome


def main() -> None:
    """Play, count, and hold the counts against the targets."""
    from common import Target, finish, make_parser  # beside this file, which the tests import from elsewhere

    torch.set_num_threads(1)
    parser = make_parser(__doc__ or "")
    parser.add_argument("--cases", type=int, default=330, help="models, of seeds 0, 1, 2, ...")
    options = parser.parse_args()
    effort = Effort(images=16, steps=20, verdicts=(1000, 20_000), judged=(10**9, 8)) if options.quick else Effort()
    began = time.perf_counter()
    outcomes = list(play_all(QUICK_CASES if options.quick else options.cases, effort, options.quick))
    seconds = time.perf_counter() - began
    few = replace(effort, images=16)
    control = [
        play(Case(seed=seed, family="isotropic", spread="constant", reconstruction=kind, local=False), few, SHRUNK)
        for seed in range(2 if options.quick else 10)
        for kind in ("sampled", "anchored", "mean")
    ]
    beaten = [
        {**asdict(outcome.case), **one._asdict(), "r": outcome.r, "attacked": size}
        for outcome in outcomes
        for one, size in outcome.beaten
    ]
    certificates, steps = (
        sum(counts) for counts in zip(*((len(o.certificates), o.steps) for o in outcomes), strict=True)
    )
    caught = Counter(one.method for outcome in control for one, _ in outcome.beaten)
    enough = (1, 1) if options.quick else (10**5, 10**7)
    targets = [
        Target(name="certificates", wanted=f">= {enough[0]:g}", measured=certificates, met=certificates >= enough[0]),
        Target(name="attack steps", wanted=f">= {enough[1]:g}", measured=steps, met=steps >= enough[1]),
        Target(name="beaten", wanted="0", measured=len(beaten), met=not beaten),
        Target(name="false ones caught in the control", wanted=">= 1", measured=caught.total(), met=bool(caught)),
    ]
    groups = {name: summarise(outcomes, key) for name, key in KEYS.items()}
    for name, facts in groups["methods"].items():
        print(f"{name:<14}", *(f"{key} {value and round(value, 4)}  " for key, value in facts.items()))
    finish(
        "never_beaten", options, targets, **groups, models=len(outcomes), images=effort.images * len(outcomes),
        seeds=f"0 to {len(outcomes) - 1}", effort=asdict(effort), beaten=beaten,
        seconds={"all": seconds, "certify": sum(o.seconds[0] for o in outcomes)},
        control={
            "share of the true constants": SHRUNK,
            "certificates": sum(len(outcome.certificates) for outcome in control),
            "beaten": dict(caught),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
