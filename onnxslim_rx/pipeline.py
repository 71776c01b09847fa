"""The clean stage: rewrites that hold for every model and every target."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.errors import InputError
from onnxslim_rx.manager import ManagerResult, PassManager
from onnxslim_rx.manager.core import Verify
from onnxslim_rx.manager.journal import OnFailure
from onnxslim_rx.targets import Target

__all__ = ["CLEAN", "OPTIONAL", "clean"]

_ORDER: tuple[str, ...] = (
    "inline-functions",
    "raise-opset",
    "lift-constants",
    "deduplicate-initializers",
    # tidy up
    "eliminate-noop",
    "absorb-constants",
    "cancel-dequantize-quantize",
    "cancel-reshapes",
    "cancel-splits",
    "cancel-transposes",
    "eliminate-clamp-quantize",
    "eliminate-expand",
    "eliminate-softmax-argmax",
    "eliminate-zero-state",
    "fold-shapes",
    "fuse-log-softmax",
    "gathernd-to-gather",
    "inline-constant-if",
    "inline-loop",
    "merge-casts",
    "merge-clamps",
    "merge-concats",
    "merge-constants",
    "merge-gathers",
    "merge-ifs",
    "merge-inverses",
    "merge-moves",
    "merge-rearrangements",
    "merge-reductions",
    "merge-reshaped-transposes",
    "merge-reshapes",
    "merge-slices",
    "merge-transposes",
    "merge-unary-pairs",
    "narrow-conditions",
    "narrow-expands",
    "replace-full-gather",
    "replace-uniform-gather",
    "return-constants",
    "simplify-logic",
    "simplify-reshape",
    "simplify-vectors",
    "slice-counted-gather",
    "split-by-slices",
    # look at the whole graph
    "simplify-shapes",
    "eliminate-common-subexpressions",
    "fold-constants",
    "eliminate-dead-code",
    # recognise what nodes stand for
    "fuse-attention",
    "fuse-bias-gelu",
    "fuse-depth-to-space",
    "fuse-gelu",
    "fuse-gelu-ms",
    "fuse-group-norm",
    "fuse-hard-sigmoid",
    "fuse-hard-swish",
    "fuse-layer-norm",
    "fuse-leaky-relu",
    "fuse-mish",
    "fuse-rms-norm",
    "fuse-skip-layer-norm",
    "fuse-softmax",
    "fuse-softplus",
    "fuse-swish",
    # move arithmetic into weights
    "eliminate-matmul-reshapes",
    "eliminate-zero-bias",
    "fuse-batchnorm",
    "fuse-input-scale",
    "fuse-matmul-add",
    "fuse-output-scale",
    "fuse-pad",
    "fuse-transpose-gemm",
    "merge-batchnorms",
    "merge-convs",
    "merge-gemms",
    "merge-matmuls",
    "move-bias",
    "move-scalar",
    "replace-einsum",
    "replace-transposed-batchnorm",
    "equalize",
)

OPTIONAL: frozenset[str] = frozenset(
    {"equalize", "fuse-bias-gelu", "fuse-gelu-ms", "fuse-skip-layer-norm", "raise-opset"}
)
"""Passes that are left out unless asked for: they need operators of com.microsoft, or a newer
opset, or are of use only where weights are rounded later."""

CLEAN: tuple[str, ...] = tuple(name for name in _ORDER if name not in OPTIONAL)
"""Passes of the clean stage, in order; they are repeated until none changes anything."""


def clean(
    model: ir.Model,
    *,
    verify: Verify | None = "end",
    target: str | Target = "ort-cpu",
    seed: int = 0,
    skip: Collection[str] = (),
    also: Collection[str] = (),
    fold_limit: int | None = None,
    least_opset: int = 0,
    on_failure: OnFailure = "rollback",
    again: Callable[[], ir.Model] | None = None,
) -> ManagerResult:
    """A cleaned copy of `model`, exact up to rounding.

    A model that was clean already comes back as it was. A pass that fails is rolled back and
    noted, so that one bad rewrite does not cost all others.

    Args:
        model: left as it is, unless `again` is given.
        verify: see `PassManager`.
        target: the device profile.
        seed: of the inputs for verification.
        skip: names of passes to leave out.
        also: names of passes of `OPTIONAL` to use as well.
        fold_limit: bytes by which constant folding may make the file grow; None: see
            `FoldConstants`.
        least_opset: version of the standard operators that older models are brought to.
        on_failure: see `PassManager`.
        again: see `PassManager.run`.

    Raises:
        InputError: a pass is unknown or cannot be loaded, or the model is not valid.
    """
    for name in also:
        if name not in OPTIONAL:
            raise InputError(
                f"the pass {name!r} is not optional",
                expected="one of " + ", ".join(sorted(OPTIONAL)),
            )
    wanted = {*CLEAN, *also}.difference(skip)
    passes: list[registry.Pass | str] = [name for name in _ORDER if name in wanted]
    if fold_limit is not None and "fold-constants" in passes:
        if fold_limit < 0:
            raise InputError(f"fold_limit = {fold_limit}", expected="a number of bytes, at least 0")
        options = {"growth": fold_limit, "total_growth": fold_limit}
        folding = registry.make(
            "fold-constants", {**options, "max_bytes": max(1 << 28, fold_limit)}
        )
        passes[passes.index("fold-constants")] = folding
    if model.opset_imports.get("", least_opset) < least_opset and "raise-opset" not in wanted:
        # before all others, which may have more to say then
        passes.insert(0, registry.make("raise-opset", {"to": least_opset}))
    manager = PassManager(passes, verify=verify, target=target, seed=seed, on_failure=on_failure)
    return manager.run(model, again=again)
