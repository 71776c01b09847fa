"""Budgets and plans: ranges, the TOML form and what it refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Stage
from onnxslim_rx.plans import Budget, LayerPlan, Plan

names = st.text(st.characters(codec="utf-8"), max_size=12)
options = st.dictionaries(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda key: key != "pass"),
    st.one_of(
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        names,
    ),
    max_size=3,
)
numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=0)
layers = st.lists(
    st.builds(
        LayerPlan,
        names,
        st.lists(st.builds(Stage, names, options), max_size=2).map(tuple),
        numbers,
        numbers,
    ),
    unique_by=lambda layer: layer.name,
    max_size=4,
)


@given(layers, names, st.integers(0, 2**31))
def test_a_plan_comes_back_from_its_toml(found, target, seed):
    plan = Plan("ab" * 32, target, {"min_cosine": 0.99}, tuple(found), "1.17", seed)
    assert Plan.from_toml(plan.to_toml()) == plan


def test_errors_that_are_not_known_are_left_out_and_come_back():
    plan = Plan("", "ort-cpu", {}, (LayerPlan("a"),))
    assert "error" not in plan.to_toml()
    assert Plan.from_toml(plan.to_toml()).layers[0].error is None


def test_changes_are_the_layers_with_stages():
    changed = LayerPlan("b", (Stage("quantize-weights", {"bits": 8}),))
    assert Plan("", "", {}, (LayerPlan("a"), changed)).changes == (changed,)


GOOD = Plan(
    "00", "ort-cpu", {"min_cosine": 0.9}, (LayerPlan("a", (Stage("p", {"rank": 3}),)),)
).to_toml()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "sede = 0", "unknown key 'sede'"),
        ("seed = 0", 'seed = "0"', "of the wrong type"),
        ("seed = 0", "", "lacks seed"),
        ("schema_version = 1", "schema_version = 2", "schema_version 2"),
        ('name = "a"', 'name = "a"\nranks = 3', "unknown key 'ranks'"),
        ("rank = 3", "rank = [3]", "a number, a string or a boolean"),
        ('pass = "p"', "q = 1", "names no pass"),
        ("seed = 0", "seed =", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=message):
        Plan.from_toml(GOOD.replace(old, new))


def test_a_layer_that_is_named_twice_is_refused():
    again = GOOD + GOOD[GOOD.index("[[layer]]") :]
    with pytest.raises(InputError, match="'a' twice"):
        Plan.from_toml(again)


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the plan .*none\.toml"):
        Plan.load(tmp_path / "none.toml")


def test_save_and_load(tmp_path):
    plan = Plan.from_toml(GOOD)
    plan.save(tmp_path / "plan.toml")
    assert Plan.load(tmp_path / "plan.toml") == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.toml"]


@pytest.mark.parametrize(
    "fields",
    [
        {"min_cosine": 0.0},
        {"min_cosine": 1.1},
        {"min_cosine": math.nan},
        {"min_snr_db": math.inf},
        {"max_drop": -0.1},
        {"max_bytes": 0},
        {"max_latency": math.inf},
        {"max_flops": -1},
        {"cosine_stat": "median"},
        {"minimize": "size"},
    ],
)
def test_budgets_out_of_range_are_refused(fields):
    (name,) = fields
    with pytest.raises(InputError, match=f"the budget has {name}"):
        Budget(**fields)


def test_a_budget_knows_what_it_limits():
    assert Budget(max_drop=0).limits_quality
    assert not Budget(max_bytes=5).limits_quality
    assert Budget(max_bytes=5).limits_cost
    assert not Budget(min_cosine=0.5).limits_cost
    assert Budget(min_cosine=0.5, outputs=("y",)).to_dict() == {
        "min_cosine": 0.5,
        "cosine_stat": "mean",
        "outputs": ["y"],
        "minimize": "latency",
    }
