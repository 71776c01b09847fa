"""Compiles families of kernels for gfx803 (RX 460 to 590) offline, with clang and ROCm's libraries.

The card is not needed: Debian's `clang-15` (or 19) and `rocm-device-libs` are.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.isa_assembly import Kernel, parse
from tools.kernel_families import Family, Values
from tools.kernel_run import OPTIONS

__all__ = ["COMPILERS", "CompileError", "available", "compile_family", "compile_source"]

_COMMON = ("-x", "cl", "-target", "amdgcn-amd-amdhsa", "-mcpu=gfx803", "-O3", "-S", "-w")
# one code object version, so that both pass the sizes of a launch in the same place
COMPILERS = {"clang-15": (), "clang-19": ("-mcode-object-version=4",)}


class CompileError(RuntimeError):
    """The compiler refused a kernel; its message."""


@functools.cache
def _libraries() -> Path | None:
    """ROCm's device libraries, where distributions put them."""
    found = [*Path("/usr/lib").glob("*/amdgcn/bitcode"), Path("/opt/rocm/amdgcn/bitcode")]
    return next((one for one in found if (one / "ocml.bc").exists()), None)


def available(compiler: str) -> bool:
    """Whether `compiler` (a key of COMPILERS) and the device libraries are installed."""
    return shutil.which(compiler) is not None and _libraries() is not None


def compile_source(
    source: str, defines: tuple[str, ...] = (), compiler: str = "clang-15"
) -> dict[str, Kernel]:
    """The kernels of an OpenCL C source as gfx803 machine code, by name.

    Args:
        source: without `#include`.
        defines: `NAME=value`.
        compiler: a key of COMPILERS.

    Raises:
        CompileError: it does not compile, or a tool is missing.
    """
    return parse(_assembly(source, defines, compiler))


def compile_family(family: Family, values: Values, compiler: str = "clang-15") -> dict[str, Kernel]:
    """The kernels of `family` under these options and parameters; see `compile_source`."""
    return compile_source(family.source, tuple(family.defines(values)), compiler)


@functools.lru_cache(maxsize=64)
def _assembly(source: str, defines: tuple[str, ...], compiler: str) -> str:
    if not available(compiler):
        raise CompileError(f"{compiler} or rocm-device-libs is not installed")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "kernel.cl"), Path(folder, "kernel.s")
        given.write_text(source, encoding="utf-8")
        command = [compiler, *_COMMON, *OPTIONS, *COMPILERS[compiler]]
        command += [f"--rocm-device-lib-path={_libraries()}", *("-D" + one for one in defines)]
        done = subprocess.run(
            [*command, "-o", str(made), str(given)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CompileError(f"{compiler}: {done.stderr[-2000:]}")
        return made.read_text(encoding="utf-8")
