"""All presets, by name and as a table."""

from vaerdict.attacks.presets import (
    camuto2021,
    collapse2024,
    gondim_ribeiro2018,
    grill2025,
    kuzina2021,
    kuzina2022,
    photoguard,
    tabacof2016,
    willetts2021,
)
from vaerdict.attacks.presets.preset import Preset
from vaerdict.options import require_known

_ALL = (
    tabacof2016.TABACOF,
    gondim_ribeiro2018.LATENT,
    gondim_ribeiro2018.OUTPUT,
    willetts2021.SOFT,
    willetts2021.HARD,
    camuto2021.CAMUTO,
    kuzina2021.SUPERVISED,
    kuzina2021.UNSUPERVISED,
    kuzina2022.SUPERVISED,
    kuzina2022.UNSUPERVISED,
    photoguard.PHOTOGUARD,
    collapse2024.PLUS,
    collapse2024.MINUS,
    grill2025.GRILL,
)


def presets() -> dict[str, Preset]:
    """Give all presets by name, by year of publication.

    >>> list(presets())[:2]
    ['tabacof-2016', 'gondim-ribeiro-2018-latent']
    """
    return {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """Give the preset of that name.

    Raises:
        ValueError: there is none; the message lists those that are.

    >>> find_preset("photoguard").norm
    'inf'
    """
    known = presets()
    require_known("preset", [name], list(known))
    return known[name]


def table_presets() -> str:
    """Give the presets as a Markdown table: name, paper, attack, threat model, corrections and other differences.

    >>> table_presets().splitlines()[0]
    '| preset | paper | attack | within | corrected | also different |'
    """
    head = ["preset", "paper", "attack", "within", "corrected", "also different"]
    rows = [head, ["---"] * len(head), *map(_cells, _ALL)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _cells(preset: Preset) -> list[str]:
    said = [" ".join(preset.corrections), " ".join(preset.differences)]
    return [f"`{preset.name}`", preset.source, preset.what, _within(preset), *said]


def _within(preset: Preset) -> str:
    low, high = preset.pixel_range
    norm = {"2": "L2", "inf": "L-infinity"}[preset.norm]
    if preset.radius == "box":
        return "the box"
    radius = "a radius of your choice" if isinstance(preset.radius, str) else f"{preset.radius:.3g}"
    return f"{norm}, {radius}, pixels in [{low:g}, {high:g}]"
