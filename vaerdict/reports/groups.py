"""Which rows may be pooled: one model, one data set and one question (norm, r, p, kind of reconstruction)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vaerdict.results import KEY, sandwich

GROUP = ["label", "dataset", "norm", "r", "p", "reconstruction"]
QUESTION = GROUP[1:]
STRENGTHS = ("proved", "numerical", "statistical")
NORMS = {"2": "L2", "inf": "L∞", "1": "L1", "0": "L0", "0-values": "L0 of values"}
SMOOTHED = "smoothed"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One model under one question, with its samples.

    `rows` holds one line per sample and strength: `certified`, `certified_by`, `attacked`, `attacked_by`, `ratio`.
    """

    label: str
    dataset: str
    norm: str
    r: float
    r_relative: float | None
    p: float
    reconstruction: str
    rows: pd.DataFrame

    @property
    def topic(self) -> tuple[object, ...]:
        """What two models must share to be compared: the question, with `r` as a share where it was given so."""
        scale = ("pixels", self.r) if self.r_relative is None else ("relative", self.r_relative)
        return self.dataset, self.norm, *scale, self.p, self.reconstruction

    @property
    def smoothed(self) -> bool:
        """Whether the smoothed reconstruction is meant, rather than the model's own."""
        return self.reconstruction.startswith(SMOOTHED)

    def certified(self, strength: str) -> pd.DataFrame:
        """Give the lines with a certificate of one strength."""
        return self.rows[(self.rows["strength"] == strength) & self.rows["certified"].notna()]

    def attacked(self) -> pd.DataFrame:
        """Give one line per sample that was attacked."""
        return self.rows[self.rows["attacked"].notna()].drop_duplicates(["sample_id", "sample_sha256"])


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Add `label`: the model's name, with the start of its hash where several weights share a name.

    Smoothed reconstructions get their noise into their name: another noise is another question.

    >>> facts = {"reconstruction": ["smoothed", "mean"], "noise_std": [0.25, None]}
    >>> table = labelled(pd.DataFrame({"model": ["a", "a"], "model_sha256": ["12345678", "abcdefgh"], **facts}))
    >>> list(table["label"]), list(table["reconstruction"])
    (['a (123456)', 'a (abcdef)'], ['smoothed, noise 0.25', 'mean'])
    """
    shared = table.groupby("model")["model_sha256"].transform("nunique") > 1
    named = table["model"] + " (" + table["model_sha256"].str[:6] + ")"
    kind = table["reconstruction"]
    noise = pd.Series(
        [f"{SMOOTHED}, noise {float(one)!r}" for one in table["noise_std"]], index=table.index, dtype=kind.dtype
    )
    return table.assign(label=named.where(shared, table["model"]), reconstruction=kind.where(kind != SMOOTHED, noise))


def strengths(table: pd.DataFrame) -> list[str]:
    """Give the strengths of the certificates that hold a margin, the strongest first.

    >>> from vaerdict import results
    >>> strengths(results.frame([]))
    []
    """
    held = table[(table["kind"] == "certificate") & (table["status"] == "ok") & table["margin"].notna()]
    found = set(held["strength"])
    return [strength for strength in STRENGTHS if strength in found]


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Hold certificates and attacks against each other as `results.sandwich` does.

    Adds `label` and `r_relative` to its columns. Attacks at a fixed radius count only where another attack searched for
    the margin of the same image: on their own, a failure has no upper bound and successes are the weaker images.

    >>> from vaerdict import results
    >>> len(pairs(results.frame([])))
    0
    """
    table = labelled(table)
    known = table.groupby(["model", "model_sha256", "r"])[["label", "r_relative"]].first().reset_index()
    return sandwich(_without_lone_radii(table)).merge(known, how="left", on=["model", "model_sha256", "r"])


def _without_lone_radii(table: pd.DataFrame) -> pd.DataFrame:
    fixed = (table["kind"] == "attack") & table["fixed_radius"].eq(True)
    search = (table["kind"] == "attack") & ~fixed & (table["status"] == "ok") & table["margin"].notna()
    searched = search.groupby([table[name] for name in KEY], dropna=False).transform("any")
    return table[~fixed | searched]


def groups(table: pd.DataFrame) -> list[Group]:
    """Give every model and question that holds at least one margin, in the order of their names.

    >>> from vaerdict import results
    >>> groups(results.frame([]))
    []
    """
    return [group for group, _ in split(pairs(table))]


def varying(found: list[Group]) -> list[str]:
    """Give the parts of the question that are not the same for all groups, and must be said with each.

    >>> varying([])
    []
    """
    return [name for name in QUESTION if len({getattr(group, name) for group in found}) > 1]


def distinguishing(found: list[Group]) -> list[str]:
    """Give the parts of the question that differ between groups of one and the same model.

    >>> distinguishing([])
    []
    """
    labels = {group.label for group in found}
    said = [varying([group for group in found if group.label == label]) for label in labels]
    return [name for name in QUESTION if any(name in names for names in said)]


def split(rows: pd.DataFrame, *further: str) -> Iterator[tuple[Group, tuple[Any, ...]]]:
    """Give the rows of each model and question, split by further columns too, with the values of those.

    >>> list(split(pd.DataFrame(columns=[*GROUP, "r_relative", "method"]), "method"))
    []
    """
    for key, held in rows.groupby([*GROUP, *further], sort=True):
        values: tuple[Any, ...] = tuple(key)
        relative = held["r_relative"].iloc[0]
        facts = dict(zip(GROUP, values, strict=False))
        yield Group(**facts, r_relative=None if pd.isna(relative) else float(relative), rows=held), values[len(GROUP) :]
