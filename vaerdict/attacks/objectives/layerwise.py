"""The damage done to every layer on the way, not to the reconstruction alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.objectives.conditioning import conditioning_weights
from vaerdict.attacks.objectives.hooks import compared, leaves, mean_square, module_of, recorded
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.options import require, require_known


@dataclass(frozen=True)
class Layerwise(Uniform):
    """Maximise the weighted sum of the layers' mean squared changes times that of the reconstruction (GRILL, 2025).

    A product, so that the search neither forgets the output nor dies where the last layers have no slope. All is
    measured along the mean reconstruction, without draws, from layer outputs `[B, ...]` of encoder and decoder. The
    gradient at the clean image is exactly zero, so the search must start elsewhere.

    Args:
        weights: "conditioning" weighs every layer that runs, ill-conditioned ones less (`conditioning_weights`); a
            mapping from names of layers or blocks, as in `named_modules`, weighs those.

    >>> Layerwise({"decoder.0": 1.0}).name
    'layerwise'
    """

    departs: ClassVar[bool] = True
    weights: Literal["conditioning"] | Mapping[str, float] = "conditioning"

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            require(self.weights == "conditioning", "`weights` 'conditioning' or a mapping", repr(self.weights))
            return
        bad = [weight for weight in self.weights.values() if not 0 <= weight < math.inf]
        require(not bad, "finite `weights` >= 0", bad)
        require(any(self.weights.values()), "at least one of `weights` > 0", dict(self.weights))

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "layerwise"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse layers that the model does not have."""
        if not isinstance(self.weights, str):
            require_known("layer", list(self.weights), [name for name, _ in module_of(vae).named_modules() if name])

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the weights."""
        weights = self.weights if isinstance(self.weights, str) else dict(self.weights)
        return {"objective": self.name, "weights": weights}

    def loss(self, batch: Batch) -> Loss:
        """Give the layers' change times the output's; the clean images pass once."""
        layers, clean = self._clean(batch)
        weights = conditioning_weights(layers) if isinstance(self.weights, str) else self.weights

        def change(images: Tensor, noise: Tensor) -> Tensor:
            with compared(layers, clean) as changes:
                after = batch.vae.decode(batch.vae.encode(images).mean)
            inside = torch.stack([weights[name] * moved for name, moved in changes]).sum(0)
            return inside * mean_square(after, batch.anchor)

        return change

    def _clean(self, batch: Batch) -> tuple[dict[str, nn.Module], dict[str, list[Tensor]]]:
        """Give the layers that count, and what each makes of the clean images."""
        module, every = module_of(batch.vae), isinstance(self.weights, str)
        layers = leaves(module) if isinstance(self.weights, str) else _named_layers(module, self.weights)
        with torch.no_grad(), recorded(layers, len(batch.images)) as clean:
            batch.vae.decode(batch.vae.encode(batch.images).mean)
        idle = sorted(layers.keys() - clean.keys())
        require(every or not idle, "layers that run when images are reconstructed", idle)
        require(bool(clean), "a model with layers that run", type(module).__name__)
        return {name: layers[name] for name in clean}, clean


def _named_layers(module: nn.Module, names: Mapping[str, float]) -> dict[str, nn.Module]:
    return {name: module.get_submodule(name) for name, weight in names.items() if weight}
