"""Data of either kind: pairs or single texts, told by the first row of each source."""

from __future__ import annotations

from collections.abc import Sequence

from ..nouns import BadInput, Example, Pair
from . import _rows, pairs, sft


def read(sources: Sequence[str]) -> list[Pair] | list[Example]:
    """Return the records of all sources together. Raises BadInput where a source is neither kind, or pairs and single texts are mixed."""
    kinds = {source: _holds_pairs(source) for source in sources}
    if len(set(kinds.values())) > 1:
        texts, preferences = (next(source for source in sources if kinds[source] is kind) for kind in (False, True))
        raise BadInput(f"{preferences} holds pairs and {texts} single texts, which are measured differently; give one kind at a time")
    if kinds[sources[0]]:
        return [pair for source in sources for pair in pairs.read(source)]
    return [example for source in sources for example in sft.read(source)]


def _holds_pairs(source: str) -> bool:
    if source.startswith("sandbox:"):
        return source.startswith(("sandbox:pairs", "sandbox:stock-pairs"))
    where, first = next(iter(_rows.rows(source)))
    if not pairs.fits(first) and not sft.fits(first):
        raise _rows.missing(where, first, f"for preference pairs {pairs.LAYOUTS}; for single texts {sft.LAYOUTS};")
    return pairs.fits(first)
