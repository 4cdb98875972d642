"""AutoencoderKL of diffusers, tiny and freshly initialised: the same function as its own methods, or a refusal."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from tests.untyped import untyped
from vaerdict.models import wrap
from vaerdict.models.adapters import adapt_diffusers, clamped_share
from vaerdict.vae import fingerprint

SHAPE = (3, 16, 16)


def tiny(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**{**sizes, **changes})


def images_of(count: int) -> Tensor:
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize("quant", [True, False])
def test_it_is_the_autoencoders_own_function(quant: bool) -> None:
    kl, images = tiny(use_quant_conv=quant, use_post_quant_conv=quant).eval(), images_of(3)
    vae = adapt_diffusers(kl, SHAPE)
    assert (vae.input_range, vae.latent_shape, vae.latent) == ((-1.0, 1.0), (4, 8, 8), 256)
    with torch.no_grad():
        posterior, own = vae.encode(images), kl.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, own.mean.flatten(1))
        torch.testing.assert_close(posterior.std, own.std.flatten(1))
        torch.testing.assert_close(vae.decode(posterior.mean), kl.decode(own.mean).sample)


def test_the_layers_are_shared_and_hashed() -> None:
    kl = tiny()
    vae = adapt_diffusers(kl, SHAPE)
    before = fingerprint(vae)
    assert {id(p) for p in vae.parameters()} == {id(p) for p in kl.parameters()}
    assert kl.training
    kl.decoder.conv_out.bias.data += 1
    assert fingerprint(vae) != before


def add_one(counts: list[int], place: int) -> None:
    counts[place] += 1


def test_checkpointing_changes_no_gradient_and_runs_blocks_twice() -> None:
    gradients, runs = [], []
    for checkpointed in (False, True):
        kl = tiny()
        if checkpointed:
            kl.enable_gradient_checkpointing()
        blocks = [kl.encoder.down_blocks[0].resnets[0], kl.decoder.up_blocks[0].resnets[0]]
        vae, images = adapt_diffusers(kl, SHAPE).eval(), images_of(1).requires_grad_()
        counts = [0, 0]
        for place, block in enumerate(blocks):
            block.conv1.register_forward_hook(lambda *_, counts=counts, place=place: add_one(counts, place))
        vae.decode(vae.encode(images).mean).square().sum().backward()
        gradients.append(images.grad)
        runs.append(counts)
    assert runs == [[1, 1], [2, 2]]
    torch.testing.assert_close(*gradients)


def test_the_clamped_share_says_where_the_gradient_of_the_spread_is_zero() -> None:
    kl, images = tiny(), images_of(2)
    vae = adapt_diffusers(kl, SHAPE)
    assert clamped_share(vae, images).tolist() == [0.0, 0.0]
    kl.quant_conv.bias.data[4] = -90.0  # one of four channels of log-variances
    kl.quant_conv.bias.data[5] = 90.0
    assert clamped_share(vae, images).tolist() == [0.5, 0.5]
    images.requires_grad_()
    std = vae.encode(images).std.unflatten(1, vae.latent_shape)
    slopes = [float(torch.autograd.grad(std[:, i].log().sum(), images, retain_graph=True)[0].norm()) for i in range(4)]
    assert slopes[:2] == [0.0, 0.0]
    assert min(slopes[2:]) > 0
    with pytest.raises(ValueError, match="expected a VAE made by adapt_diffusers, got other"):
        clamped_share(_other(), images.detach())


def _other() -> Any:
    flat, back = torch.nn.Flatten(), torch.nn.Unflatten(1, SHAPE)
    return wrap(flat, back, input_shape=SHAPE, latent_shape=(768,), spread="constant", std=1.0, name="other")


class Doubled(AutoencoderKL):
    """A relative whose decoder does more than run the layers."""

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().decode(2 * z, *args, **kwargs)


def tiled() -> AutoencoderKL:
    kl = tiny()
    kl.enable_tiling()
    return kl


def half_quant() -> AutoencoderKL:
    kl = tiny()
    kl.quant_conv.half()
    return kl


def doubled() -> AutoencoderKL:
    kl = tiny()
    kl.__class__ = Doubled
    return kl


REFUSED = {
    "tiles": (tiled, SHAPE, "expected no tiling, which computes another function"),
    "half precision": (lambda: tiny().half(), SHAPE, "expected weights in float32 or float64 .* got torch.float16"),
    "no posterior": (AutoencoderTiny, SHAPE, "expected an autoencoder with a Gaussian posterior, got AutoencoderTiny"),
    "another model": (lambda: torch.nn.Linear(1, 1), SHAPE, "expected an AutoencoderKL of diffusers, got Linear"),
    "more than its layers": (doubled, SHAPE, "expected an autoencoder that only runs its layers, got Doubled"),
    "one layer in half precision": (half_quant, SHAPE, "expected weights in float32 or float64 .* got torch.float16"),
    "other channels": (tiny, (1, 16, 16), "expected an `input_shape` with the autoencoder's 3 channels, got .1, 16"),
    "two sizes": (tiny, (16, 16), "expected an `input_shape` of channels, height and width, got .16, 16"),
    "odd sides": (tiny, (3, 16, 15), "expected reconstructions of shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_function_is_refused(case: str) -> None:
    make, shape, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        untyped(adapt_diffusers, make(), shape)
