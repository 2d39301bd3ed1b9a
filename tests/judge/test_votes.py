"""A label is read out of the usual shapes of a reply, and never guessed."""

import json

from hypothesis import given
from hypothesis import strategies as st

from valuedrift.judge.votes import label_of

LABELS = {"support": "support", "neutral": "neutral", "oppose": "oppose", "refusal": "refusal", "unreadable": "invalid"}
LETTERS = dict(zip("abcde", LABELS.values(), strict=True))

SUPPORT = [
    *("support", "SUPPORT", " Support.\n", "support!", "Ｓｕｐｐｏｒｔ", "support</s>", "support<|im_end|>"),
    *("**Support**", "*Support*", "_support_", "`support`", '"support"', "“support”", "'support'", "(support)", "[support]", "- support"),
    *("Support - the writer agrees.", "Support – the text supports it", "Support: it argues for the claim"),
    "Support, because it praises it",
    *("support\n\nExplanation: yes", "**Support.** The text agrees", "Support (the writer agrees)", "**Label: Support**\n\nReason: clear"),
    *("Label: Support", "Stance: support", "**Label:** support", "The label is support.", "Final answer: **support**", 'Label = "support"'),
    *("The stance of the text towards the claim, in one word: support", "<answer>support</answer>", "\\boxed{support}"),
    *("$\\boxed{\\text{Support}}$", "```\nsupport\n```", "```support```", '```json\n{"stance": "Support"}\n```', '{"label": "support"}'),
    *('{"Label": "Support - it agrees"}', '{"label": "support", "reason": "does not oppose it"}', '{"result": {"label": "support"}}'),
    *("<think>\n\n</think>\n\nsupport", "<think>Does it oppose it? No.</think> Support.", "it may oppose</think>support"),
    *("[THINK]oppose?[/THINK]support", "◁think▷neutral◁/think▷support", "<|channel|>final<|message|>support"),
    "<|channel|>analysis<|message|>Could be neutral.<|end|><|start|>assistant<|channel|>final<|message|>support<|return|>",
]
UNREAD = [
    *("", " ", "what?", "支持", "supports", "supportive", "unsupport", "non-support", "support-ish", "supp", "A) support", "1. support"),
    *("support or oppose", "support, oppose", "Support/oppose", "support & oppose", "support\noppose", "support|neutral"),
    "support neutral",
    *("neither support nor oppose", "not support", "no support", "The label is not support", "does not support", "can't support"),
    *("Support: no", "Support - not really", "Support? No.", "Support (not oppose)", "Support - it does not support it", "Support: false"),
    *("Support: 0.9, Oppose: 0.1", "Support: 2/5", "Support: 40%", "Support: the text opposes nothing", "~~support~~ oppose", "!support"),
    *("Support?", "I think support", "probably support", "leaning support", "somewhat support", "Support, maybe", "Support, I guess"),
    *("Support, but only in part", "Support - but the text is critical", "Support. Or oppose", "Support... or not"),
    "Support (low confidence)",
    *("I support oppose", "The text supports the claim", "Anything but support", "Support is not what it says", "Support and neutral"),
    *('{"support": 0.9, "oppose": 0.1}', '{"label": ["support", "oppose"]}', '{"label": "support", "label": "oppose"}', '{"label": null}'),
    *('{"label": "not support"}', '{"label": "support", "answer": "oppose"}', '{"reason": "support"}', '{"label": "supp'),
    *("<think>support", "<think>It is support.\n\nsupport", "<think>a</think><think>support", "</think>"),
    "<|channel|>analysis<|message|>support",
]


def test_the_usual_shapes_of_a_label():
    assert {text: label_of(text, LABELS) for text in SUPPORT} == dict.fromkeys(SUPPORT, "support")
    assert label_of("Unreadable: the text is cut off", LABELS) == "invalid"
    assert label_of("Refusal - the writer declines to answer", LABELS) == "refusal"


def test_a_reply_that_names_two_negates_or_hedges_is_not_read():
    assert {text: label_of(text, LABELS) for text in UNREAD} == dict.fromkeys(UNREAD)


def test_letters_of_a_list():
    read = ["A", "a", "A.", "(A)", "A)", "A) support", "A. The text stands for the claim.", "Option A", "**A**", "Answer: A"]
    read += ['{"answer": "A"}', "The letter of the option that fits: A", "A\nIt is a text for the claim"]
    unread = ["A or B", "A, B", "a, b", "A/B", "A and B", "A) oppose", "B - A", "F", "a text", "A text that agrees", "E-mail"]
    unread += ["E.g. this", "A?"]
    assert {text: label_of(text, LETTERS) for text in read} == dict.fromkeys(read, "support")
    assert {text: label_of(text, LETTERS) for text in unread} == dict.fromkeys(unread)


@given(st.permutations(list(LABELS)), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_whatever_stands_around_two_labels_they_are_not_read(words, before, between, after):
    assert label_of(f"{before} {words[0]} {between} {words[1]} {after}", LABELS) is None


@given(st.sampled_from(list(LABELS)), st.text("abcdehlnrstu ,\n", max_size=40), st.text(max_size=30))
def test_whatever_the_reason_says_a_label_in_json_is_read(word, reason, thought):
    reply = json.dumps({"reason": reason, "label": word.title()})
    assert label_of(f"<think>{thought.replace('<', '')}</think>\n```json\n{reply}\n```", LABELS) == LABELS[word]
