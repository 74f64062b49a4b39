"""Nouns: tables, and the pure rules beside them."""
