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

    T log(mean over networks of softmax(logits / T)): its softmax at temperature T is the mean of theirs, so a loss at
    that temperature asks for it. The mean at one temperature is not that at another: where one network is sure and the
    other is not, all wrong classes come from the other.

    Shapes: what the networks take -> (n, classes).

    Args:
        networks: At least one; each is held, not copied.
        temperature: T, above 0; that of the loss which reads the answer.

    Raises:
        RangeError: No network, or a temperature that is not above 0.
        ShapeError: When called: the networks have other classes.

    Example:
        >>> sure, unsure = nn.Linear(1, 2), nn.Linear(1, 2)
        >>> for layer, bias in ((sure, [9.0, -9.0]), (unsure, [0.0, 0.0])):
        ...     _ = layer.weight.data.zero_(), layer.bias.data.copy_(torch.tensor(bias))
        >>> Averaged([sure, unsure])(torch.zeros(1, 1)).softmax(1)
        tensor([[0.7500, 0.2500]], grad_fn=<SoftmaxBackward0>)

    Reference: Shen and Savvides, 2020, arXiv:2009.08453, section 3. Differs: no discriminator.
    """

    temperature: Tensor

    def __init__(self, networks: Sequence[nn.Module], *, temperature: float = 1.0) -> None:
        super().__init__()
        if not networks:
            raise RangeError("an average of teachers needs at least one network, got none")
        if not temperature > 0:
            raise RangeError(f"the temperature of an average must be above 0, got {temperature}")
        self.networks = nn.ModuleList(networks)
        # A buffer, so that the digest of a run tells one temperature from another.
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, images: Tensor) -> Tensor:
        """The log of the mean probabilities, T times."""
        answers = [network(images) for network in self.networks]
        shapes = {tuple(answer.shape) for answer in answers}
        if len(shapes) > 1:
            raise ShapeError(
                f"the teachers answer in different shapes, {sorted(shapes)}. They must name the same classes."
            )
        logs = torch.stack([(answer.float() / self.temperature).log_softmax(1) for answer in answers])
        return self.temperature * (logs.logsumexp(0) - math.log(len(answers)))
