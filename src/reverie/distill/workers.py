"""Several processes that teach one student: each takes its part of every batch, and all take the same step.

Processes are those of PyTorch's own launcher: `torchrun --nproc-per-node 2 script.py`, where the script calls
`torch.distributed.init_process_group()` before it distils. Without that there is one worker, and nothing here costs
anything.

Cost: one message with the gradients of a step, and one with the statistics of normalizations at each milestone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Workers", "current_workers"]


@dataclass(frozen=True)
class Workers:
    """The processes that work together.

    Attributes:
        index: Of this process, from 0.
        count: Of all; 1 where the process is alone.
    """

    index: int = 0
    count: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; all parts together are the batch."""
        return batch if self.count == 1 else batch[self.index :: self.count]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all processes."""
        held = list(tensors) if self.count > 1 else []
        if not held:
            return
        # One message for all of them: many small ones cost their latency each.
        flat = torch.cat([tensor.detach().flatten().float() for tensor in held]) / self.count
        dist.all_reduce(flat)
        for tensor, mean in zip(held, flat.split([tensor.numel() for tensor in held]), strict=True):
            tensor.detach().copy_(mean.view(tensor.shape))


def current_workers() -> Workers:
    """The processes of the default process group, or this one alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return Workers()
    return Workers(dist.get_rank(), dist.get_world_size())
