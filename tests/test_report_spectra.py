"""What `inspect --spectra` prints."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from onnxslim_rx.analysis import Spectrum
from onnxslim_rx.report.spectra import is_smaller, print_spectra, rank_text, sentence


def printed(spectra, *, top=0, encoding="utf-8"):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    print_spectra(Console(file=stream, width=250, highlight=False, markup=False), spectra, top=top)
    return stream.buffer.getvalue().decode(encoding)


@pytest.fixture
def spectra():
    steep, flat = np.ones(201), np.linspace(0, 1, 201)
    steep[:10] = np.linspace(0, 0.99, 10)
    return [
        Spectrum("steep", "MatMul", (200, 300), 1, 240_000, flat, steep),
        Spectrum("flat", "Conv", (200, 300), 2, 480_000, flat, note="not whitened: a reason"),
        Spectrum("large", "MatMul", (2000, 3000), 1, 10**6, flat * 0.5, note="first ranks"),
        Spectrum("broken", "MatMul", (200, 300), 1, 100, None, note="the weight has NaN"),
    ]


def test_ranks_beside_break_even(spectra):
    lines = printed(spectra).splitlines()
    (steep,) = (line.split() for line in lines if line.startswith("steep"))
    assert steep[2:12] == [
        "200", "x", "300", "240", "kB", "119", "180", "198", "200", "9",
    ]  # fmt: skip
    assert steep[-1] == "*"
    (large,) = (line for line in lines if line.startswith("large"))
    assert large.count(">200") == 3
    assert "2 of 200 x 300" in next(line for line in lines if line.startswith("flat"))
    assert any("smaller for 1 of 4 weights" in line for line in lines)
    assert "note: flat: not whitened: a reason" in "\n".join(lines)


def test_bars_rise_and_have_a_plain_form(spectra):
    bars = printed(spectra[:1]).splitlines()[2].split()[-2]
    assert bars == "".join(sorted(bars))
    assert bars[-1] == "\u2588"
    assert "\u2588" not in printed(spectra[:1], encoding="ascii")


def test_columns_of_outputs_only_with_data(spectra):
    assert "X 90 %" in printed(spectra)
    assert "X 90 %" not in printed(spectra[1:])
    assert "of the weight's energy are smaller for 0 of 3" in sentence(spectra[1:])


def test_the_largest_are_shown_and_the_rest_counted(spectra):
    text = printed(spectra, top=2)
    assert "and 2 more (--top 0 shows all)" in text
    assert "steep" not in text
    assert "no weight can be compressed" in printed([])


def test_what_counts_as_smaller(spectra):
    assert [is_smaller(spectrum) for spectrum in spectra] == [True, False, False, False]
    assert rank_text(spectra[3], 0.9, whitened=False) == "-"
    assert rank_text(spectra[1], 0.9, whitened=True) == "-"
