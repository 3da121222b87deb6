"""From stages to tasks in order, their keys, and which of them must run."""
