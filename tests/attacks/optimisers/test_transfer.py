import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.attacks import hierarchies, searches
from tests.toys import LinearVAE
from vaerdict.attacks import attack
from vaerdict.attacks.describe import describe, describe_named
from vaerdict.attacks.judge.indicators import Watched
from vaerdict.attacks.levels import flat
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.objectives import LatentDivergence, Layerwise, WeightedSum, fitted
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.noise import Noise
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.optimisers.random_search import RandomSearch
from vaerdict.attacks.optimisers.transfer import Transfer
from vaerdict.attacks.presets.terms import Cited
from vaerdict.vae import fingerprint

SEARCH = PGD(steps=20, restarts=1)


def other_vae(latent: int = 3) -> LinearVAE:
    """Give a linear VAE with other weights and another latent space than `searches.linear_vae`."""
    generator = torch.Generator().manual_seed(5)
    encoder, decoder = torch.randn(latent, 12, generator=generator), torch.randn(12, latent, generator=generator)
    return LinearVAE(encoder, decoder, 0.1)


def matrix(vae: LinearVAE) -> torch.Tensor:
    return (vae.decoder[0].weight @ vae.mean_map[1].weight).detach()


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_does_what_the_surrogates_singular_vector_does(reconstruction: str) -> None:
    target, top = searches.linear_vae()
    surrogate = other_vae()
    batch, ball = searches.case(target, searches.images_of(4), 0.3, reconstruction=reconstruction)
    options = Transfer(vae=surrogate, options=PGD(steps=40))
    delta, sane = options.search(batch, searches.DAMAGE, ball, "test")
    direction = torch.linalg.svd(matrix(surrogate)).Vh[0]
    expected = 0.3 * (matrix(target) @ direction).norm()
    assert bool(sane.all())
    torch.testing.assert_close(searches.damage(batch, ball, delta), expected.expand(4), rtol=0.02, atol=0)
    assert float(expected) < 0.8 * 0.3 * top


def test_from_a_model_to_itself_is_the_attack_itself() -> None:
    vae = searches.TinyVAE()
    batch, ball = searches.case(vae, searches.images_of(3), 0.5)
    straight, _ = SEARCH.search(batch, searches.DAMAGE, ball, "test")
    around, _ = Transfer(vae=vae, options=SEARCH).search(batch, searches.DAMAGE, ball, "test")
    torch.testing.assert_close(around, straight)


def test_the_target_is_never_asked() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(3), 0.3)
    before = batch.vae.cost.copy()
    options = Transfer(vae=other_vae(), options=SEARCH)
    for searched in (1, 2):
        options.search(batch, searches.DAMAGE, ball, "test")
        assert batch.vae.cost == before
        assert options.spent["encoder_backward"] == searched * 3 * 20
        assert options.spent["decoder_forward"] > options.spent["decoder_backward"]


def test_the_surrogate_comes_back_as_it_was_lent() -> None:
    surrogate = other_vae().train()
    surrogate.decoder.eval()
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    Transfer(vae=surrogate, options=SEARCH).search(batch, searches.DAMAGE, ball, "test")
    assert surrogate.training
    assert surrogate.mean_map.training
    assert not surrogate.decoder.training
    assert all(weight.requires_grad and weight.grad is None for weight in surrogate.parameters())


def test_a_hierarchical_surrogate_is_flattened() -> None:
    surrogate = hierarchies.linear_levels(torch.float32)
    low, high = surrogate.input_range
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(2, 6, generator=generator), torch.randn(6, 2, generator=generator)
    batch, ball = searches.case(LinearVAE(encoder, decoder, 0.1, (low, high)), searches.images_of(3, 6), 0.3)
    delta, sane = Transfer(vae=surrogate, options=SEARCH).search(batch, searches.DAMAGE, ball, "test")
    direction = torch.linalg.svd(surrogate.whole()).Vh[0]
    assert bool(sane.all())
    assert bool(((delta.flatten(1) @ direction).abs() > 0.99 * 0.3).all())


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str) -> None:
    searches.assert_stays_inside(Transfer(vae=searches.TinyVAE(), options=SEARCH), norm)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(Transfer(vae=other_vae(), options=SEARCH), reconstruction)


