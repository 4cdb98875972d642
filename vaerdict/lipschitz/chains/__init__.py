"""Layers in a row written out as matrices, and the tighter bounds that these allow."""
