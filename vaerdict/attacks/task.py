"""A call's arguments, checked once, and the loop over its images: chunk by chunk into rows."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.contract import check_contract
from vaerdict.attacks.judge.evaluate import Evaluation
from vaerdict.attacks.judge.rows import Finding, make_row, write_witness
from vaerdict.attacks.levels import behind
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.objectives.independent import check_objective
from vaerdict.attacks.question import AttackNorm, Question
from vaerdict.attacks.threat import COUNTS, check_mask
from vaerdict.options import require
from vaerdict.results import Row, array_sha256, subjects
from vaerdict.vae import VAE, borrowed, check_images, fingerprint

_log = logging.getLogger(__name__)

Find = Callable[[Batch, Objective, slice], list[Finding]]
"""A search: from one chunk, its objective and its place among the images to one finding per image."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that both verbs are given."""

    vae: VAE
    images: Tensor
    mask: Tensor | None
    question: Question
    objective: Objective
    evaluation: Evaluation
    method: str
    """The beginning of the method's name in the results."""
    batch_size: int
    how: dict[str, Any]
    """How the search goes, for the constants."""
    seed: int
    sample_ids: Sequence[int] | None
    dataset: str
    r_relative: float | None
    witness_folder: Path | None

    def __post_init__(self) -> None:
        exact = self.images.dtype in (torch.float32, torch.float64)
        require(exact, "`images` of type float32 or float64", str(self.images.dtype).removeprefix("torch."))
        check_images(self.vae, self.images.detach())
        check_contract(self.vae, self.images[:1].detach())
        self._settle()
        check_objective(self.objective, self.vae, self.images, self.question)
        if self.sample_ids is not None:
            require(len(self.sample_ids) == len(self.images), f"{len(self.images)} `sample_ids`", len(self.sample_ids))

    def _settle(self) -> None:
        """Keep the mask on the images' device, and numbers as Python's own: rows take no others."""
        question = replace(self.question, r=float(self.question.r), p=float(self.question.p))
        object.__setattr__(self, "question", question)
        if self.r_relative is not None:
            object.__setattr__(self, "r_relative", float(self.r_relative))
        object.__setattr__(self, "mask", check_mask(self.mask, self.images))

    @property
    def ids(self) -> tuple[int, ...]:
        """The samples' ids, by default their positions."""
        return tuple(range(len(self.images)) if self.sample_ids is None else map(int, self.sample_ids))

    def mask_of(self, chunk: slice) -> Tensor | None:
        """Give the mask of a chunk of the images: its own part, or the one that all share."""
        if self.mask is None or len(self.mask) < len(self.images):
            return self.mask
        return self.mask[chunk]

    def run(self, find: Find) -> list[Row]:
        """Search chunk after chunk with the model borrowed, and give one row per image in their order.

        Where the memory does not suffice for a chunk, it and all later ones are halved.
        """
        rows: list[Row] = []
        with borrowed(self.vae) as lent:
            sha256 = fingerprint(behind(lent))
            size = self.batch_size
            while len(rows) < len(self.images):
                chunk = slice(len(rows), min(len(rows) + size, len(self.images)))
                done = self._within_memory(chunk, sha256, find)
                rows += done
                if not done:
                    size = (chunk.stop - chunk.start) // 2
                    _log.warning("out of memory: going on with %d images at once", size)
        return rows

    def _within_memory(self, chunk: slice, sha256: str, find: Find) -> list[Row]:
        """Give the rows of a chunk; none where the memory does not suffice for its two images or more."""
        try:
            return self._chunk(chunk, sha256, find)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or chunk.stop - chunk.start == 1:
                raise
        if self.images.is_cuda:
            torch.cuda.empty_cache()
        return []

    def _chunk(self, chunk: slice, sha256: str, find: Find) -> list[Row]:
        meter, images, ids = Meter(self.vae), self.images[chunk].detach(), self.ids[chunk]
        began = time.perf_counter()
        batch = Batch.of(meter, images, self.question, self.seed, ids)
        findings = find(batch, self.objective.part(chunk), chunk)
        cost = {part: math.ceil(count / len(images)) for part, count in sorted(meter.cost.items())}
        facts = {
            "method": f"{self.method}-{self.objective.name}" + ("-masked" if self.mask is not None else ""),
            "r_relative": self.r_relative,
            "confidence": self.evaluation.confidence if self.question.draws else None,
            "seed": self.seed,
            "n_forward": math.ceil(meter.forward / len(images)),
            "n_backward": math.ceil(meter.backward / len(images)),
            "time_s": (time.perf_counter() - began) / len(images),
            "device": str(images.device),
            "dtype": str(images.dtype).removeprefix("torch."),
        }
        who = subjects(self.vae.name, sha256, self.dataset, images.cpu().numpy(), ids)
        # The search's own batch size may be larger: the last chunk is shorter, and memory may have run out.
        shared = {"batch": len(images), "cost": cost}
        return [
            self._row(subject, image, finding, {**self._constants(chunk.start + i), **shared}, facts)
            for i, (subject, image, finding) in enumerate(zip(who, images, findings, strict=True))
        ]

    def _row(
        self, subject: dict[str, Any], image: Tensor, finding: Finding, constants: dict[str, Any], facts: dict[str, Any]
    ) -> Row:
        row = make_row(subject, self.question, finding, constants, facts)
        if self.witness_folder is None:
            return row
        return write_witness(Path(self.witness_folder), row, self.vae, image, finding)

    def _constants(self, index: int) -> dict[str, Any]:
        return {
            **self.objective.describe(index),
            **self.how,
            "evaluation": asdict(self.evaluation),
            "input_range": list(self.vae.input_range),
            **({} if self.mask is None else {"mask_sha256": self._mask_sha256(index)}),
        }

    def _mask_sha256(self, index: int) -> str:
        assert self.mask is not None
        return array_sha256(self.mask[index if len(self.mask) > 1 else 0].cpu().numpy())


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no class of its own for it; numpy, which draws the noise, has Python's.
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def check_radius(radius: float | Tensor, images: Tensor, norm: AttackNorm = "2") -> Tensor:
    """Give one radius per image, on the images' device and in their type.

    >>> check_radius(0.5, torch.zeros(2, 1, 1, 3))
    tensor([0.5000, 0.5000])

    Raises:
        ValueError: a radius is negative or not finite, or there is not one per image; a count is not whole.
    """
    radii = torch.as_tensor(radius, dtype=torch.float64).detach().to(images)
    shape = tuple(radii.shape)
    require(shape in ((), (len(images),)), f"`radius` of shape () or ({len(images)},)", shape)
    bad = [value for value in radii.flatten().tolist() if not (value >= 0 and math.isfinite(value))]
    require(not bad, "a finite `radius` >= 0", f"{bad[0]:g}" if bad else "")
    whole = norm not in COUNTS or bool((radii == radii.floor()).all())
    require(whole, f"a whole number as `radius` for the norm {norm!r}", radius)
    return radii.expand(len(images))
