"""Passes by class name: `rx.passes.FactorizeGemm`.

The names come from the entry points, so a third party's passes are here too. Typed code imports
the class from its own module instead (ours from `onnxslim_rx_passes`).
"""

from __future__ import annotations

from onnxslim_rx import registry

# no __all__: the names are not known before the entry points are read


def __getattr__(name: str) -> registry.PassType:
    found = None if name.startswith("_") else registry.find_class(name)
    if found is None:
        raise AttributeError(f"there is no pass class {name!r}; see dir(onnxslim_rx.passes)")
    return found


def __dir__() -> list[str]:
    return sorted(entry.attr for entry in registry.offered().values())
