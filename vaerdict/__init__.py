"""A verdict on a VAE's robustness: a certified margin from below, an attacked margin from above, a report."""

__version__ = "0.1.0"
