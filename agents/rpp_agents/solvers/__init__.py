"""Solvers: those of PPR, PAP-REC and PeaPOD, which read gradients, and black-box ones.

`ppr`, `pap_rec` and `peapod` differentiate the frozen recommender. `reinforce`, `evolution` and
`linucb` see rewards alone, as all agents do. Each is trained, resumed and evaluated as the trainers
are (`rpp_agents.trainers`), and its policy plays the same environment, so that they compare at
equal numbers of answers. `controls` has the policies that a learned prefix must beat.
"""

__all__: list[str] = []
