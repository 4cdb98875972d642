"""Images in: the embedded digits, npz archives, folders of PNG files and IDX files, as float32 `[N, C, H, W]`.

Whatever the source, pixels lie in the declared `input_range` and carry the SHA-256 of exactly what was used.
Pickles are never opened.
"""

import gzip
import hashlib
import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vaerdict.options import refuse_pickle
from vaerdict.results import array_sha256

Split = Literal["train", "test"]
SPECS = ("digits", "npz:PATH[IMAGES,LABELS]", "folder:PATH", "idx:IMAGES_FILE,LABELS_FILE")
"""The forms of a spec; labels are optional, and `{split}` stands for the split in npz and idx specs."""

_CHANNELS = (1, 3, 4)
_DIGITS_TRAIN = 1500
_BROKEN = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy and gzip raise on a damaged file or one that holds pickles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images of one selection, ready for a model whose `input_range` is the one given here.

    `sample_ids` are the samples' indices in their source, so that a row names the sample whatever the selection;
    `sha256` is `results.array_sha256` of `pixels`.
    """

    pixels: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    name: str
    sha256: str
    input_range: tuple[float, float]
    sample_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The selected samples as their source holds them: `[N, H, W]` or `[N, H, W, C]`, uint8 in 0..`top` or float."""

    values: np.ndarray
    labels: np.ndarray | None
    name: str
    sample_ids: Sequence[int]
    top: int = 255


def load_images(
    spec: str,
    *,
    split: Split = "test",
    input_range: tuple[float, float] = (0.0, 1.0),
    limit: int | None = None,
    start: int = 0,
) -> Images:
    """Read images as float32 `[N, C, H, W]` with pixels in `input_range`.

    Integer pixels `v` of `0..top` become `low + v / top * (high - low)`; float pixels must lie in the range already.

    Args:
        spec: `digits` (scikit-learn's 8x8 digits, 1500 train and 297 test), `npz:PATH[IMAGES,LABELS]` (arrays
            `[N, H, W]` or `[N, H, W, C]`), `folder:PATH` or a folder's path (PNG files in the order of their names),
            or `idx:IMAGES_FILE,LABELS_FILE` (MNIST's format, gzip or not). Labels are optional in npz and idx.
        split: Chooses the digits, and a folder's sub-folder `train` or `test` where it has any; it replaces `{split}`
            in npz and idx specs, and has no effect on those without it.
        input_range: Lowest and highest pixel of the result.
        limit: Most samples to give; None for all.
        start: Index of the first sample, within the split.

    Raises:
        FileNotFoundError: the file or folder is not there.
        ValueError: the spec, the selection, the range or the file's content is not as described.

    >>> images = load_images("digits", limit=2)
    >>> images.pixels.shape, images.labels
    (torch.Size([2, 1, 8, 8]), tensor([4, 3]))
    """
    _check_request(split, input_range, limit, start)
    source = _read(spec, split, slice(start, None if limit is None else start + limit))
    pixels = _channels_first(_encode(source, input_range), source.name)
    return Images(
        pixels=torch.from_numpy(pixels),
        labels=None if source.labels is None else torch.from_numpy(source.labels),
        name=source.name,
        sha256=array_sha256(pixels),
        input_range=input_range,
        sample_ids=source.sample_ids,
    )


def _check_request(split: str, input_range: tuple[float, float], limit: int | None, start: int) -> None:
    if split not in get_args(Split):
        raise ValueError(f"expected `split` train or test, got {split!r}")
    low, high = input_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected a finite, increasing `input_range`, got {input_range}")
    if start < 0:
        raise ValueError(f"expected `start` >= 0, got {start}")
    if limit is not None and limit < 1:
        raise ValueError(f"expected `limit` >= 1 or None, got {limit}")


