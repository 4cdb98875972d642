"""Two levels with proved constants: tight on the likelihood-ratio event, and never beaten by an attack."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from vaerdict.certify import draws as draws_module
from vaerdict.certify.hierarchical import HierarchicalVAE, bound_joint_shift, certify_hierarchical
from vaerdict.certify.statistics import clopper_pearson_lower
from vaerdict.lipschitz import LipschitzBound, NoSoundBound, bound_lipschitz
from vaerdict.reports import summary
from vaerdict.results import Contradiction, Row, array_sha256, check_contradictions, frame, load, sandwich, write_part
from vaerdict.vae import Posterior, fingerprint

PIXELS = 6


def facts(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.constants))


class TwoLevels(nn.Module):
    """`z_1 ~ N(M x, s_1^2)`, `z_2 ~ N(A x + 2 tanh(B z_1), s_2(z_1)^2)`, with `s_2` moved by `z_1` but not by `x`."""

    def __init__(self, first: nn.Module, second: nn.Module, decoder: nn.Module, levels: tuple[int, int]) -> None:
        super().__init__()
        self.name, self.levels = "two levels", levels
        self.input_shape, self.input_range = (1, 1, PIXELS), (-10.0, 10.0)
        self.first, self.second, self.decoder = first, second, decoder
        self.between = nn.Linear(levels[0], levels[1])
        self.stds = (0.4, 0.25)

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        if not earlier:
            mean = self.first(images.flatten(1))
            return Posterior(mean, torch.full_like(mean, self.stds[0]))
        mean = self.second(images.flatten(1)) + 2 * self.between(earlier[0]).tanh()
        return Posterior(mean, (self.stds[1] * (1 + earlier[0][:, :1].sigmoid())).expand_as(mean))

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        return self.decoder(torch.cat(list(latents), dim=1))

    def whitened(self) -> list[float]:
        """Proved constants in `x` alone: what `z_1` adds to the second mean is the same for all `x`; `s_2 >= 0.25`."""
        maps = (self.first, self.second)
        return [float(bound_lipschitz(one, (PIXELS,))) / std for one, std in zip(maps, self.stds, strict=True)]


class Shape(nn.Sequential):
    """A dense decoder of all latents, to images."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers, nn.Unflatten(1, (1, 1, PIXELS)))


def smooth_vae() -> TwoLevels:
    first, second = nn.Sequential(nn.Linear(PIXELS, 8), nn.Tanh(), nn.Linear(8, 2)), nn.Linear(PIXELS, 3)
    decoder = Shape(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, PIXELS))
    return TwoLevels(first, second, decoder, (2, 3))


# --- tight ---


class Ratio(TwoLevels):
    """Both levels move with `<u, x>` alone, and the decoder jumps on the half-space that tells the two images apart.

    Standard deviations are constant. The clean image is 0: there the latents tell the noise `e_1` and `e_2` that made
    them, and the half-space is `s_1 e_1 + s_2 e_2 <= 1.2 s`, which has the probability `Phi(1.2)`.
    """

    def __init__(self, constants: tuple[float, float]) -> None:
        super().__init__(nn.Linear(PIXELS, 1, bias=False), nn.Linear(PIXELS, 1, bias=False), Shape(), (1, 1))
        self.constants = constants
        direction = torch.ones(1, PIXELS) / math.sqrt(PIXELS)
        with torch.no_grad():
            for layer, constant, std in zip((self.first, self.second), constants, self.stds, strict=True):
                layer.weight.copy_(constant * std * direction)

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        found = super().posterior(images, earlier)
        return Posterior(found.mean, torch.full_like(found.mean, self.stds[len(earlier)]))

    def ratio(self, latents: Sequence[Tensor]) -> Tensor:
        """Give the statistic by which the clean image differs most from one moved along `u`."""
        e = (
            latents[0] / self.stds[0],
            (latents[1] - 2 * self.between(latents[0]).tanh()) / self.stds[1],
        )
        return self.constants[0] * e[0] + self.constants[1] * e[1]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        limit = 1.2 * math.hypot(*self.constants)
        return (10.0 * (self.ratio(latents) > limit)).expand(-1, PIXELS).unflatten(1, (1, 1, PIXELS))


