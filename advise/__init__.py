"""The advisor's functional core: what an incident is told as, what may be asked of a model, and what may be shown.

Everything here is a function of values. No clock, no network, no database; the corpus, the retrieval hits and the
model's text are arguments. `template` makes the advisory, `guard` decides whether a model's sentence may join it.
"""
