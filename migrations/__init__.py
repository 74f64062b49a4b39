"""The history of the tables, run by `questlog migrate`."""
