"""What is said of data that raises, and of models that compute what cannot be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import onnx_ir as ir

from onnxslim_rx.errors import InputError

__all__ = ["UnmeasurableError", "blaming", "guarded", "not_finite", "too_large"]

Item = TypeVar("Item")


class UnmeasurableError(InputError):
    """No other run on the same data would get further."""


def not_finite(value: ir.Value, where: str) -> UnmeasurableError:
    """NaN or infinity at `value`; `where` names the sample."""
    return UnmeasurableError(
        f"the model computes NaN or infinity at {value.name!r} on {where}",
        expected="finite activations on calibration data",
        advice="check how the data was preprocessed, and the original model on it",
    )


def too_large(value: ir.Value) -> UnmeasurableError:
    """Finite numbers at `value` whose squares are not."""
    return UnmeasurableError(
        f"the activations at {value.name!r} are too large to be squared",
        expected="activations below 1e150",
    )


@contextlib.contextmanager
def blaming(where: str) -> Iterator[None]:
    """The user's code runs inside, to make the sample that `where` names.

    Raises:
        InputError: in place of whatever it raises.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the calibration data raised {type(error).__name__} at {where}: {error}",
            expected="samples until the data ends",
            advice="correct what makes this one, or leave it out",
        ) from error


def guarded(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The user's `items`, one by one; `what` calls one of them in messages.

    Raises:
        InputError: in place of whatever their iterator raises.
    """
    number, end = 0, object()
    with blaming(f"{what} 0"):
        iterator = iter(items)
    while True:
        with blaming(f"{what} {number}"):
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]  # not the end
        number += 1
