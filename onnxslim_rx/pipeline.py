"""The clean stage: rewrites that hold for every model and every target."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxslim_rx.manager import ManagerResult, PassManager
from onnxslim_rx.manager.core import Verify
from onnxslim_rx.manager.journal import OnFailure
from onnxslim_rx.targets import Target

__all__ = ["CLEAN", "clean"]

CLEAN: tuple[str, ...] = (
    "lift-constants",
    "eliminate-noop",
    "inline-constant-if",
    "fold-shapes",
    "fold-constants",
    "eliminate-common-subexpressions",
    "merge-chains",
    "merge-clamps",
    "fuse-batchnorm",
    "fuse-matmul-add",
    "deduplicate-initializers",
    "eliminate-dead-code",
)
"""Passes of the clean stage, in order; they are repeated until none changes anything."""


def clean(
    model: ir.Model,
    *,
    verify: Verify | None = "end",
    target: str | Target = "ort-cpu",
    seed: int = 0,
    skip: Collection[str] = (),
    on_failure: OnFailure = "rollback",
) -> ManagerResult:
    """A cleaned copy of `model`, exact up to rounding.

    A model that was clean already comes back as it was. A pass that fails is rolled back and
    noted, so that one bad rewrite does not cost all others.

    Args:
        model: left as it is.
        verify: see `PassManager`.
        target: the device profile.
        seed: of the inputs for verification.
        skip: names of passes to leave out.
        on_failure: see `PassManager`.

    Raises:
        InputError: a pass cannot be loaded, or the model is not valid.
    """
    passes = [name for name in CLEAN if name not in skip]
    manager = PassManager(passes, verify=verify, target=target, seed=seed, on_failure=on_failure)
    return manager.run(model)
