"""Who a caller is, and what it may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permission:
    """The models that a caller may use and see, by any of their names; None: all."""

    models: frozenset[str] | None = None

    def allows(self, names: Iterable[str]) -> bool:
        """Whether it is for a model of these names."""
        return self.models is None or not self.models.isdisjoint(names)


ALL_MODELS = Permission()


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that has shown a credential, which itself is not kept. `name` is the credential's, for its limits."""

    name: str
    tenant: str
    permission: Permission = ALL_MODELS
    max_inflight: int | None = None  # requests that run, or wait to, at once
    requests_per_minute: int | None = None
