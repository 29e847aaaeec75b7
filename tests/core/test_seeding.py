"""Seeds depend on what is drawn and on nothing else."""

import hashlib

import torch

from defar_analysis.core.seeding import (
    balanced_labels,
    derive_seed,
    generator_for,
    image_noise,
    process_indices,
    random_labels,
    sde_generators,
    step_noise,
)

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


def test_shuffled_balanced_labels_depend_on_seed_and_index_alone():
    labels = balanced_labels(range(40), 10, seed=3)
    assert labels.dtype == torch.long
    assert all(sorted(block) == list(range(10)) for block in labels.reshape(4, 10).tolist())
    assert len({tuple(block) for block in labels.reshape(4, 10).tolist()}) == 4
    assert torch.equal(balanced_labels([25, 3, 39], 10, seed=3), labels[[25, 3, 39]])  # however many are drawn
    assert torch.equal(balanced_labels(range(13), 10, seed=3), labels[:13])
    assert not torch.equal(balanced_labels(range(40), 10, seed=4), labels)
    places = torch.stack([balanced_labels(range(4), 4, seed=seed) for seed in range(400)])
    for place in range(4):  # every class is as likely in every place
        assert (places[:, place].bincount(minlength=4) - 100).abs().max() < 45


def test_random_labels_depend_on_seed_and_index_alone():
    labels = random_labels(0, range(2000), 10)
    assert labels.dtype == torch.long
    assert torch.equal(random_labels(0, [1999, 7], 10), labels[[1999, 7]])
    assert not torch.equal(random_labels(1, range(2000), 10), labels)
    assert (labels.bincount(minlength=10) - 200).abs().max() < 70  # 5 standard deviations
    assert (labels[1:] == labels[:-1]).sum() < 300  # neighbours are independent: 200 expected
    assert random_labels(0, [], 10).dtype == balanced_labels([], 10).dtype == torch.long


def test_sde_noise_of_an_image_depends_on_seed_and_index_alone():
    def noise(seed, indices, steps=3):
        generators = sde_generators(seed, indices)
        return torch.stack([step_noise(generators, SHAPE) for _ in range(steps)])

    whole = noise(0, range(6))
    assert whole.dtype == torch.float32 and whole.shape == (3, 6, *SHAPE)
    assert torch.equal(noise(0, [5, 2]), whole[:, [5, 2]])
    assert torch.equal(noise(0, range(6), steps=2), whole[:2])
    assert not torch.equal(noise(1, range(6)), whole)
    assert len(whole.flatten(0, 1).unique(dim=0)) == 18
    assert not torch.equal(whole[0], image_noise(0, range(6), SHAPE))
    assert abs(whole.double().mean()) < 5 * whole.numel() ** -0.5


def test_processes_share_whole_chunks(refuses):
    shares = [process_indices(150, process, 2, chunk=64) for process in range(2)]
    assert shares[0] == [*range(64), *range(128, 150)] and shares[1] == list(range(64, 128))
    assert process_indices(150, 0, 1) == list(range(150))
    assert process_indices(10, 1, 2) == []
    refuses(lambda: process_indices(10, 2, 2), "process 2 of 2")


def test_mistakes_are_named(refuses):
    refuses(lambda: balanced_labels(range(3), 0), "num_classes", 0)
    refuses(lambda: random_labels(0, range(3), -1), "num_classes", -1)
