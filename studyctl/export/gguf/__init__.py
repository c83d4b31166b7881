"""A compressed model as one GGUF file, which llama.cpp and its many relatives run."""
