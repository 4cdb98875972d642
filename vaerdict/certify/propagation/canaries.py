"""Small cases with known answers, on which a method of the backend is tried before it is used: once per process."""

from functools import cache

import torch
from torch import Tensor, nn

from vaerdict.certify.propagation.backend import METHODS, propagate
from vaerdict.certify.propagation.compatibility import found_version, session
from vaerdict.certify.propagation.pieces import Exponential
from vaerdict.certify.propagation.regions import Ball, Region, make_region
from vaerdict.certify.propagation.rewrite import rewrite
from vaerdict.lipschitz import MaxMin, trace
from vaerdict.lipschitz.graph.nodes import Graph, Node

_SLACK = 1e-9
_SAMPLES = 500


@cache
def unavailable() -> str | None:
    """Say why the backend cannot be used, or None when it can: computed once per process.

    >>> unavailable() is None or isinstance(unavailable(), str)
    True
    """
    if found_version() is None:
        return "auto_LiRPA is not installed: pip install --no-deps auto_LiRPA, and its requirement appdirs"
    try:
        with session():
            pass
    except Exception as error:  # an import runs code of others, which may raise anything
        return f"auto_LiRPA {found_version()} cannot be imported: {type(error).__name__}: {error}"
    return failed_canary("IBP") or failed_canary("CROWN")


@cache
def failed_canary(method: str) -> str | None:
    """Say which known case a method gets wrong, or None where it gets all right.

    Args:
        method: a key of `METHODS`.
    """
    assert method in METHODS
    for name, check in {"a linear map": _linear, "an exponential": _exponential, "a kinked map": _kinked}.items():
        try:
            fault = check(method)
        except Exception as error:  # code of others may raise anything
            if check is _exponential and method not in ("IBP", "CROWN"):
                continue  # these need not know it: a refusal is no wrong bound
            fault = f"{type(error).__name__}: {error}"
        if fault:
            return f"auto_LiRPA {found_version()}, {method}, fails on {name}: {fault}"
    return None


def _random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _linear(method: str) -> str | None:
    """Compare with `W x + b -+ radius |row|`, which one linear layer must attain."""
    layer = _dense(4, 3)
    centers, radius = _random(2, 4), 0.5
    lower, upper = propagate(layer, Ball(centers, radius), method)
    middle, reach = layer(centers), radius * layer.weight.norm(dim=1)
    exact = torch.stack([middle - reach, middle + reach])
    fits = bool(((torch.stack([lower, upper]) - exact).abs() <= _SLACK * (1 + exact.abs())).all())
    return None if fits else "its bounds are not the exact ones"


def _exponential(method: str) -> str | None:
    """An L2 ball whose first operation is not linear, but for the identity before it."""
    nodes = (Node("", "input", shape=(3,)), Node("", "layer", Exponential(), (0,), (3,)))
    return _outside(rewrite(Graph(nodes)), Ball(torch.zeros(1, 3, dtype=torch.float64), 1.0), method)


def _kinked(method: str) -> str | None:
    """A network with both kinds of kinks, in both norms."""
    layers = nn.Sequential(_dense(6, 8), nn.ReLU(), _dense(8, 8), MaxMin(), _dense(8, 2))
    network = rewrite(trace(layers, (6,)))
    regions = [make_region(_random(2, 6), 0.7, norm) for norm in ("2", "inf")]
    return next(filter(None, (_outside(network, region, method) for region in regions)), None)


def _dense(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64).requires_grad_(False)
    layer.weight.copy_(_random(outputs, inputs) / inputs**0.5)
    layer.bias.copy_(_random(outputs) / 4)
    return layer


def _outside(network: nn.Module, region: Region, method: str) -> str | None:
    """Look for a point of the region whose output is not between the bounds."""
    lower, upper = propagate(network, region, method)
    centers = region.centers
    axes = torch.eye(centers.shape[1], dtype=torch.float64)
    noise = torch.cat([_random(_SAMPLES, centers.shape[1]), axes, -axes])[:, None].expand(-1, *centers.shape)
    values = network(region.points(noise).flatten(0, 1)).unflatten(0, (len(noise), len(centers)))
    slack = _SLACK * (1 + values.abs().max())
    contained = bool(((lower - slack <= values) & (values <= upper + slack)).all())
    return None if contained else "a point of the region is outside its bounds"
