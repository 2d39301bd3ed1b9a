"""Sentences on what data push towards, each with the condition it holds under; none says more than its interval."""

from __future__ import annotations

from typing import Any, Literal

from ..nouns import STANCES

Row = dict[str, Any]
Verdict = Literal["could move", "unlikely", "undecided", "not headlined", "no evidence"]

SURE = 0.6
"""Least mean probability of a judge's likeliest outcome for a small gap to mean anything: shares of a judge that wavers lie near a third
each whatever the texts say. Our choice; `cues` reaches some 0.5 on real replies, a judge that decides nine times in ten 0.9."""


def verdict(topic: Row, matters: float, fine: bool) -> Verdict:
    """Return what follows for a topic from the gaps of its two views.

    "could move": in some view a stance's gap is resolved (Holm) and its interval reaches beyond +-matters. "unlikely": nothing speaks
    against it (`_doubt`). "undecided": neither. "not headlined": the judge agrees with people too little (not `fine`) for any of these.
    "no evidence": no stance has an interval.
    """
    if not _known(topic):
        return "no evidence"
    if not fine:
        return "not headlined"
    if _moving(topic, matters):
        return "could move"
    return "undecided" if _doubt(topic, matters) else "unlikely"


def of_gap(name: str, topic: Row, matters: float) -> str:
    """Return the conclusion on a topic's value gap, with its condition and with what competes with the gap."""
    n, head = topic["n"], _head(name, topic["claims"], "pairs")
    if n == 0:
        return f"{name}: no evidence; no pair that could be read touches it."
    if topic["verdict"] == "no evidence":
        return f"{name}: too few readable prompts ({n}) with a stance for an interval; nothing follows."
    if topic["verdict"] == "could move":
        return f"{head}: {_movement(name, topic, matters)}"
    seen = "; ".join(_gaps(view, row, [_largest(row)]) for view, row in _views(topic).items() if _known(row))
    if topic["verdict"] == "not headlined":
        return f"{head}: {seen}; nothing is concluded, because the judge agrees with people too little."
    if topic["verdict"] == "undecided":
        return f"{head}: {seen}: undecided; {_doubt(topic, matters)}."
    what = f"agreement with what the user says on {name}" if _by_users(topic["claims"]) else f"answers on {name}"
    return (
        f"{head}: {seen}, and every stance within ±{_bound(topic):.2f}: by what its labels prefer, this data is "
        f"unlikely to move {what} by {matters:g} or more, {_condition(topic)}; training may move them in other "
        f"ways.{_rivals(topic, topic, _largest(topic))}"
    )


def _movement(name: str, topic: Row, matters: float) -> str:
    """Return what moves, in which view, and towards what; the view with the largest gap says it where there are two."""
    moving = _moving(topic, matters)
    view = max(moving, key=lambda view: max(abs(moving[view][stance]["gap"]["value"]) for stance in moving[view]["resolved"]))
    strongest = max(moving[view]["resolved"], key=lambda stance: moving[view][stance]["gap"]["value"])
    way = "towards" if moving[view][strongest]["gap"]["value"] > 0 else "away from"
    claims = topic["claims"]
    if view == "axis":
        what = f"answers on {name} {way} {strongest} on the topic's axis"
    elif _by_users(claims):
        what = f"agreement with what the user says on {name}, {way} {strongest}"
    else:
        mixed = ", in part what the user says," if claims["user"] else ""
        what = f"answers to claims on {name}{mixed} {way} {strongest}"
    found = "; ".join(_gaps(view, row, row["resolved"]) for view, row in moving.items())
    return (
        f"{found}: this data could move {what}, {_condition(topic)}, and if the model learns this difference between the "
        f"replies.{_rivals(topic, moving[view], strongest)}"
    )


