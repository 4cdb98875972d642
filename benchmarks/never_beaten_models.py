"""The models: small random VAEs, of families that include the ones in which certificates are exact."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from never_beaten_cases import Case
from torch import Tensor, nn

from vaerdict.lipschitz import MaxMin, bound_lipschitz, lipschitz_linear
from vaerdict.lipschitz.layers.freezing import remove_parametrizations
from vaerdict.models import wrap
from vaerdict.vae import Posterior


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
        if case.family == "seam":
            _cross(encoder[0], decoder[0], gains)  # type: ignore[arg-type]
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
    if family in ("linear", "isotropic", "seam"):
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


def _cross(encoder: nn.Linear, decoder: nn.Linear, gains: Any) -> None:
    """Show the decoder half of the latents' directions, equally; in the others the encoder moves five times as far."""
    latent = encoder.out_features
    seen = (latent + 1) // 2
    turn = nn.init.orthogonal_(torch.empty(latent, latent))
    lengths = float(gains[0]) * torch.where(torch.arange(latent) < seen, 1.0, 5.0)
    encoder.weight.copy_(turn * lengths @ nn.init.orthogonal_(torch.empty(latent, encoder.in_features)))
    out = nn.init.orthogonal_(torch.empty(decoder.out_features, seen))
    decoder.weight.copy_(float(gains[1]) * out @ turn[:, :seen].T)


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
