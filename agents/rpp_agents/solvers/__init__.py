"""Solvers: PPR's and PAP-REC's own, which read gradients, and black-box ones.

`ppr` and `pap_rec` differentiate the frozen recommender. `reinforce`, `evolution` and `linucb` see
rewards alone, as all agents do. Each is trained, resumed and evaluated as the trainers are
(`rpp_agents.trainers`), and its policy plays the same environment, so that they compare at equal
numbers of answers. `controls` has the policies that a learned prefix must beat.
"""

__all__: list[str] = []
