"""A search's step compiled by `torch.compile`; on a GPU it is recorded once and replayed as a CUDA graph."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

MOST_VARIANTS = 128
"""Compiled steps that are kept: one per architecture, objective, norm and shape of a batch."""

Step = Callable[..., tuple[Tensor, ...]]


class Compiled:
    """A step that is compiled at its second call; the first, as it is written, shows what each one costs.

    Rounding differs from the uncompiled step's by as much as compilers reorder sums.

    Args:
        step: takes and gives tensors, and never waits for the device.
        cost: of the model, in evaluations; a compiled model does not count by itself.

    Raises:
        ValueError: when called: model or objective cannot be compiled.
    """

    def __init__(self, step: Step, cost: Counter[str]) -> None:
        self._step, self._cost = step, cost
        self._each: Counter[str] | None = None
        self._fast = {
            cuda: torch.compile(step, fullgraph=True, dynamic=False, mode="reduce-overhead" if cuda else "default")
            for cuda in (False, True)
        }

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take the step."""
        if self._each is None:
            before = self._cost.copy()
            result = self._step(*inputs)
            self._each = self._cost - before
            return result
        self._cost.update(self._each)
        return self._compiled(*inputs)

    def _compiled(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        from torch._dynamo import config, exc  # takes two seconds, which most searches can do without

        on_gpu = inputs[0].is_cuda
        if on_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with config.patch(recompile_limit=MOST_VARIANTS):
                result = self._fast[on_gpu](*inputs)
        except exc.TorchDynamoException as error:
            why = " ".join(str(error).split("\n\n")[0].split())
            raise ValueError(f"expected what torch.compile can compile, or `compiled=False`, got: {why}") from error
        # The next replay writes to the same memory.
        return tuple(part.clone() for part in result) if on_gpu else result
