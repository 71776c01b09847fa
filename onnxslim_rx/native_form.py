"""Finished models in operators of our own domain, for targets that have them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.passbase import PassContext, RewritePass
from onnxslim_rx.runtime import evaluate
from onnxslim_rx.runtime.native import library
from onnxslim_rx.targets import Target

__all__ = ["native_target", "to_native"]

NATIVE = "use-native"  # it runs last, when all other passes have found their patterns


def native_target(target: Target, skip: Collection[str] = ()) -> Target:
    """The target, checked; one of level "ort" where the pass is to be left out.

    Args:
        target: as the user gave it.
        skip: names of passes to leave out.

    Raises:
        InputError: the target has operators of our domain, and this installation has no library.
    """
    if target.allows("rx"):
        if NATIVE in skip:
            return dataclasses.replace(target, level="ort")
        library()
    return target


def to_native(model: ir.Model, target: Target | None, *, folded: bool = True) -> ir.Model:
    """The model, in place, with operators of our domain where the target has them.

    `folded`: see the pass. A search leaves what folds, so that it has plans that are never slower.
    """
    if target is None or not target.allows("rx"):
        return model
    one = registry.make(NATIVE, {"folded": folded})
    assert isinstance(one, RewritePass)  # it is our own

    context = PassContext(functools.partial(evaluate, opset_imports=model.opset_imports), target)
    return one(model, context).model
