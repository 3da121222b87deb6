"""Three-body embedding with a learned vector for each type."""
