"""Simulated stand-ins with a known optimum: a generated world, a language model, a paraphraser."""

__all__: list[str] = []