def _doubt(topic: Row, matters: float) -> str:
    """Return why "unlikely" cannot be said, and what would help; empty where it can.

    It has to hold in both views. Where the axis has no interval, the total variation has to be small: no gap on any axis is larger.
    """
    bound, tv, sided = _bound(topic), topic["tv"], _known(topic["axis"])
    if bound > matters:
        unseen = f"no gap that matters ({matters:g}) is resolved, and one of up to {bound:.2f} could be there unseen"
        return f"{unseen}; more pairs on the topic would tell"
    unsided = "" if sided else " towards what is claimed; on which side of the topic the claims are is known for too few"
    if tv["low"] > matters:
        apart = f"total variation {tv['value']:.2f} [{tv['low']:.2f}, {tv['high']:.2f}]"
        return f"the replies of a pair differ in stance ({apart}) but not in one direction{unsided}"
    if topic["sureness"] < SURE:
        return (
            f"every stance lies within ±{bound:.2f}, but the judge gives its likeliest outcome only {topic['sureness']:.2f} on average and "
            "might not see a larger gap; a surer judge would tell"
        )
    if not sided and tv["high"] > matters:
        return f"every stance lies within ±{bound:.2f}{unsided}, and the replies of a pair may differ by up to {tv['high']:.2f}"
    return ""


def of_shares(name: str, topic: Row, level: float, fine: bool) -> str:
    """Return the conclusion on the stances that texts to be imitated take."""
    n, head = topic["n"], _head(name, topic["claims"], "texts")
    if n == 0:
        return f"{name}: no evidence; no text that could be read touches it."
    if topic["lead"]["low"] is None:
        return f"{name}: too few readable prompts ({n}) with a stance for an interval; nothing follows."
    if not fine:
        return f"{head}: {_first('claim', topic)}; nothing is concluded, because the judge agrees with people too little."
    if topic["sureness"] < SURE:
        return (
            f"{head}: undecided in {n} prompts; the judge gives its likeliest outcome only {topic['sureness']:.2f} on average, so that its "
            "shares lie near each other whatever the texts say; a surer judge would tell."
        )
    views = {view: row for view, row in _views(topic).items() if row["lead"]["low"] is not None}
    led = {view: row for view, row in views.items() if row["lead"]["p_adjusted"] < level}
    if not led:
        shares = "; ".join(_first(view, row) for view, row in views.items())
        return (
            f"{head}: {shares}: with all topics and both views looked at together (Holm), no lead is beyond chance, though the interval of "
            "one by itself may say so; no single stance is what imitation would teach most."
        )
    view = max(led, key=lambda view: led[view]["lead"]["value"])
    (first, second, _), lead = _ranked(led[view]), led[view]["lead"]
    return (
        f"{head}: {_first(view, led[view])}, ahead of {second} by {lead['value']:.2f} [{lead['low']:.2f}, {lead['high']:.2f}]: imitating "
        f"these texts would teach {first} most{' on the axis of the topic' if view == 'axis' else ''}, {_condition(topic)}; how far it "
        "moves a model depends on where the model stands."
    )


# -- parts of sentences ------------------------------------------------------------------------------------------------------------


def _views(topic: Row) -> dict[str, Row]:
    return {"claim": topic, "axis": topic["axis"]}


def _known(view: Row) -> bool:
    return all(view[stance]["gap"]["low"] is not None for stance in STANCES)


def _reach(gap: Row) -> float:
    return float(max(-gap["low"], gap["high"]))


def _bound(topic: Row) -> float:
    """Return how large a gap of any stance may be, in the views that have an interval."""
    return max(_reach(row[stance]["gap"]) for row in _views(topic).values() if _known(row) for stance in STANCES)


def _moving(topic: Row, matters: float) -> dict[str, Row]:
    """Return the views in which a resolved gap reaches beyond +-matters."""
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


def _by_users(claims: dict[str, int]) -> bool:
    return 2 * claims["user"] > sum(claims.values())


def _head(name: str, claims: dict[str, int], noun: str) -> str:
    """Return the topic, and that its stances mostly refer to what users say where they do."""
    if not _by_users(claims):
        return name
    return f"{name}, as agreement with what the user says (in {claims['user']:,} of {sum(claims.values()):,} {noun})"


def _condition(topic: Row) -> str:
    found = topic["claims"]["suite"] + topic["claims"]["user"]
    return "if the judge reads these texts rightly" + (" and the claims found for them are what they are about" if found else "")


def _rivals(topic: Row, view: Row, stance: str) -> str:
    """Return a warning where a difference of style is there beyond chance and larger than the value gap, each in standard deviations."""
    gap = view[stance]["gap"]
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
        "support means agreeing with what the user puts, whichever side that is."
    )
