"""Comparisons of methods and trainers: settings x methods x seeds, with a pre-specified protocol.

===============  ================================================================================
module           holds
===============  ================================================================================
`plan`           what a file says, and the cells that follow; `bench` is its form for trainers
`jobs`, `run`    many jobs side by side; what each of them finds out
`problem`        who is asked, and what it costs; `players` run a fitted method on users
`methods`        the ways to choose prompts
`results`        the finished cells, with means, differences and intervals by `statistics`
`report`         tables, JSON, raw scores, `plots` and the `page`
`presets`        the files that are shipped
===============  ================================================================================

Import from the modules: this one stays empty, so that a command loads no more than it needs.
"""

__all__: list[str] = []
