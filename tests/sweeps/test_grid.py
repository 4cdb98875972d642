"""What a grid's file may hold, what its lists mean, and what is said of one that is none."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.options import AttackOptions, CertifyOptions, DataOptions, ModelSource, Question
from vaerdict.sweeps import make_grid, read_grid
from vaerdict.sweeps.grid import as_json, differences

BASE: dict[str, Any] = {"models": "m", "data": "digits", "questions": {"r": 1}, "certify": {}}


def made(**entries: Any) -> Any:
    return make_grid({**BASE, **entries}, "G")


def test_the_least_grid_has_all_defaults() -> None:
    grid = made()
    assert grid.models == (ModelSource(model="m"),)
    assert grid.data == (DataOptions(),)
    assert grid.questions == (Question(r=1.0),)
    assert (grid.certify, grid.attack) == ((CertifyOptions(),), ())
    assert (grid.seeds, grid.chunk, grid.batch, grid.threads, grid.device) == ((0,), 100, None, 1, "cpu")


def test_a_list_where_one_value_is_expected_is_an_entry_with_each() -> None:
    grid = made(questions=[{"r": [1, 2], "p": [0.5, 0.9]}, {"r-relative": 0.5}])
    assert [(one.r, one.r_relative, one.p) for one in grid.questions] == [
        (1, None, 0.5), (1, None, 0.9), (2, None, 0.5), (2, None, 0.9), (None, 0.5, 0.5)
    ]  # fmt: skip
    attacks = made(attack={"norm": [2, "inf", 0], "radii": [1, 2]}).attack
    assert [(one.norm, one.radii) for one in attacks] == [("2", (1, 2)), ("inf", (1, 2)), ("0", (1, 2))]
    assert [one.start for one in made(data={"data": "digits", "start": [0, 50], "limit": 50}).data] == [0, 50]


def test_a_text_names_what_comes_first_and_one_entry_needs_no_list() -> None:
    grid = made(models=["a", {"factory": "f:g", "weights": ["v", "w"]}], seeds=3)
    assert grid.models == (
        ModelSource(model="a"), ModelSource(factory="f:g", weights="v"), ModelSource(factory="f:g", weights="w")
    )  # fmt: skip
    assert grid.seeds == (3,)
    assert made(certify={"methods": "barrett"}).certify == (CertifyOptions(methods=("barrett",)),)
    assert made(attack={"radii": 0.5}).attack == (AttackOptions(radii=(0.5,)),)
    assert made(attack=None).attack == made(attack={}).attack == (AttackOptions(),)


def test_whole_numbers_are_as_good_as_others() -> None:
    """Names of units tell 1 from 1.0: a file must not."""
    assert json.dumps(as_json(made(attack={"radii": [1]}))) == json.dumps(
        as_json(made(questions={"r": 1.0}, attack={"radii": [1.0]}))
    )


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"model": "m"}, "unknown entry in G 'model', known: models, data, questions, certify, attack, seeds, chunk,"),
        ({"certify": []}, "expected `certify` or `attack`, got neither (G)"),
        ({"models": []}, "expected one or more `models`, got none (G)"),
        ({"data": []}, "expected one or more `data`, got none (G)"),
        ({"questions": []}, "expected one or more `questions`, got none (G)"),
        ({"questions": {"r": []}}, "expected one or more `questions`, got none (G)"),
        ({"seeds": []}, "expected one or more `seeds`, got none (G)"),
        ({"seeds": [0, "a"]}, "expected `value` in seeds in G as a whole number, got 'a'"),
        ({"seeds": 1.5}, "expected `value` in seeds in G as a whole number, got 1.5"),
        ({"seeds": None}, "expected `value` in seeds in G as a whole number, got None"),
        ({"models": None}, "expected one of `model` and `factory`, got both or none (models in G, 1.)"),
        ({"models": ["a", 7]}, "expected options in models in G, 2., got 7"),
        ({"chunk": 0}, "expected `chunk` >= 1, got 0 (G)"),
        ({"chunk": None}, "expected `chunk` in G as a whole number, got None"),
        ({"chunk": [1, 2]}, "expected `chunk` in G as a whole number, got [1, 2]"),
        ({"chunk": True}, "expected `chunk` in G as a whole number, got True"),
        ({"batch": 0}, "expected `batch` >= 1, got 0 (G)"),
        ({"batch": "all"}, "expected `batch` in G as a whole number, got 'all'"),
        ({"threads": 0}, "expected `threads` >= 1, got 0 (G)"),
        ({"device": "cuda:0"}, "expected `device` in G as one of cpu, cuda, got 'cuda:0'"),
        ({"questions": [{"r": 1}, {"r": 1, "r-relative": 1}]}, "got both or none (questions in G, 2.)"),
        ({"questions": {"r": "far"}}, "expected `r` in questions in G, 1. as a number, got 'far'"),
        ({"questions": {"r": float("nan")}}, "expected a finite `r` > 0, got nan (questions in G, 1.)"),
        ({"questions": {"r": 10**400}}, "expected `r` in questions in G, 1. as a number, got 1000"),
        ({"questions": {"r": 1, "p": None}}, "expected `p` in questions in G, 1. as a number, got None"),
        ({"questions": {"q": 1}}, "unknown option in questions in G, 1. 'q', known: r, r-relative, p"),
        ({"questions": {3: 1}}, "unknown option in questions in G, 1. '3', known: r, r-relative, p"),
        ({"data": {"limit": 0}}, "expected `limit` >= 1, got 0 (data in G, 1.)"),
        ({"certify": [{}, {"method": "x"}]}, "unknown option in certify in G, 2. 'method', known: methods, norm,"),
        ({"certify": {"methods": "baret"}}, "unknown method 'baret', known: barrett"),
        ({"certify": {"local": "perhaps"}}, "expected `local` in certify in G, 1. as true or false, got 'perhaps'"),
        ({"certify": {"norm": 1}}, "expected `norm` in certify in G, 1. as one of 2, inf, got '1'"),
        ({"attack": {"radii": [1, "x"]}}, "expected `radii` in attack in G, 1. as a list, each a number, got [1, 'x']"),
        ({"attack": {"margin": False}}, "expected a margin search or some `radii`, got neither (attack in G, 1.)"),
        ({"attack": {"samples": 1.5}}, "expected `samples` in attack in G, 1. as a whole number, got 1.5"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence_that_says_where(entries: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"^(expected|unknown) .*$") as error:
        made(**entries)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["models", "data", "questions"])
def test_a_missing_entry_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected `{name}` in G, got none"):
        make_grid({entry: value for entry, value in BASE.items() if entry != name}, "G")
    with pytest.raises(ValueError, match="expected `certify` or `attack`, got neither"):
        make_grid({entry: value for entry, value in BASE.items() if entry != "certify"}, "G")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "`certify` or `attack`, got PATH"),
        (b"- models", "`certify` or `attack`, got PATH"),
        (b"models", "`certify` or `attack`, got PATH"),
        (b"models: [a", "got PATH: while parsing a flow sequence"),
        (b"\xff\xfe\x00\x80", "got PATH: 'utf-8' codec can't decode"),
        (b"\x00", "got PATH: unacceptable character"),
        (None, "got PATH: [Errno 2] No such file or directory"),
        (b"models: m\n1: 2", "unknown entry in PATH '1', known: models"),
    ],
)
def test_a_file_that_is_no_grid(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^(expected a YAML file with `models`|unknown).*$") as error:
        read_grid(path)
    assert said.replace("PATH", str(path)) in str(error.value)


def test_dashes_are_underscores_and_a_folder_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("models: m\ndata: digits\nquestions: {r-relative: 0.5}\ncertify: {noise-std: 0.0}\n")
    dashed = read_grid(path)
    path.write_text("models: m\ndata: digits\nquestions: {r_relative: 0.5}\ncertify: {noise_std: 0.0}\n")
    assert read_grid(path) == dashed
    with pytest.raises(ValueError, match="Is a directory"):
        read_grid(tmp_path)


def test_a_grid_as_json_makes_the_same_grid(tmp_path: Path) -> None:
    grid = made(attack={"norm": ["2", "inf"], "radii": [0.5, 1]}, seeds=[0, 1], batch=4)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(as_json(grid)))
    assert read_grid(tmp_path / "grid.yaml") == grid
    assert as_json(grid) == json.loads(json.dumps(asdict(grid)))


def test_differences_say_where_and_what() -> None:
    before = as_json(made(attack={"radii": [0.5]}))
    now = as_json(made(attack={"radii": [1, 2]}, questions={"r": 2}, batch=3))
    assert differences(before, now) == [
        "questions.0.r: 1.0 -> 2.0", "attack.0.radii.0: 0.5 -> 1.0", "batch: None -> 3",
        "attack.0.radii.1: nothing -> 2.0",
    ]  # fmt: skip
    assert differences(as_json(made()), as_json(made(seeds=list(range(20)))))[-2:] == [
        "seeds.5: nothing -> 5",
        "and 14 more",
    ]
    assert differences({"seeds": [0, 1]}, {"seeds": [0]}) == ["seeds.1: 1 -> nothing"]


_json = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, min_size=1),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("pq"), _json), st.dictionaries(st.sampled_from("pq"), _json))
def test_only_equal_grids_have_no_differences(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (differences(one, other) == []) == (one == other)
    assert differences(one, one) == []
