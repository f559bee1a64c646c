"""The Lua files: what they declare, how they are put together, and the form that all of them keep."""

import hashlib
import re

import pytest

from storage import CONTINUED, MOST_MEMBERS
from storage.client.library import (
    LISTED,
    PROLONGS,
    Files,
    Head,
    assemble,
    load_scripts,
    read_files,
    read_head,
    read_names,
)
from storage.client.values import CALL_BREAK, FIELD_BREAK, SEGMENT_SPACE
from storage.errors import REFUSALS

SCRIPTS, LIBRARY, PLAIN = read_files()
FILES = SCRIPTS | LIBRARY | {f"plain {name}": text for name, text in PLAIN.items()}
#: A library's functions: name → text.
FUNCTIONS = dict(re.findall(r"^local function (\w+)(.*?)^end$", "\n".join(LIBRARY.values()), re.MULTILINE | re.DOTALL))
LIBRARY_OF_TWO = {
    "low": "-- low: below.\n-- needs: nothing\n\nlocal low = 1",
    "high": "-- high: above.\n-- needs: low\n\nlocal high = low",
    "retention": "-- retention: lives.\n-- needs: low\n\nlocal function prolong() end",
}


def header_of(text: str) -> str:
    return re.split(r"\n(?!--)", text, maxsplit=1)[0]


def refusals_in(text: str) -> set[str]:
    return set(re.findall(rf"'({'|'.join(refusal.decode() for refusal in REFUSALS)}|exists)'", text))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_opens_with_its_name_keys_arguments_and_returns(name: str):
    header = header_of(SCRIPTS[name])
    assert header.startswith(f"-- {name}: ")
    assert re.findall(r"^-- (needs|KEYS|ARGV|Returns)\b", header, re.MULTILINE) == ["needs", "KEYS", "ARGV", "Returns"]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_names_its_keys_and_arguments_at_its_top_and_counts_none_below(name: str):
    header, names = header_of(SCRIPTS[name]), read_names(SCRIPTS[name])
    below = SCRIPTS[name].removeprefix(header).replace(names, "", 1)
    assert re.findall(r"(?:KEYS|ARGV)\[\s*\d|\((?:KEYS|ARGV),\s*\d|\bKEYS\b", below) == []
    if re.search(r"^-- ARGV  (?!none|\(none\))", header, re.MULTILINE):
        assert all(line.startswith("local ") for line in names.splitlines())
        counted = [int(number) for number in re.findall(r"ARGV\[(\d+)\]", names)]
        assert counted == list(range(1, len(counted) + 1))


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_a_library_file_takes_no_argument_by_its_number(name: str):
    assert re.findall(r"(?:KEYS|ARGV)\[\s*\d", LIBRARY[name]) == (["KEYS[1"] if name == "layout" else [])


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_header_names_every_refusal_of_a_script(name: str):
    header = header_of(SCRIPTS[name])
    body = SCRIPTS[name].removeprefix(header)
    refusals = refusals_in(body)
    for called in set(re.findall(r"\b(\w+)\(", body)) & set(FUNCTIONS):
        # what a fork is refused for depends on its point
        refusals |= refusals_in(FUNCTIONS[called]) if called != "resolve_fork" else set()
    if "what fork_branch refuses" in header:
        header += header_of(SCRIPTS["fork_branch"])
    assert {refusal for refusal in refusals if refusal not in header} == set()


def test_the_refusals_of_library_functions_are_seen():
    assert refusals_in(FUNCTIONS["find_branch"]) == {"conversation_not_found", "branch_not_found"}


def test_python_and_the_scripts_have_the_same_breaks_and_the_same_room_in_a_segment():
    layout = LIBRARY["layout"]
    assert f"local SEGMENT_SPACE = {SEGMENT_SPACE} " in layout
    assert rf"local CALL_BREAK, CALL_ID = '\{ord(CALL_BREAK)}'," in layout
    assert rf"local FIELD_BREAK, FIRST_FIELD = '\{ord(FIELD_BREAK)}'," in layout


