"""Native code on demand: finds or builds the compiled parts of dpsim, with the standard library alone."""