def test_the_bound_is_attained_on_the_likelihood_ratio_event() -> None:
    """`P(ratio <= 1.2 s)` is `Phi(1.2)` at the clean image and `Phi(1.2 - s rho)` after a move by `rho`."""
    vae, constants = Ratio((1.5, 2.0)), (1.5, 2.0)
    shift, draws = bound_joint_shift(constants), 40_000
    generator = torch.Generator().manual_seed(0)
    for rho in (0.0, 0.3, 0.48, 0.8):
        images = torch.full((draws, PIXELS), rho / math.sqrt(PIXELS)).reshape(draws, 1, 1, PIXELS)
        with torch.no_grad():
            first = vae.posterior(images, []).sample(torch.randn(draws, 1, generator=generator))
            second = vae.posterior(images, [first]).sample(torch.randn(draws, 1, generator=generator))
            kept = float((vae.decode([first, second]).flatten(1)[:, 0] == 0).double().mean())
        assert kept == pytest.approx(norm.cdf(1.2 - shift * rho), abs=4 * 0.5 / math.sqrt(draws))


def test_the_certified_margin_misses_the_true_one_by_the_statistics_only() -> None:
    vae = Ratio((1.5, 2.0))
    whitened = [float(bound_lipschitz(one)) / std for one, std in zip((vae.first, vae.second), vae.stds, strict=True)]
    (result,) = certify_hierarchical(
        vae,
        torch.zeros(1, 1, 1, PIXELS),
        r=5.0,
        whitened=whitened,
        reconstruction="anchored",
        samples=20_000,
        confidence=0.99,
    )
    truth = 1.2 / 2.5  # the ratio's limit 1.2 s over s per unit of distance
    assert result.reason == ""
    told = facts(result)
    assert told["shift"] == pytest.approx(2.5, rel=1e-6)
    assert result.margin == pytest.approx(norm.ppf(told["clean"]) / told["shift"], rel=1e-6)
    assert 0.95 * truth < result.margin < truth


def test_the_clean_probability_is_covered() -> None:
    """In `1 - confidence` of the runs, not more, the margin may exceed the true one."""
    vae, repeats = Ratio((1.5, 2.0)), 300
    results = certify_hierarchical(
        vae,
        torch.zeros(repeats, 1, 1, PIXELS),
        r=5.0,
        whitened=[1.5, 2.0],
        reconstruction="anchored",
        samples=400,
        confidence=0.8,
    )
    wrong = sum(result.margin > 1.2 / 2.5 for result in results) / repeats
    assert 0.05 < wrong <= 0.2 + 4 * math.sqrt(0.16 / repeats)


# --- attacked ---


def kept(vae: TwoLevels, clean: Tensor, moved: Tensor, noise: Tensor, r: float) -> float:
    """Estimate the probability of staying within `r` of the clean means' reconstruction."""
    with torch.no_grad():
        return float((change(vae, clean, moved, noise) <= r).double().mean())


def change(vae: TwoLevels, clean: Tensor, moved: Tensor, noise: Tensor) -> Tensor:
    first, second = noise.split(list(vae.levels), dim=1)
    here = moved.expand(len(noise), -1, -1, -1)
    z1 = vae.posterior(here, []).sample(first)
    z2 = vae.posterior(here, [z1]).sample(second)
    m1 = vae.posterior(clean, []).mean
    m2 = vae.posterior(clean, [m1]).mean
    return (vae.decode([z1, z2]) - vae.decode([m1, m2])).flatten(1).norm(dim=1)


def climb(vae: TwoLevels, clean: Tensor, delta: Tensor, radius: float, noise: Tensor) -> Tensor:
    """Walk to where the expected change is large, on the sphere of the radius."""
    for _ in range(25):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(change(vae, clean, clean + delta, noise).mean(), delta)
        delta = delta + 0.3 * radius * gradient / gradient.norm().clamp(min=1e-12)
        delta = radius * delta / delta.norm()
    return delta.detach()


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_no_attack_within_the_margin_wins(p: float) -> None:
    vae, clean, r = smooth_vae(), torch.rand(1, 1, 1, PIXELS), 0.7
    (result,) = certify_hierarchical(
        vae, clean, r=r, p=p, whitened=vae.whitened(), reconstruction="anchored", samples=4000
    )
    assert result.margin > 0.02
    noise, few = torch.randn(20_000, 5), torch.randn(500, 5)
    starts = torch.randn(30, 1, 1, 1, PIXELS)
    starts = result.margin * starts / starts.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1, 1)
    found = [*starts, *(climb(vae, clean, start, result.margin, few) for start in starts[:4])]
    shares = [kept(vae, clean, clean + delta, noise, r) for delta in found]
    assert min(shares) > p - 4 * 0.5 / math.sqrt(len(noise))
    assert min(shares[-4:]) <= min(shares[:-4]) + 0.01  # the search is not worse than chance


