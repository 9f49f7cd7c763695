"""The transformers: their forward pass written out, and what methods ask of a network besides."""

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, interpolate

from workers.architectures import build
from workers.architectures.shapes import average_pool, bilinear_resize
from workers.architectures.vit import ResizingVit
from workers.reproducibility import generator_for

TINY: dict[str, Any] = {"patch_size": 4, "width": 12, "depth": 2, "heads": 3}


def _small_vit(shape: tuple[int, int, int] = (2, 8, 8), **options: Any) -> nn.Module:
    return build("small_vit", {**TINY, **options}, image_shape=shape, num_classes=5, seed=0).eval()


def _tiny_torchvision_vit() -> nn.Module:
    """Return our form of torchvision's ViT at a size that tests can afford."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ResizingVit(
            image_size=8, patch_size=4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=24, num_classes=5
        )
        # torchvision starts with a head of zeros, from which every slope is 0
        nn.init.normal_(net.heads.head.weight)
        net.conv_proj = nn.Conv2d(2, 12, 4, stride=4)
    net.resize = nn.Identity()
    evaluated: nn.Module = net.eval()
    return evaluated


def _images(count: int, shape: tuple[int, int, int] = (2, 8, 8)) -> Tensor:
    return torch.randn(count, *shape, generator=generator_for(1))


def _normed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * w + b


def _written_out(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Return the logits (K,) of one image, token by token and head by head."""
    size, heads, depth = TINY["patch_size"], TINY["heads"], TINY["depth"]
    channels, height, width = image.shape
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    whole = torch.zeros(channels, rows * size, columns * size)
    whole[:, :height, :width] = image
    tokens: list[Tensor] = []
    for i in range(rows):
        for j in range(columns):
            patch = whole[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            embedded = state["patches.weight"].flatten(1) @ patch.flatten() + state["patches.bias"]
            tokens.append(embedded + state["positions"][len(tokens)])
    for k in range(depth):
        start = f"blocks.{k}."
        part = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
        attended = _attention([_normed(t, part["attend.0.weight"], part["attend.0.bias"]) for t in tokens], part, heads)
        tokens = [t + a for t, a in zip(tokens, attended, strict=True)]
        tokens = [t + _mlp(_normed(t, part["mlp.0.weight"], part["mlp.0.bias"]), part) for t in tokens]
    mean = torch.stack([_normed(t, state["norm.weight"], state["norm.bias"]) for t in tokens]).mean(0)
    return state["head.weight"] @ mean + state["head.bias"]


def _attention(tokens: list[Tensor], part: dict[str, Tensor], heads: int) -> list[Tensor]:
    q, k, v = ([w @ t for t in tokens] for w in part["attend.1.project.weight"].chunk(3))
    per_head = len(tokens[0]) // heads
    merged = []
    for i in range(len(tokens)):
        found = []
        for h in range(heads):
            own = slice(h * per_head, (h + 1) * per_head)
            scores = torch.stack([q[i][own] @ k[j][own] / math.sqrt(per_head) for j in range(len(tokens))])
            shares = scores.exp() / scores.exp().sum()
            found.append(sum(shares[j] * v[j][own] for j in range(len(tokens))))
        merged.append(part["attend.1.merge.weight"] @ torch.cat(found) + part["attend.1.merge.bias"])  # type: ignore[arg-type]
    return merged


def _mlp(t: Tensor, part: dict[str, Tensor]) -> Tensor:
    hidden = part["mlp.1.weight"] @ t + part["mlp.1.bias"]
    return part["mlp.3.weight"] @ (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) + part["mlp.3.bias"]


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 10, 9), (3, 8, 13)])
def test_small_vit_is_the_transformer_written_out(shape: tuple[int, int, int]) -> None:
    net, images = _small_vit(shape), _images(3, shape)
    with torch.no_grad():
        expected = torch.stack([_written_out(net.state_dict(), image) for image in images])
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


