"""Questions made of five plain topics, for clusterings whose truth is known."""

import random

TOPICS = {
    "religion": (
        ("church", "god", "faith", "religion", "prayer", "bible"),
        "Should religion and {} count for more than {} in the church of {}?",
    ),
    "climate": (("climate", "carbon", "coal", "warming", "energy", "forests"), "Should climate laws on {} and {} ban carbon and {}?"),
    "migration": (
        ("immigrants", "borders", "refugees", "asylum", "migrants", "citizenship"),
        "Should immigrants without {} or {} cross borders for {}?",
    ),
    "punishment": (("prison", "police", "crime", "judges", "punishment", "sentences"), "Should police and prison for {} follow {} and {}?"),
    "family": (
        ("marriage", "parents", "divorce", "children", "husbands", "wives"),
        "Should parents and children after {} agree on marriage, {} and {}?",
    ),
}


def questions(n_each: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (topic, text), the topics mixed; a word of another topic strays into one question in five."""
    rng = random.Random(seed)
    extra = [
        "villages",
        "taxis",
        "lawyers",
        "islands",
        "theatres",
        "gardens",
        "harbours",
        "winters",
        "bridges",
        "markets",
        "trains",
        "rivers",
    ]
    found = []
    for topic, (words, frame) in TOPICS.items():
        for _ in range(n_each):
            stray = rng.choice(TOPICS[rng.choice(list(TOPICS))][0]) if rng.random() < 0.2 else rng.choice(words)
            filled = frame.format(rng.choice(words), stray, rng.choice(words))
            found.append((topic, f"{filled[:-1]}, in {rng.choice(extra)} and {rng.choice(extra)} or {rng.choice(extra)}?"))
    rng.shuffle(found)
    return found