def test_not_finite_stays_its_own() -> None:
    surrogate = searches.Fenced()
    images = searches.images_of(2)
    images[0, 0, 0, 0] = 0.8
    batch, ball = searches.case(searches.TinyVAE(), images, 0.25)
    delta, sane = Transfer(vae=surrogate, options=SEARCH).search(batch, searches.DAMAGE, ball, "test")
    assert sane.tolist() == [False, True]
    assert bool(delta.isfinite().all())


def test_never_waits_for_the_device() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(3), 0.3)
    options = Transfer(vae=other_vae(), options=SEARCH)
    searches.assert_never_waits(lambda: options.search(batch, searches.DAMAGE, ball, "test"))


def test_a_record_of_the_targets_losses_stays_empty() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(3), 0.3)
    watched = Watched.of(searches.DAMAGE, ball)
    Transfer(vae=other_vae(), options=SEARCH).search(batch, watched, ball, "test")
    assert bool(watched.best.isneginf().all())


def test_a_surrogate_of_other_images_is_refused() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    wide = LinearVAE(torch.ones(2, 13), torch.ones(13, 2), 0.1)
    message = r"expected a surrogate for images of shape \(1, 1, 12\), got \(1, 1, 13\)"
    with pytest.raises(ValueError, match=message):
        Transfer(vae=wide).search(batch, searches.DAMAGE, ball, "test")
    with pytest.raises(ValueError, match=r"expected a surrogate for pixels in \(-100.0, 100.0\), got \(-1.0, 1.0\)"):
        Transfer(vae=searches.TinyVAE()).search(batch, searches.DAMAGE, ball, "test")


def test_an_objective_that_does_not_fit_the_surrogate_is_refused() -> None:
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(2), 0.3)
    surrogate = LinearVAE(torch.ones(2, 12), torch.ones(12, 2), 0.1, (-1.0, 1.0))
    with pytest.raises(ValueError, match="layer"):
        Transfer(vae=surrogate).search(batch, Layerwise({"weights": 1.0}), ball, "test")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a surrogate VAE that is a torch module, got"):
        Transfer(vae=searches.case(other_vae(), searches.images_of(1), 0.3)[0].vae)


def test_another_latent_space_does_not_matter() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3, reconstruction="sampled")
    delta, sane = Transfer(vae=other_vae(7), options=SEARCH).search(batch, LatentDivergence("l2"), ball, "test")
    direction = torch.linalg.svd(other_vae(7).mean_map[1].weight.detach()).Vh[0]
    assert bool(sane.all())
    assert bool(((delta.flatten(1) @ direction).abs() > 0.98 * 0.3).all())


def test_rows_hold_the_surrogates_fingerprint() -> None:
    surrogate = other_vae()
    options = Transfer(vae=surrogate, options=replace(SEARCH, first=Noise(draws=5)))
    assert isinstance(options, Optimiser)
    described = json.loads(json.dumps(describe(options)))
    assert described["surrogate"] == {"name": "linear", "sha256": fingerprint(surrogate)}
    assert described["options"]["name"] == "pgd"
    assert described["options"]["first"] == {"name": "noise-uniform", **describe(Noise(draws=5))}
    nn.init.zeros_(surrogate.mean_map[1].weight)
    assert describe(options)["surrogate"]["sha256"] != described["surrogate"]["sha256"]
    assert "Linear" not in repr(options)


def test_options_of_options_are_described() -> None:
    options = RandomSearch(queries=3, first=Transfer(vae=other_vae(), options=SEARCH))
    described = describe_named(options)
    assert described["name"] == "random-search"
    assert described["first"]["name"] == "transfer-pgd"
    assert described["first"]["options"]["steps"] == 20
    json.dumps(described)


