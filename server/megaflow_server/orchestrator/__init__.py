"""What schedules tasks and loses none: records, the transitions between their states, and what decides them.

`commands` is everything that can be asked of it, `handlers` what each does, within one transaction of a
`store`. Nothing in here executes a task: runners claim attempts and report them. No module but those of
`store` knows which database there is, and none reads a clock: the time is handed in.
"""
