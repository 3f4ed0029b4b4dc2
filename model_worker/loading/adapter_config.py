"""What a LoRA adapter's adapter_config.json says, as peft writes it. No torch here.

Only plain LoRA of linear layers is served. Any further setting of peft that is switched on, known to us or not, is
refused by name: ignored, it would make other text than the adapter was trained for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from model_worker.loading.json_file import read_json_object
from model_worker.loading.load_errors import AdapterError

_ALL_LINEAR = "all-linear"
_READ = frozenset({
    "peft_type", "task_type", "bias", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights",
})  # fmt: skip
# How the adapter was trained or found, or how a merged weight is stored: nothing that serving it depends on.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "lora_dropout",
    "fan_in_fan_out", "eva_config", "corda_config", "loftq_config", "lora_ga_config", "qalora_group_size",
    "megatron_config", "megatron_core", "runtime_config",
})  # fmt: skip
# Ways to begin training that leave the base model as it is. The others (pissa, olora, corda, loftq, …) change it.
_HARMLESS_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")

Value = TypeVar("Value", int, float)
Names: TypeAlias = str | tuple[str, ...]  # a regular expression, or the ends of modules' names


class _NotServed(Exception):  # noqa: N818 - what becomes of the adapter
    """Why not; the message goes on from the file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Which modules of the base model an adapter changes, by which rank and how strongly."""

    rank: int
    alpha: float
    rank_stabilized: bool  # scaled by the rank's square root, as rsLoRA does
    ranks: Mapping[str, int]  # by regular expression, first match wins; others have `rank`
    alphas: Mapping[str, float]  # likewise
    targets: Names
    excluded: Names
    layers: tuple[int, ...]  # only these; empty: all
    layer_lists: tuple[str, ...]  # what the model calls its lists of layers; empty: whatever it calls them

    def rank_of(self, module: str) -> int:
        """The rank of the two matrices for `module`."""
        return _by_pattern(self.ranks, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What the product of the two matrices is multiplied with: alpha / r, or alpha / √r (arXiv 2312.03732)."""
        alpha, rank = _by_pattern(self.alphas, module, self.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def wants(self, module: str, *, is_head: bool) -> bool:
        """Whether the adapter changes the linear layer `module`. The output head is not among all linear layers."""
        if self.excluded and _matches(self.excluded, module):
            return False
        if isinstance(self.targets, str):
            return not is_head if self.targets.lower() == _ALL_LINEAR else _matches(self.targets, module)
        return module in self.targets or (_matches(self.targets, module) and self._in_wanted_layer(module))

    def strangers(self, modules: list[str]) -> list[str]:
        """The targets that are the name of none of `modules`."""
        if isinstance(self.targets, str):
            found = self.targets.lower() == _ALL_LINEAR or any(_matches(self.targets, module) for module in modules)
            return [] if found else [self.targets]
        return [target for target in self.targets if not any(_matches((target,), module) for module in modules)]

    def _in_wanted_layer(self, module: str) -> bool:
        if not self.layers:
            return True
        lists = "|".join(self.layer_lists) or r"[^.]*"
        numbered = re.match(rf"(?:.*?\.)?(?:{lists})\.(\d+)\.", module)
        return numbered is not None and int(numbered[1]) in self.layers


def read_adapter_config(file: Path) -> AdapterConfig:
    """Read and check `file`. Errors: AdapterError, ModelFolderError, one line that names the file."""
    stated = read_json_object(file)
    try:
        _refuse_other_methods(stated)
        config = AdapterConfig(
            rank=_rank("r", stated.get("r")),
            alpha=_number("lora_alpha", stated.get("lora_alpha")),
            rank_stabilized=bool(stated.get("use_rslora")),
            ranks={key: _rank("rank_pattern", value) for key, value in _patterns(stated, "rank_pattern").items()},
            alphas={key: _number("alpha_pattern", value) for key, value in _patterns(stated, "alpha_pattern").items()},
            targets=_names(stated, "target_modules"),
            excluded=_names(stated, "exclude_modules"),
            layers=_layers(stated.get("layers_to_transform")),
            layer_lists=_listed(_names(stated, "layers_pattern")),
        )
        if not config.targets:
            raise _NotServed("names no target_modules")
    except _NotServed as error:
        raise AdapterError(f"{file} {error}") from None
    return config


def _refuse_other_methods(stated: Mapping[str, Any]) -> None:
    if stated.get("peft_type") != "LORA":
        raise _NotServed(f"is of peft_type {stated.get('peft_type')!r:.40}; only LORA is served")
    if stated.get("task_type") not in (None, "CAUSAL_LM"):
        raise _NotServed(f"is for the task {stated['task_type']!r:.40}; only CAUSAL_LM is served")
    if stated.get("bias") not in (None, "none"):
        raise _NotServed(f"changes biases (bias {stated['bias']!r:.40}), which is not served")
    beginning = stated.get("init_lora_weights")
    if beginning not in _HARMLESS_BEGINNINGS:
        raise _NotServed(
            f"has init_lora_weights {beginning!r:.40}, for which the base model was changed: save it as plain LoRA "
            "(peft: path_initial_model_for_weight_conversion)"
        )
    switched_on = [name for name, value in stated.items() if value and name not in _READ | _WITHOUT_EFFECT]
    if switched_on:
        raise _NotServed(f"sets {', '.join(sorted(switched_on)):.200}, which is not served: only plain LoRA is")


def _by_pattern(patterns: Mapping[str, Value], module: str, otherwise: Value) -> Value:
    found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, otherwise)


def _matches(names: Names, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names)


def _rank(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _NotServed(f"has {name} {value!r:.40}; a rank is at least 1")
    return value


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _NotServed(f"has {name} {value!r:.40}, which is no finite number")
    return float(value)


def _patterns(stated: Mapping[str, Any], name: str) -> dict[str, Any]:
    patterns = stated.get(name) or {}
    if not isinstance(patterns, dict):
        raise _NotServed(f"has {name} {patterns!r:.40}, which is no object")
    for pattern in patterns:
        _check_expression(name, pattern)
    return patterns


def _names(stated: Mapping[str, Any], name: str) -> Names:
    names = stated.get(name) or ()
    if isinstance(names, str):
        _check_expression(name, names)
        return names
    if not isinstance(names, list | tuple) or not all(isinstance(item, str) and item for item in names):
        raise _NotServed(f"has {name} {names!r:.40}, which is neither names nor a regular expression")
    return tuple(names)


def _listed(names: Names) -> tuple[str, ...]:
    for name in names if not isinstance(names, str) else ():
        _check_expression("layers_pattern", name)
    return (names,) if isinstance(names, str) else names


def _layers(value: object) -> tuple[int, ...]:
    layers = () if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise _NotServed(f"has layers_to_transform {value!r:.40}, which are no numbers of layers")
    return tuple(layers)


def _check_expression(name: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise _NotServed(f"has {name} {expression!r:.80}, which is no regular expression") from error
