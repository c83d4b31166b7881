"""GGUF files: their headers, the families of models they hold, and how their tensors differ from those of transformers."""
