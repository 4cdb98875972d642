"""How far evaluation in floating point may be from the real function of the weights."""
