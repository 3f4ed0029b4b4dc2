"""The engine over transformers and torch, and the way from a model folder to it. Only here torch is imported."""
