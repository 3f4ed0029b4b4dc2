"""Reads who imports what from the sources, and compares it with tables of who may."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported name. `importer` and `imported` are dotted module names."""

    importer: str
    imported: str
    line: int

    @property
    def library(self) -> str:
        return self.imported.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@dataclass(frozen=True)
class OnlyIn:
    """Inside `package`, only `modules` (or all modules of a folder named there) may import `libraries`."""

    package: str
    libraries: AbstractSet[str]
    modules: AbstractSet[str]

    def forbids(self, statement: Import) -> bool:
        """Whether `statement` is an import of such a library from elsewhere in the package."""
        package, _, module = statement.importer.partition(".")
        allowed = module in self.modules or module.partition(".")[0] in self.modules
        return package == self.package and statement.library in self.libraries and not allowed


def imports_of(folder: Path, package: str) -> Iterator[Import]:
    """Every import statement below `folder`, those inside functions and for types alone included."""
    for file in sorted(folder.rglob("*.py")):
        parts = [package, *file.relative_to(folder).with_suffix("").parts]
        importer = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(importer, alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = ".".join(parts[: -node.level]) + "." if node.level else ""
                yield Import(importer, f"{above}{node.module or ''}", node.lineno)


def violations(
    root: Path, packages: Mapping[str, str], may_import: Mapping[str, AbstractSet[str]], only_in: list[OnlyIn]
) -> list[str]:
    """What breaks the tables below `root`. `packages` maps an import name to its folder; missing ones are left out.

    `may_import` holds what a package may import besides itself and the standard library.
    """
    found = []
    for package, folder in packages.items():
        for statement in imports_of(root / folder, package):
            if statement.library not in may_import[package] | {package} | sys.stdlib_module_names:
                found.append(f"{statement}: {package} must not")
            found += [
                f"{statement}: in {package} only {', '.join(sorted(rule.modules))} may"
                for rule in only_in
                if rule.forbids(statement)
            ]
    return found
