"""Parts of methods beside the naive loop for the same result: per-sample importance, and the mask of SalUn.

Both forms run in turn on one net and one thread; the ratio of medians is what counts, and the results must agree.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.circumstances import circumstances
from workers.architectures import build
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.importance import diagonal_importance
from workers.unlearning.salun import forget_gradient, saliency_mask

CLASSES, THRESHOLDS = 10, [share / 10 for share in range(1, 11)]
Named = dict[str, Tensor]


def main() -> int:
    """Print one JSON object; return 1 if two forms disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = (1, 28, 28)
    net = build(given.architecture, {}, image_shape=shape, num_classes=CLASSES, seed=0).to(given.device).eval()
    images = torch.randint(256, (given.samples, *shape), generator=generator_for(0), dtype=torch.uint8)
    samples = LabelledSet(images=images, labels=torch.arange(given.samples) % CLASSES).to(given.device)
    task = Classification()
    gradient = forget_gradient(net, samples, task)
    found = {
        "importance": _compared(
            lambda: diagonal_importance(net, samples, task), lambda: _importance_in_a_loop(net, samples), given
        ),
        "salun_mask": _compared(
            lambda: _as_numbers(saliency_mask(gradient, 0.5)), lambda: _as_numbers(_mask_by_sorting(gradient)), given
        ),
    }
    print(json.dumps({**found, "settings": vars(given), **circumstances("torch")}, indent=2))
    return 0 if all(row["agree"] for row in found.values()) else 1


def _compared(ours: Callable[[], Named], naive: Callable[[], Named], given: argparse.Namespace) -> dict[str, object]:
    seconds: dict[str, list[float]] = {"ours": [], "naive": []}
    results: dict[str, Named] = {}
    for _ in range(given.runs):
        for name, form in (("ours", ours), ("naive", naive)):
            started = time.perf_counter()
            results[name] = form()
            if given.device != "cpu":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    agree = all(torch.allclose(results["ours"][name], results["naive"][name], rtol=1e-4) for name in results["ours"])
    middle = {name: median(each) for name, each in seconds.items()}
    return {"seconds": middle, "naive_over_ours": round(middle["naive"] / middle["ours"], 1), "agree": agree}


def _importance_in_a_loop(net: nn.Module, samples: LabelledSet) -> Named:
    """Take one backward pass per sample."""
    names = [name for name, _ in net.named_parameters()]
    weights = list(net.parameters())
    sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in net.named_parameters()}
    for n in range(len(samples)):
        one = samples.take(torch.tensor([n]))
        loss = Classification().per_sample_loss(net, one.images, one.labels).sum()
        for name, g in zip(names, torch.autograd.grad(loss, weights), strict=True):
            sums[name] += g.double().square()
    return {name: total / len(samples) for name, total in sums.items()}


def _mask_by_sorting(gradient: Named) -> Named:
    """Rank all entries anew for each of ten thresholds, as much public code does, and keep the mask of a half."""
    sizes = torch.cat([g.abs().flatten() for g in gradient.values()])
    masks: dict[float, Named] = {}
    for share in THRESHOLDS:
        ranks = torch.argsort(torch.argsort(-sizes))
        chosen = torch.split(ranks < round(share * len(sizes)), [g.numel() for g in gradient.values()])
        masks[share] = {name: part.view_as(g) for (name, g), part in zip(gradient.items(), chosen, strict=True)}
    return masks[0.5]


def _as_numbers(mask: Named) -> Named:
    return {name: part.double() for name, part in mask.items()}


if __name__ == "__main__":
    sys.exit(main())