def _read(spec: str, split: str, window: slice) -> _Source:
    scheme, _, location = spec.partition(":")
    if spec == "digits":
        return _read_digits(split, window)
    if scheme == "npz" and location:
        return _read_npz(location.replace("{split}", split), window)
    if scheme == "idx" and location:
        return _read_idx(location.replace("{split}", split), window)
    if scheme == "folder" and location:
        return _read_folder(Path(location), split, window)
    if Path(spec).is_dir():
        return _read_folder(Path(spec), split, window)
    refuse_pickle(Path(spec))
    raise ValueError(f"expected images as one of {'; '.join(SPECS)}; got {spec!r}")


def _read_digits(split: str, window: slice) -> _Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Ordered by hashes, not by a generator: no release of numpy can change who is in the test set.
    order = sorted(range(len(digits.images)), key=lambda i: hashlib.sha256(f"digits/{i}".encode()).digest())
    members = order[:_DIGITS_TRAIN] if split == "train" else order[_DIGITS_TRAIN:]
    _select(len(members), window, f"digits/{split}")
    ids = members[window]
    return _Source(
        values=digits.images[ids].astype(np.uint8),
        labels=digits.target[ids].astype(np.int64),
        name=f"digits/{split}",
        sample_ids=ids,
        top=16,
    )


def _read_npz(location: str, window: slice) -> _Source:
    form = re.fullmatch(r"(.+)\[([^,\[\]]+)(?:,([^,\[\]]+))?\]", location)
    if form is None:
        raise ValueError(f"expected npz:PATH[IMAGES] or npz:PATH[IMAGES,LABELS], got 'npz:{location}'")
    path, images, labels = Path(form[1]), form[2].strip(), form[3]
    arrays = _npz_arrays(path, [images] if labels is None else [images, labels.strip()])
    return _sliced(arrays, f"{path.stem}/{images}", window)


def _npz_arrays(path: Path, names: list[str]) -> list[np.ndarray]:
    _check_file(path)
    try:
        with path.open("rb") as file:  # opened here, because numpy leaves it open when the archive is damaged
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            held = archive.files
            missing = [name for name in names if name not in held]
            arrays = [] if missing else [np.asarray(archive[name]) for name in names]
    except _BROKEN as error:
        raise ValueError(f"expected an npz archive of plain arrays (no pickled objects) at {path}: {error}") from None
    if missing:
        raise ValueError(f"expected array `{missing[0]}` in {path}, got {', '.join(held) or 'no arrays'}")
    return arrays


def _read_idx(location: str, window: slice) -> _Source:
    images, comma, labels = location.partition(",")
    arrays = [_idx_array(Path(images.strip()), rank=3)]
    if comma:
        arrays.append(_idx_array(Path(labels.strip()), rank=1))
    return _sliced(arrays, Path(images.strip()).name.removesuffix(".gz"), window)


