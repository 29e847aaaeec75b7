"""Seeds depend on what is drawn and on nothing else."""

import hashlib

import torch

from defar_analysis.core.seeding import balanced_labels, derive_seed, generator_for, image_noise

SHAPE = (3, 4, 4)


def test_a_seed_is_the_start_of_a_hash_of_its_place():
    """Written out, so that images and runs recorded once can be drawn again by any later version."""
    first = hashlib.sha256(b"7/noise/12").digest()[:8]
    assert derive_seed(7, "noise", 12) == int.from_bytes(first, "big") // 2
    assert derive_seed(0) == int.from_bytes(hashlib.sha256(b"0").digest()[:8], "big") // 2


def test_different_places_give_different_seeds_that_torch_takes():
    places = [(seed, *path) for seed in range(20) for path in [(), ("noise",), ("noise", 0), ("noise", 1), ("step", 1)]]
    seeds = [derive_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({float(torch.rand((), generator=generator_for(*place))) for place in places}) > 95


def test_a_generator_starts_at_the_derived_seed():
    expected = torch.randn(5, generator=torch.Generator().manual_seed(derive_seed(3, "a", 1)))
    assert torch.equal(torch.randn(5, generator=generator_for(3, "a", 1)), expected)


def test_noise_of_an_image_depends_on_seed_and_index_alone():
    whole = image_noise(0, range(6), SHAPE)
    assert whole.shape == (6, *SHAPE) and whole.dtype == torch.float32
    assert torch.equal(image_noise(0, [4, 1], SHAPE), whole[[4, 1]])
    assert torch.equal(torch.cat([image_noise(0, range(0, 2), SHAPE), image_noise(0, range(2, 6), SHAPE)]), whole)
    assert torch.equal(image_noise(0, torch.arange(6), SHAPE), whole)
    assert not torch.equal(image_noise(1, range(6), SHAPE), whole)
    assert len(whole.unique(dim=0)) == 6


def test_noise_is_standard_normal():
    noise = image_noise(0, range(200), SHAPE).double()
    assert abs(noise.mean()) < 5 * noise.numel() ** -0.5
    assert abs(noise.var() - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_nothing_touches_the_global_generator():
    before = torch.get_rng_state()
    image_noise(0, range(3), SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_are_balanced_over_any_run_of_consecutive_images():
    labels = balanced_labels(range(13, 43), 10)
    assert labels.dtype == torch.long
    assert torch.equal(labels.bincount(), torch.full((10,), 3))
    assert torch.equal(balanced_labels([0, 9, 10, 25], 10), torch.tensor([0, 9, 0, 5]))
