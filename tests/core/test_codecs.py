"""Between bytes and what a network sees."""

import torch

from defar_analysis.core.codecs import CODECS, PixelCodec


def test_decoding_equals_the_recorded_rule(recorded):
    rules = recorded("uint8_rules.npz")
    values = torch.from_numpy(rules["values"])
    ours = PixelCodec().decode(values)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, torch.from_numpy(rules["sit"]))
    assert not torch.equal(ours, torch.from_numpy(rules["repa"]))  # the fixture tells the rules apart


def test_all_bytes_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    codec = PixelCodec()
    x = codec.encode(pixels)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(codec.decode(x), pixels)
    assert torch.equal(codec.decode(x.double()), pixels)


def test_encoding_is_linear():
    pixels = torch.tensor([51, 204], dtype=torch.uint8)
    torch.testing.assert_close(PixelCodec().encode(pixels), torch.tensor([-0.6, 0.6]))


def test_decoding_rounds_to_the_nearest_byte():
    level = torch.arange(256)
    for shift in (-0.49, 0.49):
        assert torch.equal(PixelCodec().decode((level + shift) / 127.5 - 1), level.to(torch.uint8))


def test_values_outside_are_clipped():
    out = PixelCodec().decode(torch.tensor([-1e9, -1.1, 1.1, 1e9, -torch.inf, torch.inf]))
    assert out.tolist() == [0, 0, 255, 255, 0, 255]


def test_the_codec_is_known_by_name():
    assert CODECS["pixel"] is PixelCodec and PixelCodec().rule == "round_half_up"
