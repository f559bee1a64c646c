"""proxy/openapi.json against the routes, against OpenAPI's rules, and against what a running server really answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import hdrs
from jsonschema import Draft202012Validator
from yarl import URL

from proxy import __version__
from proxy.api.openapi import OPENAPI_FILE
from proxy.app import ROUTES
from proxy.config.settings import RedisConfig, Secret
from tests.proxy.conftest import ServeProxy

DOCUMENT: dict[str, Any] = orjson.loads(OPENAPI_FILE.read_bytes())
METHODS = {"get", "post", "put", "patch", "delete"}
#: OpenAI's own objects, of which the document names only what is decided here.
OPEN = {"Response", "Item"}
KEY = {"Authorization": "Bearer sk-openapi"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation with its path and method."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object of the document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from nodes(one)


def resolve(value: dict[str, Any]) -> Any:
    """What a `$ref` leads to, or the value itself. Raises KeyError."""
    target: Any = value
    if "$ref" in value:
        target = DOCUMENT
        for step in value["$ref"].removeprefix("#/").split("/"):
            target = target[step]
    return target


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """A validator of a schema that may refer to the document's components."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def complaints(schema: dict[str, Any], value: Any) -> list[str]:
    return [error.message for error in validator(schema).iter_errors(value)]


def json_schema(operation: dict[str, Any], status: int) -> dict[str, Any]:
    """The schema of an operation's JSON answer with this status, which must be described."""
    answer = resolve(operation["responses"][str(status)])
    schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
    return schema


def find_operation(method: str, url: URL) -> dict[str, Any]:
    """The operation that a request means."""
    for path, each, operation in operations():
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        if each == method.lower() and re.fullmatch(pattern, url.path):
            return operation
    raise AssertionError(f"{method} {url.path} is not described")


def test_every_route_is_described_and_every_description_has_a_route():
    # the page is for browsers, and no API
    routes = [route for route in ROUTES if not route.path.startswith("/ui/")]
    served = {(route.path, route.method.lower()) for route in routes if route.method != hdrs.METH_ANY}
    assert {(path, method) for path, method, _ in operations()} == served


def test_the_version_is_the_package_s():
    assert DOCUMENT["info"]["version"] == __version__
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere_and_every_component_is_used():
    used = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    for reference in used:
        assert resolve({"$ref": reference})
    kinds = {kind: names for kind, names in DOCUMENT["components"].items() if kind != "securitySchemes"}
    assert used == {f"#/components/{kind}/{name}" for kind, names in kinds.items() for name in names}


def test_every_schema_is_a_json_schema():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name[0].isupper()
    for node in nodes(DOCUMENT["paths"]):
        if isinstance(node.get("schema"), dict):
            Draft202012Validator.check_schema(node["schema"])


def test_what_a_schema_requires_it_also_describes():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if "properties" in schema:
            missing = set(schema.get("required", ())) - schema["properties"].keys()
            assert missing == set() or name in OPEN


def test_every_example_fits_its_schema():
    seen = 0
    for node in nodes(DOCUMENT):
        for example in node.get("examples", {}).values() if "schema" in node else ():
            assert complaints(node["schema"], example["value"]) == []
            seen += 1
    assert seen > 30


def test_operations_have_what_openapi_demands():
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, method, operation in operations():
        assert method in METHODS
        assert set(operation["tags"]) <= tags
        assert operation["summary"]
        assert operation["responses"]
        for status, answer in operation["responses"].items():
            assert status == "default" or 101 <= int(status) < 600
            assert resolve(answer)["description"]
        parameters = [resolve(parameter) for parameter in operation.get("parameters", ())]
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        assert all(parameter["required"] is (parameter["in"] == "path") for parameter in parameters)


def test_only_what_needs_no_credentials_says_so():
    open_paths = {path for path, _, operation in operations() if operation.get("security") == []}
    assert open_paths == {"/healthz", "/readyz", "/openapi.json"}


