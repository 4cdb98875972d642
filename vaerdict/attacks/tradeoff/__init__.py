"""The trade-off between the distortion of inputs and of reconstructions: a sweep over penalties, and its curve."""
