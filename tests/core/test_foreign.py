"""Other projects' files, in every layout they are published in, give the recorded outputs in our clock and sign."""

import argparse
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from defar_analysis.core.cards import WEIGHTS
from defar_analysis.core.checkpoints import load_checkpoint, tensors_digest
from defar_analysis.core.foreign.importing import import_model
from defar_analysis.core.foreign.options import ImportOptions
from defar_analysis.core.networks.sit import sincos_position_embedding

ASKED = {
    "sit_plain": ImportOptions(family="sit", settings={"num_heads": 2}),
    "sit_learn_sigma": ImportOptions(family="sit", settings={"num_heads": 4}),
    "repa_sit_plain": ImportOptions(settings={"num_heads": 4}),
    "ddt_square": ImportOptions(settings={"patch_size": 2, "encoder_depth": 2}, input_size=8),
    "rae_ditdh": ImportOptions(),
    "lightningdit": ImportOptions(),
    "torchcfm_unet": ImportOptions(family="unet", settings={"head_width": 16}, input_size=8),
}
TURNED = ("repa_sit_plain", "rae_ditdh")
TOLERANCE = {"sit_plain": 2e-5, "sit_learn_sigma": 2e-5, "repa_sit_plain": 2e-5, "torchcfm_unet": 1e-4}

each_fixture = pytest.mark.parametrize("name", ASKED)


@pytest.fixture
def weights_of(fixture_path, recorded):
    """The recorded state dict of a fixture, under its project's names."""

    def load(name):
        if name != "torchcfm_unet":
            return load_file(fixture_path(f"{name}.safetensors"))
        numbers = recorded("torchcfm_unet.npz")
        names = [key[2:] for key in numbers if key.startswith("k.")]
        return {
            key: torch.from_numpy(numbers[f"k.{key}"].astype("float32") * numbers[f"scale.{key}"]).float()
            + torch.from_numpy(numbers[f"offset.{key}"]).float()
            for key in names
        }

    return load


@pytest.fixture
def brought(tmp_path, recorded):
    """brought(content, name): the checkpoint that a file with that content becomes, compared with the fixture's
    recorded output; and the lines that were said."""

    def run(content, name, asked=None, suffix=".pt", compare=True):
        file = tmp_path / f"theirs{suffix}"
        save_file(content, file) if suffix == ".safetensors" else torch.save(content, file)
        asked = asked or ASKED[name]
        said = import_model(file, tmp_path / "ours", asked)
        checkpoint = load_checkpoint(tmp_path / "ours", weights=asked.weights)
        if compare:
            io = recorded("torchcfm_unet.npz" if name == "torchcfm_unet" else f"{name}_io.npz")
            x, t, out = (torch.from_numpy(io[key]) for key in ("x", "t", "out"))
            t, expected = (1 - t, -out) if name in TURNED else (t, out)
            labels = torch.from_numpy(io["y"]) if "y" in io else None
            velocity = checkpoint.model(x, t, labels)
            torch.testing.assert_close(velocity, expected, rtol=0, atol=TOLERANCE.get(name, 5e-5))
        return checkpoint, said

    return run


def shaken(tensors):
    return {name: tensor + 0.5 for name, tensor in tensors.items()}


@each_fixture
def test_recorded_outputs_in_our_clock(name, weights_of, brought):
    checkpoint, said = brought(weights_of(name), name, suffix=".safetensors")
    assert len(said) >= 2 and "ema" in said[0]
    source = checkpoint.card.source
    assert source["family"] == {"torchcfm_unet": "unet"}.get(name, name.split("_")[0])
    assert source["entry"] == "bare" and source["file"] == "theirs.safetensors" and len(source["sha256"]) == 64


