"""ART's AutoProjectedGradientDescent, in an environment of its own.

Run by `attacks.py` with that environment's Python: reads images and the exported reconstruction, writes adversarial
images and what they cost. ART's interface knows only classifiers, so each image is a class of its own: its index
says which clean reconstruction belongs to it.
"""

import json
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("torch==2.13.0", "adversarial-robustness-toolbox==1.20.1", "packaging")
STEPS = {"ART AutoPGD": 1 / 3, "ART AutoPGD, step 2": 2.0}
"""First steps as multiples of the radius: the ratio of ART's defaults, and the paper's."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: an attack's name, its radius, norm and budget, and the first step as a multiple of the radius."""

    name: str
    radius: float
    norm: str
    budget: int
    step: float


def trials(radii: Sequence[float], norm: str, budgets: Sequence[int]) -> list[Trial]:
    """Give all runs for one model."""
    return [
        Trial(name=name, radius=radius, norm=norm, budget=budget, step=step)
        for name, step in STEPS.items()
        for radius in radii
        for budget in budgets
    ]


def make_environment(folder: Path) -> str:
    """Make the environment, if it is not there; give the reason where that fails."""
    python = folder / "venv" / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder / "venv", with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        return _reason(error)
    return ""


def ask_art(folder: Path, vae: Any, images: Any, runs: Sequence[Trial]) -> tuple[dict[Trial, dict[str, Any]], str]:
    """Run ART on one model: per run its adversarial images and cost, or the reason why there are none."""
    import torch

    python = folder / "venv" / "bin" / "python"
    # Exported for one size of batch: the reconstruction goes to the other process without the project's code.
    torch.export.save(torch.export.export(vae, (images,)), folder / "model.pt2")
    np.save(folder / "images.npy", images.numpy())
    job = {"box": list(vae.input_range), "trials": [vars(run) for run in runs]}
    (folder / "job.json").write_text(json.dumps(job))
    try:
        subprocess.run([python, __file__, folder], check=True, capture_output=True, timeout=1200)
    except (subprocess.SubprocessError, OSError) as error:
        return {}, _reason(error)
    found, costs = np.load(folder / "found.npz"), json.loads((folder / "costs.json").read_text())
    return {
        run: {"images": [torch.from_numpy(found[f"{i}/{kind}"]) for kind in ("last", "best")], **costs[i]}
        for i, run in enumerate(runs)
    }, ""


def _reason(error: Exception) -> str:
    output = getattr(error, "stderr", None) or str(error).encode()
    return output.decode(errors="replace").strip().splitlines()[-1]


def _classifier(reconstruct: Any, images: np.ndarray, box: list[float]) -> Any:
    """Give the reconstruction as what ART takes for a classifier; it counts gradients and evaluations, in images."""
    import torch
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        anchor = reconstruct(torch.from_numpy(images)).flatten(1)

    class Counting(torch.nn.Module):
        gradients, forwards = 0, 0

        def forward(self, inputs: Any) -> Any:
            self.forwards += len(inputs)
            inputs = inputs.clone()
            if inputs.requires_grad:
                inputs.register_hook(self.count)
            return reconstruct(inputs).flatten(1)

        def count(self, gradient: Any) -> None:
            self.gradients += len(gradient)

    class Damage:
        """The squared distance to the reconstruction of the image that the label names."""

        reduction = "mean"

        def __call__(self, outputs: Any, labels: Any) -> Any:
            loss = (outputs - anchor[labels.argmax(1)]).square().sum(1)
            return loss if self.reduction == "none" else getattr(loss, self.reduction)()

    class Estimator(PyTorchClassifier):
        def predict(self, x: Any, *_: Any, **__: Any) -> Any:
            """Call clean images right and all others wrong: ART then attacks all, and keeps what it found."""
            logits = 2 * np.eye(len(images), dtype=np.float32)
            return logits[: len(x)] if np.array_equal(x, images) else np.roll(logits, 1, axis=1)[: len(x)]

    return Estimator(
        model=Counting(), loss=Damage(), input_shape=images.shape[1:], nb_classes=len(images), clip_values=tuple(box)
    )


def _run(reconstruct: Any, images: np.ndarray, box: list[float], trial: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the last iterates, as ART returns them, and the best ones, which it remembers; and what they cost."""
    from art.attacks.evasion import AutoProjectedGradientDescent

    classifier = _classifier(reconstruct, images, box)
    attack = AutoProjectedGradientDescent(
        estimator=classifier,
        norm=2 if trial.norm == "2" else np.inf,
        eps=trial.radius,
        eps_step=trial.step * trial.radius,
        max_iter=trial.budget,
        nb_random_init=1,
        batch_size=len(images),
        verbose=False,
    )
    start = time.process_time()
    last = attack.generate(images, y=np.arange(len(images)))
    seconds = time.process_time() - start
    counts = classifier.model.module if hasattr(classifier.model, "module") else classifier.model
    cost = {name: getattr(counts, name) / len(images) for name in ("gradients", "forwards")}
    return {"last": last, "best": attack.x_max}, {**cost, "seconds": seconds}


def _main(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    job, images = json.loads((folder / "job.json").read_text()), np.load(folder / "images.npy")
    reconstruct = torch.export.load(folder / "model.pt2").module()
    found, costs = {}, []
    for i, options in enumerate(job["trials"]):
        np.random.seed(i)  # noqa: NPY002 - ART draws its starts from numpy's global generator
        kinds, cost = _run(reconstruct, images, job["box"], Trial(**options))
        found.update({f"{i}/{kind}": value.astype(np.float32) for kind, value in kinds.items()})
        costs.append(cost)
    np.savez(folder / "found.npz", **found)
    (folder / "costs.json").write_text(json.dumps(costs))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
