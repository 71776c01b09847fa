"""Device profiles: which operators may be emitted, and what runs fast there.

A target is a TOML file; the built-in ones lie in `target_files/`, users may name a file of their
own. Unknown keys are refused, so that a misspelt option is an error.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import sys
from pathlib import Path
from typing import Any, get_args

from onnxslim_rx.errors import InputError
from onnxslim_rx.vocabulary import Level

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Target", "load_target", "target_names"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A device profile.

    Args:
        name: what the user types.
        description: one line for tables and `--help`.
        level: what may be emitted: "portable" (ai.onnx only), "ort" (also com.microsoft) or "rx"
            (also ai.onnxslim.rx).
        rank_multiple: ranks are rounded up to a multiple of this, which the device runs fast.
        min_rank: no factorization below this rank.
        latency_noise: relative difference of two timings below which they count as equal.
        computes: floating-point types that the device multiplies in without converting them first:
            "float32", and "float16" or "bfloat16" where it has kernels for them.
    """

    name: str
    description: str
    level: Level
    rank_multiple: int = 1
    min_rank: int = 1
    latency_noise: float = 0.05
    computes: tuple[str, ...] = ("float32",)

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise InputError(
                f"target {self.name!r} has level {self.level!r}",
                expected=" or ".join(get_args(Level)),
            )
        for field, least in (("rank_multiple", 1), ("min_rank", 1), ("latency_noise", 0.0)):
            if getattr(self, field) < least:
                raise InputError(
                    f"target {self.name!r} has {field} = {getattr(self, field)}",
                    expected=f"at least {least}",
                )
        if unknown := [one for one in self.computes if one not in _TYPES]:
            raise InputError(
                f"target {self.name!r} has computes = {unknown}",
                expected="some of " + ", ".join(_TYPES),
            )

    def allows(self, level: Level) -> bool:
        """Whether operators of `level` may be emitted."""
        levels = get_args(Level)
        return bool(levels.index(level) <= levels.index(self.level))


_TYPES = ("float32", "float16", "bfloat16")
_WANTED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "tuple[str, ...]": (list,),
}


def target_names() -> list[str]:
    """Names of the built-in targets, sorted."""
    files = (importlib.resources.files("onnxslim_rx") / "target_files").iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def load_target(name_or_path: str | os.PathLike[str] | Target) -> Target:
    """The built-in target of that name, or the one in a TOML file.

    Raises:
        InputError: no such target, no such file, or a key or value that is not allowed.
    """
    if isinstance(name_or_path, Target):
        return name_or_path
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        path = Path(text)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the target file {text}: {error}") from error
    elif text in target_names():
        files = importlib.resources.files("onnxslim_rx") / "target_files"
        content = (files / f"{text}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(
            f"there is no target {text!r}",
            expected="one of " + ", ".join(target_names()),
            advice="give a path that ends in .toml to use a profile of your own",
        )
    return _parse(content, text)


def _parse(content: str, origin: str) -> Target:
    try:
        table: dict[str, Any] = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the target file {origin} is not valid TOML: {error}") from error
    known = {field.name: field for field in dataclasses.fields(Target)}
    for key, value in table.items():
        if key not in known:
            raise InputError(
                f"the target file {origin} has an unknown key {key!r}",
                expected="one of " + ", ".join(known),
            )
        wanted = _WANTED.get(str(known[key].type), (str,))
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InputError(f"the target file {origin} has {key} = {value!r}, of the wrong type")
    missing = {"name", "description", "level"} - set(table)
    if missing:
        raise InputError(f"the target file {origin} lacks {', '.join(sorted(missing))}")
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return Target(**{**table, **lists})
