"""The manager: contracts, fixed point, journal, verification, bisection, roll back."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError, PassError, VerificationError
from onnxslim_rx.ir import load, serialize
from onnxslim_rx.manager import PassManager
from onnxslim_rx.passbase import PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_weights import QuantizeWeights

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 8] x) => (float[N, 8] y) { a = Abs(x)  b = Sqrt(a)  c = Sin(b)  y = Tanh(c) }"""


@pytest.fixture
def model():
    return load(ir.to_proto(ir.from_onnx_text(TEXT)))


def ops(model):
    return [node.op_type for node in model.graph]


@dataclasses.dataclass(frozen=True)
class Replace(RewritePass):
    """Replace the first operator `old` by `new`: exact only where they are the same."""

    name: ClassVar[str] = "replace"
    old: str = ""
    new: str = ""

    def __call__(self, model, ctx):
        for node in model.graph:
            if node.op_type == self.old:
                tape = ir.tape.Tape()
                result = tape.op(self.new, [node.inputs[0]])
                Editor(model).replace([node], tape, {node.outputs[0]: result}, by=self.name)
                return PassResult(model, modified=True, rewritten=1)
        return PassResult(model, modified=False, skipped=(Skipped("all", f"no {self.old}"),))


@dataclasses.dataclass(frozen=True)
class Shorten(RewritePass):
    """Replace `Abs(Abs(x))` by `Abs(x)`, one a call."""

    name: ClassVar[str] = "shorten"

    def __call__(self, model, ctx):
        for node in model.graph:
            front = node.inputs[0].producer()
            if node.op_type == "Abs" and front is not None and front.op_type == "Abs":
                Editor(model).replace(
                    [node], ir.tape.Tape(), {node.outputs[0]: node.inputs[0]}, by=self.name
                )
                return PassResult(model, modified=True, rewritten=1)
        return PassResult(model, modified=False)


@dataclasses.dataclass(frozen=True)
class Touch(RewritePass):
    """Notes something in the metadata of the first node."""

    name: ClassVar[str] = "touch"
    key: str = ""

    def __call__(self, model, ctx):
        done = self.key in model.graph[0].metadata_props
        model.graph[0].metadata_props[self.key] = "yes"
        return PassResult(model, not done, int(not done))


def test_the_input_is_left_as_it_was_and_the_journal_tells(model):
    before = serialize(model)

    result = PassManager([Replace("Sin", "Sinh")], verify=None).run(model)

    assert serialize(model) == before
    assert ops(result.model) == ["Abs", "Sqrt", "Sinh", "Tanh"]
    (entry,) = result.journal
    assert (entry.name, entry.calls, entry.changed, entry.rewritten) == ("replace", 2, True, 1)
    assert (entry.nodes_before, entry.nodes_after) == (4, 4)
    assert entry.skipped == (Skipped("all", "no Sin"),)
    assert entry.seconds >= 0
    assert entry.cpu_seconds >= 0


def test_neighbours_are_repeated_until_nothing_changes():
    text = TEXT.replace("b = Sqrt(a)  c = Sin(b)", "b = Abs(a)  b2 = Abs(b)  c = Relu(b2)")
    model = load(ir.to_proto(ir.from_onnx_text(text)))

    result = PassManager([Shorten(), Replace("Relu", "Abs")]).run(model)

    assert ops(result.model) == ["Abs", "Tanh"]
    assert [entry.rewritten for entry in result.journal] == [3, 1]


def test_rounds_are_bounded(model):
    flip = [Replace("Sin", "Cos"), Replace("Cos", "Sin")]

    result = PassManager(flip, verify=None, max_rounds=3).run(model)

    assert [entry.calls for entry in result.journal] == [3, 3]


@dataclasses.dataclass(frozen=True)
class Liar(RewritePass):
    """Says `says`, and does `act`."""

    name: ClassVar[str] = "liar"
    says: bool = False
    act: str = ""

    def __call__(self, model, ctx):
        node = model.graph[1]
        if self.act == "metadata":
            node.metadata_props["touched"] = "yes"
        elif self.act == "dangling":
            node.replace_input_with(0, ir.val("ghost", ir.DataType.FLOAT, ["N", 8]))
        elif self.act == "dimension":
            model.graph.inputs[0].shape = ir.Shape([2, 8])
        elif self.act == "raise":
            node.metadata_props["touched"] = "yes"
            raise KeyError("oops")
        return PassResult(model, self.says)


