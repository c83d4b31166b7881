"""Rounding to llama.cpp's block types."""
