"""How far a reconstruction can move when the latents do, by bound propagation (THEORY 4.8, 4.9)."""

from collections.abc import Sequence

from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.propagation.adapter import BoundedMap
from vaerdict.certify.propagation.reach import largest_gap
from vaerdict.options import require


def bound_reconstruction_change(
    bounded_decoder: BoundedMap,
    means: Float[Tensor, "batch latent"],
    region: float | tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]],
    methods: Sequence[str] | None = None,
) -> Float64[Tensor, " batch"]:
    """Bound `|g(z) - g(mu)|` in the L2 norm for every `z` near `mu`.

    Args:
        bounded_decoder: the decoder; made with `forward=True` it is bounded faster.
        means: latents `mu`.
        region: where `z` is: the radius of an L2 ball around `mu`, or the two ends of a box, in latent units.
        methods: as in `BoundedMap.box`.

    Returns:
        Distances in pixel units, rounded up, on the device of the means.

    Raises:
        NoSoundBound: bound propagation fails.
        ValueError: the radius is not positive, or the ends are in the wrong order.

    >>> import torch
    >>> from vaerdict.certify.propagation import unavailable
    >>> if unavailable() is None:
    ...     assert bound_reconstruction_change(BoundedMap(torch.nn.Identity(), (2,)), torch.zeros(1, 2), 1.0) >= 1.0
    """
    if isinstance(region, tuple):
        lower, upper = bounded_decoder.box_between(*region, methods)
    else:
        lower, upper = bounded_decoder.box(means, region, "2", methods)
    require(len(lower) == len(means), "one box per mean", f"{len(lower)} boxes for {len(means)} means")
    gaps = largest_gap(lower, upper, *bounded_decoder.point(means))
    return gaps.norm(dim=1) * (1 + 1e-12)
