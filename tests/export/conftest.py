"""Exports are tested with the models and calibration of compression."""

from tests.compress.conftest import _one_thread, ids

__all__ = ["_one_thread", "ids"]
