"""How far a latent may be from an image's mean: by the decoder's global constant, or on balls (THEORY 4.8)."""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from vaerdict.certify.methods.batch import Batch
from vaerdict.certify.model import WIDEST, ModelBounds
from vaerdict.lipschitz import NoSoundBound, dense_chain, trace
from vaerdict.lipschitz.chains.change_norms import bound_local_change_norms

_GAIN = 0.95  # no local bound where the slope at the mean is above this share of the global constant
_FARTHEST = 1024.0  # times what the global constant allows
_LADDER = 8  # balls by closed forms, from what the global constant allows to what the slope at the mean does
_RUNGS = (1.0, 1.12, 1.25, 1.4, 1.57, 1.76)  # times what these gave, by found multipliers
_STEPS = 20
_DOWN = 1 - 2.0**-48

_Numbers = Float64[Tensor, " batch"]


@dataclass(frozen=True)
class Allowed:
    """How far a latent may be from an image's mean, one entry per image.

    Attributes:
        t: the distance that the decoder turns into at most `r`, as it is evaluated.
        a: its slope from the mean, on latents up to `t` away.
        ball: radius of the latents for which the slope is proved; infinite where it is the global constant.
        rounding: of a reconstruction.
    """

    t: _Numbers
    a: _Numbers
    ball: _Numbers
    rounding: _Numbers

    @property
    def by(self) -> list[str]:
        """Name what allows it."""
        return ["global" if math.isinf(ball) else "local" for ball in self.ball.tolist()]


def allowed_distance(batch: Batch) -> Allowed:
    """Take the decoder's global constant or, where that allows more, its slope from the mean on a ball.

    >>> Allowed(*[torch.ones(1).double()] * 4).by
    ['local']
    """
    a, nowhere = torch.full_like(batch.t, batch.a), torch.full_like(batch.t, math.inf)
    allowed = Allowed(batch.t, a, nowhere, batch.decoder_rounding)
    if not (batch.options.local and _is_local(batch.model)):
        return allowed
    means = batch.posterior.mean.double()
    steepest = _slopes(batch.model, means, torch.zeros_like(a)[:, None], 0)[:, 0]
    most = torch.minimum(batch.r / steepest, _FARTHEST * batch.r / a)
    rounding = batch.decoder_error(most)
    room = (batch.r - 2 * rounding).clamp(min=0.0) * _DOWN
    chosen = (steepest < _GAIN * a) & (room > 0)
    if bool(chosen.any()):
        near = _near(batch.model, *(one[chosen] for one in (means, room, room / a, most)))
        allowed = _larger(allowed, chosen, Allowed(*near, rounding[chosen]))
    return allowed


def _near(
    model: ModelBounds, means: Float64[Tensor, "batch latent"], room: _Numbers, least: _Numbers, most: _Numbers
) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Try balls between two radii by closed forms, then some around the best by found multipliers."""
    shares = torch.arange(1, _LADDER + 1).to(room) / _LADDER
    ladder = (least[:, None] * (most / least)[:, None] ** shares).minimum(most[:, None])
    (t, *_) = _best(_slopes(model, means, ladder, 0), ladder, room)
    rungs = (t[:, None] * room.new_tensor(_RUNGS)).minimum(most[:, None])  # rounding is bounded no farther out
    return _best(_slopes(model, means, rungs, _STEPS), rungs, room)


def _best(
    slopes: Float64[Tensor, "batch balls"], radii: Float64[Tensor, "batch balls"], room: _Numbers
) -> tuple[_Numbers, _Numbers, _Numbers]:
    """Take the ball that holds the farthest latents whose reconstructions move by at most the room."""
    farthest = torch.minimum(radii, room[:, None] / slopes) * _DOWN
    t, index = farthest.max(1, keepdim=True)
    return t[:, 0], slopes.gather(1, index)[:, 0], radii.gather(1, index)[:, 0]


def _slopes(
    model: ModelBounds, means: Float64[Tensor, "batch latent"], radii: Float64[Tensor, "batch balls"], steps: int
) -> Float64[Tensor, "batch balls"]:
    return bound_local_change_norms(model.vae.decoder_map, means, radii, steps)


def _larger(allowed: Allowed, chosen: Bool[Tensor, " batch"], near: Allowed) -> Allowed:
    """Take over what allows more, found for the chosen images."""
    wins = near.t > allowed.t[chosen]
    columns = [(getattr(allowed, one.name), getattr(near, one.name)) for one in fields(Allowed)]
    return Allowed(*(all_.masked_scatter(chosen, torch.where(wins, own, all_[chosen])) for all_, own in columns))


def _is_local(model: ModelBounds) -> bool:
    """Whether the decoder's slopes can be bounded on balls, and in less than seconds each."""
    try:
        chain = dense_chain(trace(model.vae.decoder_map, (model.vae.latent,)))
    except NoSoundBound:  # the global constant stands
        return False
    return all(len(one.bias) <= WIDEST for one in chain.maps[:-1])  # of the outputs only norms are bounded
