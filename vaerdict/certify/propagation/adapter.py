"""One module whose outputs can be boxed."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vaerdict.certify.propagation.backend import METHODS, propagate
from vaerdict.certify.propagation.canaries import failed_canary, unavailable
from vaerdict.certify.propagation.cost import images_at_once
from vaerdict.certify.propagation.probes import check_same, refuse_outside
from vaerdict.certify.propagation.reading import Parts, cut, read
from vaerdict.certify.propagation.regions import Region, make_box, make_region
from vaerdict.certify.propagation.rewrite import rewrite
from vaerdict.certify.propagation.rounding import BoxRounding
from vaerdict.lipschitz import NoSoundBound
from vaerdict.options import Norm, require, require_known

Bounds = tuple[Float64[Tensor, "batch outputs"], Float64[Tensor, "batch outputs"]]


class BoundedMap:
    """A copy of a module, rewritten in float64 for bound propagation on the CPU.

    The boxes are `numerical`: a backend that nobody here controls computes them. They hold for the module as it is
    evaluated in the dtype of its weights, on inputs that it gets without further rounding.

    Args:
        module: in evaluation mode or not, it is taken in evaluation mode; from inputs `[batch, *input_shape]`.
        input_shape: of one input.
        forward: for few inputs and many outputs, as a decoder has: the default methods are then `IBP` and
            `Forward+Backward` in place of `IBP` and `CROWN`.
        rounded: False leaves out the rounding of the module's own evaluation; the boxes then speak of the real
            function of its weights.

    Attributes:
        input_shape: of one input.
        methods: those used by default.
        skipped: why methods failed, by name, at their last failure.

    Raises:
        NoSoundBound: the backend cannot be used, the module cannot be rewritten, or its copy computes something else.

    >>> bounded = BoundedMap(nn.Linear(2, 1), (2,)) if unavailable() is None else None
    >>> bounded is None or bounded.methods == ("IBP", "CROWN")
    True
    """

    def __init__(
        self, module: nn.Module, input_shape: tuple[int, ...], *, forward: bool = False, rounded: bool = True
    ) -> None:
        reason = unavailable()
        if reason is not None:
            raise NoSoundBound(reason)
        self.input_shape = tuple(input_shape)
        self.methods = ("IBP", "Forward+Backward") if forward else ("IBP", "CROWN")
        self.skipped: dict[str, str] = {}
        parts = cut(module)
        self._exact = copy.deepcopy(nn.Sequential(parts.body, *filter(None, [parts.last]), parts.after)).double()
        exact = Parts(copy.deepcopy(parts.body).double(), parts.last, parts.after)
        with torch.no_grad():
            self.network = rewrite(read(exact, self.input_shape)).eval()
        self.rounding = BoxRounding(parts, self.input_shape, rounded)
        self.rounding.error(0.0)  # found out here, not at the first image
        check_same(module, self._exact, self.network, self.input_shape, self.rounding.dtype)

    def point(self, inputs: Float[Tensor, "batch ..."]) -> Bounds:
        """Bound the outputs at single inputs: any evaluation that the map covers is between the two ends."""
        self._check_shape(inputs)
        exact = inputs.detach().cpu().double()
        with torch.no_grad():
            values = self._exact(exact).flatten(1)
        lower, upper = self.rounding.widen(values, values, float(exact.flatten(1).norm(dim=1).max()))
        if not bool((lower <= upper).all()):  # also where there is a NaN
            raise NoSoundBound("the module gives NaN at one of the inputs")
        return lower.to(inputs.device), upper.to(inputs.device)

    def box(
        self,
        centers: Float[Tensor, "batch ..."],
        radius: float,
        norm: Norm,
        methods: Sequence[str] | None = None,
    ) -> Bounds:
        """Bound each output over the ball around each center.

        Args:
            centers: inputs `[batch, *input_shape]`.
            radius: of the balls, in input units.
            norm: of the balls.
            methods: names among `METHODS`; the results are intersected.

        Returns:
            Lower and upper bounds in float64, on the device of the centers.

        Raises:
            NoSoundBound: every method failed, or the backend was caught in a contradiction.
            ValueError: a wrong shape, radius, norm or method.
        """
        self._check_shape(centers)
        lower, upper = self._bound(make_region(centers, radius, norm), methods)
        return lower.to(centers.device), upper.to(centers.device)

    def box_between(
        self,
        lower: Float[Tensor, "batch ..."],
        upper: Float[Tensor, "batch ..."],
        methods: Sequence[str] | None = None,
    ) -> Bounds:
        """Bound each output over boxes of inputs `lower <= x <= upper`; otherwise as `box`."""
        self._check_shape(lower)
        below, above = self._bound(make_box(lower, upper), methods)
        return below.to(lower.device), above.to(lower.device)

    def _check_shape(self, inputs: Tensor) -> None:
        shape = tuple(inputs.shape[1:])
        require(shape == self.input_shape and len(inputs) > 0, f"inputs of shape {self.input_shape}", shape)

    def _bound(self, region: Region, methods: Sequence[str] | None) -> Bounds:
        names = tuple(methods or self.methods)
        require_known("method", names, METHODS)
        rows = images_at_once(self.network, names)
        batch = len(region.centers)
        parts = [self._bound_rows(region.rows(i, i + rows), names) for i in range(0, batch, rows)]
        lower, upper = (torch.cat(ends) for ends in zip(*parts, strict=True))
        return lower, upper

    def _bound_rows(self, region: Region, methods: Sequence[str]) -> Bounds:
        """Intersect what the methods give, probe it, and move it outward."""
        shaped = region.shaped(self.network.input_shape)
        results = [result for method in methods if (result := self._try(shaped, method)) is not None]
        if not results:
            reasons = "; ".join(f"{method}: {self.skipped[method]}" for method in methods)
            raise NoSoundBound(f"no method of bound propagation works here: {reasons}")
        lower = torch.stack([result[0] for result in results]).amax(0)
        upper = torch.stack([result[1] for result in results]).amin(0)
        if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            raise NoSoundBound("bound propagation gives infinite bounds")
        lower, upper = self.rounding.widen(lower, upper, region.largest_norm())
        if not bool((lower <= upper).all()):
            raise NoSoundBound("bound propagation contradicts itself: a lower bound exceeds the upper one")
        refuse_outside(self.network, shaped, lower, upper)
        return lower, upper

    def _try(self, region: Region, method: str) -> Bounds | None:
        """Give a method's bounds, or note why there are none: the other methods may go on without it."""
        reason = failed_canary(method)
        if reason is None:
            try:
                lower, upper = propagate(self.network, region, method)
            except Exception as error:  # code of others may raise anything
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                shape = (len(region.centers), self.network.sizes[-1])
                if lower.shape == upper.shape == shape and not bool((lower.isnan() | upper.isnan()).any()):
                    return lower, upper
                reason = f"gives NaN, or bounds of shape {tuple(lower.shape)} in place of {shape}"
        self.skipped[method] = reason
        return None
