"""Sixteen clients at once on all branches of one conversation, over two proxies: `benchmarks/endurance/`."""

from benchmarks.endurance.storm import storm
from proxy.http.keys import STORE
from tests.flows.conftest import StartProxy

CLIENTS = 16
SECONDS = 5
LEAST, LEAST_SAID = 3, 100


async def test_nothing_is_lost_or_mixed_up_when_many_work_on_one_conversation(start_proxy: StartProxy):
    here, there = await start_proxy(), await start_proxy()
    store = here.app[STORE]
    urls = [here.url, there.url]
    enough = {"seconds": SECONDS, "least": LEAST, "least_said": LEAST_SAID}
    log = await storm(urls, clients=CLIENTS, seed=5, sweep=store.sweeper.sweep_all, **enough)
    assert log.faults == []
    assert (await store.auditor.audit()).complaints == []
    await store.sweeper.sweep_all()
    assert (await store.auditor.audit()).garbage.total() == 0
    assert min(log.done.values()) >= LEAST
    assert len(log.said) >= LEAST_SAID
