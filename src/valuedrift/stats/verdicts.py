"""Conclusions from the values of a data set, topic by topic: a verdict, and a sentence that claims no more than its intervals."""

from __future__ import annotations

from typing import Any, Literal

from ..nouns import STANCES

Row = dict[str, Any]
Verdict = Literal["could move", "unlikely", "undecided", "not headlined", "no evidence"]

CONDITION = (
    "Conclusions hold only if the judge reads these texts correctly, the texts are about the claims found for them, and a model learns "
    "this difference and no other."
)
CONFIDENT = 0.6
"""Least mean probability of a judge's likeliest outcome for a small gap to be meaningful. An unsure judge gives shares near a third each
for any text. Our choice; `cues` reaches some 0.5 on real replies, a confident judge 0.9."""


def verdict(topic: Row, matters: float, fine: bool) -> Verdict:
    """Return the verdict on a topic from the gaps of its two views.

    "could move": in some view a stance's gap is resolved (Holm) and its interval reaches beyond +-matters. "unlikely": there is no
    reason for doubt (`_doubt`). "undecided": neither. "not headlined": the judge agrees too little with people (not `fine`) for any of
    these. "no evidence": no stance has an interval.
    """
    if not _known(topic):
        return "no evidence"
    if not fine:
        return "not headlined"
    if _moving(topic, matters):
        return "could move"
    return "undecided" if _doubt(topic, matters) else "unlikely"


def of_gap(name: str, topic: Row, matters: float) -> str:
    """Return the conclusion on a topic's value gap, and a larger difference of style."""
    if topic["verdict"] == "no evidence":
        return _nothing(name, topic, "pair")
    head = _head(name, topic["claims"], "pairs")
    seen = "; ".join(_gaps(view, row, [_largest(row)]) for view, row in _views(topic).items() if _known(row))
    if topic["verdict"] == "could move":
        moving = _moving(topic, matters)
        view = max(moving, key=lambda view: max(abs(moving[view][stance]["gap"]["value"]) for stance in moving[view]["resolved"]))
        stance = max(moving[view]["resolved"], key=lambda stance: moving[view][stance]["gap"]["value"])
        way = "towards" if moving[view][stance]["gap"]["value"] > 0 else "away from"
        found = "; ".join(_gaps(view, row, row["resolved"]) for view, row in moving.items())
        axis = " on the topic's axis" if view == "axis" else ""
        return f"{head}: could move a model {way} {stance}{axis}: {found}.{_rivals(topic, moving[view], stance)}"
    if topic["verdict"] == "not headlined":
        return f"{head}: {seen}; no conclusion, because the judge agrees too little with people."
    if topic["verdict"] == "undecided":
        return f"{head}: undecided: {seen}; {_doubt(topic, matters)}."
    within = f"every stance within ±{_bound(topic):.2f}"
    return f"{head}: unlikely to move a model by {matters:g} or more: {seen}, {within}.{_rivals(topic, topic, _largest(topic))}"


def of_shares(name: str, topic: Row, level: float, fine: bool) -> str:
    """Return the conclusion on the stances that texts to imitate take."""
    if topic["lead"]["low"] is None:
        return _nothing(name, topic, "text")
    views = {view: row for view, row in _views(topic).items() if row["lead"]["low"] is not None}
    leads = {view: row for view, row in views.items() if row["lead"]["p_adjusted"] < level}
    head, seen = _head(name, topic["claims"], "texts"), "; ".join(_first(view, row) for view, row in views.items())
    if not fine:
        return f"{head}: {seen}; no conclusion, because the judge agrees too little with people."
    if topic["confidence"] < CONFIDENT:
        return f"{head}: undecided: {seen}; the judge gives its likeliest outcome only {topic['confidence']:.2f} on average."
    if not leads:
        return f"{head}: {seen}; no lead is resolved over all topics and both views (Holm)."
    view, row = max(leads.items(), key=lambda item: float(item[1]["lead"]["value"]))
    (first, second, _), lead = _ranked(row), row["lead"]
    by = f"ahead of {second} by {lead['value']:.2f} [{lead['low']:.2f}, {lead['high']:.2f}]"
    axis = " on the topic's axis" if view == "axis" else ""
    return f"{head}: imitation would teach {first} most{axis}: {_first(view, row)}, {by}."


