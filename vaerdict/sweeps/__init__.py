"""A grid of units of work turned into Parquet parts: here, in processes beside, or on a cluster."""

from vaerdict.sweeps.engines.serial import run_units
from vaerdict.sweeps.grid import Grid, make_grid, read_grid
from vaerdict.sweeps.run import Summary, sweep
from vaerdict.sweeps.subjects import check_device, choose_images, images_for, load_model, make_subject
from vaerdict.sweeps.units import Subject, Unit, attack_units, certificate_units

__all__ = [
    "Grid",
    "Subject",
    "Summary",
    "Unit",
    "attack_units",
    "certificate_units",
    "check_device",
    "choose_images",
    "images_for",
    "load_model",
    "make_grid",
    "make_subject",
    "read_grid",
    "run_units",
    "sweep",
]
