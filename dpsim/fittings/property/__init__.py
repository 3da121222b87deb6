"""Any property that atoms add up to, or that is their mean."""
