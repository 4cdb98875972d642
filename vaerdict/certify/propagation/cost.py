"""What bound propagation costs, and how many images fit into memory together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from vaerdict.certify.propagation.pieces import ELEMENTWISE, Network

if TYPE_CHECKING:
    from vaerdict.certify.propagation.adapter import BoundedMap

MEMORY = 2**30
"""Bytes that one batch may take, by plan."""

_COPIES = 8  # matrices of the largest kind that live at the same time, lower and upper together


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one image: seconds, measured, and bytes, planned."""

    seconds: float
    bytes: int


def bytes_per_image(network: Network, method: str) -> int:
    """Plan the memory of one image: intervals for IBP, matrices from or to the inputs for the others.

    Backward methods hold, for each layer that they bound, one row per value of it and one column per value of a layer
    before, and for the outputs one column per value of any layer. Forward ones hold one row per value and one column
    per input, and copy the layers' matrices.
    """
    sizes = network.sizes
    forward = max(sizes[0] * max(sizes), *(a * b for a, b in pairwise(sizes)))
    bounded = [i for i, step in enumerate(network.steps, 1) if not isinstance(step, ELEMENTWISE)]
    backward = max(sizes[-1] * max(sizes), *(sizes[i] * max(sizes[:i]) for i in bounded))
    largest = {"IBP": 0, "Forward": forward, "Forward+Backward": max(forward, backward)}.get(method, backward)
    return 8 * (4 * sum(sizes) + _COPIES * largest)


def images_at_once(network: Network, methods: Sequence[str], memory: int = MEMORY) -> int:
    """Give how many images fit into the memory, at least one."""
    return max(1, memory // max(bytes_per_image(network, method) for method in methods))


def estimate_cost(
    bounded: "BoundedMap", image: Float[Tensor, "one ..."], radius: float = 0.1, methods: Sequence[str] | None = None
) -> Cost:
    """Estimate what one image costs, by running it once; a larger batch is cheaper per image.

    Args:
        bounded: the map.
        image: one input, with its batch axis.
        radius: of an L2 ball.
        methods: as in `BoundedMap.box`.
    """
    names = tuple(methods or bounded.methods)
    bounded.box(image, radius, "2", names)  # the first run compiles
    start = time.perf_counter()
    bounded.box(image, radius, "2", names)
    seconds = time.perf_counter() - start
    return Cost(seconds=seconds, bytes=max(bytes_per_image(bounded.network, method) for method in names))
