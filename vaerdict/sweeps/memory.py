"""How many images fit on a device at once, from what one of them needs: nothing is filled to find out."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.vae import VAE, borrowed

SAFETY = 4
"""Searches hold a few copies of images and gradients, and libraries need room to work."""
_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def fitting_batch(vae: VAE, image: Float[Tensor, "1 ..."], most: int) -> int:
    """Give the largest power of two, or `most`, whose gradients fit in the free memory of the image's device.

    >>> from vaerdict.vae import Posterior
    >>> class Identity(torch.nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.full_like(images, 0.1))
    ...     def decode(self, latents): return latents
    >>> fitting_batch(Identity(), torch.zeros(1, 4), 100)
    100
    """
    fits = free_bytes(image.device) // (SAFETY * max(1, bytes_per_image(vae, image)))
    return most if fits >= most else 1 << max(0, int(fits).bit_length() - 1)


def bytes_per_image(vae: VAE, image: Float[Tensor, "1 ..."]) -> int:
    """Give what a gradient through encoder and decoder keeps of one image: all that is saved for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with borrowed(vae) as lent:
        weights = {parameter.untyped_storage().data_ptr() for parameter in lent.parameters()}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            image = image.detach().clone().requires_grad_()
            output = lent.decode(lent.encode(image).mean)
        kept[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    return sum(size for place, size in kept.items() if place not in weights)


def free_bytes(device: torch.device) -> int:
    """Give the memory that can still be taken on a device, in bytes; on the CPU within the limit of its control group.

    >>> free_bytes(torch.device("cpu")) > 2**20
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(_MEMORY):  # where there is one, it counts what caches would give back
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (next(_lines(_GROUP / name), "max") for name in ("memory.max", "memory.current"))
    return free if "max" in (limit, used) else min(free, max(0, int(limit) - int(used)))


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text().splitlines()
    except OSError:  # another system, or no control group
        return
