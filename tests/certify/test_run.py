"""Certificates of whole models: exact where the margin is known, refused where there is no proof."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import ncx2
from torch import nn

from tests.toys import LinearVAE, isotropic_vae
from vaerdict.certify import ModelBounds, certify, choose_methods, margin_isotropic, measure_sensitivity
from vaerdict.certify import run as run_module
from vaerdict.certify.methods import METHODS
from vaerdict.certify.propagation import unavailable
from vaerdict.certify.rounding import measure_rounding
from vaerdict.certify.statistics import split_confidence
from vaerdict.lipschitz import MaxMin, NoSoundBound, lipschitz_linear
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import METHOD_NAMES, CertifyOptions
from vaerdict.vae import Posterior

ALL = CertifyOptions(samples=4000)


def images(count: int = 3, pixels: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, 1, pixels)


def margins(vae: object, x: torch.Tensor, method: str, **options: object) -> list[float]:
    ask = {"r": 1.5, **options}
    rows = certify(vae, x, options=CertifyOptions(methods=(method,), samples=4000), **ask)  # type: ignore[arg-type]
    return [row.margin for row in rows]


def exact_margin(vae: LinearVAE, a: float, b: float, r: float, variance: float) -> float:
    def excess(rho: float) -> float:
        return float(ncx2.cdf((r / a) ** 2 / variance, vae.latent, (b * rho) ** 2 / variance)) - 0.5

    return brentq(excess, 0, r / a / b)


@pytest.mark.parametrize("reconstruction", ["sampled", "anchored"])
def test_isotropic_is_exact_on_the_linear_gaussian_vae(reconstruction: str) -> None:
    vae = isotropic_vae(a=2.0, b=3.0, std=0.1)
    exact = exact_margin(vae, 2.0, 3.0, 1.5, 0.02 if reconstruction == "sampled" else 0.01)
    options = CertifyOptions(methods=("isotropic",), reconstruction=reconstruction)  # type: ignore[arg-type]
    for row in certify(vae, images(), r=1.5, options=options):
        assert row.margin <= exact * (1 + 1e-6)  # the toy's float32 weights are not quite orthonormal
        assert row.margin == pytest.approx(exact, rel=1e-4)
        assert row.reconstruction == reconstruction
        assert row.strength == "proved"


def test_every_certificate_is_below_the_exact_margin() -> None:
    vae = isotropic_vae(a=2.0, b=3.0, std=0.1)
    exact = exact_margin(vae, 2.0, 3.0, 1.5, 0.02)
    rows = certify(vae, images(20), r=1.5, options=ALL)
    certificates = [row for row in rows if row.kind == "certificate"]
    by_method = {row.method: row.margin for row in certificates if row.status == "ok"}
    assert set(by_method) == {"barrett", "isotropic", "reflection", "seam", "coordinate", "shift", "coupling"}
    assert all(0 < row.margin <= exact * (1 + 1e-6) for row in certificates if row.status == "ok")
    assert by_method["barrett"] < by_method["isotropic"]
    assert by_method["reflection"] > 0.9 * by_method["isotropic"]
    confidences = {row.confidence for row in certificates if row.strength == "statistical" and row.status == "ok"}
    assert confidences == {split_confidence(0.999, 2)}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), r=st.floats(0.5, 3), std=st.floats(0.05, 0.3), p=st.floats(0.5, 0.9))
def test_no_certificate_survives_a_worse_move_in_a_random_linear_vae(seed: int, r: float, std: float, p: float) -> None:
    """The worst move of a linear VAE is known up to direction: try many directions at the certified radius."""
    generator = torch.Generator().manual_seed(seed)
    vae = LinearVAE(torch.randn(3, 6, generator=generator), torch.randn(6, 3, generator=generator), std)
    x = torch.rand(1, 1, 1, 6, generator=generator)
    options = CertifyOptions(samples=500)
    best = max(row.margin or 0.0 for row in certify(vae, x, r=r, p=p, options=options) if row.kind == "certificate")
    matrix = (vae.decoder[0].weight @ vae.mean_map[1].weight).detach().double()
    directions = torch.linalg.svd(matrix).Vh
    noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64) * std * math.sqrt(2)
    for direction in directions:
        distance = (best * matrix @ direction + noise @ vae.decoder[0].weight.detach().double().T).norm(dim=1)
        assert float((distance <= r).double().mean()) >= p - 4 * math.sqrt(0.25 / 20_000) or best == 0


def moving_vae(shared: bool, std: float = 0.1) -> GaussianVAE:
    """A MaxMin VAE whose standard deviation moves with the image."""
    encoder = nn.Sequential(
        nn.Flatten(), lipschitz_linear(6, 8), MaxMin(), lipschitz_linear(8, 3 if shared else 4, 2.0)
    )
    decoder = nn.Sequential(lipschitz_linear(2, 6, 2.0), nn.Unflatten(1, (1, 1, 6)))
    return wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(2,), spread="bounded", std=std, name="moving")


def test_a_moving_shared_spread_is_certified_and_holds_by_simulation() -> None:
    vae = moving_vae(shared=True)
    x = images(4, 6)
    with torch.no_grad():
        found = margins(vae, x, "isotropic", r=1.2)
        assert min(found) > 0
        for image, margin in zip(x, found, strict=True):
            directions = nn.functional.normalize(torch.randn(50, 6), dim=1).unflatten(1, (1, 1, 6))
            clean, moved = vae.encode(image[None]), vae.encode(image + margin * directions)
            noise = torch.randn(2, 50, 1000, 2)
            still = clean.mean + clean.std * noise[0]
            other = moved.mean[:, None] + moved.std[:, None] * noise[1]
            change = vae.decode(other.flatten(0, 1)) - vae.decode(still.flatten(0, 1))
            share = (change.flatten(1).norm(dim=1).unflatten(0, (50, 1000)) <= 1.2).float().mean(1)
            assert float(share.min()) >= 0.5 - 4 * math.sqrt(0.25 / 1000)


def test_what_does_not_apply_to_an_unshared_spread_says_why() -> None:
    vae, x = moving_vae(shared=False), images(2, 6)
    reasons = choose_methods(vae, x, CertifyOptions())
    assert reasons["barrett"] is None
    assert "share" in str(reasons["isotropic"])
    assert "depends on the image" in str(reasons["shift"])
    rows = certify(vae, x, r=3.0)
    unsupported = [row for row in rows if row.status == "unsupported"]
    assert {row.method for row in unsupported} == {
        "isotropic",
        "seam",
        "coordinate",
        "deterministic",
        "support",
        "shift",
        "center",
        "latent_center",
    }
    assert all(row.margin is None and row.reason for row in unsupported)
    assert all(row.margin > 0 for row in rows if row.status == "ok")


def test_sensitivity_of_a_shared_spread_counts_every_coordinate() -> None:
    vae = moving_vae(shared=True, std=0.3)
    sensitivity = measure_sensitivity(vae, images(1, 6))
    assert sensitivity.shared_std == pytest.approx(2.0 * 0.25 * 0.3, rel=1e-5)
    assert sensitivity.std == pytest.approx(math.sqrt(2) * 2.0 * 0.25 * 0.3, rel=1e-5)


def test_a_layer_without_a_bound_is_named_with_the_methods_that_remain() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Softmax(1), nn.Unflatten(1, (1, 1, 6)))
    vae = wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(2,), spread="constant", std=0.1)
    with pytest.raises(
        NoSoundBound, match=r"isotropic .*`decoder.1` \(Softmax\).*methods that apply: shift, first_order"
    ):
        certify(vae, images(2, 6), r=1.0, options=CertifyOptions(methods=("isotropic",)))


def test_the_estimate_is_an_estimate() -> None:
    """On a linear VAE it is the shift margin with the Frobenius norm and without the confidence."""
    vae = isotropic_vae(a=2.0, b=3.0, std=0.1)
    rows = certify(vae, images(), r=1.0, options=CertifyOptions(methods=("first_order",), samples=4000))
    for row in rows:
        assert (row.kind, row.strength) == ("estimate", "empirical")
        share = json.loads(row.constants)["successes"] / 2000  # more hardly move an estimate
        quantile = float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))
        assert row.margin == pytest.approx(0.1 * quantile / (3.0 * math.sqrt(4)), rel=1e-4)
        assert row.n_backward == 4


def test_nothing_depends_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, x = isotropic_vae(), images(5)
    together = margins(vae, x, "shift", sample_ids=[3, 1, 4, 15, 9], seed=7)
    assert margins(vae, x[[3]], "shift", sample_ids=[15], seed=7) == pytest.approx([together[3]], rel=1e-5)
    monkeypatch.setattr(run_module, "BATCH_SIZE", 2)
    assert margins(vae, x, "shift", sample_ids=[3, 1, 4, 15, 9], seed=7) == pytest.approx(together, rel=1e-5)


def test_the_model_comes_back_as_it_was_lent() -> None:
    vae = moving_vae(shared=True).train()
    vae.decoder[1].eval()
    before = {name: module.training for name, module in vae.named_modules()}
    certify(vae, images(2, 6), r=2.0, options=ALL)
    assert {name: module.training for name, module in vae.named_modules()} == before
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_constants_recompute_the_margin() -> None:
    row = certify(isotropic_vae(), images(1), r=1.5, options=CertifyOptions(methods=("isotropic",)))[0]
    facts = json.loads(row.constants)
    left = 1.5 - 2 * facts["decoder_rounding"]
    again = margin_isotropic(latent=len(facts["std"]), sigma=facts["std"][0], a=facts["a"], b=facts["b"], r=left)
    assert again - facts["mean_rounding"] / facts["b"] == pytest.approx(row.margin, rel=1e-9)
    assert facts["shift"] == pytest.approx(facts["b"] * row.margin + facts["mean_rounding"], rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"r": 0.0}, "r"),
        ({"r": 1.0, "p": 0.3}, "p"),
        ({"r": 1.0, "sample_ids": [1]}, "sample ids"),
    ],
)
def test_wrong_questions_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(isotropic_vae(), images(2), **wrong)  # type: ignore[arg-type]


def test_wrong_images_and_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        certify(isotropic_vae(), torch.full((1, 1, 1, 12), math.nan), r=1.0)
    with pytest.raises(ValueError, match="unknown method 'baret', known: barrett, isotropic"):
        CertifyOptions(methods=("baret",))
    with pytest.raises(ValueError, match="positive finite"):
        certify(isotropic_vae(std=0.0), images(1), r=1.0)


def test_a_first_layer_in_place_changes_neither_the_images_nor_the_margin() -> None:
    def margin(inplace: bool, x: torch.Tensor) -> float:
        torch.manual_seed(3)
        encoder = nn.Sequential(nn.SiLU(inplace=inplace), nn.Flatten(), nn.Linear(6, 3))
        decoder = nn.Sequential(lipschitz_linear(2, 6, 2.0), nn.Unflatten(1, (1, 1, 6)))
        vae = wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(2,), spread="bounded", std=0.1)
        return margins(vae, x, "isotropic", r=1.2)[0]

    x = images(1, 6)
    before = x.clone()
    assert margin(inplace=True, x=x) == margin(inplace=False, x=before)
    assert torch.equal(x, before)


class _Louder(GaussianVAE):
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return 10 * super().decode(latents)


def test_a_model_whose_maps_are_not_what_it_computes_is_refused() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 1, 6)))
    vae = _Louder(encoder, decoder, name="loud", input_shape=(1, 1, 6), latent_shape=(2,), spread="constant", std=0.1)
    with pytest.raises(ValueError, match="`decoder_map` to compute what the model computes"):
        certify(vae, images(1, 6), r=1.0)


class _HalfShared(LinearVAE):
    """Two standard deviations for four latents."""

    @property
    def std_map(self) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))

    @std_map.setter
    def std_map(self, value: None) -> None: ...


def test_a_spread_map_with_an_odd_number_of_columns_is_refused() -> None:
    vae = _HalfShared(torch.eye(4, 12), torch.eye(12, 4), 0.1)
    with pytest.raises(ValueError, match="1 or 4 columns, got 2"):
        certify(vae, images(1), r=1.0)


def test_reconstructions_that_are_not_finite_get_no_certificate() -> None:
    vae = isotropic_vae()
    vae.decoder.append(nn.LeakyReLU(math.nan))
    with pytest.raises(ValueError, match="finite reconstructions"):
        certify(vae, images(1) - 0.5, r=1.0, options=CertifyOptions(methods=("shift",)))


class _Step(nn.Module):
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.sign().expand(-1, 12).unflatten(1, (1, 1, 12)) / 12**0.5


def test_a_distance_that_equals_r_does_not_count_as_within() -> None:
    """Two signs differ by exactly 2, or by a rounding less in float32."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    vae = wrap(encoder, _Step(), input_shape=(1, 1, 12), latent_shape=(1,), spread="constant", std=1.0)
    row = certify(vae, images(1), r=2.0, options=CertifyOptions(methods=("shift",)))[0]
    assert json.loads(row.constants)["successes"] < 2000


