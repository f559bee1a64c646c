"""The page at /ui: conversations looked at, their branches walked, edited and watched.

    session, guard   who looks, from where; what goes wrong, as a screen
    screens          what is shown; they only read
    actions          what forms do
    live, hub        what changes while somebody looks; `running`: turns begun here
    content          pure: stored items, chains and texts as what a screen shows of them
    renderer         the process in which texts are rendered (`worker`)

Imports `api`, whose use cases it calls, and what is below.
"""
