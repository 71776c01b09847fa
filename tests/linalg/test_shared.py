"""Shared factors against the decomposition of the stacked weights."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.linalg import (
    batched_svd,
    joint_left_svd,
    shared_output_basis,
    truncated_svd,
    whitened_svd,
)


def test_a_joint_left_factor_is_the_best_for_the_joined_weights(rng):
    weights = [rng.standard_normal((16, n)) for n in (10, 3, 20)]
    p, qs = joint_left_svd(weights, 7)
    assert [q.shape for q in qs] == [(7, 10), (7, 3), (7, 20)]
    error = sum(np.linalg.norm(w - p @ q) ** 2 for w, q in zip(weights, qs, strict=True))
    values = np.linalg.svd(np.hstack(weights), compute_uv=False)
    assert error == pytest.approx(np.sum(values[7:] ** 2))


def test_a_joint_left_factor_under_activations(rng):
    x = rng.standard_normal((500, 16)) @ np.diag(np.logspace(0, -2, 16))
    weights = [rng.standard_normal((16, n)) for n in (10, 12)]
    p, qs = joint_left_svd(weights, 4, gram=x.T @ x, rows=10**9)
    joined = np.hstack(weights)
    np.testing.assert_allclose(
        p @ np.hstack(qs), np.matmul(*whitened_svd(joined, x.T @ x, 4)), atol=1e-9
    )


def test_importance_moves_the_error(rng):
    weights = [rng.standard_normal((16, 12)) for _ in range(2)]

    def errors(importance):
        p, qs = joint_left_svd(weights, 5, importance=importance)
        return [np.linalg.norm(w - p @ q) for w, q in zip(weights, qs, strict=True)]

    even, tilted = errors([2.0, 2.0]), errors([100.0, 1.0])
    assert even == pytest.approx(errors(None))
    assert tilted[0] < 0.8 * even[0]
    assert tilted[1] > even[1]


def test_a_shared_output_basis_is_the_best_for_all_experts(rng):
    experts = rng.standard_normal((3, 8, 12))
    xs = [rng.standard_normal((rows, 8)) for rows in (5, 50, 200)]
    p, q = shared_output_basis(experts, 4, grams=np.stack([x.T @ x for x in xs]))
    assert (p.shape, q.shape) == ((3, 8, 4), (4, 12))
    np.testing.assert_allclose(q @ q.T, np.eye(4), atol=1e-12)
    outputs = [x @ w for x, w in zip(xs, experts, strict=True)]
    error = sum(np.linalg.norm(xs[i] @ p[i] @ q - outputs[i]) ** 2 for i in range(3))
    values = np.linalg.svd(np.vstack(outputs), compute_uv=False)
    assert error == pytest.approx(np.sum(values[4:] ** 2))


def test_experts_that_saw_nothing_are_not_given_up(rng):
    """Two experts of rank 3 each in directions of their own: busy one first, idle one next."""
    experts = np.zeros((2, 10, 12))
    experts[0, :, :3], experts[1, :, 6:9] = rng.standard_normal((2, 10, 3))
    p, q = shared_output_basis(experts, 6, counts=[1000, 0])
    np.testing.assert_allclose(p @ q, experts, atol=1e-9)
    p, q = shared_output_basis(experts, 3, counts=[1000, 0])
    np.testing.assert_allclose(p[0] @ q, experts[0], atol=1e-9)
    even, _ = shared_output_basis(experts, 3)
    assert np.linalg.norm(even[1]) > np.linalg.norm(p[1])


@pytest.mark.parametrize("per_matrix", [False, True])
def test_batches_are_decomposed_one_by_one(per_matrix, rng):
    stack = rng.standard_normal((2, 3, 9, 7))
    gram = np.stack([np.diag(rng.random(9)) for _ in range(6)]).reshape(2, 3, 9, 9)
    gram = gram if per_matrix else gram[0, 0]
    p, q = batched_svd(stack, 4)
    white_p, white_q = batched_svd(stack, 4, gram=gram, rows=50)
    assert (p.shape, q.shape) == ((2, 3, 9, 4), (2, 3, 4, 7))
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(p[i] @ q[i], np.matmul(*truncated_svd(stack[i], 4)))
        expected = whitened_svd(stack[i], gram[i] if per_matrix else gram, 4, rows=50)
        np.testing.assert_array_equal(white_p[i] @ white_q[i], np.matmul(*expected))


def test_bad_arguments_are_refused():
    ones = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match="same rows"):
        joint_left_svd([np.ones((2, 3)), np.ones((3, 3))], 1)
    with pytest.raises(ValueError, match="same rows"):
        joint_left_svd([], 1)
    with pytest.raises(ValueError, match="importance"):
        joint_left_svd([np.ones((2, 3))], 1, importance=[0.0])
    with pytest.raises(ValueError, match="three axes"):
        shared_output_basis(ones[0], 1)
    with pytest.raises(ValueError, match="Gram matrices"):
        shared_output_basis(ones, 1, grams=np.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="counts"):
        shared_output_basis(ones, 1, counts=[1, -2])
    with pytest.raises(ValueError, match="rank 5"):
        shared_output_basis(ones, 5)
    with pytest.raises(ValueError, match="expected matrices"):
        batched_svd(np.ones((0, 2, 3)), 1)
