"""Random numbers: generators in, generators out; the global state is never touched.

Every random choice draws from a generator derived from one seed and the place where it is used, so work may be done
in any order, or again after a kill, and gives the same bytes.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "generator", "preserved_rng", "seed_global"]


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one place of use, independent of the seeds of all other places.

    Args:
        seed: The seed of the whole run.
        path: Where it is used, such as `("dream", "batch", 3)`.

    Example:
        >>> derive_seed(0, "dream", 1) == derive_seed(0, "dream", 1)
        True
        >>> derive_seed(0, "dream", 1) == derive_seed(0, "dream", 2)
        False
    """
    # repr keeps apart what joining would mix up: ("a", "b") and ("a/b",), 1 and "1".
    return int.from_bytes(hashlib.sha256(repr((seed, *path)).encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int, device: str = "cpu") -> torch.Generator:
    """A fresh generator for one place of use; see `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *path))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put PyTorch's global random state back afterwards, also after an error.

    For calls into code that is not ours and draws from the global state.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        yield


def seed_global(seed: int) -> None:
    """Seed PyTorch's global random state, within `preserved_rng`, for code that draws from nothing else.

    Unlike `torch.manual_seed` it seeds only what `preserved_rng` puts back: the processor, and CUDA where it runs
    already. Before that, PyTorch would keep the seed for when CUDA starts, and the user's own would be lost.

    Args:
        seed: As `torch.manual_seed` takes it.

    Example:
        >>> with preserved_rng():
        ...     seed_global(3)
        ...     first = torch.rand(1)
        >>> with preserved_rng():
        ...     seed_global(3)
        ...     bool(torch.rand(1) == first)
        True
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
