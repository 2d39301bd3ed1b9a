"""A panel: the mean of its members, no verdict where one has none, and every member kept on its own."""

import pytest

from valuedrift import judge as judges
from valuedrift import testing
from valuedrift.judge.cache import CachedJudge
from valuedrift.nouns import BadInput, Item, Reading, Stopped
from valuedrift.store import Store

ITEMS = [Item("Is it?", "It is.", f"text {n}", "work") for n in range(6)]


class Fixed(judges.Judge):
    """Gives the same probabilities to every item; fails on the texts in `fails`, and stops after `budget` items."""

    batch_size = 2
    failure = "judge_error"

    def __init__(self, name, probs, fails=(), budget=None):
        self.identity, self.probs, self.fails, self.budget = f"{name}/1", probs, fails, budget
        self.asked = []

    def read(self, items):
        readings = []
        for item in items:
            if self.budget is not None and len(self.asked) >= self.budget:
                raise Stopped("the money is spent", readings)
            self.asked.append(item)
            fine = item.text not in self.fails
            readings.append(
                Reading(item.key, self.identity, **({"probs": self.probs} if fine else {"failure": self.failure, "reason": "noise"}))
            )
        return readings


FOR, AGAINST = (1.0, 0.0, 0.0, 0.0, 0.0), (0.2, 0.0, 0.8, 0.0, 0.0)


def offered(made):
    """Make judges known by name."""
    return testing.offering("judge", **{name: lambda argument, judge=judge: judge for name, judge in made.items()})


@pytest.fixture
def panel():
    made = {"one": Fixed("one", FOR), "two": Fixed("two", AGAINST, fails=("text 3",))}
    with offered(made):
        yield judges.make("panel:one,two")


def test_the_mean_and_the_missing_member(panel):
    readings = panel.read(ITEMS)
    assert readings[0].probs == pytest.approx((0.6, 0, 0.4, 0, 0))  # (1 + 0.2) / 2, 0.8 / 2
    assert readings[3].probs is None
    assert readings[3].reason == "two/1: noise"


def test_members_are_kept_and_asked_once(panel, tmp_path):
    kept = CachedJudge(panel, Store(tmp_path))
    first = kept.read([*ITEMS, ITEMS[0]])
    assert first[0] == first[6]
    assert kept.members[1].read(ITEMS)[3].reason == "noise"
    assert [len(member.asked) for member in panel.members] == [6, 6], "in one command equal words are read once, failures too"
    assert dict(Store(tmp_path).readings()["judge"].value_counts().iter_rows()) == {
        "one/1": 6,
        "two/1": 6,
        panel.identity: 6,
    }
    again = CachedJudge(panel, Store(tmp_path))
    assert again.read(ITEMS)[0] == first[0]
    assert [len(member.asked) for member in panel.members] == [6, 7]  # "two" could not answer on one text: it is asked again
    assert again.n_new == 1


def test_what_was_paid_for_is_kept_when_the_money_is_spent(tmp_path):
    poor = Fixed("poor", FOR, budget=3)
    with pytest.raises(Stopped):
        CachedJudge(poor, Store(tmp_path)).read(ITEMS)
    assert Store(tmp_path).readings().height == 3
    rich = Fixed("poor", FOR)
    assert len(CachedJudge(rich, Store(tmp_path)).read(ITEMS)) == 6
    assert len(rich.asked) == 3


@pytest.mark.parametrize("argument", ["", "cues", "cues,cues"])
def test_a_panel_needs_different_judges(argument):
    with pytest.raises(BadInput):
        _ = judges.make(f"panel:{argument}").identity


def test_what_would_fail_the_same_way_is_not_asked_again(tmp_path):
    judge = Fixed("one", FOR, fails=("text 3",))
    judge.failure = "unparsed"
    CachedJudge(judge, Store(tmp_path)).read(ITEMS)
    again = CachedJudge(judge, Store(tmp_path)).read(ITEMS)
    assert len(judge.asked) == 6
    assert (again[3].failure, again[3].reason) == ("unparsed", "noise")


def test_a_panel_is_believed_no_more_than_its_weakest_member(monkeypatch):
    assert judges.make("panel:cues,oracle").agreement == judges.make("cues").agreement


class Paid(Fixed):
    """A judge behind a server: a dollar a text, or no known price."""

    is_remote, spent, stopped = True, 3.0, False

    def worst_cost(self, items):
        return None if self.probs == AGAINST else float(len(items))

    def stop(self):
        self.stopped = True


def test_a_panel_costs_what_its_members_cost():
    made = {"free": Fixed("free", FOR), "paid": Paid("paid", FOR), "unpriced": Paid("unpriced", AGAINST)}
    with offered(made):
        panel, cached = judges.make("panel:free,paid", max_cost=5.0), CachedJudge(judges.make("panel:free,paid"), None)
        for judge in (panel, cached):
            assert (judge.is_remote, judge.worst_cost(ITEMS), judge.spent) == (True, 6.0, 3.0)
        assert judges.make("panel:free,unpriced").worst_cost(ITEMS) is None
        assert not judges.make("panel:cues,oracle").is_remote
        assert [member.max_cost for member in judges.make("panel:free,paid", max_cost=5.0).members] == [5.0, 5.0]
        cached.stop()
        assert made["paid"].stopped
        with pytest.raises(Stopped, match="judging stopped because sampling stopped"):
            cached.read(ITEMS)


def test_a_judge_without_wordings_says_so():
    assert judges.make("cues").wordings() == []
    with pytest.raises(BadInput, match="the judge 'cues' has no wording 'plain'; leave the wording out"):
        judges.make("cues").reworded("plain")
