"""Starts the process that ranks are forked from, with all imported that each of them needs.

What it does then is written in `nursery`.
"""

import gc
import os


def main() -> None:
    """Imports torch, then serves attempts until stdin ends."""
    gc.disable()  # a collection every few thousand new objects makes the imports a fifth longer
    import torch._dynamo  # noqa: F401  # the first optimizer of each rank would import it, for 1 s

    from launcher.engines import nursery

    gc.freeze()  # half a million objects that no collection of a rank need look at again
    gc.enable()
    nursery.Nursery().serve()
    os._exit(0)  # taking torch down in good order would cost half a second


if __name__ == "__main__":
    main()
