"""Several teachers as one: the mean of their probabilities.

Cost: one forward pass of each.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ShapeError

__all__ = ["Averaged"]


class Averaged(nn.Module):
    """A network that answers with the mean of several networks' probabilities, as logits.

    log(mean over networks of softmax(logits)): its softmax is the mean itself, so whatever reads logits reads this.

    Shapes: what the networks take -> (n, classes).

    Args:
        networks: At least one; each is held, not copied.

    Raises:
        RangeError: No network.
        ShapeError: When called: the networks have other classes.

    Example:
        >>> sure, unsure = nn.Linear(1, 2), nn.Linear(1, 2)
        >>> for layer, bias in ((sure, [9.0, -9.0]), (unsure, [0.0, 0.0])):
        ...     _ = layer.weight.data.zero_(), layer.bias.data.copy_(torch.tensor(bias))
        >>> Averaged([sure, unsure])(torch.zeros(1, 1)).softmax(1)
        tensor([[0.7500, 0.2500]], grad_fn=<SoftmaxBackward0>)

    Reference: Shen and Savvides, 2020, arXiv:2009.08453, section 3. Differs: no discriminator.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise RangeError("an average of teachers needs at least one network, got none")
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """The log of the mean probabilities."""
        answers = [network(images) for network in self.networks]
        shapes = {tuple(answer.shape) for answer in answers}
        if len(shapes) > 1:
            raise ShapeError(
                f"the teachers answer in different shapes, {sorted(shapes)}. They must name the same classes."
            )
        logs = torch.stack([answer.float().log_softmax(1) for answer in answers])
        return logs.logsumexp(0) - math.log(len(answers))
