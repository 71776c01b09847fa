"""The driver of rules: what it visits, when it stops, whom it blames."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from onnxslim_rx.errors import PassError, VerificationError
from onnxslim_rx.ir import load, nodes, serialize
from onnxslim_rx.manager import PassManager
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skip
from onnxslim_rx.rules import ANY, Rule, RuleError, Scene, drive
from onnxslim_rx.targets import load_target


def build(text, opset=17, functions=""):
    imports = f'"": {opset}, "local": 1'
    return load(
        parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]>\n{text}\n{functions}")
    )


def context():
    return PassContext(evaluate=lambda nodes, feeds: {}, target=load_target("ort-cpu"))


def ops(model):
    return [node.op_type for node in nodes(model)]


def chain(length, op="Sin"):
    body = "  ".join(f"v{i + 1} = {op}(v{i})" for i in range(length))
    return build(f"g (float[4] v0) => (float[4] v{length}) {{ {body} }}")


@dataclasses.dataclass(frozen=True)
class Swap(Rule):
    """Replaces one operator by another."""

    name: ClassVar[str] = "swap"
    roots: ClassVar[tuple[str, ...]] = (ANY,)
    old: str = "Sin"
    new: str = "Cos"
    only: str = ""

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        if node.op_type != self.old:
            return False
        if self.only and node.outputs[0].name != self.only:
            return Skip("another one is wanted")
        tape = ir.tape.Tape()
        return scene.replace([node], tape, {node.outputs[0]: tape.op(self.new, [node.inputs[0]])})


@dataclasses.dataclass(frozen=True)
class Pair(Rule):
    """Two neighbours of one kind become one: sees the result of its own rewrites."""

    name: ClassVar[str] = "pair"
    roots: ClassVar[tuple[str, ...]] = ("Relu",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        inner = scene.maker(node.inputs[0], "Relu")
        return inner is not None and scene.forward(node, node.outputs[0], inner.outputs[0])


@dataclasses.dataclass(frozen=True)
class Broken(Rule):
    """Raises at one node, after others have changed the model."""

    name: ClassVar[str] = "broken"
    roots: ClassVar[tuple[str, ...]] = ("Sin",)
    at: str = "v3"

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        if node.outputs[0].name == self.at:
            raise ZeroDivisionError("oops")
        return False


def test_a_rule_sees_what_it_made():
    model = chain(40, "Relu")

    driven = drive(model, [Pair()], context())

    assert ops(model) == ["Relu"]
    assert driven.tallies[0].rewritten == 39
    assert model.graph.outputs[0].name == "v40"


def test_rules_of_one_drive_see_the_work_of_each_other():
    model = chain(6, "Sin")

    drive(model, [Swap(new="Relu"), Pair()], context())

    assert ops(model) == ["Relu"]


def test_what_nobody_reads_is_not_rewritten():
    model = build("g (float[4] x) => (float[4] y) { a = Sin(x)  b = Sin(a)  y = Exp(x) }")

    assert len(drive(model, [Swap()], context()).log) == 1  # a is read by b, which is dead


def test_rules_that_undo_each_other_end():
    model = chain(3)

    driven = drive(model, [Swap(), Swap(old="Cos", new="Sin")], context())

    assert 64 <= len(driven.log) <= 65
    assert len(ops(model)) == 3


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_a_limit_gives_the_model_in_between(limit):
    model = chain(6)

    driven = drive(model, [Swap()], context(), limit=limit)

    assert driven.log == [0] * limit
    assert ops(model).count("Cos") == limit


def test_subgraphs_and_functions_are_visited_each_with_its_opset():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Look(Rule):
        name: ClassVar[str] = "look"
        roots: ClassVar[tuple[str, ...]] = ("Sin", "local::f")

        def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
            seen.append((node.domain, node.op_type, scene.opset))
            return False

    model = build(
        """g (float[4] x, bool c) => (float[4] y) {
            a = local.f(x)
            y = If (c) <then_branch = t () => (float[4] p) { p = Sin(a) },
                        else_branch = e () => (float[4] q) { q = Cos(a) }> }""",
        functions='<domain: "local", opset_import: ["": 16]> f (u) => (v) { v = Sin(u) }',
    )
    drive(model, [Look()], context())

    assert seen == [("", "Sin", 17), ("local", "f", 17), ("", "Sin", 16)]


def test_nodes_whose_attributes_come_from_a_function_are_left_alone():
    model = build(
        "g (float[4] x) => (float[4] y) { y = local.f<k = 2.0>(x) }",
        functions="""<domain: "local", opset_import: ["": 17]>
        f <k> (u) => (v) { v = Elu<alpha: float = @k>(u) }""",
    )

    assert not drive(model, [Swap(old="Elu")], context()).log


def test_what_was_refused_and_is_gone_is_not_reported():
    model = chain(3)

    driven = drive(model, [Swap(only="v2")], context())

    assert [s.where for s in driven.result(0, model).skipped] == ["v3", "v1"]


def test_an_error_names_the_rule_and_the_node():
    with pytest.raises(RuleError, match="v3") as caught:
        drive(chain(4), [Pair(), Broken()], context())

    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_rule_that_raises_is_rolled_back_and_the_others_stay():
    passes = [Swap(), Broken(), Swap(old="Cos", new="Tanh")]
    model = chain(4)

    result = PassManager([Broken(at="v2"), *passes[:1]], verify=None, on_failure="rollback").run(
        model
    )

    assert ops(result.model) == ["Cos"] * 4
    assert "ZeroDivisionError at v2: oops" in result.journal[0].failure
    with pytest.raises(PassError, match="'broken' raised ZeroDivisionError"):
        PassManager([Broken(), Swap()], verify=None).run(model)


@pytest.mark.parametrize("verify", ["end", "each"])
def test_the_guilty_rule_among_many_is_found(verify):
    right = Swap(old="Relu", new="Abs", only="v3")  # the input of v3 is not negative
    wrong = Swap(old="Relu", new="Tanh", only="v5")
    other = Swap(old="Relu", new="Identity", only="v6")
    model = chain(6, "Relu")

    with pytest.raises(VerificationError, match="'wrong'"):
        PassManager([right, _named(wrong, "wrong"), other], verify=verify).run(model)
    result = PassManager(
        [right, _named(wrong, "wrong"), other], verify=verify, on_failure="rollback"
    ).run(model)

    assert ops(result.model) == ["Relu", "Relu", "Abs", "Relu", "Relu", "Identity"]
    assert [bool(entry.failure) for entry in result.journal] == [False, True, False]


def _named(rule, name):
    cls: Any = dataclasses.dataclass(frozen=True)(type("Named", (type(rule),), {"name": name}))
    return cls(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})


def test_a_rule_that_breaks_the_graph_is_found_by_bisection():
    @dataclasses.dataclass(frozen=True)
    class Cut(Rule):
        name: ClassVar[str] = "cut"
        roots: ClassVar[tuple[str, ...]] = ("Cos",)

        def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
            if node.outputs[0].name != "v2":
                return False
            graph = node.graph
            assert graph is not None
            graph.remove(node)  # its readers are left with nothing
            graph.append(node)
            tape = ir.tape.Tape()
            return scene.replace([node], tape, {node.outputs[0]: tape.op("Sin", node.inputs)})

    model = chain(4)

    result = PassManager([Swap(), Cut()], verify=None, on_failure="rollback").run(model)

    assert ops(result.model) == ["Cos"] * 4
    assert "'cut' left a broken model" in result.journal[1].failure


def test_time_grows_with_the_nodes_and_not_with_the_rules():
    """Each rule is asked once at each node of its operator, and at what was touched."""
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Count(Rule):
        name: ClassVar[str] = "count"
        roots: ClassVar[tuple[str, ...]] = ("Sin",)

        def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
            asked.append(node)
            return False

    drive(chain(200), [Count(), Swap(only="v100")], context())

    assert 200 <= len(asked) <= 204


def test_replaced_values_keep_what_callers_see():
    model = chain(2)
    before = serialize(model)
    result = PassManager([Swap(old="Sin", new="Sin", only="nothing")], verify=None).run(model)

    assert serialize(result.model) == before
    assert np.array_equal([1], [1])


def test_a_guilty_pass_that_is_no_rule_is_found_behind_rules():
    @dataclasses.dataclass(frozen=True)
    class Wrong(RewritePass):
        name: ClassVar[str] = "wrong"

        def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
            found = [node for node in model.graph if node.op_type == "Abs"]
            for node in found:
                node.op_type = "Neg"
            return PassResult(model, bool(found), len(found))

    model = chain(6, "Relu")
    right = Swap(old="Relu", new="Abs", only="v3")

    with pytest.raises(VerificationError, match="'wrong'"):
        PassManager([right, Wrong()]).run(model)
