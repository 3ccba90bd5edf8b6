"""What a recipe will cost on given devices: memory, seconds, tokens, operations, disk, money.

`bounds.py` counts what it will do at most, on any device. `devices.py` and `rates.py` hold every
constant, with where it comes from; `model_shape.py` reads a model's size; `lengths.py` says how
long texts are; `work.py` counts operations; `memory.py` counts bytes; `device_shares.py` gives a
stage the devices that the recipe launches it on; `sampling_cost.py`, `training_cost.py` and
`judging_cost.py` cost a stage's work, `costs.py` a whole recipe; `fitting.py` refuses what cannot
fit; `plan_table.py` shows it. docs/scaling.md works through three cases.
"""
