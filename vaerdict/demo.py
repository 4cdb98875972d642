"""The demo: a Lipschitz-constrained and a plain VAE of the same size on the embedded digits, to the report."""

from pathlib import Path

from vaerdict.data import Images, load_images
from vaerdict.models import GaussianVAE, train
from vaerdict.options import (
    AttackOptions,
    CertifyOptions,
    DemoOptions,
    ModelOptions,
    Question,
    TrainingOptions,
)
from vaerdict.reports import build_report, summary
from vaerdict.results import load
from vaerdict.sweeps import attack_units, certificate_units, make_subject, run_units

QUESTION = Question(r_relative=0.5)
RADII = (0.5, 1.0)


def run_demo(options: DemoOptions) -> tuple[Path, str]:
    """Train, certify and attack both models and build the report; give its path and the summary table."""
    folder = Path(options.out)
    training_images = load_images("digits", split="train")
    test_images = load_images("digits", split="test")
    chosen = load_images("digits", split="test", limit=options.images)
    for family in ("lipschitz", "plain"):
        model = ModelOptions(family=family, latent=8, hidden=(128, 128), a=2.0, b=1.0, std=0.1)
        training = TrainingOptions(epochs=options.epochs, batch_size=64, learning_rate=3e-3, seed=options.seed)
        vae = train(
            folder / "models" / family, training_images, test_images, name=family, model=model, training=training
        )
        _examine(folder, vae, chosen, options.seed)
    return build_report(folder), summary(load(folder / "results"))


def _examine(folder: Path, vae: GaussianVAE, images: Images, seed: int) -> None:
    subject = make_subject(vae, "digits", images, QUESTION, seed, "cpu")
    run_units(folder, certificate_units(subject, CertifyOptions()), f"certify {subject.vae.name}")
    run_units(folder, attack_units(subject, AttackOptions(radii=RADII), folder), f"attack {subject.vae.name}")
