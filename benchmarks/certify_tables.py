"""From rows to the tables of `certify.py`: methods, what they cost, and how far attacks are from them."""

import math
from typing import Any

import pandas as pd
from scipy.stats import beta

from vaerdict.results import sandwich

FREE = "-any-pixel"
"""Ends the names of attacks whose pixels may leave their range."""
_ERROR = 0.05


def quartiles(values: pd.Series) -> dict[str, float | None]:
    """Give median and quartiles; None where one is infinite, or where a ratio is 0 / 0."""
    found = {"q25": 0.25, "median": 0.5, "q75": 0.75}
    return {name: finite(float(values.quantile(level, interpolation="lower"))) for name, level in found.items()}


def finite(value: float) -> float | None:
    """Give a number that JSON can hold."""
    return value if math.isfinite(value) else None


def share(successes: int, trials: int) -> dict[str, float]:
    """Give a share with its two-sided Clopper-Pearson interval of 95 %."""
    low = beta.ppf(_ERROR / 2, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1 - _ERROR / 2, successes + 1, trials - successes) if successes < trials else 1.0
    return {"share": successes / trials, "low": float(low), "high": float(high), "n": trials}


def best_margins(table: pd.DataFrame) -> pd.DataFrame:
    """Give the largest certificate of each image, with the method that it is by."""
    own = table[table["kind"].eq("certificate") & table["status"].eq("ok")]
    return own.loc[own.groupby("sample_id")["margin"].idxmax(), ["sample_id", "method", "margin"]]


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """Summarise each method, and the best certificate of each image with how often it was by which method.

    The time of what methods share is in the one that ran first.
    """
    facts: dict[str, Any] = {}
    for method, own in table[table["kind"].ne("attack")].groupby("method", sort=False):
        if not own["status"].eq("ok").all():
            facts[str(method)] = {"reason": own["reason"].iloc[0]}
            continue
        facts[str(method)] = {
            "kind": own["kind"].iloc[0],
            **_margins(own["margin"]),
            "milliseconds_per_image": 1e3 * float(own["time_s"].mean()),
        }
    best = best_margins(table)
    won = best.loc[best["margin"] > 0, "method"].value_counts().to_dict()
    spent = table.loc[table["kind"].ne("attack"), "time_s"].sum()
    total = {**_margins(best["margin"]), "won": won, "milliseconds_per_image": 1e3 * float(spent) / len(best)}
    return {"best": total, "methods": facts}


def _margins(margins: pd.Series) -> dict[str, Any]:
    return {**quartiles(margins), "positive": share(int((margins > 0).sum()), len(margins))}


def hold_against(table: pd.DataFrame) -> dict[str, Any]:
    """Put certificates and attacks of one model side by side, with the range of the pixels and without it."""
    attacks, free = table["kind"].eq("attack"), table["method"].str.endswith(FREE)
    attacked = table["sample_id"].isin(table.loc[attacks, "sample_id"])
    facts = {}
    for kind, chosen, searched in (("any pixel", attacked, free), ("pixels in range", attacked & ~free, ~free)):
        pairs = sandwich(table[chosen])
        best = pairs.loc[pairs.groupby("sample_id")["certified"].idxmax()]
        facts[kind] = {
            "n": len(best),
            **{name: quartiles(best[name]) for name in ("certified", "attacked", "ratio")},
            "median_ratio_by_strength": {
                str(strength): finite(float(ratios.median())) for strength, ratios in pairs.groupby("strength")["ratio"]
            },
            "contradictions": int((pairs["certified"] > pairs["attacked"]).sum()),
            "attack_seconds_per_image": float(table.loc[attacks & searched, "time_s"].mean()),
        }
    return facts


