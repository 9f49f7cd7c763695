"""The snippet of docs/generation.md draws by published weights, with diffusers alone, what the service draws."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import workers
from service.catalogue.architectures.options import SmallDdpmOptions
from workers.architectures.ddpm import Ddpm, ddpm_unet
from workers.common_draws import normal
from workers.sampling import sample

SHAPE, CLASSES = (1, 8, 8), 10
DOC = Path(workers.__file__).parents[1] / "docs" / "generation.md"


def _snippet() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), flags=re.DOTALL)
    return str(found)


def _published(folder: Path, *, class_condition: bool) -> Ddpm:
    """Return a model whose file lies in the folder; the average is of other weights than those that are trained."""
    torch.manual_seed(0)
    model = ddpm_unet(SmallDdpmOptions(class_condition=class_condition), SHAPE, CLASSES)
    assert isinstance(model, Ddpm)
    for buffer in model.ema.buffers():
        buffer.add_(0.05 * torch.randn_like(buffer))
    model.ema_updates.fill_(1)
    save_file(model.state_dict(), folder / "painter.safetensors")
    return model.eval()


@pytest.mark.parametrize("class_condition", [True, False])
def test_the_snippet_draws_what_the_service_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, class_condition: bool
) -> None:
    model = _published(tmp_path, class_condition=class_condition)
    monkeypatch.chdir(tmp_path)
    drawn = sample(model, torch.arange(CLASSES), shape=SHAPE, seed=3, steps=20)
    begun = normal(torch.arange(CLASSES), SHAPE, seed=3, draw=0)
    monkeypatch.setattr(torch, "randn", lambda *_shape: begun)
    code = _snippet().replace('"class_condition": True', f'"class_condition": {class_condition}')
    left: dict[str, Any] = {}  # what the documented code leaves behind
    exec(code, left)
    apart = (left["pixels"].int() - drawn.int()).abs()
    assert drawn.float().std() > 10
    # products in another order differ in the last bit, which rounding to 8 bits may show
    assert int(apart.max()) <= 1
    assert float((apart > 0).double().mean()) < 0.01
