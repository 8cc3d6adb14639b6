"""What the fork server imports once, so that a worker starts in milliseconds and shares its memory.

Only the fork server imports this module.
"""

import os

# Read when the libraries load: a worker is one thread, the processes are what is parallel.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)
