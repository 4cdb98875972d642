"""Everything that can be chosen, as frozen dataclasses.

The command line, the YAML files and the saved configuration are made from them. Imports nothing heavy, so that
`--help` is quick.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Spread = Literal["constant", "bounded", "std", "variance", "log_variance"]
NativeSpread = Literal["constant", "bounded", "log_variance"]
Family = Literal["lipschitz", "plain", "lipschitz_conv", "conv"]
Likelihood = Literal["bernoulli", "gaussian"]
Norm = Literal["2", "inf"]
AttackNorm = Literal["0", "0-values", "1", "2", "inf"]
"""Norms of attacks; certificates know "2" and "inf". "0" counts pixels, "0-values" values."""
Aim = Literal["damage", "latent"]
SuiteName = Literal["none", "standard"]
Engine = Literal["serial", "local", "ray"]
Reconstruction = Literal["sampled", "anchored", "mean"]
Certified = Literal[Reconstruction, "smoothed"]
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin"})
METHOD_NAMES = (
    "barrett",
    "isotropic",
    "reflection",
    "seam",
    "coordinate",
    "deterministic",
    "support",
    "shift",
    "shift_moving",
    "coupling",
    "center",
    "latent_center",
    "first_order",
)


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


def _require_positive(options: object, *names: str) -> None:
    """Refuse options that are not positive and finite; None is not given, and a tuple is checked one by one."""
    for name in names:
        given = getattr(options, name)
        several = isinstance(given, tuple)
        what = f"{'only' if several else 'a'} finite `{name.replace('_', '-')}` > 0"
        for value in given if several else (given,):
            require(value is None or 0 < value < math.inf, what, value)


def refuse_pickle(path: Path) -> None:
    """Refuse file formats that can run code when they are read.

    Raises:
        ValueError: the file's ending is one of a pickle's.

    >>> refuse_pickle(Path("model.safetensors"))
    """
    if path.suffix.lower() in _PICKLES:
        raise ValueError(f"expected a file that cannot run code (npz, safetensors), got the pickle {path}")


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
        _require_positive(self, "r", "r_relative")
        require(0.5 <= self.p < 1, "`p` in [1/2, 1)", self.p)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A VAE's architecture.

    Attributes:
        family: Dense Lipschitz-constrained, dense plain (same size, ReLU), or the same two choices with two small
            strided convolutions in place of the hidden layers.
        latent: Number of latent coordinates.
        hidden: Widths of the dense encoder's hidden layers; the decoder mirrors them. Even numbers, as 128,128.
        a: Lipschitz constant that the constrained decoder gets, a final sigmoid counted.
        b: Lipschitz constant that the constrained encoder's mean gets.
        spread: Posterior standard deviation: constant, bounded (one per image, below `std`) or free (log-variance).
        std: The constant, or the bound.
        likelihood: Bernoulli (pixels in [0, 1], final sigmoid) or Gaussian.
        observation_std: Standard deviation of the Gaussian likelihood, in pixel units.
        beta: Weight of the KL term in training.
    """

    family: Family = "lipschitz"
    latent: int = 10
    hidden: tuple[int, ...] = (256, 256)
    a: float = 5.0
    b: float = 5.0
    spread: NativeSpread = "constant"
    std: float = 0.1
    likelihood: Likelihood = "bernoulli"
    observation_std: float = 0.1
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("family", Family), ("spread", NativeSpread), ("likelihood", Likelihood)):
            require_known(name, [getattr(self, name)], get_args(known))
        require(self.latent >= 1, "`latent` >= 1", self.latent)
        widths_fit = all(width > 0 and width % 2 == 0 for width in self.hidden)
        require(widths_fit, "even positive `hidden` widths", self.hidden)
        _require_positive(self, "a", "b", "std", "observation_std")
        require(0 <= self.beta < math.inf, "a finite `beta` >= 0", self.beta)


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
        _require_positive(self, "learning_rate")


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """Which certificates, and how sure the statistical ones must be.

    Attributes:
        methods: Certificates and estimates, as barrett,isotropic; empty for all that apply.
        norm: Of the input change.
        reconstruction: Which change of the reconstruction is meant: two samples, a sample against the mean, two means,
            or two smoothed ones, each the centre of many reconstructions of an image and noise.
        noise_std: Standard deviation of the noise on the pixels that smooths; 0 leaves the posterior's own noise.
        local: Use Lipschitz constants on balls, too, where they may help; seconds per image for wide layers.
        propagation: Use bound propagation by auto_LiRPA, too; its results are never called proved.
        samples: Monte-Carlo draws per image.
        confidence: Of all statistical certificates of an image together.
    """

    methods: tuple[str, ...] = ()
    norm: Norm = "2"
    reconstruction: Certified = "sampled"
    noise_std: float = 0.0
    local: bool = True
    propagation: bool = False
    samples: int = 2000
    confidence: float = 0.999

    def __post_init__(self) -> None:
        require_known("method", self.methods, METHOD_NAMES)
        require_known("reconstruction", [self.reconstruction], get_args(Certified))
        require(0 <= self.noise_std < math.inf, "a finite `noise-std` >= 0", self.noise_std)
        bare = self.reconstruction != "smoothed"
        require(not (bare and self.noise_std), "`noise-std` only with smoothed `reconstruction`", self.reconstruction)
        require(self.samples >= 1, "`samples` >= 1", self.samples)
        require(0 < self.confidence < 1, "`confidence` in (0, 1)", self.confidence)


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Which attacks, and how hard they try.

    Attributes:
        objective: Largest damage of the reconstruction, or the posterior of another image.
        margin: Search the smallest input change that succeeds.
        radii: Radii of attacks besides, in input units, as 0.5,1; whole numbers for counts.
        norm: Of the input change; 0 counts pixels, 0-values their values.
        reconstruction: Which change of the reconstruction is meant: two samples, a sample against the mean, two means.
        suite: Several searches in place of one, of which each image's worst counts.
        gradients: Per image and fixed radius, shared by several starts; the suite has a number of its own.
        samples: Fresh draws that decide whether an attack succeeded.
        confidence: Of that decision.
        indicators: Look for signs that a search failed, too; costs as much as a short one.
        compiled: Compile the steps of searches, which takes a minute per model and norm; the suite does without.
    """

    objective: Aim = "damage"
    margin: bool = True
    radii: tuple[float, ...] = ()
    norm: AttackNorm = "2"
    reconstruction: Reconstruction = "sampled"
    suite: SuiteName = "none"
    gradients: int = 100
    samples: int = 10_000
    confidence: float = 0.999
    indicators: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        chosen = {"objective": Aim, "norm": AttackNorm, "reconstruction": Reconstruction, "suite": SuiteName}
        for name, known in chosen.items():
            require_known(name, [getattr(self, name)], get_args(known))
        require(self.margin or bool(self.radii), "a margin search or some `radii`", "neither")
        _require_positive(self, "radii")
        parts = [radius for radius in self.radii if self.norm in ("0", "0-values") and radius % 1]
        require(not parts, f"only whole numbers as `radii` for the norm {self.norm!r}", parts and parts[0])
        require(not (self.compiled and self.suite != "none"), "`compiled` without a `suite`", self.suite)
        for name in ("gradients", "samples"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(0 < self.confidence < 1, "`confidence` in (0, 1)", self.confidence)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images.

    Attributes:
        data: `digits`, `npz:PATH[IMAGES,LABELS]`, `folder:PATH` or `idx:IMAGES_FILE,LABELS_FILE`; `{split}` in it
            stands for train or test.
        limit: Most images to take; all by default.
        start: Index of the first.
    """

    data: str = "digits"
    limit: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit >= 1, "`limit` >= 1", self.limit)
        require(self.start >= 0, "`start` >= 0", self.start)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Which model: a folder that `vaerdict train` wrote, or a factory of your own.

    Attributes:
        model: Folder with config.json and model.safetensors.
        factory: `package.module:function` that returns a VAE made by `vaerdict.models.wrap`.
        weights: Safetensors file with the factory's weights.
    """

    model: str | None = None
    factory: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        require((self.model is None) != (self.factory is None), "one of `model` and `factory`", "both or none")
        require(
            self.weights is None or self.factory is not None, "`weights` together with `factory` only", self.weights
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where results go, and how they are made.

    Attributes:
        out: Folder of the run; finished parts in it are kept and skipped.
        seed: Of all random draws; each image has its own.
        device: Torch device.
    """

    out: str = "runs/run"
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """What a training is called and where it goes.

    Attributes:
        out: Folder of the model; a training that stopped goes on there.
        name: How tables call the model; by default its family.
        held_out: Images on which the ELBO is logged, as `data`; needed only where `data` has no `{split}`.
        design: File design.json that `vaerdict design --out` wrote; it sets family, latent, a, b, spread and std.
        pixel_range: Least and greatest value of a pixel, as 0,1.
        device: Torch device.
    """

    out: str
    name: str | None = None
    held_out: str | None = None
    design: str | None = None
    pixel_range: tuple[float, float] = (0.0, 1.0)
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """The margin that is wanted.

    Attributes:
        r: Distance between reconstructions, L2 in pixel units.
        margin: How far an input must be free to move, L2 in pixel units.
        latent: Number of latent coordinates.
        b: Lipschitz constant of the encoder's mean.
        sigmas: Posterior standard deviations to try, as 0.05,0.1.
        sigma: The one to train with; by default the largest of `sigmas` that keeps half of the budget without noise.
        p: Level.
        spare: Share of the decoder's constant that `train --design` keeps back for the rounding of evaluation.
        out: Folder for design.json, which `train --design` takes, the table and the figure; by default only printed.
    """

    r: float
    margin: float
    latent: int = 10
    b: float = 1.0
    sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    sigma: float | None = None
    p: float = 0.5
    spare: float = 0.03
    out: str | None = None

    def __post_init__(self) -> None:
        require(self.latent >= 1, "`latent` >= 1", self.latent)
        require(bool(self.sigmas), "one or more `sigmas`", "none")
        _require_positive(self, "r", "margin", "b", "sigmas", "sigma")
        require(0.5 <= self.p < 1, "`p` in [1/2, 1)", self.p)
        require(0 <= self.spare < 1, "`spare` in [0, 1)", self.spare)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The demo.

    Attributes:
        out: Folder of the run; finished parts in it are kept and skipped.
        images: Test images to certify and attack.
        epochs: Passes over the 1500 training images.
        seed: Of the training and of all random draws.
    """

    out: str = "runs/demo"
    images: int = 100
    epochs: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        require(2 <= self.images <= 297, "`images` from 2 to 297", self.images)
        require(self.epochs >= 1, "`epochs` >= 1", self.epochs)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Who does a grid's units, and where the results go.

    Attributes:
        out: Folder of the sweep; finished units in it are kept and skipped.
        engine: This process, processes beside it (one per GPU, or `workers` on the CPU), or Ray.
        workers: Processes or Ray workers; by default one per GPU or, on the CPU, one per core.
        shard: Only every N-th unit from the i-th on, as 3/16, for job arrays.
        address: Of a Ray cluster, as auto; by default Ray is started here.
        gpus: Share of a GPU that a Ray worker takes; by default one where the grid's device is cuda, else none.
        dry_run: Only list the units, and estimate the time by doing one of each kind without keeping it.
        retry_failed: Do units that failed again.
        force: Do all units again.
        max_failures: Stop after so many failed units; by default go on.
        new: Take a grid that differs from the folder's; finished units of the old one stay.
        log_json: Print a line of JSON per unit in place of the bar.
    """

    out: str = "runs/sweep"
    engine: Engine = "serial"
    workers: int | None = None
    shard: str = "1/1"
    address: str | None = None
    gpus: float | None = None
    dry_run: bool = False
    retry_failed: bool = False
    force: bool = False
    max_failures: int | None = None
    new: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        require_known("engine", [self.engine], get_args(Engine))
        for name in ("workers", "max_failures"):
            given = getattr(self, name)
            require(given is None or given >= 1, f"`{name.replace('_', '-')}` >= 1", given)
        require(self.workers is None or self.engine != "serial", "`workers` with another engine than serial", "serial")
        for name in ("address", "gpus"):
            given = getattr(self, name)
            require(given is None or self.engine == "ray", f"`{name}` with the engine ray", self.engine)
        require(self.gpus is None or 0 <= self.gpus < math.inf, "a finite `gpus` >= 0", self.gpus)
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        fits = found is not None and 1 <= int(found[1]) <= int(found[2])
        require(fits, "`shard` as i/N with 1 <= i <= N, such as 3/16", self.shard)

    @property
    def part(self) -> slice:
        """Which of all units are meant."""
        first, count = map(int, self.shard.split("/"))
        return slice(first - 1, None, count)
