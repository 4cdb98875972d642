"""Layers that scale, shift, select or move values."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """Multiply every value."""
        return self.factor * values

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"{self.factor!r}"


class Select(nn.Module):
    """Keep the channels (axis 1) from `start` up to `stop`, or to the end."""

    def __init__(self, start: int, stop: int | None) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, values: Tensor) -> Tensor:
        """Slice the channels."""
        return values[:, self.start : self.stop]

    def extra_repr(self) -> str:
        """Show the range."""
        return f"{self.start}, {self.stop}"


class Shift(nn.Module):
    """Add a constant, a number or a tensor."""

    constant: Tensor | float

    def __init__(self, constant: Tensor | float) -> None:
        super().__init__()
        if isinstance(constant, Tensor):
            self.register_buffer("constant", constant.detach())
        else:
            self.constant = constant

    def forward(self, values: Tensor) -> Tensor:
        """Add to every value."""
        return values + self.constant


class Batch(int):
    """The size of the batch axis among a `Move`'s arguments, which is another one at every run."""


class Move(nn.Module):
    """Call a method of the tensor that moves values, or keeps some of them, and repeats none.

    Args:
        name: of the method, as `reshape`.
        arguments: by position.
        options: by name.
        part: where the method gives several tensors, which of them.
    """

    def __init__(self, name: str, arguments: Sequence[Any], options: dict[str, Any], part: int | None = None) -> None:
        super().__init__()
        self.name, self.arguments, self.options, self.part = name, tuple(arguments), dict(options), part

    def forward(self, values: Tensor) -> Tensor:
        """Move the values."""
        arguments = _with_batch(self.arguments, values.shape[0])
        moved = getattr(values, self.name)(*arguments, **self.options)
        return moved if self.part is None else moved[self.part]

    def extra_repr(self) -> str:
        """Show the call."""
        return f"{self.name}{self.arguments}"


def _with_batch(argument: Any, size: int) -> Any:
    if isinstance(argument, tuple | list):
        return tuple(_with_batch(one, size) for one in argument)
    return size if isinstance(argument, Batch) else argument
