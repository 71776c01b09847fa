"""Models with state: which output comes back as which input in the next step."""

from __future__ import annotations

import re
from collections.abc import Mapping

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime.specs import TensorSpec

__all__ = ["check_state", "guess_state"]

# what exporters call the state before and after a step; `h0` and `hn`, `r1i` and `r1o` are glued
_OLD = {"prev", "previous", "old", "init", "initial", "input", "in"}
_NEW = {"next", "new", "updated", "output", "out", "final"}
_OLD_END = re.compile(r" ?[0i]$")
_NEW_END = re.compile(r" ?[on]$")
# what a state is called; keeps `image_in` and `image_out` of a denoiser apart
_STATE = re.compile(
    r"(states?|hidden|cells?|caches?|mem(ory)?|kv|keys?|values?|lstm|gru|rnn|ssm|conv|buffers?|carry"
    r"|[hcr]x?)\d*"
)


def guess_state(
    inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> dict[str, str]:
    """`{input: output}` for outputs that are fed back, by names, types and shapes.

    Recognised are pairs such as `past_key_values.0.key` and `present.0.key`, `state` and
    `stateN`, `h0` and `hn`, `cache_in` and `cache_out`, `r1i` and `r1o`. At least one input
    stays that is no state.
    """
    after = {name: _stems(name, _NEW, _NEW_END) for name in outputs}
    found: dict[str, str] = {}
    for name, spec in inputs.items():
        before = _stems(name, _OLD, _OLD_END)
        if not any(_STATE.fullmatch(word) for stem in before for word in stem.split()):
            continue
        for other, result in outputs.items():
            if before & after[other] and other not in found.values() and _fits(spec, result):
                found[name] = other
                break
    return found if len(found) < len(inputs) else {}


def check_state(
    state: Mapping[str, str], inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    """Check a mapping `{input: output}` that the user gave.

    Raises:
        InputError: a name does not exist, or type or rank differ.
    """
    for name, other in state.items():
        if name not in inputs:
            raise InputError(f"the model has no input {name!r}", expected=", ".join(inputs))
        if other not in outputs:
            raise InputError(f"the model has no output {other!r}", expected=", ".join(outputs))
        if not _fits(inputs[name], outputs[other]):
            raise InputError(
                f"output {other!r} is {outputs[other]}",
                expected=f"{inputs[name]}, as input {name!r} takes it",
            )


def _fits(old: TensorSpec, new: TensorSpec) -> bool:
    """Whether `new` can be fed as `old`: same type and rank, no two different fixed sizes."""
    if old.type != new.type or not old.is_tensor or len(old.shape) != len(new.shape):
        return False
    pairs = zip(old.shape, new.shape, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _stems(name: str, noise: set[str], end: re.Pattern[str]) -> set[str]:
    """What is left of `name` without the words, and without the ending, that say which step."""
    name = re.sub(r"(past|present)(_key_values)?(?![a-z])", "kv", name)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()  # stateN
    words = " ".join(word for word in re.split(r"[^a-z0-9]+", name) if word not in noise)
    return {words, end.sub("", words)} - {""}
