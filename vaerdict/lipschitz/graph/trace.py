"""Reads a module as a graph of layers: what feeds what, in which shapes. What cannot be read for certain is refused.

Modules with code of their own are read by `torch.fx`. There, Python code sees a stand-in for the tensor, so a trace may
differ from the module: it is run beside the module and must give the same values.
"""

import contextlib
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm  # its weight moves when it is read in training

from vaerdict.lipschitz.graph.nodes import Graph, Node, NoSoundBound, kind_of, layers_in_a_row
from vaerdict.lipschitz.graph.reader import Reader

__all__ = ["Graph", "NoSoundBound", "Node", "kind_of", "layers_in_a_row", "trace"]

_BATCH = 3  # inputs in the sample that gives the shapes and checks the trace
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OWN_LAYERS, _OWN_BLOCKS = "vaerdict.lipschitz.layers.", "vaerdict.lipschitz.layers.residual"
_CHANGES_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, _SpectralNorm)


def trace(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> Graph:
    """Read a module in evaluation mode as a graph.

    Args:
        module: a layer, a (nested) `nn.Sequential`, or, with an `input_shape`, any module that `torch.fx` can trace.
        input_shape: shape of one input without the batch axis.

    Raises:
        NoSoundBound: the module cannot be traced (control flow that depends on data, several inputs or outputs), has
            hooks or replaced methods, is in training mode, calls a function of unknown meaning, changes a tensor that
            is used elsewhere, or computes something else than its trace.

    >>> [node.kind for node in trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU())).nodes]
    ['input', 'layer', 'layer']
    """
    for path, part in module.named_modules(remove_duplicate=False):
        _refuse_overrides(path, part)
    for path, part in _parts("", module):
        _refuse_training(path, part)
    if input_shape is None:
        _refuse_own_code(module)
        return _read(module, None)
    with torch.no_grad(), _evaluation(module):
        return _read_beside(module, _sample(module, tuple(input_shape)))


def _read_beside(module: nn.Module, sample: Tensor) -> Graph:
    """Read the graph, and refuse it unless it gives the module's values, for several inputs together and for one."""
    stored = [*module.parameters(), *module.buffers()]
    before = [one._version for one in stored]
    try:
        together, alone = module(sample.clone()), module(sample[:1].clone())
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise NoSoundBound(f"the module does not take inputs of shape {tuple(sample.shape[1:])}: {reason}") from None
    if [one._version for one in stored] != before:
        raise NoSoundBound("the module changes its own weights or buffers when it is evaluated")
    graph = _read(module, sample)
    for values, expected in ((sample, together), (sample[:1], alone)):
        _refuse_other_values(graph.run(values.clone())[-1], expected, together)
    _refuse_other_values(together[:1], alone, together)
    return graph


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Put the module into evaluation mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _sample(module: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    like = next((p for p in [*module.parameters(), *module.buffers()] if p.is_floating_point()), torch.zeros(()))
    values = torch.randn(_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    return values.to(like.device, like.dtype)


def _read(module: nn.Module, sample: Tensor | None) -> Graph:
    reader = Reader(module, sample)
    if is_layer(module):
        reader.add_layer("", module, 0)
        return reader.graph()
    return reader.read(_trace(module))


def is_layer(module: nn.Module) -> bool:
    """Tell whether a module is one node: a layer of torch or of this package, not a container or a block of layers."""
    home = kind_of(module).__module__
    if home.startswith(_OWN_LAYERS):
        return home != _OWN_BLOCKS
    return home.startswith("torch.nn.") and kind_of(module) not in _CONTAINERS


def _refuse_overrides(path: str, module: nn.Module) -> None:
    title = Node(path, "layer", module).title
    if isinstance(module, torch.jit.ScriptModule):
        raise NoSoundBound(f"layer {title} is scripted, so that its code is not seen")
    hooks = (module._forward_hooks, module._forward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    called = type(module).__call__ is nn.Module.__call__ and module._compiled_call_impl is None
    if any(hooks) or replaced or not called:
        raise NoSoundBound(f"layer {title} has hooks or replaced methods, which may change what it computes")


def _refuse_training(path: str, module: nn.Module) -> None:
    parts = [module]
    if is_layer(module) and parametrize.is_parametrized(module):
        parts += module.parametrizations.modules()  # type: ignore[union-attr]
    if any(part.training and isinstance(part, _CHANGES_IN_TRAINING) for part in parts):
        title = Node(path, "layer", module).title
        raise NoSoundBound(f"layer {title} has no Lipschitz bound: expected evaluation mode")


def _refuse_own_code(module: nn.Module) -> None:
    for path, part in _parts("", module):
        if not (is_layer(part) or type(part) in _CONTAINERS or type(part).__module__ == _OWN_BLOCKS):
            title = Node(path, "layer", part).title
            raise NoSoundBound(f"layer {title} has no Lipschitz bound: a forward of its own needs `input_shape`")


def _parts(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in () if is_layer(module) else module.named_children():
        yield from _parts(f"{path}.{name}" if path else name, child)


class _InPlace(fx.Proxy):
    """A stand-in that records `x += y` as what it is: by itself, `torch.fx` takes it for `x = x + y`."""


def _recording(function: Any) -> Any:
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", function, (proxy, other), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "matmul", "and", "or", "xor"):
    setattr(_InPlace, f"__i{_name}__", _recording(getattr(operator, f"i{_name}")))


class _Tracer(fx.Tracer):
    branched = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlace(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.branched = True  # the module may catch the error
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Any:
        self.branched = True
        return super().iter(obj)


def _trace(module: nn.Module) -> fx.Graph:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(type(module).forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    before = set(vars(module))
    tracer = _Tracer()
    try:
        traced = tracer.trace(module, concrete_args=defaults or None)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise NoSoundBound(
            f"cannot trace {type(module).__name__}, whose steps may depend on its data: {reason}"
        ) from None
    finally:
        for name in set(vars(module)) - before:  # constants that fx leaves on the module
            delattr(module, name)
    if tracer.branched:
        raise NoSoundBound(f"cannot trace {type(module).__name__}, whose steps may depend on its data")
    return traced


def _refuse_other_values(traced: Tensor, expected: Any, together: Tensor) -> None:
    if not isinstance(expected, Tensor) or traced.shape != expected.shape:
        raise NoSoundBound("the module returns something else than its trace does, or mixes the inputs of a batch")
    if not torch.isfinite(expected).all():
        raise NoSoundBound("the module gives values that are not finite on random inputs")
    if not bool(((traced - expected).abs() <= _noise(together) + 1e-3 * expected.abs()).all()):
        raise NoSoundBound(
            "the module computes something else than its trace: its code may be random or test for types"
        )


def _noise(values: Tensor) -> Tensor:
    """Give what two evaluations may differ by: a share of each coordinate's size, and some units of rounding.

    The size is the largest in the batch: a single value may be as small as the rounding error that it carries.
    """
    return 1e-4 * values.abs().amax(0) + 8 * torch.finfo(values.dtype).eps * values.abs().max()
