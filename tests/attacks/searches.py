"""What every optimiser is held to, on VAEs small enough to know the answer."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.toys import LinearVAE
from vaerdict.attacks import PGD
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.judge.evaluate import size_up
from vaerdict.attacks.objectives import MaximumDamage, Objective
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball
from vaerdict.vae import Posterior

DAMAGE = MaximumDamage()


def linear_vae(input_range: tuple[float, float] = (-100.0, 100.0)) -> tuple[LinearVAE, float]:
    """Give a linear VAE and the largest singular value of its mean reconstruction, twice the second."""
    generator = torch.Generator().manual_seed(1)
    q, u = (torch.linalg.qr(torch.randn(12, 4, generator=generator)).Q for _ in range(2))
    return LinearVAE(torch.diag(torch.tensor([3.0, 1.5, 1.0, 0.5])) @ q.T, 2 * u, 0.1, input_range), 6.0


class TinyVAE(nn.Module):
    """Two small nets with bends, pixels in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.input_shape, self.input_range, self.latent = "tiny", (1, 1, 12), (-1.0, 1.0), 3
        generator = torch.Generator().manual_seed(3)
        sizes = [(10, 12), (3, 10), (10, 3), (12, 10)]
        self.weights = nn.ParameterList(torch.randn(s, generator=generator) / s[1] ** 0.5 for s in sizes)

    def encode(self, images: Tensor) -> Posterior:
        mean = torch.tanh(images.flatten(1) @ self.weights[0].T) @ self.weights[1].T
        return Posterior(mean, torch.full_like(mean, 0.1))

    def decode(self, latents: Tensor) -> Tensor:
        return (nn.functional.softplus(latents @ self.weights[2].T) @ self.weights[3].T).unflatten(1, (1, 1, 12))


class Fenced(TinyVAE):
    """The same, but not finite where the first pixel exceeds 0.5."""

    def encode(self, images: Tensor) -> Posterior:
        posterior = super().encode(images)
        beyond = (images[:, 0, 0, :1] > 0.5).to(images)
        return Posterior(posterior.mean + torch.log1p(-beyond), posterior.std)


def images_of(count: int, pixels: int = 12) -> Tensor:
    """Give images within [-0.4, 0.4]."""
    return 0.8 * torch.rand(count, 1, 1, pixels, generator=torch.Generator().manual_seed(2)) - 0.4


def case(vae, images: Tensor, radius: float, norm: str = "2", reconstruction: str = "mean", ids=None, r: float = 1.0):
    """Give a batch and the ball around it."""
    question = Question(r=r, norm=norm, reconstruction=reconstruction)
    batch = Batch.of(Meter(vae), images, question, 0, tuple(range(len(images))) if ids is None else tuple(ids))
    return batch, Ball(norm=norm, radius=torch.full((len(images),), radius), box=vae.input_range, center=images)


def damage(batch: Batch, ball: Ball, delta: Tensor) -> Tensor:
    """Give the mean reconstruction's change."""
    with torch.no_grad():
        moved = batch.vae.decode(batch.vae.encode(ball.center + delta).mean)
    return (moved - batch.anchor).flatten(1).norm(dim=1)


def assert_reaches_the_singular_value(options, reconstruction: str, least: float = 0.995) -> None:
    for low, high in [(-100.0, 100.0), (0.0, 1.0)]:
        vae, top = linear_vae((low, high))
        batch, ball = case(vae, (low + high) / 2 + images_of(4) / 10, 0.3, reconstruction=reconstruction)
        delta, sane = options.search(batch, DAMAGE, ball, "test")
        found = damage(batch, ball, delta)
        assert bool(sane.all())
        assert bool((found >= least * 0.3 * top).all())
        assert bool((found <= 0.3 * top * (1 + 1e-5)).all())


def assert_reaches_the_best_known(options, norm: str, least: float = 0.995) -> None:
    batch, ball = case(TinyVAE(), images_of(4), {"2": 0.5, "inf": 0.2}[norm], norm)
    known = PGD(steps=40, restarts=3, momentum=0.0, probes=1).search(batch, DAMAGE, ball, "known")[0]
    found = options.search(batch, DAMAGE, ball, "test")[0]
    assert bool((damage(batch, ball, found) >= least * damage(batch, ball, known)).all())


def assert_stays_inside(options, norm: str, objective: Objective = DAMAGE) -> None:
    """Check ball and box for an image in a corner, one on a side and one within, and for each its own radius."""
    images = images_of(3)
    images[0] = 1.0
    images[1, ..., :6] = -1.0
    batch, ball = case(TinyVAE(), images, 0.5, norm, "sampled")
    ball = ball.with_radius(torch.tensor([0.1, 0.7, 0.0]))
    delta, sane = options.search(batch, objective, ball, "test")
    adversarial = images + delta
    assert bool(sane.all())
    assert float(adversarial.abs().max()) <= 1 + 1e-6
    assert bool((size_up(adversarial, images, norm) <= ball.radius * (1 + 1e-5) + 1e-6).all())
    assert bool((delta[:2].flatten(1).abs().sum(1) > 0.05).all())


def assert_not_finite_stays_its_own(options, least: float = 0.7) -> None:
    """Check a sample that never is finite, one that is only in part of its ball, and one far from trouble."""
    images = images_of(3)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.8, 0.45
    batch, ball = case(Fenced(), images, 0.25)
    delta, sane = options.search(batch, DAMAGE, ball, "test")
    assert sane.tolist() == [False, True, True]
    assert bool(delta[1:].isfinite().all())
    free, around = case(TinyVAE(), images, 0.25)
    expected = options.search(free, DAMAGE, around, "test")[0]
    torch.testing.assert_close(delta[2], expected[2], rtol=1e-3, atol=1e-4)
    found = damage(batch, ball, delta)
    assert float(found[1]) >= least * float(damage(free, around, expected)[1])


def assert_same_draws_in_any_batch(options, reconstruction: str) -> None:
    """Check by the damage done: rounding may differ between batches, and equally good directions then change places."""
    vae, images, ids = linear_vae()[0], images_of(5), [7, 3, 11, 0, 5]

    def found(order: list[int]) -> Tensor:
        batch, ball = case(vae, images[order], 0.3, reconstruction=reconstruction, ids=[ids[i] for i in order])
        return damage(batch, ball, options.search(batch, DAMAGE, ball, "test")[0])

    whole = found([0, 1, 2, 3, 4])
    torch.testing.assert_close(torch.cat([found([4, 2]), found([3])]), whole[[4, 2, 3]], rtol=1e-4, atol=0)


def assert_zero_start_never_leaves(options) -> None:
    """Check that a start of zero keeps zero damage, since the gradient there is exactly zero, and a small one grows."""
    batch, ball = case(linear_vae()[0], images_of(3), 0.3)
    stuck, sane = replace(options, start=0.0).search(batch, DAMAGE, ball, "test")
    assert bool(sane.all())
    assert not stuck.any()
    small = replace(options, start=1e-3).search(batch, DAMAGE, ball, "test")[0]
    assert bool((damage(batch, ball, small) > 0.9 * 0.3 * 6.0).all())


class Operations(TorchDispatchMode):
    """Record the name of every operation that torch executes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def assert_never_waits(search) -> None:
    """Check that no operation copies a number from the device to the host."""
    with Operations() as seen:
        search()
    assert "aten::mm" in seen.names
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"} & set(seen.names)
