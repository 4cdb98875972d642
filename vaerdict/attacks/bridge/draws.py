"""foolbox draws from the global generators of torch and NumPy: lent with a seed of the sample's own, and given back."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, sample_ids: Sequence[int], purpose: str, device: torch.device) -> Iterator[None]:
    """Seed both generators by what is drawn for whom; afterwards they are as they were.

    >>> before = torch.get_rng_state()
    >>> with seeded(0, [7], "doc", torch.device("cpu")): _ = torch.rand(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    name = f"{seed}/{','.join(map(str, sample_ids))}/attack/{purpose}"
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    legacy = np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.default_generator.manual_seed(start)
            for one in devices:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(start)
            np.random.seed(start)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(legacy)  # noqa: NPY002
