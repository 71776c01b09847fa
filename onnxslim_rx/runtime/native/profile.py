"""What kernels took: launches, time, bytes and operations, by kernel and device."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime.native.shared_object import library

__all__ = ["KernelRow", "Profile", "Profiler", "Transfers", "roofline_seconds"]

# Largest rates of cards that are recognised: float32 operations a second (two for each multiply-add
# of each lane, at the boost clock) and bytes a second of its memory.
_CARDS = {
    "RX 460": (2.150e12, 112e9),
    "RX 470": (4.940e12, 211e9),
    "RX 480": (5.834e12, 256e9),
    "RX 550": (1.211e12, 112e9),
    "RX 560": (2.611e12, 112e9),
    "RX 570": (5.095e12, 224e9),
    "RX 580": (6.175e12, 256e9),
    "RX 590": (7.119e12, 256e9),
}


def roofline_seconds(card: str, flops: float, moved: float) -> float | None:
    """The least time in which a card does so many operations and moves so many bytes.

    None where the card is not known. Source: Williams, Waterman & Patterson, CACM 52(4), 2009.
    """
    rates = _CARDS.get(card)
    return None if rates is None else max(flops / rates[0], moved / rates[1])


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """One kernel on one device.

    Args:
        family: of the kernel, and of the file that it lies in.
        kernel: its name.
        device: as it calls itself.
        launches: how often it ran.
        seconds: by the clock of the device, in all.
        host_seconds: that the processor took to start it, in all.
        bytes: read and written at least, in all.
        flops: operations, two for each multiply-add, in all.
        roofline: share of the largest rate of a known card, 0 to 1; None: not known.
    """

    family: str
    kernel: str
    device: str
    launches: int
    seconds: float
    host_seconds: float
    bytes: int
    flops: int
    roofline: float | None = None


@dataclasses.dataclass(frozen=True)
class Transfers:
    """Copies between processor and device: bytes, and seconds.

    Args:
        up_bytes, up_seconds: to the device.
        down_bytes, down_seconds: from it.
    """

    up_bytes: int = 0
    up_seconds: float = 0.0
    down_bytes: int = 0
    down_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """What was counted.

    Args:
        kernels: the dearest first.
        transfers: copies.
    """

    kernels: tuple[KernelRow, ...] = ()
    transfers: Transfers = dataclasses.field(default_factory=Transfers)

    @property
    def seconds(self) -> float:
        """Of all kernels."""
        return sum(row.seconds for row in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class Profiler:
    """Counts what the native library launches, in the whole process, while it is entered.

    `read` gives what was counted so far, and when it is left, what was counted until then.

    Args:
        cards: card by name of the device, for those that are recognised.

    Raises:
        InputError: there is no native library; on entering: another one is at work.
    """

    _busy = threading.Lock()  # the library has one set of counters

    def __init__(self, cards: dict[str, str] | None = None) -> None:
        self._library = library()
        self._cards = cards or {}
        self._found = Profile()
        self._on = False

    def __enter__(self) -> Profiler:
        if not Profiler._busy.acquire(blocking=False):
            raise InputError(
                "a profile is being taken already", advice="take one at a time in a process"
            )
        self._on = True
        self._library.profile(True)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._found = self.read()
            self._library.profile(False)
        finally:
            self._on = False
            Profiler._busy.release()

    def read(self) -> Profile:
        """What was counted."""
        if not self._on:
            return self._found
        table = self._library.read_profile()
        rows = sorted(map(self._row, table["kernels"]), key=lambda row: -row.seconds)
        known = {field.name for field in dataclasses.fields(Transfers)}
        moved = {key: value for key, value in table.get("transfers", {}).items() if key in known}
        return Profile(tuple(rows), Transfers(**moved))

    def _row(self, table: dict[str, Any]) -> KernelRow:
        known = {field.name for field in dataclasses.fields(KernelRow)}
        row = KernelRow(**{key: value for key, value in table.items() if key in known})
        least = roofline_seconds(self._cards.get(row.device, ""), row.flops, row.bytes)
        if least is None or row.seconds <= 0:
            return row
        return dataclasses.replace(row, roofline=least / row.seconds)
