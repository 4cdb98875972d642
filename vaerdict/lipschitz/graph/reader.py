"""From a trace of `torch.fx` to nodes: every call is given a known meaning, or refused by name."""

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vaerdict.lipschitz.graph import functions as known
from vaerdict.lipschitz.graph.nodes import Graph, Node, NoSoundBound, kind_of
from vaerdict.lipschitz.layers.elementary import Batch, Move, Scale, Shift

_FRESH = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)  # their output shares no memory


@dataclass(frozen=True)
class Value:
    """The value of a node; where a call gave several tensors, all of them together."""

    index: int
    parts: Move | None = None


class Reader:
    """Collects nodes, with their values for a sample where there is one.

    Args:
        module: what is read.
        sample: inputs `[batch, ...]`, or None.
    """

    def __init__(self, module: nn.Module, sample: Tensor | None) -> None:
        self.module = module
        self.nodes = [Node("", "input", shape=_shape(sample))]
        self._values = [] if sample is None else [sample]

    def graph(self) -> Graph:
        """Give what was read."""
        return Graph(tuple(self.nodes))

    def add_layer(self, path: str, layer: nn.Module, source: int) -> Value:
        """Append a layer that reads one node."""
        return self._add(Node(path, "layer", layer, (source,)))

    def _add(self, node: Node) -> Value:
        if self._values:
            value = node.evaluate([self._values[i].clone() for i in node.inputs])
            self._values.append(value)
            node = replace(node, shape=_shape(value))
        self.nodes.append(node)
        return Value(len(self.nodes) - 1)

    def read(self, trace: fx.Graph) -> Graph:
        """Read a trace of the module; steps on which the output does not depend are left out."""
        meanings: dict[fx.Node, Any] = {}
        output = trace.output_node()
        needed = _ancestors(output)
        for step in trace.nodes:
            if step in needed:
                meanings[step] = self._meaning(step, meanings)
            elif _may_write(self.module, step):
                raise NoSoundBound(f"{_title(step)} changes a tensor in place, and what it gives is not used")
        result = fx.node.map_arg(output.args[0], lambda step: meanings[step])
        if not isinstance(result, Value) or result.parts:
            raise NoSoundBound("expected a module that returns one tensor")
        return self.graph()

    def _meaning(self, step: fx.Node, meanings: dict[fx.Node, Any]) -> Any:
        if step.op == "placeholder":
            if step is not next(iter(step.graph.nodes)):
                raise NoSoundBound(f"expected a module with one input, got a second one, `{step.name}`")
            return Value(0)
        if step.op == "get_attr":
            return _attribute(self.module, str(step.target))
        arguments, options = fx.node.map_arg((list(step.args), dict(step.kwargs)), lambda one: meanings[one])
        if step.op == "call_module":
            path = str(step.target)
            layer = self.module.get_submodule(path)
            _refuse_shared_in_place(self.module, step, layer)
            if options or len(arguments) != 1 or not isinstance(arguments[0], Value) or arguments[0].parts:
                raise NoSoundBound(f"layer {Node(path, 'layer', layer).title} has no Lipschitz bound with these inputs")
            return self.add_layer(path, layer, arguments[0].index)
        try:
            return self._call(step, arguments, options)
        except NoSoundBound:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
            raise NoSoundBound(f"{_title(step)} has no Lipschitz bound: {str(error).splitlines()[0]}") from None

    def _call(self, step: fx.Node, arguments: list[Any], options: dict[str, Any]) -> Any:
        target, path = step.target, step.name
        if not _mentions_value((arguments, options)):
            return _compute(step, arguments, options)
        if target in known.IN_PLACE:
            _refuse_shared_in_place(self.module, step, None)
        if target in known.CONCAT:
            return self._concat(path, *arguments, **options)
        if target in known.ARITHMETIC and not options and len(arguments) <= 2:
            return self._arithmetic(step, arguments[0], arguments[-1])
        value, *rest = arguments
        if isinstance(value, Value) and not _mentions_value((rest, options)):
            return self._unary(step, value, rest, options)
        raise _unknown(step)

    def _arithmetic(self, step: fx.Node, first: Any, second: Any) -> Any:
        target, path = step.target, step.name
        if target in known.ADD:
            return self._sum(path, first, second)
        if target in known.SUBTRACT:
            return self._sum(path, first, self._times(path, second, -1.0))
        if target in known.NEGATE:
            return self._times(path, first, -1.0)
        if target in known.MULTIPLY:
            return self._times(path, *((first, second) if isinstance(first, Value) else (second, first)))
        if isinstance(first, Value) and not isinstance(second, Value):
            return self._times(path, first, known.reciprocal(known.as_number(second)))
        raise _unknown(step)

    def _unary(self, step: fx.Node, value: Value, rest: list[Any], options: dict[str, Any]) -> Any:
        target, path = step.target, step.name
        if value.parts is not None:
            if target is not operator.getitem or type(rest[0]) is not int:
                raise _unknown(step)
            move = value.parts
            return self.add_layer(path, Move(move.name, move.arguments, move.options, rest[0]), value.index)
        if target is getattr or target in ("size", "dim"):
            return self._fact(value, rest[0] if target is getattr else str(target), rest[target is getattr :])
        if target is operator.getitem and known.is_basic_index(rest[0]):
            return self.add_layer(path, Move("__getitem__", rest, {}), value.index)
        if target in known.MOVES:
            if any(isinstance(one, torch.dtype) for one in (*rest, *options.values())):
                raise _unknown(step)
            move = Move(known.MOVES[target], rest, options)
            return Value(value.index, move) if move.name in known.SEVERAL else self.add_layer(path, move, value.index)
        if target is F.dropout and not (rest[1] if len(rest) > 1 else options.get("training", True)):
            return self.add_layer(path, nn.Identity(), value.index)
        if target in known.LAYERS:
            if not options.get("antialias", True):  # an argument of `interpolate` that `nn.Upsample` has not
                options = {name: value for name, value in options.items() if name != "antialias"}
            layer = known.LAYERS[target](*rest, **options).eval()
            _refuse_shared_in_place(self.module, step, layer)
            return self.add_layer(path, layer, value.index)
        raise _unknown(step)

    def _fact(self, value: Value, name: str, rest: list[Any]) -> Any:
        """Answer `x.shape`, `x.size()`, `x.dim()` and the like."""
        sample = self._values[value.index]
        if name in ("shape", "size"):
            sizes = (Batch(sample.shape[0]), *sample.shape[1:])
            return sizes[rest[0]] if rest else sizes
        facts = {"dim": sample.ndim, "ndim": sample.ndim, "dtype": sample.dtype, "device": sample.device}
        if name not in facts:
            raise NoSoundBound(f"`{name}` of a tensor has no known meaning")
        return facts[name]

    def _sum(self, path: str, first: Any, second: Any) -> Value:
        values = [one for one in (first, second) if isinstance(one, Value)]
        if len(values) == 2:
            added = self._add(Node(path, "add", inputs=(first.index, second.index)))
        else:
            constant = second if isinstance(first, Value) else first
            added = self.add_layer(path, Shift(constant), values[0].index)
        if any(self.nodes[value.index].shape != self.nodes[added.index].shape for value in values):
            raise NoSoundBound(
                f"step `{path}` repeats values to make the shapes equal, which has no Lipschitz bound here"
            )
        return added

    def _times(self, path: str, value: Any, factor: Any) -> Any:
        if not isinstance(value, Value):
            return value * factor
        if isinstance(factor, Value):
            raise NoSoundBound(
                f"step `{path}` is a product of two values that depend on the input: it has no Lipschitz bound"
            )
        return self.add_layer(path, Scale(known.as_number(factor)), value.index)

    def _concat(self, path: str, tensors: Any, dim: int = 0) -> Value:
        if not all(isinstance(one, Value) for one in tensors):
            raise NoSoundBound(f"step `{path}` joins a constant, which is not read")
        axes = self._values[tensors[0].index].ndim
        dimension = dim + axes if dim < 0 else dim
        if dimension == 0:
            raise NoSoundBound(f"step `{path}` does not keep the batch axis")
        return self._add(Node(path, "concat", inputs=tuple(one.index for one in tensors), dimension=dimension))


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape[1:])


