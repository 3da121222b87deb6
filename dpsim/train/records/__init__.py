"""What a training writes and goes on from: checkpoints, curves, results."""
