"""The threat model: which perturbations are allowed, and how searches move among them."""

from vaerdict.attacks.threat.ball import COUNTS, Ball, size
from vaerdict.attacks.threat.inputs import check_mask, settle
from vaerdict.attacks.threat.samples import Room, scaled, spread, where

__all__ = ["COUNTS", "Ball", "Room", "check_mask", "scaled", "settle", "size", "spread", "where"]
