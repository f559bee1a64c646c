"""Where a request belongs, by what a look-up found: what the recorded sequences do not come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.recognition.decision import LONG_ENOUGH, Action, Asked, Candidate, decide
from proxy.recognition.look import Evidence, Look, look_at

KEY = b"k" * 32
TOOLS = b"t" * 8
ONE = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Answer."}]


def asked(*more: dict[str, Any]) -> Look:
    return look_at(KEY, [*ONE, {"role": "user", "content": "two"}, *more])


LOOK = asked()
TIP = Candidate(Evidence.FULL, "conv_1", LOOK.samples[0].full, 3, "item_2", "item_1", strict=LOOK.samples[0].strict)
SAME = Candidate(Evidence.QUESTION, "conv_1", LOOK.question, 3, "item_4", "item_3")


def test_the_tip_is_gone_on_with():
    plan = decide(LOOK, Asked(), [TIP])
    assert (plan.action, plan.conversation, plan.line, plan.after) == (Action.CONTINUE, "conv_1", 3, "item_2")
    assert (plan.new, plan.covered, plan.differs, plan.is_main) == ((2,), 2, False, False)


@pytest.mark.parametrize(
    "taken", [replace(TIP, is_busy=True), replace(TIP, is_continued=True), replace(TIP, is_tip=False)]
)
def test_a_line_that_is_busy_or_goes_on_is_forked(taken: Candidate):
    plan = decide(LOOK, Asked(), [taken])
    assert (plan.action, plan.after, plan.new, plan.is_main) == (Action.FORK, "item_2", (2,), True)


def test_the_same_question_has_another_answer():
    plan = decide(LOOK, Asked(), [replace(TIP, is_continued=True), SAME])
    assert (plan.action, plan.after, plan.new, plan.is_main) == (Action.REGENERATE, "item_3", (), True)


def test_only_the_same_conversation_has_the_same_question():
    other = replace(SAME, conversation="conv_2")
    assert decide(LOOK, Asked(), [replace(TIP, is_continued=True), other]).action is Action.FORK


@pytest.mark.parametrize(
    ("retries", "is_delivered", "action"),
    [(1, False, Action.RETRY), (1, True, Action.REGENERATE), (0, False, Action.REGENERATE)],
)
def test_a_retry_replaces_what_was_not_delivered(retries: int, is_delivered: bool, action: Action):
    found = [replace(TIP, is_continued=True), replace(SAME, is_delivered=is_delivered)]
    plan = decide(LOOK, Asked(retries=retries), found)
    assert (plan.action, plan.replaces) == (action, action is Action.RETRY)


def test_of_equal_turns_that_with_the_key_then_the_open_one_then_the_newest_is_meant():
    keyed, open_, new = (replace(TIP, conversation=name) for name in ("keyed", "open", "new"))
    keyed = replace(keyed, key=b"k", is_continued=True)
    new = replace(new, order=2)
    taken = replace(new, conversation="taken", is_continued=True, order=3)
    assert decide(LOOK, Asked(key=b"k"), [taken, new, open_, keyed]).conversation == "keyed"
    assert decide(LOOK, Asked(), [taken, open_, new, keyed]).conversation == "new"


def test_the_longest_history_counts_most():
    look = asked({"role": "assistant", "content": "Two."}, {"role": "user", "content": "three"})
    longer = replace(TIP, digest=look.samples[1].full, conversation="conv_2", is_continued=True)
    plan = decide(look, Asked(), [TIP, longer])
    assert (plan.conversation, plan.action, plan.new) == ("conv_2", Action.FORK, (4,))


@pytest.mark.parametrize("length", [LONG_ENOUGH - 1, LONG_ENOUGH])
@pytest.mark.parametrize("evidence", [Evidence.ANCHOR, Evidence.PAIR])
def test_answers_alone_lead_somewhere_if_they_are_long_and_alone(evidence: Evidence, length: int):
    question = "q" if evidence is Evidence.PAIR else ""
    text = "x" * (length - len(question))
    look = look_at(KEY, [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}])
    found = replace(TIP, evidence=evidence, digest=getattr(look.samples[0], evidence))
    assert decide(look, Asked(), [found]).action is (Action.CONTINUE if length >= LONG_ENOUGH else Action.NEW)
    assert decide(look, Asked(), [found, replace(found, conversation="conv_2")]).action is Action.NEW
    own = replace(found, key=b"k")
    plan = decide(look, Asked(key=b"k"), [own, replace(own, conversation="conv_2", key=b"")])
    assert (plan.conversation, plan.differs) == ("conv_1", True)


def test_without_tools_a_turn_with_tools_has_a_side_branch():
    plan = decide(LOOK, Asked(), [replace(TIP, tools=TOOLS)])
    assert (plan.action, plan.is_main, plan.after) == (Action.SIDE_BRANCH, False, "item_2")
    assert decide(LOOK, Asked(tools=TOOLS), [TIP]).action is Action.CONTINUE


def test_what_is_resent_otherwise_than_it_is_stored_is_noted():
    assert decide(LOOK, Asked(), [replace(TIP, strict=b"other")]).differs


def test_ids_lead_to_their_conversation_and_to_no_other():
    elsewhere = replace(TIP, conversation="conv_2", order=9)
    assert decide(LOOK, Asked(conversation="conv_1"), [elsewhere, TIP]).conversation == "conv_1"
    session = Candidate(Evidence.SESSION, "conv_1")
    assert decide(LOOK, Asked(conversation="conv_1"), [elsewhere, session]).parent == "conv_1"


def test_keys_alone_may_be_trusted():
    assert decide(LOOK, Asked(trusts_content=False), [TIP]).action is Action.NEW
    own = replace(TIP, key=b"k")
    assert decide(LOOK, Asked(key=b"k", trusts_content=False), [own]).action is Action.CONTINUE
    assert decide(LOOK, Asked(key=b"other", trusts_content=False), [own]).action is Action.NEW


def test_a_history_that_was_written_anew_is_a_branch():
    said = [
        Candidate(Evidence.SAID, name, digest, 0, f"item_{index}", key=b"k", order=index)
        for name, index, digest in [("conv_1", *LOOK.said[0]), ("conv_1", *LOOK.said[1]), ("conv_2", *LOOK.said[1])]
    ]
    plan = decide(LOOK, Asked(key=b"k"), said)
    assert (plan.action, plan.conversation, plan.after, plan.is_main) == (Action.REWRITTEN, "conv_1", "", True)
    assert (plan.new, plan.reused) == ((0, 1, 2), {0: "item_0", 2: "item_2"})


@pytest.mark.parametrize("tools", [b"", TOOLS])
def test_another_request_of_the_session_is_a_conversation_of_its_own(tools: bytes):
    first = Candidate(Evidence.SESSION, "title", key=b"k", order=1)
    main = Candidate(Evidence.SESSION, "main", key=b"k", tools=TOOLS, order=2)
    plan = decide(LOOK, Asked(key=b"k", tools=tools), [first, main])
    assert (plan.action, plan.conversation, plan.parent) == (Action.SEPARATE, "", "main")
    assert plan.new == (0, 1, 2)


def test_an_output_that_was_waited_for_is_new_wherever_it_stands():
    def call(name: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": name, "name": name, "arguments": "{}"}

    def output(name: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": name, "output": "out"}

    sent = [ONE[0], call("c1"), output("c1"), call("c2"), output("c2")]
    look = look_at(KEY, sent)
    found = replace(TIP, digest=look.samples[-1].full, waiting=frozenset({"c1", "c2"}))
    assert decide(look, Asked(), [found]).new == (2, 4)
    assert decide(look, Asked(), [replace(found, waiting=frozenset({"c2"}))]).new == (4,)
