"""Certificates and attacks are held against each other: one row per question, pairs, contradictions."""

import pandas as pd

from vaerdict.results.row import KEY

_LABELS = ("model", "dataset", "sample_id")
COMPARED = (*KEY, *_LABELS, "kind", "strength", "method", "status", "margin", "witness")
"""All columns that `check_contradictions` reads: enough for `load(folder, COMPARED)`."""


def one_per_question(table: pd.DataFrame) -> pd.DataFrame:
    """Leave one row per model, sample, question, method and radius.

    A row without a number gives way to one with it. Of several draws of one statistical certificate the one with the
    most samples is kept, then the one with the lowest seed: a rule that does not look at the margin, so that each keeps
    its confidence. Of several runs of one attack the one that found most is kept.

    >>> from vaerdict.results import frame
    >>> len(one_per_question(frame([])))
    0
    """
    names = [*KEY, *_LABELS, "kind", "method", "strength", "fixed_radius"]
    attack = table["kind"].eq("attack")
    ranked = table.assign(
        _radius=table["rho"].where(table["fixed_radius"].eq(True)),
        _failed=table["status"].ne("ok"),
        _found=table["margin"].where(attack, 0.0),
        _samples=_samples(table).where(~attack, 0.0),
    ).sort_values(
        ["_failed", "_found", "_samples", "seed", "unit_key"], ascending=[True, True, False, True, True], kind="stable"
    )
    kept = ranked.drop_duplicates([*names, "_radius"]).sort_index()
    return kept.drop(columns=["_radius", "_failed", "_found", "_samples"])


def sandwich(table: pd.DataFrame) -> pd.DataFrame:
    """Hold certificates and attacks against each other, one line per model, sample, question and strength.

    Returns columns `strength` (of the certificate; empty where there is none), `certified` (best certificate of that
    strength), `certified_by`, `attacked` (smallest attacked margin), `attacked_by`, `witness` (of that attack) and
    `ratio = certified / attacked`, besides `model`, `dataset`, `sample_id` and the key columns.

    The statistical certificates of an image come from one unit of work: their confidence holds for all of a unit
    together, so the best of several units' would have less of it.

    >>> from vaerdict.results import frame
    >>> "ratio" in sandwich(frame([]))
    True
    """
    return _held_against(one_per_question(_one_draw(table)))


def _one_draw(table: pd.DataFrame) -> pd.DataFrame:
    """Leave the statistical certificates of one unit per image and question, chosen without a look at margins."""
    drawn = table["kind"].eq("certificate") & table["strength"].eq("statistical") & table["status"].eq("ok")
    units = table[drawn].assign(_samples=_samples(table[drawn]))
    order = units.sort_values(["_samples", "seed", "unit_key"], ascending=[False, True, True], kind="stable")
    chosen = order.groupby([*KEY, *_LABELS], dropna=False)["unit_key"].transform("first").reindex(units.index)
    others = units.index[units["unit_key"] != chosen]
    return table.drop(index=others)


def _samples(table: pd.DataFrame) -> pd.Series:
    return pd.to_numeric(table["constants"].str.extract(r'"samples":(\d+)', expand=False))


def _held_against(table: pd.DataFrame) -> pd.DataFrame:
    table = table[(table["status"] == "ok") & table["margin"].notna()]
    names = [*KEY, *_LABELS]
    certificates = table[table["kind"] == "certificate"].sort_values("margin", ascending=False, kind="stable")
    attacks = table[table["kind"] == "attack"].sort_values("margin", kind="stable")
    certified = certificates.drop_duplicates([*names, "strength"]).set_index(names)[["strength", "margin", "method"]]
    attacked = attacks.drop_duplicates(names).set_index(names)[["margin", "method", "witness"]]
    joined = (
        certified.rename(columns={"margin": "certified", "method": "certified_by"})
        .join(attacked.rename(columns={"margin": "attacked", "method": "attacked_by"}), how="outer")
        .reset_index()
    )
    joined["ratio"] = joined["certified"] / joined["attacked"]
    return joined.sort_values(["model", "dataset", "sample_id", "strength"], ignore_index=True)


class Contradiction(AssertionError):
    """A certificate is larger than an attacked margin: one of the two is wrong."""


def check_contradictions(table: pd.DataFrame) -> None:
    """Stop when any certificate is beaten by an attack on the same question, all draws included.

    Args:
        table: of rows; the columns `COMPARED` are enough.

    Raises:
        Contradiction: names the sample, both methods and both margins.

    >>> from vaerdict.results import frame
    >>> check_contradictions(frame([]))
    """
    # Labels may differ between runs that speak of the same margin.
    named = table.groupby([*KEY], dropna=False)[[*_LABELS]].transform("first")
    joined = _held_against(table.assign(**{label: named[label] for label in _LABELS}))
    beaten = joined[joined["certified"] > joined["attacked"]]
    if len(beaten):
        worst = beaten.sort_values("ratio").iloc[-1]
        witness = f", witness {worst.witness}" if isinstance(worst.witness, str) else ""
        raise Contradiction(
            f"{len(beaten)} certificates are contradicted; the worst is sample {worst.sample_id} of {worst.model}: "
            f"{worst.certified_by} ({worst.strength}) certifies {worst.certified:.6g}, "
            f"{worst.attacked_by} succeeds at {worst.attacked:.6g}{witness}"
        )
