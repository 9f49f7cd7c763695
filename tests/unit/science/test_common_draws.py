"""A sample's draws are its own: the same in any company, and otherwise as good as random."""

import numpy as np
import torch
from scipy import stats

from workers.common_draws import normal, sample_keys, timesteps

WORD = (1 << 64) - 1


def _images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def _mix_by_hand(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def test_a_draw_is_splitmix_of_key_seed_draw_and_place() -> None:
    key, seed, draw = 123456789, 7, 2
    stream = (_mix_by_hand((key + _mix_by_hand(seed)) & WORD) + _mix_by_hand(draw + 1)) & WORD
    expected = []
    for place in range(1, 5):
        bits = _mix_by_hand((stream + place * 0x9E3779B97F4A7C15) & WORD) >> 11
        expected.append(stats.norm.ppf((bits + 0.5) / 2**53))
    found = normal(torch.tensor([key]), (2, 2), seed=seed, draw=draw)
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-5)


def test_the_mixer_gives_the_published_sequence() -> None:
    # SplitMix64 seeded with 1234567: the first outputs that its authors' code prints.
    state, found = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & WORD
        found.append(_mix_by_hand(state))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_sample_draws_the_same_in_any_order_batch_and_company() -> None:
    images = _images(50)
    whole = normal(sample_keys(images), (1, 8, 8), seed=3, draw=0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(normal(sample_keys(images[order]), (1, 8, 8), seed=3, draw=0), whole[order])
    assert torch.equal(normal(sample_keys(images[7:8]), (1, 8, 8), seed=3, draw=0), whole[7:8])


def test_one_grey_level_a_seed_or_a_draw_apart_is_another_draw() -> None:
    images = _images(2000)
    other = images.clone()
    other[:, 0, 3, 4] ^= 1
    keys = sample_keys(images)
    assert len(set(keys.tolist()) | set(sample_keys(other).tolist())) == 4000
    first = normal(keys, (64,), seed=0, draw=0).numpy()
    for second in (
        normal(sample_keys(other), (64,), seed=0, draw=0),
        normal(keys, (64,), seed=1, draw=0),
        normal(keys, (64,), seed=0, draw=1),
    ):
        assert abs(np.corrcoef(first.ravel(), second.numpy().ravel())[0, 1]) < 4 / np.sqrt(first.size)


def test_transposed_and_reshaped_images_have_other_keys() -> None:
    images = _images(100)
    keys = set(sample_keys(images).tolist())
    assert not keys & set(sample_keys(images.transpose(2, 3)).tolist())
    assert not keys & set(sample_keys(images.reshape(100, 1, 4, 16)).tolist())


def test_noise_is_standard_normal_and_independent_of_place() -> None:
    drawn = normal(sample_keys(_images(4000)), (8, 8), seed=5, draw=0).double().numpy()
    assert stats.kstest(drawn.ravel()[::7], "norm").pvalue > 1e-3
    flat = drawn.reshape(4000, 64)
    correlation = np.corrcoef(flat.T) - np.eye(64)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert np.isfinite(drawn).all()


def test_flat_images_that_differ_in_one_level_are_independent() -> None:
    flat = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 1, 8, 8)
    drawn = normal(sample_keys(flat), (64,), seed=0, draw=0).numpy()
    assert np.abs(np.corrcoef(drawn) - np.eye(256)).max() < 6 / np.sqrt(64)


def test_the_timesteps_of_a_sample_cover_the_range_once() -> None:
    keys = sample_keys(_images(3000))
    drawn = [timesteps(keys, steps=1000, seed=1, draw=j, part=j, parts=4) for j in range(4)]
    for j, found in enumerate(drawn):
        assert found.min() >= 250 * j
        assert found.max() < 250 * (j + 1)
    every = torch.cat(drawn).double().numpy()
    assert stats.kstest(every / 1000, "uniform").pvalue > 1e-3
