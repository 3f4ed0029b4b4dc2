"""The models that callers can name: those of the workers, and the names that lead to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.access.identity import ALL_MODELS, Permission
from gateway.models import ServedModel
from rpc import log
from rpc.errors import invalid_field, model_not_allowed, unavailable, unknown_model

LOGGER = logging.getLogger("tokenmill.gateway.catalogue")


class Workers(Protocol):
    """The workers, as far as their models go: one entry for each model or adapter of each worker."""

    def known_models(self) -> Sequence[ServedModel]:
        """What the workers have served, be they ready now or not."""
        ...

    def ready_models(self) -> Sequence[ServedModel]:
        """What the ready ones serve."""
        ...

    def is_expected(self, model: ServedModel) -> bool:
        """Whether its vocabulary is the one that the tokenizer service has for it."""
        ...


class Catalogue:
    """What is served here, by name. An alias hides a model of its name: that is how a name is moved to another one."""

    def __init__(self, workers: Workers, aliases: Mapping[str, str]) -> None:
        """`aliases`: the model behind each name."""
        self._workers = workers
        self._aliases = aliases
        self._hidden: set[str] = set()  # of the aliases, those that hide a model

    def models(self, permission: Permission) -> list[ServedModel]:
        """Every model and adapter that a worker has served and the caller may use, sorted by name.

        A worker that is down for now does not end a model. Where workers describe a model of one name differently, a
        ready one is believed, before all one whose vocabulary is the tokenizer service's.
        """
        ready = self._workers.ready_models()
        expected = [model for model in ready if self._workers.is_expected(model)]
        described: dict[str, ServedModel] = {}
        for model in (*expected, *ready, *self._workers.known_models()):
            described.setdefault(model.name, model)
        self._tell_hidden(described)
        served = [described[name] for name in sorted(described) if name not in self._aliases]
        return [model for model in served if permission.allows([model.name, *self.aliases_of(model)])]

    def find(self, name: str, permission: Permission) -> ServedModel:
        """The model or adapter that `name` leads to; empty: the only model, adapters aside.

        For a caller that may use some models, there are no others.

        Errors: ServiceError (NOT_FOUND, or PERMISSION_DENIED to such a caller; INVALID_ARGUMENT for an empty name among
        several; UNAVAILABLE).
        """
        models = self.models(permission)
        if not models and not self._workers.known_models():
            raise unavailable("NO_WORKER", "no model worker has been ready yet")
        own_name = self._aliases.get(name, name)
        found = [model for model in models if (model.name == own_name if name else not model.is_adapter)]
        if len(found) > 1:
            names = ", ".join(sorted(name for one in models for name in (one.name, *self.aliases_of(one))))
            raise invalid_field("model", f"must be one of {names}: several models are served here")
        if not found and permission != ALL_MODELS:
            raise model_not_allowed()
        if not found:
            raise unknown_model(name)
        return found[0]

    def aliases_of(self, model: ServedModel) -> list[str]:
        """The other names that lead to `model`, sorted."""
        return sorted(name for name, own_name in self._aliases.items() if own_name == model.name)

    def ready_workers(self, model: ServedModel) -> int:
        """How many workers take requests for `model` now."""
        same = (model.name, model.vocabulary_fingerprint)
        return sum((ready.name, ready.vocabulary_fingerprint) == same for ready in self._workers.ready_models())

    def described(self) -> list[dict[str, object]]:
        """Every model, for whoever operates the gateway."""
        return [
            {
                "name": model.name,
                "base": model.base,
                "aliases": self.aliases_of(model),
                "quantization": model.quantization,
                "vocabulary_fingerprint": model.vocabulary_fingerprint,
                "context_length": model.context_length,
                "ready_workers": self.ready_workers(model),
            }
            for model in self.models(ALL_MODELS)
        ]

    def _tell_hidden(self, described: Mapping[str, ServedModel]) -> None:
        for name in described.keys() & (self._aliases.keys() - self._hidden):
            self._hidden.add(name)
            log.event(LOGGER, logging.WARNING, "model hidden by an alias", alias=name, model=self._aliases[name])
