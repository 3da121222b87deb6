"""Commands that use a model: dynamics, relaxation, properties."""
