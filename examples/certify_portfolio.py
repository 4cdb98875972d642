"""Certify a small VAE by every method that applies, see which one wins, and have all of it checked again."""

from pathlib import Path
from tempfile import TemporaryDirectory

from vaerdict.checker import check_run
from vaerdict.data import load_images
from vaerdict.models import train
from vaerdict.options import CertifyOptions, ModelOptions, Question, TrainingOptions
from vaerdict.results import load, sandwich
from vaerdict.sweeps import certificate_units, run_units
from vaerdict.tasks import make_subject

model = ModelOptions(latent=8, hidden=(64, 64), a=2.0, b=1.0, std=0.1)
images = load_images("digits", split="test", limit=5)

with TemporaryDirectory() as place:
    run = Path(place)
    vae = train(
        run / "model",
        load_images("digits", split="train"),
        load_images("digits", split="test"),
        name="lipschitz",
        model=model,
        training=TrainingOptions(epochs=2, batch_size=64, learning_rate=3e-3),
    )
    subject = make_subject(vae, "digits", images, Question(r_relative=0.5), seed=0, device="cpu")
    run_units(run, certificate_units(subject, CertifyOptions()), "certify")
    rows, report = load(run / "results"), check_run(run)

margins = rows[rows["status"] == "ok"].pivot(index=["strength", "method"], columns="sample_id", values="margin")
print(margins.round(4).to_string(), end="\n\n")
for method, reason in rows[rows["status"] == "unsupported"].groupby("method")["reason"].first().items():
    print(f"{method}: {reason}")
won = sandwich(rows)
print(won[["sample_id", "strength", "certified", "certified_by"]].to_string(), end="\n\n")
print(report)
