"""argparse with one-line errors that guess what was meant."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

__all__ = ["HelpFormatter", "Parser"]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions; never wider than 100 columns."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(shutil.get_terminal_size().columns, 102) - 2
        super().__init__(prog, **{"max_help_position": 28, "width": width, **options})
        self._action_max_length = 14  # verbs are indented once more than argparse reckons


class Parser(argparse.ArgumentParser):
    """Errors are one line with a hint; unknown options belong to the verb that got them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        options.setdefault("allow_abbrev", False)  # an abbreviation stops working when options come
        super().__init__(*args, **options)

    def parse_known_args(  # type: ignore[override]  # the base class has overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the base class, except that an unknown argument is an error of this parser."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unknown argument {rest[0]!r}{self._guess(rest[0], self._options())}")
        return found, []

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        bad = re.search(r"invalid choice: '([^']*)'", message)
        if bad:
            message += self._guess(bad.group(1), self._choices())
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: {line}; see '{self.prog} --help'\n")

    def _options(self) -> Iterable[str]:
        return self._option_string_actions

    def _choices(self) -> Iterable[str]:
        return [str(word) for action in self._actions for word in action.choices or ()]

    @staticmethod
    def _guess(word: str, known: Iterable[str]) -> str:
        close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
        return f"; did you mean {close[0]!r}?" if close else ""

    def _print_message(self, message: str, file: Any = None) -> None:
        """As the base class; a reader that has gone away is no error."""
        with contextlib.suppress(BrokenPipeError):
            (file or sys.stderr).write(message)
