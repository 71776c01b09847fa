"""onnxruntime's error messages, cut to one line and answered with advice."""

from __future__ import annotations

import re

from onnxslim_rx.errors import InputError

__all__ = ["explain"]

_CODE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(Exception during initialization: )?")
# file, line and signature of the C++ function that failed; brackets nest once in signatures
_PLACE = re.compile(
    r"(?:[A-Za-z]:)?[\\/]\S+?:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const|::<lambda\(\)>)? "
)

_UPDATE = "update onnxruntime, or export the model again for an older version"
# what is found in the message; how it is said to the user: found, expected, advice
_KNOWN = (
    (r"Load model (\S.*?) failed\. File doesn't exist", r"there is no file \1", "", ""),
    (
        r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)",
        r"the model uses opset \1 of \2",
        r"at most \3 by the installed onnxruntime",
        _UPDATE,
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        r"the model has IR version \1",
        r"at most \2 by the installed onnxruntime",
        _UPDATE,
    ),
    (
        r"(\S+):(\S+)\([-\d]+\) is not a registered function/op",
        r"the model uses the operator \2 of the domain \1, which onnxruntime does not know",
        "",
        "load the library of custom operators that it comes from",
    ),
    (
        r"No Op registered for (\S+) with domain_version of (\d+)",
        r"the model uses the operator \1, which does not exist in opset \2",
        "",
        "check the operator's name, its domain and the opset",
    ),
    (
        r"Could not find an implementation for (\S+?)\((\d+)\) node with name '(.*?)'",
        r"onnxruntime has no CPU kernel for \1 (opset \2) with the types used at node '\3'",
        "",
        "use another element type there, or export the model again for a newer opset",
    ),
    (
        r"protobuf parsing failed",
        "onnxruntime cannot parse the model",
        "",
        "the file may be truncated or damaged, or no ONNX model",
    ),
)


def explain(error: Exception, doing: str) -> InputError:
    """`error`, raised by onnxruntime while `doing` something, as one clear line."""
    text = " ".join(_CODE.sub("", str(error)).split())
    for pattern, found, expected, advice in _KNOWN:
        match = re.search(pattern, text)
        if match:
            return InputError(match.expand(found), expected=match.expand(expected), advice=advice)
    text = _PLACE.sub("", text).rstrip(". ")
    return InputError(f"onnxruntime failed to {doing}: {text or type(error).__name__}")
