import numpy as np
import torch

from vaerdict.attacks.bridge.draws import seeded

CPU = torch.device("cpu")


def draw(seed: int, ids: list[int], purpose: str) -> tuple[float, float]:
    with seeded(seed, ids, purpose, CPU):
        return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002


def test_draws_belong_to_seed_sample_and_purpose() -> None:
    one = draw(0, [7], "a")
    assert draw(0, [7], "a") == one
    others = [draw(1, [7], "a"), draw(0, [8], "a"), draw(0, [7], "b"), draw(0, [7, 8], "a")]
    assert all(this[0] != one[0] and this[1] != one[1] for this in others)


def test_both_generators_come_back_as_they_were_even_after_an_error() -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    try:
        with seeded(0, [7], "a", CPU):
            torch.rand(3)
            np.random.rand(3)  # noqa: NPY002
            raise RuntimeError
    except RuntimeError:
        pass
    after = np.random.get_state()  # noqa: NPY002
    assert bool((torch.get_rng_state() == before).all())
    assert after[2] == legacy[2]
    assert bool((after[1] == legacy[1]).all())
