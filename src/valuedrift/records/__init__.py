"""Texts that models are trained on: preference pairs and examples to imitate, read from the usual layouts.

A source is a file (JSONL, a JSON list, Parquet or CSV), "hf:NAME?split=train" for a data set of the hub, or
"sandbox:NAME?key=value" for a set that the embedded world makes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..nouns import Example, Pair, digest


def digest_of(records: Sequence[Pair] | Sequence[Example]) -> str:
    """Return a digest of these records by content and order. Their source, topic and claim do not count."""
    read = ("prompt", "chosen", "rejected", "text")
    return digest(
        "records", [[type(record).__name__, *(getattr(record, name) for name in read if hasattr(record, name))] for record in records]
    )
