"""A grid of units of work turned into Parquet parts, one after the other."""

from vaerdict.sweeps.serial import run_units
from vaerdict.sweeps.units import Subject, Unit, attack_units, certificate_units

__all__ = ["Subject", "Unit", "attack_units", "certificate_units", "run_units"]
