#!/usr/bin/env python3
"""Set up, try and test onnxslim_rx from a checkout, with nothing but Python.

    python3 tools/dev.py demo [MODEL.onnx]   make the environment, optimise a model, show the result
    python3 tools/dev.py test [ARGUMENTS]    all gates: lint, types, imports, tests
    python3 tools/dev.py build               the native library alone (demo and test build it too)

The environment is `.venv` in the checkout (`--venv DIR` or ONNXSLIM_RX_VENV choose another). A
second call finds it ready. This file runs on Python 3.8, so that an old Python gets a clear answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.version_info[:2]
OLDEST = (3, 10)
LOWEST = ROOT / "tools" / "constraints-lowest.txt"
STAMP = "onnxslim_rx.json"
BUILD = ("python", str(ROOT / "tools" / "build_native.py"))


class SetupError(Exception):
    """The environment cannot be made; the message says in one sentence what to do."""


def main(argv: list[str] | None = None) -> int:
    """Parse and run; the exit code is 0, that of what failed, or 2 for a bad call."""
    parser = argparse.ArgumentParser(description="Set up, try and test onnxslim_rx.")
    parser.add_argument(
        "--venv",
        type=Path,
        default=os.environ.get("ONNXSLIM_RX_VENV"),
        help="where the environment lies (default: .venv in the checkout)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="demo|test|build")
    demo = verbs.add_parser("demo", help="optimise a small model, or yours, and show the result")
    demo.add_argument("model", nargs="?", help="an ONNX file (default: models/digits.onnx)")
    test = verbs.add_parser("test", help="all gates; further arguments go to pytest")
    test.add_argument("--gates", action="store_true", help="lint, types and imports, no tests")
    test.add_argument("--lowest", action="store_true", help="tests with the oldest dependencies")
    verbs.add_parser("build", help="the native library, into onnxslim_rx/_lib")
    args, rest = parser.parse_known_args(argv)
    if rest and (args.verb != "test" or args.gates):
        parser.error("unknown arguments: " + " ".join(rest))
    lowest = args.verb == "test" and args.lowest
    name = ".venv-lowest" if lowest else ".venv"
    try:
        if lowest and PYTHON != OLDEST:
            raise SetupError("--lowest means the oldest Python too: run it with Python 3.10")
        venv = Environment(Path(args.venv or ROOT / name).absolute())
        if args.verb == "demo":
            return run_demo(venv, args.model)
        if args.verb == "build":
            venv.install("report")
            return venv.call(*BUILD)
        venv.install("dev", "report", "opencl", constraints=LOWEST if lowest else None)
        return run_gates(venv, args, rest)
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class Environment:
    """A virtual environment that holds an editable install of the checkout.

    Args:
        place: its folder; made when something is installed.

    Raises:
        SetupError: this Python is too old, or the folder holds something else.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.bin = place / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        check_version(PYTHON)
        if place.exists() and not (place / "pyvenv.cfg").exists() and any(place.iterdir()):
            raise SetupError(
                f"{place} exists and is not a virtual environment; remove it, or name another "
                "place with --venv"
            )

    def install(self, *extras: str, constraints: Path | None = None) -> None:
        """Make the environment where needed, and install the checkout with `extras`."""
        if not self._works():
            say(f"making {self.place} with Python {sys.version.split()[0]}")
            make_venv(self.place, self.python)
        wanted = {"inputs": fingerprint(constraints), "extras": sorted(extras)}
        stamp = self.place / STAMP
        try:
            found = json.loads(stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {"inputs": "", "extras": []}
        if found["inputs"] == wanted["inputs"]:
            if set(extras) <= set(found["extras"]):
                return
            wanted["extras"] = sorted({*extras, *found["extras"]})
        say("installing onnxslim_rx and what it needs: the first time takes some minutes")
        target = f"{ROOT}[{','.join(wanted['extras'])}]"
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--constraint", str(constraints)] if constraints else []
        started = time.monotonic()
        if subprocess.call([*command, "--editable", target]) != 0:
            raise SetupError(
                "the installation failed for the reason that pip gives above; once that is "
                "settled, the same command goes on from here"
            )
        stamp.write_text(json.dumps(wanted), encoding="utf-8")
        say(f"installed in {time.monotonic() - started:.0f} s")

    def call(self, *command: str) -> int:
        """Run a command of the environment in the checkout; its exit code."""
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONNOUSERSITE="1")
        env["PATH"] = str(self.bin) + os.pathsep + env.get("PATH", "")
        env.pop("PYTHONPATH", None)
        program = shutil.which(command[0], path=str(self.bin)) or command[0]
        return subprocess.call([program, *command[1:]], cwd=ROOT, env=env)

    def _works(self) -> bool:
        try:
            run = subprocess.run(
                [str(self.python), "-c", "import sys, pip; print(sys.version_info[:2] >= (3, 10))"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except OSError:
            return False
        return run.stdout.strip() == b"True"


def check_version(version: tuple[int, ...]) -> None:
    """Refuse a Python that is too old, and name a newer one where the PATH has it."""
    if version >= OLDEST:
        return
    newer = [f"python3.{minor}" for minor in range(14, OLDEST[1] - 1, -1)]
    found = next((name for name in newer if quiet([name, "-c", ""])), None)
    advice = f"{found} is on this machine: use it" if found else "install a newer one"
    raise SetupError(
        f"this is Python {version[0]}.{version[1]}, and onnxslim_rx needs "
        f"{OLDEST[0]}.{OLDEST[1]} or newer; {advice} in place of python3"
    )


def make_venv(place: Path, python: Path) -> None:
    """A virtual environment with pip, also where this Python lacks ensurepip (as on Debian).

    Raises:
        SetupError: nothing on this machine can put pip into it.
    """
    plain = [sys.executable, "-m", "venv", "--clear", str(place)]
    if quiet(plain):
        return
    bare = quiet([*plain, "--without-pip"])
    packages = place / "lib" / "python{}.{}".format(*PYTHON) / "site-packages"
    ways = [
        [sys.executable, "-m", "pip", "install", "--target", str(packages), "pip"],
        ["uv", "pip", "install", "--python", str(python), "pip"],
    ]
    if bare and any(quiet(way) for way in ways):
        return
    for maker in (["virtualenv"], [sys.executable, "-m", "virtualenv"]):
        if quiet([*maker, "--clear", "--python", sys.executable, str(place)]):
            return
    shutil.rmtree(place, ignore_errors=True)
    raise SetupError(
        "this Python has neither ensurepip nor pip, and there is no uv and no virtualenv, so no "
        "environment can be made; on Debian or Ubuntu run `apt install python3-venv`"
    )


def quiet(command: list[str]) -> bool:
    """Whether a command, run without showing its output, succeeds."""
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError:
        return False
    return run.returncode == 0


def fingerprint(constraints: Path | None) -> str:
    """Changes when an installed environment has to be installed anew."""
    files = [ROOT / "pyproject.toml", ROOT / "CMakeLists.txt", ROOT / "kernels" / "README.md"]
    parts = [str(ROOT).encode()] + [
        file.read_bytes() for file in [*files, *([constraints] if constraints else [])]
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def run_demo(venv: Environment, model: str | None) -> int:
    """The demo, on the model of the user where one is given."""
    if model is not None and not Path(model).is_file():
        raise SetupError(f"there is no file {model}; give the path of an ONNX model")
    venv.install("report")
    if venv.call(*BUILD) != 0:
        say("the demo goes on without the native library")
    arguments = [str(Path(model).absolute())] if model else []
    return venv.call("python", str(ROOT / "tools" / "demo.py"), *arguments)


def run_gates(venv: Environment, args: argparse.Namespace, rest: list[str]) -> int:
    """Every gate, one after the other; the exit code is 1 where one failed."""
    gates = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "lint-imports": ["lint-imports", "--no-cache"],
    }
    if args.lowest:
        gates = {}
    elif PYTHON == OLDEST:
        say("mypy is left out: its verdict is that of numpy's types, which need Python 3.11")
        del gates["mypy"]
    if not args.gates:
        gates["native library"] = list(BUILD)
        gates["pytest"] = ["python", "-m", "pytest", *rest]
    results = []
    for name, command in gates.items():
        say(" ".join(command))
        started = time.monotonic()
        code = venv.call(*command)
        results.append((name, code, time.monotonic() - started))
    for name, code, seconds in results:
        print(f"{name:14}  {seconds:6.1f} s  {'passed' if code == 0 else f'FAILED ({code})'}")
    failed = [name for name, code, _ in results if code != 0]
    say("failed: " + ", ".join(failed) if failed else "all gates passed")
    return 1 if failed else 0


def say(text: str) -> None:
    """Print a line of our own, at once, so that it stands before what a command prints."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