@pytest.mark.parametrize(
    ("name", "body", "fits"),
    [
        ("CreateResponse", {"input": "hi", "conversation": "conv_1", "previous_response_id": ""}, True),
        ("CreateResponse", {"input": "hi", "conversation": "conv_1", "previous_response_id": "resp_1"}, False),
        ("CreateResponse", {"input": "hi", "conversation": "", "previous_response_id": "resp_1"}, True),
        ("CreateResponse", {"input": [{"role": "user", "content": "x", "id": ""}], "conversation": {"id": ""}}, True),
        ("CreateResponse", {"input": "hi", "background": True}, True),
        ("CreateResponse", {"input": "hi", "background": "yes"}, False),
        ("CreateConversation", {"metadata": None, "items": None}, True),
        ("CreateConversation", {"items": [{}] * 21}, False),
        ("UpdateConversation", {}, False),
        ("UpdateConversation", {"metadata": {"a": None}}, True),
        ("CreateItems", {"items": []}, False),
        ("CreateBranch", {"name": "draft", "parent_branch": None, "fork_from_item_id": None}, True),
        ("CreateBranch", {"parent_branch": "MAIN"}, False),
        ("CreateBranch", {"name": "a b"}, False),
        ("UpdateBranch", {"description": None}, True),
        ("UpdateBranch", {"name": None}, False),
        ("UpdateBranch", {}, False),
        ("CreateResponse", {"input": "hi", "conversation": {"id": "conv_1", "branch": "draft"}}, True),
        ("CreateResponse", {"input": "hi", "conversation": {"id": "conv_1", "forkfrom": "msg_1"}}, False),
        ("CreateResponse", {"input": "hi", "x_vendor": 1}, True),
        ("CreateConversation", {"name": "x"}, False),
        ("UpdateConversation", {"metadata": {}, "titel": "x"}, False),
        ("CreateItems", {"items": [{"role": "user", "content": "x"}], "branch": "draft"}, False),
        ("CreateBranch", {"name": "draft", "fork_from": "msg_1"}, False),
        ("UpdateBranch", {"name": "draft", "is_active": True}, False),
        ("EditItem", {"content": "x", "regenerate": True, "x_vendor": 1}, True),
        ("RegenerateItem", {"content": "x"}, False),
    ],
)
def test_a_request_schema_takes_and_refuses_what_the_server_does(name: str, body: Any, fits: bool):
    assert (complaints({"$ref": f"#/components/schemas/{name}"}, body) == []) is fits


class Checker:
    """Sends requests and holds each answer against its description."""

    def __init__(self, origin: URL, session: aiohttp.ClientSession) -> None:
        self._origin = origin
        self._session = session

    async def __call__(self, method: str, path: str, status: int, body: Any = None) -> dict[str, Any]:
        url = self._origin.join(URL(path))
        async with self._session.request(method, url, json=body, headers=KEY) as answer:
            data = await answer.read()
            assert answer.status == status, data
            described = resolve(find_operation(method, url)["responses"][str(status)])
            assert {name for name in described["headers"] if name not in answer.headers} == set()
        if "content" not in described:
            assert data == b""
            return {}
        value: dict[str, Any] = orjson.loads(data)
        schema = json_schema(find_operation(method, url), status)
        is_open = schema.get("$ref", "").rpartition("/")[2] in {"", *OPEN}
        assert complaints({**schema, "unevaluatedProperties": is_open}, value) == []
        return value


@pytest.fixture
async def check(serve_proxy: ServeProxy, valkey_url: str) -> AsyncIterator[Checker]:
    """A checker of a proxy in front of the built-in model."""
    origin = await serve_proxy("echo", redis=RedisConfig(url=Secret(valkey_url), prefix="openapi"))
    async with aiohttp.ClientSession() as session:
        yield Checker(origin, session)