@each_fixture
def test_the_averaged_weights_of_a_training_file_are_taken(name, weights_of, brought, tmp_path):
    """With the layout of each project, EMA beside raw, and whatever wraps the names."""
    plain = weights_of(name)
    if name == "ddt_square":
        content = {
            "state_dict": {
                **{f"ema_denoiser._orig_mod.{key}": value for key, value in plain.items()},
                **{f"denoiser._orig_mod.{key}": value for key, value in shaken(plain).items()},
                "diffusion_trainer.proj.0.0.weight": torch.ones(2, 2),
            },
            "epoch": 3, "optimizer_states": [{"state": {0: torch.ones(3)}}],
        }  # fmt: skip
        entries = ("ema_denoiser", "denoiser")
    elif name == "torchcfm_unet":
        wrapped = {f"module.{key}": value for key, value in plain.items()}
        content = {"net_model": shaken(wrapped), "ema_model": wrapped, "sched": {}, "optim": {}, "step": 1173}
        entries = ("ema_model", "net_model")
    else:
        raw = {f"module.{key}": value for key, value in shaken(plain).items()}
        content = {"model": raw, "ema": plain, "opt": {"lr": 1e-4}, "args": argparse.Namespace(model="SiT-XL/2")}
        entries = ("ema", "model")
    checkpoint, said = brought(content, name, replace(ASKED[name], family="sit" if "sit_" in name[:4] else None))
    assert checkpoint.card.source["entry"] == entries[0] and f"{entries[0]!r} (not {entries[1]!r})" in said[0]
    digests = {key: checkpoint.card.source[f"{key}_digest"] for key in ("ema", "raw")}
    assert digests["ema"] == tensors_digest(load_file(tmp_path / "ours" / WEIGHTS)) != digests["raw"]
    other, _ = brought(content, name, replace(ASKED[name], weights="raw"), compare=False)
    assert other.card.weights == "raw" and other.card.source["entry"] == entries[1]
    assert tensors_digest(load_file(tmp_path / "ours" / WEIGHTS)) == digests["raw"]
    assert {key: other.card.source[f"{key}_digest"] for key in ("ema", "raw")} == digests
    assert (name != "ddt_square") or any("diffusion_trainer" in line for line in said)


def test_a_raw_training_file_says_that_it_has_no_average(weights_of, brought, refuses):
    content = {"model": weights_of("sit_plain")}
    refuses(lambda: brought(content, "sit_plain"), "no ema", "'model'", "--weights raw")
    checkpoint, _ = brought(content, "sit_plain", replace(ASKED["sit_plain"], weights="raw"))
    assert checkpoint.card.source.keys() & {"ema_digest", "raw_digest"} == {"raw_digest"}


