#!/usr/bin/env python3
"""Find the fastest parameters of the OpenCL kernels on your device.

    python tools/tune.py --device opencl:0:0 --time-limit 600
    python tools/tune.py --families gemm,quant_gemv --output tuned/

Every result is checked against float64 numpy before its time counts. A run that was stopped, by
the time limit or by Ctrl-C, goes on from its journal when it is called again. Needs pyopencl.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from onnxslim_rx.errors import InputError  # noqa: E402
from onnxslim_rx.progress import listen, task  # noqa: E402
from onnxslim_rx.report.listener import progress_listener  # noqa: E402
from onnxslim_rx.runtime import survey  # noqa: E402
from tools.kernel_families import families, family  # noqa: E402
from tools.kernel_params import PARAMS  # noqa: E402
from tools.tune_results import Journal, Target, entry, publish  # noqa: E402
from tools.tune_search import Group, Limits, Outcome, Rig, groups, search  # noqa: E402

__all__ = ["main"]

_JOURNAL = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxslim-rx" / "tune"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and tune; 0 done, 2 what was asked for cannot be done, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        import pyopencl
    except ImportError:
        return _fail("the tuner needs pyopencl: pip install pyopencl[pocl]")
    try:
        return _tune(args, pyopencl)
    except (InputError, pyopencl.Error) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted: the same call goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", metavar="DEVICE", default="opencl",
        help="opencl:P:D, platform and device as pyopencl numbers them (default: the first GPU,"
        " else the first device)",
    )  # fmt: skip
    parser.add_argument(
        "--families", metavar="NAME[,NAME...]", help="tune these alone (default: all)"
    )
    parser.add_argument(
        "--time-limit", metavar="SECONDS", type=float, default=600.0,
        help="for all families together (default: 600)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=PARAMS,
        help="folder of the files of parameters (default: kernels/params)",
    )  # fmt: skip
    parser.add_argument(
        "--journal", metavar="DIR", type=Path, default=_JOURNAL,
        help=f"folder of what was measured so far (default: {_JOURNAL})",
    )  # fmt: skip
    return parser


def _tune(args: argparse.Namespace, pyopencl: Any) -> int:
    from tools.kernel_run import Device

    chosen = _device(args.device, pyopencl)
    target, limits = _target(chosen), Limits(chosen.max_work_group_size, chosen.local_mem_size)
    known = {one.name: one for one in families()}
    wanted = args.families.split(",") if args.families else sorted(known)
    for name in wanted:
        if name not in known:
            raise InputError(f"there is no family {name!r}", expected=", ".join(sorted(known)))
    print(f"{target['device']} ({target['vendor']}, driver {target['driver']})")
    todo = [(name, group) for name in wanted for group in groups(family(name))]
    end = time.monotonic() + args.time_limit
    entries: dict[str, list[dict[str, Any]]] = {}
    with listen(progress_listener()), task("tune", len(todo)) as advance:
        for place, (name, group) in enumerate(todo):
            share = max(0.0, end - time.monotonic()) / (len(todo) - place)
            journal = Journal(args.journal, group.family, target)
            # programs and buffers of a family are dropped with its device
            rig = Rig(group, Device(chosen).launch, limits, (pyopencl.Error,))
            made = _group(rig, share, journal, target)
            entries.setdefault(name, []).extend([made] if made else [])
            if entries[name]:
                publish(args.output / f"{name}.json", entries[name])
            advance(1)
    written = [name for name, some in entries.items() if some]
    print(f"wrote {', '.join(written) or 'nothing'} to {args.output}")
    return 0


def _group(rig: Rig, seconds: float, journal: Journal, target: Target) -> dict[str, Any] | None:
    """Tune one group and print how it went."""
    group: Group = rig.group
    before = journal.read(group)
    with task(group.name) as advance:

        def note(outcome: Outcome) -> None:
            journal.add(group, outcome)
            advance(1)

        default, best, done = search(rig, seconds, before, note)
    tried = len(journal.read(group))
    wrong = sum(bool(one.error) for one in journal.read(group))
    ratio = math.exp(default.cost - best.cost) if best.seconds and default.seconds else math.nan
    state = "all of them" if done else "more is left to try"
    print(f"{group.name}: {ratio:.2f} x the default, {tried} tried ({wrong} failed), {state}")
    return entry(group, target, default, best, datetime.datetime.now(datetime.timezone.utc).date())


def _device(spec: str, pyopencl: Any) -> Any:
    """The device of that name.

    Raises:
        InputError: there is none.
    """
    found = {
        f"opencl:{p}:{d}": device
        for p, platform in enumerate(pyopencl.get_platforms())
        for d, device in enumerate(platform.get_devices())
    }
    if not found:
        raise InputError("there is no OpenCL device", advice="pip install pyopencl[pocl]")
    if spec == "opencl":
        gpus = [one for one in found.values() if one.type & pyopencl.device_type.GPU]
        return gpus[0] if gpus else next(iter(found.values()))
    if spec not in found:
        listed = ", ".join(f"{name} ({one.name.strip()})" for name, one in found.items())
        raise InputError(f"there is no device {spec}", expected=listed)
    return found[spec]


def _target(device: Any) -> Target:
    """The device as files of parameters name it: by its card where the library recognises one."""
    name = device.name.strip()
    known = next((one for one in survey().devices if one.platform and one.name == name), None)
    architecture = known.architecture if known else ""
    if not architecture and (found := re.search(r"gfx[0-9a-f]{3,4}", name)):
        architecture = found[0]
    return {
        "vendor": device.vendor.strip(),
        "architecture": architecture,
        "device": (known.card if known else "") or name,
        "driver": device.driver_version.strip(),
    }


def _fail(message: str) -> int:
    print(f"tune.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
