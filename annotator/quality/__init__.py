"""How far votes can be trusted: agreement, people, consensus, models.

docs/quality.md says what each figure means.

`votes` reads rows and makes tables of them; `coefficients`, `people`, `consensus` and
`leaderboard` are arithmetic on these tables; `report` puts the figures together, and `keeping`
keeps them for the pages. Only `keeping` may be imported when a web process starts: the others
bring numpy, scipy and pandas along, which belong into the worker.
"""
