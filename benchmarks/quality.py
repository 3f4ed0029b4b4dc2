"""`python -m benchmarks.quality --model DIR`: what each quantization costs in quality, as a Markdown table.

The measure is the mean negative log-likelihood of a fixed text (quality.txt, written for this), in nats per token,
computed by the engine that serves: lower is better, and the difference to float32 is what quantizing took.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from cli.demo_model import default_folder
from model_worker.engine import Segment
from model_worker.loading.schemes import QuantizationOptions
from model_worker.sequence import Extent, RowParams
from model_worker.sequence import Sequence as Row
from model_worker.torch_engine.load_plan import LoadSettings
from model_worker.torch_engine.loader import load_engine
from model_worker.torch_engine.transformers_engine import TransformersEngine

TEXT = Path(__file__).with_name("quality.txt")
EXACT = "none, float32"
_CHUNK = 64  # tokens; every one of them asks for its logits
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Quality:
    """How one engine predicts the text: `nll` in nats per token, `best` its most likely token at each place."""

    nll: float
    best: torch.Tensor
    weight_bytes: int


def configurations(model: Path) -> Mapping[str, LoadSettings]:
    """Return what is compared, by the name it has in the table: float32 first."""
    double = QuantizationOptions(double_quantization=True)
    return {
        EXACT: LoadSettings(model=model, quantization="none", dtype="float32"),
        "none, bfloat16": LoadSettings(model=model, quantization="none", dtype="bfloat16"),
        "int8": LoadSettings(model=model, quantization="int8", native=True),  # as it is served
        "bnb-int8": LoadSettings(model=model, quantization="bnb-int8"),
        "bnb-nf4": LoadSettings(model=model, quantization="bnb-nf4"),
        "bnb-nf4, double": LoadSettings(model=model, quantization="bnb-nf4", quantization_options=double),
        "bnb-fp4": LoadSettings(model=model, quantization="bnb-fp4"),
    }


def text_ids(model: Path) -> list[int]:
    """Return the text in the tokens of `model`, without special ones: nothing in it is free to guess."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return ids


def quality_of(settings: LoadSettings, ids: Sequence[int]) -> Quality:
    """Load the engine of `settings` and measure how it predicts `ids`. Errors: LoadError, OutOfMemory."""
    engine = load_engine(settings, lambda _progress: None)
    try:
        nll, best = _predict(engine, ids)
    finally:
        engine.close()
    return Quality(nll, best, engine.spec.weight_bytes)


def as_markdown(measured: Mapping[str, Quality]) -> str:
    """Return the table of `measured`, in which float32 is what the others are compared to."""
    exact = measured[EXACT]
    lines = [
        "| `--quantization` | weights, MiB | nll, nats per token | more than float32 | same best token |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, quality in measured.items():
        more = quality.nll / exact.nll - 1
        same = float((quality.best == exact.best).double().mean())
        lines.append(f"| {name} | {quality.weight_bytes / _MIB:.0f} | {quality.nll:.4f} | {more:+.2%} | {same:.1%} |")
    return "\n".join(lines)


def _predict(engine: TransformersEngine, ids: Sequence[int]) -> tuple[float, torch.Tensor]:
    """Return the mean negative log-likelihood of all tokens of `ids` but the first, and the best token at each."""
    row = Row(RowParams(), array("i", ids), len(ids), extent=Extent(0, len(ids)))
    total, best = 0.0, []
    for start in range(0, len(ids) - 1, _CHUNK):
        end = min(start + _CHUNK, len(ids) - 1)
        # A segment gives the logits after its last token, so every token is a segment of its own.
        tokens = [Segment(row, position, 1, draws=False) for position in range(start, end)]
        logits = engine.last_logits(tokens).double()
        wanted = torch.tensor(ids[start + 1 : end + 1], device=logits.device)
        total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        best.append(logits.argmax(dim=1).cpu())
    return total / (len(ids) - 1), torch.cat(best)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="quality of each quantization")
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: the demo model)")
    model: Path = parser.parse_args(arguments).model
    ids = text_ids(model)
    measured = {name: quality_of(settings, ids) for name, settings in configurations(model).items()}
    sys.stdout.write(f"{model.name}, {len(ids)} tokens:\n\n{as_markdown(measured)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
