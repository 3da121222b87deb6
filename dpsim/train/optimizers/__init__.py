"""How parameters move: optimizers, schedules, and what stands between a gradient and a step."""
