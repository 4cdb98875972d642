"""Certify images: every method that applies, one row per image and method."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.certify.methods import METHODS, SMOOTHED, Batch, Margins, missing, missing_draws
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.rounding import measured_error
from vaerdict.certify.statistics import split_confidence
from vaerdict.lipschitz import NoSoundBound
from vaerdict.options import CertifyOptions, Question, require
from vaerdict.results import Row, subjects
from vaerdict.vae import BoundableVAE, Posterior, borrowed, check_images, fingerprint

BATCH_SIZE = 1024


def certify(
    vae: BoundableVAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    p: float = 0.5,
    options: CertifyOptions = CertifyOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dataset: str = "",
    r_relative: float | None = None,
    known: ModelBounds | None = None,
) -> list[Row]:
    """Certify how far each image may move before its reconstruction moves by more than `r`.

    Args:
        vae: the model; it is put into evaluation mode for the while.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        r: allowed L2 distance between reconstructions, in pixel units.
        p: the reconstruction must stay within `r` with a probability above this level, in [1/2, 1); it plays no part
            where nothing is random, in `mean` and `smoothed` reconstructions.
        options: methods (default: all that apply), norm, kind of reconstruction, Monte-Carlo draws and confidence.
        seed: of the Monte-Carlo draws; each image has its own.
        sample_ids: index of each image in its source; default 0, 1, 2, ...
        dataset: name of the source, for the rows.
        r_relative: `r` as a share of the models' typical distance, for the rows.
        known: bounds of the same model with the same options, so that several calls share them.

    Returns:
        Rows of kind `certificate` (and `estimate`, which proves nothing), margins in pixel units, in the norm of the
        options. A method that does not apply, or has too few draws, has rows with status `unsupported` and the reason.
        Rows of `smoothed` reconstructions have a `noise_std` and say nothing of the model without that noise.

    Raises:
        TypeError: the model does not show its maps as modules; defences do not.
        NoSoundBound: a method asked for by name, or every certificate, does not apply; the message says what does.
        ValueError: images, `r`, `p` or the posterior are outside their ranges; too few draws for a method asked for by
            name, or for every certificate that applies.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(hidden=(8,), latent=2), name="toy", input_shape=(1, 4, 4))
    >>> rows = certify(vae, torch.rand(3, 1, 4, 4), r=8.0, options=CertifyOptions(methods=("isotropic",)))
    >>> [round(row.margin, 3) for row in rows]
    [0.319, 0.319, 0.319]
    """
    Question(r=r, p=p)
    if not isinstance(vae, BoundableVAE):
        raise TypeError(f"expected a model whose maps are modules, as `models.wrap` makes, got {type(vae).__name__}")
    check_images(vae, images)
    sample_ids = list(range(len(images))) if sample_ids is None else list(sample_ids)
    require(len(sample_ids) == len(images), f"{len(images)} sample ids", len(sample_ids))
    with borrowed(vae), torch.no_grad():
        model = known or ModelBounds(vae, images[:1], options)
        same = model.identity == ModelBounds.identify(vae, images[:1]) and model.options == options
        require(same, "`known` bounds of this model as it is, on its device, and of these options", "others")
        bare = options.noise_std == 0  # else nothing is bounded, and the model may be anything
        if bare:
            _check_constant_std(model)
        reasons = _choose(model, p)
        who = subjects(vae.name, fingerprint(vae), dataset, images.cpu().numpy(), sample_ids)  # type: ignore[arg-type]
        ask = {"r": r, "p": p, "r_relative": r_relative, "seed": seed}
        noise = options.noise_std if options.reconstruction == "smoothed" else None
        kind = {"reconstruction": options.reconstruction, "noise_std": noise, "norm": options.norm}
        machine = {"device": images.device.type, "dtype": str(images.dtype).removeprefix("torch.")}
        rows: list[Row] = []
        for start in range(0, len(images), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            batch = Batch(
                model=model,
                images=images[part],
                posterior=_posterior(model, images[part]) if bare else vae.encode(images[part].clone()),
                r=r,
                p=p,
                confidence=_each(reasons, options),
                seed=seed,
                sample_ids=sample_ids[part],
            )
            for name, reason in reasons.items():
                rows += _rows(name, reason, batch, [{**subject, **ask, **kind, **machine} for subject in who[part]])
    return rows


def choose_methods(
    vae: BoundableVAE, images: Float[Tensor, "batch ..."], options: CertifyOptions, p: float = 0.5
) -> dict[str, str | None]:
    """Give the methods to run, each with the reason why it does not apply at the level `p`, or None where it does.

    Raises:
        NoSoundBound: a method asked for by name, or every certificate, does not apply; the message says what does.
        ValueError: too few draws for a method asked for by name, or for every certificate that applies.
    """
    with borrowed(vae), torch.no_grad():
        return _choose(ModelBounds(vae, images[:1], options), p)


def _choose(model: ModelBounds, p: float) -> dict[str, str | None]:
    options = model.options
    reasons = {name: missing(name, model) for name in METHODS}
    usable = [name for name, reason in reasons.items() if reason is None]
    refused = [name for name in options.methods if name not in usable]
    if not options.methods and not any(METHODS[name].kind == "certificate" for name in usable):
        refused = list(SMOOTHED[::-1] if options.reconstruction == "smoothed" else reasons)
    if refused:
        raise NoSoundBound(
            f"{refused[0]} does not apply to {model.vae.name}: {reasons[refused[0]]}; "
            f"methods that apply: {', '.join(usable) or 'none'}"
        )
    return _drawn({name: reasons[name] for name in options.methods or reasons}, options, p)


def _drawn(reasons: dict[str, str | None], options: CertifyOptions, p: float) -> dict[str, str | None]:
    """Add the reasons of methods that apply and have too few draws."""
    usable, each = [name for name, reason in reasons.items() if reason is None], _each(reasons, options)
    few = {name: few for name in usable if (few := missing_draws(name, options.samples, p, each))}
    left = any(METHODS[name].kind == "certificate" for name in usable if name not in few)
    if few and (options.methods or not left):
        raise ValueError(next(iter(few.values())))
    return reasons | few


def _each(reasons: dict[str, str | None], options: CertifyOptions) -> float:
    """Give the confidence of each statistical statement, so that all of an image hold with the one asked for."""
    statements = {METHODS[name].statistics for name, reason in reasons.items() if reason is None} - {None}
    return split_confidence(options.confidence, max(1, len(statements)))


def _check_constant_std(model: ModelBounds) -> None:
    """Refuse standard deviations that differ between three images where they are said not to depend on the image."""
    if model.vae.std_map is None:
        low, high = (torch.full_like(model.example, end) for end in model.vae.input_range)
        std = torch.cat([model.vae.encode(image.clone()).std for image in (model.example, low, high)])
        require(
            bool((std == std[:1]).all()),
            "the same standard deviations for all images where `std_map` is None",
            "others",
        )


def _posterior(model: ModelBounds, images: Tensor) -> Posterior:
    """Encode, and hold what the model computes against what is bounded."""
    vae = model.vae
    posterior = vae.encode(images.clone())  # a first layer may work in place
    finite = torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.std).all()
    positive = bool(finite and (posterior.std > 0).all())
    require(positive, "finite posterior means and positive finite standard deviations", "others")
    reconstructions = vae.decode(posterior.mean.clone())
    require(bool(torch.isfinite(reconstructions).all()), "finite reconstructions", "others")
    measured_error(model.decoder_rounding, posterior.mean, reconstructions)
    if vae.std_map is None:
        constant = bool((posterior.std == posterior.std[:1]).all())
        require(constant, "the same standard deviations for all images where `std_map` is None", "others")
    return posterior


def _rows(name: str, reason: str | None, batch: Batch, common: list[dict[str, Any]]) -> list[Row]:
    method = METHODS[name]
    facts: dict[str, Any] = {"method": name, "kind": method.kind}
    if reason is not None:
        facts |= {"strength": method.strength, "status": "unsupported", "reason": reason}
        return [Row(**columns, **facts) for columns in common]
    start = time.perf_counter()
    margins = method.margins(batch)
    strengths = margins.strengths or [method.strength] * len(common)
    empty = margins.reasons or ["no radius above 0 was verified"] * len(common)
    facts |= {
        "confidence": margins.confidence,
        "n_forward": margins.n_forward,
        "n_backward": margins.n_backward,
        "time_s": (time.perf_counter() - start) / len(common),
    }
    return [
        Row(
            **columns,
            **facts,
            strength=strength,
            margin=margin,
            reason="" if margin > 0 else why,
            constants=constants,
        )
        for columns, margin, constants, strength, why in zip(
            common, _numbers(name, margins), margins.constants, strengths, empty, strict=True
        )
    ]


def _numbers(name: str, margins: Margins) -> list[float]:
    values = margins.values.tolist()
    if any(math.isnan(value) for value in values):
        raise FloatingPointError(f"{name} gave a margin that is not a number")
    return values
