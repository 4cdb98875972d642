"""Other searches for the smallest perturbation that does damage `r`: foolbox's DDN and Carlini-Wagner, and bisection.

foolbox's two know only labels, so a model of two classes is put before them, whose second wins where the damage exceeds
`r`; their gradients are then the damage's. Its FMN is left out: in 3.3.4 its L2 projection never shortens anything.
"""

from collections.abc import Callable
from typing import Any

import torch
from attacks_judge import Counted, norms
from attacks_peers import constant_pgd
from torch import Tensor, nn

MarginPeer = Callable[[Counted, Tensor, float, int], Tensor]
"""From a model, clean images, `r` and a number of gradients to images, adversarial where the search succeeded (L2)."""

LEVELS = 10
"""Radii of the bisection; with few gradients as many as leave two for each."""
CONSTANTS = 2
"""Weights of the damage that Carlini and Wagner's search tries."""
PATH = 15.0
"""How far its Adam can carry a pixel, before the tanh: with its own 9 weights, first 1e-3, and steps of 1e-2 it needs
thousands of gradients; these values did best on the first model with few."""


class TwoClasses(nn.Module):
    """Scores 0 and `|Delta| / r - 1`, for a batch that always holds the same images in the same order."""

    def __init__(self, vae: Counted, images: Tensor, r: float) -> None:
        super().__init__()
        self.vae, self.r = vae, r
        with torch.no_grad():
            self.anchor = vae(images)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Give the two scores of each image."""
        squared = (self.vae(images) - self.anchor).flatten(1).square().sum(1)
        # Not the root of zero, whose gradient is NaN.
        excess = (squared + 1e-12).sqrt() / self.r - 1
        return torch.stack([torch.zeros_like(excess), excess], dim=1)


def foolbox_search(name: str, make: Callable[[int], dict[str, Any]]) -> MarginPeer:
    """Give one of foolbox's minimum-norm attacks; `make` gives its options from the number of gradients."""

    def run(vae: Counted, images: Tensor, r: float, budget: int) -> Tensor:
        import foolbox

        attack = getattr(foolbox.attacks, name)(**make(budget))
        model = foolbox.PyTorchModel(TwoClasses(vae, images, r), bounds=vae.input_range, device=images.device)
        criterion = foolbox.criteria.Misclassification(torch.zeros(len(images), dtype=torch.long))
        return attack.run(model, images, criterion)

    return run


def bisected(step: float, per_step: float = 0.0) -> MarginPeer:
    """Give the bisection over PGD with constant steps, from a random start at every radius."""

    def run(vae: Counted, images: Tensor, r: float, budget: int) -> Tensor:
        levels = min(LEVELS, budget // 2)
        steps = budget // levels
        low_pixel, high_pixel = vae.input_range
        widest = torch.maximum(images - low_pixel, high_pixel - images)
        low, high = torch.zeros(len(images), 1), norms(widest, "2").to(images).unsqueeze(1)
        with torch.no_grad():
            anchor = vae(images)
        best = images
        for _ in range(levels):
            radii = (low + high) / 2
            point = constant_pgd(vae, images, radii, steps, "2", step + per_step / steps)
            with torch.no_grad():
                success = (vae(point) - anchor).flatten(1).norm(dim=1) > r
            best = torch.where(success.reshape(-1, *[1] * (images.ndim - 1)), point, best)
            low = torch.where(success.unsqueeze(1), low, radii)
            high = torch.where(success.unsqueeze(1), radii, high)
        return best

    return run


MARGIN_PEERS: dict[str, MarginPeer] = {
    "foolbox DDN": foolbox_search("DDNAttack", lambda budget: {"steps": budget}),
    "foolbox CW": foolbox_search(
        "L2CarliniWagnerAttack",
        lambda budget: {
            "binary_search_steps": CONSTANTS,
            "steps": budget // CONSTANTS,
            "stepsize": PATH * CONSTANTS / budget,
            "initial_const": 10.0,
            "abort_early": False,
        },
    ),
    "bisection over PGD": bisected(0.2),
    "bisection over PGD, 2.5/steps": bisected(0.0, 2.5),
}
