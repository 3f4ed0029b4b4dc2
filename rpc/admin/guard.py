"""What keeps pages that a browser on this machine has open away from the admin port.

Whoever may run programs here may use the port. A page may not, but it can send requests to 127.0.0.1: straight away, as
a form does, or by a name of its own that leads there (DNS rebinding), which would let it read the answers, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rpc.admin.refusal import Refusal

# With any port, as that of a forwarded one differs from ours.
_OWN_NAME = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
READING = frozenset({"GET", "HEAD"})
CONTENT_TYPE = "application/json"  # no form can send it, and a script only after asking, which is answered by a refusal


def check(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Errors: Refusal."""
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    if not _OWN_NAME.fullmatch(given.get("host", "")):
        raise Refusal(421, "the Host header must be 127.0.0.1 or localhost")
    if "origin" in given or given.get("sec-fetch-site", "none") != "none":
        raise Refusal(403, "pages of a browser may not use this port")
    media_type = given.get("content-type", "").partition(";")[0].strip().lower()
    if method not in READING and media_type != CONTENT_TYPE:
        raise Refusal(415, f"what changes something needs the header content-type: {CONTENT_TYPE}")
