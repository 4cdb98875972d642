"""How far a module as evaluated in floating point may be from the real function of its weights (THEORY 7.1)."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from vaerdict.lipschitz.graph.nodes import Graph, Node, NoSoundBound, first_features, kind_of
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.rounding.arithmetic import Arithmetic, read_arithmetic
from vaerdict.lipschitz.rounding.rules import LIBRARY, Task, layer_effect
from vaerdict.lipschitz.rules import Site, layer_constant

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_FUNCTIONS = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.Softplus)
_UP = 1.0 + 2.0**-40  # covers the float64 rounding of the formulas, whose terms are all positive


@dataclass(frozen=True)
class StepRounding:
    """What one step contributes.

    Attributes:
        path: where it stands in the module.
        layer: its class, or `add`, `concat`.
        norm: bounds the L2 norm of the computed output.
        added: bounds the rounding in this step.
        error: bounds the L2 distance of the computed output from the exact one, rounding before included.
    """

    path: str
    layer: str
    norm: float
    added: float
    error: float


@dataclass(frozen=True)
class RoundingBound:
    """A proved upper bound: `float()` gives the number, `print()` the steps as a table."""

    value: float
    steps: tuple[StepRounding, ...]
    assumptions: tuple[str, ...]

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        width = max((len(step.path) for step in self.steps), default=0)
        lines = [f"{s.path:<{width}}  added {s.added:<9.3g} error {s.error:<9.3g} {s.layer}" for s in self.steps]
        return "\n".join([*lines, f"rounding {self.value:.6g}, in the L2 norm", *self.assumptions])


def bound_rounding(
    module: nn.Module,
    input_radius: float,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    input_shape: tuple[int, ...] | None = None,
    *,
    allow_tf32: bool = False,
) -> RoundingBound:
    """Bound `|fl(f)(x) - f(x)|` for every input `x` of L2 norm up to `input_radius`.

    `f` is the real function of the stored weights, `fl(f)` its evaluation in `dtype` on `device`, in any order of
    summation. `x` is taken as the module gets it: rounding before, as of `x + delta`, is not included.
    At every step a bound on the values' norm gives one on the rounding there, and Lipschitz constants carry it on.

    Args:
        module: in evaluation mode, with all weights in `dtype`.
        input_radius: in the L2 norm, around 0.
        dtype: float32 or float64.
        device: `cpu` or `cuda`; only torch's settings for it are read.
        input_shape: of one input without the batch axis; may be left out where the first layer is dense.
        allow_tf32: accept TF32 where it is switched on, with its errors.

    Raises:
        NoSoundBound: a layer, or a setting of torch, for which nothing is known, or values that may overflow.
        ValueError: `input_radius` is negative or not finite.

    >>> layer = nn.Linear(100, 10)
    >>> 0 < float(bound_rounding(layer, 10.0)) < 1e-3
    True
    """
    if not 0 <= input_radius < math.inf:
        raise ValueError(f"expected `input_radius` >= 0, got {input_radius}")
    refuse_other_weights(module, dtype)
    graph = trace(module, input_shape or first_features(trace(module)))
    kinds = {kind_of(node.layer) for node in graph.nodes if node.layer is not None}
    convolves = not kinds.isdisjoint(_CONVOLUTIONS)
    arithmetic = read_arithmetic(dtype, torch.device(device), convolves=convolves, allow_tf32=allow_tf32)
    steps = [StepRounding("", "input", input_radius, 0.0, 0.0)]
    with torch.no_grad():
        for node in graph.nodes[1:]:
            steps.append(_step(node, graph, steps, arithmetic))
    return RoundingBound(steps[-1].error, tuple(steps[1:]), _assumptions(kinds, dtype, device, arithmetic))


def refuse_other_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse weights that are not in the dtype, or are computed at every call."""
    for path, part in module.named_modules():
        if parametrize.is_parametrized(part):
            raise NoSoundBound(
                f"layer {Node(path, 'layer', part).title} computes its weights at every call: "
                "call `remove_parametrizations` first"
            )
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        if values.is_floating_point() and values.dtype != dtype:
            raise NoSoundBound(f"expected weights in {dtype}, got {values.dtype} in {name!r}")


def _step(node: Node, graph: Graph, steps: list[StepRounding], arithmetic: Arithmetic) -> StepRounding:
    before = [steps[i] for i in node.inputs]
    if node.kind == "layer":
        shape = graph.nodes[node.inputs[0]].shape
        assert shape is not None  # an input shape was given
        step = _layer_step(node, shape, before[0], arithmetic)
    elif node.kind == "concat":
        norm, error = math.hypot(*(s.norm for s in before)), math.hypot(*(s.error for s in before))
        step = StepRounding(node.path, node.kind, norm * _UP, 0.0, error * _UP)
    else:
        step = _sum_step(node, before, arithmetic)
    if not step.norm <= arithmetic.largest:
        raise NoSoundBound(f"{node.title} may overflow: its values are only known to be below {step.norm:.3g}")
    return step


def _layer_step(node: Node, shape: tuple[int, ...], before: StepRounding, arithmetic: Arithmetic) -> StepRounding:
    lipschitz, _ = layer_constant(node, Site(2, shape))
    effect = layer_effect(Task(node, shape, before.norm, lipschitz, arithmetic))
    if not effect.magnitude <= arithmetic.largest:
        raise NoSoundBound(f"{node.title} may overflow: intermediate values may reach {effect.magnitude:.3g}")
    added = effect.error * _UP
    norm = min(lipschitz * before.norm + effect.at_zero, effect.cap) + added
    return StepRounding(node.path, node.name, norm * _UP, added, (lipschitz * before.error + added) * _UP)


def _sum_step(node: Node, before: list[StepRounding], arithmetic: Arithmetic) -> StepRounding:
    assert node.shape is not None  # an input shape was given
    size = math.fsum(s.norm for s in before)
    flushed = 2 * len(before) * arithmetic.tiny * math.sqrt(math.prod(node.shape))
    added = (arithmetic.gamma(len(before)) * size + flushed) * _UP
    error = math.fsum(s.error for s in before) + added
    return StepRounding(node.path, node.kind, (size + added) * _UP, added, error * _UP)


def _assumptions(
    kinds: set[type[nn.Module]], dtype: torch.dtype, device: str | torch.device, arithmetic: Arithmetic
) -> tuple[str, ...]:
    found = [
        f"evaluated in {dtype} on {device} under torch's present settings, sums of products in any order"
        + (", products in TF32" if arithmetic.tf32 else ""),
        "the input is taken as the module gets it; constants computed from weights, as they were when it was read",
    ]
    if not kinds.isdisjoint(_CONVOLUTIONS):
        found.append("convolutions sum their products directly, not by Winograd's algorithm or FFT")
    if not kinds.isdisjoint(_FUNCTIONS):
        found.append(f"tanh, sigmoid, erf and the like are computed within {LIBRARY // 2} ulp")
    return tuple(found)
