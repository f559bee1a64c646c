"""`branchline demo`: a conversation on a running server, and where to look at it."""

from __future__ import annotations

import io
from argparse import Namespace

import orjson
import pytest
from yarl import URL

from proxy.backup.verifier import Backup
from proxy.cli.commands.demonstration import run_demo
from proxy.cli.commands.maintenance import UpkeepError
from proxy.config.settings import Config, ServerConfig
from proxy.page.content.demo import demo_file
from tests.page.conftest import Visitor
from tests.page.talk import branches_of


async def test_it_says_where_the_conversation_is(visitor: Visitor, capsys: pytest.CaptureFixture[str]):
    port = URL(visitor.proxy.url).port or 0
    config = Config(server=ServerConfig(port=port))
    assert await run_demo(config, Namespace(key="sk-alice", json=True)) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["url"] == f"{visitor.proxy.url}/ui/c/{told['id']}"
    assert len(await branches_of(visitor.proxy, told["id"])) == 5
    assert (await visitor.get(f"/ui/c/{told['id']}")).status == 200


async def test_where_nothing_listens_it_says_so():
    with pytest.raises(UpkeepError, match="no Branchline answers"):
        await run_demo(Config(server=ServerConfig(port=9)), Namespace(key="", json=False))


def test_the_file_is_one_that_can_be_imported_and_no_two_have_the_same_ids():
    (first, content), (second, _) = demo_file(), demo_file(1_700_000_000)
    assert first != second
    assert Backup(io.BytesIO(content)).conversation.id == first
