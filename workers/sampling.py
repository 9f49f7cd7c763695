"""Draw images of given classes from a Ddpm: DDIM with classifier-free guidance.

    x_{t'} = sqrt(abar_{t'}) x0_hat + sqrt(1 - abar_{t'}) eps_hat,    eps_hat = (1 + w) eps(y) - w eps(none)

DDIM: Song et al., ICLR 2021, arXiv:2010.02502, eta = 0; guidance: Ho & Salimans, 2022, arXiv:2207.12598.
"""

import torch
from torch import Tensor

from workers.architectures.ddpm import Ddpm
from workers.classification import device_of, evaluating
from workers.common_draws import normal
from workers.diffusion import STEPS


def sample(
    model: Ddpm, labels: Tensor, *, shape: tuple[int, int, int], seed: int, guidance: float = 1.0, steps: int = 50
) -> Tensor:
    """Return uint8 images (N, C, H, W) of the classes (N,), by the averaged weights.

    The n-th image starts from noise that the seed and n alone decide: two models are compared on equal starts.
    Class K of K classes stands for none. Raises ValueError for a class that there is not.
    """
    if bool(((labels < 0) | (labels > model.num_classes)).any()):
        raise ValueError(f"classes lie in 0 to {model.num_classes - 1}, {model.num_classes} is none")
    # importing it takes seconds, which nothing but a diffusion model should wait for
    from diffusers import DDIMScheduler

    device = device_of(model)
    scheduler = DDIMScheduler(num_train_timesteps=STEPS, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x = normal(torch.arange(len(labels), device=device), shape, seed=seed, draw=0)
    classes = torch.cat([labels.to(device), torch.full_like(labels, model.num_classes, device=device)])
    with evaluating(model):
        for t in scheduler.timesteps:
            at = torch.full((2 * len(x),), int(t), device=device)
            given, none = model.averaged(torch.cat([x, x]), at, classes).chunk(2)
            x = scheduler.step((1 + guidance) * given - guidance * none, t, x).prev_sample
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
