"""What happens before the first step: the model, its scales and biases, and what it inherits."""
