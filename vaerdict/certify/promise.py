"""A margin promised before training, and the budgets that keep it: what `train --design` reads."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaerdict.certify.design import SPARE, by_isotropic
from vaerdict.options import ModelOptions, Question, require


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The margin that is promised at every input, and budgets that keep it: checked when it is made.

    Attributes:
        r: distance between reconstructions, L2 in pixel units.
        p: level.
        margin: how far an input may move, L2 in pixel units.
        latent: number of latent coordinates.
        sigma: posterior standard deviation, constant and shared by all coordinates.
        a: Lipschitz constant of the decoder, a final sigmoid counted.
        b: Lipschitz constant of the encoder's mean.
    """

    r: float
    p: float
    margin: float
    latent: int
    sigma: float
    a: float
    b: float

    def __post_init__(self) -> None:
        Question(r=self.r, p=self.p)
        require(self.latent >= 1, "`latent` >= 1", self.latent)
        for name in ("margin", "sigma", "a", "b"):
            require(0 < getattr(self, name) < math.inf, f"a finite `{name}` > 0", getattr(self, name))
        std = torch.tensor([self.sigma], dtype=torch.float64)
        # Where a float32 layer's excess would already break the promise, the budgets were not made by `design`.
        a = torch.full_like(std, self.a * (1 + SPARE / 10))
        kept = float(by_isotropic(self.latent, self.r, self.b * self.margin, std, a)) > self.p
        budgets = f"`a` = {self.a!r}, `b` = {self.b!r}, `sigma` = {self.sigma!r}"
        require(kept, f"budgets that promise a `margin` of {self.margin!r}", budgets)

    def options(self) -> dict[str, Any]:
        """Give the `ModelOptions` of a VAE that keeps the promise, by name; what it leaves open is not in it."""
        bounds = {"latent": self.latent, "a": self.a, "b": self.b, "std": self.sigma}
        return {"family": "lipschitz", "spread": "constant", **bounds}

    def check(self, model: ModelOptions) -> None:
        """Refuse an architecture for which nothing is promised.

        Raises:
            ValueError: the family is not a constrained one, or an option differs from `options`.
        """
        for name, promised in self.options().items():
            fits = (name == "family" and model.family == "lipschitz_conv") or getattr(model, name) == promised
            require(fits, f"`{name}` {promised!r}, which the design promises its margin for", getattr(model, name))


def read_promise(path: Path) -> Promise:
    """Read what a `design.json` promises.

    Raises:
        ValueError: the file cannot be read, is no design, or its budgets do not keep its promise.

    >>> read_promise(Path("no-such-file"))
    Traceback (most recent call last):
    ValueError: expected the design.json of `vaerdict design --out`, got no-such-file: No such file or directory
    """
    try:
        held = json.loads(path.read_text())
        asked = _numbers(held, "question", "r", "p", "margin", "latent")
        return Promise(**asked, **_numbers(held, "chosen", "sigma", "a", "b"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"expected the design.json of `vaerdict design --out`, got {path}: {reason}") from None


def _numbers(held: Any, part: str, *names: str) -> dict[str, Any]:
    """Read the named numbers of one part of a file, finite ones only; `latent` is a whole one."""
    found = held.get(part) if isinstance(held, dict) else None
    numbers: dict[str, Any] = found if isinstance(found, dict) else {}
    read = {}
    for name in names:
        value: Any = numbers.get(name)
        whole = name == "latent"
        fits = type(value) is int or (type(value) is float and not whole)
        require(
            fits and abs(value) <= sys.float_info.max,
            f"a {'whole' if whole else 'finite'} number `{part}.{name}`",
            repr(value),
        )
        read[name] = value if whole else float(value)
    return read
