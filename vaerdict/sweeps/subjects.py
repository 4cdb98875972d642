"""Models and images as options name them, loaded and put together with a question."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from vaerdict.data import Images, Split, load_images
from vaerdict.models import GaussianVAE, load_vae, median_distance, vae_from_factory
from vaerdict.options import DataOptions, ModelSource, Question, require
from vaerdict.sweeps.units import Subject
from vaerdict.vae import fingerprint

SCALE_IMAGES = 1000
"""How many test images the typical distance between reconstructions is taken from."""


def check_device(device: str) -> str:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch does not know the device or cannot use it.

    >>> check_device("cpu")
    'cpu'
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"expected a usable torch device, got {device!r}: {str(error).splitlines()[0][:100]}"
        ) from None
    return device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work with so many threads, torch's and those of other libraries; then as before.

    Sums are rounded differently by their number.
    """
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def load_model(source: ModelSource) -> GaussianVAE:
    """Read a checkpoint or call a factory; see `load_vae` and `vae_from_factory` for the errors."""
    if source.model is not None:
        return load_vae(Path(source.model))
    assert source.factory is not None
    return vae_from_factory(source.factory, None if source.weights is None else Path(source.weights))


def choose_images(data: DataOptions, split: Split, pixel_range: tuple[float, float]) -> Images:
    """Load the chosen images of a source."""
    return load_images(data.data, split=split, input_range=pixel_range, limit=data.limit, start=data.start)


def images_for(data: DataOptions, vae: GaussianVAE) -> Images:
    """Load the chosen test images of a source for a model.

    Raises:
        ValueError: they have another shape than the model's.
    """
    images = choose_images(data, "test", vae.input_range)
    shape = tuple(images.pixels.shape[1:])
    require(shape == vae.input_shape, f"images of shape {vae.input_shape} for {vae.name}", f"{shape} in {images.name}")
    return images


def make_subject(vae: GaussianVAE, spec: str, images: Images, question: Question, seed: int, device: str) -> Subject:
    """Put model, images and question together.

    Where `r_relative` is given, `r` is its share of the median distance between the reconstructions of the first test
    images of the source `spec`, whichever of its images are chosen: certificates and attacks ask the same question.
    """
    r = question.r
    if r is None:
        assert question.r_relative is not None
        r = question.r_relative * typical_distance(vae, spec, device)
    return Subject(vae=vae, images=images, r=r, r_relative=question.r_relative, p=question.p, seed=seed, device=device)


def typical_distance(vae: GaussianVAE, spec: str, device: str) -> float:
    """Give the median distance between the reconstructions of the first test images of a source, in pixel units.

    On one thread, so that `r` is the same number whoever asks.
    """
    typical = load_images(spec, split="test", input_range=vae.input_range, limit=SCALE_IMAGES)
    with threads(1):
        return median_distance(vae, typical.pixels.to(device))


class Shelf:
    """The model at hand with what belongs to it; one at a time, as the next may need the memory.

    Args:
        device: where models go.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._source: ModelSource | None = None
        self._vae: GaussianVAE | None = None
        self._sha256 = ""
        self._images: dict[DataOptions, Images] = {}
        self._typical: dict[str, float] = {}

    def model(self, source: ModelSource) -> GaussianVAE:
        """Give a model, on the device."""
        if self._vae is None or source != self._source:
            self._vae, self._images, self._typical = None, {}, {}  # before the next one comes
            self._vae, self._source = load_model(source).to(self.device), source
            self._sha256 = fingerprint(self._vae)
        return self._vae

    def clear(self) -> None:
        """Put everything away."""
        self._vae, self._images, self._typical = None, {}, {}
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def sha256(self, source: ModelSource) -> str:
        """Give the fingerprint of a model."""
        self.model(source)
        return self._sha256

    def images(self, source: ModelSource, data: DataOptions) -> Images:
        """Give the chosen images for a model."""
        vae = self.model(source)
        if data not in self._images:
            self._images[data] = images_for(data, vae)
        return self._images[data]

    def typical(self, source: ModelSource, spec: str) -> float:
        """Give the typical distance between a model's reconstructions of a source of images, in pixel units."""
        vae = self.model(source)
        if spec not in self._typical:
            self._typical[spec] = typical_distance(vae, spec, self.device)
        return self._typical[spec]
