"""Verbs that make something: optimize, simplify, plan, quantize, dequantize."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from onnxslim_rx.cli.outputs import check_outputs, show
from onnxslim_rx.errors import InputError, OnnxslimError

if TYPE_CHECKING:
    from rich.console import Console

    from onnxslim_rx.plans import Budget, Plan
    from onnxslim_rx.report import Report

__all__ = ["dequantize", "optimize", "plan", "quantize", "simplify"]


def optimize(args: argparse.Namespace) -> int:
    """Compress a model within a budget."""
    _check_budget(args)
    check_outputs(
        {
            "-o": args.output,
            "--save-plan": args.save_plan,
            "--json": args.json,
            "--report": args.report,
        },
        {"MODEL": args.model, "--calibration": args.calibration, "--plan": args.plan},
    )
    if args.report:
        from onnxslim_rx.report.html import require_html

        require_html()
    from onnxslim_rx import api

    try:
        result = api.optimize(
            args.model,
            plan=args.plan,
            preset=args.preset,
            verify=None if args.verify == "off" else args.verify,
            **_search(args),
        )
    except OnnxslimError as error:
        _save_failure(args, error)
        raise
    result.save(args.output)
    if args.save_plan:
        result.plan.save(args.save_plan)
    _finish(args, result.report)
    return 0


def simplify(args: argparse.Namespace) -> int:
    """Clean a model up."""
    check_outputs({"-o": args.output, "--json": args.json}, {"MODEL": args.model})
    from onnxslim_rx import api

    result = api.optimize(
        args.model,
        preset="safe",
        verify=None if args.verify == "off" else args.verify,
        progress=not args.quiet,
        **_clean(args),
    )
    result.save(args.output)
    _finish(args, result.report)
    return 0


def plan(args: argparse.Namespace) -> int:
    """Decide what to do to each layer."""
    _check_budget(args)
    check_outputs(
        {"-o": args.save_plan, "--json": args.json, "--html": args.html},
        {"MODEL": args.model, "--calibration": args.calibration},
    )
    if args.html:
        from onnxslim_rx.report.html import require_html

        require_html()
    from onnxslim_rx import api

    try:  # the same search as that of `optimize`, whose model is not written
        found = api.optimize(args.model, preset=args.preset, **_search(args))
    except OnnxslimError as error:
        _save_failure(args, error)
        raise
    if args.save_plan:
        found.plan.save(args.save_plan)
    report = found.report
    report.command = args.command
    if args.html:
        _write_page(args.html, report)

    def draw(console: Console) -> None:
        from onnxslim_rx.report.plan_view import print_plan
        from onnxslim_rx.report.tables import show_line

        print_plan(console, report, saved=args.save_plan)
        if args.html:
            show_line(console, f"wrote {args.html}")

    show(args, {**_plan_table(found.plan), "report": report.to_dict()}, draw)
    return 0


def quantize(args: argparse.Namespace) -> int:
    """Store weights in a few bits."""
    check_outputs({"-o": args.output, "--json": args.json}, {"MODEL": args.model})
    from onnxslim_rx import api

    result = api.quantize(
        args.model,
        args.output,
        bits=args.bits,
        group=args.group,
        symmetric=not args.asymmetric,
        method=args.method,
        embedding_bits=args.embedding_bits,
        form=args.form,
        target=args.target,
        only=args.only,
        skip=args.skip,
        also=args.also,
        cache=args.cache,
        progress=not args.quiet,
    )
    _finish(args, result.report)
    return 0


def dequantize(args: argparse.Namespace) -> int:
    """Bring a quantized model back to floating point."""
    check_outputs({"-o": args.output, "--json": args.json}, {"MODEL": args.model})
    from onnxslim_rx import api

    result = api.dequantize(
        args.model,
        dtype=args.type,
        keep_activations=args.keep_activations,
        verify=None if args.verify == "off" else args.verify,
        progress=not args.quiet,
        **_clean(args),
    )
    result.save(args.output)
    _finish(args, result.report)
    return 0


def _check_budget(args: argparse.Namespace) -> None:
    if args.max_drop is not None and args.metric is None:
        raise InputError("--max-drop needs a metric", advice="add --metric NAME or FILE.py:FUNC")
    aim = {"small": "bytes", "fast": "latency"}.get(args.preset, args.minimize)
    if args.minimize not in (None, aim):
        raise InputError(
            f"--minimize {args.minimize} contradicts --preset {args.preset}, which minimizes {aim}",
            advice="leave one of them out",
        )


def _clean(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments that optimize, plan and simplify share."""
    return {
        "skip": args.skip,
        "also": args.also,
        "freeze_weights": args.freeze_weights,
        "fold_limit": args.fold_limit,
    }


def _search(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments that optimize and plan share."""
    return {
        "budget": _budget(args),
        "calibration": args.calibration,
        "metric": args.metric,
        "target": args.target,
        "seed": args.seed,
        "cache": args.cache,
        "memory_bytes": args.calibration_memory,
        "only": args.only,
        "options": _settings(args),
        "requantize": args.requantize,
        **_clean(args),
        "progress": not args.quiet,
    }


def _settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Options of passes by the name of the pass; of an option given twice, the last."""
    found: dict[str, dict[str, Any]] = {}
    for name, option, value in args.set:
        found.setdefault(name, {})[option] = value
    return found


def _budget(args: argparse.Namespace) -> Budget | None:
    """The budget, None where no option asks for one."""
    from onnxslim_rx.plans import Budget

    limits = {
        "min_cosine": args.min_cosine,
        "min_snr_db": args.min_snr,
        "max_drop": args.max_drop,
        "max_bytes": args.max_bytes,
        "max_latency": args.max_latency,
        "max_flops": args.max_flops,
        "cosine_stat": args.cosine_stat,
        "outputs": None if args.outputs is None else tuple(args.outputs),
        "minimize": args.minimize,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    return Budget(**given) if given else None


def _save_failure(args: argparse.Namespace, error: OnnxslimError) -> None:
    """Write what was measured although the promise could not be kept; it tells how close it was."""
    report: Report | None = getattr(error, "report", None)
    if report is None or not args.json:
        return
    report.failure = report.failure or str(error)
    report.command = args.command
    show(args, report.to_dict(), lambda console: None)


def _finish(args: argparse.Namespace, report: Report) -> None:
    report.output = args.output
    report.command = args.command
    page = getattr(args, "report", None)
    if page:
        _write_page(page, report)

    def draw(console: Console) -> None:
        from onnxslim_rx.report.console import print_profile, print_report
        from onnxslim_rx.report.tables import show_line

        print_report(console, report, top=getattr(args, "top", 10))
        if args.profile:
            print_profile(console, report.passes)
        plan_path = getattr(args, "save_plan", None)
        written = filter(None, (args.output, plan_path, page, args.json))
        show_line(console, "wrote " + ", ".join(written))

    show(args, report.to_dict(), draw)


def _write_page(path: str, report: Report) -> None:
    from onnxslim_rx.ir import write_text
    from onnxslim_rx.report.html import to_html

    write_text(path, to_html(report))


def _plan_table(made: Plan) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(made).items() if key != "stages"}
