"""The few operations of which rewritten networks are made; both versions of the backend know all of them."""

import torch
from torch import Tensor, nn


class Dense(nn.Module):
    """A matrix and an offset on the flattened values, with axes taken away before and put back after.

    Args:
        linear: from all input values to all output values.
        flatten: whether the inputs have several axes.
        shape: of one output, without the batch axis.
    """

    def __init__(self, linear: nn.Linear, flatten: bool, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.flatten, self.shape = linear, flatten, shape

    def forward(self, values: Tensor) -> Tensor:
        """Apply the matrix."""
        flat = values.reshape(-1, self.linear.in_features) if self.flatten else values
        outputs = self.linear(flat)
        return outputs.reshape(-1, *self.shape) if len(self.shape) > 1 else outputs


class Reshape(nn.Module):
    """The same values, in the same order, with other axes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        """Give them their shape."""
        return values.reshape(-1, *self.shape)


class Gate(nn.Module):
    """`y + Q relu(D y)`, which MaxMin and LeakyReLU are, in the form that every method knows."""

    def __init__(self, gate: nn.Module, push: nn.Module) -> None:
        super().__init__()
        self.gate, self.push = gate, push

    def forward(self, values: Tensor) -> Tensor:
        """Add what passes the gate."""
        return values + self.push(torch.relu(self.gate(values)))


class Swish(nn.Module):
    """SiLU as a product."""

    def forward(self, values: Tensor) -> Tensor:
        """Multiply every value by its sigmoid."""
        return values * torch.sigmoid(values)


class SmoothRamp(nn.Module):
    """Softplus as `relu(y) + log(1 + exp(-|y|))`, as the backend knows intervals only for the function itself."""

    def forward(self, values: Tensor) -> Tensor:
        """Take it of each value."""
        positive = torch.relu(values)
        size = positive + torch.relu(-values)
        return positive + ((-size).exp() + 1.0).log()


class Exponential(nn.Module):
    """The exponential of each value."""

    def forward(self, values: Tensor) -> Tensor:
        """Take it."""
        return values.exp()


class Root(nn.Module):
    """The square root of each value."""

    def forward(self, values: Tensor) -> Tensor:
        """Take it."""
        return values.sqrt()


ELEMENTWISE = (nn.ReLU, nn.Sigmoid, nn.Tanh, SmoothRamp, Swish, Exponential, Root, Reshape)
"""Steps whose outputs need no bounds of their own."""


class Sum(nn.Module):
    """The sum of several values."""

    def forward(self, *values: Tensor) -> Tensor:
        """Add them."""
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


class Join(nn.Module):
    """Several values side by side."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, *values: Tensor) -> Tensor:
        """Join them."""
        return torch.cat(values, self.dimension)


class Network(nn.Module):
    """Steps, each of which reads values with given indices; the input has index 0, the first step's value 1.

    Args:
        steps: the operations.
        sources: for each step, what it reads.
        input_shape: of one input, without the batch axis.
        sizes: how many values one image has at the input and after each step.
    """

    def __init__(
        self,
        steps: list[nn.Module],
        sources: list[tuple[int, ...]],
        input_shape: tuple[int, ...],
        sizes: list[int],
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.sources, self.input_shape, self.sizes = sources, input_shape, sizes

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate the steps."""
        values = [inputs]
        for step, sources in zip(self.steps, self.sources, strict=True):
            values.append(step(*(values[i] for i in sources)))
        return values[-1]
