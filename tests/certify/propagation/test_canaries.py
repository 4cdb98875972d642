import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

from vaerdict.certify.propagation import METHODS, BoundedMap, canaries, unavailable
from vaerdict.certify.propagation.backend import propagate
from vaerdict.certify.propagation.canaries import failed_canary
from vaerdict.certify.propagation.compatibility import found_version, session
from vaerdict.lipschitz import NoSoundBound

installed = pytest.mark.skipif(unavailable() is not None, reason=f"bound propagation is off: {unavailable()}")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget what the canaries said, before and after."""
    unavailable.cache_clear()
    failed_canary.cache_clear()
    yield
    unavailable.cache_clear()
    failed_canary.cache_clear()


@installed
@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes(method: str) -> None:
    assert failed_canary(method) is None


@installed
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("share", [0.97, 1.001])
def test_a_wrong_backend_is_switched_off_with_a_reason(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    def scaled(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
        lower, upper = propagate(*given)
        middle, half = (lower + upper) / 2, share * (upper - lower) / 2
        return middle - half, middle + half

    monkeypatch.setattr(canaries, "propagate", scaled)
    reason = unavailable()
    assert reason is not None
    assert "IBP, fails on a linear map" in reason
    with pytest.raises(NoSoundBound, match="fails on a linear map"):
        BoundedMap(torch.nn.Linear(2, 2), (2,))


@installed
@pytest.mark.usefixtures("fresh")
def test_bounds_that_are_wrong_for_curves_or_kinks_only_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(network: torch.nn.Module, *given: object) -> tuple[torch.Tensor, torch.Tensor]:
        lower, upper = propagate(network, *given)
        if isinstance(network, torch.nn.Linear):
            return lower, upper
        return lower + 0.4 * (upper - lower), upper

    monkeypatch.setattr(canaries, "propagate", narrow)
    assert "CROWN, fails on an exponential: a point of the region is outside its bounds" in str(failed_canary("CROWN"))
    monkeypatch.setattr(canaries, "_exponential", lambda method: None)
    assert "Forward, fails on a kinked map: a point of the region is outside" in str(failed_canary("Forward"))


@pytest.mark.usefixtures("fresh")
def test_its_absence_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "found_version", lambda: None)
    assert "not installed" in str(unavailable())
    with pytest.raises(NoSoundBound, match="not installed"):
        BoundedMap(torch.nn.Linear(2, 2), (2,))


@pytest.mark.usefixtures("fresh")
def test_a_broken_installation_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("No module named 'graphviz'")

    monkeypatch.setattr(canaries, "found_version", lambda: "9.9")
    monkeypatch.setattr(canaries, "session", broken)
    assert unavailable() == "auto_LiRPA 9.9 cannot be imported: ImportError: No module named 'graphviz'"


@installed
def test_a_session_leaves_the_process_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        return (
            list(warnings.filters),
            list(logging.getLogger().handlers),
            torch.get_default_dtype(),
            "numpy.lib.arraysetops" in sys.modules,
            hasattr(torch._C.Node, "__getitem__"),
            sys.stdout,
        )

    before = state()
    with session():
        propagate(torch.nn.Linear(2, 1).double(), _ball(), "CROWN")
    assert state() == before


def _ball() -> object:
    from vaerdict.certify.propagation.regions import make_region

    return make_region(torch.zeros(1, 2), 1.0, "2")


def test_importing_the_package_does_not_import_the_library() -> None:
    code = "import sys, vaerdict.certify.propagation; print('auto_LiRPA' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "False"


@installed
def test_the_version_is_the_library_s_own() -> None:
    with session() as library:
        assert library.__version__ == found_version()