def test_every_way_torch_writes_a_file(weights_of, brought, tmp_path):
    plain = weights_of("sit_plain")
    for suffix in (".pt", ".pth", ".ckpt", ".bin"):
        brought(plain, "sit_plain", suffix=suffix)
    torch.save({"ema": plain}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    import_model(tmp_path / "old.pt", tmp_path / "old", ASKED["sit_plain"])
    half, _ = brought({name: tensor.bfloat16() for name, tensor in plain.items()}, "sit_plain", compare=False)
    assert torch.equal(half.model.pos_embed, plain["pos_embed"].bfloat16().float())


def test_repas_old_layout(weights_of, brought):
    plain = weights_of("repa_sit_plain")
    moved = {name.replace("blocks.1.", "decoder_blocks.0.").replace("blocks.2.", "decoder_blocks.1."): tensor
             for name, tensor in plain.items() if not name.startswith("projectors.")}  # fmt: skip
    _, said = brought({"ema": moved}, "repa_sit_plain")
    assert any("decoder_blocks.0 ... 1 are blocks.1 ... 2" in line for line in said)


def test_what_keys_cannot_tell_is_asked_for(weights_of, brought, refuses):
    def asks(name, asked, *parts):
        refuses(lambda: brought(weights_of(name), name, asked), *parts)

    asks("sit_plain", ImportOptions(), "--family sit", "--family repa", "dit")
    asks("sit_learn_sigma", ImportOptions(), "--family sit", "dit")
    asks("sit_learn_sigma", ImportOptions(family="repa"), "--family repa", "sit or dit")
    asks("sit_plain", ImportOptions(family="dit"), "noise")
    asks("sit_plain", ImportOptions(family="sit"), "--set num_heads")
    asks("torchcfm_unet", ImportOptions(), "--family unet")
    asks("torchcfm_unet", ImportOptions(family="unet"), "--input-size")
    asks("torchcfm_unet", ImportOptions(family="unet", input_size=8), "--set head_width")
    asks("ddt_square", ImportOptions(), "--set patch_size=2")
    asks("ddt_square", ImportOptions(settings={"patch_size": 2}), "--input-size 32")
    asks("ddt_square", ImportOptions(settings={"patch_size": 2}, input_size=8), "--set encoder_depth=22")
    asks("rae_ditdh", ImportOptions(interpolant="vp"), "--interpolant vp")
    asks("ddt_square", ImportOptions(interpolant="gvp"), "--interpolant gvp")
    asks("lightningdit", ImportOptions(settings={"depht": 2}), "--set depht", "depth")
    asks("sit_plain", replace(ASKED["sit_plain"], settings={"num_heads": 5}), "num_heads 5")
    asks("repa_sit_plain", replace(ASKED["repa_sit_plain"], input_size=9), "--input-size 9", "patch, 2")
    refuses(lambda: ImportOptions(input_size=0), "--input-size 0")
    refuses(lambda: ImportOptions(settings={"num_heads": "many"}), "--set num_heads=many")


def test_families_that_are_no_velocity_are_refused(weights_of, brought, refuses):
    plain = weights_of("torchcfm_unet")
    doubled = {**plain, **{f"out.2.{part}": torch.cat([plain[f"out.2.{part}"]] * 2) for part in ("weight", "bias")}}
    refuses(lambda: brought({"ema_model": doubled}, "torchcfm_unet"), "adm")
    refuses(lambda: brought(doubled, "torchcfm_unet", ImportOptions()), "predict noise")
    strange = {"t_embedder.W": torch.ones(2), **weights_of("lightningdit")}
    refuses(lambda: brought(strange, "lightningdit"), "RAE's own LightningDiT")
    refuses(lambda: brought({"layer.weight": torch.ones(2)}, "lightningdit"), "no family", "my_model:build")


def test_both_published_clocks_of_one_file(weights_of, brought):
    """The same tensors as SiT and as REPA: what --family decides."""
    plain = weights_of("sit_plain")
    sit, _ = brought(plain, "sit_plain")
    repa, _ = brought(plain, "sit_plain", replace(ASKED["sit_plain"], family="repa"), compare=False)
    x, t, labels = torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.9]), torch.tensor([1, 10])
    assert torch.equal(repa.model(x, t, labels), -sit.model(x, 1 - t, labels))


@pytest.mark.parametrize("name", ["sit_plain", "repa_sit_plain", "rae_ditdh", "lightningdit"])
def test_a_larger_input_has_the_positions_of_a_network_made_for_it(name, weights_of, brought):
    plain = weights_of(name)
    side = {"repa_sit_plain": 16}.get(name, 8)
    checkpoint, said = brought(plain, name, replace(ASKED[name], input_size=side), compare=False)
    width = plain["pos_embed"].shape[2]
    table = getattr(checkpoint.model, "network", checkpoint.model).pos_embed[0]
    torch.testing.assert_close(table.double(), sincos_position_embedding(width, 8), rtol=0, atol=1e-6)
    before = plain["pos_embed"].shape[1]
    grid = int(before**0.5)
    corner = table.reshape(8, 8, width)[:grid, :grid].reshape(before, width)
    torch.testing.assert_close(corner, plain["pos_embed"][0], rtol=0, atol=3e-4)
    assert any("computed anew" in line for line in said) and checkpoint.shape[1] == side
    x = torch.randn(2, *checkpoint.shape)
    assert torch.isfinite(checkpoint.model(x, torch.tensor([0.0, 1.0]), torch.tensor([0, 10]))).all()


