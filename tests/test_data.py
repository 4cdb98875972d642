"""Whatever the source, the same pixels come out, in the declared range, or one sentence says why not."""

import gzip
import inspect
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.toys import isotropic_vae
from vaerdict.data import Images, load_images
from vaerdict.results import array_sha256
from vaerdict.vae import check_images

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

gray = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)).flatmap(lambda s: arrays(np.uint8, s))
colour = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.just(3)).flatmap(
    lambda s: arrays(np.uint8, s)
)
ranges = st.tuples(st.floats(-5, 5, width=16), st.floats(0.125, 8, width=16)).map(lambda t: (t[0], t[0] + t[1]))


def save_npz(folder: Path, **contents: np.ndarray) -> Path:
    path = folder / "set.npz"
    np.savez(path, **contents)
    return path


def save_pngs(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def expected(images: np.ndarray, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """The formula for uint8, in float64 on every pixel, then rounded."""
    channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy((low + channels.astype(np.float64) / 255 * (high - low)).astype(np.float32))


def assert_holds(images: Images, pixels: torch.Tensor) -> None:
    assert torch.equal(images.pixels, pixels)
    assert images.pixels.dtype == torch.float32
    assert images.sha256 == array_sha256(pixels.numpy())


def assert_refused(message: str, spec: str, error: type[Exception] = ValueError, **options: object) -> None:
    """One sentence, whole: no line break, and nothing after the match but what the message itself allows."""
    with pytest.raises(error, match=message) as caught:
        load_images(spec, **options)
    assert "\n" not in str(caught.value)


# --- round trips ---


@settings(max_examples=25, deadline=None)
@given(images=gray)
def test_gray_pixels_are_the_same_from_every_format(
    images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("gray")
    plain, packed = save(folder / "plain", idx_bytes(images)), save(folder / "packed", gzip.compress(idx_bytes(images)))
    specs = (
        f"npz:{save_npz(folder, x=images)}[x]",
        f"folder:{save_pngs(folder / 'png', images)}",
        str(folder / "png"),
        f"idx:{plain}",
        f"idx:{packed}",
    )
    for spec in specs:
        assert_holds(load_images(spec), expected(images))


@settings(max_examples=25, deadline=None)
@given(images=colour)
def test_colour_pixels_are_the_same_from_npz_and_png(
    images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("colour")
    for spec in (f"npz:{save_npz(folder, x=images)}[x]", f"folder:{save_pngs(folder / 'png', images)}"):
        assert_holds(load_images(spec), expected(images))


@pytest.mark.parametrize("channels", [1, 4])
def test_npz_takes_one_and_four_channels(tmp_path: Path, channels: int) -> None:
    images = np.arange(2 * 3 * 5 * channels, dtype=np.uint8).reshape(2, 3, 5, channels)
    assert_holds(load_images(f"npz:{save_npz(tmp_path, x=images)}[x]"), expected(images))


@settings(max_examples=50, deadline=None)
@given(images=gray, input_range=ranges)
def test_uint8_lies_in_the_range_asked_for(
    images: np.ndarray, input_range: tuple[float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save_npz(tmp_path_factory.mktemp("range"), x=images)
    loaded = load_images(f"npz:{path}[x]", input_range=input_range)
    torch.testing.assert_close(loaded.pixels, expected(images, *input_range), rtol=3e-7, atol=1e-6)
    assert loaded.pixels.min() >= input_range[0]
    assert loaded.pixels.max() <= input_range[1]
    assert loaded.input_range == input_range


def test_black_and_white_are_the_ends_of_the_range(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.array([[[0, 255]]], np.uint8))
    assert load_images(f"npz:{path}[x]", input_range=(-1.0, 1.0)).pixels.flatten().tolist() == [-1.0, 1.0]


def test_ends_that_float32_cannot_hold_are_rounded_inwards(tmp_path: Path) -> None:
    vae = isotropic_vae(pixels=2, latent=1)
    vae.input_range = (0.7, 1.1)  # float32(0.7) < 0.7 and float32(1.1) > 1.1
    path = save_npz(tmp_path, x=np.array([[[0, 255]]], np.uint8), y=np.array([[[0.7, 1.1]]], np.float32))
    for name in ("x", "y"):
        check_images(vae, load_images(f"npz:{path}[{name}]", input_range=vae.input_range).pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_pixels_are_taken_as_they_are(tmp_path: Path, dtype: type) -> None:
    values = np.array([[[-1.0, 0.25], [0.5, 1.0]]], dtype)
    loaded = load_images(f"npz:{save_npz(tmp_path, x=values)}[x]", input_range=(-1.0, 1.0))
    assert_holds(loaded, torch.tensor([[[[-1.0, 0.25], [0.5, 1.0]]]]))


def test_the_hash_follows_the_pixels_used(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    hashes = {
        load_images(f"npz:{path}[x]").sha256,
        load_images(f"npz:{path}[x]", limit=1).sha256,
        load_images(f"npz:{path}[x]", start=1).sha256,
        load_images(f"npz:{path}[x]", input_range=(-1.0, 1.0)).sha256,
    }
    assert len(hashes) == 4


# --- labels, selection, names ---


def test_labels_come_along_as_int64(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 2, 2), np.uint8), np.array([7, 8, 9], np.uint8)
    path = save_npz(tmp_path, x=images, y=labels)
    idx = save(tmp_path / "x.idx", idx_bytes(images)), save(tmp_path / "y.idx", gzip.compress(idx_bytes(labels)))
    for spec in (f"npz:{path}[x,y]", f"npz:{path}[x, y]", f"idx:{idx[0]},{idx[1]}"):
        loaded = load_images(spec, start=1)
        assert loaded.labels is not None
        assert loaded.labels.dtype == torch.int64
        assert loaded.labels.tolist() == [8, 9]


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 5), limit=st.none() | st.integers(1, 8))
def test_a_selection_is_a_slice_and_its_ids_name_the_source(
    start: int, limit: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("slice")
    images, labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1), np.arange(6)
    specs = (
        f"npz:{save_npz(folder, x=images, y=labels)}[x,y]",
        f"idx:{save(folder / 'x', idx_bytes(images))},{save(folder / 'y', idx_bytes(labels.astype(np.uint8)))}",
        f"folder:{save_pngs(folder / 'png', images)}",
    )
    for spec in specs:
        loaded = load_images(spec, start=start, limit=limit)
        ids = list(loaded.sample_ids)
        assert ids == list(range(6))[start:][:limit]
        assert_holds(loaded, expected(images)[ids])
        assert loaded.labels is None or loaded.labels.tolist() == ids


def test_split_replaces_its_placeholder(tmp_path: Path) -> None:
    train, test = np.zeros((2, 1, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)
    path = save_npz(tmp_path, train_x=train, test_x=test, train_y=np.zeros(2, int), test_y=np.ones(1, int))
    for split, images in (("train", train), ("test", test)):
        save(tmp_path / f"{split}.idx", idx_bytes(images))
        save(tmp_path / f"{split}-labels.idx", idx_bytes(np.arange(len(images), dtype=np.uint8)))
        for spec in (
            f"npz:{path}[{{split}}_x,{{split}}_y]",
            f"idx:{tmp_path}/{{split}}.idx,{tmp_path}/{{split}}-labels.idx",
        ):
            loaded = load_images(spec, split=split)
            assert_holds(loaded, expected(images))
            assert loaded.labels is not None
            assert split in loaded.name


def test_split_has_no_effect_on_an_npz_that_names_its_arrays(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.zeros((1, 2, 2), np.uint8))
    assert load_images(f"npz:{path}[x]", split="train").sha256 == load_images(f"npz:{path}[x]", split="test").sha256


def test_split_chooses_the_sub_folder(tmp_path: Path) -> None:
    save_pngs(tmp_path / "train", np.zeros((2, 1, 1), np.uint8))
    assert_refused("expected a folder at .*test, found none", str(tmp_path), FileNotFoundError)
    save_pngs(tmp_path / "test", np.full((1, 1, 1), 255, np.uint8))
    assert len(load_images(str(tmp_path), split="train").pixels) == 2
    assert load_images(str(tmp_path), split="test").pixels.tolist() == [[[[1.0]]]]
    assert load_images(str(tmp_path), split="test").name == f"{tmp_path.name}/test"


def test_names_do_not_depend_on_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((1, 1, 1), np.uint8)
    save_npz(tmp_path, x=images)
    save(tmp_path / "x.idx.gz", gzip.compress(idx_bytes(images)))
    save_pngs(tmp_path / "shapes", images)
    monkeypatch.chdir(tmp_path)
    for relative, name in (("npz:{}set.npz[x]", "set/x"), ("idx:{}x.idx.gz", "x.idx"), ("folder:{}shapes", "shapes")):
        assert load_images(relative.format("")).name == load_images(relative.format(f"{tmp_path}/")).name == name


def test_a_folder_ignores_what_is_no_png_and_what_is_hidden(tmp_path: Path) -> None:
    save_pngs(tmp_path, np.arange(2, dtype=np.uint8).reshape(2, 1, 1))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._000.png").write_text("no image")
    (tmp_path / "001.png").rename(tmp_path / "001.PNG")
    assert len(load_images(str(tmp_path)).pixels) == 2


# --- the digits ---


def test_digits_splits_are_disjoint_and_whole() -> None:
    train, test = load_images("digits", split="train"), load_images("digits", split="test")
    assert (len(train.pixels), len(test.pixels)) == (1500, 297)
    assert sorted([*train.sample_ids, *test.sample_ids]) == list(range(1797))
    for images in (train, test):
        assert images.labels is not None
        assert images.pixels.shape[1:] == (1, 8, 8)
        assert (float(images.pixels.min()), float(images.pixels.max())) == (0.0, 1.0)
        assert torch.bincount(images.labels, minlength=10).min() >= len(images.pixels) // 20


def test_digits_are_the_sources_by_their_ids() -> None:
    from sklearn.datasets import load_digits

    digits, loaded = load_digits(), load_images("digits", start=5, limit=7, input_range=(-1.0, 1.0))
    ids = list(loaded.sample_ids)
    assert ids == list(load_images("digits").sample_ids)[5:12]
    assert loaded.labels is not None
    assert loaded.labels.tolist() == digits.target[ids].tolist()
    np.testing.assert_allclose(loaded.pixels[:, 0].numpy(), digits.images[ids] / 8 - 1, atol=1e-7)


def test_digits_never_change() -> None:
    """A frozen hash: a result on the test digits must stay comparable for years."""
    assert load_images("digits").sha256 == "b15086aa94974d26fa3e58fe99656d75c8917cbf28a747601ef7d45846705f04"


# --- refusals: the request ---


def test_an_unknown_spec_lists_the_known_ones(tmp_path: Path) -> None:
    for spec in ("mnist", "digits:8x8", "hdf5:file.h5", "npz:", str(tmp_path / "absent")):
        assert_refused(r"digits; npz:PATH\[IMAGES,LABELS\]; folder:PATH; idx:.*got " + re.escape(repr(spec)), spec)


def test_an_npz_spec_needs_the_name_of_its_images(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.zeros((1, 1, 1), np.uint8))
    for spec in (f"npz:{path}", f"npz:{path}[]", f"npz:{path}[x,y,z]"):
        assert_refused(r"expected npz:PATH\[IMAGES\] or npz:PATH\[IMAGES,LABELS\], got ", spec)


@pytest.mark.parametrize("input_range", [(1.0, 0.0), (0.5, 0.5), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_must_increase(input_range: tuple[float, float]) -> None:
    assert_refused("expected a finite, increasing `input_range`, got ", "digits", input_range=input_range)


def test_a_selection_must_hold_a_sample(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = save_npz(tmp_path, x=np.zeros((0, 2, 2), np.uint8))
    assert_refused("expected at least one sample from 297 on in digits/test, got 297 in all", "digits", start=297)
    assert_refused("expected at least one sample .* got 0 in all", f"npz:{empty}[x]")
    assert_refused("expected at least one sample .* got 0 in all", f"folder:{tmp_path / 'empty'}")
    assert_refused("expected `limit` >= 1 or None, got 0", "digits", limit=0)
    assert_refused("expected `start` >= 0, got -1", "digits", start=-1)


def test_a_split_is_train_or_test() -> None:
    unchecked = inspect.unwrap(load_images)  # past the type checker of the tests, as a user's call would be
    with pytest.raises(ValueError, match="expected `split` train or test, got 'Train'"):
        unchecked("digits", split="Train")


# --- refusals: the files ---


@pytest.mark.parametrize("spec", ["npz:{}/no.npz[x]", "idx:{}/no.idx", "folder:{}/no", "npz:{}[x]", "idx:{}"])
def test_a_missing_file_is_named(tmp_path: Path, spec: str) -> None:
    path = re.escape(re.sub(r"^\w+:|\[x\]$", "", spec).format(tmp_path))
    assert_refused(f"expected a (file|folder) at {path}, found none", spec.format(tmp_path), FileNotFoundError)


@pytest.mark.parametrize("name", ["data.pkl", "data.PT", "model.pth", "data.pickle", "data.joblib", "last.ckpt"])
@pytest.mark.parametrize("spec", ["{}", "npz:{}[x]", "idx:{}"])
def test_pickles_are_refused_unopened(tmp_path: Path, spec: str, name: str) -> None:
    assert_refused(
        rf"expected a file that cannot run code \(npz, safetensors\), got the pickle .*{name}",
        spec.format(tmp_path / name),
    )


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was opened",)


def test_object_arrays_and_disguised_pickles_are_refused(tmp_path: Path) -> None:
    import pickle

    objects = save_npz(tmp_path, x=np.array([Bomb()], dtype=object))
    disguised = save(tmp_path / "disguised.npz", pickle.dumps(Bomb()))
    for path in (objects, disguised):
        assert_refused(r"expected an npz archive of plain arrays \(no pickled objects\) at ", f"npz:{path}[x]")


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    whole = save_npz(tmp_path, x=np.zeros((9, 9, 9), np.uint8)).read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros((1, 1, 1), np.uint8))
    flipped = whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]
    for content in (b"", b"text", whole[:200], flipped, array.getvalue()):
        path = save(tmp_path / "damaged.npz", content)
        assert_refused(f"expected an npz archive of plain arrays .* at {re.escape(str(path))}: ", f"npz:{path}[x]")


def test_a_missing_array_lists_those_there_are(tmp_path: Path) -> None:
    path = save_npz(tmp_path, x=np.zeros((1, 1, 1), np.uint8), y=np.zeros(1))
    for names, missing in (("z", "z"), ("x,z", "z"), ("{split}_x", "test_x")):
        assert_refused(f"expected array `{missing}` in .*set.npz, got x, y$", f"npz:{path}[{names}]")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((1, 1, 1), 1.5), r"expected pixels in \[0.0, 1.0\] in set/x, got \[1.5, 1.5\]"),
        (np.full((1, 1, 1), 1 + 1e-9), r"expected pixels in \[0.0, 1.0\] in set/x, got \[1.000000001"),
        (np.full((1, 1, 1), -0.5, np.float16), r"expected pixels in \[0.0, 1.0\] in set/x, got \[-0.5"),
        (np.full((1, 1, 1), np.nan), "expected finite pixels in set/x, got NaN or infinity"),
        (np.full((1, 1, 1), np.inf), "expected finite pixels in set/x, got NaN or infinity"),
        (np.zeros((1, 1, 1), np.int64), "expected uint8 or float pixels in set/x, got int64"),
        (np.zeros((1, 1, 1), bool), "expected uint8 or float pixels in set/x, got bool"),
        (np.zeros((1, 1, 1), complex), "expected uint8 or float pixels in set/x, got complex128"),
        (np.zeros((), np.uint8), r"expected images \[N, H, W\] or \[N, H, W, C\] in set/x, got shape \(\)"),
        (np.zeros((4, 4), np.uint8), r"expected images .* in set/x, got shape \(4, 4\)"),
        (np.zeros((1, 1, 1, 1, 1), np.uint8), r"expected images .* in set/x, got shape \(1, 1, 1, 1, 1\)"),
        (np.zeros((1, 3, 4, 5), np.uint8), r"expected 1, 3 or 4 channels .* got shape \(1, 3, 4, 5\)"),
        (np.zeros((1, 0, 4), np.uint8), r"expected 1, 3 or 4 channels .* got shape \(1, 0, 4\)"),
        (np.zeros((1, 0, 4)), r"expected 1, 3 or 4 channels .* got shape \(1, 0, 4\)"),
    ],
)
def test_unfit_pixels_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    assert_refused(message, f"npz:{save_npz(tmp_path, x=values)}[x]")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), r"expected labels of shape \(2,\) for set/x, got \(3,\)"),
        (np.zeros((2, 1), int), r"expected labels of shape \(2,\) for set/x, got \(2, 1\)"),
        (np.zeros(2), "expected integer labels for set/x, got float64"),
    ],
)
def test_unfit_labels_are_refused_whatever_is_selected(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    path = save_npz(tmp_path, x=np.zeros((2, 1, 1), np.uint8), y=labels)
    assert_refused(message, f"npz:{path}[x,y]", limit=1)


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    whole = idx_bytes(np.zeros((2, 3, 4), np.uint8))
    packed = gzip.compress(whole)
    cases = {
        "expected an IDX file with magic 00000803 at .*, got nothing": b"",
        "expected an IDX file with magic 00000803 at .*, got 00000801": idx_bytes(np.zeros(2, np.uint8)),
        "expected an IDX file with magic 00000803 at .*, got 00000d03": b"\0\0\x0d" + whole[3:],
        "expected a header of 16 bytes in .*, got 10": whole[:10],
        r"expected 24 values of shape \(2, 3, 4\) in .*, got 23": whole[:-1],
        r"expected 24 values of shape \(2, 3, 4\) in .*, got 25": whole + b"\0",
        "cannot decompress .*: ": packed[:-12],
        "cannot decompress .*damaged.idx: ": packed[:10] + b"\xff" * 8,
    }
    for message, content in cases.items():
        assert_refused(message, f"idx:{save(tmp_path / 'damaged.idx', content)}")


def test_idx_labels_must_match(tmp_path: Path) -> None:
    images = save(tmp_path / "x", idx_bytes(np.zeros((2, 1, 1), np.uint8)))
    labels = save(tmp_path / "y", idx_bytes(np.zeros(3, np.uint8)))
    assert_refused(r"expected labels of shape \(2,\) for x, got \(3,\)", f"idx:{images},{labels}")
    assert_refused("expected an IDX file with magic 00000801", f"idx:{images},{images}")


# --- refusals: PNG files ---


def other_png(folder: Path, image: Image.Image, **options: object) -> str:
    save_pngs(folder, np.zeros((1, 2, 2), np.uint8))
    image.save(folder / "odd.png", **options)
    return str(folder)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_refused(tmp_path: Path, mode: str) -> None:
    assert_refused("without transparency, got .*odd.png", other_png(tmp_path, Image.new(mode, (2, 2))))


def test_a_transparent_colour_is_refused(tmp_path: Path) -> None:
    folder = other_png(tmp_path, Image.new("L", (2, 2)), transparency=0)
    assert_refused("without transparency, got .*odd.png", folder)


@pytest.mark.parametrize("mode", ["P", "1", "I;16"])
def test_other_pixel_modes_are_refused(tmp_path: Path, mode: str) -> None:
    assert_refused(f"grayscale or RGB PNG, got .*odd.png of mode {mode}", other_png(tmp_path, Image.new(mode, (2, 2))))


@pytest.mark.parametrize(("mode", "size", "shape"), [("L", (3, 2), r"\(2, 3\)"), ("RGB", (2, 2), r"\(2, 2, 3\)")])
def test_one_size_and_one_mode(tmp_path: Path, mode: str, size: tuple[int, int], shape: str) -> None:
    message = rf"expected .*odd.png of shape \(2, 2\) like 000.png, got {shape}"
    assert_refused(message, other_png(tmp_path, Image.new(mode, size)))


def test_damaged_pngs_are_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)).save(whole, "png")
    content = whole.getvalue()
    jpeg = io.BytesIO()
    Image.new("L", (2, 2)).save(jpeg, "jpeg")
    broken_chunk = content[:33] + b"\0\0\0\1\1\1\1\1" + content[41:]
    for damaged in (b"", b"text", content[:200], broken_chunk, jpeg.getvalue()):
        save(tmp_path / "damaged.png", damaged)
        assert_refused("cannot read the PNG .*damaged.png: ", str(tmp_path))


# --- the real archives ---


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/data beside the repository")
    return path


@pytest.mark.parametrize(("split", "count"), [("train", 60000), ("test", 10000)])
def test_mnist(split: str, count: int) -> None:
    spec = f"npz:{shared('mnist.npz')}[{{split}}_images,{{split}}_labels]"
    last = load_images(spec, split=split, start=count - 20)
    assert last.pixels.shape == (20, 1, 28, 28)
    assert list(last.sample_ids) == list(range(count - 20, count))
    assert last.labels is not None
    assert set(last.labels.tolist()) <= set(range(10))
    assert float(last.pixels.max()) == 1.0


def test_cifar() -> None:
    spec = f"npz:{shared('cifar10_subset.npz')}[{{split}}_images,{{split}}_labels]"
    images = load_images(spec, limit=10, input_range=(-1.0, 1.0))
    assert images.pixels.shape == (10, 3, 32, 32)
    assert images.pixels.min() >= -1
    assert images.pixels.max() <= 1
    assert images.pixels.min() < -0.5
    assert images.name == "cifar10_subset/test_images"