def test_the_names_offered_are_the_methods_there_are() -> None:
    assert tuple(METHODS) == METHOD_NAMES


# --- too few draws ---

ENOUGH = 11  # at the level 1/2, for each of two statements that share the confidence 0.999


def test_too_few_draws_leave_the_methods_that_need_none() -> None:
    vae, x = isotropic_vae(), images(2)
    few, enough = (certify(vae, x, r=1.5, options=CertifyOptions(samples=n)) for n in (ENOUGH - 1, ENOUGH))
    drawn = [row for row in few if row.method in ("shift", "coupling")]
    assert {row.status for row in drawn} == {"unsupported"}
    assert {row.reason for row in drawn} == {
        f"expected `samples` >= {ENOUGH} to show a probability above 0.5 with confidence 0.9995, got {ENOUGH - 1}"
    }
    assert {row.margin for row in drawn} == {None}
    assert {row.status for row in enough if row.method in ("shift", "coupling")} == {"ok"}
    undrawn = [
        [(row.method, row.status, row.margin) for row in rows if row.method not in ("shift", "coupling", "first_order")]
        for rows in (few, enough)
    ]
    assert undrawn[0] == undrawn[1]


@pytest.mark.parametrize("asked", [("shift",), ("coupling",), ("isotropic", "shift")])
def test_too_few_draws_for_a_method_asked_for_by_name_are_refused(asked: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected `samples` >= 10 to show a probability above 0\.5"):
        certify(isotropic_vae(), images(1), r=1.5, options=CertifyOptions(samples=9, methods=asked))
    certify(isotropic_vae(), images(1), r=1.5, options=CertifyOptions(samples=10, methods=asked))


def test_too_few_draws_where_all_certificates_need_them_are_refused() -> None:
    vae = isotropic_vae()
    vae.decoder.append(nn.Softmax(3))
    options = CertifyOptions(samples=30)
    assert [row.method for row in certify(vae, images(1), r=1.5, options=options) if row.status == "ok"] == [
        "shift",
        "first_order",
    ]
    assert choose_methods(vae, images(1), options, 0.5)["shift"] is None
    for run in (
        lambda: certify(vae, images(1), r=1.5, p=0.9, options=options),
        lambda: choose_methods(vae, images(1), options, 0.9),
    ):
        with pytest.raises(ValueError, match=r"expected `samples` >= 66 to show a probability above 0\.9"):
            run()


def test_maps_that_differ_by_little_because_all_is_little_are_refused() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 1, 6)))
    for values in decoder.parameters():
        values.data *= 1e-8
    vae = _Louder(encoder, decoder, name="soft", input_shape=(1, 1, 6), latent_shape=(2,), spread="constant", std=0.1)
    with pytest.raises(ValueError, match="`decoder_map` to compute what the model computes"):
        certify(vae, images(1, 6), r=1.0)