def test_row_says_what_the_surrogate_was_and_counts_the_target_only() -> None:
    surrogate, images = other_vae(), searches.images_of(2)
    target, _ = searches.linear_vae()

    def row(steps: int):
        options = Transfer(vae=surrogate, options=PGD(steps=steps, restarts=1))
        return attack(target, images, radius=0.3, r=0.5, reconstruction="mean", options=options)[0]

    few, more = row(2), row(9)
    assert (more.method, more.n_backward, more.n_forward) == ("transfer-pgd-damage", 0, few.n_forward)
    assert json.loads(more.constants)["options"]["surrogate"]["sha256"] == fingerprint(surrogate)


def flat_vae() -> LinearVAE:
    """Give a VAE of one level for the hierarchical one's images."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(2, 6, generator=generator), torch.randn(6, 2, generator=generator)
    return LinearVAE(encoder, decoder, 0.1, (-10.0, 10.0))


def test_all_levels_of_the_target_are_all_of_the_surrogates() -> None:
    deep, shallow = hierarchies.linear_levels(torch.float32), flat_vae()
    images = searches.images_of(3, 6)
    for target, surrogate in ((deep, shallow), (shallow, deep)):
        view = flat(target)
        batch, ball = searches.case(view, images, 0.3)
        own = LatentDivergence("l2")
        for objective in (own, Cited(own, "someone-2020", {}), WeightedSum([(2.0, own)])):
            delta, sane = Transfer(vae=surrogate, options=SEARCH).search(batch, _fitted(objective, view), ball, "test")
            there, around = searches.case(flat(surrogate), images, 0.3)
            best, _ = SEARCH.search(there, _fitted(objective, flat(surrogate)), around, "test")
            assert bool(sane.all())
            torch.testing.assert_close(delta, best, rtol=1e-3, atol=1e-4)


def _fitted(objective, view):
    if isinstance(objective, Cited):
        return replace(objective, objective=fitted(objective.objective, view))
    return fitted(objective, view)


def test_levels_that_the_surrogate_lacks_are_refused() -> None:
    view = flat(hierarchies.linear_levels(torch.float32))
    batch, ball = searches.case(view, searches.images_of(2, 6), 0.3)
    transfer = Transfer(vae=flat_vae(), options=SEARCH)
    with pytest.raises(ValueError, match=r"`levels` below 1, the surrogate's number of levels, got \(1,\)"):
        transfer.search(batch, LatentDivergence("l2", levels=(1,)), ball, "test")
    weighed = fitted(LatentDivergence("l2", level_weights=(1.0, 2.0, 3.0)), view)
    with pytest.raises(ValueError, match="1 `level_weights`, the surrogate's number of levels"):
        transfer.search(batch, weighed, ball, "test")


@pytest.mark.parametrize("options", [3, PGD, MarginSearch()])
def test_what_is_no_search_is_refused(options: object) -> None:
    with pytest.raises(TypeError, match="expected `options` of a search at a radius, such as `PGD\\(\\)`, got"):
        _make(options)


def _make(options: object) -> Transfer:
    # Past the types that tests check: others have no such check.
    made = object.__new__(Transfer)
    object.__setattr__(made, "vae", other_vae())
    object.__setattr__(made, "options", options)
    made.__post_init__()
    return made


def test_weights_of_another_type_than_the_images_are_refused() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    with pytest.raises(ValueError, match=r"weights in the images' torch.float32, got torch.float64"):
        Transfer(vae=other_vae().double(), options=SEARCH).search(batch, searches.DAMAGE, ball, "test")


def test_other_options_count_where_the_first_do() -> None:
    batch, ball = searches.case(searches.linear_vae()[0], searches.images_of(2), 0.3)
    one = Transfer(vae=other_vae(), options=SEARCH)
    other = one.using(PGD(steps=2, restarts=1))
    other.search(batch, searches.DAMAGE, ball, "test")
    assert one.spent["encoder_backward"] == 2 * 2
    assert (one.options.steps, other.options.steps, other.vae) == (20, 2, one.vae)
