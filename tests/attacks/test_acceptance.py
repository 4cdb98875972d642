"""What every attack must do, whatever its optimiser: ten tests on VAEs whose answers are known."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks import searches
from tests.toys import LinearVAE, isotropic_vae
from vaerdict.attacks import (
    APGD,
    DDN,
    FMN,
    LBFGS,
    PGD,
    SGD,
    Adam,
    Ball,
    Bisection,
    Evaluation,
    MarginSearch,
    MaximumDamage,
    RandomSearch,
    Singular,
    TargetedLatent,
    attack,
    attack_margin,
)
from vaerdict.attacks.optimisers.pgd import ascend
from vaerdict.certify import certify
from vaerdict.results import Contradiction, check_contradictions, frame, load

ROOT = Path(__file__).resolve().parents[2]
MEAN = {"r": 1.0, "reconstruction": "mean"}
QUICK = MarginSearch(start=PGD(steps=20, restarts=1), levels=8, steps=8, restarts=0, polish=500)
GRADIENT = [
    PGD(steps=20, restarts=1), APGD(steps=40, restarts=1), Adam(steps=60, learning_rate=0.02),
    SGD(steps=40, learning_rate=0.1, direction="steepest"), LBFGS(evaluations=40, restarts=1),
    Singular(of="reconstruction"),
]  # fmt: skip
EVERY = [*GRADIENT, RandomSearch(queries=300)]


def name(options) -> str:
    return options.name


def witnesses(rows, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    held = [np.load(folder.parent / row.witness) for row in rows]
    return tuple(torch.from_numpy(np.stack([one[key] for one in held])) for key in ("image", "adversarial"))


@pytest.mark.parametrize("options", GRADIENT, ids=name)
def test_1_the_worst_damage_of_a_linear_vae_is_its_singular_value(options) -> None:
    vae, top = searches.linear_vae()
    for row in attack(vae, searches.images_of(3), radius=0.3, options=options, **MEAN):
        assert 0.99 * 0.3 * top <= row.damage <= 0.3 * top * (1 + 1e-5)


@pytest.mark.parametrize("search", [Bisection(), DDN(steps=60), FMN(steps=60)], ids=name)
def test_1_the_margin_of_a_linear_vae_is_r_by_its_singular_value(search) -> None:
    vae, top = searches.linear_vae()
    for row in attack_margin(vae, searches.images_of(3), searches=[search], options=QUICK, **MEAN):
        assert 1 / top <= row.margin <= 1.01 / top


@pytest.mark.parametrize("options", EVERY, ids=name)
def test_2_no_search_stays_at_the_clean_image(options) -> None:
    rows = attack(searches.TinyVAE(), searches.images_of(3), radius=0.3, options=options, **MEAN)
    assert all(row.damage > 0.1 for row in rows)


def test_3_damage_never_falls_with_the_radius() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(4)
    damages = [
        [row.damage for row in attack(vae, images, radius=radius, suite="standard", **MEAN)]
        for radius in (0.1, 0.2, 0.4, 0.8)
    ]
    assert (np.diff(damages, axis=0) > 0).all()


def test_3_certificates_hold_and_a_wrong_one_stops_the_run(tmp_path: Path) -> None:
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    rows = [*certify(vae, images, r=3.0), *attack_margin(vae, images, r=3.0, options=QUICK, witness_folder=tmp_path)]
    check_contradictions(frame(rows))
    table = frame(rows)
    table.loc[table["method"] == "isotropic", "margin"] *= 1.1
    with pytest.raises(Contradiction, match=r"isotropic \(.*succeeds at .*, witness "):
        check_contradictions(table)


@pytest.mark.parametrize("options", EVERY, ids=name)
@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_4_perturbations_stay_in_ball_and_range(options, norm, box: tuple[float, float], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    vae = LinearVAE(torch.randn(3, 12, generator=generator), torch.randn(12, 3, generator=generator), 0.1, box)
    images = box[0] + (box[1] - box[0]) * torch.rand(3, 1, 1, 12, generator=generator).round(decimals=1)
    rows = attack(vae, images, radius=0.3, norm=norm, options=options, witness_folder=tmp_path / "w", **MEAN)
    image, adversarial = witnesses(rows, tmp_path / "w")
    size = (adversarial.double() - image.double()).flatten(1).norm(p=float(norm), dim=1)
    assert float(size.max()) <= 0.3 * (1 + 1e-6)
    assert box[0] <= float(adversarial.min())
    assert float(adversarial.max()) <= box[1]


@pytest.mark.parametrize("options", [*GRADIENT, RandomSearch(queries=40)], ids=name)
@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_5_batches_of_1_7_and_64_agree(options, reconstruction: str) -> None:
    judge = Evaluation(samples=20, confidence=0.9, quantised=False)
    vae, images = searches.TinyVAE(), searches.images_of(9)
    ask = {"radius": 0.3, "r": 1.0, "reconstruction": reconstruction, "evaluation": judge}

    def damages(batch_size: int) -> list[float]:
        rows = attack(vae, images, options=replace(options, batch_size=batch_size), **ask)
        return [row.damage for row in rows]

    whole = damages(64)
    assert damages(64) == whole
    for batch_size in (1, 7):
        assert damages(batch_size) == pytest.approx(whole, rel=1e-4)


RUN = """
import sys
from pathlib import Path
from tests.toys import isotropic_vae
from vaerdict.attacks import PGD, attack
from vaerdict.sweeps import Unit, run_units
import torch
images = torch.randn(6, 1, 1, 12, generator=torch.Generator().manual_seed(1))
def work(k):
    options = PGD(steps=8, restarts=1)
    return attack(isotropic_vae(), images[k : k + 1], radius=0.5, r=1.0, sample_ids=[k], options=options)
