"""References: from images, extracted once, and from the statistics files that others write."""

import warnings
import zipfile

import numpy as np
import pytest
import torch
from quality_inputs import MeanColours, some_images

from defar_analysis.core.datasets import ImageDataset
from defar_analysis.measures.features import FeatureStore, StoredImages
from defar_analysis.measures.moments import Moments, QualityWarning
from defar_analysis.measures.protocols import Protocol, protocol
from defar_analysis.measures.references import of_images, open_reference

DIMENSION = 7


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features")


def offline(reference="nowhere", **options):
    return Protocol("p", str(reference), options.pop("count", 10), "effnet-lite0-128", **options)


def colours(images):
    return MeanColours()(torch.from_numpy(images))


def statistics(dimension=DIMENSION, seed=0):
    moments = Moments.of(np.random.default_rng(seed).normal(size=(40, dimension)))
    return {"mu": moments.mean, "sigma": moments.covariance}


def spatial_statistics(dimension=12):
    return {f"{key}_s": value for key, value in statistics(dimension, seed=1).items()}


def written(path, **arrays):
    np.savez(path, **arrays)
    return path


# --- from images ---


def test_a_data_set_gives_equal_shares_of_its_classes(store):
    images, labels = some_images(30), np.repeat(np.arange(3), 10)
    dataset = ImageDataset(images, labels, "thirty")
    found = of_images(dataset, offline(reference_count=15), MeanColours(), store)
    chosen = [*range(5), *range(10, 15), *range(20, 25)]
    expected = colours(images[chosen])
    assert (found.name, found.sha256, found.count) == ("thirty", dataset.hash, 15)
    np.testing.assert_array_equal(found.features, expected.pool.numpy())
    np.testing.assert_allclose(found.pool.mu, expected.pool.double().mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(found.spatial.sigma, np.cov(expected.spatial.double().T), rtol=1e-9, atol=1e-15)


def test_a_data_sets_features_are_extracted_once(store):
    dataset, extractor = ImageDataset(some_images(30)), MeanColours()
    first = of_images(dataset, offline(), extractor, store)
    assert extractor.calls == [64]
    again = of_images(ImageDataset(some_images(30)), offline(), extractor, store)
    assert extractor.calls == [64] and first.count == again.count == 30
    np.testing.assert_array_equal(first.features, again.features)


def test_precision_and_recall_may_take_fewer_images_than_the_statistics(store):
    dataset = ImageDataset(some_images(30))
    found = of_images(dataset, offline(manifold_count=12), MeanColours(), store)
    whole = colours(dataset.images).pool
    np.testing.assert_array_equal(found.features, whole[:12].numpy())
    np.testing.assert_allclose(found.pool.mu, whole.double().mean(dim=0), rtol=1e-12)


def test_precision_and_recall_take_equal_shares_of_a_sorted_data_sets_classes(store):
    images, labels = some_images(30), np.repeat(np.arange(3), 10)
    found = of_images(ImageDataset(images, labels), offline(manifold_count=6), MeanColours(), store)
    np.testing.assert_array_equal(found.features, colours(images[[0, 1, 10, 11, 20, 21]]).pool.numpy())


def test_samples_of_another_size_are_warned_of(store):
    found = of_images(ImageDataset(some_images(30)), offline(), MeanColours(), store)
    same = StoredImages("s", some_images(3), "s", np.arange(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.check_size(same)
    other = StoredImages("s", np.zeros((3, 3, 8, 8), np.uint8), "s", np.arange(3))
    with pytest.warns(QualityWarning, match="s: images are 8 x 8, those of the reference .* 4 x 4"):
        found.check_size(other)


def test_more_reference_images_than_there_are_is_refused_by_name(store, refuses):
    dataset = ImageDataset(some_images(30), name="thirty")
    refuses(lambda: of_images(dataset, offline(reference_count=31), MeanColours(), store), "reference thirty", "31", 30)


def test_an_npz_of_images_is_a_reference(store, tmp_path):
    images = some_images(16)
    file = written(tmp_path / "images.npz", arr_0=images.transpose(0, 2, 3, 1))
    for source in (file, str(file)):
        found = open_reference(offline(), MeanColours(), store, source)
        assert found.count == 16 and found.spatial is not None
        np.testing.assert_array_equal(found.features, colours(images).pool.numpy())


# --- from statistics ---


def test_adms_file_gives_both_gaussians_and_images_for_precision_and_recall(store, tmp_path):
    images = some_images(20)
    arrays = statistics() | spatial_statistics()
    file = written(tmp_path / "adm.npz", **arrays, arr_0=images.transpose(0, 2, 3, 1), arr_1=np.arange(20))
    extractor = MeanColours()
    found = open_reference(offline(), extractor, store, file)
    for gaussian, suffix in ((found.pool, ""), (found.spatial, "_s")):
        np.testing.assert_array_equal(gaussian.mu, arrays[f"mu{suffix}"])
        np.testing.assert_allclose(gaussian.sigma, arrays[f"sigma{suffix}"], rtol=1e-14)
    np.testing.assert_array_equal(found.features, colours(images).pool.numpy())
    assert found.name == "adm.npz" and found.count is None and len(found.sha256) == 64
    open_reference(offline(), extractor, store, file)
    assert extractor.calls == [64]  # kept
    few = open_reference(offline(manifold_count=8), extractor, store, file)
    np.testing.assert_array_equal(few.features, found.features[:8])


def test_the_adm_protocols_find_their_file_under_the_data_root(store, tmp_path):
    images = some_images(9).transpose(0, 2, 3, 1)
    written(tmp_path / "VIRTUAL_imagenet512.npz", **statistics(), **spatial_statistics(), arr_0=images)
    found = open_reference(protocol("adm-imagenet512"), MeanColours(), store, root=tmp_path)
    assert found.name == "VIRTUAL_imagenet512.npz" and len(found.features) == 9


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_files_of_edm_and_pytorch_fid_have_neither_spatial_statistics_nor_images(store, tmp_path, dtype):
    arrays = {key: value.astype(dtype) for key, value in statistics().items()}
    extractor = MeanColours()
    found = open_reference(offline(), extractor, store, written(tmp_path / "edm.npz", **arrays))
    assert found.spatial is None and found.features is None and extractor.calls == []
    assert found.pool.mu.dtype == np.float64
    np.testing.assert_array_equal(found.pool.mu, arrays["mu"])


def test_other_statistics_have_another_identity(store, tmp_path):
    found = {
        open_reference(offline(), MeanColours(), store, written(tmp_path / "a.npz", **statistics(seed=seed))).sha256
        for seed in (0, 0, 1)
    }
    assert len(found) == 2


# --- what is refused ---

WRONG = {
    "size": (statistics(2048), ["mu has shape (2048,)", "mean-colours has 7 features"]),
    "sigma": (statistics() | {"sigma": np.eye(6)}, ["sigma has shape (6, 6)", "mu (7,)"]),
    "diagonal": (statistics() | {"sigma": np.ones(7)}, ["sigma has shape (7,)"]),
    "spatial sigma": (statistics() | spatial_statistics() | {"sigma_s": np.eye(3)}, ["sigma_s has shape (3, 3)"]),
    "NaN": (statistics() | {"mu": np.full(7, np.nan)}, ["NaN"]),
    "infinite": (statistics() | {"sigma": np.full((7, 7), np.inf)}, ["inf"]),
    "not symmetric": (statistics() | {"sigma": np.triu(np.ones((7, 7)))}, ["not symmetric"]),
    "text": (statistics() | {"mu": np.array(["a"] * 7)}, ["<U1"]),
    "float images": (statistics() | {"arr_0": np.zeros((4, 8, 8, 3))}, ["arr_0 is float64 (4, 8, 8, 3)", "uint8"]),
    "channels first": (statistics() | {"arr_0": np.zeros((4, 3, 8, 8), np.uint8)}, ["(4, 3, 8, 8)", "(N, H, W, 3)"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_statistics_that_do_not_fit_are_refused_with_their_file(kind, store, tmp_path, refuses):
    arrays, parts = WRONG[kind]
    file = written(tmp_path / "wrong.npz", **arrays)
    refuses(lambda: open_reference(offline(), MeanColours(), store, file), file, *parts)


def broken(kind, path):
    written(path, **statistics(), arr_0=some_images(9).transpose(0, 2, 3, 1))
    content = path.read_bytes()
    if kind == "text":
        path.write_text("not an archive")
    elif kind == "empty":
        path.touch()
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[:-30])
    elif kind == "pickle":
        written(path, **statistics() | {"mu": np.array([None] * 7, dtype=object)})
    else:  # one byte of sigma, which the archive's checksum tells
        with zipfile.ZipFile(path) as archive:
            at = archive.getinfo("sigma.npy").header_offset + 300
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "pickle", "flipped bit"])
def test_a_broken_file_is_refused(kind, store, tmp_path, refuses):
    file = tmp_path / "broken.npz"
    broken(kind, file)
    refuses(lambda: open_reference(offline(), MeanColours(), store, file), file, "not a readable .npz")


def test_an_absent_file_and_an_unknown_data_set_are_refused(store, tmp_path, refuses):
    file = tmp_path / "gone.npz"
    refuses(lambda: open_reference(offline(), MeanColours(), store, file), f"{file}: no such file")
    refuses(lambda: open_reference(offline(), MeanColours(), store, "imagenet"), "imagenet")


@pytest.mark.parametrize("size, name", [(256, "VIRTUAL_imagenet256_labeled.npz"), (512, "VIRTUAL_imagenet512.npz")])
def test_an_absent_adm_file_says_where_it_belongs_and_where_to_get_it(size, name, store, tmp_path, refuses):
    refuses(
        lambda: open_reference(protocol(f"adm-imagenet{size}"), MeanColours(), store, root=tmp_path),
        tmp_path / name, f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/{size}/",
        "--reference",
    )  # fmt: skip
