"""Verbs: what happens after an event is taken."""
