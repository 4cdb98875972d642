"""Watching the layers of a model at work; nothing stays on it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaerdict.attacks.batch import Meter
from vaerdict.attacks.levels import behind
from vaerdict.options import require


def module_of(vae: Any) -> Any:
    """Give the torch module behind a metered model."""
    return behind(vae.module if isinstance(vae, Meter) else vae)


def leaves(module: nn.Module) -> dict[str, nn.Module]:
    """Give the layers without layers of their own, by name; a layer with a parametrised weight is one.

    >>> list(leaves(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(1, 1)))))
    ['0', '1.0']
    """
    return {
        name: part
        for name, part in module.named_modules()
        if "parametrizations" not in name.split(".") and (parametrize.is_parametrized(part) or not any(part.children()))
    }


@contextmanager
def watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `see` with a layer's name and output whenever it ran, until the end of the block, error or not.

    Raises:
        ValueError: a layer gave something else than a tensor.

    >>> layer = nn.Identity()
    >>> with watched({"it": layer}, lambda name, output: print(name, float(output))):
    ...     _ = layer(Tensor([3]))
    it 3.0
    >>> _ = layer(Tensor([4]))
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(f"expected a tensor from layer {name!r}, got {type(output).__name__}")
            see(name, output)

        return look

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(layers: Mapping[str, nn.Module], batch: int) -> Iterator[dict[str, list[Tensor]]]:
    """Keep what each layer gives during the block, once per time that it runs.

    Raises:
        ValueError: an output is not one row per image.
    """
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Tensor) -> None:
        fits = output.dim() >= 1 and len(output) == batch
        require(fits, f"outputs [{batch}, ...] of layer {name!r}", tuple(output.shape))
        outputs.setdefault(name, []).append(output.clone())  # the next layer may work in place

    with watched(layers, keep):
        yield outputs


@contextmanager
def compared(layers: Mapping[str, nn.Module], clean: Mapping[str, list[Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect, whenever a layer runs during the block, its name and its mean squared change per image.

    Raises:
        ValueError: a layer ran more or less often than in the recording.
    """
    changes: list[tuple[str, Tensor]] = []
    left = {name: list(outputs) for name, outputs in clean.items()}

    def compare(name: str, output: Tensor) -> None:
        require(bool(left[name]), f"as many runs of layer {name!r} as for the clean images", "more")
        changes.append((name, mean_square(output, left[name].pop(0))))

    with watched(layers, compare):
        yield changes
    fewer = [name for name, outputs in left.items() if outputs]
    require(not fewer, "as many runs of each layer as for the clean images", f"fewer of {fewer}")


def mean_square(one: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Give the mean squared difference, per image.

    >>> mean_square(Tensor([[0.0, 2.0]]), Tensor([[0.0, 0.0]]))
    tensor([2.])
    """
    return (one - other).square().flatten(1).mean(1)
