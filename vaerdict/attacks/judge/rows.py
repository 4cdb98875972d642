"""What a judged candidate becomes: a row of the results and, where wanted, a witness that others can re-check."""

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaerdict.attacks.judge.evaluate import Verdict
from vaerdict.attacks.judge.precision import exact_arithmetic
from vaerdict.attacks.question import Question
from vaerdict.results import Row, canonical_json, write_atomic
from vaerdict.vae import VAE

NOT_FINITE = "the loss or the reconstruction is not finite"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one search says of one sample: a verdict, the radius it belongs to, and the reason for having no margin."""

    verdict: Verdict | None
    rho: float
    fixed: bool
    """Whether `rho` was given, rather than the largest radius tried without success."""
    reason: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """What was looked at besides, for the constants."""

    @property
    def broken(self) -> bool:
        """Whether the numbers were not finite, so that nothing can be said."""
        return self.reason == NOT_FINITE

    @property
    def margin(self) -> float | None:
        """The perturbation's norm where it succeeded, infinite where it did not."""
        if self.broken:
            return None
        return self.verdict.size if self.verdict and self.verdict.success else math.inf


def make_row(
    subject: dict[str, Any], question: Question, finding: Finding, constants: dict[str, Any], facts: dict[str, Any]
) -> Row:
    """Give the row of one sample; `constants` is completed by the counts behind the verdict, and by the checks."""
    verdict = None if finding.broken else finding.verdict
    return Row(
        **subject,
        **facts,
        **asdict(question),
        kind="attack",
        strength="empirical",
        rho=finding.rho,
        fixed_radius=finding.fixed,
        margin=finding.margin,
        status="error" if finding.broken else "ok",
        reason=finding.reason,
        damage=verdict.damage if verdict else None,
        constants=canonical_json({**constants, **(verdict.counts if verdict else {}), **finding.checks}),
    )


def write_witness(folder: Path, row: Row, vae: VAE, image: Tensor, finding: Finding) -> Row:
    """Write `image`, `adversarial` and their mean reconstructions, in float32, with scalars `r` and `rho`.

    `rho` is what the witness claims to keep: the given radius, or else the margin.

    Returns:
        The row with the witness's path, relative to the folder's parent; unchanged for a sample without a verdict.
    """
    if finding.verdict is None or finding.broken:
        return row
    pair = torch.stack([image, finding.verdict.adversarial])
    with torch.no_grad(), exact_arithmetic(pair.device):
        reconstructions = vae.decode(vae.encode(pair.clone()).mean)
    content = io.BytesIO()
    np.savez(
        content,
        image=pair[0].float().cpu().numpy(),
        adversarial=pair[1].float().cpu().numpy(),
        reconstruction=reconstructions[0].float().cpu().numpy(),
        adversarial_reconstruction=reconstructions[1].float().cpu().numpy(),
        r=row.r,
        rho=finding.rho if finding.fixed else finding.verdict.size,
    )
    path = folder / _file_name(row, finding.fixed)
    write_atomic(path, content.getvalue())
    return replace(row, witness=f"{folder.name}/{path.name}")


def _file_name(row: Row, fixed: bool) -> str:
    radius = [f"{row.rho:.6g}"] if fixed else []
    # The digest keeps another question about the same sample from overwriting this witness.
    asked = (row.sample_sha256, row.dataset, row.r, row.p, row.reconstruction, row.rho, row.seed, row.constants)
    found = (row.margin, row.damage, row.device)
    digest = hashlib.sha256(repr((*asked, *found)).encode()).hexdigest()
    parts = [row.method, row.norm, *radius, str(row.sample_id), row.model_sha256[:8], digest[:16]]
    return "-".join(parts) + ".npz"
