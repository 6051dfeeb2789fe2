"""Starts the process that ranks are forked from, with all imported that each of them needs.

What it does then is written in `nursery`.
"""

import contextlib
import gc
import importlib
import os
import sys


def main() -> None:
    """Imports torch and what else it is told, then serves attempts until stdin ends."""
    gc.disable()  # a collection every few thousand new objects makes the imports a fifth longer
    import torch._dynamo  # noqa: F401  # the first optimizer of each rank would import it, for 1 s

    from launcher.distributed import set_environment
    from launcher.engines import nursery

    set_environment({"DS_ACCELERATOR": "cpu"})  # what is imported here must look for no GPU
    for name in sys.argv[1:]:
        # Its stdout is for news only; a rank that cannot do without will say what is missing.
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(ImportError):
            importlib.import_module(name)

    gc.freeze()  # half a million objects that no collection of a rank need look at again
    gc.enable()
    nursery.Nursery().serve()
    os._exit(0)  # taking torch down in good order would cost half a second


if __name__ == "__main__":
    main()
