"""One request, as far as its turn is concerned."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission.work import Work


@dataclass(slots=True, eq=False)
class Ticket:
    """Who asks for what, and how far it has come. Owned by the lane it stands in."""

    model: str
    tenant: str = ""
    priority: int = 0
    work: Work = field(default_factory=Work)
    arrived: float = 0.0
    number: int = 0  # in order of arrival
    queued_tokens: int = 0  # its work as estimated when it came: what is counted while it waits
    is_started: bool = False
    is_finished: bool = False  # its workers are done with it
