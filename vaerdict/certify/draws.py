"""Draws for one image after the other, in pieces that bound the memory."""

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from vaerdict.options import require
from vaerdict.seeds import normal_noise

_NUMBERS_AT_ONCE = 2**20


def number_samples(images: int, sample_ids: Sequence[int] | None) -> list[int]:
    """Give the indices of so many images in their source: the given ones, or 0, 1, 2, ...

    Raises:
        ValueError: there is not one per image.

    >>> number_samples(2, None)
    [0, 1]
    """
    ids = list(range(images)) if sample_ids is None else list(sample_ids)
    require(len(ids) == images, f"{images} sample ids", len(ids))
    return ids


def draws_at_once(numbers: int) -> int:
    """Give how many draws of so many numbers each are made and decoded in one call; it bounds the memory.

    >>> draws_at_once(784)
    1337
    """
    return max(1, _NUMBERS_AT_ONCE // numbers)


def noise_pieces(
    seed: int, sample_id: int, purpose: str, draws: int, numbers: int, at_once: int
) -> Iterator[Float[Tensor, "some numbers"]]:
    """Draw standard normal numbers `[draws, numbers]` for one sample and purpose, `at_once` draws at a time.

    >>> [len(piece) for piece in noise_pieces(0, 7, "doc", 5, 3, at_once=2)]
    [2, 2, 1]
    """
    for start in range(0, draws, at_once):
        shape = (min(at_once, draws - start), numbers)
        yield normal_noise(seed, [sample_id], f"{purpose}/{start}", shape)[0]
