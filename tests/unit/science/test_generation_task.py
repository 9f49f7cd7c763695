"""The diffusion task keeps what methods are promised: its loss, its lessons and its teachers are the formulas'."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from service.catalogue.methods import IeuConfig, NegGradPlusConfig, ScrubConfig
from service.catalogue.recipe import Recipe
from tests.diffusion_cases import RECIPE, around, net, samples, splits
from workers.architectures.ddpm import Ddpm
from workers.diffusion import Diffusion
from workers.micro_batches import Split, splitting
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import make_optimizer, take_step, train
from workers.unlearning.ieu import Elimination
from workers.unlearning.importance import diagonal_importance
from workers.unlearning.neggrad_plus import neggrad_plus_objective
from workers.unlearning.scrub import Lesson

CLASSES = "net.class_embedding.weight"


def _predicted(model: Ddpm, task: Diffusion, batch: LabelledSet, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return noise and what is predicted of it for these labels, on the first draw of a new task."""
    noisy, t, _, noise = Diffusion(seed=task.seed, label_dropout=0.0)._drawn(model, batch.images, batch.labels)
    return noise, model.net(noisy, t, class_labels=labels).sample


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean((1, 2, 3))


def test_neggrad_plus_weighs_the_errors_of_the_noise_and_caps_at_that_of_no_answer() -> None:
    model, data = net(), samples()
    retained, forgotten = data.take(torch.arange(6)), data.take(torch.arange(6, 10))
    objective = neggrad_plus_objective(
        model, retained, forgotten, NegGradPlusConfig(beta=0.7), Diffusion(label_dropout=0.0)
    )
    whole = data.take(torch.arange(10))
    noise, said = _predicted(model, Diffusion(), whole, whole.labels)
    losses = _mean_square(said - noise)
    torch.testing.assert_close(objective, 0.7 * losses[:6].mean() - 0.3 * losses[6:].clamp(max=1.0).mean())


def test_a_sample_is_taught_another_class_by_predicting_what_that_class_predicts() -> None:
    model, data = net(), samples(6)
    other = LabelledSet(images=data.images, labels=torch.where(torch.arange(6) < 3, data.labels, (data.labels + 1) % 3))
    losses = Diffusion(label_dropout=0.0).taught_loss(model, other, data.labels)
    noise, own = _predicted(model, Diffusion(), data, data.labels)
    wanted = torch.cat([noise[:3], _predicted(model, Diffusion(), data, other.labels)[1][3:]])
    torch.testing.assert_close(losses, _mean_square(own - wanted))
    gradient = torch.autograd.grad(losses.sum(), model.get_parameter(CLASSES))[0]
    held = torch.autograd.grad(_mean_square(own - wanted.detach()).sum(), model.get_parameter(CLASSES))[0]
    torch.testing.assert_close(gradient, held, msg="what is aimed at is held fixed")


def test_a_taught_label_is_never_dropped() -> None:
    model, data = net(), samples(30)
    other = LabelledSet(images=data.images, labels=(data.labels + 1) % 3)
    model.get_parameter(CLASSES).data[3] = torch.nan
    assert bool(Diffusion(label_dropout=0.9).taught_loss(model, other, data.labels).isfinite().all())


def test_teacher_and_student_see_equal_draws_and_the_teacher_stays() -> None:
    student, cut = net(), splits()
    lesson = Lesson(student, cut, ScrubConfig(lr=0.01, optimizer="sgd", momentum=0.0), around())
    pairs = [*lesson._batches(cut.forget, lesson._teach_forget, 4)]
    assert all(torch.equal(s, t) for s, t, _ in pairs)
    assert not torch.equal(pairs[0][1], pairs[1][1]), "each batch has draws of its own"
    with torch.no_grad():
        for w in student.net.parameters():
            w.mul_(1.5)
    s, t, labels = next(lesson._batches(cut.forget, lesson._teach_forget, 8))
    assert not torch.allclose(s, t)
    far = lesson.around.task.distance(t, s, 2.0)
    torch.testing.assert_close(far, _mean_square(s - t))
    assert len(labels) == 8


