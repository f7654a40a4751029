"""Shared memory that only takes what is used: sparse memfd arrays that grow without being copied."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.core.errors import StoreError

PAGE = mmap.PAGESIZE


def machine_bytes() -> int:
    """Memory of this machine: no array can ever fill more, so reserving as many addresses is enough."""
    return os.sysconf("SC_PHYS_PAGES") * PAGE


class Arena:
    """Named arrays, each in a memory file of its own that takes memory page by page as it is written.

    The addresses are reserved at once, so an array never moves and growing it costs nothing. Other processes of the
    same user can map the same memory through ``/proc/<pid>/fd`` while this process lives (see ``shared.py``).
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A new array of zeros.

        Raises:
            StoreError: the addresses cannot be reserved.
        """
        dtype = np.dtype(dtype)
        size = max(-(-int(np.prod(shape)) * dtype.itemsize // PAGE) * PAGE, PAGE)
        try:
            fd = os.memfd_create(f"robolearn-{name.replace('/', '.')}", os.MFD_CLOEXEC)
            self._fds[name] = fd
            os.ftruncate(fd, size)
            mapped = mmap.mmap(fd, size)
        except OSError as error:
            raise StoreError(
                f"cannot reserve {size >> 20} MiB of addresses for '{name}': {error}; expected no limit on the address "
                "space (ulimit -v) and enough file handles (ulimit -n)"
            ) from error
        self._maps[name] = mapped
        array = np.frombuffer(mapped, dtype, count=int(np.prod(shape))).reshape(shape)
        self._arrays[name] = array
        return array

    def release(self, name: str, first: int, count: int) -> None:
        """Give the memory of whole pages within ``count`` entries from ``first`` back; they read as zeros then."""
        array = self._arrays[name]
        start, stop = first * array.strides[0], (first + count) * array.strides[0]
        start, stop = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        if stop > start:
            self._maps[name].madvise(mmap.MADV_REMOVE, start, stop - start)

    def directory(self) -> dict[str, dict[str, Any]]:
        """Name -> file handle, dtype and shape: what another process needs to map the same arrays."""
        return {
            name: {"fd": self._fds[name], "dtype": array.dtype.str, "shape": list(array.shape)}
            for name, array in self._arrays.items()
        }

    @property
    def used_bytes(self) -> int:
        """Memory taken by all arrays together."""
        return sum(os.fstat(fd).st_blocks * 512 for fd in self._fds.values())

    def close(self) -> None:
        """Let go of the files; the memory goes when the last array that uses it does. Idempotent."""
        while self._fds:
            os.close(self._fds.popitem()[1])
        self._maps.clear()
        self._arrays.clear()


def map_arrays(pid: int, directory: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Read-only arrays in the memory of another process of this user.

    Raises:
        StoreError: that process is gone, or is somebody else's.
    """
    return {name: map_array(pid, at["fd"], at["dtype"], tuple(at["shape"])) for name, at in directory.items()}


def map_array(pid: int, fd: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """As ``map_arrays``, for one."""
    try:
        own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"cannot attach to the memory of process {pid}: {error.strerror}; expected the owner of the replay to be "
            "alive and to belong to the same user"
        ) from error
    try:
        size = os.fstat(own).st_size
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size < wanted:
            raise StoreError(f"cannot attach to process {pid}: handle {fd} holds {size} bytes, expected {wanted}")
        mapped = mmap.mmap(own, size, prot=mmap.PROT_READ)
    finally:
        os.close(own)
    return np.frombuffer(mapped, dtype, count=int(np.prod(shape))).reshape(shape)
