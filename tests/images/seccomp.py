"""The engines' list of system calls, as a runtime wants it: the engines' own form has conditions, which we decide."""

from __future__ import annotations

from typing import Any

ARCHITECTURE, NATIVE = "amd64", "SCMP_ARCH_X86_64"


def as_runtime_has_it(engines: dict[str, Any]) -> dict[str, Any]:
    """The rules for a container without any capability on this machine. `engines`: containers' seccomp.json."""
    ours = next(entry for entry in engines["archMap"] if entry["architecture"] == NATIVE)
    kept = [rule for rule in engines["syscalls"] if _holds(rule.get("includes", {}), rule.get("excludes", {}))]
    return {
        "defaultAction": engines["defaultAction"],
        **({"defaultErrnoRet": engines["defaultErrnoRet"]} if "defaultErrnoRet" in engines else {}),
        "architectures": [NATIVE, *ours["subArchitectures"]],
        "syscalls": [
            {key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key)} for rule in kept
        ],
    }


def _holds(includes: dict[str, Any], excludes: dict[str, Any]) -> bool:
    if includes.get("caps") or ARCHITECTURE not in includes.get("arches", [ARCHITECTURE]):
        return False
    return ARCHITECTURE not in excludes.get("arches", [])
