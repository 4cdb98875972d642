"""What rounding adds in each layer, in the L2 norm (THEORY 7.1), by the layer's exact class.

A rule speaks of inputs of norm up to `task.norm`, as they were computed. `tiny` terms are for underflow: of inputs and
weights taken for 0, of products and of sums.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaerdict.lipschitz.graph.nodes import Node, NoSoundBound, kind_of
from vaerdict.lipschitz.layers import GroupSort, MaxMin, Scale, Select
from vaerdict.lipschitz.layers.elementary import Move, Shift
from vaerdict.lipschitz.rounding.arithmetic import Arithmetic, root
from vaerdict.lipschitz.rules import Site, layer_constant
from vaerdict.lipschitz.sizes import frobenius

LIBRARY = 16
"""Unit roundoffs (8 ulp) within which tanh, sigmoid and their like are taken to be computed; 1 to 5 were measured."""


@dataclass(frozen=True)
class Task:
    """A layer, what comes in and how it computes.

    Attributes:
        node: the layer, with the shape of its output.
        before: the shape of its input.
        norm: a bound on the L2 norm of its input.
        lipschitz: its constant.
        arithmetic: that of the evaluation.
    """

    node: Node
    before: tuple[int, ...]
    norm: float
    lipschitz: float
    arithmetic: Arithmetic

    @property
    def after(self) -> tuple[int, ...]:
        """The shape of the output."""
        assert self.node.shape is not None  # shapes were asked for
        return self.node.shape

    @property
    def values(self) -> float:
        """The root of the number of outputs: the norm of ones."""
        return root(math.prod(self.after))


@dataclass(frozen=True)
class Effect:
    """What a layer does to values of the task's norm.

    Attributes:
        error: bounds the L2 distance of the computed output from the exact output for the same input.
        at_zero: bounds the norm of the exact output for the input 0.
        cap: bounds the norm of any exact output.
        magnitude: bounds every intermediate value.
    """

    error: float
    at_zero: float = 0.0
    cap: float = math.inf
    magnitude: float = 0.0


Rule = Callable[[Any, Task], Effect]


def layer_effect(task: Task) -> Effect:
    """Bound what rounding adds in one layer.

    Raises:
        NoSoundBound: names the layer, and says why there is no bound.
    """
    layer = task.node.layer
    assert layer is not None
    rule = RULES.get(kind_of(layer))
    try:
        if rule is None:
            raise ValueError("its evaluation is not known step by step")
        return rule(layer, task)
    except ValueError as error:
        raise NoSoundBound(f"layer {task.node.title} has no bound on its rounding: {error}") from None


def _exact(layer: nn.Module, task: Task) -> Effect:
    return Effect(0.0)


def _underflow(task: Task, times: float = 1.0) -> float:
    return task.arithmetic.tiny * (8 * max(1.0, task.lipschitz, times) * task.values + task.norm)


def _kept(layer: nn.Module, task: Task) -> Effect:
    """Values are compared and passed on; at most they are flushed."""
    return Effect(_underflow(task))


def _size(values: Tensor | None) -> float:
    """Bound the L2 norm of a weight."""
    if values is None:
        return 0.0
    return frobenius(values.detach().double().cpu()) * (1 + 1e-9)


def _products(layer: Any, task: Task, terms: int, bias: float) -> Effect:
    """Bound `|fl(W x + b) - (W x + b)| <= gamma (|W| |x| + |b|)`, where `|W|` is the matrix of magnitudes.

    `terms` products are summed for an output. Weights taken for 0 change it by `tiny` times what they read.
    """
    arithmetic = task.arithmetic
    absolute = _norm_of_magnitudes(layer, task)
    size = absolute * task.norm + bias
    flushed = (2 * terms + 4 + terms * task.norm) * task.values + absolute * root(math.prod(task.before))
    error = arithmetic.product_error(terms) * size + 2 * arithmetic.tiny * flushed
    return Effect(error, at_zero=bias, magnitude=2 * size)


def _norm_of_magnitudes(layer: Any, task: Task) -> float:
    twin = copy.copy(layer)
    twin._parameters = {**layer._parameters, "weight": nn.Parameter(layer.weight.detach().abs())}
    return layer_constant(replace(task.node, layer=twin), Site(2, task.before))[0]


def _dense(layer: nn.Linear, task: Task) -> Effect:
    bias = _size(layer.bias) * root(math.prod(task.after[:-1]))
    return _products(layer, task, layer.in_features, bias)


def _convolution(layer: Any, task: Task) -> Effect:
    """Sum over the kernel; a transposed one adds at most as many terms in one pixel."""
    terms = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    pixels = math.prod(task.after) // layer.out_channels
    return _products(layer, task, terms, _size(layer.bias) * root(pixels))


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, task: Task) -> Effect:
    """Cover every order of `s x - s mean + bias`, `s = weight / sqrt(var + eps)`, with 14 roundings on any path."""
    variance, mean = cast(Tensor, layer.running_var).double(), cast(Tensor, layer.running_mean).double()
    if float((variance + layer.eps).min()) < 2.0**-60:
        raise ValueError("expected running variances and eps that sum to 2**-60 or more")
    weight = torch.ones_like(mean) if layer.weight is None else layer.weight.detach().double()
    pixels = root(math.prod(task.after) // layer.num_features)
    centre = _size(weight * mean / torch.sqrt(variance + layer.eps)) * pixels
    size = task.lipschitz * task.norm + centre + _size(layer.bias) * pixels
    inverse = 2.0**31  # bounds 1 / sqrt(var + eps)
    steps = (task.norm + _size(mean) * pixels + 1) * max(1.0, float(weight.abs().max())) * inverse
    lost = task.arithmetic.tiny * inverse * (task.norm + _size(mean) * pixels) + _underflow(task, 2 * inverse)
    lost += task.arithmetic.tiny * inverse * float(weight.abs().max()) * task.values
    error = task.arithmetic.gamma(16) * size + lost
    return Effect(error, at_zero=(centre + _size(layer.bias) * pixels), magnitude=steps + size)


def _scale(layer: Scale, task: Task) -> Effect:
    """Count the roundings of the factor, of a reciprocal it may come from, and of the product."""
    factor = abs(float(layer.factor))
    error = task.arithmetic.gamma(8) * factor * task.norm + _underflow(task)
    return Effect(error, magnitude=max(1.0, factor) * max(1.0, task.norm))


def _shift(layer: Shift, task: Task) -> Effect:
    constant = torch.as_tensor(layer.constant, dtype=torch.float64, device="cpu")
    at_zero = _size(torch.zeros(1, *task.after, dtype=torch.float64) + constant)
    size = task.norm + at_zero
    return Effect(task.arithmetic.gamma(8) * size + _underflow(task), at_zero=at_zero, magnitude=size)


def _average(layer: nn.AvgPool1d | nn.AvgPool2d, task: Task) -> Effect:
    """Sum a window and divide, or multiply by the reciprocal; magnitudes have the same constant as values."""
    sizes = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * (len(task.before) - 1)
    terms = math.prod(sizes)
    error = task.arithmetic.gamma(terms + 3) * task.lipschitz * task.norm + _underflow(task, 2.0 * terms)
    return Effect(error, magnitude=terms * task.norm)


def _leaky(layer: nn.LeakyReLU, task: Task) -> Effect:
    slope = abs(layer.negative_slope)
    return Effect(task.arithmetic.gamma(3) * slope * task.norm + _underflow(task), magnitude=slope * task.norm)


def _tanh(layer: nn.Tanh, task: Task) -> Effect:
    size = min(task.norm, task.values)
    return Effect(task.arithmetic.gamma(LIBRARY) * size + _underflow(task), cap=task.values)


def _sigmoid(layer: nn.Sigmoid, task: Task) -> Effect:
    error = task.arithmetic.gamma(LIBRARY) * min(task.values, task.lipschitz * task.norm + task.values / 2)
    return Effect(error + _underflow(task), at_zero=task.values / 2, cap=task.values)


def _gated(layer: nn.SiLU | nn.GELU, task: Task) -> Effect:
    """Bound by `|x|` times the error of the gate, which is at most 1: for negative `x` the result itself is smaller."""
    return Effect(task.arithmetic.gamma(LIBRARY) * task.norm + _underflow(task))


def _elu(layer: nn.ELU, task: Task) -> Effect:
    """Allow for `exp(x) - 1`, which cancels: its error is relative to 1."""
    alpha = abs(layer.alpha)
    error = task.arithmetic.gamma(LIBRARY) * (alpha * task.values + task.norm)
    return Effect(error + _underflow(task), magnitude=2 * alpha + task.norm)


def _softplus(layer: nn.Softplus, task: Task) -> Effect:
    """`log1p(exp(beta x)) / beta`: the roundings of `beta x` count with `|x|`, the others with at most `1 / beta`.

    Above the threshold torch gives `x`, which is less by `exp(-threshold) / beta`; rounding may decide on the side.
    """
    if not (2.0**-20 <= layer.beta <= 2.0**20 and layer.threshold <= 80):
        raise ValueError("expected beta from 2**-20 to 2**20 and threshold <= 80, above which exp overflows")
    at_zero = task.values / layer.beta
    jump = 2 * math.exp(-layer.threshold) * at_zero
    error = task.arithmetic.gamma(LIBRARY) * (task.norm + at_zero) + jump + _underflow(task, 1 / layer.beta)
    return Effect(error, at_zero=at_zero, magnitude=layer.beta * task.norm)


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _dense,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _average),
    Scale: _scale,
    Shift: _shift,
    nn.LeakyReLU: _leaky,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.SiLU: _gated,
    nn.GELU: _gated,
    nn.ELU: _elu,
    nn.Softplus: _softplus,
    **dict.fromkeys((nn.ReLU, MaxMin, GroupSort), _kept),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle), _exact),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Upsample, nn.UpsamplingNearest2d), _exact),
    **dict.fromkeys((Move, Select), _exact),
}
"""The layers whose evaluation is known."""
