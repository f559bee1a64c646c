import pytest

from proxy.context.reader import NO_OBJECTIONS, Objections
from proxy.protocol.errors import UpstreamRefusal
from proxy.upstream.capabilities import (
    MAX_ABSENCES,
    MAX_OBJECTING_MODELS,
    MAX_OBJECTIONABLE_ITEMS,
    MEMORY_SECONDS,
    OBJECTION_SECONDS,
    Capabilities,
    means_absence,
)

PATH = "/responses/input_tokens"


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_absence_is_remembered_for_a_while_for_that_path_and_model():
    clock = Clock()
    capabilities = Capabilities(clock)
    capabilities.note_absent(PATH, "u", "m")
    assert capabilities.is_absent(PATH, "u", "m")
    assert not capabilities.is_absent(PATH, "u", "other")
    assert not capabilities.is_absent(PATH, "another server", "m")
    assert not capabilities.is_absent("/responses/compact", "u", "m")
    clock.now += MEMORY_SECONDS
    assert not capabilities.is_absent(PATH, "u", "m")


def test_no_more_are_remembered_than_there_is_room_for():
    capabilities = Capabilities(Clock())
    for n in range(MAX_ABSENCES + 1):
        capabilities.note_absent(PATH, "u", f"m{n}")
    assert not capabilities.is_absent(PATH, "u", "m0")
    assert capabilities.is_absent(PATH, "u", "m1")
    assert capabilities.is_absent(PATH, "u", f"m{MAX_ABSENCES}")


def test_objections_are_remembered_for_a_while_for_that_server_and_model():
    clock = Clock()
    capabilities = Capabilities(clock)
    include, seal = Objections(settings=frozenset({"include"})), Objections(seals=frozenset({"rs_1"}))
    capabilities.note_objections("server", "m", include)
    clock.now += OBJECTION_SECONDS / 2
    capabilities.note_objections("server", "m", seal)
    assert capabilities.objections("server", "m") == include | seal
    assert capabilities.objections("server", "other") == NO_OBJECTIONS
    assert capabilities.objections("elsewhere", "m") == NO_OBJECTIONS
    # what comes later does not make the first last longer
    clock.now += OBJECTION_SECONDS / 2
    assert capabilities.objections("server", "m") == NO_OBJECTIONS


def test_no_more_objections_are_remembered_than_there_is_room_for():
    capabilities = Capabilities(Clock())
    one = Objections(settings=frozenset({"include"}))
    for n in range(MAX_OBJECTING_MODELS + 1):
        capabilities.note_objections("server", f"m{n}", one)
    assert capabilities.objections("server", "m0") == NO_OBJECTIONS
    assert capabilities.objections("server", "m1") == one
    for n in (0, 1):
        many = frozenset(f"rs_{n}_{i}" for i in range(MAX_OBJECTIONABLE_ITEMS))
        capabilities.note_objections("server", "m1", Objections(items=many))
        assert capabilities.objections("server", "m1").items == many


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "Not Found"}),
        (404, {"message": "Invalid URL (POST /v1/responses/input_tokens)", "type": "invalid_request_error"}),
        (404, {"message": "File Not Found", "type": "not_found_error", "code": 404}),
        (405, {"message": "Method Not Allowed"}),
        (501, {}),
        (400, {"message": "Unknown request URL: POST /v1/responses/input_tokens."}),
        (400, {"message": "The endpoint /responses/input_tokens is not supported."}),
    ],
)
def test_servers_say_in_many_ways_that_they_lack_an_endpoint(status, error):
    assert means_absence(UpstreamRefusal(status, error, {}))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "The model 'gpt-9' does not exist.", "code": "model_not_found"}),
        (404, {"message": "Not there", "param": "model"}),
        (400, {"message": "Missing required parameter: 'input'."}),
        (400, {"message": "Invalid value for 'tools[0].name'. Expected a string."}),
        (401, {"message": "Incorrect API key provided."}),
        (429, {"message": "Slow down, this path is busy."}),
        (500, {"message": "unknown path"}),
    ],
)
def test_other_refusals_are_not_taken_for_an_absence(status, error):
    assert not means_absence(UpstreamRefusal(status, error, {}))
