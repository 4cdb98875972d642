"""Other attacks at a fixed radius, made to maximise the damage of mean reconstructions: foolbox's, and torchattacks'.

foolbox runs by its own interface, with the loss overridden as its source invites. torchattacks' update is written from
its mathematics, since its success test and its loss know only labels.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from attacks_judge import Counted
from torch import Tensor

Peer = Callable[[Counted, Tensor, float, int, str], Tensor]
"""From a model, clean images, a radius, a number of gradients and a norm to adversarial images."""


def foolbox_attack(name: str, **options: Any) -> Peer:
    """Give one of foolbox's gradient attacks; `{steps}` in a text option stands for the budget, as in `2.5/{steps}`."""

    def run(vae: Counted, images: Tensor, radius: float, budget: int, norm: str) -> Tensor:
        import foolbox

        prefix = {"2": "L2", "inf": "Linf"}[norm]
        chosen = {key: _relative(value, budget) for key, value in options.items()}
        with torch.no_grad():
            anchor = vae(images)
        attack = _damaging(f"{prefix}{name}")(steps=budget, random_start=True, **chosen)
        attack.anchor = anchor
        model = foolbox.PyTorchModel(vae, bounds=vae.input_range, device=images.device)
        return attack(model, images, _anything(len(images)), epsilons=radius)[1]

    return run


def _relative(value: Any, budget: int) -> Any:
    """Turn `2.5/steps` into its number."""
    return float(value.removesuffix("/steps")) / budget if isinstance(value, str) else value


def _anything(count: int) -> Any:
    """Give a criterion that lets every image pass: success is the judge's affair."""
    import foolbox

    class Anything(foolbox.criteria.Misclassification):
        def __call__(self, perturbed: Any, outputs: Any) -> Any:
            return self.labels == 0

    return Anything(torch.zeros(count, dtype=torch.long))


@cache
def _damaging(name: str) -> Any:
    """Derive from one of foolbox's attacks the same with the damage as its loss."""
    import eagerpy
    import foolbox

    base: Any = getattr(foolbox.attacks, name)

    class Damaging(base):
        anchor: Tensor

        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            anchor = eagerpy.astensor(self.anchor)
            return lambda inputs: (model(inputs) - anchor).square().sum()

    return Damaging


def pgd_l2(step: float, per_step: float = 0.0) -> Peer:
    """Give PGDL2 of torchattacks: a start of uniform length, steps along the normalised gradient, ball, then box.

    `step` and `per_step / steps` are added and multiply the radius; theirs is 0.2 at the radius of 1.
    """

    def run(vae: Counted, images: Tensor, radius: float, budget: int, norm: str) -> Tensor:
        radii = torch.full((len(images), 1), float(radius))
        return constant_pgd(vae, images, radii, budget, norm, step + per_step / budget)

    return run


def constant_pgd(vae: Counted, images: Tensor, radii: Tensor, budget: int, norm: str, step: float) -> Tensor:
    """Run PGD with steps of constant length, a share of each image's radius `[B, 1]`."""
    low, high = vae.input_range
    flat, (count, *shape) = images.flatten(1), images.shape
    with torch.no_grad():
        anchor = vae(images)
    point = (flat + _start(flat, radii, norm)).clamp(low, high)
    for _ in range(budget):
        point.requires_grad_()
        damage = (vae(point.reshape(count, *shape)) - anchor).square().sum()
        (gradient,) = torch.autograd.grad(damage, point)
        with torch.no_grad():
            delta = point + step * radii * _direction(gradient, norm) - flat
            point = (flat + _cut(delta, radii, norm)).clamp(low, high)
    return point.reshape(count, *shape)


def _start(flat: Tensor, radii: Tensor, norm: str) -> Tensor:
    if norm == "inf":
        return radii * (2 * torch.rand_like(flat) - 1)
    noise = torch.randn_like(flat)
    return noise / noise.norm(dim=1, keepdim=True) * torch.rand_like(radii) * radii


def _direction(gradient: Tensor, norm: str) -> Tensor:
    return gradient.sign() if norm == "inf" else gradient / (gradient.norm(dim=1, keepdim=True) + 1e-10)


def _cut(delta: Tensor, radii: Tensor, norm: str) -> Tensor:
    if norm == "inf":
        return torch.maximum(torch.minimum(delta, radii), -radii)
    return delta * (radii / delta.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)


PEERS: dict[str, Peer] = {
    "foolbox PGD": foolbox_attack("ProjectedGradientDescentAttack"),
    "foolbox PGD, 2.5/steps": foolbox_attack("ProjectedGradientDescentAttack", rel_stepsize="2.5/steps"),
    "foolbox Adam PGD": foolbox_attack("AdamProjectedGradientDescentAttack"),
    "foolbox basic iterative": foolbox_attack("BasicIterativeAttack"),
    "foolbox momentum": foolbox_attack("MomentumIterativeFastGradientMethod"),
    "torchattacks PGD": pgd_l2(0.2),
    "torchattacks PGD, 2.5/steps": pgd_l2(0.0, 2.5),
}
"""foolbox's with its own step sizes and a random start, which its basic iterative method has not by default: from the
clean image, where the gradient is zero, that one never moves."""