def test_python_and_the_scripts_know_the_same_of_leads():
    assert f"local MOST_MEMBERS, CONTINUED = {MOST_MEMBERS}, {CONTINUED}\n" in LIBRARY["leads"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_number_or_break_with_a_name_is_not_written_out(name: str):
    written = re.findall(r"1073741824|\\30|\\31", FILES[name])
    assert len(written) == (5 if name == "layout" else 0)


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_script_parses_items(name: str):
    assert "cjson" not in FILES[name]


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_library_file_is_needed(name: str):
    heads = [read_head(other.removeprefix("plain "), text) for other, text in FILES.items()]
    needs = [one for head in heads for one in (*head.needs, *([LISTED] if head.lists else []))]
    assert name in needs


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_what_a_script_calls_of_the_library_is_put_before_it(name: str):
    source = load_scripts()[name].source
    there = set(re.findall(r"local function (\w+)", source))
    assert set(re.findall(r"(?<![.\w])(\w+)\(", source)) & set(FUNCTIONS) - there == set()


def test_a_script_comes_after_what_it_needs_and_that_after_its_own_needs():
    script = "-- one: does.\n-- needs: high\n\nreturn { 'ok', high }"
    assert assemble(Files({"one": script}, LIBRARY_OF_TWO, {}), 0)["one"].source == "\n".join(
        [LIBRARY_OF_TWO["low"], LIBRARY_OF_TWO["high"], script]
    )


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_case_makes_no_functions_and_is_the_first_thing_that_runs(name: str):
    source = load_scripts()[name].source
    assert source.index(PLAIN[name]) < source.index("function")
    needed = [LIBRARY[one] for one in read_head(name, PLAIN[name]).needs]
    assert needed
    assert all("function" not in text and source.index(text) < source.index(PLAIN[name]) for text in needed)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_case_says_what_it_leaves_to_the_script_and_counts_no_arguments(name: str):
    assert "-- Left to the general case: " in header_of(PLAIN[name])
    assert re.findall(r"(?:KEYS|ARGV)\[\s*\d|\((?:KEYS|ARGV),\s*\d|\bKEYS\b", PLAIN[name]) == []


def test_a_plain_case_has_the_names_of_its_script_and_what_both_need_is_there_once():
    script = "-- one: does.\n-- needs: high\n\nlocal key = KEYS[2]\n\nreturn { 'ok', key, high }"
    plain = "-- one: the plain case.\n-- needs: low\n\nif key then return { 'ok' } end"
    assert assemble(Files({"one": script}, LIBRARY_OF_TWO, {"one": plain}), 0)["one"].source == "\n".join(
        [LIBRARY_OF_TWO["low"], "do", "local key = KEYS[2]", plain, "end", LIBRARY_OF_TWO["high"], script]
    )


def test_scripts_can_be_had_without_their_plain_cases_and_are_the_same_otherwise():
    plain, general = load_scripts(77), load_scripts(77, plain_cases=False)
    assert {name for name, script in plain.items() if script != general[name]} == set(PLAIN)
    assert all(text not in general[name].source for name, text in PLAIN.items())


def test_a_plain_case_of_no_script_is_refused():
    plain = {"two": "-- two: the plain case.\n-- needs: low"}
    with pytest.raises(ValueError, match=r"plain/two\.lua is no script's plain case"):
        assemble(Files({"one": "-- one: does.\n-- needs: high\n\nreturn 1"}, LIBRARY_OF_TWO, plain), 0)


def test_what_is_needed_twice_is_there_once():
    script = "-- one: does.\n-- needs: low, high\n\nreturn { 'ok' }"
    assert assemble(Files({"one": script}, LIBRARY_OF_TWO, {}), 0)["one"].source.count("local low") == 1


@pytest.mark.parametrize(("prolongs", "used"), PROLONGS.items())
def test_what_prolongs_a_conversation_answers_through_its_retention(prolongs: str, used: str):
    script = f"-- one: does.\n-- needs: high\n-- prolongs: {prolongs}\n\nreturn {{ 'ok' }}"
    source = assemble(Files({"one": script}, LIBRARY_OF_TWO, {}), 77)["one"].source
    assert source.startswith("local CONVERSATION_SECONDS = 77\n-- low")
    assert source.index("local function prolong()") < source.index("-- one: does.")
    assert f"prolong({used})" in source


def test_a_script_without_keys_to_prolong_pays_nothing_for_it():
    assert "CONVERSATION_SECONDS" not in load_scripts(77)["read_item"].source
    assert "CONVERSATION_SECONDS = 77" in load_scripts(77)["delete_conversation"].source


def test_the_text_of_a_script_is_always_the_same():
    again = assemble(Files(*(dict(reversed(texts.items())) for texts in read_files())), 0)
    assert again == load_scripts()
    assert all(hashlib.sha1(one.source.encode()).hexdigest() == one.sha for one in again.values())


def test_a_head_is_read_to_its_last_comment():
    text = "-- one: does\n-- this.\n-- needs: a, b\n-- prolongs: rest\n-- KEYS  x\n\n-- needs: c\nreturn 1"
    assert read_head("one", text) == Head(("a", "b"), "rest")


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ("-- one: does.", "must begin with its name and say what it needs"),
        ("-- needs: low\n-- one: does.", "must begin with its name"),
        ("-- two: does.\n-- needs: low", "declares 'two', which is unknown"),
        ("", "must begin with its name"),
        ("-- one: does.\n-- need: low", "declares 'need', which is unknown"),
        ("-- one: does.\n-- Needs: low", "declares 'Needs', which is unknown"),
        ("-- one: does.\n--needs: low\n--prolong: whole", "declares 'prolong', which is unknown"),
        ("-- one: does.\n-- needs: low\n-- needs: high", "'needs', which is unknown or declared already"),
        ("-- one: does.\n-- needs: low\n-- prolongs: hole", "prolongs 'hole' instead of whole or rest"),
        ("-- one: does.\n-- needs: low high", "needs 'low high', which is no other file of lib"),
        ("-- one: does.\n-- needs: lo", "needs 'lo', which is no other file of lib"),
        ("-- one: does.\n-- needs:", "needs '', which is no other file of lib"),
        ("-- one: does.\n-- needs: one", "needs 'one', which is no other file of lib"),
    ],
)
def test_a_head_that_can_not_be_followed_is_refused(head: str, complaint: str):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        assemble(Files({"one": f"{head}\n\nreturn {{ 'ok' }}"}, LIBRARY_OF_TWO, {}), 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- low: below.\n-- needs: high", "low.lua needs 'high', which is no other file of lib"),
        ("-- low: below.\n-- needs: low", "low.lua needs 'low', which is no other file of lib"),
        ("-- low: below.\n-- needs: nothing\n-- prolongs: whole", "low.lua is no script"),
    ],
)
def test_a_library_that_goes_in_circles_or_prolongs_is_refused(text: str, complaint: str):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        assemble(Files({"one": "-- one: does.\n-- needs: high\n\nreturn 1"}, LIBRARY_OF_TWO | {"low": text}, {}), 0)
