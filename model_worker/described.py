"""The model of a worker as whoever operates it is shown it."""

from __future__ import annotations

from model_worker.rows_of_call import Generating


def described(generating: Generating) -> dict[str, object]:
    """What it is, what it was loaded as, and how busy it is."""
    spec, load = generating.model.spec, generating.loop.snapshot()
    return {
        "name": generating.model.name,
        "adapters": list(spec.adapters),
        "quantization": spec.quantization,
        "dtype": spec.dtype,
        "device": spec.device,
        "compiled": spec.compiled,
        "vocabulary_fingerprint": generating.model.vocabulary_fingerprint,
        "vocabulary_size": spec.vocabulary_size,
        "context_length": spec.context_length,
        "eos_token_ids": sorted(spec.eos_token_ids),
        "weight_bytes": spec.weight_bytes,
        "kv_bytes_per_token": spec.kv_bytes_per_token,
        "kv_tokens_capacity": spec.kv_capacity_tokens,
        "kv_tokens_used": load.kv_tokens_used,
        "rows_running": load.running,
        "rows_waiting": load.waiting,
        "max_num_seqs": generating.description.max_num_seqs,
        "max_queued_rows": generating.description.max_queued_rows,
    }
