"""Whether a layer's stored tensors are those that its print speaks of, and its input is one that they take."""

from vaerdict.checker.layers import Layer


def check_fit(layer: Layer) -> None:
    """Hold a layer's tensors against its print, and its input against both.

    Raises:
        ValueError: a tensor is missing or has another shape; the input does not fit.

    >>> from vaerdict.checker.printed import read_call
    >>> check_fit(Layer(read_call("ReLU()"), (3,)))
    """
    kind = layer.call.kind
    if kind == "Linear":
        _check_linear(layer)
    elif kind.startswith("Conv") and kind[-2:] in ("1d", "2d"):
        _check_convolution(layer)
    elif kind in ("BatchNorm1d", "BatchNorm2d"):
        _check_batch_norm(layer)


def _check_linear(layer: Layer) -> None:
    inputs, outputs = layer.option("in_features", 0, None), layer.option("out_features", 1, None)
    _hold(layer, "weight", (outputs, inputs))
    _hold(layer, "bias", (outputs,) if layer.option("bias", 2, True) else None)
    _require(layer, layer.shape[-1] == inputs)


def _check_convolution(layer: Layer) -> None:
    inputs, outputs = layer.option("in_channels", 0, None), layer.option("out_channels", 1, None)
    kernel, groups = layer.option("kernel_size", 2, ()), layer.option("groups", -1, 1)
    ends = (inputs, outputs // groups) if layer.call.kind.startswith("ConvTranspose") else (outputs, inputs // groups)
    _hold(layer, "weight", (*ends, *kernel))
    _hold(layer, "bias", (outputs,) if layer.option("bias", -1, True) else None)
    _require(layer, layer.shape[0] == inputs and len(layer.shape) == 1 + len(kernel))


def _check_batch_norm(layer: Layer) -> None:
    features, affine = layer.option("num_features", 0, None), layer.option("affine", 3, True)
    _hold(layer, "weight", (features,) if affine else None)
    _hold(layer, "bias", (features,) if affine and layer.option("bias", -1, True) else None)
    _hold(layer, "running_var", (features,) if layer.option("track_running_stats", 4, True) else None)
    _require(layer, layer.shape[0] == features)


def _hold(layer: Layer, name: str, expected: tuple[int, ...] | None) -> None:
    """Ask for a tensor of one shape, or for none."""
    found = layer.tensors[name].shape if name in layer.tensors else None
    if found != expected:
        raise ValueError(f"expected `{name}` of shape {expected} as printed, got {found}")


def _require(layer: Layer, fits: bool) -> None:
    if not fits:
        raise ValueError(f"expected an input that fits the weights, got one of shape {layer.shape}")
