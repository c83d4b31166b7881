"""Tests of workers need the same as those of running."""

from tests.run.conftest import console, workplace

__all__ = ["console", "workplace"]
