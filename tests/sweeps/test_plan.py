"""A plan is static: the same units whoever makes it, in whatever order, on however many threads."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vaerdict.options import ModelSource, Question
from vaerdict.sweeps import Grid, attack_units, certificate_units, images_for, load_model, make_grid, make_subject, plan
from vaerdict.sweeps.plan import Measured, Plan, make_plan, units_of
from vaerdict.sweeps.subjects import Shelf, threads
from vaerdict.sweeps.units import BATCH


def planned(grid: Grid, **remembered: int) -> Plan:
    return make_plan(grid, Shelf("cpu"), Measured(remembered))


def names(grid: Grid) -> list[str]:
    return [job.key for job in planned(grid).jobs]


def test_a_plan_is_the_same_twice_and_names_each_unit_once(grid: Grid) -> None:
    first = planned(grid)
    assert first == planned(grid)
    assert len(first.lines) == 4
    assert len({job.key for job in first.jobs}) == len(first.jobs) == 12
    assert [job.samples for job in first.jobs] == [2, 2, 1] * 4
    assert [job.line for job in first.jobs] == sorted(job.line for job in first.jobs)


def test_the_order_of_entries_and_duplicates_change_no_unit(asked: dict[str, Any]) -> None:
    attacks = [{**asked["attack"], "radii": [radius]} for radius in (0.5, 1.0)]
    usual = names(make_grid({**asked, "attack": attacks}, "test"))
    turned = {**asked, "attack": attacks[::-1], "models": asked["models"][::-1]}
    twice = {**asked, "attack": [*attacks, attacks[0]], "seeds": [0, 0], "data": [asked["data"], asked["data"]]}
    assert sorted(names(make_grid(turned, "test"))) == sorted(usual)
    assert names(make_grid(twice, "test")) == usual
    together = {**asked, "attack": {**asked["attack"], "radii": [0.5, 1.0]}}
    assert sorted(names(make_grid(together, "test"))) == sorted(usual)


def test_batch_and_threads_are_no_part_of_a_unit_but_the_chunk_is(attacks: Grid) -> None:
    usual = names(attacks)
    assert names(replace(attacks, batch=None)) == names(replace(attacks, batch=1)) == usual
    assert names(replace(attacks, threads=2)) == usual
    assert not set(names(replace(attacks, chunk=3))) & set(usual)
    assert not set(names(replace(attacks, seeds=(1,)))) & set(usual)


def test_a_unit_that_many_lines_ask_for_is_done_by_the_first(asked: dict[str, Any]) -> None:
    """A second attack that differs by a radius shares the first's units."""
    asked["attack"] = [{**asked["attack"], "radii": radii} for radii in ([0.5], [0.5, 1.0])]
    found = planned(make_grid({**asked, "models": asked["models"][0]}, "test"))
    per_line = Counter(job.line for job in found.jobs)
    assert per_line == {0: 3, 1: 3, 2: 3}
    for job in found.jobs:
        assert job.key in {unit.key for unit in units_of(found.lines[job.line], Shelf("cpu"), Path())}


def test_groups_say_what_is_asked_where_it_is_not_usual(asked: dict[str, Any]) -> None:
    asked["questions"] = [{"r": 1.0}, {"r-relative": 0.25, "p": 0.9}]
    asked |= {"models": asked["models"][0], "seeds": 7, "attack": {"margin": False, "radii": [0.5, 1], "norm": "inf"}}
    groups = list(dict.fromkeys(job.group for job in planned(make_grid(asked, "test")).jobs))
    certified, attacked = "methods barrett+isotropic, local False", "norm inf"
    one, other = "one, digits/test, r 1, p 0.5, seed 7", "one, digits/test, r 0.25 of typical, p 0.9, seed 7"
    assert groups == [
        f"certify: {one}, {certified}", f"attack radius 0.5: {one}, {attacked}", f"attack radius 1: {one}, {attacked}",
        f"certify: {other}, {certified}", f"attack radius 0.5: {other}, {attacked}",
        f"attack radius 1: {other}, {attacked}",
    ]  # fmt: skip


