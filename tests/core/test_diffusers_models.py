"""Networks of diffusers as velocity fields, where the package is installed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from defar_analysis.core.cards import CARD, WEIGHTS
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.foreign.importing import import_model
from defar_analysis.core.foreign.options import ImportOptions

diffusers = pytest.importorskip("diffusers")

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T, LABELS = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([1, 10, 3])


@pytest.fixture
def transformer(tmp_path):
    """Stable Diffusion 3's transformer, tiny and random, and its folder."""
    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=16, caption_projection_dim=32, pooled_projection_dim=12,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "sd3")
    return network, tmp_path / "sd3"


@pytest.fixture
def labelled(tmp_path):
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(network.proj_out_2.weight)
    network.save_pretrained(tmp_path / "dit")
    return network, tmp_path / "dit"


@torch.no_grad()
def test_a_flow_matching_transformer_with_one_prompt_for_all_images(transformer, tmp_path):
    network, folder = transformer
    prompt = {"encoder_hidden_states": torch.randn(5, 16), "pooled_projections": torch.randn(12)}
    save_file(prompt, tmp_path / "prompt.safetensors")
    said = import_model(folder, tmp_path / "ours", ImportOptions(constants=tmp_path / "prompt.safetensors"))
    checkpoint = load_checkpoint(tmp_path / "ours")
    repeated = {name: value[None].expand(3, *value.shape) for name, value in prompt.items()}
    theirs = network(X, timestep=1000 * (1 - T), **repeated).sample
    torch.testing.assert_close(checkpoint.model(X, T), -theirs)
    assert theirs.abs().max() > 0.1 and checkpoint.classes is None and checkpoint.shape == (4, 8, 8)
    assert "SD3Transformer2DModel" in said[0]


@torch.no_grad()
def test_labels_are_passed_and_further_channels_cut_off(labelled, tmp_path, refuses):
    network, folder = labelled
    refuses(lambda: import_model(folder, tmp_path / "ours"), "--family diffusers")
    import_model(folder, tmp_path / "ours", ImportOptions(family="diffusers"))
    checkpoint = load_checkpoint(tmp_path / "ours")
    theirs = network(X, 1000 * (1 - T), LABELS).sample[:, :4]
    torch.testing.assert_close(checkpoint.model(X, T, LABELS), -theirs)
    torch.testing.assert_close(checkpoint.model(X[1:2], T[1:2]), -theirs[1:2])  # label 10: none
    assert checkpoint.classes == 10


def test_what_does_not_fit_is_refused_and_nothing_is_written(transformer, tmp_path, refuses):
    _, folder = transformer
    refuses(lambda: import_model(folder, tmp_path / "ours"), "--constants", "encoder_hidden_states")
    save_file({"encoder_hidden_states": torch.ones(5, 16), "prompt": torch.ones(1)}, tmp_path / "p.safetensors")
    refuses(
        lambda: import_model(folder, tmp_path / "ours", ImportOptions(constants=tmp_path / "p.safetensors")), "prompt"
    )
    whole = json.loads((folder / "config.json").read_text())
    prompt = {"encoder_hidden_states": torch.randn(5, 16), "pooled_projections": torch.randn(12)}
    save_file(prompt, tmp_path / "prompt.safetensors")
    for changed in (
        {"_class_name": "AutoencoderKL"}, {"_class_name": 3}, {"num_layers": 3}, {"num_layers": 10**9},
        {"joint_attention_dim": 17}, {"surprise": 1}, {"num_layers": "many"}, {"num_layers": None},
    ):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**whole, **changed}))
        refuses(
            lambda: import_model(folder, tmp_path / "ours", ImportOptions(constants=tmp_path / "prompt.safetensors")),
            folder,
        )
    for text in ("", "[]", "{", '{"a": ' * 3000):
        (folder / "config.json").write_text(text)
        refuses(lambda: import_model(folder, tmp_path / "ours"), folder)
    (folder / "config.json").unlink()
    refuses(lambda: import_model(folder, tmp_path / "ours"), folder, "config.json")
    assert not (tmp_path / "ours").exists()


def test_a_card_may_not_name_any_class(labelled, tmp_path, refuses):
    import_model(labelled[1], tmp_path / "ours", ImportOptions(family="diffusers"))
    card = tmp_path / "ours" / CARD
    text = card.read_text()
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == [CARD, WEIGHTS]
    for new in ("diffusers:AutoencoderKL", "diffusers:__builtins__", "diffusers:"):
        card.write_text(text.replace("diffusers:DiTTransformer2DModel", new, 1))
        refuses(lambda: load_checkpoint(tmp_path / "ours"), new.partition(":")[2], "known")
    card.write_text(text.replace("num_layers = 1", "num_layers = 100000"))
    refuses(lambda: load_checkpoint(tmp_path / "ours"), "num_layers")


def test_a_codec_rides_with_the_card_and_its_path_is_seen_from_there(tmp_path, fixture_path, refuses):
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "codecs" / "vae")
    (tmp_path / "codecs" / "sd.toml").write_text('[codec]\nkind = "vae"\npath = "vae"\nscale = 0.5\n')
    asked = ImportOptions(family="sit", settings={"num_heads": 2}, codec=tmp_path / "codecs" / "sd.toml")
    import_model(fixture_path("sit_plain.safetensors"), tmp_path / "deep" / "ours", asked)
    checkpoint = load_checkpoint(tmp_path / "deep" / "ours")
    assert checkpoint.shape == (4, 4, 4) and checkpoint.pixel_shape == (3, 8, 8)
    assert checkpoint.card.codec["path"] == "../../codecs/vae" and checkpoint.codec.scale == 0.5
    other = fixture_path("lightningdit.safetensors")  # of six channels
    refuses(lambda: import_model(other, tmp_path / "no", ImportOptions(codec=asked.codec)), "sd.toml", "4 channels")
    assert not (tmp_path / "no").exists()
