"""`python -m deploy.schema`: write the chart's values.schema.json; `--check`: fail if it would be another."""

from __future__ import annotations

import sys

from deploy.schema.values import PUBLISHED, values_schema


def main() -> int:
    """Return the exit code."""
    schema = values_schema()
    if "--check" not in sys.argv[1:]:
        PUBLISHED.write_text(schema, encoding="utf-8")
        return 0
    if PUBLISHED.read_text(encoding="utf-8") == schema:
        return 0
    print("values.schema.json is not in sync with the settings: run make schema")
    return 1


if __name__ == "__main__":
    sys.exit(main())