LIES = {
    "did not": (Liar(True, ""), "says that it changed the model, and it did not"),
    "did": (Liar(False, "metadata"), "says that it left the model, and it changed it"),
    "broke": (Liar(True, "dangling"), "left a broken model: Sqrt reads 'ghost'"),
    "cheated": (Liar(True, "dimension"), "inputs of the model changed"),
    "raised": (Liar(True, "raise"), "the pass 'liar' raised KeyError: 'oops'"),
}


@pytest.mark.parametrize("case", LIES)
def test_broken_contracts_are_the_fault_of_the_pass(model, case):
    liar, message = LIES[case]

    with pytest.raises(PassError, match=message):
        PassManager([liar]).run(model)


@pytest.mark.parametrize("case", LIES)
def test_roll_back_leaves_what_was_before_the_pass(model, case):
    passes = [Touch("p"), Replace("Tanh", "Erf"), LIES[case][0]]
    expected = PassManager(passes[:2], verify=None).run(model).model

    result = PassManager(passes, verify=None, on_failure="rollback").run(model)

    assert serialize(result.model) == serialize(expected)
    assert [bool(entry.failure) for entry in result.journal] == [False, False, True]
    entry = result.journal[2]
    assert (entry.calls, entry.changed, entry.rewritten) == (1, False, 0)


@dataclasses.dataclass(frozen=True)
class Conditional(RewritePass):
    """Has conditions."""

    name: ClassVar[str] = "conditional"
    before: bool = True

    def requires(self, model):
        if self.before:
            raise PassError("conditional: not now")

    def ensures(self, model):
        raise PassError("conditional: not so")

    def __call__(self, model, ctx):
        return PassResult(model, modified=False)


def test_conditions_are_checked(model):
    with pytest.raises(PassError, match="not now"):
        PassManager([Conditional()]).run(model)
    with pytest.raises(PassError, match="not so"):
        PassManager([Conditional(before=False)]).run(model)


@pytest.mark.parametrize("verify", ["end", "each"])
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_the_pass_that_changes_results_is_named(model, verify, position):
    passes: list[RewritePass] = [Touch("p"), Touch("q"), Touch("r")]
    passes.insert(position, Replace("Sin", "Sinh"))

    with pytest.raises(VerificationError, match="'replace' changed what the model computes") as e:
        PassManager(passes, verify=verify).run(model)

    assert "output 'y'" in str(e.value)
    if verify == "end":
        assert "first at Sinh" in str(e.value)


@pytest.mark.parametrize("verify", ["end", "each"])
def test_the_guilty_pass_alone_is_undone(model, verify):
    passes = [Touch("p"), Replace("Sin", "Sinh"), Touch("q"), Replace("Tanh", "Sign"), Touch("r")]

    result = PassManager(passes, verify=verify, on_failure="rollback").run(model)

    assert ops(result.model) == ["Abs", "Sqrt", "Sin", "Tanh"]
    assert set(result.model.graph[0].metadata_props) == {"p", "q", "r"}
    assert [bool(entry.failure) for entry in result.journal] == [False, True, False, True, False]
    assert [entry.changed for entry in result.journal] == [True, False, True, False, True]


def test_a_model_that_does_not_run_any_more(model):
    with pytest.raises(VerificationError, match="does not run any more"):
        PassManager([Replace("Sin", "NoSuchOperator")]).run(model)


def test_what_the_runtime_cannot_run_cannot_be_verified(model):
    model.graph[1].domain = "foreign"
    model.opset_imports["foreign"] = 1

    with pytest.raises(InputError, match=r"cannot be verified.*verify=None"):
        PassManager([Touch("p")]).run(model)
    result = PassManager([Touch("p")], on_failure="rollback").run(model)
    assert result.journal[0].changed
    assert result.unverified
    assert PassManager([Touch("p")], verify=None).run(model).unverified == ""


def test_random_models_are_no_reason_to_blame_a_pass():
    text = TEXT.replace("c = Sin(b)", "r = RandomNormalLike(b)  c = Add(b, r)")
    model = load(ir.to_proto(ir.from_onnx_text(text)))

    assert PassManager([Touch("p")]).run(model).journal[0].changed