def _idx_array(path: Path, *, rank: int) -> np.ndarray:
    """Give the bytes of an IDX file: zero, zero, type 8 (uint8), rank, big-endian sizes, then the values."""
    content = _file_bytes(path)
    magic, header = bytes((0, 0, 8, rank)), 4 + 4 * rank
    if content[:4] != magic:
        raise ValueError(
            f"expected an IDX file with magic {magic.hex()} at {path}, got {content[:4].hex() or 'nothing'}"
        )
    if len(content) < header:
        raise ValueError(f"expected a header of {header} bytes in {path}, got {len(content)}")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if len(content) - header != math.prod(shape):
        raise ValueError(f"expected {math.prod(shape)} values of shape {shape} in {path}, got {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _file_bytes(path: Path) -> bytes:
    _check_file(path)
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except _BROKEN as error:
        raise ValueError(f"cannot decompress {path}: {error}") from None


def _sliced(arrays: list[np.ndarray], name: str, window: slice) -> _Source:
    """Cut a window out of an array of images and, where given, one of labels, once their sizes agree."""
    images = arrays[0]
    if images.ndim not in (3, 4):
        raise ValueError(f"expected images [N, H, W] or [N, H, W, C] in {name}, got shape {images.shape}")
    ids = _select(len(images), window, name)
    labels = _checked_labels(arrays[1], len(images), name)[window] if len(arrays) > 1 else None
    return _Source(values=images[window], labels=labels, name=name, sample_ids=ids)


def _checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    if labels.shape != (count,):
        raise ValueError(f"expected labels of shape ({count},) for {name}, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels for {name}, got {labels.dtype}")
    return labels.astype(np.int64)


def _read_folder(root: Path, split: str, window: slice) -> _Source:
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder at {root}, found none")
    name = root.resolve().name
    if any((root / part).is_dir() for part in get_args(Split)):
        root, name = root / split, f"{name}/{split}"
        if not root.is_dir():
            raise FileNotFoundError(f"expected a folder at {root}, found none beside the other split's")
    paths = sorted(p for p in root.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
    ids = _select(len(paths), window, str(root))
    return _Source(values=_read_pngs(paths[window]), labels=None, name=name, sample_ids=ids)


def _read_pngs(paths: list[Path]) -> np.ndarray:
    images = []
    for path in paths:
        images.append(_read_png(path))
        if images[-1].shape != images[0].shape:
            raise ValueError(f"expected {path} of shape {images[0].shape} like {paths[0].name}, got {images[-1].shape}")
    return np.stack(images)


def _read_png(path: Path) -> np.ndarray:
    """Give one PNG's pixels, uint8 `[H, W]` or `[H, W, 3]`."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, transparent, pixels = image.mode, image.has_transparency_data, np.array(image)
    except (*_BROKEN, SyntaxError) as error:  # Pillow's word for a broken chunk
        raise ValueError(f"cannot read the PNG {path}: {error}") from None
    if transparent:
        raise ValueError(f"expected a PNG without transparency, got {path} with an alpha channel")
    if mode not in ("L", "RGB"):
        raise ValueError(f"expected an 8-bit grayscale or RGB PNG, got {path} of mode {mode}")
    return pixels


def _select(count: int, window: slice, name: str) -> range:
    ids = range(count)[window]
    if not ids:
        raise ValueError(f"expected at least one sample from {window.start} on in {name}, got {count} in all")
    return ids


def _check_file(path: Path) -> None:
    refuse_pickle(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file at {path}, found none")


def _encode(source: _Source, input_range: tuple[float, float]) -> np.ndarray:
    """Give float32 values of the source's shape, in `input_range`."""
    (low, high), values = input_range, source.values
    if values.dtype == np.uint8:
        levels = low + np.arange(source.top + 1) / source.top * (high - low)
        return _float32_inside(levels, low, high)[values]
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"expected uint8 or float pixels in {source.name}, got {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite pixels in {source.name}, got NaN or infinity")
    _check_inside(values, low, high, source.name)
    return _float32_inside(values, low, high)


def _check_inside(values: np.ndarray, low: float, high: float, name: str) -> None:
    if not values.size:
        return
    least, most = float(values.min()), float(values.max())
    # A float32 source can hold an end of the range only as float32 rounds it.
    if least < min(low, float(np.float32(low))) or most > max(high, float(np.float32(high))):
        raise ValueError(f"expected pixels in [{low}, {high}] in {name}, got [{least}, {most}]")


def _float32_inside(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Round to float32 without leaving the range, whose ends need not be float32 numbers."""
    least, most = np.float32(low), np.float32(high)
    if float(least) < low:
        least = np.nextafter(least, most)
    if float(most) > high:
        most = np.nextafter(most, least)
    return np.clip(values.astype(np.float32), least, most)


def _channels_first(values: np.ndarray, name: str) -> np.ndarray:
    """Turn `[N, H, W]` or `[N, H, W, C]` into contiguous `[N, C, H, W]`."""
    images = values[..., None] if values.ndim == 3 else values
    if images.shape[3] not in _CHANNELS or 0 in images.shape:
        raise ValueError(f"expected 1, 3 or 4 channels of at least one pixel in {name}, got shape {values.shape}")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
