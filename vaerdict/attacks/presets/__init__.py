"""Published attacks on VAEs, reproduced with their papers' settings; known flaws are corrected and named."""

from vaerdict.attacks.presets.catalogue import find_preset, presets, table_presets
from vaerdict.attacks.presets.preset import Preset
from vaerdict.attacks.presets.radii import RadiusBisection

__all__ = ["Preset", "RadiusBisection", "find_preset", "presets", "table_presets"]
