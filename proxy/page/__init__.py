"""The page at /ui: conversations looked at, their branches walked, edited and watched. Calls the use cases of `api`.

`cards`, `forest`, `render`, `pictures`, `text` and `demo` are pure.
"""
