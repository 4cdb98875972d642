"""Random convolutions of every kind, and what is true of them, by writing the operator out."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz.norms.placement import ConvolutionLayer

KINDS = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
}


def operator(layer: ConvolutionLayer, shape: tuple[int, ...]) -> np.ndarray:
    """Apply the layer, without its bias, to the identity; rows are outputs."""
    size = int(np.prod(shape))
    with torch.no_grad():
        still = layer(torch.zeros(1, *shape, dtype=torch.float64))
        images = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - still
    return images.reshape(size, -1).T.numpy()


@st.composite
def layers(draw: st.DrawFn, modes: tuple[str, ...] = ("zeros",)) -> tuple[ConvolutionLayer, tuple[int, ...]]:
    """Draw a layer and the shape of an input that it takes."""
    dimensions = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(modes))
    transposed = mode == "zeros" and draw(st.booleans())
    groups = draw(st.sampled_from((1, 1, 2)))

    def each(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(dimensions)]

    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    taps, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 2), each(0, 3)
    sizes = each(1, 9 if dimensions == 2 else 20)
    if transposed:
        more = {"output_padding": [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]}
        sizes = [
            max(n, -(-(2 * p - d * (k - 1)) // s) + 1)  # so that at least one output is left
            for n, p, d, k, s in zip(sizes, padding, dilation, taps, stride, strict=True)
        ]
    else:
        more = {"padding_mode": mode}
        least = 1 if mode in ("zeros", "replicate") else 4  # the padding may not be wider than the image
        sizes = [
            max(n, least, d * (k - 1) + 1 - 2 * p) for n, p, d, k in zip(sizes, padding, dilation, taps, strict=True)
        ]
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layer = KINDS[dimensions, transposed](
        inputs, outputs, taps, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False, **more
    ).double()  # fmt: skip
    _spoil(layer, draw(st.sampled_from(("random", "random", "ones", "sparse", "one channel", "tiny", "huge"))))
    return layer, (inputs, *sizes)


def _spoil(layer: ConvolutionLayer, how: str) -> None:
    weight = layer.weight.data
    if how == "ones":
        weight.fill_(1.0)
    elif how == "sparse":
        weight[torch.rand_like(weight) < 0.8] = 0.0
    elif how == "one channel":
        weight[1:] = 0.0
    elif how in ("tiny", "huge"):
        weight *= 1e-200 if how == "tiny" else 1e200
