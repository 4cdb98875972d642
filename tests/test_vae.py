"""A model is told apart by its weights, lent and given back as it came, and refuses images not made for it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toys import isotropic_vae
from vaerdict.vae import VAE, BoundableVAE, Posterior, borrowed, check_images, fingerprint


class Holder(nn.Module):
    """One buffer, whatever its name, type and shape."""

    def __init__(self, name: str, values: Tensor, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer(name, values, persistent=persistent)


def prints(*modules: nn.Module) -> set[str]:
    return {fingerprint(module) for module in modules}


# --- fingerprint ---


def test_equal_weights_have_equal_fingerprints() -> None:
    vae = isotropic_vae()
    assert fingerprint(vae) == fingerprint(copy.deepcopy(vae)) == fingerprint(isotropic_vae())
    assert len(fingerprint(vae)) == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_fingerprint_follows_every_value(dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 3, dtype=dtype)
    variants = [zeros]
    for i in range(6):
        other = zeros.clone()
        other.view(-1)[i] = 1
        variants.append(other)
    assert len(prints(*(Holder("x", values) for values in variants))) == 7


def test_fingerprint_sees_the_last_bit() -> None:
    one = torch.ones(3)
    assert len(prints(Holder("x", one), Holder("x", torch.nextafter(one, 2 * one)))) == 2
    assert len(prints(Holder("x", torch.zeros(1)), Holder("x", -torch.zeros(1)))) == 2


def test_fingerprint_follows_names_types_and_shapes() -> None:
    variants = (
        Holder("x", torch.zeros(4)),
        Holder("y", torch.zeros(4)),
        Holder("x", torch.zeros(2, 2)),
        Holder("x", torch.zeros(8, dtype=torch.bfloat16)),
        Holder("x", torch.zeros(8, dtype=torch.float16)),
        Holder("x", torch.zeros(0)),
        Holder("x", torch.zeros(0, 1)),
    )
    assert len(prints(*variants)) == len(variants)


def test_fingerprint_follows_buffers_without_dimensions() -> None:
    """As in BatchNorm, whose `num_batches_tracked` is one."""
    variants = [Holder("x", values) for values in (torch.tensor(0.0), torch.tensor(1.0), torch.tensor([0.0]))]
    assert len(prints(*variants)) == 3
    assert fingerprint(nn.BatchNorm1d(2)) == fingerprint(nn.BatchNorm1d(2))


def test_fingerprint_follows_buffers_that_are_not_saved() -> None:
    variants = (Holder("x", values, persistent=False) for values in (torch.zeros(2), torch.ones(2)))
    assert len(prints(*variants)) == 2


def test_fingerprint_does_not_follow_gradients_mode_or_layout() -> None:
    linear = nn.Linear(3, 2)
    before = fingerprint(linear)
    linear(torch.ones(1, 3)).sum().backward()
    linear.eval().requires_grad_(False)
    assert fingerprint(linear) == before
    linear.weight.data = linear.weight.data.T.contiguous().T
    assert fingerprint(linear) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fingerprint_does_not_follow_the_device() -> None:
    assert fingerprint(isotropic_vae().to("cuda")) == fingerprint(isotropic_vae())


# --- check_images ---


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 1, 3), r"expected images of shape \[B, \(1, 1, 12\)\], got \(2, 1, 1, 3\)"),
        (torch.zeros(1, 1, 12), r"expected images of shape \[B, \(1, 1, 12\)\], got \(1, 1, 12\)"),
        (torch.full((1, 1, 1, 12), torch.nan), "expected finite pixels, got NaN or infinity"),
        (torch.full((1, 1, 1, 12), -torch.inf), "expected finite pixels, got NaN or infinity"),
        (torch.full((1, 1, 1, 12), 101.0), r"expected pixels in \[-100, 100\], got \[101, 101\]"),
        (torch.full((1, 1, 1, 12), -100.5), r"expected pixels in \[-100, 100\], got \[-100.5, -100.5\]"),
    ],
)
def test_unfit_images_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_images(isotropic_vae(), images)


def test_one_bad_pixel_in_a_batch_is_enough() -> None:
    images = torch.zeros(5, 1, 1, 12)
    check_images(isotropic_vae(), images)
    images[3, 0, 0, 7] = torch.nan
    with pytest.raises(ValueError, match="expected finite pixels"):
        check_images(isotropic_vae(), images)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_the_ends_of_the_range_are_inside(value: float) -> None:
    check_images(isotropic_vae(), torch.full((1, 1, 1, 12), value))


def test_an_empty_batch_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^expected .*"):
        check_images(isotropic_vae(), torch.zeros(0, 1, 1, 12))


# --- borrowed ---


def uneven_vae() -> nn.Module:
    """A model whose parts differ in mode and in what is trained."""
    vae = isotropic_vae()
    vae.train()
    vae.mean_map.eval()
    vae.decoder[0].eval()
    vae.mean_map[1].weight.requires_grad_(False)
    return vae


def state(vae: nn.Module) -> list[Any]:
    modes = [module.training for module in vae.modules()]
    gradients = [(p.requires_grad, p.grad is None, p.device, p.dtype) for p in vae.parameters()]
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in vae.modules()]
    return [modes, gradients, hooks, fingerprint(vae)]


def test_a_borrowed_model_is_frozen_and_comes_back_as_it_was() -> None:
    vae = uneven_vae()
    before = state(vae)
    assert {True, False} == set(before[0])
    with borrowed(vae) as lent:
        assert lent is vae
        assert not any(module.training for module in vae.modules())
        assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert state(vae) == before


def test_a_borrowed_model_comes_back_after_an_exception() -> None:
    vae = uneven_vae()
    before = state(vae)
    with pytest.raises(KeyError, match="mine"), borrowed(vae):
        raise KeyError("mine")
    assert state(vae) == before


def test_whatever_the_borrower_changes_of_mode_and_gradients_is_undone() -> None:
    vae = uneven_vae()
    before = state(vae)
    with borrowed(vae):
        vae.train().requires_grad_(True)
    assert state(vae) == before


def test_loans_can_be_nested() -> None:
    vae = uneven_vae()
    before = state(vae)
    with borrowed(vae):
        with borrowed(vae):
            pass
        assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert state(vae) == before


def test_gradients_reach_the_image_but_not_the_weights() -> None:
    vae, images = isotropic_vae(), torch.ones(1, 1, 1, 12, requires_grad=True)
    with borrowed(vae):
        vae.decode(vae.encode(images).mean).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("other", [None, "vae", lambda images: images])
def test_only_modules_are_borrowed(other: str | Callable[[Tensor], Tensor] | None) -> None:
    message = f"expected a VAE that is a torch module, got {type(other).__name__}"
    with pytest.raises(TypeError, match=message), borrowed(other):
        pass


# --- the contract ---


def test_a_vae_inherits_nothing() -> None:
    vae = isotropic_vae()
    assert not {VAE, BoundableVAE} & set(type(vae).__mro__)
    assert isinstance(vae, VAE)
    assert isinstance(vae, BoundableVAE)
    assert not isinstance(nn.Linear(1, 1), VAE)


def test_a_vae_without_its_maps_cannot_be_bounded() -> None:
    vae = isotropic_vae()
    del vae.mean_map
    assert isinstance(vae, VAE)
    assert not isinstance(vae, BoundableVAE)


def test_a_sample_is_mean_plus_scaled_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std, noise = torch.randn(3, 4, 2, generator=generator).unbind()
    assert torch.equal(Posterior(mean, std.abs()).sample(noise), mean + std.abs() * noise)
