"""Targets behind a ReLU, against a search over a fine grid."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.linalg import rectified_energy, rectified_targets

values = st.floats(-3, 3)


@given(values, values, st.floats(0.01, 10))
def test_no_other_target_costs_less(wanted, now, weight):
    def cost(z):
        return (max(wanted, 0) - np.maximum(z, 0)) ** 2 + weight * (z - now) ** 2

    found = rectified_targets(np.array([[wanted]]), np.array([[now]]), weight)[0, 0]
    assert cost(found) <= cost(np.linspace(-4, 4, 4001)).min() + 1e-12


def test_what_is_off_in_both_stays():
    now = np.array([[-1.0, -0.1]])
    assert (rectified_targets(np.array([[-5.0, 0.0]]), now, 0.3) == now).all()


def test_energy_is_that_of_numpy(rng):
    wanted, now = rng.standard_normal((2, 30, 4))
    expected = np.sum((wanted * (wanted > 0) - now * (now > 0)) ** 2)
    assert np.isclose(rectified_energy(wanted.astype(np.float32), now), expected, rtol=1e-5)
