"""What can go wrong, by whose fault, and the exit code that the command line gives it.

Every message says what was found, what was expected and what to do about it.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["BudgetError", "InputError", "OnnxslimError", "PassError", "VerificationError"]


class OnnxslimError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        found: what is the case, in one clause, without a trailing full stop.
        expected: what would have been right; left out where it is obvious.
        advice: what the user can do.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, found: str, *, expected: str = "", advice: str = "") -> None:
        self.found = found
        self.expected = expected
        self.advice = advice
        parts = [found, f"expected {expected}" if expected else "", advice]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))


class InputError(OnnxslimError):
    """The model, the data, the options or the output path cannot be used (exit code 2)."""

    exit_code: ClassVar[int] = 2


class BudgetError(OnnxslimError):
    """No plan, not even leaving every layer as it is, keeps the promise (exit code 1).

    `report` is the `report.Report` of the run, which says how far the promise was missed.
    """

    exit_code: ClassVar[int] = 1
    report: Any = None


class VerificationError(OnnxslimError):
    """A rewritten model does not compute what was promised (exit code 1)."""

    exit_code: ClassVar[int] = 1


class PassError(OnnxslimError):
    """A pass broke its contract: a bug of the pass (exit code 3)."""
