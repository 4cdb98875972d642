"""Certify and attack a VAE of your own: two torch modules, here small and untrained."""

import torch
from torch import nn

from vaerdict.attacks import attack_margin
from vaerdict.certify import certify
from vaerdict.data import load_images
from vaerdict.models import median_distance, wrap
from vaerdict.results import frame, sandwich

torch.manual_seed(0)
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))

images = load_images("digits", limit=5).pixels
vae = wrap(encoder, decoder, input_shape=(1, 8, 8), latent_shape=(8,), spread="constant", std=0.01)
r = 0.5 * median_distance(vae, images)
rows = certify(vae, images, r=r) + attack_margin(vae, images, r=r)
print(sandwich(frame(rows))[["sample_id", "strength", "certified", "certified_by", "attacked", "ratio"]])
