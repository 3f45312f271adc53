"""Build an architecture from its origin, the same each time, with every failure as one sentence."""

from torch import nn

from reverie.core.errors import ReferenceNotFound, ReverieError
from reverie.core.network import Origin, build_origin
from reverie.core.rng import preserved_rng, seed_global

__all__ = ["build"]


def build(origin: Origin) -> nn.Module:
    """Call the factory of an origin under a fixed seed; the global random state is as before.

    Raises:
        ReferenceNotFound: The factory cannot be imported, or failed; its own error is the cause.
    """
    with preserved_rng():
        seed_global(0)
        try:
            return build_origin(origin)
        except ReverieError:
            raise
        # A factory, and the module that it lies in, may fail in any way that their author's code does.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ReferenceNotFound(
                f"{origin.factory} with arguments {dict(origin.arguments)!r:.200} could not be built "
                f"({type(error).__name__}: {reason[:200]}). Check the arguments, or the factory itself."
            ) from error