def test_small_vit_drops_nothing_unless_asked_to_and_has_no_batch_norm() -> None:
    images = _images(3)
    plain, dropping = _small_vit().train(), _small_vit(dropout=0.5).train()
    assert torch.equal(plain(images), plain(images))
    assert not torch.equal(dropping(images), dropping(images))
    assert torch.equal(dropping.eval()(images), plain.eval()(images))
    assert not list(plain.buffers())


def test_the_order_of_patches_matters() -> None:
    net, images = _small_vit(), _images(2)
    assert not torch.allclose(net(images), net(images.flip(3)), atol=1e-4)
    with torch.no_grad():
        net.positions.zero_()  # type: ignore[operator]
    swapped = torch.cat([images[..., 4:], images[..., :4]], 3)
    torch.testing.assert_close(net(images), net(swapped))


@pytest.mark.parametrize("make", [_small_vit, _tiny_torchvision_vit])
def test_per_sample_gradients_are_those_of_each_sample_alone(make: Any) -> None:
    net, images, labels = make(), _images(4), torch.tensor([0, 1, 2, 3])
    weights = {name: w.detach() for name, w in net.named_parameters()}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, weights, (image[None],)), label[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    for i in range(4):
        net.zero_grad()
        cross_entropy(net(images[i : i + 1]), labels[i : i + 1]).backward()  # type: ignore[no-untyped-call]
        for name, w in net.named_parameters():
            torch.testing.assert_close(together[name][i], w.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("make", [_small_vit, _tiny_torchvision_vit])
def test_the_slope_of_an_input_slope_is_its_difference_quotient(make: Any) -> None:
    """d/dw of ||grad_x f_0||^2 along a direction, in float64, beside (g(w + h) - g(w - h)) / 2h."""
    net, images = make().double(), _images(2).double()
    weights = list(net.parameters())
    direction = [torch.randn(w.shape, generator=generator_for(i), dtype=torch.float64) for i, w in enumerate(weights)]

    def squared_slope() -> Tensor:
        x = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(x)[:, 0].sum(), x, create_graph=True)
        return slope.square().sum()

    slopes = torch.autograd.grad(squared_slope(), weights, allow_unused=True, materialize_grads=True)
    along = sum(float((slope * way).sum()) for slope, way in zip(slopes, direction, strict=True))
    step, values = 1e-5, []
    for sign in (1, -2):
        with torch.no_grad():
            for w, way in zip(weights, direction, strict=True):
                w.add_(way, alpha=sign * step)
        values.append(float(squared_slope().detach()))
    assert along == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_vit_b_16_gives_torchvisions_logits_for_the_image_resized() -> None:
    ours = build("vit_b_16", {"image_size": 32}, image_shape=(3, 20, 28), num_classes=4, seed=0).eval()
    with torch.device("meta"):
        theirs = torchvision.models.vit_b_16(weights=None, image_size=32, num_classes=4).eval()
    nn.init.normal_(ours.heads.head.weight)  # type: ignore[union-attr,arg-type]
    theirs.load_state_dict(ours.state_dict(), assign=True)
    images = _images(2, (3, 20, 28))
    resized = interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    before = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(resized), rtol=1e-3, atol=1e-4)
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize(("height", "width", "size"), [(1, 1, 7), (7, 7, 7), (3, 10, 7), (20, 9, 32), (40, 50, 32)])
def test_pooling_and_resizing_by_matrices_are_torchs_own(height: int, width: int, size: int) -> None:
    x = _images(2, (3, height, width))
    pooled, resized = average_pool(height, width, size=size)(x), bilinear_resize(height, width, size=size)(x)
    torch.testing.assert_close(pooled, adaptive_avg_pool2d(x, size))
    torch.testing.assert_close(
        resized, interpolate(x, (size, size), mode="bilinear", align_corners=False), rtol=1e-4, atol=1e-5
    )
