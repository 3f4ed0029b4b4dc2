"""What quantization costs in quality, on the text that docs/performance.md is measured with."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality import EXACT, configurations, quality_of, text_ids

pytestmark = pytest.mark.model


@pytest.mark.timeout(300)
def test_int8_predicts_a_text_within_two_percent_of_float32(demo_model, reference):
    ids = text_ids(demo_model)
    with torch.inference_mode():
        own = float(reference.model(torch.tensor([ids]), labels=torch.tensor([ids])).loss)
    exact, int8 = (quality_of(configurations(demo_model)[name], ids) for name in (EXACT, "int8"))
    print(f"\nnll of {len(ids)} tokens: transformers {own:.4f}, float32 {exact.nll:.4f}, int8 {int8.nll:.4f}")
    assert exact.nll == pytest.approx(own, abs=1e-4)
    assert abs(int8.nll / exact.nll - 1) < 0.02
    assert int8.weight_bytes <= 0.47 * exact.weight_bytes
