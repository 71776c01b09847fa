"""Results that take long, kept for whoever asks again with the same arrays: of bounded size.

A fit is wanted when candidates are offered, when they are probed, and when one is carried out.
Equal arguments give equal results, so that nobody can tell whether one was kept.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Memo", "digest"]

Array = npt.NDArray[Any]


def digest(arrays: Iterable[Array]) -> str:
    """Hash of sizes, types and contents."""
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        total.update(f"{array.shape} {array.dtype} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


class Memo:
    """The results asked for last.

    Args:
        most_bytes: that all results together take at most; a larger one is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._size = most_bytes, 0
        self._known: OrderedDict[object, tuple[Array, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], Sequence[Array]]) -> list[Array]:
        """What `make` returns for `key`, made only where it is not kept; do not change it."""
        with self._lock:
            found = self._known.pop(key, None)
            if found is not None:
                self._known[key] = found
                return list(found)
        made = tuple(make())
        size = _size(made)
        with self._lock:
            if size <= self._most and key not in self._known:
                self._known[key] = made
                self._size += size
                while self._size > self._most:
                    _, oldest = self._known.popitem(last=False)
                    self._size -= _size(oldest)
        return list(made)


def _size(arrays: Iterable[Array]) -> int:
    return sum(array.nbytes for array in arrays)
