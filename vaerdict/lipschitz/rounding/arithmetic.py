"""How a device computes in a dtype: the unit roundoffs that hold there. Settings under which none is known are refused.

Only settings are read; nothing runs on the device.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from vaerdict.lipschitz.floats import gamma, round_up
from vaerdict.lipschitz.graph.nodes import NoSoundBound

_SWITCHES = (
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATE_DOUBLE_PRECISION",
)
_TF32_INPUTS = 2.0**-9 + 2.0**-19  # two factors of a product cut, not rounded, to 11 bits
_TF32_SUM = 2.0**-22  # tensor cores cut what they add to fewer digits than float32 (Fasi et al., PeerJ CS 2021)


@dataclass(frozen=True)
class Arithmetic:
    """What bounds the rounding of a dtype on a device.

    Attributes:
        unit: the unit roundoff.
        tiny: bounds what one operation may lose to underflow, flushed or not; so do inputs taken for 0.
        largest: a magnitude far enough below overflow.
        tf32: products of matrices are computed in TF32.
    """

    unit: float
    tiny: float
    largest: float
    tf32: bool = False

    def gamma(self, roundings: int) -> float:
        """Bound the relative error of so many roundings one after the other."""
        return gamma(roundings, self.unit)

    def product_error(self, terms: int) -> float:
        """Bound the error of a sum of products, relative to the sum of their magnitudes, in any order.

        The last addition is that of a bias; fused operations round less often.
        """
        if not self.tf32:
            return self.gamma(terms + 1)
        return round_up(_TF32_INPUTS + (1.0 + _TF32_INPUTS) * gamma(terms + 1, _TF32_SUM), 4)


def read_arithmetic(
    dtype: torch.dtype, device: torch.device, *, convolves: bool = False, allow_tf32: bool = False
) -> Arithmetic:
    """Give the arithmetic of a dtype on a device under torch's present settings.

    Args:
        dtype: float32 or float64.
        device: `cpu` or `cuda`.
        convolves: whether there are convolutions, which fast algorithms may compute.
        allow_tf32: accept TF32 where it is switched on; its errors are then those that are bounded.

    Raises:
        NoSoundBound: the dtype, the device or a setting is one under which no bound is known.

    >>> read_arithmetic(torch.float64, torch.device("cpu")).unit == 2.0**-53
    True
    """
    if dtype not in (torch.float32, torch.float64):
        raise NoSoundBound(f"expected `dtype` float32 or float64, got {dtype}")
    if device.type not in ("cpu", "cuda") or torch.version.hip is not None:
        raise NoSoundBound(f"expected `device` cpu or cuda by NVIDIA, got {device}")
    if torch.is_autocast_enabled(device.type):
        raise NoSoundBound("expected autocast to be off")
    for name in _SWITCHES:
        if os.environ.get(name, "0") not in ("", "0", "STRICT"):
            raise NoSoundBound(f"expected the environment variable {name} not to be set, as it may lower the precision")
    if convolves:
        _refuse_fast_convolutions(dtype, device)
    info = torch.finfo(dtype)
    tf32 = dtype == torch.float32 and _is_reduced(device, allow_tf32)
    return Arithmetic(info.eps / 2, 2 * info.tiny, info.max / 16, tf32)


def _refuse_fast_convolutions(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cuda" and torch.backends.cudnn.enabled:
        raise NoSoundBound(
            "expected `torch.backends.cudnn.enabled` False for convolutions, which cuDNN may compute by Winograd or FFT"
        )
    backends: Any = torch.backends
    by_onednn = backends.mkldnn.is_available() and backends.mkldnn.enabled
    if device.type == "cpu" and dtype == torch.float32 and not by_onednn and backends.nnpack.is_available():
        raise NoSoundBound(
            "expected `torch.backends.mkldnn.enabled` for convolutions, which NNPACK may compute by Winograd or FFT"
        )


def _is_reduced(device: torch.device, allow_tf32: bool) -> bool:
    """Tell whether float32 products are reduced to TF32; refuse that where it is not allowed, and anything less."""
    found = _precisions(device)
    if found <= {"none", "ieee", "highest"}:
        return False
    if device.type == "cuda" and allow_tf32 and found <= {"none", "ieee", "highest", "high", "tf32"}:
        return True
    raise NoSoundBound(
        f"expected float32 matrix products in full precision (`torch.set_float32_matmul_precision('highest')`), "
        f"got {sorted(found - {'none', 'ieee', 'highest'})}"
    )


def _precisions(device: torch.device) -> set[str]:
    backends: Any = torch.backends
    library = backends.mkldnn if device.type == "cpu" else backends.cuda
    parts = [backends, library, getattr(library, "matmul", None)]
    parts += [getattr(library, "conv", None)] if device.type == "cpu" else []
    found = {str(getattr(part, "fp32_precision", "none")) for part in parts}
    try:
        found.add(torch.get_float32_matmul_precision())
        if device.type == "cuda" and backends.cuda.matmul.allow_tf32:
            found.add("tf32")
    except RuntimeError:  # torch will not answer by the old names after a setting by the new ones, read above
        pass
    return found


def root(count: int) -> float:
    """Give the square root of a number of values, rounded up."""
    return round_up(math.sqrt(count))