# --- rows ---


def test_rows_say_what_was_asked_and_what_recomputes_them() -> None:
    vae, images = smooth_vae(), torch.rand(2, 1, 1, PIXELS)
    ask: dict[str, Any] = {"r": 2.0, "p": 0.6, "samples": 300, "confidence": 0.99, "seed": 5}
    rows = certify_hierarchical(
        vae, images, whitened=vae.whitened(), sample_ids=[3, 8], dataset="digits", r_relative=0.5, **ask
    )
    for row, one, sample_id in zip(rows, images, (3, 8), strict=True):
        assert (row.method, row.kind, row.strength, row.status) == ("hierarchical", "certificate", "statistical", "ok")
        assert (row.model, row.model_sha256, row.dataset) == ("two levels", fingerprint(vae), "digits")
        assert (row.sample_id, row.sample_sha256) == (sample_id, array_sha256(one.numpy()))
        assert (row.r, row.r_relative, row.p, row.norm, row.reconstruction) == (2.0, 0.5, 0.6, "2", "sampled")
        assert (row.confidence, row.seed, row.noise_std, row.n_forward) == (0.99, 5, None, 2 * 3 * 300)
        told = facts(row)
        assert told["whitened"] == vae.whitened()
        assert told["shift"] == bound_joint_shift(vae.whitened())
        assert told["clean"] == clopper_pearson_lower(told["successes"], 300, 0.99)
        assert told["alpha"] == pytest.approx(0.01)
        assert row.margin > 0
        assert norm.cdf(norm.ppf(told["clean"]) - told["shift"] * row.margin) == pytest.approx(0.6, abs=1e-6)


def test_rows_are_kept_held_against_attacks_and_reported_like_any_other(tmp_path: Path) -> None:
    vae, images = smooth_vae(), torch.rand(2, 1, 1, PIXELS)
    rows = certify_hierarchical(vae, images, r=2.0, whitened=vae.whitened())
    attacked = [
        replace(row, kind="attack", strength="empirical", method="pgd", margin=3 * row.margin, constants="{}")
        for row in rows
    ]
    write_part(tmp_path, [*rows, *attacked], "k")
    table = load(tmp_path)
    check_contradictions(table)
    assert sandwich(table)["ratio"].tolist() == pytest.approx([1 / 3] * 2)
    assert "certified (statistical)" in summary(table)
    with pytest.raises(Contradiction, match=r"hierarchical .statistical. certifies"):
        check_contradictions(frame([*rows, replace(attacked[0], margin=0.5 * rows[0].margin)]))


# --- who draws what ---


def test_the_contract_is_met_by_what_has_its_parts() -> None:
    assert isinstance(smooth_vae(), HierarchicalVAE)


def test_results_belong_to_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, images = smooth_vae(), torch.rand(3, 1, 1, PIXELS)
    ask = {"r": 0.5, "whitened": vae.whitened(), "seed": 3}
    together = certify_hierarchical(vae, images, sample_ids=[4, 8, 15], **ask)
    (alone,) = certify_hierarchical(vae, images[1:2], sample_ids=[8], **ask)
    assert replace(alone, time_s=0.0) == replace(together[1], time_s=0.0)
    (other,) = certify_hierarchical(vae, images[1:2], sample_ids=[9], **ask)
    assert facts(other)["successes"] != facts(alone)["successes"]
    seen: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(draws_module, "_NUMBERS_AT_ONCE", 1600)
    certify_hierarchical(vae, images, **ask)
    assert max(seen) == 100
    assert sum(seen) == 3 * 2 * 2000


def test_anchored_and_sampled_are_different_questions() -> None:
    vae, images = smooth_vae(), torch.rand(1, 1, 1, PIXELS)
    both = [
        facts(certify_hierarchical(vae, images, r=0.5, whitened=vae.whitened(), reconstruction=kind)[0])["clean"]
        for kind in ("sampled", "anchored")
    ]
    assert both[0] < both[1]


