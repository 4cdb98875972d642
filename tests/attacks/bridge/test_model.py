import pytest
import torch

from tests.attacks.bridge.outcomes import SmallVAE, small_images
from tests.attacks.searches import linear_vae
from vaerdict.attacks import LatentDivergence, MaximumDamage
from vaerdict.attacks.bridge import DamageCriterion, foolbox_model
from vaerdict.attacks.bridge.library import load

fb = load()


def moved(vae, images: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        one, other = (vae.decode(vae.encode(x).mean).flatten(1) for x in (images, adversarial))
    return (other - one).norm(dim=1)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)])
def test_foolbox_attacks_a_vae_as_its_documentation_says(box: tuple[float, float]) -> None:
    vae, top = linear_vae(box)
    vae.eval().requires_grad_(False)
    images = sum(box) / 2 + (torch.rand(3, 1, 1, 12, generator=torch.Generator().manual_seed(0)) - 0.5) / 10
    model, criterion = foolbox_model(vae, images, r=0.6), DamageCriterion(images)
    pgd = fb.attacks.L2PGD(steps=30, rel_stepsize=0.2)
    _, (weak, strong), broken = pgd(model, images, criterion, epsilons=[0.09, 0.11])
    assert broken.tolist() == [[False] * 3, [True] * 3]
    for radius, adversarial in ((0.09, weak), (0.11, strong)):
        share = moved(vae, images, adversarial) / (radius * top)
        assert bool((share > 0.98).all())
        assert bool((share < 1 + 1e-4).all())
    assert pgd(model, images, torch.zeros(3, dtype=torch.int64), epsilons=0.11)[2].all()


def test_decision_based_attacks_take_the_unit_box() -> None:
    vae = linear_vae((-1.0, 1.0))[0].eval().requires_grad_(False)
    images = torch.zeros(1, 1, 1, 12)
    model = foolbox_model(vae, images, r=0.6).transform_bounds((0, 1))
    unit = torch.full_like(images, 0.5)
    hop = fb.attacks.HopSkipJumpAttack(steps=3, initial_gradient_eval_steps=20)
    criterion = DamageCriterion(images)
    found, _, broken = hop(model, unit, criterion, epsilons=None, starting_points=torch.ones_like(images))
    assert bool(broken.all())
    assert 0.1 * (1 - 1e-3) < float(2 * (found - unit).norm()) < 0.5


def test_logits_say_how_far_beyond_r_and_have_the_damage_s_gradient() -> None:
    vae, images = SmallVAE().eval().requires_grad_(False), small_images(2)
    model = foolbox_model(vae, images, r=0.25)
    adversarial = (images + 0.1).requires_grad_()
    logits = model(adversarial)
    torch.testing.assert_close(logits[:, 1].detach(), moved(vae, images, adversarial.detach()) / 0.25 - 1)
    assert not logits[:, 0].any()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), adversarial)
    step = 1e-2 * gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        rise = model(adversarial + step)[:, 1] - model(adversarial - step)[:, 1]
    torch.testing.assert_close(rise / 2e-2, gradient.flatten(1).norm(dim=1), rtol=0.05, atol=0)


def test_at_the_clean_images_the_gradient_is_zero_not_nan() -> None:
    vae, images = SmallVAE().eval().requires_grad_(False), small_images(1).requires_grad_()
    (gradient,) = torch.autograd.grad(foolbox_model(vae, images.detach(), r=1.0)(images)[:, 1].sum(), images)
    assert not gradient.isnan().any()


def test_random_damage_is_its_quantile_over_fixed_draws() -> None:
    vae = linear_vae()[0].eval().requires_grad_(False)
    images, far = torch.zeros(1, 1, 1, 12), torch.full((1, 1, 1, 12), 0.5)
    loose, strict = (foolbox_model(vae, images, r=1.0, p=p, reconstruction="sampled", pairs=64) for p in (0.5, 0.9))
    assert bool((loose(far) == loose(far)).all())
    assert float(strict(far)[0, 1]) > float(loose(far)[0, 1])
    with pytest.raises(ValueError, match="`pairs` >= 1"):
        foolbox_model(vae, images, r=1.0, pairs=0)


def test_an_objective_gives_the_slope_but_not_the_value() -> None:
    vae, images = SmallVAE().eval().requires_grad_(False), small_images(2)
    adversarial = (images + 0.1).requires_grad_()
    plain, bent = (foolbox_model(vae, images, r=0.25, objective=o) for o in (None, LatentDivergence("l2")))
    torch.testing.assert_close(bent(adversarial).detach(), plain(adversarial).detach())
    (gradient,) = torch.autograd.grad(bent(adversarial)[:, 1].sum(), adversarial)
    distance = (vae.encode(adversarial).mean - vae.encode(images).mean).square().sum()
    (expected,) = torch.autograd.grad(distance, adversarial)
    angle = torch.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    torch.testing.assert_close(angle, torch.ones(2), rtol=1e-4, atol=1e-4)
    noisy = foolbox_model(vae, images, r=0.25, reconstruction="sampled", objective=MaximumDamage())
    first, second = (torch.autograd.grad(noisy(adversarial)[:, 1].sum(), adversarial)[0] for _ in range(2))
    assert bool((first != second).any()), "every gradient has fresh noise"


def test_rows_are_compared_by_index_and_other_numbers_of_rows_refused() -> None:
    vae, images = SmallVAE().eval().requires_grad_(False), small_images(3)
    model = foolbox_model(vae, images, r=1.0)
    torch.testing.assert_close(model(images)[:, 1], -torch.ones(3), atol=1e-5, rtol=0)
    assert bool((model(images.flip(0))[[0, 2], 1] > -1 + 1e-3).all())
    with pytest.raises(ValueError, match="expected 3 rows, one per clean image, got 2"):
        model(images[:2])
    one = foolbox_model(vae, images[:1], r=1.0)
    torch.testing.assert_close(one(images)[:, 1], torch.cat([one(image.unsqueeze(0)) for image in images])[:, 1])


def test_a_tie_is_no_damage() -> None:
    criterion = DamageCriterion(torch.zeros(3, 4))
    outputs = torch.tensor([[0.0, 0.0], [0.0, 1e-6], [0.0, float("nan")]])
    assert criterion(None, outputs).tolist() == [False, True, False]
    assert repr(criterion) == "DamageCriterion(3 images)"


def test_a_model_in_training_mode_is_refused() -> None:
    vae, images = SmallVAE().train(), small_images(1)
    with pytest.raises(ValueError, match=r"expected a VAE in evaluation mode .*, got one in training mode"):
        foolbox_model(vae, images, r=1.0)
    vae.eval().add_module("part", torch.nn.Dropout())
    with pytest.raises(ValueError, match="in training mode"):
        foolbox_model(vae, images, r=1.0)
    foolbox_model(vae.eval(), images, r=1.0)
