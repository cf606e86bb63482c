"""Evaluation: scores of a policy, baselines, and diagnosis of a task's difficulty."""

__all__: list[str] = []
