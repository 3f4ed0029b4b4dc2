"""Attention over a ragged step: one function for transformers' interface, and the kernels that compute it."""
