"""Sentences on what data push towards, each with the condition it holds under; none says more than its interval."""

from __future__ import annotations

from typing import Any, Literal

from ..nouns import STANCES

Row = dict[str, Any]
Verdict = Literal["could move", "unlikely", "undecided", "no evidence"]

SURE = 0.6
"""Least mean probability of a judge's likeliest outcome for a small gap to mean anything: shares of a judge that wavers lie near a third
each whatever the texts say. Our choice; `cues` reaches some 0.5 on real replies, a judge that decides nine times in ten 0.9."""


def verdict(topic: Row, matters: float) -> Verdict:
    """Return what follows for a topic from its three gaps.

    "unlikely": the intervals of all stances lie within +-matters, as read by a judge that is sure enough to see more. "could move": some
    stance's gap is resolved (Holm) and its interval reaches beyond. "undecided": neither. "no evidence": no stance has an interval.
    """
    gaps = {stance: topic[stance]["gap"] for stance in STANCES}
    known = {stance: gap for stance, gap in gaps.items() if gap["low"] is not None}
    if not known:
        return "no evidence"
    beyond = [stance for stance, gap in known.items() if max(-gap["low"], gap["high"]) > matters]
    if len(known) == len(gaps) and not beyond:
        return "unlikely" if topic["sureness"] >= SURE else "undecided"
    return "could move" if any(stance in topic["resolved"] for stance in beyond) else "undecided"


def of_gap(name: str, topic: Row, matters: float) -> str:
    """Return the conclusion on a topic's value gap, with its condition and with what competes with the gap."""
    n = topic["n"]
    gaps: dict[str, Row] = {stance: topic[stance]["gap"] for stance in STANCES}
    if n == 0:
        return f"{name}: no evidence; no pair that could be read touches it."
    if topic["verdict"] == "no evidence":
        return f"{name}: too few readable prompts ({n}) with a stance for an interval; nothing follows."
    largest = max((stance for stance in STANCES if gaps[stance]["low"] is not None), key=lambda stance: abs(gaps[stance]["value"]))
    if topic["verdict"] == "unlikely":
        bound = max(max(-gap["low"], gap["high"]) for gap in gaps.values())
        return (
            f"{name}: {_gap(largest, gaps)} in {n} prompts, and every stance within ±{bound:.2f}: by what its labels prefer, this data is "
            f"unlikely to move answers on {name} by {matters:g} or more, {_condition(topic)}; training may move them in other "
            f"ways.{_rivals(topic, largest)}"
        )
    if topic["verdict"] == "undecided":
        return f"{name}: {_gap(largest, gaps)} in {n} prompts: undecided; {_doubt(topic, gaps, matters)}."
    found = ", ".join(_gap(stance, gaps) for stance in topic["resolved"])
    strongest = max(topic["resolved"], key=lambda stance: gaps[stance]["value"])
    way = "towards" if gaps[strongest]["value"] > 0 else "away from"
    return (
        f"{name}: {found} in {n} prompts: this data could move answers on {name} {way} {strongest}, {_condition(topic)}, and if the "
        f"model learns this difference between the replies.{_rivals(topic, strongest)}"
    )


def _doubt(topic: Row, gaps: dict[str, Row], matters: float) -> str:
    """Return why nothing can be said, and what would help."""
    bound = max(max(-gap["low"], gap["high"]) for gap in gaps.values() if gap["low"] is not None)
    if bound <= matters:
        return (
            f"every stance lies within ±{bound:.2f}, but the judge gives its likeliest outcome only {topic['sureness']:.2f} on average and "
            "might not see a larger gap; a surer judge would tell"
        )
    unseen = f"no gap that matters ({matters:g}) is resolved, and one of up to {bound:.2f} could be there unseen"
    return f"{unseen}; more pairs on the topic would tell"


def of_shares(name: str, topic: Row) -> str:
    """Return the conclusion on the stances that texts to be imitated take."""
    n, lead = topic["n"], topic["lead"]
    if n == 0:
        return f"{name}: no evidence; no text that could be read touches it."
    if lead["low"] is None:
        return f"{name}: too few readable prompts ({n}) with a stance for an interval; nothing follows."
    if topic["sureness"] < SURE:
        return (
            f"{name}: undecided in {n} prompts; the judge gives its likeliest outcome only {topic['sureness']:.2f} on average, so that its "
            "shares lie near each other whatever the texts say; a surer judge would tell."
        )
    first, second = sorted(STANCES, key=lambda stance: -topic[stance]["value"])[:2]
    shares = f"{first} {topic[first]['value']:.2f} [{topic[first]['low']:.2f}, {topic[first]['high']:.2f}] in {n} prompts"
    if lead["low"] <= 0:
        return f"{name}: {shares}, which does not lead {second} beyond chance: no single stance is what imitation would teach most."
    return (
        f"{name}: {shares}, ahead of {second} by {lead['value']:.2f} [{lead['low']:.2f}, {lead['high']:.2f}]: imitating these texts would "
        f"teach {first} most, {_condition(topic)}; how far it moves a model depends on where the model stands."
    )


def _condition(topic: Row) -> str:
    found = topic["claims"]["suite"] + topic["claims"]["user"]
    return "if the judge reads these texts rightly" + (" and the claims found for them are what they are about" if found else "")


def _gap(stance: str, gaps: dict[str, Row]) -> str:
    gap = gaps[stance]
    return f"{stance} {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"


def _rivals(topic: Row, stance: str) -> str:
    """Return a warning where a difference of style is there beyond chance and larger than the value gap, each in standard deviations."""
    gap = topic[stance]["gap"]
    if gap["standardised"] is None and gap["value"]:
        return ""  # every pair shows the same gap: nothing is more regular
    own = round(abs(gap["standardised"] or 0.0), 2)  # as printed: equal figures are no rivals
    known = {name: row for name, row in topic["style"].items() if row["standardised"] is not None and row["low"] is not None}
    rivals = {name: row["standardised"] for name, row in known.items() if row["low"] * row["high"] > 0}
    rivals = {name: size for name, size in rivals.items() if round(abs(size), 2) > own}
    if not rivals:
        return ""
    listed = ", ".join(f"{feature} {size:+.2f}" for feature, size in rivals.items())
    return (
        f" A difference of style is larger than the value gap, in standard deviations of the pairs ({listed} against {own:.2f}): "
        "the model may learn that instead."
    )


def of_claims(claims: dict[str, int], noun: str) -> str:
    """Return what support means for records without a claim of their own or of the suite; empty where there are none."""
    if not claims["user"]:
        return ""
    return (
        f"For {claims['user']:,} of {sum(claims.values()):,} {noun} on a topic no claim of the suite is near: there, "
        "support means agreeing with what the user puts."
    )
