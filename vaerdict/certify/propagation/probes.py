"""Checks by evaluation: of a rewritten copy against its original, and of boxes against points that they must hold."""

import copy

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from vaerdict.certify.propagation.pieces import Network
from vaerdict.certify.propagation.regions import Region
from vaerdict.lipschitz import NoSoundBound

_PROBES = 8


def check_same(
    module: nn.Module, exact: nn.Module, network: Network, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Compare a module, its copy in float64 and the rewritten network on random inputs.

    Raises:
        NoSoundBound: they differ by more than rounding, or give no finite value.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(_PROBES, *shape, generator=generator, dtype=torch.float64)
    inputs[::2] = torch.randn(_PROBES // 2, *shape, generator=generator, dtype=torch.float64)
    inputs = inputs.to(dtype).double()
    with torch.no_grad():
        wanted = exact(inputs).flatten(1)
        rewritten = network(inputs.reshape(_PROBES, *network.input_shape))
        own = copy.deepcopy(module).eval().cpu()(inputs.to(dtype)).double().flatten(1)
    if not bool(torch.isfinite(wanted).any()):
        raise NoSoundBound("the module gives no finite value on random inputs")
    scale = float(wanted[torch.isfinite(wanted)].abs().max())
    for values, slack in ((rewritten, 1e-9), (own, 1e-3 if dtype == torch.float32 else 1e-9)):
        same = values.shape == wanted.shape
        if not same or not torch.allclose(values, wanted, rtol=slack, atol=slack * scale, equal_nan=True):
            raise NoSoundBound("the copy that was rewritten for bound propagation computes something else")


def refuse_outside(
    network: Network,
    region: Region,
    lower: Float64[Tensor, "batch outputs"],
    upper: Float64[Tensor, "batch outputs"],
) -> None:
    """Evaluate the center and some extreme points of each region: none may leave its box.

    Raises:
        NoSoundBound: one does, so that the backend is wrong.
    """
    centers = region.centers
    noise = torch.randn(_PROBES, *centers.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for points in (centers, *region.points(noise)):
            values = network(points)
            if not bool(((lower <= values) & (values <= upper)).all()):
                raise NoSoundBound("bound propagation is wrong here: a point of the region is outside the bounds")
