"""`python -m benchmarks`: measure, print, and keep what was found."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from benchmarks.load.requests import PromptWords
from benchmarks.options import CONFIGURATIONS, BenchOptions
from benchmarks.report import json_file, plot
from benchmarks.report.conditions import conditions
from benchmarks.report.markdown import as_markdown, publish
from benchmarks.report.results import Results, Section
from benchmarks.sections import decode, gateway, mixed, pauses, sampling, soak, stack
from benchmarks.subjects.remote import SubjectError
from cli.demo_model import default_folder
from cli.local_stack import StackError

SECTIONS: dict[str, Callable[[BenchOptions, PromptWords], Section]] = {
    "decode": decode.measure,
    "mixed": mixed.measure,
    "stack": stack.measure,
    "gateway": gateway.measure,
    "pauses": pauses.measure,
    "sampling": sampling.measure,
    "memory": soak.measure,
}
MEDIAN_OF = 3  # what is promised is promised of so many runs
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all was measured and, unless it was quick, every promise is kept."""
    given = parse(arguments)
    if not (given.model / "tokenizer.json").is_file():
        print(f"bench: there is no model in {given.model}: run `make model`", file=sys.stderr)
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    options = options_of(given)
    measure = "quick" if given.quick else f"medians of {options.repetitions} where something is promised"
    results = json_file.read_or_new(given.output / "results.json", {**conditions(given.model), "measure": measure})
    words = PromptWords.of_model(given.model)
    for name in given.only:
        results.sections[name] = measured(name, options, words)
        json_file.write(results, given.output / "results.json")  # a run that breaks off keeps what it has
        plot.draw(results, given.output / "results.svg")
    print(as_markdown(results))
    if given.publish:
        json_file.write(results, DOCS / "performance.json")
        plot.draw(results, DOCS / "performance.svg")
        publish(as_markdown(results), DOCS / "performance.md")
    return exit_code(results, given)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Tokenmill on this machine.")
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: %(default)s)")
    parser.add_argument("--only", type=several_of(SECTIONS), default=list(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="see whether everything works; the numbers mean little")
    parser.add_argument(
        "--repetitions", type=int, default=MEDIAN_OF, help="of what promises are about (default: %(default)s)"
    )
    parser.set_defaults(configurations=["fp32", "int8", "int8 --compile"])
    parser.add_argument("--configurations", type=several_of(CONFIGURATIONS), help=f"of {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--served", choices=CONFIGURATIONS, default="int8 --compile", help="what promises are made for")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="folder (default: %(default)s)")
    parser.add_argument("--publish", action="store_true", help="write the results into docs/ too")
    given = parser.parse_args(arguments)
    if given.quick and given.publish:
        parser.error("numbers that mean little are not published")
    if given.repetitions < MEDIAN_OF and given.publish:
        parser.error(f"what is published is the median of {MEDIAN_OF} at least")
    return given


def several_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them. Errors: ArgumentTypeError for a name that is not known."""

    def parse_names(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse_names


def options_of(given: argparse.Namespace) -> BenchOptions:
    """How much is measured."""
    options = BenchOptions(
        model=given.model,
        logs=given.output,
        configurations=tuple(given.configurations),
        served=given.served,
        repetitions=given.repetitions,
    )
    return options.quick() if given.quick else options


def measured(name: str, options: BenchOptions, words: PromptWords) -> Section:
    """One section, or what it broke off with."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    begin = time.monotonic()
    try:
        section = SECTIONS[name](options, words)
    except (SubjectError, StackError) as error:
        section = Section(name, notes=[f"broke off: {error}"], failed=True)
    print(f"bench: {name} took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return section


def exit_code(results: Results, given: argparse.Namespace) -> int:
    """A promise can only be broken by a run that was meant to test it."""
    sections = [results.sections[name] for name in given.only]
    failed = any(section.failed for section in sections)
    missed = any(not check.met for section in sections for check in section.checks)
    return int(failed or (missed and not given.quick))


if __name__ == "__main__":
    sys.exit(main())