def test_every_kind_of_model_comes_back_as_it_came(model, tmp_path):
    manager = PassManager([Replace("Sin", "Sinh")], verify=None)
    proto = ir.to_proto(model)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)

    assert isinstance(manager(model), ir.Model)
    assert isinstance(manager(proto), onnx.ModelProto)
    assert isinstance(manager(str(path)), ir.Model)
    assert isinstance(manager(path), ir.Model)
    surgeon = onnx_graphsurgeon.import_onnx(proto)
    back: Any = manager(surgeon)
    assert [node.op for node in back.nodes] == ["Abs", "Sqrt", "Sinh", "Tanh"]
    assert [node.op for node in surgeon.nodes] == ["Abs", "Sqrt", "Sin", "Tanh"]
    assert [node.op_type for node in proto.graph.node] == ["Abs", "Sqrt", "Sin", "Tanh"]


def test_passes_may_be_instances_classes_or_names():
    manager = PassManager(["fold-constants", Shorten, Touch("p")])

    assert [one.name for one in manager.passes] == ["fold-constants", "shorten", "touch"]


WRONG = [
    ({"passes": ["no-such-pass"]}, "there is no pass 'no-such-pass'"),
    ({"passes": [3]}, "a pass cannot be of type int"),
    ({"passes": [], "verify": "sometimes"}, "verify = 'sometimes'"),
    ({"passes": [], "on_failure": "ignore"}, "on_failure = 'ignore'"),
    ({"passes": [], "max_rounds": 0}, "max_rounds = 0"),
    ({"passes": [], "target": "abacus"}, "no target 'abacus'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        PassManager(**options)


def test_invalid_models_are_refused(model):
    model.graph[1].replace_input_with(0, ir.val("ghost", ir.DataType.FLOAT, ["N", 8]))

    with pytest.raises(InputError, match="the model is not valid: Sqrt reads 'ghost'"):
        PassManager([Touch("p")]).run(model)


@pytest.fixture
def gemm(rng):
    """x (N, 64) -> Gemm -> Relu -> MatMul -> y (N, 48)."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 64] x) => (float[N, 48] y) { a = Gemm(x, v)  b = Relu(a)  y = MatMul(b, w) }"""
    proto = ir.to_proto(ir.from_onnx_text(text))
    for name, shape in (("v", (64, 96)), ("w", (96, 48))):
        left, right = rng.standard_normal((shape[0], 4)), rng.standard_normal((4, shape[1]))
        array = (left @ right).astype("f")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return load(proto)


def test_a_compression_pass_runs_alone(gemm, rng):
    result = PassManager([FactorizeGemm(rank=4, min_elements=1)]).run(gemm)

    (entry,) = result.journal
    assert (entry.calls, entry.changed, entry.rewritten) == (1, True, 2)
    assert ops(result.model) == ["MatMul", "Gemm", "Relu", "MatMul", "MatMul"]
    x = rng.standard_normal((3, 64)).astype("f")
    right, found = (Runner(m)({"x": x})["y"] for m in (gemm, result.model))
    # the weights have rank 4: what is left is rounding, relative to 64 * 96 products
    assert np.linalg.norm(found - right) <= 1e-5 * np.linalg.norm(right)


def test_compression_and_rewrites_in_one_run(gemm):
    compress = FactorizeGemm(rank=4, min_elements=1), QuantizeWeights(min_elements=1)

    result = PassManager([Touch("p"), *compress, "fold-constants"]).run(gemm)

    # int8 weights are not folded back
    assert ops(result.model).count("Cast") == 4
    assert [entry.changed for entry in result.journal] == [True, True, True, False]


@dataclasses.dataclass(frozen=True)
class Spoil(QuantizeWeights):
    """Emits weights that are not finite."""

    name: ClassVar[str] = "spoil"

    def apply(self, layer, stage, stats, tape):
        array = np.full(layer.weight.shape.numpy(), np.nan, "f")
        weight = tape.initializer(ir.tensor(array, name="bad"))
        return tape.op("Identity", [weight])


def test_a_compression_pass_that_breaks_the_model_is_undone(gemm):
    with pytest.raises(VerificationError, match="'spoil' broke the model"):
        PassManager([Spoil(min_elements=1)]).run(gemm)

    result = PassManager([Spoil(min_elements=1)], on_failure="rollback").run(gemm)

    assert serialize(result.model) == serialize(gemm)
    assert result.journal[0].failure
