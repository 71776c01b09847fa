"""Spectra on the console and in words: for which weights two thin factors would be smaller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from onnxslim_rx.analysis import Spectrum
from onnxslim_rx.report.tables import show_line, show_table
from onnxslim_rx.report.text import bytes_text

__all__ = ["is_smaller", "print_spectra", "rank_text", "sentence"]

_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_DIGITS = "12345678"
_STEPS = 12
SHARES = (0.9, 0.99, 0.999)


def is_smaller(spectrum: Spectrum) -> bool:
    """Whether 99% of the energy fits into factors that are smaller than the matrix.

    Of the outputs' energy where activations were seen, else of the weight's.
    """
    rank = spectrum.rank(0.99, whitened=spectrum.whitened is not None)
    return rank is not None and rank <= spectrum.break_even


def sentence(spectra: Sequence[Spectrum]) -> str:
    """Such as "Two factors that keep 99 % of the energy are smaller for 31 of 36 weights"."""
    smaller = sum(map(is_smaller, spectra))
    seen = any(spectrum.whitened is not None for spectrum in spectra)
    whose = "of the outputs' energy" if seen else "of the weight's energy"
    return f"Two factors that keep 99 % {whose} are smaller for {smaller} of {len(spectra)} weights"


def rank_text(spectrum: Spectrum, share: float, *, whitened: bool) -> str:
    """A rank, ">256" where only the leading ones are known, "-" where nothing is."""
    rank = spectrum.rank(share, whitened=whitened)
    kept = spectrum.whitened if whitened else spectrum.plain
    if rank is not None or kept is None:
        return "-" if rank is None else str(rank)
    return f">{len(kept) - 1}"


def print_spectra(console: Console, spectra: Sequence[Spectrum], *, top: int) -> None:
    """Print the ranks that keep 90, 99 and 99.9% of the energy beside the rank that breaks even.

    Args:
        console: from `tables.make_console`.
        spectra: of the weights of a model.
        top: at most this many, the largest ones, in the order of the model; 0: all.
    """
    if not spectra:
        show_line(console, "no weight can be compressed, so there are no spectra")
        return
    largest = sorted(spectra, key=lambda spectrum: -spectrum.bytes)[: top or None]
    shown = [spectrum for spectrum in spectra if spectrum in largest]
    seen = any(spectrum.whitened is not None for spectrum in spectra)
    bars = _BARS if console.encoding.startswith("utf") else _DIGITS
    sides = (False, True) if seen else (False,)
    columns = ["weight", "op", "matrix", "size", "break-even", "90 %", "99 %", "99.9 %"]
    columns += ["X 90 %", "X 99 %", "X 99.9 %"] if seen else []
    rows = [
        (
            spectrum.name,
            spectrum.op,
            _matrix(spectrum),
            bytes_text(spectrum.bytes),
            spectrum.break_even,
            *(
                rank_text(spectrum, share, whitened=whitened)
                for whitened in sides
                for share in SHARES
            ),
            _sparkline(spectrum, bars),
            "*" if is_smaller(spectrum) else "",
        )
        for spectrum in shown
    ]
    show_table(
        console,
        [*columns, "energy", "smaller"],
        rows,
        title="ranks that keep a share of the energy",
        words=["weight", "op", "matrix", "energy"],
        optional=["op", "matrix"],
    )
    if len(shown) < len(spectra):
        show_line(console, f"and {len(spectra) - len(shown)} more (--top 0 shows all)", "dim")
    show_line(console, sentence(spectra) + ".")
    whose = ", X: of the layer's outputs on your data" if seen else ""
    show_line(console, f"90 %: rank that keeps 90 % of the weight's energy{whose}", "dim")
    show_line(
        console,
        "energy: kept from rank 0 to break-even in equal steps, scale 0 to 99.9 % by its nines;"
        " smaller: the rank for 99 % (an error of 10 %) is not above break-even",
        "dim",
    )
    for note in dict.fromkeys(spectrum.note for spectrum in spectra if spectrum.note):
        names = [spectrum.name for spectrum in spectra if spectrum.note == note]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        show_line(console, f"note: {', '.join(names[:3])}{more}: {note}", "yellow")


def _matrix(spectrum: Spectrum) -> str:
    k, n = spectrum.shape
    return f"{k} x {n}" if spectrum.batch == 1 else f"{spectrum.batch} of {k} x {n}"


def _sparkline(spectrum: Spectrum, bars: str) -> str:
    """Kept energy at equal steps of rank up to break-even, by the number of its nines."""
    kept = spectrum.whitened if spectrum.whitened is not None else spectrum.plain
    if kept is None or not spectrum.break_even:
        return ""
    ranks = np.linspace(0, spectrum.break_even, _STEPS + 1)[1:].round().astype(int)
    lost = 1.0 - kept[np.minimum(ranks, len(kept) - 1)]
    nines = -np.log10(np.maximum(lost, 1e-3)) / 3.0  # 0 to 1
    return "".join(bars[round(float(height) * (len(bars) - 1))] for height in nines)
