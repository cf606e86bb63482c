"""Comparisons of methods and trainers: settings x methods x seeds, with a pre-specified protocol.

===============  ================================================================================
module           holds
===============  ================================================================================
`plan`           the file of an experiment, and its runs; `bench` is the form for trainers
`jobs`, `run`    many jobs in parallel processes; how each is computed
`problem`        the users and the costs of a problem; `players` run a fitted method on users
`methods`        the ways to choose prompts
`results`        the finished runs, with means, differences and intervals by `statistics`
`report`         tables, JSON, raw scores, `plots` and the `page`
`presets`        the files that are shipped
===============  ================================================================================

Import from the modules: this one stays empty, so that a command loads only what it needs.
"""

__all__: list[str] = []
