import numpy as np
import pytest
import torch

from tests.attacks import searches
from tests.toys import LinearVAE, isotropic_vae
from vaerdict.attacks import PGD, Evaluation, TargetedLatent, attack
from vaerdict.attacks.objectives import MaximumDamage, divergence_kl
from vaerdict.attacks.optimisers.pgd import ascend
from vaerdict.attacks.question import AttackNorm
from vaerdict.vae import Posterior


def linear_vae(input_range: tuple[float, float] = (-100.0, 100.0)) -> tuple[LinearVAE, float]:
    """Give a linear VAE and the largest singular value of its mean reconstruction."""
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = torch.randn(4, 12, generator=generator), torch.randn(12, 4, generator=generator)
    return LinearVAE(encoder, decoder, 0.1, input_range), float(torch.linalg.matrix_norm(decoder @ encoder, 2))


def damages(rows) -> np.ndarray:
    assert [row.status for row in rows] == ["ok"] * len(rows)
    return np.array([row.damage for row in rows])


@pytest.mark.parametrize("input_range", [(-100.0, 100.0), (-1.0, 1.0), (0.0, 1.0)])
def test_worst_mean_damage_is_the_singular_value(input_range: tuple[float, float]) -> None:
    vae, top = linear_vae(input_range)
    middle = sum(input_range) / 2
    images = middle + 0.1 * torch.rand(8, 1, 1, 12)
    found = damages(attack(vae, images, radius=0.3, r=1.0, reconstruction="mean"))
    assert (found >= 0.3 * top * 0.99).all()
    assert (found <= 0.3 * top * (1 + 1e-5)).all()


@pytest.mark.parametrize("reconstruction", ["sampled", "anchored"])
def test_stochastic_search_finds_the_same_direction(reconstruction: str) -> None:
    vae, top = linear_vae()
    found = damages(attack(vae, torch.randn(8, 1, 1, 12), radius=2.0, r=1.0, reconstruction=reconstruction))
    assert found == pytest.approx(2.0 * top, rel=0.01)


def test_worst_linf_damage_of_one_output_is_the_l1_norm() -> None:
    weights = torch.tensor([[0.5, -1.0, 2.0, 0.0, -0.25, 1.5]])
    decoder = torch.zeros(6, 1)
    decoder[2] = 1.0
    rows = attack(
        LinearVAE(weights, decoder, 0.1), torch.randn(4, 1, 1, 6), radius=0.2, r=1.0, norm="inf", reconstruction="mean"
    )
    assert damages(rows) == pytest.approx(0.2 * 5.25, rel=1e-3)
    assert all(row.margin <= 0.2 * (1 + 1e-6) for row in rows)


def test_zero_start_has_no_gradient_yet_the_attack_leaves_it() -> None:
    vae, images = isotropic_vae(), torch.randn(3, 1, 1, 12)
    batch, _ = searches.case(vae, images, 1.0)
    clean = images.clone().requires_grad_()
    value = MaximumDamage().loss(batch)(clean, torch.empty(3, 0, 4))
    (gradient,) = torch.autograd.grad(value.sum(), clean)
    assert not gradient.any()
    rows = attack(vae, images, radius=0.01, r=1.0, reconstruction="mean", options=PGD(steps=5, restarts=1))
    assert (damages(rows) > 0.05).all()


def test_damage_grows_with_the_radius_and_each_sample_has_its_own() -> None:
    vae, top = linear_vae()
    images = torch.randn(1, 1, 1, 12).expand(5, 1, 1, 12)
    radii = torch.tensor([0.0, 0.1, 0.5, 1.0, 3.0])
    rows = attack(vae, images, radius=radii, r=4.0, reconstruction="mean")
    assert damages(rows) == pytest.approx(radii.numpy() * top, rel=0.01, abs=1e-6)
    assert [row.rho for row in rows] == pytest.approx(radii.tolist())
    assert [np.isinf(row.margin) for row in rows] == [radius * top < 4.0 for radius in radii.tolist()]


@pytest.mark.parametrize("reconstruction", ["sampled", "mean"])
def test_results_do_not_depend_on_batch_or_order(reconstruction: str) -> None:
    vae, _ = linear_vae()
    images, ids = torch.randn(9, 1, 1, 12), list(range(100, 109))

    def run(order: list[int], batch_size: int) -> dict[int, float]:
        rows = attack(
            vae, images[order], radius=0.5, r=1.0, reconstruction=reconstruction, sample_ids=[ids[i] for i in order],
            options=PGD(steps=10, batch_size=batch_size), evaluation=Evaluation(samples=50),
        )  # fmt: skip
        return {row.sample_id: row.damage for row in rows}

    forwards, backwards = list(range(9)), list(range(9))[::-1]
    reference = run(forwards, 64)
    for order, batch_size in [(forwards, 1), (forwards, 7), (backwards, 7)]:
        other = run(order, batch_size)
        assert list(other) == [ids[i] for i in order]
        assert [other[i] for i in ids] == pytest.approx([reference[i] for i in ids], rel=1e-4)