def test_the_importance_is_the_mean_of_squared_gradients_per_sample_and_draw_whatever_the_chunk() -> None:
    model, data, task = net(width_factors=(1, 1), attention_levels=(1,)), samples(5), Diffusion(measured_draws=2)
    names, weights = zip(*model.named_parameters(), strict=True)
    wanted = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in model.named_parameters()}
    for i in range(5):
        one = data.take(torch.tensor([i]))
        for draw in range(2):
            outputs = task.forward(model, task.view(model, one.images, one.labels, draw))
            slopes = torch.autograd.grad(task.loss_of_outputs(outputs, one.labels).sum(), weights)
            wanted = {name: wanted[name] + g.double().square() / 10 for name, g in zip(names, slopes, strict=True)}
    for chunk in (2, 5):
        found = diagonal_importance(model, data, task, chunk=chunk)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-11)


def test_batches_in_parts_give_the_losses_and_gradients_of_whole_ones_and_one_update_of_the_average() -> None:
    def after(split: Split) -> tuple[Ddpm, list[Tensor]]:
        model, data, task = net(), samples(), Diffusion()
        optimizer = make_optimizer(model.parameters(), Recipe(optimizer="sgd", lr=0.05, momentum=0.0))
        losses = []
        with splitting(split):
            model.train()
            for _ in range(3):
                loss = task.per_sample_loss(model, data.images, data.labels)
                take_step(optimizer, loss.mean())
                losses.append(loss.detach())
            losses.append(task.measured(model, data).losses.float())
        return model.eval(), losses

    (whole, told), (parts, told_too) = after(Split()), after(Split(micro_batch=7, evaluation_batch=5))
    assert int(whole.ema_updates) == int(parts.ema_updates) == 3
    wanted, found = ([*losses, *model.state_dict().values()] for model, losses in ((whole, told), (parts, told_too)))
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def _finetuning(model: Ddpm, task: Diffusion) -> Callable[[], None]:
    optimizer = make_optimizer(model.parameters(), RECIPE)

    def step() -> None:
        loss = task.per_sample_loss(model, samples().images, samples().labels).mean()
        take_step(optimizer, loss)

    return step


def test_the_average_follows_steps_between_passes_in_eval_mode() -> None:
    model, cut = net(), splits()
    run = Elimination(model, cut, IeuConfig(epochs=1, tail_epochs=0, retain_batch_size=4), around())
    for n in range(1, 4):
        run.step(cut.retain.take(torch.arange(4)), rate=1e-3, alpha=0.5, s=0.01)
        model.eval()
        assert int(model.ema_updates) == n, "the forget pass in eval mode hides no step from it"


def test_loading_weights_or_copying_a_network_is_no_step() -> None:
    model, task = net(), Diffusion()
    model.train()
    step = _finetuning(model, task)
    step()
    twin = copy.deepcopy(model)
    step()
    assert int(model.ema_updates) == 1
    twin.eval()
    assert int(twin.ema_updates) == 0
    model.load_state_dict(net(1).state_dict())
    model.eval()
    assert int(model.ema_updates) == 0


def test_a_method_starts_from_the_average_of_a_parent_that_stays_as_it_is() -> None:
    parent = net()
    train(parent, samples(), RECIPE.model_copy(update={"epochs": 2}), task=Diffusion(), generator=generator_for(0))
    before = copy.deepcopy(parent.state_dict())
    started = Diffusion().started_from(parent)
    assert isinstance(started, Ddpm)
    assert all(map(torch.equal, started.net.parameters(), parent.ema.buffers()))
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    task = Diffusion()
    torch.testing.assert_close(task.measured(started, samples()).losses, task.measured(parent, samples()).losses)
    task.finish(started)
    assert int(started.ema_updates) == 1, "a network without a step is its own average"


def test_a_sample_is_recognised_by_a_class_that_helps_to_denoise_it() -> None:
    model, data, task = net(), samples(9), Diffusion(measured_draws=3)
    found = task.measured(model, data)
    none = LabelledSet(images=data.images, labels=torch.full_like(data.labels, 3))
    own, without = (task.measured_losses(model, each).double().mean(1) for each in (data, none))
    torch.testing.assert_close(found.losses, own)
    assert torch.equal(found.wrong, (own >= without).double())
    torch.testing.assert_close(found.lost, own)
