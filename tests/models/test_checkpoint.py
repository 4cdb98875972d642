"""A model on disk comes back to the bit, or is refused in one sentence; nothing that is read can run."""

import json
import os
import pickle
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from tests.models.small import FAMILIES, LIKELIHOODS, SHAPE, SPREADS, random_images, small_model
from vaerdict.lipschitz import bound_lipschitz, remove_parametrizations
from vaerdict.models import GaussianVAE, build_vae, load_vae, load_weights, save_vae, vae_from_factory
from vaerdict.options import ModelOptions
from vaerdict.vae import fingerprint

MODEL = small_model(spread="bounded")
PICKLES = ["m.pt", "m.pth", "m.pkl", "m.pickle", "m.ckpt", "m.bin", "m.PT", "m.Pkl"]


def native(options: ModelOptions = MODEL, **facts: Any) -> GaussianVAE:
    vae = build_vae(options, **{"name": "native", "input_shape": SHAPE, **facts}).eval()
    remove_parametrizations(vae)
    return vae


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_vae(tmp_path / "model", native(), MODEL, {"data": {"name": "digits"}})
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


# --- there and back ---


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    spread=st.sampled_from(SPREADS),
    likelihood=st.sampled_from(LIKELIHOODS),
    latent=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 6).map(lambda half: 2 * half), max_size=2).map(tuple),
    std=st.floats(1e-3, 10),
)
def test_a_model_comes_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, **architecture: Any) -> None:
    folder, options = tmp_path_factory.mktemp("model"), ModelOptions(**architecture)
    pixels = (-1.0, 0.7) if options.likelihood == "gaussian" else (0.0, 1.0)
    vae = native(options, input_range=pixels)
    save_vae(folder, vae, options, {})
    loaded = load_vae(folder)
    assert fingerprint(loaded) == fingerprint(vae)
    assert (loaded.name, loaded.input_shape, loaded.input_range) == ("native", SHAPE, pixels)
    assert not any(part.training for part in loaded.modules())
    assert all(torch.equal(vae.state_dict()[name], weight) for name, weight in loaded.state_dict().items())


def test_a_model_is_the_same_however_often_it_is_read_and_written(folder: Path, tmp_path: Path) -> None:
    first = load_vae(folder)
    save_vae(tmp_path / "copy", first, MODEL, {"data": {"name": "digits"}})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    second, images = load_vae(tmp_path / "copy"), random_images(9)
    one, other = first.encode(images), second.encode(images)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.std, other.std)
    assert float(bound_lipschitz(first.decoder_map)) == float(bound_lipschitz(second.decoder_map))


def test_the_configuration_can_be_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("model") == {
        "family": "lipschitz",
        "latent": 3,
        "hidden": [8, 6],
        "a": 4.0,
        "b": 3.0,
        "spread": "bounded",
        "std": 0.1,
        "likelihood": "bernoulli",
        "observation_std": 0.1,
        "beta": 1.0,
    }
    assert config == {
        "name": "native",
        "input_shape": [1, 8, 8],
        "input_range": [0.0, 1.0],
        "data": {"name": "digits"},
    }


def test_loading_keeps_the_callers_random_numbers(folder: Path) -> None:
    before = torch.get_rng_state()
    load_vae(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("written", [0, 1])
def test_an_interrupted_write_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """The disk is full in the middle of the weights, or of the configuration."""
    before, calls = (folder / "config.json").read_bytes(), iter(range(2))
    old_weights = (folder / "model.safetensors").read_bytes()

    def full_disk(descriptor: int) -> None:
        if next(calls) == written:
            raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_vae(folder, native(), MODEL, {"data": {"name": "other"}})
    assert (folder / "config.json").read_bytes() == before
    assert ((folder / "model.safetensors").read_bytes() == old_weights) == (written == 0)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    load_vae(folder)


# --- a folder that is no model ---


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"^expected .*{missing}"):
        load_vae(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^expected a model folder with config.json, found none at .*nowhere$"):
        load_vae(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"model": null}', b'{"model": {}}', b"\xff\xfe\x00", b"[[[["],
)
def test_a_configuration_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+config.json is not a model's configuration: .+"):
        load_vae(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 3},
        {"latent": 0},
        {"latent": -1},
        {"latent": "3"},
        {"latent": 3.5},
        {"hidden": 8},
        {"hidden": [8, 7]},
        {"hidden": ["8"]},
        {"family": "transformer"},
        {"spread": "std"},
        {"likelihood": "poisson"},
        {"std": -0.1},
        {"std": float("nan")},
        {"std": float("inf")},
        {"a": None},
        {"a": "4"},
        {"beta": float("inf")},
        {"latent": 10**30},
    ],
    ids=str,
)
def test_an_architecture_that_makes_no_sense_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    edit_config(folder, model={**model, **changes})
    with pytest.raises(ValueError, match=r"^\S+config.json is not a model's configuration: .+"):
        load_vae(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": None},
        {"input_shape": "abc"},
        {"input_shape": 64},
        {"input_shape": [1, 8.0, 8]},
        {"input_shape": [True, 8, 8]},
        {"input_range": "ab"},
        {"input_range": ["a", "b"]},
        {"input_shape": [1, -8, 8]},
        {"input_range": [0.0]},
        {"input_range": [1.0, 0.0]},
        {"input_range": [-1.0, 1.0]},
        {"input_range": 1},
    ],
    ids=str,
)
def test_images_that_make_no_sense_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=r"^\S+config.json is not a model's configuration: .+"):
        load_vae(folder)


