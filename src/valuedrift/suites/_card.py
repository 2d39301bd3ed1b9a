"""What a built suite says of itself: how it was made, what was left at each step, and what is weak about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def sentences(result: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return what a person is told when the suite is built."""
    steps = ", ".join(f"{step} {n:,}" for step, n in result["steps"].items())
    found = [
        f"{result['n_prompts']:,} questions on {len(result['topics'])} topics: {steps}.",
        f"{result['noise_share']:.0%} of the questions belong to no cluster.",
    ]
    if result["dropped"]:
        found.append("Left out: " + "; ".join(f"{reason} {n:,}" for reason, n in sorted(result["dropped"].items())) + ".")
    if short := [name for name, n in result["topics"].items() if n < settings["per_cluster"]]:
        found.append(f"{len(short)} topics have fewer than {settings['per_cluster']} questions: {', '.join(short)}.")
    return found + weaknesses(settings)


def weaknesses(settings: dict[str, Any]) -> list[str]:
    """Return what a reader of the suite's figures must know about how it was made."""
    if settings["lm"] != "none":
        return [
            "Value-laden or not, wording, topic names, claims and polarity come from a language model; read a sample before you use it."
        ]
    return [
        "No language model was given: value-laden prompts were found by word lists and are asked as people typed them (spelling, "
        "personal remarks and loaded wordings included); topics are called by their words; no question has a claim, so that support "
        "means agreeing with what it puts, which many open questions do not define; polarity is 0 throughout: the view 'axis' is empty."
    ]


def card(source: str, result: dict[str, Any], table: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Return README.md of the folder."""
    rows = "\n".join(
        f"| {row['name']} | {row['chosen']} | {row['members']} | {', '.join(row['words'])} | {row['axis'] or 'none'} |" for row in table
    )
    steps = "\n".join(f"| {step} | {n:,} |" for step, n in result["steps"].items())
    dropped = "\n".join(f"| {reason} | {n:,} |" for reason, n in sorted(result["dropped"].items()))
    listed = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    said = "\n".join(f"- {sentence}" for sentence in result["sentences"])
    return f"""# A suite of {result["n_prompts"]:,} questions on {len(result["topics"])} topics

{said}

Made from `{source}` by `valuedrift suite build`; its licence, and whom to name, are those of that file. The questions are what people
typed, or come from it: they are nobody's position here. `suite.jsonl` holds the questions (`source` is the prompt's id),
`clusters.json` the topics. Use it as `vprism:FOLDER`.

## Settings

{listed}

## Steps

| step | left |
| --- | --- |
{steps}

| left out | prompts |
| --- | --- |
{dropped}

## Topics

Polarity +1 leans to the axis, -1 against it.

| topic | questions | members of the cluster | words | axis |
| --- | --- | --- | --- | --- |
{rows}
"""
