"""Sizes, times, counts and cosines as people type them."""

from __future__ import annotations

import argparse

import pytest

from onnxslim_rx.cli import values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("23MB", 23_000_000),
        ("23 mb", 23_000_000),
        ("23M", 23_000_000),
        ("1.5GiB", 1_610_612_736),
        ("1Ki", 1024),
        ("2.5e3", 2500),
        (".5kB", 500),
        ("7B", 7),
    ],
)
def test_size(text, expected):
    assert values.size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("12ms", 12.0), ("12", 12.0), ("0.5s", 500.0), ("800us", 0.8)]
)
def test_duration(text, expected):
    assert values.duration_ms(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.2G", 1_200_000_000), ("500 MFLOPs", 500_000_000), ("1000", 1000), ("3kflop", 3000)],
)
def test_count(text, expected):
    assert values.count(text) == expected


def test_plain_numbers():
    assert values.cosine("0.99") == 0.99
    assert values.cosine("1") == 1.0
    assert values.decibel("30dB") == 30.0
    assert values.decibel("-3") == -3.0
    assert values.drop("0") == 0.0
    assert values.natural(" 7 ") == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("factorize-conv.method=cp", ("factorize-conv", "method", "cp")),
        ("a.rank = 16 ", ("a", "rank", 16)),
        ("a.ratio=.5", ("a", "ratio", 0.5)),
        ("a.flag=True", ("a", "flag", True)),
        ("a.method=a,b", ("a", "method", "a,b")),
    ],
)
def test_settings_of_passes(text, expected):
    assert values.setting(text) == expected


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (values.setting, "factorize-conv", "is not PASS.OPTION=VALUE"),
        (values.size, "23XB", "'23XB' is not a size, such as 23MB"),
        (values.size, "", "'' is not a size"),
        (values.size, "MB", "is not a size"),
        (values.size, "-5MB", "is not above 0"),
        (values.size, "0", "is not above 0"),
        (values.size, "1e400", "is not above 0"),
        (values.duration_ms, "12min", "is not a time, such as 12ms"),
        (values.count, "many", "is not a count"),
        (values.cosine, "99", "not above 0 and at most 1"),
        (values.cosine, "0", "not above 0 and at most 1"),
        (values.cosine, "nan", "is not a cosine"),
        (values.decibel, "loud", "is not a number of dB"),
        (values.drop, "-0.1", "is below 0"),
        (values.natural, "-1", "is not a whole number"),
        (values.natural, "1.5", "is not a whole number"),
    ],
)
def test_what_is_none_says_what_would_be(parse, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse(text)
