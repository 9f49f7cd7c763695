"""The noise predictor of a class-conditional DDPM, with the moving average of its weights that samples are drawn by.

DDPM: Ho, Jain & Abbeel, NeurIPS 2020, arXiv:2006.11239; the network is diffusers' UNet2DModel. The class K beyond the
K of the data stands for "no class", which classifier-free guidance needs (Ho & Salimans, arXiv:2207.12598).

    ema <- d ema + (1 - d) w,   d = min(decay, (1 + n) / (10 + n)) at the n-th update, the first of which copies w

The average is kept as batch norm keeps its running statistics: in buffers, which travel with the weights, brought up
to date by each pass in train mode and by going into eval mode, if the weights have moved since the last such pass. So
no method has to know of it. Because d starts small, what the average held before `restart_average` is gone after a few
dozen updates: 10! / ((n + 2) ... (n + 10)).
"""

import copy
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from service.catalogue.architectures.options import DdpmOptions
from workers.architectures.shapes import ImageShape

NORM_GROUPS = 8


class Ddpm(nn.Module):
    """Predict the noise in noisy images (N, C, H, W) from timesteps (N,) and classes (N,), of which K is none."""

    ema_updates: Tensor

    def __init__(self, net: nn.Module, *, num_classes: int, decay: float) -> None:
        super().__init__()
        self.net = net
        self.ema = _frozen(net)
        self.num_classes, self.decay = num_classes, decay
        self.register_buffer("ema_updates", torch.zeros((), dtype=torch.int64))
        self._followed: tuple[int, ...] | None = None
        self.register_load_state_dict_post_hook(_begin_anew)  # type: ignore[no-untyped-call]

    @property
    def class_condition(self) -> bool:
        """Say whether the network is told the class."""
        return not isinstance(self.net, Unconditional)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: its tensors have changed in no step of this one."""
        return {**self.__dict__, "_followed": None}

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return the noise predicted with the weights being trained."""
        if self.training:
            self._follow()
            self._followed = self._versions()
        return self.net(noisy, timesteps, class_labels=labels).sample  # type: ignore[no-any-return]

    def averaged(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return the noise predicted with the average, or with the weights where there is no average yet."""
        net = self.ema if int(self.ema_updates) else self.net
        return net(noisy, timesteps, class_labels=labels).sample  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Ddpm":
        """Set the mode; eval mode takes the last step's weights into the average."""
        if not mode:
            self._follow()
        super().train(mode)
        self.ema.eval()
        return self

    @torch.no_grad()
    def _follow(self) -> None:
        """Take the weights into the average if a step has moved them since they were last looked at."""
        if self._followed in (None, self._versions()):
            return
        self._followed = self._versions()
        n = int(self.ema_updates)
        share = 1.0 if n == 0 else 1 - min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_([*self.ema.buffers()], [*self.net.parameters()], share)
        self.ema_updates.add_(1)

    @torch.no_grad()
    def restart_average(self) -> None:
        """Go on from the average: it becomes the weights, and a new one begins with the first step."""
        if int(self.ema_updates):
            for w, average in zip(self.net.parameters(), self.ema.buffers(), strict=True):
                w.copy_(average)
        self.ema_updates.zero_()
        self._followed = None

    @torch.no_grad()
    def settle_average(self) -> None:
        """Have the average be the weights where no step was taken since it was restarted."""
        if not int(self.ema_updates):
            for average, w in zip(self.ema.buffers(), self.net.parameters(), strict=True):
                average.copy_(w)
            self.ema_updates.fill_(1)
            self._followed = None

    def _versions(self) -> tuple[int, ...]:
        # torch counts the changes in place of every tensor
        return tuple(w._version for w in self.net.parameters())


def _begin_anew(module: Ddpm, _keys: object) -> None:
    module._followed = None


def _frozen(net: nn.Module) -> nn.Module:
    """Return a copy whose weights are buffers: optimisers, penalties and importances pass them over."""
    twin = copy.deepcopy(net).eval()
    for module in twin.modules():
        for name, w in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, w.detach().clone())
    return twin


class Unconditional(nn.Module):
    """A noise predictor that is never told the class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, noisy: Tensor, timesteps: Tensor, class_labels: Tensor) -> Any:  # noqa: ARG002 - on purpose
        """Return what the network predicts without the class."""
        return self.net(noisy, timesteps)


def ddpm_unet(options: BaseModel, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a Ddpm whose widths double per level as the options say; the image must halve evenly between levels."""
    chosen = DdpmOptions.model_validate(options)
    channels, height, width = image_shape
    levels = len(chosen.width_factors)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(f"{levels} levels need sides that are multiples of {2 ** (levels - 1)}, not {height}x{width}")
    attention = [level in chosen.attention_levels for level in range(levels)]
    # importing it takes seconds, which nothing but a diffusion model should wait for
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention, AttnProcessor

    net = UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=chosen.blocks,
        block_out_channels=tuple(chosen.width * factor for factor in chosen.width_factors),
        down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in attention),
        up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attention)),
        # the class and the timestep are added channel by channel, and the norm of a group of one takes that away again
        norm_num_groups=min(NORM_GROUPS, chosen.width // 2),
        attention_head_dim=NORM_GROUPS,
        dropout=chosen.dropout,
        num_class_embeds=num_classes + 1 if chosen.class_condition else None,
    )
    # Attention in plain products: the fused kernels neither repeat bit for bit on a GPU nor take per-sample gradients.
    for module in net.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    if not chosen.class_condition:
        net = Unconditional(net)
    return Ddpm(net, num_classes=num_classes, decay=chosen.ema_decay)
