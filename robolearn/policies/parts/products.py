"""Products of a few rows with a weight matrix on one core, by NumPy's BLAS: what acting with a network consists of.

With up to some 16 rows the weights have to be fetched and that is all. NumPy's OpenBLAS has kernels that read small
matrices as they are; torch's product takes two to four times as long, and oneDNN's needs 15 us for a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from robolearn.core.spec import Array

_BLOCK = 65_000
"""Weights in a block of columns: with 16 rows just what OpenBLAS takes as small (10^6 multiplications)."""
_LANES = 16
"""Columns of a block are a multiple of this, as many float32 as a register holds."""


class Product:
    """x W + b with the weights as they are now (copied).

    Args:
        weight: (N, K), as of ``torch.nn.Linear``.
        bias: (N,); None for none.

    Attributes:
        inputs: K, or K + 1 with a bias: the last element of each row of x must then be 1.
    """

    def __init__(self, weight: Array, bias: Array | None) -> None:
        whole = weight.T if bias is None else np.concatenate([weight.T, bias[None]])
        self.inputs, self._outputs = whole.shape
        self._width = _block(*whole.shape)
        self._blocks = np.ascontiguousarray(whole.reshape(self.inputs, -1, self._width).swapaxes(0, 1), np.float32)

    def into(self, out: Array, x: Array) -> Callable[[], object]:
        """What fills ``out`` (M, N) with the product of what ``x`` (M, inputs) then holds; both C-contiguous."""
        if len(self._blocks) == 1:
            return partial(np.dot, x, self._blocks[0], out)
        return partial(np.matmul, x, self._blocks, out.reshape(len(out), -1, self._width).swapaxes(0, 1))


def _block(inputs: int, outputs: int) -> int:
    """Columns of a block: the most that divide all and keep it small; all of them where there is no such number."""
    fits = (w for w in range(_LANES, outputs, _LANES) if outputs % w == 0 and inputs * w <= _BLOCK)
    return outputs if inputs * outputs <= _BLOCK else max(fits, default=outputs)
