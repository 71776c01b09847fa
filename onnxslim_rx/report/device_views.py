"""Tables of devices, and of what their kernels took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from onnxslim_rx.report.tables import show_line, show_table
from onnxslim_rx.report.text import bytes_text, count_text, percent_text, seconds_text

__all__ = ["print_devices", "print_profile"]

Table = Mapping[str, Any]

_GIGA = 1e9


def print_devices(
    console: Console, devices: Sequence[Table], tried: Sequence[Table], why: str
) -> None:
    """Print the devices of this machine.

    Args:
        console: from `tables.make_console`.
        devices: the fields of `runtime.Device`, and `selftest`: the fields of
            `runtime.SelfTest`, or None.
        tried: `library` and `found`, of each OpenCL library.
        why: why there is no OpenCL device, or "".
    """
    columns = ["device", "name", "kind", "through", "units", "memory", "fp16", "tuned", "self-test"]
    show_table(
        console,
        columns,
        [_device_row(device) for device in devices],
        words=["device", "name", "kind", "through", "tuned"],
        optional=["fp16", "tuned", "kind", "through"],
    )
    show_line(
        console, "device: what --device and InferenceSession(device=...) take; default: auto", "dim"
    )
    for device in devices:
        for error in (device["selftest"] or {}).get("errors", ()):
            show_line(console, f"{device['spec']}: {error}", "red")
    if why:
        show_line(console, f"note: {why}", "yellow")
        if tried:
            names = ", ".join(one["library"] for one in tried)
            show_line(console, f"tried: {names}", "dim")


def _device_row(device: Table) -> Sequence[object]:
    test = device["selftest"]
    name = device["name"]
    if device["card"]:
        name = f"{device['card']} ({', '.join(filter(None, (device['architecture'], name)))})"
    half = device["fp16"]
    return (
        device["spec"],
        name,
        device["kind"],
        device["runtime"],
        device["units"],
        bytes_text(device["memory"]),
        "" if half is None else "yes" if half else "no",
        ", ".join(device["tuned"]),
        "" if test is None else f"{'ok' if test['ok'] else 'FAILED'}, {test['seconds']:.1f} s",
    )


def print_profile(console: Console, name: str, profile: Table, samples: int) -> None:
    """Print what the kernels of a model took.

    Args:
        console: from `tables.make_console`.
        name: of the model.
        profile: from `runtime.Profile.to_dict`.
        samples: how many were run.
    """
    console.print()
    rows = profile["kernels"]
    if not rows:
        show_line(console, f"{name}: no kernel of the native library was launched")
        return
    whole = sum(row["seconds"] for row in rows) or 1.0
    show_table(
        console,
        ["kernel", "device", "launches", "time", "share", "moved", "GB/s", "GFLOP/s", "roofline"],
        [_kernel_row(row, whole) for row in rows],
        title=f"{name}: kernels, {samples} samples",
        words=["kernel", "device"],
        optional=["device", "GFLOP/s", "GB/s"],
    )
    moved = profile["transfers"]
    up = f"{bytes_text(moved['up_bytes'])} in {seconds_text(moved['up_seconds'])}"
    down = f"{bytes_text(moved['down_bytes'])} in {seconds_text(moved['down_seconds'])}"
    show_line(console, f"copied to devices: {up}; from them: {down}", "dim")
    if any(row["roofline"] is not None for row in rows):
        show_line(
            console, "roofline: share of the largest rate of the card, of sums or of memory", "dim"
        )


def _kernel_row(row: Table, whole: float) -> Sequence[object]:
    seconds = row["seconds"]
    name = row["kernel"] if row["kernel"] == row["family"] else f"{row['family']}.{row['kernel']}"
    return (
        name,
        row["device"],
        count_text(row["launches"]),
        seconds_text(seconds),
        percent_text(seconds / whole),
        bytes_text(row["bytes"]),
        f"{row['bytes'] / seconds / _GIGA:.1f}" if seconds > 0 else "",
        f"{row['flops'] / seconds / _GIGA:.0f}" if seconds > 0 else "",
        "" if row["roofline"] is None else percent_text(row["roofline"]),
    )
