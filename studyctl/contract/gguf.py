"""What of GGUF, the files of llama.cpp, several rooms know."""

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
"""Model types that are read from GGUF files as checkpoints, and written as GGUF."""
