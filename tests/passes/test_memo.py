"""Results kept for whoever asks again."""

from __future__ import annotations

import numpy as np

from onnxslim_rx_passes._memo import Memo, digest


def test_results_are_made_once_and_the_oldest_go_first():
    memo, made = Memo(3 * 80), []

    def make(key):
        def run():
            made.append(key)
            return [np.full(5, key, float), np.full(5, -key, float)]

        return run

    for key in (1, 2, 3, 1, 4, 1, 2):  # 4 takes the place of 2, which 1 was asked for after
        first, second = memo.get(key, make(key))
        assert (first == key).all()
        assert (second == -key).all()
    assert made == [1, 2, 3, 4, 2]


def test_what_is_too_large_is_not_kept():
    memo, made = Memo(8), []

    def make():
        made.append(0)
        return [np.zeros(2)]

    for _ in range(2):
        memo.get("key", make)
    assert len(made) == 2


def test_digests_tell_contents_sizes_and_types_apart():
    x = np.arange(6.0)
    half = x.astype(np.float32)
    found = {digest([x]), digest([x + 1]), digest([x.reshape(2, 3)]), digest([half])}
    assert len(found | {digest([x, x]), digest([x[:3], x[3:]])}) == 6
    assert digest([np.ones((4, 4))[::2].T]) == digest([np.ones((4, 2))])
