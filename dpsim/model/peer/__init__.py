"""Files of DeePMD-kit: reading its models without having it installed."""
