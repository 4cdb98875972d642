"""Hierarchical models small enough to know the answer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.levels import TopDown
from vaerdict.attacks.question import Question
from vaerdict.vae import Posterior

PIXELS, LEVELS = 6, (2, 3, 2)


class LinearLevels(nn.Module):
    """`z_l ~ N(B_l x + C_l z_above, s_l^2)`, and the reconstruction `D z`: shifts are known in closed form."""

    def __init__(self, images: Sequence[Tensor], above: Sequence[Tensor], stds: Sequence[float], out: Tensor) -> None:
        super().__init__()
        self.name, self.levels = "linear levels", tuple(len(matrix) for matrix in images)
        self.input_shape, self.input_range = (1, 1, images[0].shape[1]), (-10.0, 10.0)
        self.stds = tuple(stds)
        self.images, self.above = nn.ParameterList(images), nn.ParameterList(above)
        self.out = nn.Parameter(out)

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        level = len(earlier)
        mean = images.flatten(1) @ self.images[level].T
        if earlier:
            mean = mean + torch.cat(list(earlier), dim=1) @ self.above[level].T
        return Posterior(mean, torch.full_like(mean, self.stds[level]))

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        return (torch.cat(list(latents), dim=1) @ self.out.T).unflatten(1, self.input_shape)

    def spread(self) -> Tensor:
        """Give `F` with `z = shift(x) + F noise`: what the noise of each level does to all latents."""
        rows: list[Tensor] = []
        for level, (size, std) in enumerate(zip(self.levels, self.stds, strict=True)):
            start = sum(self.levels[:level])
            own = std * torch.eye(sum(self.levels), dtype=self.out.dtype)[start : start + size]
            rows.append(own + (self.above[level] @ torch.cat(rows) if rows else 0))
        return torch.cat(rows).detach()

    def shifts(self) -> list[Tensor]:
        """Give how each level's mean moves with the image, the levels above moving with it."""
        found: list[Tensor] = []
        for matrix, above in zip(self.images, self.above, strict=True):
            found.append((matrix + (above @ torch.cat(found) if found else 0)).detach())
        return found

    def whole(self) -> Tensor:
        """Give the matrix of the mean reconstruction."""
        return self.out.detach() @ torch.cat(self.shifts())


def linear_levels(dtype: torch.dtype = torch.float64) -> LinearLevels:
    generator = torch.Generator().manual_seed(4)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)

    images = [matrix(size, PIXELS) for size in LEVELS]
    above = [matrix(size, sum(LEVELS[:level])) for level, size in enumerate(LEVELS)]
    return LinearLevels(images, above, (0.3, 0.2, 0.1), matrix(PIXELS, sum(LEVELS)) / 3).requires_grad_(False)


class CurvedLevels(nn.Module):
    """Two levels with bends, of which the second knows the image through the first alone; works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.levels = "curved levels", (3, 4)
        self.input_shape, self.input_range = (1, 2, 4), (0.0, 1.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.first, self.second, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8), nn.Linear(7, 8)
        self.double().requires_grad_(False)

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        if earlier:
            mean, spread = self.second(earlier[0].mul_(2).tanh()).chunk(2, dim=1)
        else:
            mean, spread = self.first(images.sub_(0.5).flatten(1)).chunk(2, dim=1)
        return Posterior(3 * mean.tanh(), 0.5 * spread.sigmoid())

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        return self.decoder(torch.cat([latents[0].tanh_(), latents[1]], dim=1)).sigmoid().unflatten(1, self.input_shape)


def pictures(count: int, model: nn.Module, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = (max(-1.0, model.input_range[0]), min(1.0, model.input_range[1]))
    share = torch.rand(count, *model.input_shape, generator=generator, dtype=torch.float64)
    return low + (0.1 + 0.8 * share) * (high - low)


def batch_of(model: nn.Module, images: Tensor, reconstruction: str = "sampled") -> Batch:
    question = Question(r=1.0, reconstruction=reconstruction)
    return Batch.of(Meter(TopDown(model)), images, question, 0, tuple(range(len(images))))
