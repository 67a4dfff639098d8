"""One thread a process: tests run side by side, and sums must not depend on how threads split them."""

import os

# Read when the libraries load, so set before any of them is imported.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)
