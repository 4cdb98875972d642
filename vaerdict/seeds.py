"""Random numbers that belong to a sample: the same whatever its batch, its position or its neighbours."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def _generator(seed: int, sample_id: int, purpose: str) -> np.random.Generator:
    # Philox takes all 128 bits as its key; torch's CPU generator keeps 32, too few for many samples.
    digest = hashlib.sha256(f"{seed}/{sample_id}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def normal_noise(
    seed: int, sample_ids: Sequence[int], purpose: str, shape: tuple[int, ...]
) -> Float[Tensor, "batch ..."]:
    """Draw standard normal numbers `[len(sample_ids), *shape]` on the CPU, each row from its own generator.

    `purpose` names the use, so that the sample that selects anything is never the one that certifies it.

    >>> one, both = normal_noise(0, [7], "doc", (3,)), normal_noise(0, [2, 7], "doc", (3,))
    >>> bool((one[0] == both[1]).all())
    True
    """
    rows = [_generator(seed, i, purpose).standard_normal(shape, dtype=np.float32) for i in sample_ids]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, *shape))