@pytest.mark.parametrize("question", [{"r": 1}, {"r": 0.1}, {"r-relative": 0.25}])
def test_units_are_those_of_single_commands(asked: dict[str, Any], question: dict[str, float]) -> None:
    """So a sweep skips what `vaerdict certify` and `attack` did into the same folder."""
    [model, _], limit = asked["models"], {"data": "digits", "limit": 150, "start": 3}
    grid = make_grid({**asked, "models": model, "data": limit, "questions": question, "chunk": 100}, "test")
    vae = load_model(ModelSource(model=model))
    typed = Question(**{name.replace("-", "_"): float(value) for name, value in question.items()})
    subject = make_subject(vae, "digits", images_for(grid.data[0], vae), typed, 0, "cpu")
    single = [*certificate_units(subject, grid.certify[0]), *attack_units(subject, grid.attack[0], Path("elsewhere"))]
    assert names(grid) == [unit.key for unit in single]
    assert len(single) == 4


def test_the_batch_is_as_asked_as_remembered_or_as_fits(attacks: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(plan, "fitting_batch", lambda vae, image, most: calls.append(most) or 1)
    free, name = replace(attacks, batch=None), f"{Shelf('cpu').sha256(attacks.models[0])} cpu"
    assert {line.batch for line in planned(attacks).lines} == {2}
    assert not calls
    assert planned(free).measured.batches == {name: 1}
    assert calls == [BATCH]
    assert {line.batch for line in planned(free, **{name: 8}).lines} == {min(8, free.chunk)}
    assert {line.batch for line in planned(attacks, **{name: 8}).lines} == {2}
    assert calls == [BATCH]
    assert planned(free, other=8).measured.batches == {"other": 8, name: 1}


def test_a_distance_that_was_measured_is_kept(attacks: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine its last digits may be others, and all units would have other names."""
    relative = replace(attacks, questions=(Question(r_relative=0.5),))
    first = make_plan(relative, Shelf("cpu"))
    [distance] = first.measured.distances.values()
    monkeypatch.setattr(Shelf, "typical", lambda self, source, spec: distance * (1 + 1e-7))
    again = make_plan(relative, Shelf("cpu"), first.measured)
    elsewhere = make_plan(relative, Shelf("cpu"))
    assert [job.key for job in again.jobs] == [job.key for job in first.jobs]
    assert not {job.key for job in elsewhere.jobs} & {job.key for job in first.jobs}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def _unusable(asked: dict[str, Any], folder: Path) -> list[tuple[dict[str, Any], str]]:
    (folder / "config.json").write_text("{}")
    return [
        (
            {"models": [asked["models"][0], "nowhere"]},
            "expected a model folder with config.json, found none at nowhere",
        ),
        ({"models": str(folder)}, "is not a model's configuration"),
        ({"models": "model.pt"}, "got the pickle model.pt"),
        ({"models": {"factory": "math:sqrt"}}, "the factory math:sqrt failed"),
        ({"data": "faces"}, "digits"),
        (
            {"data": {"data": "digits", "start": 10_000}},
            "expected at least one sample from 10000 on in digits/test, got 297",
        ),
        ({"attack": {"objective": "latent"}, "data": {"data": "digits", "limit": 1}}, "images of 2 labels or more"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_what_cannot_be_used_is_refused_by_the_plan(number: int, asked: dict[str, Any], tmp_path: Path) -> None:
    change, said = _unusable(asked, tmp_path)[number]
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        planned(make_grid({**asked, **change}, "test"))


def test_a_model_is_loaded_once_for_all_its_lines(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaerdict.sweeps import subjects

    loaded: list[ModelSource] = []
    real = subjects.load_model
    monkeypatch.setattr(subjects, "load_model", lambda source: loaded.append(source) or real(source))
    planned(replace(grid, seeds=(0, 1), questions=(Question(r=1.0), Question(r_relative=0.5))))
    assert loaded == list(grid.models)
    assert all(one != other for one, other in itertools.pairwise(loaded))
