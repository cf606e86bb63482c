"""Does personalising the prompt pay? Settings x methods x seeds, by a protocol that cannot flatter.

`plan` says what is run, `problem` who answers and what it costs, `methods` how prompts are chosen,
`players` what comes of it, `work` runs the cells, `report` compares them and `page` shows them.
"""

from __future__ import annotations

from rpp_agents.experiments.plan import PRESETS, Cell, Method, Setting, Study
from rpp_agents.experiments.run import Redrawn, jobs_of, make_tables, run_cells, tables_of

__all__ = [
    "PRESETS",
    "Cell",
    "Method",
    "Redrawn",
    "Setting",
    "Study",
    "jobs_of",
    "make_tables",
    "run_cells",
    "tables_of",
]