@pytest.mark.parametrize("divergence", ["kl", "l2"])
def test_targeted_attack_comes_nearer_without_the_decoder(divergence: str, tmp_path) -> None:
    vae, _ = linear_vae()
    images, targets = torch.randn(6, 1, 1, 12), torch.randn(6, 1, 1, 12)
    rows = attack(
        vae, images, radius=1.0, r=1.0, objective=TargetedLatent(targets, divergence), reconstruction="mean",
        witness_folder=tmp_path, options=PGD(steps=30, restarts=1, probes=1), evaluation=Evaluation(quantised=False),
    )  # fmt: skip
    adversarial = torch.stack([torch.from_numpy(np.load(tmp_path.parent / row.witness)["adversarial"]) for row in rows])
    goal = vae.encode(targets).mean
    before, after = (vae.encode(x).mean - goal for x in (images, adversarial))
    assert (after.norm(dim=1) < 0.8 * before.norm(dim=1)).all()
    # One encoding and one reconstruction of the clean image and one of the judge's, one encoding of the target, then
    # 30 steps and one comparison of restarts, all of the encoder alone.
    assert (rows[0].n_forward, rows[0].n_backward) == (2 + 2 + 1 + 31, 30)


def test_damage_counts_every_evaluation_of_both_maps() -> None:
    vae, _ = linear_vae()
    rows = attack(
        vae, torch.randn(3, 1, 1, 12), radius=1.0, r=1.0, options=PGD(steps=30, restarts=1, probes=1),
        evaluation=Evaluation(samples=700, quantised=False),
    )  # fmt: skip
    # Per step: one encoding and the decodings of z' (differentiated) and of z; 16 draws compare the restarts.
    assert rows[0].n_forward == 2 + 3 * (30 + 16) + 1 + 2 * 700
    assert rows[0].n_backward == 2 * 30


@pytest.mark.parametrize("norm", ["0", "1", "2", "inf"])
def test_a_step_never_waits_for_the_device(norm: AttackNorm) -> None:
    batch, ball = searches.case(isotropic_vae().requires_grad_(False), torch.randn(4, 1, 1, 12), 1.0, norm, "sampled")
    loss, start, noise = MaximumDamage().loss(batch), torch.ones_like(batch.images), torch.randn(4, 10, 2, 4)
    searches.assert_never_waits(lambda: ascend(loss, ball, start, noise, 1.0, 0.7))


VIEWS = {"view", "t", "expand", "select", "unsqueeze", "squeeze", "detach"}
"""Operations that compute nothing."""


def test_a_step_takes_at_most_thirty_operations_beyond_its_gradient() -> None:
    batch, ball = searches.case(searches.TinyVAE().requires_grad_(False), searches.images_of(4), 0.3)
    loss, start, ones = MaximumDamage().loss(batch), ball.random_start(torch.randn(4, 1, 1, 12)), torch.ones(4)

    def count(run) -> int:
        with searches.Operations() as seen:
            run()
        return len([name for name in seen.names if name.split("::")[1].split(".")[0] not in VIEWS])

    def bare() -> None:
        attacked = (ball.center + start).requires_grad_()
        value = (batch.vae.module.decode(batch.vae.module.encode(attacked).mean) - batch.anchor).square()
        torch.autograd.grad(value.flatten(1).sum(1), attacked, ones)

    few, more = (count(lambda n=n: ascend(loss, ball, start, torch.zeros(4, n, 0, 3), 1.0, 0.7)) for n in (5, 6))
    assert more - few - count(bare) <= 30


def test_kl_of_gaussians_is_torchs() -> None:
    one, other = (Posterior(torch.randn(5, 3), torch.rand(5, 3) + 0.1) for _ in range(2))
    normal = torch.distributions.Normal
    peer = torch.distributions.kl_divergence(normal(one.mean, one.std), normal(other.mean, other.std)).sum(1)
    torch.testing.assert_close(divergence_kl(one, other), peer)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"step": 0.0}, {"step": float("nan")}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` > ?=?"):
        PGD(**wrong)
