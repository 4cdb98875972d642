"""Everything that can be chosen, as frozen dataclasses.

The command line, the YAML files and the saved configuration are made from them. Imports nothing heavy, so that
`--help` is quick.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Spread = Literal["constant", "bounded", "std", "variance", "log_variance"]
Reconstruction = Literal["sampled", "anchored", "mean"]
CERTIFICATES = ("barrett", "isotropic", "shift", "first_order")


def require(condition: bool, what: str, got: object) -> None:
    """Refuse a value in the one form that errors have here.

    Raises:
        ValueError: the condition does not hold.

    >>> require(False, "`r` > 0", -1)
    Traceback (most recent call last):
    ValueError: expected `r` > 0, got -1
    """
    if not condition:
        raise ValueError(f"expected {what}, got {got}")


def require_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuse names that are not known, and list those that are.

    Raises:
        ValueError: a name is unknown.

    >>> require_known("method", ["barret"], ["barrett", "shift"])
    Traceback (most recent call last):
    ValueError: unknown method 'barret', known: barrett, shift
    """
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}, known: {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a model: how far may an input move before its reconstruction moves by more than `r`?

    Attributes:
        r: Distance between reconstructions, L2 in pixel units.
        r_relative: Instead of `r`: its share of the median distance between reconstructions of different images.
        p: Level: the reconstruction must stay within `r` with a probability above this one.
    """

    r: float | None = None
    r_relative: float | None = None
    p: float = 0.5

    def __post_init__(self) -> None:
        require((self.r is None) != (self.r_relative is None), "one of `r` and `r-relative`", "both or none")
        for name in ("r", "r_relative"):
            value = getattr(self, name)
            require(value is None or value > 0, f"`{name}` > 0", value)
        require(0.5 <= self.p < 1, "`p` in [1/2, 1)", self.p)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A VAE's architecture.

    Attributes:
        family: Dense Lipschitz-constrained, dense plain (same size, ReLU), or small plain convolutional.
        latent: Number of latent coordinates.
        hidden: Widths of the dense encoder's hidden layers; the decoder mirrors them. Even numbers.
        a: Lipschitz constant that the constrained decoder gets, a final sigmoid counted.
        b: Lipschitz constant that the constrained encoder's mean gets.
        spread: Posterior standard deviation: constant, bounded (one per image, below `std`) or free (log-variance).
        std: The constant, or the bound.
        likelihood: Bernoulli (pixels in [0, 1], final sigmoid) or Gaussian.
        observation_std: Standard deviation of the Gaussian likelihood, in pixel units.
        beta: Weight of the KL term in training.
    """

    family: Literal["lipschitz", "plain", "conv"] = "lipschitz"
    latent: int = 10
    hidden: tuple[int, ...] = (256, 256)
    a: float = 5.0
    b: float = 5.0
    spread: Literal["constant", "bounded", "log_variance"] = "constant"
    std: float = 0.1
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    observation_std: float = 0.1
    beta: float = 1.0

    def __post_init__(self) -> None:
        require(self.latent >= 1, "`latent` >= 1", self.latent)
        widths_fit = all(width > 0 and width % 2 == 0 for width in self.hidden)
        require(widths_fit, "even positive `hidden` widths", self.hidden)
        for name in ("a", "b", "std", "observation_std"):
            require(getattr(self, name) > 0, f"`{name}` > 0", getattr(self, name))
        require(self.beta >= 0, "`beta` >= 0", self.beta)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a VAE is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Adam's step at the start; it falls to zero along a cosine.
        seed: Of the first weights, the order of the images and the noise.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "`epochs` >= 1", self.epochs)
        require(self.batch_size >= 1, "`batch-size` >= 1", self.batch_size)
        require(self.learning_rate > 0, "`learning-rate` > 0", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """Which certificates, and how sure the statistical ones must be.

    Attributes:
        methods: Certificates and estimates; empty for all that apply.
        reconstruction: Which change of the reconstruction is meant: two samples, a sample against the mean.
        samples: Monte-Carlo draws per image.
        confidence: Of a statistical certificate, per image.
    """

    methods: tuple[str, ...] = ()
    reconstruction: Literal["sampled", "anchored"] = "sampled"
    samples: int = 2000
    confidence: float = 0.999

    def __post_init__(self) -> None:
        require_known("method", self.methods, CERTIFICATES)
        require(self.samples >= 1, "`samples` >= 1", self.samples)
        require(0 < self.confidence < 1, "`confidence` in (0, 1)", self.confidence)
