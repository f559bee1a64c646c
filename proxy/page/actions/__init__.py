"""Actions: handlers of forms. Each ends on the screen that shows what it did; one that failed comes back filled in.

Imports the use cases of `api`, `page.screens`, and turns begun on the page (`page.running`).
"""
