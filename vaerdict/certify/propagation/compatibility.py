"""Imports auto_LiRPA, which newer torch and numpy break, and hides what it changes for everybody else.

Version 0.3 needs three names that are gone. They are put back while it is imported and while it runs, no longer.
Both versions change warning filters, add a logging handler, print, and set options of torch's exporter.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_OLD = "0.3"


def found_version() -> str | None:
    """Give the version of auto_LiRPA that an import would find, without importing it; None where there is none.

    >>> found_version() is None or found_version()[0].isdigit()
    True
    """
    found = importlib.util.find_spec("auto_LiRPA")
    if found is None or found.origin is None:
        return None
    stated = re.search(r"__version__\s*=\s*['\"](.+?)['\"]", Path(found.origin).read_text())
    return stated[1] if stated else "unknown"


@contextlib.contextmanager
def session() -> Iterator[Any]:
    """Lend the library, with float64 as torch's default, and leave everything else as it was.

    Raises:
        ImportError: the library, or something that it needs, is missing.
    """
    with contextlib.ExitStack() as stack:
        # Recorded and dropped: the library sets filters of its own, under which ignored warnings would come back.
        stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_kept_exporter_options())
        if found_version() == _OLD:
            stack.enter_context(_node_items())
        library = _imported()
        before = torch.get_default_dtype()
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float64)
        yield library


@cache
def _imported() -> Any:
    with _kept_root_logger():
        if found_version() != _OLD:
            return importlib.import_module("auto_LiRPA")
        with _names_of_old_releases():
            library = importlib.import_module("auto_LiRPA")
        _let_parameters_be_listed(library.BoundedModule)
        return library


def _let_parameters_be_listed(kind: Any) -> None:
    """Accept the argument that torch has added to a method which 0.3 overrides."""
    listed = kind._named_members

    def named_members(self: Any, members: Any, prefix: str = "", recurse: bool = True, **_: Any) -> Iterator[Any]:
        return listed(self, members, prefix, recurse)

    kind._named_members = named_members


@contextlib.contextmanager
def _names_of_old_releases() -> Iterator[None]:
    """Put back `numpy.lib.arraysetops.isin` and the exporter's `_set_opset_version`, which 0.3 imports by name."""
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    module = types.ModuleType("numpy.lib.arraysetops")
    module.isin = np.isin  # type: ignore[attr-defined]
    added = [name for name in (module.__name__,) if name not in sys.modules]
    lacks_setter = not hasattr(helper, "_set_opset_version")
    try:
        for name in added:
            sys.modules[name] = module
        if lacks_setter:
            helper._set_opset_version = _set_opset_version  # type: ignore[attr-defined]
        yield
    finally:
        for name in added:
            del sys.modules[name]
        if lacks_setter:
            del helper._set_opset_version


def _set_opset_version(version: int) -> None:
    _exporter_options().export_onnx_opset_version = version


def _exporter_options() -> Any:
    """Give the exporter's options, which moved in torch 2.9."""
    moved = importlib.util.find_spec("torch.onnx._internal.torchscript_exporter")
    name = "torch.onnx._internal.torchscript_exporter._globals" if moved else "torch.onnx._globals"
    return importlib.import_module(name).GLOBALS


@contextlib.contextmanager
def _kept_exporter_options() -> Iterator[None]:
    options = _exporter_options()
    before = dict(vars(options))
    try:
        yield
    finally:
        vars(options).update(before)


@contextlib.contextmanager
def _node_items() -> Iterator[None]:
    """Let 0.3 read the attributes of a traced node by `node[name]`, as torch once did."""
    node: Any = torch._C.Node
    if hasattr(node, "__getitem__"):
        yield
        return
    node.__getitem__ = lambda self, name: getattr(self, self.kindOf(name))(name)
    try:
        yield
    finally:
        del node.__getitem__


@contextlib.contextmanager
def _kept_root_logger() -> Iterator[None]:
    """Undo `logging.basicConfig`, and let the library's own messages go nowhere: its exceptions say the same."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        own = logging.getLogger("auto_LiRPA")
        own.propagate = False
        own.addHandler(logging.NullHandler())