def test_bounds_of_other_weights_are_refused() -> None:
    vae, x = isotropic_vae(), images(1)
    known = ModelBounds(vae, x, ALL)
    certify(vae, x, r=1.5, options=ALL, known=known)
    vae.mean_map[1].weight.data *= 10
    with pytest.raises(ValueError, match="bounds of this model as it is"):
        certify(vae, x, r=1.5, options=ALL, known=known)


class _Off(GaussianVAE):
    """An encoder that is off by more than rounding, and by less than shows."""

    def encode(self, images: torch.Tensor) -> Posterior:
        posterior = super().encode(images)
        return Posterior(posterior.mean * (1 + 3e-5), posterior.std)


def test_what_rounding_does_not_explain_is_refused() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 1, 6)))
    vae = _Off(encoder, decoder, name="off", input_shape=(1, 1, 6), latent_shape=(2,), spread="constant", std=0.1)
    with pytest.raises(ValueError, match="up to rounding"):
        certify(vae, images(1, 6), r=1.0)


class _Sneaky(LinearVAE):
    """Its standard deviation depends on the image, and it says otherwise."""

    def encode(self, images: torch.Tensor) -> Posterior:
        posterior = super().encode(images)
        return Posterior(posterior.mean, posterior.std * (1 + images.flatten(1).amax(1, keepdim=True)))


