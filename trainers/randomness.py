"""Randomness by key: the same numbers for the same key, whoever draws them and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import Generator


@contextmanager
def seeded(*key: int) -> Iterator[Generator]:
    """A generator for `key`, with the global ones seeded from it too and restored afterwards.

    Augmentation libraries draw from the global generators of numpy, torch and random; inside this
    block they draw what `key` says, and outside nobody notices.
    """
    generator = np.random.default_rng(list(key))
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        np.random.seed(int(generator.integers(2**32)))
        random.seed(int(generator.integers(2**32)))
        torch.manual_seed(int(generator.integers(2**62)))
        try:
            yield generator
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