@pytest.mark.parametrize("name", [5, None, ["a"], {}])
def test_a_name_that_is_no_text_is_refused(folder: Path, name: Any) -> None:
    edit_config(folder, name=name)
    with pytest.raises(ValueError, match="is not a model's configuration: ValueError expected `name` as text, got "):
        load_vae(folder)


@pytest.mark.parametrize("key", ["name", "input_shape", "input_range", "model"])
def test_a_configuration_without_a_key_is_refused(folder: Path, key: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json is not a model's configuration: KeyError '{key}'$"):
        load_vae(folder)


@pytest.mark.parametrize("changes", [{"latent": 4}, {"hidden": [8, 8]}, {"hidden": [8]}, {"family": "conv"}])
def test_weights_of_another_architecture_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    model = json.loads((folder / "config.json").read_text())["model"]
    edit_config(folder, model={**model, **changes})
    with pytest.raises(ValueError, match=r"model.safetensors does not fit the model: .+ '\w+\.\d\.(weight|bias)'"):
        load_vae(folder)


# --- weights ---


def set_one(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights[name].view(-1)[-1:].fill_(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_one("encoder.1.weight", torch.nan), "holds NaN or infinity in weight 'encoder.1.weight'"),
        (set_one("decoder.4.bias", -torch.inf), "holds NaN or infinity in weight 'decoder.4.bias'"),
        (
            lambda weights: weights.update({"encoder.1.bias": torch.full((8,), 1e300, dtype=torch.float64)}),
            "holds NaN or infinity in weight 'encoder.1.bias'",
        ),
        (lambda weights: weights.pop("encoder.3.bias"), "does not fit the model: it lacks weight 'encoder.3.bias'"),
        (lambda weights: weights.clear(), "does not fit the model: it lacks weight 'decoder.0.bias'"),
        (
            lambda weights: weights.update(other=torch.zeros(1)),
            "does not fit the model: it has the unknown weight 'other'",
        ),
        (
            lambda weights: weights.update({"encoder.1.bias": torch.zeros(1)}),
            r"does not fit the model: expected 'encoder.1.bias' of shape \(8,\), got \(1,\)",
        ),
        (
            lambda weights: weights.update({"encoder.1.weight": torch.zeros(64, 8)}),
            r"does not fit the model: expected 'encoder.1.weight' of shape \(8, 64\), got \(64, 8\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_all_of_them(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    path, vae = folder / "model.safetensors", native()
    edit_weights(path, change)
    before = fingerprint(vae)
    with pytest.raises(ValueError, match=rf"^\S+model.safetensors {message}$"):
        load_weights(vae, path)
    assert fingerprint(vae) == before
    with pytest.raises(ValueError, match=rf"^\S+model.safetensors {message}$"):
        load_vae(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(folder: Path, dtype: torch.dtype) -> None:
    path, vae = folder / "model.safetensors", native()
    exact = load_file(path)
    save_file({name: weight.to(dtype) for name, weight in exact.items()}, path)
    load_weights(vae, path)
    for name, weight in vae.state_dict().items():
        assert torch.equal(weight, exact[name].to(dtype).float())


class Payload:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_under_a_false_name_is_not_read(folder: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", folder / "model.safetensors"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError, match=r"^\S+model.safetensors is not a safetensors file: "):
        load_vae(folder)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # so the payload would have worked


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1, -200])
def test_a_truncated_file_is_refused(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"^\S+model.safetensors is not a safetensors file: "):
        load_vae(folder)


def test_a_text_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_text("these are not the weights you are looking for")
    with pytest.raises(ValueError, match=r"^\S+model.safetensors is not a safetensors file: "):
        load_vae(folder)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused_by_their_ending_whether_they_exist_or_not(tmp_path: Path, name: str) -> None:
    message = f"got the pickle .*{name}$"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            load_vae(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_weights(nn.Linear(1, 1), tmp_path / name)
        (tmp_path / name).write_bytes(b"")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^expected weights at .+nothing.safetensors, found none$"):
        load_weights(nn.Linear(1, 1), tmp_path / "nothing.safetensors")


# --- factories ---


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of a module with factories, as a user would write it."""
    source = """
        import torch
        from torch import nn
        from vaerdict.models import wrap

        def linear(value=0.5):
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
            decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
            for parameter in [*encoder.parameters(), *decoder.parameters()]:
                nn.init.constant_(parameter, value)
            return wrap(encoder, decoder, input_shape=(1, 2, 2), latent_shape=(2,), spread="constant", std=0.1)

        def broken():
            vae = linear()
            nn.init.constant_(vae.encoder[1].bias, torch.nan)
            return vae

        def failing():
            raise KeyError("in the user's own code")

        def module():
            return nn.Linear(1, 1)

        number = 3
        """
    name = f"factories_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    (tmp_path / f"{name}_broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_factory_makes_a_vae(factories: str) -> None:
    vae = vae_from_factory(f"{factories}:linear")
    assert not any(part.training for part in vae.modules())
    assert vae.encode(torch.ones(1, 1, 2, 2)).mean.tolist() == [[2.5, 2.5]]


def test_weights_are_loaded_into_what_the_factory_made(factories: str, tmp_path: Path) -> None:
    blank = vae_from_factory(f"{factories}:linear")
    weights = {name: torch.randn_like(weight) for name, weight in blank.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    vae = vae_from_factory(f"{factories}:linear", tmp_path / "w.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in vae.state_dict().items())
    assert fingerprint(vae) != fingerprint(blank)


def test_weights_that_do_not_fit_the_factory_are_refused(factories: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(vae_from_factory(f"{factories}:linear").state_dict(), path)
    edit_weights(path, lambda weights: weights.update({"encoder.1.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"expected 'encoder.1.bias' of shape \(2,\), got \(3,\)$"):
        vae_from_factory(f"{factories}:linear", path)
    with pytest.raises(FileNotFoundError, match="expected weights at"):
        vae_from_factory(f"{factories}:linear", tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="got the pickle"):
        vae_from_factory(f"{factories}:linear", tmp_path / "w.pt")


@pytest.mark.parametrize(
    "factory",
    [
        "no_such_module_at_all:make",
        "{module}:missing",
        "{module}:number",
        "{module}",
        "{module}:",
        "{module}_broken:make",
        ":linear",
        ".{module}:linear",
        "",
    ],
)
def test_a_factory_that_is_not_there_is_refused(factories: str, factory: str) -> None:
    given = factory.format(module=factories)
    with pytest.raises(ValueError, match=rf"^expected a factory `package.module:function`, got '{given}': .+"):
        vae_from_factory(given)


def test_a_factory_of_something_else_is_refused(factories: str) -> None:
    with pytest.raises(ValueError, match=r"^expected the factory to return a VAE made by models.wrap, got Linear$"):
        vae_from_factory(f"{factories}:module")


def test_a_factory_whose_weights_are_not_finite_is_refused(factories: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{factories}:broken holds NaN or infinity in weight 'encoder.1.bias'$"):
        vae_from_factory(f"{factories}:broken")
    save_file(vae_from_factory(f"{factories}:linear").state_dict(), tmp_path / "w.safetensors")
    mended = vae_from_factory(f"{factories}:broken", tmp_path / "w.safetensors")
    assert fingerprint(mended) == fingerprint(vae_from_factory(f"{factories}:linear"))


def test_the_users_own_errors_are_not_hidden(factories: str) -> None:
    message = f"""^the factory {factories}:failing failed: KeyError: "in the user's own code"$"""
    with pytest.raises(ValueError, match=message) as failure:
        vae_from_factory(f"{factories}:failing")
    assert isinstance(failure.value.__cause__, KeyError)
    with pytest.raises(ValueError, match=r"^the factory math:sqrt failed: TypeError: math.sqrt\(\) takes "):
        vae_from_factory("math:sqrt")


def test_a_factory_is_found_in_the_working_directory(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "factory_of_here.py").write_text(f"from {factories} import linear")
    (tmp_path / "here" / "broken_here.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="No module named 'factory_of_here'"):
        vae_from_factory("factory_of_here:linear")
    monkeypatch.chdir(tmp_path / "here")
    before = list(sys.path)
    assert vae_from_factory("factory_of_here:linear").name
    with pytest.raises(ValueError, match=r"got 'broken_here:make': ZeroDivisionError: division by zero$"):
        vae_from_factory("broken_here:make")
    assert sys.path == before
