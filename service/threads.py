"""One thread for BLAS, OpenMP and tokenizers: the gateway's products are small, and thread pools fight over the cores.

With default threads one small matrix product was measured 150 times slower.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def pin_threads(environment: MutableMapping[str, str] | None = None) -> None:
    """Set the variables that pin numeric libraries to one thread, where the user has not set them.

    They are read when numpy is first imported, so this must run before that.
    """
    target = os.environ if environment is None else environment
    for name, value in _VARIABLES.items():
        target.setdefault(name, value)
