"""Where stages run: on this machine, as jobs of a cluster, or inside of pilot jobs."""
