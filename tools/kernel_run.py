"""Runs kernels of a family through pyopencl, for tests, the tuner and benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyopencl

from tools.kernel_families import Family, Values

__all__ = ["OPTIONS", "Device", "Timed"]

OPTIONS = ("-cl-std=CL1.2", "-cl-mad-enable")


@dataclasses.dataclass(frozen=True)
class Timed:
    """What a launch gave.

    Args:
        outputs: copies of the arrays that were named as outputs, in order.
        seconds: of the launch, by the device's clock.
    """

    outputs: list[np.ndarray[Any, Any]]
    seconds: float


class Device:
    """An OpenCL device with a queue and the programs built for it.

    Args:
        device: as pyopencl gives it; None: the first of the first platform.
        options: further ones for the compiler.

    Raises:
        pyopencl.Error: there is none.
    """

    def __init__(self, device: Any = None, options: Sequence[str] = ()) -> None:
        self.device = device or pyopencl.get_platforms()[0].get_devices()[0]
        self.context = pyopencl.Context([self.device])
        self.queue = pyopencl.CommandQueue(
            self.context, properties=pyopencl.command_queue_properties.PROFILING_ENABLE
        )
        self._options = (*OPTIONS, *options)
        self._programs: dict[tuple[str, ...], Any] = {}

    def launch(
        self,
        family: Family,
        kernel: str,
        values: Values,
        sizes: Values,
        arguments: Sequence[np.ndarray[Any, Any] | np.generic],
        outputs: Sequence[int],
    ) -> Timed:
        """Run `kernel` once.

        Args:
            family: of the kernel.
            kernel: its name.
            values: all options and parameters.
            sizes: problem sizes, as the descriptor names them.
            arguments: numpy scalars, and arrays that become buffers, in the kernel's order.
            outputs: positions of the arguments to read back.

        Raises:
            pyopencl.Error: it cannot be built or run.
        """
        flags = pyopencl.mem_flags.READ_WRITE | pyopencl.mem_flags.COPY_HOST_PTR
        given = [
            pyopencl.Buffer(self.context, flags, hostbuf=np.ascontiguousarray(one))
            if isinstance(one, np.ndarray)
            else one
            for one in arguments
        ]
        everywhere, group = family.geometry(kernel, values, sizes)
        function = pyopencl.Kernel(self._program(family, values), kernel)
        event = function(self.queue, everywhere, group, *given)
        event.wait()
        found = []
        for place in outputs:
            array = np.empty_like(np.ascontiguousarray(arguments[place]))
            buffer = given[place]
            assert isinstance(buffer, pyopencl.Buffer), "an output is an array"
            pyopencl.enqueue_copy(self.queue, array, buffer)
            found.append(array)
        return Timed(found, (event.profile.end - event.profile.start) * 1e-9)

    def _program(self, family: Family, values: Values) -> Any:
        key = (family.name, *family.defines(values))
        if key not in self._programs:
            options = [*self._options, *("-D" + one for one in family.defines(values))]
            self._programs[key] = pyopencl.Program(self.context, family.source).build(options)
        return self._programs[key]
