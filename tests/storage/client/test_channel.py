from storage.client.connection import connect, open_channel


async def test_no_commands_are_no_message():
    # asyncio keeps an empty one for good, and tries to send it for as long as the connection is open
    client = connect("unix:///nowhere", timeout_seconds=1.0, max_connections=1)
    channel = open_channel(client, timeout_seconds=1.0, max_connections=1)
    assert await channel.exchange([]) == []
    await channel.close()
