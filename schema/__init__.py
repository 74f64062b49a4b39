"""Shapes: the GraphQL types and inputs, each field naming the question that answers it."""