def test_a_moving_spread_that_is_called_constant_is_refused_for_one_image_too() -> None:
    vae = _Sneaky(torch.eye(4, 12), torch.eye(12, 4), 0.1, input_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="the same standard deviations for all images"):
        certify(vae, images(1), r=1.0)


def test_proved_rows_rest_on_no_backend() -> None:
    """Without bounds on balls, only boxes bound the spread of a log-variance: nothing is called proved."""
    encoder, decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), nn.Linear(2, 6)
    decoder = nn.Sequential(decoder, nn.Unflatten(1, (1, 1, 6)))
    vae = wrap(encoder, decoder, input_shape=(1, 1, 6), latent_shape=(2,), spread="log_variance")
    options = CertifyOptions(local=False, propagation=True)
    if unavailable() is not None:
        pytest.skip(str(unavailable()))
    rows = certify(vae, images(1, 6), r=2.0, options=options)
    assert not any(row.strength == "proved" for row in rows if row.status == "ok")
    assert {row.method for row in rows if row.status == "ok"} >= {"shift_moving", "support"}


class _Uneven(GaussianVAE):
    """Its coordinates share one standard deviation but for a little."""

    def encode(self, images: torch.Tensor) -> Posterior:
        posterior = super().encode(images)
        return Posterior(posterior.mean, posterior.std * torch.tensor([1.0, 1.0 + 5e-5]))


def test_a_shared_spread_that_is_not_quite_shared_is_refused() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 1, 6)))
    facts = {"input_shape": (1, 1, 6), "latent_shape": (2,), "spread": "bounded", "std": 0.1}
    vae = _Uneven(encoder, decoder, name="uneven", **facts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one standard deviation for all coordinates"):
        certify(vae, images(1, 6), r=1.0, options=CertifyOptions(methods=("isotropic",)))


def test_norms_that_are_not_finite_have_no_bound_on_rounding() -> None:
    rounding = measure_rounding(nn.Linear(2, 2), torch.zeros(1, 2))
    found = rounding.at(torch.tensor([0.0, 1.0, 1e101, math.inf, math.nan], dtype=torch.float64))
    assert torch.isfinite(found).tolist() == [True, True, False, False, False]
