"""Sweeps killed at random moments end, when resumed, as one that nobody disturbed."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.sweeps import small

ENGINES = {
    "serial": (),
    "local": ("--engine", "local", "--workers", "2"),
    "ray": ("--engine", "ray", "--workers", "2"),
}
VICTIMS = {"serial": ["command"], "local": ["command", "group", "worker"], "ray": ["command", "group", "worker"]}


@dataclass(frozen=True)
class Case:
    """A grid, the number of its units, and the folder of a sweep of it that nobody disturbed."""

    server: small.Server
    grid: Path
    units: int
    whole: Path

    def sweep(self, out: Path, engine: str, victims: list[str], seed: int) -> None:
        """Sweep, killing one victim after the other; resume where it was the command; wait for the end."""
        chance, command = random.Random(seed), ("sweep", self.grid, "--out", out, *ENGINES[engine])
        run = self.server.start(*command)
        for victim in victims:
            self.wait_a_while(run, out, chance, most=self.units // (len(victims) + 1))
            if victim == "worker":
                self.end_a_worker(run, chance)
            else:
                run.kill(whole_group=victim == "group")
                run.wait(10)
                run.end()
                run = self.server.start(*command)
        assert run.wait() == 0, run.output
        assert f"{self.units} units: {self.units} done (" in run.output

    def end_a_worker(self, run: small.Run, chance: random.Random) -> None:
        """Kill one of the workers, as soon as there are any, unless the command has ended."""
        found = small.until(lambda: run.workers() or run.poll() is not None, 60, "a worker")
        if found is not True:
            small.end(chance.choice(found).pid)

    def wait_a_while(self, run: small.Run, out: Path, chance: random.Random, most: int) -> None:
        """Wait until some units more are done, and then a moment."""
        more, moment = chance.choice([0, chance.randrange(1, most)]), chance.uniform(0, 0.3)
        print(f"kill {moment:.3f} s after {more} units more")
        enough = min(len(small.parts(out)) + more, self.units)
        small.until(lambda: len(small.parts(out)) >= enough or run.poll() is not None, 120, run)
        time.sleep(moment)


@pytest.fixture(scope="module")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Case]]:
    with small.server(tmp_path_factory.mktemp("s")) as server:

        @cache
        def make(seeds: int) -> Case:
            folder, units = tmp_path_factory.mktemp("grid"), 40 * seeds
            grid = small.write_grid(folder / "grid.yaml", models=small.write_models(folder), seeds=[*range(seeds)])
            ended = server.run("sweep", grid, "--out", folder / "whole")
            assert ended == (0, f"{units} units: {units} done ({units} now), 0 failed\n")
            assert len(small.parts(folder / "whole")) == units
            return Case(server, grid, units, folder / "whole")

        yield make


@pytest.mark.parametrize(
    ("engine", "victims"),
    [("serial", ["command"] * 3), ("local", ["command", "group", "worker"]), ("ray", ["command"])],
    ids=[*ENGINES],
)
def test_rows_are_those_of_an_undisturbed_sweep(
    make_case: Callable[[int], Case], tmp_path: Path, engine: str, victims: list[str]
) -> None:
    case = make_case(1)
    case.sweep(tmp_path, engine, victims, seed=0)
    small.assert_same(tmp_path, case.whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("engine", ENGINES)
def test_rows_are_those_of_an_undisturbed_sweep_after_20_rounds(
    make_case: Callable[[int], Case], tmp_path: Path, engine: str, seed: int
) -> None:
    """Four sweeps of 200 units, each killed and resumed five times; a worker's death needs no new command."""
    case = make_case(5)
    case.sweep(tmp_path, engine, [VICTIMS[engine][(seed + turn) % len(VICTIMS[engine])] for turn in range(5)], seed)
    small.assert_same(tmp_path, case.whole)
