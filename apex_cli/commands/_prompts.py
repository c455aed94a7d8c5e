"""What `apex synth-data --report-prompts` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex_cli.commands._ui import emit, table

if TYPE_CHECKING:
    from apex_cli.data.prompt_sources import Prompts


def show_prompts(found: Prompts, as_json: bool) -> None:
    from apex_cli.data.prompt_report import report

    facts = report(found)
    if as_json:
        emit(facts)
        return
    rows = [
        ("prompts", facts["prompts"]),
        *((f"from {name}", count) for name, count in facts["sources"].items()),
        ("empty or repeated, left out", facts["empty_or_repeated"]),
        ("near repetitions", facts["near_repetitions"]),
        *((f"in {name} letters", count) for name, count in facts["scripts"].items()),
        ("in several scripts", facts["mixed_scripts"]),
    ]
    table(("PROMPTS", ""), rows)
    lengths = [(name, *(f"{value:.4g}" for value in found.values())) for name, found in facts["lengths"].items()]
    table(("\nLENGTHS IN", "LEAST", "MEDIAN", "MEAN", "P95", "MOST"), lengths)
    if facts["contamination"]:
        _contamination(facts["contamination"])


def _contamination(facts: dict[str, Any]) -> None:
    columns = ("exact", "near", "contains")
    rows = [(name, f["prompts"], *(f[c] for c in columns), f"{f['met']} of {f['of']}") for name, f in facts.items()]
    table(("\nHELD OUT", "PROMPTS LEFT OUT", *map(str.upper, columns), "ITS PROMPTS MET"), rows)
    quoted = [(name, *example) for name, f in facts.items() for example in f["examples"][:3]]
    if quoted:
        table(("\nFOR EXAMPLE", "", "PROMPT", "MET"), quoted)
