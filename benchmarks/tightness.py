"""Margins of the published bound and of the exact one, over latent sizes, spreads and distances.

With `b = 1` a margin is in units of `1 / b`: nothing else depends on `b`. `r / a` is the distance in latent space.
"""

import itertools

from common import Target, finish, make_parser

from vaerdict.certify import margin_barrett, margin_isotropic

LATENTS, SIGMAS, DISTANCES = (2, 10, 32, 128), (0.02, 0.05, 0.1), (0.5, 1.0, 2.0, 4.0)
REFERENCES = {
    "barrett (10, 0.1, 10, 10, 8)": (margin_barrett, 10.0, 0.0322),
    "isotropic (10, 0.1, 10, 10, 8)": (margin_isotropic, 10.0, 0.0677),
    "barrett (10, 0.1, 5, 5, 8)": (margin_barrett, 5.0, 0.2245),
    "isotropic (10, 0.1, 5, 5, 8)": (margin_isotropic, 5.0, 0.3085),
}


def compare(latent: int, sigma: float, distance: float) -> dict[str, float | None]:
    """Give both margins and their ratio (None where the published bound is 0)."""
    numbers = {"latent": latent, "sigma": sigma, "a": 1.0, "b": 1.0, "r": distance}
    barrett, isotropic = margin_barrett(**numbers), margin_isotropic(**numbers)
    ratio = isotropic / barrett if barrett > 0 else None
    return {"latent": latent, "sigma": sigma, "r_over_a": distance} | {
        "barrett": barrett, "isotropic": isotropic, "ratio": ratio
    }  # fmt: skip


def main() -> None:
    """Compare, print the table, check the references."""
    options = make_parser(__doc__ or "").parse_args()
    latents = LATENTS[:2] if options.quick else LATENTS
    rows = [compare(*case) for case in itertools.product(latents, SIGMAS, DISTANCES)]
    print(f"{'d':>4} {'sigma':>6} {'r/a':>5} {'barrett':>9} {'isotropic':>10} {'ratio':>6}")
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        print(
            f"{row['latent']:>4} {row['sigma']:>6} {row['r_over_a']:>5} "
            f"{row['barrett']:>9.4f} {row['isotropic']:>10.4f} {ratio:>6}"
        )
    targets = []
    for name, (margin, ab, wanted) in REFERENCES.items():
        measured = margin(latent=10, sigma=0.1, a=ab, b=ab, r=8.0)
        targets.append(Target(name=name, wanted=f"{wanted}", measured=measured, met=round(measured, 4) == wanted))
    worst = min(row["isotropic"] - row["barrett"] for row in rows)  # type: ignore[operator]
    targets.append(Target(name="least isotropic - barrett", wanted=">= 0", measured=worst, met=worst >= 0))
    finish("tightness", options, targets, rows=rows)


if __name__ == "__main__":
    main()
