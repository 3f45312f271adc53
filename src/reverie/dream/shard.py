"""One batch of dreams as it is kept: a safetensors file whose bytes depend only on what was asked and on its place."""

from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, float32, int64, uint8

from reverie.core.errors import CorruptFile

__all__ = ["Shard", "eight_bits"]


def eight_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] as a shard holds them: uint8, rounded.

    Example:
        >>> from torch import tensor
        >>> eight_bits(tensor([0.0, 0.5, 1.0]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (images * 255).round().to(uint8).contiguous()


@dataclass(frozen=True, eq=False)
class Shard:
    """One batch of dreams.

    Attributes:
        images: (n, c, ...) uint8.
        labels: (n, ...) what was asked for: int64 classes (n,) or maps of classes, float32 vectors.
        logits: (n, ...) float32, the teacher's answer to the 8-bit images.
        seeds: (n,) int64, the seed of each image's first noise.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    seeds: Tensor

    def to_bytes(self) -> bytes:
        """The shard as a safetensors file."""
        names = ("images", "labels", "logits", "seeds")
        content: bytes = save({name: getattr(self, name).contiguous() for name in names})
        return content

    @staticmethod
    def from_bytes(content: bytes, where: str) -> "Shard":
        """Read what `to_bytes` wrote.

        Raises:
            CorruptFile: The content is damaged, or holds something else.
        """
        advice = "Delete the folder to dream anew."
        try:
            shard = Shard(**load(content))
        except (SafetensorError, TypeError) as error:
            raise CorruptFile(f"{where} is no shard of a dream bank ({error}). {advice}") from error
        count = len(shard.images)
        kinds = (shard.images.dtype, shard.logits.dtype, shard.seeds.dtype)
        long = (len(shard.labels), len(shard.logits)) if shard.labels.ndim and shard.logits.ndim else ()
        whole = shard.images.ndim >= 3 and long == (count, count) and shard.seeds.shape == (count,)
        if not whole or kinds != (uint8, float32, int64) or shard.labels.dtype not in (int64, float32):
            raise CorruptFile(f"{where} holds tensors of other kinds or lengths than a shard. {advice}")
        return shard
