"""The known layers computed with numpy."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from vaerdict.checker.layers import Layer, Unknown, selected


def apply_layer(layer: Layer, values: np.ndarray) -> np.ndarray:
    """Compute a layer for values `[batch, *shape]`.

    Raises:
        Unknown: there is no rule for it here.
    """
    if layer.is_linear:
        if layer.call.kind == "Linear" and len(layer.shape) != 1:
            raise Unknown("a dense layer on more than one axis is not computed here")
        moved = values.reshape(len(values), -1) @ layer.matrix.T
        moved = moved.reshape(len(values), *layer.output_shape)
        bias = layer.tensors.get("bias")
        return moved if bias is None else moved + bias.reshape(-1, *[1] * (len(layer.output_shape) - 1))
    rule = _VALUES.get(layer.call.kind)
    if rule is None:
        raise Unknown(f"{layer.call.kind} is not computed here")
    return rule(layer, values)


def _max_min(layer: Layer, values: np.ndarray) -> np.ndarray:
    axis = layer.option("axis", -1, -1)
    features, ordered = np.moveaxis(values, axis, -1), np.empty_like(np.moveaxis(values, axis, -1))
    first, second = features[..., 0::2], features[..., 1::2]
    ordered[..., 0::2], ordered[..., 1::2] = np.maximum(first, second), np.minimum(first, second)
    return np.moveaxis(ordered, -1, axis)


def sigmoid(values: Float64[np.ndarray, "*sizes"]) -> Float64[np.ndarray, "*sizes"]:
    """Give `1 / (1 + exp(-x))` without overflow.

    >>> sigmoid(np.array([-1e4, 0.0]))
    array([0. , 0.5])
    """
    return 0.5 * (1 + np.tanh(values / 2))


_VALUES: dict[str, Callable[[Layer, np.ndarray], np.ndarray]] = {
    "ReLU": lambda layer, values: np.maximum(values, 0.0),
    "LeakyReLU": lambda layer, values: np.where(
        values > 0, values, float(layer.option("negative_slope", 0, 0.01)) * values
    ),
    "Tanh": lambda layer, values: np.tanh(values),
    "Sigmoid": lambda layer, values: sigmoid(values),
    "SiLU": lambda layer, values: values * sigmoid(values),
    "MaxMin": _max_min,
    "Scale": lambda layer, values: float(layer.option("factor", 0, None)) * values,
    "Select": lambda layer, values: values[:, selected(layer)],
    **dict.fromkeys(("Identity", "Dropout", "Dropout2d"), lambda layer, values: values),
    **dict.fromkeys(("Flatten", "Unflatten"), lambda layer, values: values.reshape(len(values), *layer.output_shape)),
}
