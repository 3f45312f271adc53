"""A script for `torchrun`: distils in several processes, and writes what each of them ends with."""

import sys
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from reverie.core.source import noise_source
from reverie.distill import distill


class Net(nn.Module):
    """A linear map behind a batch norm, or without one."""

    def __init__(self, seed: int, *, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images.flatten(1)))


def main(folder: Path, *, norm: bool) -> None:
    """Distil, and write the student of this process."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    source = noise_source(count=80, image_shape=(1, 4, 4), seed=0)
    teacher, student = Net(0, norm=norm), Net(1, norm=norm)
    checkpoint = folder / f"state-{norm}.safetensors"
    taught = distill(
        teacher,
        student,
        source,
        steps=12,
        batch_size=16,
        learning_rate=0.1,
        precision=torch.float32,
        checkpoint=checkpoint,
    )
    state = {name: tensor.contiguous() for name, tensor in taught.last.state_dict().items()}
    safetensors.torch.save_file(state, folder / f"student-{norm}-{rank}.safetensors")


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    for with_norm in (False, True):
        main(Path(sys.argv[1]), norm=with_norm)
    if dist.is_initialized():
        dist.destroy_process_group()
