"""Features: extracted once, resumed, shared between processes, bit for bit the same."""

import numpy as np
import pytest
import torch
from quality_inputs import Counted, MeanColours, some_images

from defar_analysis.errors import Interrupted
from defar_analysis.measures.features import FeatureStore, Share, StoredImages

STARTS = [0, 4, 8, 12, 16]


@pytest.fixture
def images():
    return some_images(18)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_features_are_those_of_the_images_in_order(tmp_path, images):
    found = FeatureStore(tmp_path).features(Counted(images), MeanColours())
    expected = MeanColours()(torch.from_numpy(images))
    assert found.pool.shape == (18, 7) and found.pool.dtype == np.float32
    assert same(found, (values.numpy() for values in expected))


def test_nothing_is_extracted_twice(tmp_path, images):
    store, stream, extractor = FeatureStore(tmp_path), Counted(images), MeanColours()
    first = store.features(stream, extractor)
    assert stream.asked == STARTS and extractor.calls == [4] * 5  # the last chunk of two is padded
    second = store.features(stream, extractor)
    assert stream.asked == STARTS and same(first, second)


def test_other_images_or_another_network_are_kept_apart(tmp_path, images):
    store, extractor = FeatureStore(tmp_path), MeanColours()
    store.features(Counted(images), extractor)
    other = Counted(images, name="other")
    store.features(other, extractor)
    again = Counted(images)
    store.features(again, MeanColours(name="another"))
    assert other.asked == again.asked == STARTS


def test_an_interrupted_extraction_goes_on_where_it_was(tmp_path, images):
    class Stops(Counted):
        def images(self, start):
            if start == 8 and not self.asked.count(8):
                self.asked.append(8)
                raise KeyboardInterrupt
            return super().images(start)

    store, stream = FeatureStore(tmp_path), Stops(images)
    with pytest.raises(KeyboardInterrupt):
        store.features(stream, MeanColours())
    assert store.missing(stream, MeanColours()) == [8, 12, 16]
    found = store.features(stream, MeanColours())
    assert stream.asked == [0, 4, 8, 8, 12, 16]
    assert same(found, FeatureStore(tmp_path / "fresh").features(Counted(images), MeanColours()))


def test_a_request_to_stop_keeps_the_chunk_in_work(tmp_path, images):
    import os
    import signal

    class Signals(Counted):
        def images(self, start):
            if start == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().images(start)

    store = FeatureStore(tmp_path)
    with pytest.raises(Interrupted, match="the same command goes on"):
        store.features(Signals(images), MeanColours())
    assert store.missing(Signals(images), MeanColours()) == [8, 12, 16]


def test_several_processes_share_the_chunks_and_the_first_takes_what_is_left(tmp_path, images):
    store = FeatureStore(tmp_path)
    one, zero = Counted(images), Counted(images)
    assert store.features(one, MeanColours(), Share(1, 3)) is None
    assert one.asked == [4, 16]
    found = store.features(zero, MeanColours(), Share(0, 3))
    assert zero.asked == [0, 12, 8]  # its own share, then that of process 2, which never ran
    assert same(found, FeatureStore(tmp_path / "alone").features(Counted(images), MeanColours()))


def test_a_share_counts_from_zero(refuses):
    refuses(lambda: Share(2, 2), "process 2 of 2")


def test_a_damaged_chunk_is_extracted_again_and_said_so(tmp_path, images, capsys):
    store, stream = FeatureStore(tmp_path), Counted(images)
    first = store.features(stream, MeanColours())
    part = store.place(stream, MeanColours()) / "000008.npz"
    part.write_bytes(part.read_bytes()[:-40])
    assert same(store.features(stream, MeanColours()), first)
    assert stream.asked == [*STARTS, 8] and "000008.npz" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_finite_numbers_are_named_and_not_kept(tmp_path, images, value, refuses):
    class Broken(MeanColours):
        def __call__(self, batch):
            found = super().__call__(batch)
            if len(self.calls) == 2:
                found[0][1, 2] = value
            return found

    store, stream = FeatureStore(tmp_path), Counted(images)
    refuses(lambda: store.features(stream, Broken()), stream.name, "images 4 to 7", "no finite numbers")
    assert store.missing(stream, Broken()) == STARTS[1:]


def test_stored_images_are_known_by_their_content_and_choice(images):
    def stored(indices):
        return StoredImages("a", images, "hash", np.array(indices), np.arange(18) % 3, chunk=2)

    stream = stored([5, 1, 7])
    assert stream.count == 3 and stream.labels.tolist() == [2, 1, 1]
    assert np.array_equal(stream.images(0), images[[5, 1]]) and np.array_equal(stream.images(2), images[[7]])
    assert stream.identity != stored([5, 1, 8]).identity and stream.identity == stored([5, 1, 7]).identity


@pytest.mark.parametrize("damage", ["empty", "of other chunks"])
def test_an_empty_chunk_or_one_of_another_size_does_not_count(tmp_path, images, damage, capsys):
    store, stream = FeatureStore(tmp_path), Counted(images)
    first = store.features(stream, MeanColours())
    if damage == "empty":
        (store.place(stream, MeanColours()) / "000004.npz").write_bytes(b"")
    else:
        stream = Counted(images, chunk=6)
    assert same(store.features(stream, MeanColours()), first)
    assert "extracting again" in capsys.readouterr().err


def test_features_of_another_version_are_dropped(tmp_path, images, monkeypatch):
    store, stream = FeatureStore(tmp_path), Counted(images)
    store.features(stream, MeanColours())
    store.features(stream, MeanColours())
    assert stream.asked == STARTS
    monkeypatch.setattr("defar_analysis.measures.features.VERSION", 2)
    store.features(stream, MeanColours())
    assert stream.asked == STARTS * 2
    store.features(stream, MeanColours())
    assert stream.asked == STARTS * 2
