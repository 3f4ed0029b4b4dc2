"""Why a service cannot start."""

from __future__ import annotations


class StartError(Exception):
    """The service cannot start; the message is one clear line (a taken port, an incomplete model folder)."""
