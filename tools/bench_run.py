"""One optimisation in a process of its own, whose CPU time and peak memory are taken.

    python3 tools/bench_run.py JOB.json

reads a `Job`, writes its model, and beside it the report and the memory used. `run` starts this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from onnxslim_rx.vocabulary import Allocation
from tools.bench_measure import read
from tools.bench_peak import Peak, watching

__all__ = ["ROOT", "Done", "Job", "limit_cpu", "peak_mb", "run", "spend"]

ROOT = Path(__file__).resolve().parent.parent
CPU_LIMIT = 3600  # seconds of one optimisation, so that a hang ends
_EVERY = 0.02  # seconds between two looks at the memory


@dataclasses.dataclass(frozen=True)
class Job:
    """What `rx.optimize` is asked for.

    Args:
        model: path.
        output: path of the result.
        data: folder of samples; None: inputs are made up.
        budget: fields of `rx.Budget`; none: the default.
        allocation: how ranks are spread over layers.
        options: options of passes by the name of the pass.
        skip: passes that are left out.
        only: passes that run alone; none: all.
        also: optional passes that take part.
        freeze_weights: see `rx.optimize`.
        metric: whose drop the budget limits; see `onnxslim_rx.metrics`.
        plan: path of a plan to carry out instead of searching.
        cache: folder for statistics and timings.
    """

    model: str
    output: str
    data: str | None = None
    budget: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allocation: Allocation = "program"
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    skip: Sequence[str] = ()
    only: Sequence[str] = ()
    also: Sequence[str] = ()
    freeze_weights: bool = False
    metric: str | None = None
    plan: str | None = None
    cache: str | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """What a job came to.

    Args:
        exit_code: of the process; 0: there is a model.
        error: the last line that a process that failed wrote.
        cpu_seconds: of all threads.
        peak_mb: most memory in use, 10^6 bytes; None where it failed.
        phases: CPU seconds and most anonymous memory above the start, 10^6 bytes, of each; Linux.
        report: see `rx.Result.report`; empty where it failed.
    """

    exit_code: int
    error: str
    cpu_seconds: float
    peak_mb: float | None
    report: Mapping[str, Any]
    phases: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def run(job: Job) -> Done:
    """Carry out a job in a new process."""
    output = Path(job.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    found, log = output.with_suffix(".found.json"), output.with_suffix(".log")
    for stale in (output, found):
        stale.unlink(missing_ok=True)
    asked = output.with_suffix(".job.json")
    asked.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    code, seconds, error = spend([sys.executable, __file__, str(asked)], log)
    if code != 0:
        return Done(code, error, seconds, None, {})
    made = json.loads(found.read_text(encoding="utf-8"))
    phases = {name: (cpu, peak) for name, (cpu, peak) in made["phases"].items()}
    return Done(0, "", seconds, made["peak_mb"], made["report"], phases)


def spend(command: Sequence[str], log: Path) -> tuple[int, float, str]:
    """Run a command; its exit code, CPU seconds of all threads, last line where it failed."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    seconds = used.ru_utime + used.ru_stime
    if code == 0:
        return code, seconds, ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, seconds, lines[-1] if lines else f"exit code {code}"


def main(argv: Sequence[str]) -> int:
    """Carry out the job in the file that is named."""
    import onnxslim_rx as rx
    from onnxslim_rx import optimizer

    on_linux = sys.platform.startswith("linux")
    peak = Peak(_EVERY) if on_linux else None
    job = Job(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    try:
        with watching(optimizer._Run, peak) if peak else contextlib.nullcontext():
            result = rx.optimize(
                job.model,
                budget=rx.Budget(**job.budget) if job.budget else None,
                calibration=None if job.data is None else read(Path(job.data)),
                metric=job.metric,
                plan=job.plan,
                progress=False,
                cache=job.cache,
                skip=tuple(job.skip),
                only=tuple(job.only),
                also=tuple(job.also),
                freeze_weights=job.freeze_weights,
                allocation=job.allocation,
                options=job.options,
            )
        result.save(job.output)
    except rx.OnnxslimError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return error.exit_code
    found = {"peak_mb": peak_mb(), "phases": phases(peak), "report": result.report.to_dict()}
    path = Path(job.output).with_suffix(".found.json")
    path.write_text(json.dumps(found), encoding="utf-8")
    return 0


def phases(peak: Peak | None) -> dict[str, tuple[float, float]]:
    """CPU seconds and 10^6 bytes above the start by phase; nothing where they were not watched."""
    if peak is None:
        return {}
    seconds = peak.cpu_seconds
    return {name: (seconds[name], (top - peak.start) / 1e6) for name, top in peak.phases.items()}


def peak_mb() -> float:
    """Most memory that this process used, 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other counter starts with what the parent used
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6


def limit_cpu(seconds: int = CPU_LIMIT) -> None:
    """End this process after so much CPU time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    limit_cpu()
    raise SystemExit(main(sys.argv[1:]))
