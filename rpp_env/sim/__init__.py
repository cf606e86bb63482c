"""Stand-ins whose optimum is known: a generated world, a language model and a paraphraser."""

__all__: list[str] = []
