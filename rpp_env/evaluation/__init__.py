"""Evaluation: scores of a policy, baselines, and how hard a problem is."""

__all__: list[str] = []
