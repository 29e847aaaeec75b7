"""Latents of an autoencoder: the codec's numbers, both ways, and what it says when something is missing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from defar_analysis.core.autoencoders import AutoencoderCard, load_autoencoder, save_autoencoder
from defar_analysis.core.codecs import PixelCodec, VAECodec, codec_table, open_codec
from defar_analysis.core.networks.autoencoder import KLAutoencoder
from defar_analysis.core.vae import Autoencoder

IMAGES = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    """A random autoencoder of ours, its heads not at zero."""
    torch.manual_seed(0)
    model = KLAutoencoder(width=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return save_autoencoder(tmp_path / "vae", model, AutoencoderCard("vae", "", {}, scale=2.0, shift=0.5, size=8))


def identity_codec(**settings) -> VAECodec:
    """An autoencoder that changes nothing: what is left is the codec."""
    same = Autoencoder(lambda x: (x, torch.full_like(x, 0.25)), lambda z: z, 3, 3, 1, "0")
    return VAECodec(same, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.18215},
        {"scale": 0.5, "shift": -1.25},
        {"mean": torch.tensor([0.5, 0.0, -2.0])[:, None, None], "std": torch.tensor([2.0, 0.5, 3.0])[:, None, None]},
        {"mean": torch.randn(3, 8, 8), "std": torch.rand(3, 8, 8) + 0.5, "scale": 1.5, "shift": 0.25},
    ],
    ids=["nothing", "scale", "shift", "per channel", "per place"],
)
def test_scale_shift_and_standardisation_invert_to_the_very_byte(settings):
    codec = identity_codec(**settings)
    latents = codec.encode(IMAGES)
    x = PixelCodec().encode(IMAGES)
    mean, std = settings.get("mean", torch.zeros(1)), settings.get("std", torch.ones(1))
    expected = ((x - mean) / std - settings.get("shift", 0.0)) * settings.get("scale", 1.0)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(codec.denormalized(latents), x, atol=2e-6, rtol=1e-5)
    assert torch.equal(codec.decode(latents), IMAGES) and codec.decode(latents).dtype == torch.uint8


def test_samples_are_the_mean_and_the_generators_noise_times_the_deviation():
    codec, noise = identity_codec(scale=2.0), torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    drawn = codec.encode(IMAGES, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(drawn, codec.encode(IMAGES) + 2.0 * 0.25 * noise)
    assert torch.equal(drawn, codec.encode(IMAGES, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(drawn, codec.encode(IMAGES, generator=torch.Generator().manual_seed(6)))


def test_an_image_does_not_depend_on_its_neighbours_or_their_number(folder):
    codec = open_codec({"kind": "vae", "path": "vae", "chunk": 4}, folder.parent)
    latents = codec.encode(IMAGES)
    assert latents.shape == (7, 4, 2, 2)
    for parts in ([1] * 7, [3, 4], [7]):
        assert torch.equal(torch.cat([codec.encode(part) for part in IMAGES.split(parts)]), latents)
        assert torch.equal(torch.cat([codec.decode(part) for part in latents.split(parts)]), codec.decode(latents))
    model = load_autoencoder(folder).model
    mean, logvar = model.encode(PixelCodec().encode(IMAGES))
    torch.testing.assert_close(latents, (mean - 0.5) * 2.0)
    torch.testing.assert_close(codec.moments(IMAGES)[1], (0.5 * logvar).exp())
    assert torch.equal(codec.decode(latents), PixelCodec().decode(model.decode(mean)))


def test_shapes_both_ways(folder, refuses):
    codec = open_codec({"kind": "vae", "path": "vae"}, folder.parent)
    assert codec.latent_shape((3, 32, 24)) == (4, 8, 6) and codec.pixel_shape((4, 8, 6)) == (3, 32, 24)
    assert PixelCodec().pixel_shape((3, 5, 7)) == (3, 5, 7)
    refuses(lambda: codec.pixel_shape((3, 8, 8)), "latents have 4 channels, the network takes 3")
    refuses(lambda: codec.encode(IMAGES[:, :1]), "(1, 8, 8)", "3 channels")
    refuses(lambda: codec.encode(IMAGES[:, :, :6]), "(3, 6, 8)", "multiples of 4")
    refuses(lambda: codec.encode(IMAGES.float()), "float32", "uint8")


def test_what_the_folder_says_holds_until_the_card_says_otherwise(folder):
    sha256 = load_autoencoder(folder).card.sha256
    own = open_codec({"kind": "vae", "path": str(folder)})
    assert (own.scale, own.shift) == (2.0, 0.5)
    given = open_codec({"kind": "vae", "path": "../vae", "scale": 3.0, "shift": 0.0, "sha256": sha256}, folder)
    assert (given.scale, given.shift) == (3.0, 0.0)
    assert own.identity == {"kind": "vae", "sha256": sha256, "scale": 2.0, "shift": 0.5} != given.identity
    table = codec_table({"kind": "vae", "path": "vae"}, own)
    assert table == {"kind": "vae", "path": "vae", "scale": 2.0, "shift": 0.5, "sha256": sha256, "chunk": 16}
    assert open_codec("pixel") == PixelCodec() and codec_table("pixel", PixelCodec()) == "pixel"


def broadcast(part: torch.Tensor) -> torch.Tensor:
    return part.reshape(4, 1, 1) if part.numel() == 4 else part


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 2, 2), (4,)])
def test_statistics_files(folder, ending, shape):
    mean, var = torch.randn(shape), torch.rand(shape) + 0.5
    file = folder.parent / f"stat{ending}"
    for second in ({"std": var.sqrt()}, {"var": var}):
        tensors = {"mean": mean, **second}
        if ending == ".npz":
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
        else:
            (save_file if ending == ".safetensors" else torch.save)(tensors, file)
        codec = open_codec(
            {"kind": "vae", "path": "vae", "statistics": file.name, "shift": 0.0, "scale": 1.0}, folder.parent
        )
        z = torch.randn(2, 4, 2, 2)
        deviation = second["std"] if "std" in second else (var + 1e-5).sqrt()  # RAE's
        torch.testing.assert_close(codec.normalized(z), (z - broadcast(mean)) / broadcast(deviation))
        torch.testing.assert_close(codec.denormalized(codec.normalized(z)), z)


def test_what_is_wrong_is_said_in_one_line(folder, refuses):
    base = folder.parent

    def opened(**settings):
        return lambda: open_codec({"kind": "vae", "path": "vae", **settings}, base)

    refuses(opened(path="none", sha256="abc"), base / "none", "sd-vae-ft-ema", "abc")
    refuses(opened(path="."), "neither card.toml nor config.json", "sd-vae-ft-ema")
    refuses(opened(sha256="ab" * 32), "another autoencoder", "abababababab")
    refuses(opened(kind="vq"), "'vq'", "vae")
    refuses(opened(factor=8), "factor")
    refuses(opened(scale="big"), "scale")
    refuses(opened(scale=0.0), "scale = 0.0", "positive")
    refuses(opened(statistics="none.pt"), base / "none.pt")
    (base / "bad.pt").write_bytes(b"no tensors")
    refuses(opened(statistics="bad.pt"), base / "bad.pt", "mean and std")
    save_file({"mean": torch.zeros(3), "std": torch.ones(3)}, base / "three.safetensors")
    refuses(opened(statistics="three.safetensors"), "(3, 1, 1)", "4 channels")
    refuses(lambda: open_codec("voxel"), "voxel", "pixel")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    refuses(opened(), weights, "corrupt")


def test_an_autoencoder_of_diffusers_by_its_folder(tmp_path, refuses):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "sd-vae-ft-ema")
    codec = open_codec({"kind": "vae", "path": "sd-vae-ft-ema", "chunk": 4}, tmp_path)
    assert (codec.scale, codec.shift) == (0.18215, 0.0) and codec.latent_shape((3, 8, 8)) == (4, 4, 4)
    with torch.no_grad():
        posterior = model.encode(PixelCodec().encode(IMAGES)).latent_dist
        pictures = PixelCodec().decode(model.decode(posterior.mean).sample)
    torch.testing.assert_close(codec.encode(IMAGES), posterior.mean * 0.18215, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codec.moments(IMAGES)[1], posterior.std, atol=1e-5, rtol=1e-4)
    assert (codec.decode(codec.encode(IMAGES)).int() - pictures.int()).abs().max() <= 1
    assert torch.equal(codec.encode(IMAGES[2:3]), codec.encode(IMAGES)[2:3])

    weights = tmp_path / "sd-vae-ft-ema" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refuses(lambda: open_codec({"kind": "vae", "path": "sd-vae-ft-ema"}, tmp_path), weights, "cannot be read")
    weights.rename(weights.with_suffix(".bin"))
    refuses(lambda: open_codec({"kind": "vae", "path": "sd-vae-ft-ema"}, tmp_path), weights, ".safetensors alone")
    weights.with_suffix(".bin").rename(weights)
    (tmp_path / "sd-vae-ft-ema" / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    refuses(lambda: open_codec({"kind": "vae", "path": "sd-vae-ft-ema"}, tmp_path), "VQModel")