def test_rotary_tables_are_those_of_a_network_made_for_it(weights_of, brought):
    plain = weights_of("lightningdit")
    checkpoint, _ = brought(plain, "lightningdit", ImportOptions(input_size=8), compare=False)
    for part in ("freqs_cos", "freqs_sin"):
        larger = getattr(checkpoint.model.feat_rope, part).reshape(8, 8, -1)
        smaller = plain[f"feat_rope.{part}"]
        torch.testing.assert_close(larger[:4, :4].reshape(16, -1), smaller, rtol=0, atol=1e-6)


def test_an_averaged_table_counts_as_the_formula_and_a_learned_one_does_not(weights_of, brought):
    plain, generator = weights_of("sit_plain"), torch.Generator().manual_seed(0)
    drift = 2e-4 * (2 * torch.rand(1, 16, 32, generator=generator) - 1)
    asked = replace(ASKED["sit_plain"], input_size=8)
    _, said = brought({**plain, "pos_embed": plain["pos_embed"] + drift}, "sit_plain", asked, compare=False)
    assert any("computed anew" in line for line in said)
    ramp = torch.linspace(0, 1, 4)[:, None, None].expand(4, 4, 32).reshape(1, 16, 32)
    learned, said = brought({**plain, "pos_embed": ramp}, "sit_plain", asked, compare=False)
    assert any("bicubic" in line for line in said)
    rows = learned.model.pos_embed.reshape(8, 8, 32)
    assert torch.allclose(rows[:, :1], rows, atol=1e-6) and bool((rows[1:, 0, 0] > rows[:-1, 0, 0]).all())


def test_a_table_of_labels_without_a_null_row(weights_of, brought, refuses):
    plain, name = weights_of("sit_plain"), "y_embedder.embedding_table.weight"
    asked = replace(ASKED["sit_plain"], classes=10)
    checkpoint, said = brought({**plain, name: plain[name][:10]}, "sit_plain", asked, compare=False)
    assert checkpoint.classes == 10 and any("guidance" in line for line in said)
    assert torch.equal(checkpoint.model.y_embedder.embedding_table.weight[:10], plain[name][:10])
    refuses(lambda: brought(plain, "sit_plain", replace(asked, classes=7)), "--classes 7", "11 rows")
    asked = replace(ASKED["torchcfm_unet"], classes=7)
    refuses(lambda: brought(weights_of("torchcfm_unet"), "torchcfm_unet", asked), "--classes 7", "none")


def test_published_shapes_need_no_options():
    """What is only in the tables of the papers is taken for networks of their widths."""
    from defar_analysis.core.foreign.families import FAMILIES
    from defar_analysis.core.networks import ddt, sit, unet

    with torch.device("meta"):
        networks = {
            "sit": sit("XL/2", input_size=32, in_channels=4, num_classes=1000, learn_sigma=True),
            "ddt": ddt("XL/2"),
            "unet": unet("cifar10"),
        }
    for name, network in networks.items():
        given = {"input_size": 32} if name == "ddt" else {}
        assert FAMILIES[name].read(network.state_dict(), given).items() <= network.config.items()


def test_a_class_that_the_user_names_may_be_rebuilt(weights_of, brought, refuses):
    import fractions

    content = {"ema": weights_of("sit_plain"), "args": fractions.Fraction(1, 2)}
    refuses(lambda: brought(content, "sit_plain"), "fractions.Fraction", "--allow-class fractions.Fraction")
    brought(content, "sit_plain", replace(ASKED["sit_plain"], allow=("fractions.Fraction",)))
    for wrong in ("os.system", "no.such", "fractions.absent", "plain"):
        asked = replace(ASKED["sit_plain"], allow=(wrong,))
        refuses(lambda asked=asked: brought(content, "sit_plain", asked), f"--allow-class {wrong}")


def test_importing_twice_writes_the_same_bytes(weights_of, brought, tmp_path):
    seen = []
    for _ in range(2):
        brought({"ema": weights_of("rae_ditdh")}, "rae_ditdh")
        seen.append({file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()})
    assert seen[0] == seen[1] and len(seen[0]) == 2