def _title(step: fx.Node) -> str:
    name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", str(step.target))
    stack: list[Any] = list(step.meta.get("nn_module_stack", {}).values())
    place = f" in `{stack[-1][0]}` ({stack[-1][1].__name__})" if stack else ""
    return f"step `{step.name}` ({name}){place}"


def _unknown(step: fx.Node) -> NoSoundBound:
    return NoSoundBound(f"{_title(step)} has no known Lipschitz constant")


def _ancestors(step: fx.Node) -> set[fx.Node]:
    found, open_ones = {step}, [step]
    while open_ones:
        sources = set(open_ones.pop().all_input_nodes) - found
        found |= sources
        open_ones += sources
    return found - {step}


def _attribute(module: nn.Module, path: str) -> Any:
    try:
        value = operator.attrgetter(path)(module)
    except AttributeError:
        raise NoSoundBound("a tensor is made in the module's forward: register it as a buffer") from None
    if isinstance(value, Tensor) and not torch.isfinite(value).all():
        raise NoSoundBound(f"expected finite weights, got NaN or infinity in {path!r}")
    return value.detach() if isinstance(value, Tensor) else value


def _mentions_value(argument: Any) -> bool:
    if isinstance(argument, dict):
        return _mentions_value(list(argument.values()))
    if isinstance(argument, list | tuple):
        return any(_mentions_value(one) for one in argument)
    return isinstance(argument, Value)


def _compute(step: fx.Node, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Compute what depends on weights and sizes only, on copies of the weights."""
    arguments = [one.clone() if isinstance(one, Tensor) else one for one in arguments]
    if step.op == "call_method":
        return getattr(arguments[0], str(step.target))(*arguments[1:], **options)
    return step.target(*arguments, **options)  # type: ignore[operator]


def _may_write(module: nn.Module, step: fx.Node) -> bool:
    """Tell whether a step may change a tensor that it reads."""
    if step.op == "call_module":
        return bool(getattr(module.get_submodule(str(step.target)), "inplace", False))
    if step.op not in ("call_function", "call_method"):
        return False
    name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", "")
    inplace = step.kwargs.get("inplace", False) or True in step.args
    written = name.endswith("_") and not name.endswith("__")
    return bool(written or inplace or "out" in step.kwargs or "setitem" in name or step.target in known.IN_PLACE)


def _refuse_shared_in_place(module: nn.Module, step: fx.Node, layer: nn.Module | None) -> None:
    if layer is not None and not getattr(layer, "inplace", False):
        return
    if not _is_owned(module, step.all_input_nodes[0]):
        raise NoSoundBound(f"{_title(step)} changes in place a tensor that may be used elsewhere")


def _is_owned(module: nn.Module, step: fx.Node) -> bool:
    """Tell whether a value is used once and shares its memory with nothing that is used elsewhere."""
    if len(step.users) != 1 or step.op == "get_attr":
        return False
    if step.op == "placeholder":
        return True
    if step.op == "call_module" and issubclass(kind_of(module.get_submodule(str(step.target))), _FRESH):
        return True
    return step.target in known.FRESH or _is_owned(module, step.all_input_nodes[0])
