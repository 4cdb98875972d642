"""The batch that fits, from what one image's gradient keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vaerdict.sweeps import memory
from vaerdict.sweeps.memory import SAFETY, bytes_per_image, fitting_batch, free_bytes
from vaerdict.vae import Posterior

FLOAT = 4


class Small(nn.Module):
    """Ten pixels, six hidden values, two latents; `where` is what the encoder ends with."""

    name, input_shape, input_range, latent = "small", (10,), (0.0, 1.0), 2

    def __init__(self, between: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 6), between(), nn.Linear(6, 2))
        self.decoder = nn.Linear(2, 10)

    def encode(self, images: Tensor) -> Posterior:
        mean = self.encoder(images)
        return Posterior(mean, torch.full_like(mean, 0.1))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


@pytest.mark.parametrize(
    ("between", "kept"),
    [(nn.Identity, 0), (nn.ReLU, 6), (nn.Sigmoid, 6), (lambda: nn.Sequential(nn.ReLU(), nn.Sigmoid()), 12)],
    ids=["linear", "relu", "sigmoid", "both"],
)
def test_what_a_gradient_keeps_by_hand(between: Callable[[], nn.Module], kept: int) -> None:
    """A linear layer with frozen weights keeps no input, an activation its output; the result is there, too."""
    assert bytes_per_image(Small(between), torch.zeros(1, 10)) == FLOAT * (kept + 10)


def test_the_model_comes_back_as_it_was_lent() -> None:
    vae, image = Small(nn.ReLU).train(), torch.rand(1, 10)
    vae.decoder.requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    fitting_batch(vae, image, 8)
    assert vae.training
    assert [parameter.requires_grad for parameter in vae.parameters()] == [True] * 4 + [False] * 2
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert not image.requires_grad


@pytest.mark.parametrize("grad", [True, False])
def test_it_does_not_matter_whether_gradients_are_on(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert bytes_per_image(Small(nn.ReLU), torch.zeros(1, 10)) == FLOAT * 16


@pytest.mark.parametrize(
    ("images", "most", "expected"),
    [(0, 100, 1), (1, 100, 1), (2, 100, 2), (3, 100, 2), (63, 100, 32), (64, 100, 64), (99, 100, 64), (100, 100, 100),
     (10**9, 100, 100), (10**9, 1, 1), (0, 1, 1)],
)  # fmt: skip
def test_the_batch_is_a_power_of_two_or_the_most(
    images: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = images * SAFETY * FLOAT * 16
    monkeypatch.setattr(memory, "free_bytes", lambda device: room)
    assert fitting_batch(Small(nn.ReLU), torch.zeros(1, 10), most) == expected


def test_there_is_some_memory() -> None:
    assert free_bytes(torch.device("cpu")) > 2**20


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5", 7 * 1024), ("9000", "5000", 4000), ("9000", "9999", 0), (None, None, 7 * 1024)],
)
def test_a_limit_of_the_control_group_counts(
    limit: str | None, used: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"memory.max": limit, "memory.current": used, "meminfo": "MemFree: 3 kB\nMemAvailable:    7 kB\n"}
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    assert free_bytes(torch.device("cpu")) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_of_a_gpu() -> None:
    device = torch.device("cuda", 0)
    assert 0 < free_bytes(device) <= torch.cuda.get_device_properties(device).total_memory
    assert fitting_batch(Small(nn.ReLU).cuda(), torch.zeros(1, 10, device=device), 256) == 256
