"""Small VAEs whose robustness is known in closed form."""

import torch
from torch import Tensor, nn

from vaerdict.vae import Posterior


class LinearVAE(nn.Module):
    """Linear mean and decoder, constant isotropic posterior: every margin and every worst damage is known exactly.

    Images are `[B, 1, 1, n]`. With `A` the decoder's and `M` the encoder's matrix, the worst damage of the mean
    reconstruction within `radius` is `radius * |A M|_2`.
    """

    def __init__(
        self,
        encoder: Tensor,
        decoder: Tensor,
        std: float,
        input_range: tuple[float, float] = (-100.0, 100.0),
    ) -> None:
        super().__init__()
        self.name = "linear"
        self.latent, pixels = encoder.shape
        self.input_shape = (1, 1, pixels)
        self.input_range = input_range
        self.std = std
        matrix = nn.Linear(pixels, self.latent, bias=False)
        matrix.weight = nn.Parameter(encoder.float())
        self.mean_map = nn.Sequential(nn.Flatten(), matrix)
        self.std_map = None
        back = nn.Linear(self.latent, decoder.shape[0], bias=False)
        back.weight = nn.Parameter(decoder.float())
        self.decoder = nn.Sequential(back, nn.Unflatten(1, (1, 1, decoder.shape[0])))

    def extra_repr(self) -> str:
        return f"std={self.std}"

    @property
    def decoder_map(self) -> nn.Module:
        return self.decoder

    def encode(self, images: Tensor) -> Posterior:
        mean = self.mean_map(images)
        return Posterior(mean, torch.full_like(mean, self.std))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


def isotropic_vae(pixels: int = 12, latent: int = 4, a: float = 2.0, b: float = 3.0, std: float = 0.1) -> LinearVAE:
    """`mu = b Q^T x` and `g = a U z` with orthonormal `Q`, `U`: the case in which the exact margin is attained."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(pixels, latent, generator=generator, dtype=torch.float64)).Q
    u = torch.linalg.qr(torch.randn(pixels, latent, generator=generator, dtype=torch.float64)).Q
    return LinearVAE(b * q.T, a * u, std)
