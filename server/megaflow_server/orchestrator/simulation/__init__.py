"""The orchestrator's own code in a world of virtual time, where everything goes wrong that can, by a seed.

What is real in it: the handlers, the scheduler, the watch over leases, the batches and the stores. What is played:
clocks, messages, runners, clients, and the faults of all of these. The same seed gives the same run, to the letter.
`scenario` is one run with faults and `checks`; `capacity` answers how long many tasks take, and what they cost.
"""
