"""A stored model evaluated with numpy in float64, for witnesses: posterior, reconstruction, and draws of its change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vaerdict.checker.facts import Facts
from vaerdict.checker.layers import Layer, Unknown
from vaerdict.checker.model import Model
from vaerdict.checker.values import apply_layer, sigmoid

_AT_ONCE = 4096


@dataclass(frozen=True)
class Forward:
    """The maps of a model whose layers are all known here.

    Raises:
        Unknown: a map is no row of layers, or has a layer that is not computed here.
    """

    model: Model

    def __post_init__(self) -> None:
        if self.model.facts is None:
            raise Unknown("how the model uses its layers is not known here")
        self._layers("mean")
        self._layers("decoder")

    @property
    def _facts(self) -> Facts:
        assert self.model.facts is not None
        return self.model.facts

    def _layers(self, role: str) -> Sequence[Layer]:
        found = self.model.maps[role]
        if isinstance(found, str) or not found.own or found.notes.failures:
            raise Unknown(f"the {role} map is no row of known layers")
        return found.own

    def _run(self, role: str, values: np.ndarray) -> np.ndarray:
        for layer in self._layers(role):
            values = apply_layer(layer, values)
        return values

    def posterior(self, image: np.ndarray) -> tuple[Float64[np.ndarray, " latent"], Float64[np.ndarray, " latent"]]:
        """Give mean and standard deviations of one image `[C, H, W]`: the encoder's output is their parts, in a row."""
        output = self._run("mean", image.astype(np.float64)[None])[0]
        channels = self._facts.latent_shape[0]
        mean, spread = output[:channels].ravel(), output[channels:].ravel()
        return mean, np.broadcast_to(self._std(spread), mean.shape)

    def _std(self, spread: np.ndarray) -> np.ndarray:
        rules = {
            "constant": lambda: np.array([self._facts.std]),
            "bounded": lambda: self._facts.std * sigmoid(spread),
            "std": lambda: spread,
            "variance": lambda: np.sqrt(spread),
            "log_variance": lambda: np.exp(spread / 2),
        }
        return rules[self._facts.spread]()

    def decode(self, latents: Float64[np.ndarray, "batch latent"]) -> Float64[np.ndarray, "batch pixels"]:
        """Give the mean reconstructions."""
        latents = latents.reshape(len(latents), *self._facts.latent_shape)
        return self._run("decoder", latents).reshape(len(latents), -1)

    def distances(
        self, image: np.ndarray, moved: np.ndarray, *, reconstruction: str, draws: int, seed: int
    ) -> Float64[np.ndarray, " draws"]:
        """Draw L2 distances between the reconstructions of the moved and of the unmoved image.

        For the mean reconstruction one draw says it all.
        """
        mean, std = self.posterior(image)
        moved_mean, moved_std = self.posterior(moved)
        if reconstruction == "mean":
            moved_std, draws = np.zeros_like(std), 1
        generator, found = np.random.default_rng(seed), []
        for start in range(0, draws, _AT_ONCE):
            noise = generator.standard_normal((2, min(_AT_ONCE, draws - start), len(mean)))
            clean = mean + std * noise[0] if reconstruction == "sampled" else mean[None]
            change = self.decode(moved_mean + moved_std * noise[1]) - self.decode(clean)
            found.append(np.sqrt((change**2).sum(1)))
        return np.concatenate(found)
