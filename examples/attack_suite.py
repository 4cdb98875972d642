"""Attack a VAE from several sides: the standard suite, a published preset, the smallest radius, and what they cost."""

import json

import torch
from torch import nn

from vaerdict.attacks import attack, attack_margin, find_preset
from vaerdict.data import load_images
from vaerdict.models import median_distance, wrap

torch.manual_seed(0)
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))

images = load_images("digits", limit=2).pixels
vae = wrap(encoder, decoder, input_shape=(1, 8, 8), latent_shape=(8,), spread="constant", std=0.01)
r = 0.5 * median_distance(vae, images)

for row in attack(vae, images, radius=1.0, r=r, reconstruction="mean", suite="standard"):
    facts = json.loads(row.constants)
    print(
        f"image {row.sample_id}: damage {row.damage:.3f}, gradients of the encoder {facts['cost']['encoder_backward']}"
    )
    for member in facts["members"]:
        print(f"    {member['method']:<24} {member['damage']:.3f}")
    print(f"    {'after rounding to 8 bits':<24} {facts['quantised']['damage']:.3f}")

(row, _) = find_preset("photoguard").attack(vae, images, r=r, steps=100)
print(f"{row.method}: damage {row.damage:.3f} at radius {row.rho:.3f} of [0, 1]")
(row, _) = attack_margin(vae, images, r=r, reconstruction="mean", suite="standard")
print(f"smallest change that moves the reconstruction by more than {r:.3f}: {row.margin:.4f}")
