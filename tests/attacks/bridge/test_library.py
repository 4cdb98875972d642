import json
import subprocess
import sys

import pytest
import torch

from vaerdict.attacks.bridge import FoolboxAttack
from vaerdict.attacks.bridge.library import REFUSED, described, kind_of, load

fb = load()


def test_attacks_and_the_bridge_do_not_import_foolbox() -> None:
    code = "import sys, vaerdict.attacks, vaerdict.attacks.bridge; sys.exit('foolbox' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_foolbox_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match="expected the package `foolbox`"):
        FoolboxAttack(object())


def test_the_bridge_has_no_other_names() -> None:
    import vaerdict.attacks.bridge as bridge

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bridge.nothing


def test_what_is_no_foolbox_attack_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an attack of foolbox"):
        kind_of(fb.attacks.L2PGD)
    with pytest.raises(ValueError, match="`pairs` >= 1"):
        FoolboxAttack(fb.attacks.L2PGD(), pairs=0)


def test_refusals_hold_for_subclasses_and_repeated_ones_but_not_for_a_cure() -> None:
    class Sub(fb.attacks.DatasetAttack):
        pass

    class Cured(fb.attacks.L2FMNAttack):
        def project(self, x, x0, epsilon):
            return x

    for refused in (Sub(), Sub().repeat(2)):
        with pytest.raises(ValueError, match="got DatasetAttack: keeps the outputs"):
            kind_of(refused)
    assert kind_of(Cured()).norms == ("2",)


def test_foolbox_still_has_the_faults_for_which_attacks_are_refused() -> None:
    """When this fails, foolbox was mended, and a refusal can go."""
    import eagerpy as ep

    x, x0 = ep.astensor(torch.tensor([[2.0, 0.0]])), ep.astensor(torch.zeros(1, 2))
    moved = fb.attacks.L2FMNAttack().project(x=x, x0=x0, epsilon=ep.astensor(torch.tensor([0.5])))
    assert float(moved.raw[0, 0]) == 2.0

    def step(steepness: float) -> float:
        model = fb.PyTorchModel(Steep(steepness).eval(), bounds=(0, 1), device="cpu")
        start = torch.full((1, 1), 0.5)
        attack = fb.attacks.NewtonFoolAttack(steps=1, stepsize=1e6)
        return float(attack.run(model, start, fb.criteria.Misclassification(torch.zeros(1, dtype=torch.int64))) - start)

    # A Newton step is shorter by 10 where the slope is 10 times as steep, not by 1000.
    assert step(30.0) / step(300.0) == pytest.approx(1000, rel=0.01)


class Steep(torch.nn.Module):
    """Two logits whose difference begins at -1 and rises steeply."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        margin = self.steepness * (images[:, 0] - 0.5) - 1
        return torch.stack([torch.zeros_like(margin), margin], 1)


def test_every_refusal_names_a_class() -> None:
    assert all(hasattr(fb.attacks, name) for name in REFUSED)


def test_norms_follow_the_attack_or_its_chosen_distance() -> None:
    assert kind_of(fb.attacks.InversionAttack(distance=fb.distances.linf)).norms == ("inf",)
    assert kind_of(fb.attacks.HopSkipJumpAttack(constraint="linf")).norms == ("inf",)
    assert kind_of(fb.attacks.L0FMNAttack()).norms == ("0", "0-values")
    assert "1" in kind_of(fb.attacks.PointwiseAttack()).norms
    with pytest.raises(ValueError, match="expected a distance among L0, L1, L2 and Linf, got L3 distance"):
        kind_of(fb.attacks.InversionAttack(distance=fb.distances.LpDistance(3)))


def test_an_attack_with_its_own_start_keeps_it() -> None:
    own = fb.attacks.BoundaryAttack(init_attack=fb.attacks.LinearSearchBlendedUniformNoiseAttack())
    assert not kind_of(own).starts
    assert kind_of(fb.attacks.BoundaryAttack()).starts


def test_settings_can_be_written_as_json() -> None:
    attack = fb.attacks.BoundaryAttack(init_attack=fb.attacks.SaltAndPepperNoiseAttack(steps=7))
    written = json.loads(json.dumps(described(attack.repeat(2)), allow_nan=False))
    assert written["times"] == 2
    assert written["attack"]["class"] == "BoundaryAttack"
    assert written["attack"]["init_attack"]["steps"] == 7
    flexible = described(fb.attacks.InversionAttack(distance=fb.distances.l2))
    assert flexible == {"class": "InversionAttack", "distance": "L2 distance"}
