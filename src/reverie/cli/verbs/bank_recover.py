"""`reverie bank recover`: which codes of a generator make given images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreamt import bank_folder
from reverie.cli.limits import at_least_one, check_files
from reverie.cli.loading import AS_STATED, Loading, load_network, own_images
from reverie.core.errors import RangeError, ReferenceNotFound

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["recover"]


def recover(
    generator: str,
    /,
    *,
    out: Path,
    images: str | None = None,
    n: int = 16,
    steps: int = 200,
    learning_rate: float = 0.1,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Find the codes from which a generator makes given images, by descent on the squared error.

    Writes OUT, an .npz file: the codes, and the images that the generator makes of them.

    Args:
        generator: A bank from reverie bank generate, or package.module:factory@WEIGHTS, --image-shape that of codes.
        out: The .npz file.
        images: zoo:fashion-mnist, a folder of image files, or an .npz file; not given: the bank's own.
        n: How many images, at least 1.
        steps: Descent steps, at least 1.
        learning_rate: Of the first step, above 0, in units of the codes.
        seed: Of the codes that the descent begins with.
        loading: How the generator is read.
        manner: How the answer is given.
    """
    del manner
    import math

    from reverie.dream import recover_codes

    at_least_one(n=n, steps=steps)
    if not learning_rate > 0:
        raise RangeError(f"--learning-rate must be above 0, got {learning_rate:g}")
    check_files(out=out)
    maker, codes, own = _generator(generator, n, seed, loading)
    wanted = own if images is None else _images(images, maker, codes)
    if wanted is None:
        raise RangeError(f"{generator} is no bank with images of its own: give --images")
    wanted = wanted[:n]
    with progress() as on_event:
        found = recover_codes(
            maker, wanted, codes=codes[: len(wanted)], steps=steps, learning_rate=learning_rate, on_event=on_event
        )
    made = _made(maker, found)
    error = float((made - wanted).square().mean())
    told = {
        "file": str(out),
        "count": len(wanted),
        "mean_squared_error": error,
        "psnr_db": None if error == 0 else -10 * math.log10(error),
    }
    _write(out, found, made)
    noise = "" if error == 0 else f", {told['psnr_db']:.1f} dB"
    return Answer(told, (f"codes of {len(wanted)} images, mean squared error {error:.2g}{noise}: {out}",))


def _generator(reference: str, count: int, seed: int, loading: Loading) -> "tuple[nn.Module, Tensor, Tensor | None]":
    """The generator, codes to begin with, and the images that it is known to make."""
    import torch

    from reverie.core.rng import generator as rng
    from reverie.dream import Bank, load_generator

    folder = bank_folder(Path(reference))
    if folder.is_dir():
        bank, maker = Bank.load(folder), load_generator(folder)
        codes = torch.randn(count, maker.map.in_features, generator=rng(seed, "recover"))
        return maker, codes, bank.source().floats()
    if folder.suffix and folder.exists():
        raise ReferenceNotFound(f"{reference} is a file; give a bank's folder, or package.module:factory@{reference}")
    network = load_network(reference, loading, any_axes=True)
    return network, torch.randn(count, *network.image_shape, generator=rng(seed, "recover")), None


def _images(reference: str, maker: "nn.Module", codes: "Tensor") -> "Tensor":
    """Real images of the shape that the generator makes."""
    from torch import nn

    from reverie.core.network import ImageNetwork

    shape = tuple(_made(maker, codes[:1]).shape[1:])
    return own_images(reference, ImageNetwork(nn.Identity(), image_shape=shape)).floats()


def _made(maker: "nn.Module", codes: "Tensor") -> Any:  # noqa: ANN401  torch may not be imported for annotations
    import torch

    from reverie.core.modes import frozen

    with frozen(maker), torch.no_grad():
        return maker(codes)


def _write(out: Path, codes: "Tensor", made: "Tensor") -> None:
    import io

    import numpy as np
    import torch

    from reverie.core.store import write_bytes

    pixels = (made.clamp(0, 1) * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, codes=codes.numpy(), images=pixels.numpy())
    write_bytes(out, buffer.getvalue())
