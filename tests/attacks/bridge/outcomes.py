"""What becomes of every attack class of foolbox on a small VAE, as the table of docs/foolbox.md.

`python -m tests.attacks.bridge.outcomes` writes the table anew.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaerdict.attacks import MarginSearch, attack, attack_margin
from vaerdict.attacks.bridge import FoolboxAttack
from vaerdict.attacks.bridge.library import REFUSED, load
from vaerdict.vae import Posterior

PAGE = Path(__file__).parents[3] / "docs" / "foolbox.md"
BEGIN, END = "<!-- outcomes: begin -->", "<!-- outcomes: end -->"
HEAD = "| attack | norms | looks at | at a radius | margins |\n|---|---|---|---|---|"
SHORT: dict[str, dict[str, Any]] = {
    "BoundaryAttack": {"steps": 60},
    "DDNAttack": {"steps": 40},
    "EADAttack": {"steps": 30, "binary_search_steps": 5, "initial_const": 0.1},
    "L0FMNAttack": {"steps": 40},
    "L1FMNAttack": {"steps": 40},
    "LInfFMNAttack": {"steps": 40},
    "GaussianBlurAttack": {"steps": 20},
    "GenAttack": {"steps": 20},
    "HopSkipJumpAttack": {"steps": 2, "initial_gradient_eval_steps": 10},
    "L2CarliniWagnerAttack": {"steps": 30, "binary_search_steps": 5, "initial_const": 0.1},
    "LinearSearchBlendedUniformNoiseAttack": {"directions": 20, "steps": 40},
    "LinearSearchContrastReductionAttack": {"steps": 50},
    "SaltAndPepperNoiseAttack": {"steps": 60},
    "VirtualAdversarialAttack": {"steps": 5},
}
"""Options where the defaults take long."""
NUMBA = "with the package numba, which foolbox does not install"
R, RADIUS = 0.5, {"0": 4.0, "1": 1.0, "2": 0.5, "inf": 0.3}


class SmallVAE(nn.Module):
    """Two small nets with bends, images of 4 by 4 pixels in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.input_shape, self.input_range, self.latent = "small", (1, 4, 4), (-1.0, 1.0), 3
        generator = torch.Generator().manual_seed(3)
        sizes = [(10, 16), (3, 10), (10, 3), (16, 10)]
        self.weights = nn.ParameterList(2 * torch.randn(s, generator=generator) / s[1] ** 0.5 for s in sizes)

    def encode(self, images: Tensor) -> Posterior:
        mean = torch.tanh(images.flatten(1) @ self.weights[0].T) @ self.weights[1].T
        return Posterior(mean, torch.full_like(mean, 0.1))

    def decode(self, latents: Tensor) -> Tensor:
        return (nn.functional.softplus(latents @ self.weights[2].T) @ self.weights[3].T).unflatten(1, (1, 4, 4))


def small_images(count: int) -> Tensor:
    """Give images within [-0.4, 0.4]."""
    return 0.8 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2)) - 0.4


def classes() -> dict[str, Any]:
    """Give all attack classes that foolbox exports, by name."""
    fb = load()
    exported = {c.__name__: c for c in vars(fb.attacks).values() if inspect.isclass(c) and issubclass(c, fb.Attack)}
    return {name: exported[name] for name in sorted(exported) if not inspect.isabstract(exported[name])}


def line(name: str, found: Any) -> str:
    """Try one class and give its line of the table; those that compile for a minute were tried by hand."""
    if issubclass(found, load().attacks.brendel_bethge.BrendelBethgeAttack):
        norm = {"Linfinity": "inf"}.get(name.removesuffix("BrendelBethgeAttack"), name[1])
        return f"| `{name}` | {norm} | slope of the damage | shortened to it, {NUMBA} | yes, with numba |"
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"got {name}: {re.escape(REFUSED[name])}"):
            FoolboxAttack(found())
        return f"| `{name}` | | | refused: {REFUSED[name]} | |"
    options = FoolboxAttack(found(**SHORT.get(name, {})))
    kind = options._inside[1]
    looks = "objective's loss" if kind.loss else "slope of the damage" if kind.slopes else "damage or not"
    norm = "2" if "2" in kind.norms else kind.norms[0]
    vae, images = SmallVAE(), small_images(1)
    rows = attack(vae, images, radius=RADIUS[norm], r=R, norm=norm, reconstruction="mean", options=options)
    at_radius = ("within it" if kind.fixed else "shortened to it") if _broken(rows) else "found nothing"
    margin = "for a given radius only"
    if not kind.fixed:
        few = MarginSearch(selection=50, polish=50, attempts=2)
        rows = attack_margin(vae, images, r=R, norm=norm, reconstruction="mean", options=few, searches=[options])
        margin = "yes" if _broken(rows) else "found nothing"
    norms = "all" if len(kind.norms) > 2 else ", ".join(kind.norms)
    return f"| `{name}` | {norms} | {looks} | {at_radius} | {margin} |"


def _broken(rows: list[Any]) -> bool:
    assert all(row.status == "ok" for row in rows), [row.reason for row in rows]
    return any(row.margin < float("inf") for row in rows)


def table() -> str:
    """Try all classes and give the table."""
    return "\n".join([HEAD, *(line(name, found) for name, found in classes().items())])


def written(page: str) -> str:
    """Give the table that stands in a page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page.replace(written(page), table()))
