"""For optimisers that know nothing of balls: the constraints as bounds per pixel, a rescaling and a penalty."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.objectives import Loss
from vaerdict.attacks.threat import Ball, scaled, size


def bounds(ball: Ball) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
    """Give the least and greatest value that box and ball allow each pixel of the perturbation by itself.

    >>> ball = Ball(norm="inf", radius=torch.ones(1), box=(0.0, 9.0), center=torch.zeros(1, 2))
    >>> bounds(ball)
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """
    room = ball.room
    if ball.norm != "inf":
        return room.low, room.high
    limit = scaled(torch.ones_like(ball.center), ball.radius)
    return torch.maximum(room.low, -limit), torch.minimum(room.high, limit)


def rescaled(ball: Ball, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Shorten each perturbation that is longer than the radius, differentiably; the L-infinity ball is left to bounds.

    Outside the ball the gradient through it is tangential, so that an ascent ends at a maximum on the sphere. An ascent
    that is projected after each step ends there only if its steps are parallel to the gradient.

    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> rescaled(ball, torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    if ball.norm == "inf":
        return delta
    length = size(delta, ball.norm)
    # Both branches of a `where` are differentiated: the divisor must not be zero where it is not used.
    long = length > ball.radius
    return scaled(delta, torch.where(long, ball.radius / torch.where(long, length, 1), 1))


def penalised(loss: Loss, ball: Ball, weight: float) -> Loss:
    """Give the loss less `weight` times the perturbation's squared L2 norm."""
    if not weight:
        return loss
    return lambda images, noise: loss(images, noise) - weight * (images - ball.center).flatten(1).square().sum(1)
