"""A Lipschitz-constrained and a plain VAE of the same size on MNIST: trained, certified, attacked, compared.

Certified, attacked and ratio, median and quartiles, for both models. `r` is half of the median distance between the
reconstructions of different test images. Needs an `mnist.npz` with the arrays
`train_images`, `train_labels`, `test_images` and `test_labels` (`--mnist FILE`).
"""

import tempfile
from pathlib import Path

import pandas as pd
from common import SHARED_DATA, Target, finish, make_parser

from vaerdict.data import load_images
from vaerdict.models import train
from vaerdict.options import AttackOptions, CertifyOptions, ModelOptions, Question, TrainingOptions
from vaerdict.reports import build_report, summary
from vaerdict.results import load, sandwich
from vaerdict.sweeps import attack_units, certificate_units, run_units
from vaerdict.tasks import make_subject

QUESTION = Question(r_relative=0.5)
LIMIT_S = 600.0


def quartiles(values: pd.Series) -> dict[str, float]:
    """Give median and quartiles."""
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return {"q25": float(low), "median": float(middle), "q75": float(high)}


def examine(folder: Path, archive: Path, family: str, quick: bool) -> dict[str, float]:
    """Train, certify and attack one model into the run's folder; give the training's facts."""
    data = f"npz:{archive}[{{split}}_images,{{split}}_labels]"
    training_images = load_images(data, split="train", limit=5000 if quick else None)
    test_images = load_images(data, split="test")
    model = ModelOptions(family=family, latent=10, hidden=(256, 256), a=5.0, b=1.0, std=0.1)  # type: ignore[arg-type]
    training = TrainingOptions(epochs=1 if quick else 12, batch_size=128, learning_rate=2e-3)
    vae = train(folder / "models" / family, training_images, test_images, name=family, model=model, training=training)
    history = pd.read_json(folder / "models" / family / "history.json")
    chosen = load_images(data, split="test", limit=20 if quick else 1000)
    subject = make_subject(vae, data, chosen, QUESTION, 0, "cpu")
    run_units(folder, certificate_units(subject, CertifyOptions()), f"certify {family}")
    run_units(folder, attack_units(subject, AttackOptions(), folder), f"attack {family}")
    return {
        "training_s": float(history["time_s"].sum()),
        "held_out_elbo_nats": float(history["held_out_elbo"].iloc[-1]),
        "r": subject.r,
    }


def describe(pairs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Summarise certified, attacked and ratio."""
    return {name: quartiles(pairs[name]) for name in ("certified", "attacked", "ratio")} | {
        "share": {"certified > 0": float((pairs["certified"] > 0).mean()), "n": len(pairs)}
    }


def seconds_per_image(table: pd.DataFrame, family: str) -> dict[str, float]:
    """Give the mean time of each method."""
    rows = table[(table["model"] == family) & (table["status"] == "ok")]
    return {str(method): float(seconds) for method, seconds in rows.groupby("method")["time_s"].mean().items()}


def main() -> None:
    """Train, certify, attack and report on both models."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--keep", type=Path, help="folder of the run; a temporary one by default")
    parser.add_argument("--mnist", type=Path, default=SHARED_DATA / "mnist.npz", help="the archive with MNIST's arrays")
    options = parser.parse_args()
    if not options.mnist.is_file():
        print(f"mnist: skipped, there is no {options.mnist}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        facts = {family: examine(folder, options.mnist, family, options.quick) for family in ("lipschitz", "plain")}
        table = load(folder / "results")
        build_report(folder)
    print(summary(table))
    pairs = sandwich(table)
    models = {
        family: {"training": facts[family], "seconds_per_image": seconds_per_image(table, family)}
        | {str(strength): describe(part) for strength, part in own.groupby("strength")}
        for family, own in pairs.groupby("model")
    }
    positive = models["lipschitz"]["numerical"]["share"]["certified > 0"]
    beaten = int((pairs["certified"] > pairs["attacked"]).sum())
    slowest = max(fact["training_s"] for fact in facts.values())
    targets = [
        Target(
            name="share of positive certificates, lipschitz", wanted="> 0.99", measured=positive, met=positive > 0.99
        ),
        Target(name="attacks below a certificate", wanted="0", measured=beaten, met=beaten == 0),
        Target(name="longest training, s", wanted="<= 600", measured=slowest, met=slowest <= LIMIT_S),
    ]
    finish("mnist", options, targets, models=models)


if __name__ == "__main__":
    main()
