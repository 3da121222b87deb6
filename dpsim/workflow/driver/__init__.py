"""The process that runs a plan, what it starts and gives out, and what is seen of it."""