def print_barrett(facts: dict[str, Any]) -> None:
    """Print the margins beside Barrett's."""
    print(f"\n{'closed forms':<20}{'r rel.':>7}{'r':>8}{'n':>7}{'published':>11}{'theirs':>9}  {'ours':<26}"
          f"{'/ published':>12}{'/ theirs':>10}{'least':>8}{'below':>7}")  # fmt: skip
    for name, shares in facts.items():
        for part, one in shares.items():
            numbers = (one["published"], one["barrett"]["median"])
            ratios = (one["median_ratio_published"], one["median_ratio_barrett"], one["least_ratio_barrett"])
            print(f"{name:<20}{part:>7}{one['r']:>8.3f}{one['n']:>7}{shown(numbers[0]):>11}{shown(numbers[1]):>9}  "
                  f"{spread(one['ours']):<26}{shown(ratios[0]):>12}{shown(ratios[1]):>10}{shown(ratios[2]):>8}"
                  f"{one['below_barrett']:>7}")  # fmt: skip
    print(
        "published: the product of the layers' budgets on either side, no sigmoid counted; theirs: with the constants\n"
        "proved here; / : the median ratio, - where theirs is 0; least: of the images; below: images where ours is less"
    )


def print_methods(facts: dict[str, Any]) -> None:
    """Print what every method certifies, and the best of them."""
    print(f"\n{'model':<30}{'method':<14}{'n':>5}  {'median [quartiles]':<28}{'share > 0':<22}{'ms/image':>9}  won")
    for name, one in facts.items():
        lines = {**one["methods"], "best": one["best"]}
        for method, line in lines.items():
            if "reason" in line:
                continue
            part, won = line["positive"], one["best"]["won"].get(method, 0)
            positive = f"{part['share']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"
            label = f"{method}*" if line.get("kind") == "estimate" else method
            print(f"{name:<30}{label:<14}{part['n']:>5}  {spread(line):<28}"
                  f"{positive:<22}"
                  f"{line['milliseconds_per_image']:>9.2f}  {won if method != 'best' else ''}")  # fmt: skip
    print("*: an estimate, which proves nothing; won: images whose best certificate it is")


def print_tightness(facts: dict[str, Any]) -> None:
    """Print certified and attacked margins."""
    print(f"\n{'certified, attacked':<20}{'attack':<17}{'n':>4}  {'certified':<30}{'attacked':<30}{'ratio':<30}"
          f"{'beaten':>6}{'s/attack':>10}")  # fmt: skip
    for name, kinds in facts.items():
        for kind, one in kinds.items():
            margins = "".join(f"{spread(one[column]):<30}" for column in ("certified", "attacked", "ratio"))
            print(f"{name:<20}{kind:<17}{one['n']:>4}  {margins}{one['contradictions']:>6}"
                  f"{one['attack_seconds_per_image']:>10.2f}")  # fmt: skip


def print_speed(speeds: dict[str, Any], portfolio: dict[str, Any]) -> None:
    """Print images per second, where the time goes, and the whole portfolio's time and memory."""
    print(f"\n{'closed forms, one thread':<26}{'images/s':>10}{'per CPU s':>11}{'methods alone':>15}   time goes to")
    for name, one in speeds.items():
        parts = ", ".join(f"{part} {100 * value:.0f} %" for part, value in one["share_of_time"].items())
        rates = (one["images_per_second"], one["images_per_cpu_second"], one["images_per_second_methods_alone"])
        print(f"{name:<26}{rates[0]:>10.0f}{rates[1]:>11.0f}{rates[2]:>15.0f}   {parts}")
    memory = "; ".join(" ".join(f"{value:.0f}" for value in own) for own in portfolio["mebibytes_after_each_step"])
    print(
        f"{portfolio['images']} images of {portfolio['model']} by {', '.join(portfolio['methods'])}, two processes: "
        f"{portfolio['seconds']:.1f} s; resident MiB of each after every {portfolio['step']}: {memory}"
    )


def spread(numbers: dict[str, Any]) -> str:
    """Write median and quartiles."""
    return f"{shown(numbers['median'])} [{shown(numbers['q25'])}, {shown(numbers['q75'])}]"


def shown(value: float | None) -> str:
    """Write a number in four digits."""
    return "-" if value is None else f"{value:.4g}"
