"""The steps of LSTM, GRU and RNN written out, with a product of two matrices in the place of R.

The inputs of all steps are multiplied with W at once; a Scan for each direction does the rest:
`h P Q`, the gates, the states. What its body needs of constants lies in the graph around it, so
that passes that store weights differently unfold them once, not in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import mark
from onnxslim_rx_passes._recurrent import Cell
from onnxslim_rx_passes._supplies import Supplies

__all__ = ["Writer"]

Array = npt.NDArray[np.float64]


class Writer:
    """Emits the steps of one node.

    Args:
        cell: the node.
        opset: of the graph.
        tape: gets nodes and constants.
        name: prefix of names, unique in the model.
        by: name of the pass, noted on the nodes in the bodies.
    """

    def __init__(self, cell: Cell, opset: int, tape: ir.tape.Tape, name: str, by: str) -> None:
        self._cell, self._tape, self._by = cell, tape, by
        dtype = ir.DataType.from_numpy(cell.weight.dtype)
        self._supplies = Supplies(opset, tape, dtype, name)
        self._made: dict[str, ir.Value] = {}

    def emit(
        self, weight: ir.Value, factors: Sequence[Sequence[ir.Value]]
    ) -> dict[ir.Value, ir.Value]:
        """What takes the place of each output of the node that is read.

        Args:
            weight: (K, D G H), W of all directions.
            factors: for each direction P (H, R) and Q (R, G H); of a GRU that resets before the
                product, Q in two parts, of the gates and of the rest.
        """
        cell, axis = self._cell, 2 if self._cell.batch_first else 1
        wanted = [v for v in cell.node.outputs if v.uses() or v.is_graph_output()]
        x = cell.node.inputs[0]
        every = self._tape.op("MatMul", [x, weight])
        bias = self._outer_bias()
        if bias.any():
            every = self._tape.op("Add", [every, self._supplies.numbers("bias", bias.reshape(-1))])
        width = cell.gates * cell.hidden
        parts = self._supplies.split(self._tape, every, [width] * len(cell.reverse), 2)
        runs = [
            self._scan(number, part, factors[number], wanted) for number, part in enumerate(parts)
        ]
        made = {}
        for index, value in enumerate(cell.node.outputs):
            if value in wanted:
                where = axis if index == 0 else int(cell.batch_first)
                sides = [self._supplies.unsqueeze(run[index], where) for run in runs]
                one = len(sides) == 1
                made[value] = sides[0] if one else self._tape.op("Concat", sides, {"axis": where})
        return made

    def _outer_bias(self) -> Array:
        """(D, G, H): all of the bias that is added before the functions, whatever the state."""
        bias: Array = self._cell.bias.sum(axis=1)
        if self._cell.reset_after:
            bias[:, 2] -= self._cell.bias[:, 1, 2]
        return bias

    def _scan(
        self, number: int, x: ir.Value, factors: Sequence[ir.Value], wanted: Sequence[ir.Value]
    ) -> dict[int, ir.Value]:
        """One direction: what is wanted of all steps (0), the last h (1) and c (2)."""
        cell, reverse = self._cell, int(self._cell.reverse[number])
        with_steps = cell.node.outputs[0] in wanted
        body = _Body(self._cell, number, self._supplies)
        states = [self._initial(state, number) for state in range(2 if cell.op == "LSTM" else 1)]
        h, c = body.state("h"), body.state("c") if cell.op == "LSTM" else None
        step = body.value("x", self._supplies.dtype, (None, cell.gates * cell.hidden))
        new_h, new_c = body.step(step, h, c, factors)
        results, old = [new_h, new_c], [h, c]
        every, counters = new_h, []
        if cell.lengths is not None:
            states.append(self._first_step(bool(reverse)))
            counter = body.value("t", ir.DataType.INT32, (1,))
            live = body.op("Less", counter, self._lengths(cell.lengths))
            every = body.op("Where", live, new_h, self._supplies.numbers("zero", np.zeros(())))
            results = [
                body.op("Where", live, new, before)
                if new is not None and before is not None
                else None
                for new, before in zip(results, old, strict=True)
            ]
            counters = [
                body.op(
                    "Add",
                    counter,
                    self._supplies.integers(f"step{reverse}", [1 - 2 * reverse], ir.DataType.INT32),
                )
            ]
            old.append(counter)
        outputs = [value for value in (*results, *counters) if value is not None]
        graph = body.close(
            self._by,
            [value for value in (*old, step) if value is not None],
            [*outputs, every] if with_steps else outputs,
        )
        axis = int(cell.batch_first)
        attributes: dict[str, object] = {
            "body": graph,
            "num_scan_inputs": 1,
            "scan_input_directions": [reverse],
            "scan_input_axes": [axis],
        }
        if with_steps:
            attributes |= {"scan_output_directions": [reverse], "scan_output_axes": [axis]}
        count = len(graph.outputs)
        ends = self._tape.op_multi_out("Scan", [*states, x], attributes, num_outputs=count)  # type: ignore[arg-type]
        last = {
            1 + state: self._ended(ends[state])
            for state, value in enumerate(cell.node.outputs[1:])
            if value in wanted
        }
        return {0: ends[-1], **last} if with_steps else last

    def _initial(self, state: int, number: int) -> ir.Value:
        """(B, H): what the node is given, or zeros."""
        given = self._cell.initial(state)
        axis = int(self._cell.batch_first)
        if given is not None:
            which = self._supplies.integers(f"direction{number}", number)
            return self._tape.op("Gather", [given, which], {"axis": axis})
        if "zeros" not in self._made:
            samples = self._size(1 - axis)
            hidden = self._supplies.integers("hidden", [self._cell.hidden])
            shape = self._tape.op("Concat", [samples, hidden], {"axis": 0})
            fill = ir.tensor(np.zeros(1, dtype=self._cell.weight.dtype), dtype=self._supplies.dtype)
            self._made["zeros"] = self._tape.op("ConstantOfShape", [shape], {"value": fill})
        return self._made["zeros"]

    def _ended(self, state: ir.Value) -> ir.Value:
        """The last state; zero for samples without steps, as ONNX Runtime has it."""
        if self._cell.lengths is None:
            return state
        if "any" not in self._made:
            none = self._supplies.integers("none", [0], ir.DataType.INT32)
            lengths = self._lengths(self._cell.lengths)
            self._made["any"] = self._tape.op("Less", [none, lengths])
        zero = self._supplies.numbers("zero", np.zeros(()))
        return self._tape.op("Where", [self._made["any"], state, zero])

    def _first_step(self, reverse: bool) -> ir.Value:
        """(1,) int32: number of the step that comes first."""
        if not reverse:
            return self._supplies.integers("first", [0], ir.DataType.INT32)
        steps = self._tape.op(
            "Cast", [self._size(int(self._cell.batch_first))], {"to": ir.DataType.INT32}
        )
        return self._tape.op("Sub", [steps, self._supplies.integers("one", [1], ir.DataType.INT32)])

    def _size(self, axis: int) -> ir.Value:
        """(1,) int64: a size of X."""
        shape = self._tape.op("Shape", [self._cell.node.inputs[0]])
        return self._tape.op("Gather", [shape, self._supplies.integers(f"axis{axis}", [axis])])

    def _lengths(self, value: ir.Value) -> ir.Value:
        """(B, 1), so that it can be compared with the number of the step."""
        if "lengths" not in self._made:
            shape = self._supplies.integers("column", [-1, 1])
            self._made["lengths"] = self._tape.op("Reshape", [value, shape])
        return self._made["lengths"]


class _Body:
    """The body of a Scan: one step of one direction."""

    def __init__(self, cell: Cell, number: int, supplies: Supplies) -> None:
        self._cell, self._number, self._supplies = cell, number, supplies
        self._tape = ir.tape.Tape()
        self._prefix = f"{supplies.name}.step{number}"
        self._functions = cell.functions[number]

    def value(self, name: str, dtype: ir.DataType, shape: tuple[int | None, ...]) -> ir.Value:
        """A new input."""
        kind = ir.TensorType(dtype)
        return ir.Value(name=f"{self._prefix}.{name}", type=kind, shape=ir.Shape(shape))

    def state(self, name: str) -> ir.Value:
        """A new input of a state, (B, H)."""
        return self.value(name, self._supplies.dtype, (None, self._cell.hidden))

    def op(self, op: str, *inputs: ir.Value) -> ir.Value:
        """A new node."""
        return self._tape.op(op, inputs)

    def close(self, by: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
        """The graph; a value that is given twice is passed through Identity."""
        distinct = []
        for value in outputs:
            distinct.append(self.op("Identity", value) if value in distinct else value)
        names = [value.name for value in inputs]
        for count, node in enumerate(self._tape.nodes):
            node.name = f"{self._prefix}.{count}"
            mark(node, by)
            for which, value in enumerate(node.outputs):
                value.name = f"{self._prefix}.{count}.{which}"
        assert len(set(names)) == len(names)
        return ir.Graph(inputs, distinct, nodes=self._tape.nodes, name=self._prefix)

    def step(
        self, x: ir.Value, h: ir.Value, c: ir.Value | None, factors: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value | None]:
        """The new h, and c where there is one."""
        if c is not None:
            return self._lstm(x, h, c, factors)
        if self._cell.op == "GRU":
            return self._gru(x, h, factors), None
        return self._function(0, self.op("Add", x, self._product(h, *factors))), None

    def _lstm(
        self, x: ir.Value, h: ir.Value, c: ir.Value, factors: Sequence[ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        before = self.op("Add", x, self._product(h, *factors))
        i, o, f, new = self._split(before, [1] * 4)
        i = self._function(0, self._peep(0, i, c))
        if self._cell.coupled:
            f = self.op("Sub", self._supplies.numbers("unit", np.ones(())), i)
        else:
            f = self._function(0, self._peep(2, f, c))
        new = self._function(1, new)
        c = self.op("Add", self.op("Mul", f, c), self.op("Mul", i, new))
        o = self._function(0, self._peep(1, o, c))
        return self.op("Mul", o, self.op(self._functions[2], c)), c

    def _gru(self, x: ir.Value, h: ir.Value, factors: Sequence[ir.Value]) -> ir.Value:
        p, *qs = factors
        gates, rest = self._split(x, [2, 1])
        if self._cell.reset_after:
            sums, product = self._split(self._product(h, p, *qs), [2, 1])
        else:
            sums, product = self._product(h, p, qs[0]), h
        z, r = self._split(self._function(0, self.op("Add", gates, sums)), [1, 1])
        if self._cell.reset_after:
            bias = self._cell.bias[self._number, 1, 2]
            if bias.any():
                name = f"reset{self._number}"
                product = self.op("Add", product, self._supplies.numbers(name, bias))
            product = self.op("Mul", r, product)
        else:
            product = self._product(self.op("Mul", r, h), p, qs[1])
        new = self._function(1, self.op("Add", rest, product))
        return self.op("Add", new, self.op("Mul", z, self.op("Sub", h, new)))

    def _product(self, h: ir.Value, p: ir.Value, q: ir.Value) -> ir.Value:
        return self.op("MatMul", self.op("MatMul", h, p), q)

    def _function(self, which: int, x: ir.Value) -> ir.Value:
        if self._cell.clip is not None:
            x = self._supplies.clip(self._tape, x, self._cell.clip)
        return self.op(self._functions[which], x)

    def _peep(self, gate: int, x: ir.Value, c: ir.Value) -> ir.Value:
        if self._cell.peepholes is None:
            return x
        name = f"peephole{self._number}.{gate}"
        weights = self._supplies.numbers(name, self._cell.peepholes[self._number, gate])
        return self.op("Add", x, self.op("Mul", weights, c))

    def _split(self, x: ir.Value, gates: Sequence[int]) -> Sequence[ir.Value]:
        sizes = [count * self._cell.hidden for count in gates]
        return self._supplies.split(self._tape, x, sizes, 1)
