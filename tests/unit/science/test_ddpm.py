"""The denoiser keeps its average as its updates say; the loss and the samples are those of the papers' formulas."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.architectures.options import SmallDdpmOptions
from service.catalogue.recipe import Recipe
from workers.architectures.ddpm import Ddpm, ddpm_unet
from workers.common_draws import normal
from workers.diffusion import GUESS_LOSS, STEPS, Diffusion, signal_shares
from workers.samples import LabelledSet, normalise
from workers.sampling import sample
from workers.training import make_optimizer, take_step, train

SHAPE = (1, 8, 8)


def _net(seed: int = 0, **options: Any) -> Ddpm:
    torch.manual_seed(seed)
    found = ddpm_unet(SmallDdpmOptions.model_validate({"width": 8, **options}), SHAPE, 3)
    assert isinstance(found, Ddpm)
    return found.eval()


def _samples(count: int = 24) -> LabelledSet:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return LabelledSet(images=images, labels=torch.arange(count) % 3)


def _trained(net: Ddpm, epochs: int = 3, seed: int = 0) -> Ddpm:
    recipe = Recipe(epochs=epochs, batch_size=8, optimizer="adam", lr=1e-3, momentum=0.9, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    train(net, _samples(), recipe, task=Diffusion(), generator=generator)
    return net


def test_the_average_follows_the_recursion_over_the_steps() -> None:
    net = _net(ema_decay=0.3)
    task, data = Diffusion(), _samples(8)
    rule = Recipe(optimizer="sgd", lr=0.05, momentum=0.0, weight_decay=0.0)
    optimizer = make_optimizer(net.parameters(), rule)
    expected: list[Tensor] | None = None
    net.train()
    for n in range(5):
        take_step(optimizer, task.per_sample_loss(net, data.images, data.labels).mean())
        weights = [w.detach().clone() for w in net.net.parameters()]
        d = min(0.3, (1 + n) / (10 + n)) if n else 0.0
        expected = (
            weights if expected is None else [d * a + (1 - d) * w for a, w in zip(expected, weights, strict=True)]
        )
    net.eval()
    assert expected is not None
    assert int(net.ema_updates) == 5
    for found, wanted in zip(net.ema.buffers(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_passes_without_a_step_and_changes_of_mode_leave_the_average_alone() -> None:
    net = _trained(_net())
    before = {name: b.clone() for name, b in net.named_buffers()}
    data = _samples(8)
    for _ in range(3):
        net.train()
        Diffusion().per_sample_loss(net, data.images, data.labels)
        Diffusion().per_sample_loss(net, data.images, data.labels)
        net.eval()
    twin = copy.deepcopy(net).train()
    Diffusion().per_sample_loss(twin, data.images, data.labels)
    for each in (net, twin):
        assert all(torch.equal(b, before[name]) for name, b in each.named_buffers())


def test_the_average_is_part_of_the_weights_file_and_of_no_optimiser() -> None:
    net = _net()
    names = set(net.state_dict())
    assert {name.removeprefix("net.") for name in names if name.startswith("net.")} == {
        name.removeprefix("ema.") for name in names if name.startswith("ema.")
    }
    assert all(name.startswith("net.") for name, _ in net.named_parameters())


def test_a_restarted_average_goes_on_from_itself_and_forgets_where_it_began() -> None:
    net = _trained(_net())
    average = [b.clone() for b in net.ema.buffers()]
    net.restart_average()
    assert all(map(torch.equal, net.net.parameters(), average))
    kept = math.prod((1 + n) / (10 + n) for n in range(1, 40))
    assert kept == pytest.approx(math.factorial(10) / math.prod(range(41, 50)), rel=1e-9)
    assert kept < 1e-8


def test_without_a_step_since_the_restart_the_average_is_settled_on_the_weights() -> None:
    net = _trained(_net())
    net.restart_average()
    with torch.no_grad():
        for w in net.net.parameters():
            w.mul_(0.5)
    net.settle_average()
    assert all(map(torch.equal, net.ema.buffers(), net.net.parameters()))


def test_the_loss_is_the_mean_squared_error_of_the_noise_on_common_draws() -> None:
    net, task, data = _net(), Diffusion(seed=4, measured_draws=2), _samples(5)
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(nn.Module):
        def averaged(self, noisy: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            assert torch.equal(labels, data.labels)
            seen.append((noisy, t))
            return torch.zeros_like(noisy)

    net.averaged = Spy().averaged  # type: ignore[assignment,method-assign]
    losses = task.measured_losses(net, data)
    assert losses.shape == (5, 2)
    for j, (noisy, t) in enumerate(seen):
        assert int(t.min()) >= j * STEPS // 2
        assert int(t.max()) < (j + 1) * STEPS // 2
        share = signal_shares(t.device)[t].view(-1, 1, 1, 1)
        noise = (noisy - share.sqrt() * normalise(data.images)) / (1 - share).sqrt()
        torch.testing.assert_close(losses[:, j], noise.square().mean((1, 2, 3)), rtol=1e-3, atol=1e-4)


def test_two_models_and_two_orders_are_measured_on_equal_draws() -> None:
    net, data = _trained(_net()), _samples(9)
    order = torch.tensor([4, 2, 0, 8])
    torch.testing.assert_close(
        Diffusion(seed=1).measured_losses(net, data)[order], Diffusion(seed=1).measured_losses(net, data.take(order))
    )
    assert not torch.allclose(
        Diffusion(seed=1).measured_losses(net, data), Diffusion(seed=2).measured_losses(net, data)
    )


def test_a_network_that_answers_nothing_has_the_loss_of_a_guess() -> None:
    data = _samples(24)
    zeros = torch.zeros(0)
    task = Diffusion(measured_draws=50)
    net = _net()
    net.averaged = lambda noisy, _t, _labels: torch.zeros_like(noisy) + zeros.sum()  # type: ignore[assignment,method-assign]
    assert float(task.measured_losses(net, data).mean()) == pytest.approx(GUESS_LOSS, abs=0.02)


def test_training_repeats_bit_for_bit_and_is_of_the_conditional_loss() -> None:
    first, second = (_trained(_net()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    data = _samples()
    before, after = (
        Diffusion().measured_losses(_net(), data).mean(),
        Diffusion().measured_losses(_trained(_net(), 20), data).mean(),
    )
    assert after < 0.9 * before


def test_labels_are_dropped_at_their_rate_in_steps_and_never_when_measured() -> None:
    data, given = _samples(3000), []
    net = _net()
    net.net.forward = lambda noisy, _t, class_labels: given.append(class_labels) or type("O", (), {"sample": noisy})  # type: ignore[func-returns-value]
    Diffusion(label_dropout=0.2).per_sample_loss(net, data.images, data.labels)
    Diffusion(label_dropout=0.2, measured_draws=1).measured_losses(net, data, batch_size=3000)
    in_step, measured = given
    assert float((in_step == 3).double().mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.equal(measured, data.labels)


def test_samples_of_a_perfect_denoiser_of_one_image_are_that_image() -> None:
    image = torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    net = _net()

    def perfect(noisy: Tensor, t: Tensor, _labels: Tensor) -> Tensor:
        share = signal_shares(t.device)[t].view(-1, 1, 1, 1)
        return (noisy - share.sqrt() * normalise(image[None])) / (1 - share).sqrt()

    net.averaged = perfect  # type: ignore[assignment,method-assign]
    drawn = sample(net, torch.tensor([0, 1, 2]), shape=SHAPE, seed=0, steps=20)
    assert int((drawn.int() - image.int()).abs().max()) <= 1


def test_a_guided_draw_is_that_of_the_combined_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    net = _net()

    def drawn(of_class: float, of_none: float, guidance: float) -> Tensor:
        def predict(noisy: Tensor, _: Tensor, labels: Tensor) -> Tensor:
            none = (labels == net.num_classes)[:, None, None, None]
            return torch.where(none, of_none, of_class).expand_as(noisy).to(noisy.dtype)

        monkeypatch.setattr(net, "averaged", predict)
        return sample(net, torch.tensor([1, 2]), shape=SHAPE, seed=0, guidance=guidance, steps=5)

    guided = drawn(0.3, -0.2, 2.0)
    assert torch.equal(guided, drawn(3 * 0.3 - 2 * -0.2, 9.0, 0.0))
    assert not torch.equal(guided, drawn(0.3, -0.2, 0.0))


def test_each_step_asks_for_the_class_and_for_none() -> None:
    net, calls = _net(), []

    def by_class(noisy: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        calls.append(labels)
        return torch.where(labels == net.num_classes, 0.5, 0.1).view(-1, 1, 1, 1) * torch.ones_like(noisy)

    net.averaged = by_class  # type: ignore[assignment,method-assign]
    sample(net, torch.tensor([1, 2]), shape=SHAPE, seed=0, guidance=2.0, steps=1)
    assert calls[0].tolist() == [1, 2, 3, 3]


def test_the_same_seed_draws_the_same_images_whatever_their_number() -> None:
    net = _trained(_net())
    many = sample(net, torch.tensor([0, 1, 2, 0]), shape=SHAPE, seed=3, steps=4)
    few = sample(net, torch.tensor([0, 1]), shape=SHAPE, seed=3, steps=4)
    assert int((many[:2].int() - few.int()).abs().max()) <= 1
    assert not torch.equal(sample(net, torch.tensor([0, 1]), shape=SHAPE, seed=4, steps=4), few)


def test_the_draws_of_noise_differ_between_steps_and_measuring() -> None:
    keys = torch.arange(10)
    assert not torch.equal(normal(keys, (4,), seed=0, draw=0), normal(keys, (4,), seed=0, draw=1 << 32))


@pytest.mark.parametrize("options", [{"width_factors": (1, 2, 2)}, {"attention_levels": ()}, {"blocks": 2}])
def test_other_shapes_build_and_predict(options: dict[str, Any]) -> None:
    net = _net(**options)
    found = net(torch.zeros(2, *SHAPE), torch.tensor([0, 999]), torch.tensor([0, 3]))
    assert found.shape == (2, *SHAPE)


def test_an_image_that_does_not_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        ddpm_unet(SmallDdpmOptions(width_factors=(1, 2, 2), width=8), (1, 10, 8), 3)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_class_that_there_is_not_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="0 to 2, 3 is none"):
        sample(_net(), torch.tensor([0, label]), shape=SHAPE, seed=0, steps=2)


@pytest.mark.parametrize("width", [8, 16, 24, 32])
def test_a_net_of_any_width_hears_the_class_and_the_timestep(width: int) -> None:
    net = _net(width=width, width_factors=(1,), attention_levels=())
    noisy, early, late = torch.randn(4, *SHAPE), torch.full((4,), 10), torch.full((4,), 900)
    labels = torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        said, of_another, later = net(noisy, early, labels), net(noisy, early, labels + 1), net(noisy, late, labels)
    for other in (of_another, later):
        assert float((said - other).abs().max() / said.abs().max()) > 0.01


def test_without_class_condition_every_class_is_drawn_alike_and_no_weight_is_of_a_class() -> None:
    net = _net(class_condition=False)
    drawn = [sample(net, torch.full((2,), label), shape=SHAPE, seed=0, steps=3) for label in (0, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not [name for name in net.state_dict() if "class_embedding" in name]
    told = _net()
    given = [sample(told, torch.full((2,), label), shape=SHAPE, seed=0, steps=3) for label in (0, 2)]
    assert not torch.equal(given[0], given[1])
