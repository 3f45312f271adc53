"""Passes of a network that wait at every layer until they are let on, so that what lies before it runs once.

What for: layers that are fitted one after the other, each on what the layers before it give now, need passes up to
every layer. Begun anew each time they cost the square of the depth. Here every batch's pass is a thread of its own
that waits at each layer; no two run at once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reverie.core.errors import ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.core.tap import first_tensor

__all__ = ["paced"]


@contextmanager
def paced(
    network: ImageNetwork, names: Sequence[str], batches: Sequence[Tensor], *, after: bool
) -> Iterator[Callable[[str], Iterator[Tensor]]]:
    """What layers read, or give, of each batch, while the passes of all batches go on from layer to layer together.

    Yields a function of a layer's name, which is to be called for all of `names` in turn: an iterator of one tensor per
    batch. A layer whose weights are changed before the next one is asked for runs with the new weights. The passes keep
    what they hold in memory; all threads and hooks are gone afterwards, also after an error.

    Args:
        network: In the mode it is to run in, which `frozen` sets.
        names: Layers that run exactly once in each pass, as they run.
        batches: (n, C, H, W) in [0, 1] each.
        after: Stop after a layer and yield what it gave, the tensor; else before it and yield what it reads.

    Raises:
        ReferenceNotFound: A pass comes to another layer than the one that was asked for, or to its end.

    Example:
        >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False)).eval()
        >>> network = ImageNetwork(layers, image_shape=(1, 2, 2))
        >>> with torch.no_grad(), paced(network, ["1", "2"], [torch.ones(3, 1, 2, 2)], after=False) as reach:
        ...     first = [x.shape for x in reach("1")]
        ...     _ = layers[1].weight.fill_(2.0)
        ...     second = [float(x[0, 0]) for x in reach("2")]
        >>> first, second
        ([torch.Size([3, 4])], [8.0])
    """

    def before_layer(name: str) -> Callable[..., None]:
        return lambda _, given, named: _wait(name, first_tensor((*given, *named.values()), name))

    def after_layer(name: str) -> Callable[..., None]:
        return lambda *call: _wait(name, call[-1])

    def reach(name: str) -> Iterator[Tensor]:
        for one in passes:
            yield one.on_to(name)

    layers: dict[str, nn.Module] = {name: network.body.get_submodule(name) for name in names}
    passes = [_Pass(network, batch) for batch in batches]
    handles = [
        layer.register_forward_hook(after_layer(name), with_kwargs=True)
        if after
        else layer.register_forward_pre_hook(before_layer(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield reach
    finally:
        for one in passes:
            one.leave()
        for handle in handles:
            handle.remove()


def _wait(name: str, seen: Tensor) -> None:
    """Hand over to the thread that asked for this layer; what others run with the network meanwhile goes by."""
    here = threading.current_thread()
    if isinstance(here, _Pass):
        here.wait_at(name, seen)


class _LeftError(BaseException):
    """Ends a pass that nobody waits for; no code of a network catches it with `except Exception`."""


class _Pass(threading.Thread):
    """One pass of one batch, which runs while `on_to` waits for it, and waits else."""

    def __init__(self, network: ImageNetwork, batch: Tensor) -> None:
        super().__init__(name="paced pass", daemon=True)
        self._network, self._batch = network, batch
        self._let_on, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._at: tuple[str, Tensor] | None = None
        self._error: BaseException | None = None
        self._left = False

    def run(self) -> None:
        try:
            # Modes of gradients belong to a thread.
            with torch.no_grad():
                self._network(self._batch)
        except _LeftError:
            pass
        except BaseException as error:  # noqa: BLE001  raised again where the pass is waited for
            self._error = error
        self._at = None
        self._arrived.release()

    def wait_at(self, name: str, seen: Tensor) -> None:
        self._at = name, seen
        self._arrived.release()
        self._let_on.acquire()
        self._at = None
        if self._left:
            raise _LeftError

    def on_to(self, name: str) -> Tensor:
        """Run on to the next layer, which is the one named."""
        if self.ident is None:
            self.start()
        else:
            self._let_on.release()
        self._arrived.acquire()
        if self._error is not None:
            raise self._error
        if self._at is None or self._at[0] != name:
            came = "its end" if self._at is None else f"layer {self._at[0]}"
            raise ReferenceNotFound(
                f"a pass came to {came} where the first images had come to layer {name}; layers can only be fitted in "
                "turn where all images take the same way"
            )
        return self._at[1]

    def leave(self) -> None:
        self._left = True
        self._let_on.release()
        if self.ident is not None:
            self.join()
