"""Models on disk: a folder with `config.json` and `model.safetensors`; pickles are refused."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vaerdict.models.gaussian import GaussianVAE
from vaerdict.models.networks import build_vae
from vaerdict.options import ModelOptions, refuse_pickle, require
from vaerdict.results import write_atomic


def save_vae(folder: Path, vae: GaussianVAE, options: ModelOptions, facts: dict[str, Any]) -> None:
    """Write a native VAE with frozen layers: the weights first, so that a folder with `config.json` is whole.

    `facts` are kept in `config.json` beside the architecture: how and on what the model was trained.
    """
    config = {
        "name": vae.name,
        "input_shape": vae.input_shape,
        "input_range": vae.input_range,
        "model": asdict(options),
        **facts,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in vae.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(weights))
    write_atomic(folder / "config.json", json.dumps(config, indent=2).encode())


def load_vae(folder: Path) -> GaussianVAE:
    """Read a native VAE, in evaluation mode.

    Raises:
        FileNotFoundError: the folder, its `config.json` or its `model.safetensors` is missing.
        ValueError: the configuration cannot be read; the weights do not fit it or are not finite; a pickle is given.
    """
    folder = Path(folder)
    refuse_pickle(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a model folder with config.json, found none at {folder}")
    try:
        config = json.loads(path.read_text())
        _check_facts(config)
        options = ModelOptions(**{**config["model"], "hidden": tuple(config["model"]["hidden"])})
        shape, pixels = tuple(config["input_shape"]), tuple(config["input_range"])
        # The fork keeps the caller's random numbers as they are.
        with torch.random.fork_rng(devices=[]):
            vae = build_vae(options, name=config["name"], input_shape=shape, input_range=pixels, constrained=False)
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not a model's configuration: {type(error).__name__} {error}") from None
    load_weights(vae, folder / "model.safetensors")
    return vae.eval()


def _check_facts(config: dict[str, Any]) -> None:
    for key, kinds in {"input_shape": (int,), "input_range": (int, float)}.items():
        fits = isinstance(config[key], list) and all(type(value) in kinds for value in config[key])
        require(fits, f"`{key}` as a list of numbers", repr(config[key]))
    require(isinstance(config["name"], str), "`name` as text", repr(config["name"]))


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a module's weights from a safetensors file, all of them or none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle or no safetensors file; a weight is missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected weights at {path}, found none")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    expected = module.state_dict()
    _check_fit(path, weights, expected)
    weights = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    _check_finite(path, weights)
    module.load_state_dict(weights)


def _check_fit(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() ^ weights.keys()):
        state = "lacks" if name in expected else "has the unknown"
        raise ValueError(f"{path} does not fit the model: it {state} weight {name!r}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
            raise ValueError(f"{path} does not fit the model: expected {name!r} of shape {shapes}")


def _check_finite(source: object, weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{source} holds NaN or infinity in weight {name!r}")


def vae_from_factory(factory: str, weights: Path | None = None) -> GaussianVAE:
    """Call `package.module:function`, which returns a VAE (see `wrap`), and load weights into it if given.

    Modules in the working directory are found, too.

    Raises:
        ValueError: the factory cannot be found, fails or does not return a `GaussianVAE`; see `load_weights` for the
            weights.
    """
    make = _find_factory(factory)
    try:
        vae = make()
    except Exception as error:
        raise ValueError(f"the factory {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(vae, GaussianVAE):
        raise ValueError(f"expected the factory to return a VAE made by models.wrap, got {type(vae).__name__}")
    if weights is not None:
        load_weights(vae, weights)
    _check_finite(factory, vae.state_dict())
    return vae.eval()


def _find_factory(factory: str) -> Callable[[], Any]:
    module_name, _, function_name = factory.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a console script lacks it
    try:
        make = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        message = f"expected a factory `package.module:function`, got {factory!r}: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    finally:
        sys.path.remove(here)
    require(callable(make), "a factory `package.module:function`", f"{factory!r}: {type(make).__name__} object")
    return make
