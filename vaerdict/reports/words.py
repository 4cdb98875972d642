"""What a run says of each model, in plain words."""

import numpy as np

from vaerdict.reports.cells import Spread, plain
from vaerdict.reports.groups import NORMS, STRENGTHS, Group
from vaerdict.reports.rounding import percent, rounded

RECONSTRUCTIONS = {
    "sampled": "both reconstructions are drawn from their posteriors, independently",
    "anchored": "the attacked reconstruction is drawn, the clean one is decoded from the posterior mean",
    "mean": "both reconstructions are decoded from the posterior means, nothing is random",
}

SMOOTHED = (
    "the centre of many reconstructions of the image, with so much normal noise on its pixels (with 0, the posterior's "
    "own noise), stays within r of the one found for the clean image; the level p plays no part, and nothing is said "
    "of the model without the noise"
)

MEANINGS = {
    "proved": "holds with the rounding of every operation included",
    "numerical": "proved in real arithmetic, computed in floating point without a bound on its rounding",
    "statistical": "holds with the stated confidence over the draws, per test image; without a bound on the rounding",
    "estimate": "proves nothing in either direction; shown for comparison, never in a certified column",
}


def reconstruction(group: Group) -> str:
    """Say what is compared.

    >>> import pandas as pd
    >>> facts = {"dataset": "digits", "norm": "2", "r": 1.5, "r_relative": None, "p": 0.5, "rows": pd.DataFrame()}
    >>> reconstruction(Group(label="a", reconstruction="smoothed, noise 0.25", **facts))[:40]
    'the centre of many reconstructions of th'
    """
    return SMOOTHED if group.smoothed else RECONSTRUCTIONS[group.reconstruction]


def question(group: Group) -> str:
    """Say a group's question in one sentence: what counts as a change and how often it may happen.

    >>> import pandas as pd
    >>> facts = {"norm": "2", "r": 1.5, "r_relative": None, "p": 0.5, "reconstruction": "mean"}
    >>> question(Group(label="a", dataset="digits", rows=pd.DataFrame(), **facts))
    'L2 perturbations; reconstruction (mean) within r = 1.5 pixel units with probability above p = 0.5'
    """
    relative = "" if group.r_relative is None else f" ({group.r_relative:.3g} of the median distance)"
    chance = "" if group.smoothed else f" with probability above p = {group.p:.4g}"
    return (
        f"{NORMS[group.norm]} perturbations; reconstruction ({group.reconstruction}) within r = {group.r:.4g} "
        f"pixel units{relative}{chance}"
    )


def verdict(group: Group) -> str:
    """Say what was certified and attacked for one model, with medians over samples.

    >>> import pandas as pd
    >>> facts = {"norm": "2", "r": 1.5, "r_relative": None, "p": 0.5, "reconstruction": "mean", "dataset": "digits"}
    >>> rows = {"sample_id": [1], "sample_sha256": ["a"], "certified": [None], "attacked": [0.5]}
    >>> verdict(Group(label="a", rows=pd.DataFrame({**rows, "strength": "proved"}), **facts))
    'No certificate was obtained. Attacks broke half of the 1 images with perturbations of at most 0.500.'
    """
    kinds = [kind for kind in STRENGTHS if len(group.certified(kind))]
    sentences = [_certified(group, kind) for kind in kinds] or ["No certificate was obtained."]
    sentences.append(_attacked(group))
    sentences += [text for kind in kinds if (text := _ratio(group, kind))]
    return " ".join(sentences)


def _certified(group: Group, kind: str) -> str:
    rows = group.certified(kind)
    spread = Spread.of(rows["certified"], "down")
    positive = int((rows["certified"] > 0).sum())
    if not positive:
        return f"Certified ({kind}): none of the {len(rows)} test images has a certificate above zero."
    share = percent(positive, len(rows))
    return (
        f"Certified ({kind}): for half of the {len(rows)} test images, every {NORMS[group.norm]} perturbation up to "
        f"{plain(spread.parts()[0]) if spread else 0} keeps the {'smoothed ' * group.smoothed}reconstruction within r; "
        f"{share} % of the images have a certificate above zero."
    )


def _attacked(group: Group) -> str:
    if group.smoothed:
        return "Attacks on the model itself are not held against this."
    margins = group.attacked()["attacked"]
    spread = Spread.of(margins, "up")
    if spread is None:
        return "No attack searched for the margin."
    unbroken = int(np.isinf(margins).sum())
    rest = f" {unbroken} of the {len(margins)} images resisted up to the largest radius tried." if unbroken else ""
    if np.isinf(float(spread.median)):
        return f"The attacks broke fewer than half of the {len(margins)} images.{rest}"
    return f"Attacks broke half of the {len(margins)} images with perturbations of at most {spread.parts()[0]}.{rest}"


def _ratio(group: Group, kind: str) -> str:
    spread = Spread.of(group.certified(kind)["ratio"], "down")
    if spread is None:
        return ""
    if not spread.median:
        return f"The median ratio of certified ({kind}) to attacked margin is 0: the sandwich is open."
    factor = rounded(1 / spread.median, "up")
    return (
        f"The median ratio of certified ({kind}) to attacked margin is {plain(spread.parts()[0])}, "
        f"so for half of the images the true margin is known within a factor of {factor}."
    )