async def test_what_conversations_answer_is_what_is_described(check: Checker):
    message = {"role": "user", "content": "hello"}
    one = f"/v1/conversations/{(await check('POST', '/v1/conversations', 200, {'items': [message]}))['id']}"
    await check("GET", one, 200)
    await check("POST", one, 200, {"metadata": {"topic": "test"}})
    await check("PATCH", one, 200, {"title": "A title"})
    added = await check("POST", f"{one}/items", 200, {"items": [message]})
    await check("GET", f"{one}/items?limit=1&order=asc&include[]=reasoning.encrypted_content", 200)
    await check("GET", f"{one}/items/{added['last_id']}", 200)
    await check("DELETE", f"{one}/items/{added['last_id']}", 200)
    listing = await check("GET", "/v1/conversations?limit=1", 200)
    assert len(listing["data"]) == 1
    await check("DELETE", one, 200)
    await check("DELETE", "/v1/conversations", 200)
    await check("DELETE", "/v1/responses", 200)


async def test_what_branches_answer_is_what_is_described(check: Checker):
    message = {"role": "user", "content": "hello"}
    one = f"/v1/conversations/{(await check('POST', '/v1/conversations', 200, {'items': [message]}))['id']}"
    item = (await check("GET", f"{one}/items", 200))["last_id"]
    await check("POST", f"{one}/branches", 201, {"name": "draft", "fork_from_item_id": item, "description": "Other"})
    await check("POST", f"{one}/items?branch=draft", 200, {"items": [message]})
    listing = await check("GET", f"{one}/branches?limit=2&order=desc", 200)
    assert listing["last_id"] == "MAIN"
    await check("GET", f"{one}/branches/draft", 200)
    await check("POST", f"{one}/branches/draft", 200, {"description": None})
    await check("PATCH", f"{one}/branches/draft", 200, {"name": "final"})
    await check("GET", f"{one}/branches/MAIN/compare/final?include[]=reasoning.encrypted_content", 200)
    await check("POST", f"{one}/branches/final/activate", 200)
    await check("POST", f"{one}/branches/MAIN/activate", 200)
    assert len((await check("GET", f"{one}/items?branch=final&at={item}", 200))["data"]) == 1
    await check("DELETE", f"{one}/items/{item}?mode=branch&cascade=true", 200)
    await check("DELETE", f"{one}/branches/final", 204)
    await check("POST", f"{one}/branches", 409, {"name": "MAIN"})
    await check("PATCH", f"{one}/branches/MAIN", 400, {"name": "new"})
    await check("GET", f"{one}/branches/final", 404)


async def test_what_responses_answer_is_what_is_described(check: Checker):
    conversation = await check("POST", "/v1/conversations", 200)
    turn = {"model": "echo", "input": "hello", "conversation": conversation["id"]}
    await check("POST", "/v1/responses/input_tokens", 200, turn)
    response = await check("POST", "/v1/responses", 200, turn)
    one = f"/v1/responses/{response['id']}"
    await check("GET", one, 200)
    page = await check("GET", f"{one}/input_items", 200)
    assert len(page["data"]) == 1
    await check("POST", f"{one}/cancel", 400)
    await check("DELETE", one, 200)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("POST", "/v1/responses", 400, {"model": "echo", "input": "hi", "previous_response_id": "resp_0"}),
        ("POST", "/v1/responses", 404, {"model": "echo", "input": "hi", "conversation": "conv_0"}),
        ("GET", "/v1/responses", 405, None),
        ("GET", "/v1/responses/resp_0", 404, None),
        ("GET", "/v1/conversations/conv_0/items?limit=500", 400, None),
        ("POST", "/v1/conversations/conv_0/items", 400, {"items": []}),
        ("POST", "/v1/conversations", 400, {"name": "x"}),
        ("DELETE", "/v1/conversations?project_id=p", 400, None),
        ("DELETE", "/v1/responses", 400, {"ids": []}),
        ("GET", "/v1/conversations/conv_0/items/msg_0", 404, None),
    ],
)
async def test_what_is_refused_is_refused_as_described(check: Checker, method: str, path: str, status: int, body: Any):
    await check(method, path, status, body)


async def test_health_and_the_document_itself_are_answered_as_described(check: Checker):
    await check("GET", "/healthz", 200)
    await check("GET", "/readyz", 200)
    assert await check("GET", "/openapi.json", 200) == DOCUMENT
