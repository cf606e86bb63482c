"""Solvers: the papers' own learners, which use a recommender's gradients, unlike any agent.

A solver is trained, resumed and evaluated as the trainers are (`rpp_agents.trainers`), and its
policy plays the same environment, so that the two can be compared at equal numbers of answers.
"""

__all__: list[str] = []
