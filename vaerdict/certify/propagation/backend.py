"""The one place that calls auto_LiRPA: a rewritten network and a region in, two tensors out, nothing believed."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from vaerdict.certify.propagation.compatibility import session
from vaerdict.certify.propagation.regions import Region

METHODS = {
    "IBP": "IBP",
    "CROWN": "CROWN",
    "alpha-CROWN": "CROWN-Optimized",
    "Forward": "Forward",
    "Forward+Backward": "Forward+Backward",
}
"""Our names of the methods, and the library's."""

# The sparse shortcuts of 0.3 fail in alpha-CROWN when images differ in their unstable neurons.
_DENSE = {
    **dict.fromkeys(("sparse_intermediate_bounds", "sparse_conv_intermediate_bounds"), False),
    **dict.fromkeys(("sparse_features_alpha", "sparse_spec_alpha", "use_full_conv_alpha"), False),
}


def propagate(
    network: nn.Module, region: Region, method: str
) -> tuple[Float64[Tensor, "batch outputs"], Float64[Tensor, "batch outputs"]]:
    """Bound a network's outputs on regions, as the library says.

    The library keeps state between calls, so that each call builds its own.

    Args:
        network: rewritten, in float64, from inputs `[batch, ...]` to `[batch, outputs]`.
        region: one per image.
        method: a key of `METHODS`.

    Raises:
        Exception: whatever the library raises.
    """
    optimised = method == "alpha-CROWN"
    centers = region.centers
    with session() as library, torch.set_grad_enabled(optimised):
        # In 0.3, sums of values without pixels fail in the mode for patches of pixels.
        convolves = any(isinstance(layer, nn.Conv2d) for layer in network.modules())
        options = {"conv_mode": "patches" if convolves else "matrix", **(_DENSE if optimised else {})}
        bounded = library.BoundedModule(network, torch.zeros_like(centers[:1]), bound_opts=options, device="cpu")
        inputs = library.BoundedTensor(centers, region.perturbation(library))
        lower, upper = bounded.compute_bounds(x=(inputs,), method=METHODS[method])
    return lower.detach().clone(), upper.detach().clone()