def test_the_model_comes_back_as_it_was() -> None:
    vae = smooth_vae().train()
    certify_hierarchical(vae, torch.rand(1, 1, 1, PIXELS), r=1.0, whitened=vae.whitened())
    assert vae.training
    assert all(parameter.requires_grad for parameter in vae.parameters())


# --- nothing certified, and refusals ---


def test_a_rare_event_has_no_margin_and_says_why() -> None:
    vae = smooth_vae()
    (result,) = certify_hierarchical(vae, torch.rand(1, 1, 1, PIXELS), r=1e-3, whitened=vae.whitened())
    assert (result.margin, facts(result)["clean"]) == (0.0, 0.0)
    assert result.reason == "only shown to be within `r` with probability 0, not above 0.5"


def test_outputs_that_are_not_numbers_are_not_within() -> None:
    vae = smooth_vae()
    with torch.no_grad():
        vae.decoder[2].bias.fill_(math.nan)
    (result,) = certify_hierarchical(vae, torch.rand(1, 1, 1, PIXELS), r=100.0, whitened=vae.whitened())
    assert (facts(result)["successes"], result.margin) == (0, 0.0)


@pytest.mark.parametrize("level", [0, 1])
def test_a_constant_that_the_model_exceeds_is_refused(level: int) -> None:
    vae = Ratio((1.5, 2.0))
    whitened = [1.5, 2.0]
    whitened[level] *= 0.9
    with pytest.raises(ValueError, match=rf"expected `whitened` >= {(1.5, 2.0)[level]:g}.* at level {level + 1}"):
        certify_hierarchical(vae, torch.zeros(1, 1, 1, PIXELS), r=5.0, whitened=whitened)


def test_a_spread_that_moves_with_the_image_is_refused() -> None:
    vae = smooth_vae()
    proper = vae.posterior

    def moving(images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        found = proper(images, earlier)
        return Posterior(found.mean, found.std * (1 + 0.1 * images[:, 0, 0, :1].abs())) if earlier else found

    vae.posterior = moving  # type: ignore[method-assign]
    with pytest.raises(NoSoundBound, match="level 2: the standard deviation depends on the image"):
        certify_hierarchical(vae, torch.rand(1, 1, 1, PIXELS), r=1.0, whitened=vae.whitened())


def test_a_mean_that_is_not_a_number_is_refused() -> None:
    vae, whitened = smooth_vae(), smooth_vae().whitened()
    with torch.no_grad():
        vae.second.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="at level 2, got others"):
        certify_hierarchical(vae, torch.rand(1, 1, 1, PIXELS), r=1.0, whitened=whitened)


def test_the_joint_shift_is_the_root_rounded_up() -> None:
    assert bound_joint_shift([3.0, 4.0]) > 5.0
    assert bound_joint_shift([LipschitzBound(2.0, (), ())]) == pytest.approx(2.0)
    for wrong in ([], [-1.0], [math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="`whitened` constant"):
            bound_joint_shift(wrong)


@pytest.mark.parametrize(
    ("images", "changed", "said"),
    [
        (torch.zeros(1, 1, 1, 5), {}, "one or more images of shape"),
        (torch.zeros(0, 1, 1, PIXELS), {}, "one or more images of shape"),
        (torch.full((1, 1, 1, PIXELS), 11.0), {}, r"pixels in \[-10, 10\], got \[11, 11\]"),
        (torch.full((1, 1, 1, PIXELS), math.nan), {}, "got .nan, nan"),
        (torch.zeros(1, 1, 1, PIXELS), {"whitened": [1.0]}, "expected 2 `whitened` constants, got 1"),
        (torch.zeros(1, 1, 1, PIXELS), {"samples": 9}, "expected `samples` >= 10 "),
        (torch.zeros(1, 1, 1, PIXELS), {"r": -1.0}, "`r`"),
        (torch.zeros(1, 1, 1, PIXELS), {"p": 0.4}, "`p` in"),
        (torch.zeros(1, 1, 1, PIXELS), {"sample_ids": [1, 2]}, "1 sample ids, got 2"),
    ],
)
def test_questions_without_an_answer_are_refused(images: Tensor, changed: dict[str, object], said: str) -> None:
    asked = {"r": 1.0, "whitened": [50.0, 50.0], **changed}
    with pytest.raises(ValueError, match=said):
        certify_hierarchical(smooth_vae(), images, **asked)  # type: ignore[arg-type]
