"""Every test starts from the same seeds and must leave torch's global state as it found it.

Hypothesis draws the same examples in every run; `--hypothesis-profile=explore` draws new ones.
"""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")

# One thread: the tests' matrices are small, and several workers share the machine.
torch.set_num_threads(1)


def _global_state() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(autouse=True)
def _same_start_and_clean_end() -> Iterator[None]:
    torch.manual_seed(0)
    before = _global_state()
    yield
    assert _global_state() == before, "the test changed torch's global state"