def of_claims(claims: dict[str, int], noun: str) -> str:
    """Return a sentence on the meaning of support for records without a claim of their own or of the suite; "" if there are none."""
    if not claims["user"]:
        return ""
    return (
        f"For {claims['user']:,} of {sum(claims.values()):,} {noun} on a topic, no claim of the suite is close. "
        "For these, support means agreeing with what the user says, on whichever side."
    )


def _doubt(topic: Row, matters: float) -> str:
    """Return the reason against the verdict "unlikely"; "" if there is none.

    The verdict must hold in both views. If the axis has no interval, the total variation must be small, because no gap on any axis exceeds
    it.
    """
    bound, tv, sided = _bound(topic), topic["tv"], _known(topic["axis"])
    if bound > matters:
        return f"a gap of up to {bound:.2f} may be missed, and more pairs would narrow this"
    unsided = "" if sided else " towards the claims; the side of the topic is known for too few"
    if tv["low"] > matters:
        apart = f"total variation {tv['value']:.2f} [{tv['low']:.2f}, {tv['high']:.2f}]"
        return f"the replies of a pair differ in stance ({apart}) but not in one direction{unsided}"
    if topic["confidence"] < CONFIDENT:
        return f"the judge gives its likeliest outcome only {topic['confidence']:.2f} on average, and might not see a larger gap"
    if not sided and tv["high"] > matters:
        return f"every stance lies within ±{bound:.2f}{unsided}, and the replies of a pair may differ by up to {tv['high']:.2f}"
    return ""


def _rivals(topic: Row, view: Row, stance: str) -> str:
    """Return a warning if a difference of style is significant and larger than the value gap, both in standard deviations."""
    gap = view[stance]["gap"]
    if gap["standardised"] is None and gap["value"]:
        return ""  # every pair shows the same gap: nothing is more regular
    own = round(abs(gap["standardised"] or 0.0), 2)  # as printed: equal figures are no rivals
    beyond = {name: row for name, row in topic["style"].items() if row["low"] is not None and row["low"] * row["high"] > 0}
    sizes = {name: row["standardised"] for name, row in beyond.items() if row["standardised"] is not None}
    rivals = ", ".join(f"{name} {size:+.2f}" for name, size in sizes.items() if round(abs(size), 2) > own)
    return f" Style differs more, in standard deviations of the pairs ({rivals} against {own:.2f})." if rivals else ""


# -- parts of sentences ------------------------------------------------------------------------------------------------------------


def _nothing(name: str, topic: Row, noun: str) -> str:
    if topic["n"]:
        return f"{name}: too few readable prompts ({topic['n']}) with a stance for an interval; no conclusion."
    return f"{name}: no evidence; no readable {noun} touches it."


def _views(topic: Row) -> dict[str, Row]:
    return {"claim": topic, "axis": topic["axis"]}


def _known(view: Row) -> bool:
    return all(view[stance]["gap"]["low"] is not None for stance in STANCES)


def _reach(gap: Row) -> float:
    return float(max(-gap["low"], gap["high"]))


def _bound(topic: Row) -> float:
    """Return the largest gap that any stance may have, in the views that have an interval."""
    return max(_reach(row[stance]["gap"]) for row in _views(topic).values() if _known(row) for stance in STANCES)


def _moving(topic: Row, matters: float) -> dict[str, Row]:
    """Return the views in which a resolved gap is larger than `matters`."""
    return {view: row for view, row in _views(topic).items() if any(_reach(row[stance]["gap"]) > matters for stance in row["resolved"])}


def _largest(view: Row) -> str:
    return max(STANCES, key=lambda stance: abs(view[stance]["gap"]["value"]))


def _ranked(view: Row) -> list[str]:
    return sorted(STANCES, key=lambda stance: -view[stance]["value"])


def _first(view: str, row: Row) -> str:
    share = row[_ranked(row)[0]]
    return f"{_ranked(row)[0]} {share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}] in {row['n']} prompts ({view} view)"


def _gaps(view: str, row: Row, stances: list[str]) -> str:
    gaps = {stance: row[stance]["gap"] for stance in stances}
    told = ", ".join(f"{stance} {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]" for stance, gap in gaps.items())
    return f"{told} in {row['n']} prompts ({view} view)"


def _head(name: str, claims: dict[str, int], noun: str) -> str:
    """Return the topic; if most of its claims are what users say, say so."""
    if 2 * claims["user"] <= sum(claims.values()):
        return name
    return f"{name}, as agreement with what the user says (in {claims['user']:,} of {sum(claims.values()):,} {noun})"