def unit(k):
    return Unit(key=f"unit{k}", samples=1, what="attack", work=lambda: work(k), blame=lambda reason: [])
units = [unit(k) for k in range(6)]
run_units(Path(sys.argv[1]), units, "test")
"""


def test_5_a_killed_run_goes_on_and_ends_bit_for_bit_as_another(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RUN]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, cwd=ROOT)
    parts = tmp_path / "killed" / "results"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("unit*.parquet"))) < 2 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(list(parts.glob("unit*.parquet")))
    assert before >= 2
    for folder in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / folder)], env=environment, cwd=ROOT, check=True)
    one, other = (load(tmp_path / folder / "results").drop(columns="time_s") for folder in ("killed", "whole"))
    assert one.equals(other)
    assert len(one) == 6


@pytest.mark.parametrize("options", [PGD(steps=30, restarts=1), APGD(steps=30, restarts=1)], ids=name)
def test_6_a_targeted_attack_comes_nearer(options, tmp_path: Path) -> None:
    vae, images, targets = searches.TinyVAE(), searches.images_of(4), searches.images_of(4).flip(0)
    objective = TargetedLatent(targets, "l2")
    rows = attack(vae, images, radius=0.4, objective=objective, options=options, witness_folder=tmp_path / "w", **MEAN)
    image, adversarial = witnesses(rows, tmp_path / "w")
    goal = vae.encode(targets).mean
    before, after = ((vae.encode(x).mean - goal).norm(dim=1) for x in (image, adversarial))
    assert (after < 0.9 * before).all()


@given(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), st.floats(0.125, 3, width=32))
def test_7_projections_in_l2_keep_what_is_inside_and_land_on_the_sphere(values: list[float], radius: float) -> None:
    delta = torch.tensor([values])
    ball = Ball(norm="2", radius=torch.tensor([radius]), box=(-100.0, 100.0), center=torch.zeros(1, 3))
    projected, length = ball.project(delta), float(delta.norm())
    if length <= radius:
        torch.testing.assert_close(projected, delta, rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(projected, delta * (radius / length), rtol=1e-5, atol=1e-6)


def test_8_the_mean_loss_over_noise_is_the_closed_form() -> None:
    """For a linear decoder `E |g(z') - g(z)|^2` is `|A M delta|^2 + 2 std^2 |A|_F^2`: it is no distance of averages."""
    vae, _ = searches.linear_vae()
    images, delta = searches.images_of(1).expand(20_000, -1, -1, -1), 0.3 * torch.ones(1, 1, 1, 12)
    batch, _ = searches.case(vae.requires_grad_(False), images, 1.0, reconstruction="sampled")
    values = MaximumDamage().loss(batch)(images + delta, torch.randn(20_000, 2, vae.latent))
    encoder, decoder = vae.mean_map[1].weight.detach(), vae.decoder[0].weight.detach()
    moved = (decoder @ encoder @ delta.flatten()).square().sum()
    exact = float(moved + 2 * vae.std**2 * decoder.square().sum())
    assert abs(float(values.mean()) - exact) <= 5 * float(values.std()) / len(values) ** 0.5


def test_9_what_eight_bits_leave_is_told(tmp_path: Path) -> None:
    vae = LinearVAE(torch.eye(12)[:4], 5 * torch.eye(12)[:, :4], 0.1, (0.0, 1.0))
    images = torch.randint(60, 190, (3, 1, 1, 12)) / 255
    rows = attack(vae, images, radius=0.02, options=PGD(steps=20), witness_folder=tmp_path / "w", **MEAN)
    image, adversarial = witnesses(rows, tmp_path / "w")
    stored = (adversarial * 255).round().to(torch.uint8).float() / 255
    exact = (vae.decode(vae.encode(stored).mean) - vae.decode(vae.encode(image).mean)).flatten(1).norm(dim=1)
    told = [json.loads(row.constants)["quantised"]["damage"] for row in rows]
    assert told == pytest.approx(exact.tolist(), rel=1e-4)


@pytest.mark.parametrize("options", [*EVERY[:4], RandomSearch(queries=20)], ids=name)
def test_10_no_search_waits_for_the_device(options) -> None:
    batch, ball = searches.case(isotropic_vae().requires_grad_(False), torch.randn(3, 1, 1, 12), 0.5)
    searches.assert_never_waits(lambda: options.search(batch, MaximumDamage(), ball, "test"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_10_on_a_gpu(norm) -> None:
    vae = isotropic_vae().requires_grad_(False).cuda()
    batch, ball = searches.case(vae, torch.randn(3, 1, 1, 12, device="cuda"), 0.5, norm)
    start, noise = torch.ones_like(batch.images), torch.zeros(3, 20, 0, vae.latent, device="cuda")
    loss, _ = MaximumDamage().loss(batch), ball.room
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ascend(loss, ball, start, noise, 1.0, 0.7)
    finally:
        torch.cuda.set_sync_debug_mode("default")
